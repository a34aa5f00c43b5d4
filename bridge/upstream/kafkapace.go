package upstream

import (
	"context"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// settleLeast and settleMost bound how long a session waits between transactions once the peer has refused one for its haste.
const settleLeast, settleMost = 10 * time.Millisecond, 2 * time.Second

// pace keeps records from going over the wire in vain. A peer acknowledges the end of a transaction before it has written it to all
// its partitions, and refuses records until it has (CONCURRENT_TRANSACTIONS, KIP-890): the client sends them all again, each time.
// How long that takes is the peer's affair, and shows only in what was sent twice.
type pace struct {
	// ended is when the last transaction was, settle how long after that the next one sends.
	ended  time.Time
	settle time.Duration

	mu     sync.Mutex
	writes map[int32]int // produce requests of this flush, by node
	// first and last are when the first and the last of them began.
	first, last time.Time
}

// OnBrokerWrite implements kgo.HookBrokerWrite.
func (p *pace) OnBrokerWrite(to kgo.BrokerMetadata, key int16, _ int, _, took time.Duration, err error) {
	if key != kmsg.Produce.Int16() || err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.writes == nil {
		p.writes = map[int32]int{}
	}
	p.last = time.Now().Add(-took)
	if len(p.writes) == 0 {
		p.first = p.last
	}
	p.writes[to.NodeID]++
}

var _ kgo.HookBrokerWrite = (*pace)(nil)

// begin waits until the peer is likely to take records, and counts from there.
func (p *pace) begin(ctx context.Context) error {
	p.mu.Lock()
	clear(p.writes)
	p.mu.Unlock()
	wait := time.Until(p.ended.Add(p.settle))
	if p.ended.IsZero() || wait <= 0 {
		return nil
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// flushed notes that what was sent first is acknowledged: a node that was asked more than once refused something.
func (p *pace) flushed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	again := false
	for _, n := range p.writes {
		again = again || n > 1
	}
	switch {
	case !again:
		p.settle -= p.settle / 32
	case p.first.Sub(p.ended) < settleMost: // else it was refused for something else
		p.settle = min(max(p.last.Sub(p.ended)*5/4, settleLeast), settleMost)
	}
}
