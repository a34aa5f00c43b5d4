package partition

import (
	"errors"
	"fmt"

	"millrace/broker/catalog"
	"millrace/broker/journal"
)

// joiner is a duplicate of a batch that is not durable yet: it is answered when the first one is.
type joiner struct {
	next   int64
	result AppendResult
	done   func(AppendResult)
}

// join answers a duplicate: at once when the first append of the batch is durable, with it when it is not.
// The commit is given back. Holds mu.
func (p *Partition) join(c *commit, was producedBatch) (answer, error) {
	result := c.result
	result.Base = was.base
	if result.AppendTime >= 0 {
		result.AppendTime = was.at
	}
	p.state.Lock()
	defer p.state.Unlock()
	result.Start = p.start
	if was.next() <= p.durable {
		done := c.done
		c.free()
		return answer{done, result}, nil
	}
	if len(p.joined) >= joinMax {
		return answer{}, fmt.Errorf("%d duplicates wait already: %w", joinMax, ErrOverloaded)
	}
	p.joined = append(p.joined, joiner{was.next(), result, c.done})
	c.free()
	return answer{}, nil
}

// refuse answers an append that staged nothing.
func (c *commit) refuse(err error) {
	done, result := c.done, c.result
	result.Base, result.Err = -1, err
	c.free()
	done(result)
}

// syncPiece makes the pointed bytes durable, and the directory's name where that is new. The journal calls it, from a
// goroutine of its own, before done.
func (c *commit) syncPiece() error {
	if err := c.p.syncPiece(c.piece); err != nil {
		return fmt.Errorf("sync %s segment %d: %w", c.p, c.piece.Base(), err)
	}
	return c.p.store.syncTopics()
}

// finish is the commit's end, called by the journal's committer in staging order.
func (c *commit) finish(err error) {
	p := c.p
	p.store.pending(-int64(len(c.batches)), -1)
	if err != nil {
		c.fail(err)
		return
	}
	if !catalog.InternalName(p.topic.Name) {
		p.store.written.Add(int64(len(c.batches)))
	}
	p.state.Lock()
	p.durable, p.durablePiece, p.durablePos = c.next, c.piece, c.pos
	moved := p.raiseHigh()
	c.result.Start = p.start
	joined := p.takeJoined(c.next)
	p.state.Unlock()
	c.reply()
	for _, j := range joined {
		j.done(j.result)
	}
	if moved {
		p.store.advanced(p)
	}
	p.store.committed()
}

// reply calls what waits for this append and gives the commit back.
func (c *commit) reply() {
	done, result, early, gather := c.done, c.result, c.early, c.gather
	c.free()
	switch {
	case gather != nil:
		gather.answer(result)
	case !early:
		done(result)
	}
}

// takeJoined removes the duplicates whose first append ends by next. Holds state.
func (p *Partition) takeJoined(next int64) []joiner {
	n := 0
	for n < len(p.joined) && p.joined[n].next <= next {
		n++
	}
	if n == 0 {
		return nil
	}
	taken := p.joined[:n:n]
	if p.joined = p.joined[n:]; len(p.joined) == 0 {
		p.joined = nil
	}
	return taken
}

// fail takes the partition back to its durable end. Of several groups that fail together the first does the work.
func (c *commit) fail(err error) {
	p := c.p
	p.mu.Lock()
	if c.group[0].Kind == journal.TopicCreated {
		p.recorded = false
	}
	if undo := p.rollbackLocked(); undo != nil {
		err = errors.Join(err, undo)
		p.store.log.Error("a failed append could not be undone; appends are refused until it is", "partition", p.String(), "err", undo)
	}
	p.state.Lock()
	joined := p.joined // all of them: nothing past the durable end is left to join
	p.joined = nil
	p.state.Unlock()
	p.mu.Unlock()

	err = fmt.Errorf("append to %s: %w", p, diskError(err))
	for _, j := range joined {
		j.result.Base, j.result.Err = -1, err
		j.done(j.result)
	}
	c.result.Base, c.result.Err = -1, err
	c.reply()
}

// rollbackLocked cuts the log back to the durable end, with everything that follows from what is cut. It may be called
// any number of times. Holds mu.
func (p *Partition) rollbackLocked() error {
	p.state.Lock()
	piece, pos, durable := p.durablePiece, p.durablePos, p.durable
	p.state.Unlock()
	if p.broken == nil && p.end.Load() == durable {
		return nil
	}
	p.broken = p.cutLocked(piece, piece.Base(), durable, pos)
	return p.broken
}

// cutLocked ends the log at offset end, byte pos of segment base; what lies behind is gone. Holds mu.
func (p *Partition) cutLocked(last *piece, base, end, pos int64) error {
	p.state.Lock()
	keep := 0
	for keep < len(p.pieces) && p.pieces[keep].Base() <= base {
		keep++
	}
	cut := p.pieces[keep:]
	p.pieces = p.pieces[:keep:keep]
	p.state.Unlock()
	var errs []error
	for _, s := range cut {
		errs = append(errs, s.Remove())
	}
	errs = append(errs, last.Truncate(pos))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if last.flushed.Load() > pos {
		last.flushed.Store(pos)
	}
	p.store.producers.Add(-int64(p.producers.rollback(end)))
	p.epochs.cut(end)
	p.end.Store(end)
	return nil
}
