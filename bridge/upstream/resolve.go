package upstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Decision is what a person decides about a partition that stopped.
type Decision struct {
	How How
	// Offset is where to go on with At.
	Offset int64
}

// How is the kind of a Decision.
type How int

const (
	// Accept takes the topics as they are now, and goes on where it was: what the log has below that counts as delivered.
	Accept How = iota
	// Earliest sends all that the log has.
	Earliest
	// Latest goes on with what is written from now on.
	Latest
	// At goes on at an offset.
	At
)

var (
	// ErrUnknownPartition is returned by Resolve for a partition that the link does not carry.
	ErrUnknownPartition = errors.New("the link does not carry that partition")
	// ErrDecision is returned by Resolve for an offset that is not in the log.
	ErrDecision = errors.New("that cannot be decided")
)

// decision is a Decision that waits for the live lane.
type decision struct {
	Decision
	part *part
	done chan error // room for one
}

// Resolve carries out a decision: it writes the cursor, and gap records for what is skipped, in a transaction upstream,
// and returns when that is committed. When ctx ends before, it is not done; while it is under way, it may be. It works on
// partitions that go, too. Errors: ErrUnknownPartition, ErrDecision, and those of the connection: then it is to be repeated.
func (l *Link) Resolve(ctx context.Context, topic string, partition int32, d Decision) error {
	if d.How < Accept || d.How > At {
		return fmt.Errorf("%w: %d", ErrDecision, d.How)
	}
	l.mu.Lock()
	p := l.table.find(topic, partition)
	if p == nil || p.log == nil || !slices.Contains(l.env.Log.Names(), topic) {
		l.mu.Unlock()
		return fmt.Errorf("%w: %s-%d", ErrUnknownPartition, topic, partition)
	}
	w := &decision{Decision: d, part: p, done: make(chan error, 1)}
	p.held = true
	l.decisions = append(l.decisions, w)
	l.mu.Unlock()
	l.kick(int(Live))
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.decisions, w); i >= 0 {
		l.decisions = slices.Delete(l.decisions, i, i+1)
		l.releaseLocked(p)
	}
	return ctx.Err()
}

// releaseLocked lets transactions have the partition again, when no decision about it is waited for.
func (l *Link) releaseLocked(p *part) {
	p.held = slices.ContainsFunc(l.decisions, func(w *decision) bool { return w.part == p })
	for i := range p.lane {
		if p.behind(Lane(i)) {
			l.table.enqueue(Lane(i), p)
		}
	}
	l.kick(int(Backfill))
}

// decide carries out the decisions that can be now: no transaction of the other lane has the partition.
func (ln *lane) decide(ctx context.Context) error {
	for {
		w, d, err := ln.nextDecision()
		if w == nil {
			return nil
		}
		if err == nil {
			ln.drafts = append(ln.drafts[:0], d)
			ln.filler.reset()
			if err = ln.commit(ctx); err != nil {
				w.done <- err
				ln.mu.Lock()
				ln.releaseLocked(w.part)
				ln.mu.Unlock()
				return err
			}
		}
		ln.mu.Lock()
		if err == nil {
			w.part.verdict, w.part.reason, w.part.most = Go, "", 0
			w.part.lane[Backfill].pos = 0
			w.part.show()
			ln.log.Info("partition is decided about", "topic", w.part.topic, "partition", w.part.index, "next", d.cursor.Next)
		}
		ln.releaseLocked(w.part)
		ln.mu.Unlock()
		if err == nil {
			ln.keep(0) // it may need more than before
		}
		w.done <- err
	}
}

// nextDecision takes a decision whose time has come, and makes the draft of it.
func (ln *lane) nextDecision() (*decision, *draft, error) {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	i := slices.IndexFunc(ln.decisions, func(w *decision) bool { return w.part.lane[Backfill].draft == nil })
	if i < 0 {
		return nil, nil, nil
	}
	w := ln.decisions[i]
	ln.decisions = slices.Delete(ln.decisions, i, i+1)
	d, err := w.draft()
	return w, d, err
}

// draft is what a decision does to its partition.
func (w *decision) draft() (*draft, error) {
	p := w.part
	if p.log == nil || p.to.have == 0 {
		return nil, fmt.Errorf("%w: %s-%d cannot be used now", ErrDecision, p.topic, p.index)
	}
	old := p.lane[Live].cursor
	start, high := p.log.Start(), p.log.High()
	next := old.Next
	switch w.How {
	case Accept:
		next = min(next, high)
	case Earliest:
		next = start
	case Latest:
		next = high
	case At:
		if next = w.Offset; next < start || next > high {
			return nil, fmt.Errorf("%w: the log has offsets %d to %d", ErrDecision, start, high)
		}
	}
	d := &draft{
		part: p, lane: Live, log: p.log, id: p.id, to: p.to.name, mine: p.to.mine, have: p.to.have, moved: true,
		cursor: Cursor{Local: p.id, Upstream: p.to.name, UpstreamID: p.to.id, Next: next, Last: -1, Turn: old.Turn + 1},
	}
	anew := old.Local != p.id
	switch {
	case w.How == Accept && !anew: // the other lane goes on, too
		for _, r := range p.open() {
			if r.End = min(r.End, next); r.First < r.End {
				d.cursor.Ranges = append(d.cursor.Ranges, r)
			}
		}
	case w.How == Accept || w.How == Earliest:
	default:
		for _, r := range append(p.open(), Range{old.Next, next}) {
			if anew {
				r.First = start
			}
			if r.End = min(r.End, next); r.First < r.End {
				d.holes = append(d.holes, hole{r, CauseDecision})
			}
		}
	}
	return d, nil
}
