package upstream

import (
	"context"
	"time"
)

const (
	// earlyBy is how much longer than the quickest a transaction's first records take at least that came too early: Apache Kafka 4 looks
	// again after 20 ms (add.partitions.to.txn.retry.backoff.ms).
	earlyBy = 15 * time.Millisecond
	// gapStep is by how much a gap becomes larger after one that came too early, and gapBack by how much smaller after each other.
	gapStep = time.Millisecond
	gapBack = gapStep / 16
	gapMost = 8 * time.Millisecond
)

// pace is how soon after the end of a transaction the next one's records come. A peer answers before the markers of the end are
// written, a few milliseconds, and lets records that come before them wait for 20: over a quick link, half of all
// transactions took three times as long as the others. It belongs to one goroutine.
type pace struct {
	ended time.Time
	gap   time.Duration
	quick time.Duration // about the quickest of late
}

// wait waits for what is left of the gap.
func (p *pace) wait(ctx context.Context) {
	left := p.gap - time.Since(p.ended)
	if p.gap == 0 || left <= 0 {
		return
	}
	t := time.NewTimer(left)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// took notes how long the first records of a transaction took until they were acknowledged. What else may have been slow
// costs gapMost at worst, of a transaction that took longer.
func (p *pace) took(d time.Duration) {
	if p.quick == 0 || d < p.quick {
		p.quick = d
	}
	if d > p.quick+earlyBy {
		p.gap = min(p.gap+gapStep, gapMost)
	} else {
		p.gap = max(p.gap-gapBack, 0)
	}
	p.quick += p.quick / 64 // a link may have become slower
}

// end notes that a transaction has ended.
func (p *pace) end() { p.ended = time.Now() }
