package segment

import (
	"errors"
	"fmt"
	"io"

	"millrace/broker/record"
)

// Scan hands every batch from position from on, where one must start, to fn, checked and in order. It stops at the
// end, at the first invalid byte or at fn's error, and valid says where. The batch is fn's only until it returns.
// Memory goes with the largest valid batch, never with a length that was only claimed.
func (s *Segment) Scan(from int64, fn func(b record.Batch, position int64) error) (valid int64, err error) {
	c, done, err := s.walk(from, s.Size())
	if err != nil {
		return from, err
	}
	defer done()
	var large []byte
	for {
		h, err := c.peek()
		if errors.Is(err, io.EOF) || isBad(err) {
			s.passed(from, c.pos)
			s.remember(c)
			return c.pos, nil
		}
		if err != nil {
			return c.pos, err
		}
		b, err := c.batch(h, &large)
		if err == nil {
			err = fn(b, h.pos)
		}
		if err != nil {
			return c.pos, err
		}
		c.pass(h)
	}
}

// walk opens a cursor at from, a position where a batch starts. done gives it back.
func (s *Segment) walk(from, limit int64) (c *cursor, done func(), err error) {
	f, err := s.handles.acquire(s, kindLog, false)
	if err != nil {
		return nil, nil, err
	}
	w := openWindow(f.file)
	c = &cursor{s: s, w: w, pos: from, limit: limit, next: -1, epoch: -1}
	if from == 0 {
		c.next = s.base
	} else {
		s.mu.Lock()
		for _, h := range s.hints {
			if h.set && h.pos == from {
				c.next = h.offset
			}
		}
		s.mu.Unlock()
	}
	return c, func() {
		w.close()
		s.handles.release(f)
	}, nil
}

// batch is the whole batch of a header whose checksum held. Those larger than the window are read into *large.
func (c *cursor) batch(h header, large *[]byte) (record.Batch, error) {
	if h.size <= windowSize {
		p, err := c.w.peek(h.pos, int(h.size), windowSize, c.limit)
		return record.Batch(p), err
	}
	if int64(cap(*large)) < h.size {
		*large = make([]byte, h.size)
	}
	p := (*large)[:h.size]
	if n, err := c.w.file.ReadAt(p, h.pos); n < len(p) {
		return nil, fmt.Errorf("%s: batch at %d: %w", c.s.Path(), h.pos, err)
	}
	return p, nil
}

// Resync says how far the invalid bytes at position, where a Scan stopped, go, up to limit. NextOffset -1 means a
// torn tail: nothing valid follows.
func (s *Segment) Resync(position, limit int64) (*DamageError, error) {
	c, done, err := s.walk(position, min(limit, s.Size()))
	if err != nil {
		return nil, err
	}
	defer done()
	_, err = c.peek()
	if err == nil || !isBad(err) && !errors.Is(err, io.EOF) {
		if err == nil {
			err = fmt.Errorf("%s: the batch at %d is valid", s.Path(), position)
		}
		return nil, err
	}
	return s.damaged(c, err)
}

// Verify checks batches from position from on, where one must start, again, until maxBytes are passed: the slow scrub.
// next is where to go on, the end of the log when all is done. Damage is remembered, so that reads step over it, and
// returned as a *DamageError, with next behind it.
func (s *Segment) Verify(from int64, maxBytes int) (next int64, err error) {
	limit := s.Size()
	c, done, err := s.walk(from, limit)
	if err != nil {
		return from, err
	}
	defer done()
	stop := from + int64(maxBytes)
	for start := true; start || c.pos < stop; start = false {
		if d := s.damageAround(c.pos); d != nil {
			c.hop(d)
			continue
		}
		_, err := c.step()
		if errors.Is(err, io.EOF) {
			break
		}
		if isBad(err) {
			d, derr := s.damaged(c, err)
			if derr != nil {
				return c.pos, derr
			}
			s.distrust(d)
			return d.Next, d
		}
		if err != nil {
			return c.pos, err
		}
	}
	s.passed(from, c.pos)
	s.remember(c)
	return c.pos, nil
}

// distrust makes reads check again what lies behind a damage that is not remembered.
func (s *Segment) distrust(d *DamageError) {
	if s.damageAround(d.Position) != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prefix, s.tail = min(s.prefix, d.Position), s.size
}

// Position is where the batch that contains offset, or the next after it, starts; the size of the log when there is
// none. It returns a *DamageError when offset lies in a damaged part.
func (s *Segment) Position(offset int64) (position int64, err error) {
	c, done, err := s.lookup(s.Size())
	if err != nil {
		return 0, err
	}
	defer done()
	_, err = s.seek(c, offset)
	if errors.Is(err, io.EOF) {
		return c.limit, nil
	}
	return c.pos, err
}

// lookup opens a cursor for seek.
func (s *Segment) lookup(limit int64) (*cursor, func(), error) {
	if err := s.load(); err != nil {
		return nil, nil, err
	}
	return s.walk(0, min(limit, s.Size()))
}

// OffsetForTime is the first record at or after ms among the batches below position limit; ok is false when there is
// none. Damaged parts are stepped over.
func (s *Segment) OffsetForTime(ms, limit int64) (offset, ts int64, ok bool, err error) {
	c, done, err := s.lookup(limit)
	if err != nil {
		return 0, 0, false, err
	}
	defer done()
	s.mu.Lock()
	state := s.index
	s.mu.Unlock()
	if state.maxTS < ms {
		return 0, 0, false, nil
	}
	if err := s.nearestTime(c, ms, state.times); err != nil {
		return 0, 0, false, err
	}
	var large []byte
	for {
		h, err := c.stepOver()
		if errors.Is(err, io.EOF) {
			return 0, 0, false, nil
		}
		if err != nil {
			return 0, 0, false, err
		}
		if h.maxTS < ms {
			continue
		}
		b, err := c.batch(h, &large)
		if err != nil {
			return 0, 0, false, err
		}
		for r, err := range b.Stamps(record.DefaultMaxBytes) {
			if err != nil {
				return 0, 0, false, fmt.Errorf("%s: batch at %d: %w", s.Path(), h.pos, err)
			}
			if r.Timestamp >= ms {
				return r.Offset, r.Timestamp, true, nil
			}
		}
	}
}

// stepOver is step that hops over damage; io.EOF when nothing valid follows.
func (c *cursor) stepOver() (header, error) {
	for {
		h, err := c.step()
		if !isBad(err) {
			return h, err
		}
		d, derr := c.s.damaged(c, err)
		if derr != nil {
			return header{}, derr
		}
		if d.NextOffset < 0 {
			return header{}, io.EOF
		}
		c.hop(d)
	}
}

// nearestTime moves the cursor to a batch before which no record is at or after ms: one the time index and the log
// agree on, else the first.
func (s *Segment) nearestTime(c *cursor, ms, times int64) error {
	e, err := s.openEntries(kindTime)
	if err != nil {
		return err
	}
	defer e.close()
	i, err := floorEntry(times, func(i int64) (bool, error) {
		ts, _, err := e.time(i)
		return ts <= ms, err
	})
	if err != nil {
		return err
	}
	for ; i >= 0; i-- {
		ts, offset, err := e.time(i)
		if err != nil {
			return err
		}
		h, err := s.batchEnding(c, offset)
		if err == nil && h.maxTS == ts && ts <= ms {
			c.pos, c.next, c.epoch, c.headersOnly = h.pos, h.base, -1, false
			return nil
		}
		if err != nil && !isBad(err) {
			return err
		}
	}
	c.pos, c.next, c.epoch, c.headersOnly = 0, s.base, -1, false
	return nil
}

// MaxTimestamp is the largest timestamp in the log and the first record that has it; -1 and -1 when none has one.
func (s *Segment) MaxTimestamp() (ts, offset int64, err error) {
	if err := s.load(); err != nil {
		return 0, 0, err
	}
	s.mu.Lock()
	state, size := s.index, s.size
	s.mu.Unlock()
	if state.maxTS < 0 {
		return -1, -1, nil
	}
	offset, ts, ok, err := s.OffsetForTime(state.maxTS, size)
	if err != nil || ok {
		return ts, offset, err
	}
	// A header that claims more than its records have, or damage since: the batch's last offset is the answer, as in
	// Kafka's own index.
	return state.maxTS, state.maxTSOffset, nil
}
