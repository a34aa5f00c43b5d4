package segment

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"millrace/broker/record"
)

// hint is a place in the log a reader came to: the batch at pos starts at offset.
type hint struct {
	offset, pos int64
	set         bool
}

// hintsKept is how many readers find their place again without the index.
const hintsKept = 4

// Span is a run of whole checked batches of one segment. It holds the file open, also when the segment is removed,
// until Release, which must be called exactly once. The zero Span is empty.
type Span struct {
	segment *Segment
	file    *handle
	pos     int64
	n       int
	first   int64
}

// Len is the number of bytes.
func (p Span) Len() int { return p.n }

// File is the open file and where in it the span lies, for sendfile. Every batch in it was checked, in this read or
// an earlier one since the segment was opened. ok is false for an empty span.
func (p Span) File() (fd uintptr, pos int64, ok bool) {
	if p.n == 0 {
		return 0, 0, false
	}
	return p.file.file.Fd(), p.pos, true
}

// Append reads the span's bytes onto dst, checking each batch once more. A batch that has gone bad since Read is a
// *DamageError, and dst comes back as it was.
func (p Span) Append(dst []byte) ([]byte, error) {
	if p.n == 0 {
		return dst, nil
	}
	at := len(dst)
	out := slices.Grow(dst, p.n)[:at+p.n]
	if n, err := p.file.file.ReadAt(out[at:], p.pos); n < p.n {
		return dst, fmt.Errorf("%s: %d of %d bytes at %d: %w", p.segment.Path(), n, p.n, p.pos, err)
	}
	next := p.first
	for rest := out[at:]; len(rest) > 0; {
		b, after, err := record.Next(rest)
		if err == nil {
			err = b.Check()
		}
		if err == nil && (b.BaseOffset() < next || b.BaseOffset() > next && !p.segment.cfg.Sparse) {
			err = fmt.Errorf("%w: base offset %d, want %d", record.ErrCorrupt, b.BaseOffset(), next)
		}
		if err != nil {
			return dst, p.segment.rotten(p.file, p.pos+int64(p.n-len(rest)), next, err)
		}
		next, rest = b.NextOffset(), after
	}
	return out, nil
}

// rotten is the damage at pos, in bytes that were good before.
func (s *Segment) rotten(f *handle, pos, next int64, reason error) error {
	w := openWindow(f.file)
	defer w.close()
	c := &cursor{s: s, w: w, pos: pos, limit: s.Size(), next: next, epoch: -1}
	d, err := s.damaged(c, reason)
	if err != nil {
		return err
	}
	s.distrust(d) // where nothing valid follows it is not remembered
	return d
}

// Release lets the file go.
func (p Span) Release() {
	if p.file != nil {
		p.segment.handles.release(p.file)
	}
}

// Read is a span of whole checked batches, from the one that contains offset, or the next after it, up to position
// limit and maxBytes; one batch at least, however large. It is empty when no batch below limit reaches offset. A
// damaged batch is never in it: when offset lies in one, the error is a *DamageError, which says where to go on.
func (s *Segment) Read(offset, limit int64, maxBytes int) (Span, error) {
	if err := s.load(); err != nil {
		return Span{}, err
	}
	f, err := s.handles.acquire(s, kindLog, false)
	if err != nil {
		return Span{}, err
	}
	w := openWindow(f.file)
	c := &cursor{s: s, w: w, limit: min(limit, s.Size()), next: -1, epoch: -1}
	span, err := s.read(c, f, offset, maxBytes)
	w.close()
	if errors.Is(err, io.EOF) {
		err = nil
		if size := c.limit; size < limit {
			err = &DamageError{Path: s.Path(), Position: size, Next: limit, Offset: max(c.next, offset), NextOffset: -1, Reason: record.ErrShort}
		}
	}
	if err != nil || span.n == 0 {
		s.handles.release(f)
		return Span{}, err
	}
	return span, nil
}

func (s *Segment) read(c *cursor, f *handle, offset int64, maxBytes int) (Span, error) {
	h, err := s.seek(c, offset)
	if err != nil {
		return Span{}, err
	}
	start, first := c.pos, c.next
	if first < 0 || s.cfg.Sparse {
		first = h.base
	}
	stop := min(c.limit, start+max(int64(maxBytes), h.size))
	prefix, _ := s.verified()
	if c.headersOnly {
		// Checked before: only the end of the last whole batch is to be found.
		if start < prefix {
			stop = min(stop, prefix)
		}
		stop = s.damageAfter(start, stop)
		err = s.lastWhole(c, h, stop)
	} else {
		err = s.check(c, h, stop)
	}
	if err != nil {
		return Span{}, err
	}
	s.remember(c)
	return Span{segment: s, file: f, pos: start, n: int(c.pos - start), first: first}, nil
}

// verified are the parts of the log that were checked since it was opened: [0, prefix) and [tail, size).
func (s *Segment) verified() (prefix, tail int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.prefix, s.tail
}

// passed notes that [from, to) was checked, in one run from a batch whose own place is certain.
func (s *Segment) passed(from, to int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if to = min(to, s.size); from <= s.prefix && to > s.prefix {
		s.prefix = to
	}
	if s.prefix >= s.tail {
		s.prefix, s.tail = s.size, s.size
	}
}

// hopped counts a remembered damage as passed: reads step over it. It reports whether it is remembered.
func (s *Segment) hopped(d *DamageError) bool {
	if s.damageAround(d.Position) == nil {
		return false
	}
	s.passed(d.Position, d.Next)
	return true
}

// leave leaves a hint for whoever reads next.
func (s *Segment) leave(h hint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hints[s.hintAt%hintsKept] = h
	s.hintAt++
}

// remember leaves a hint where the cursor is, in the slot of the reader it came from, if it came by a hint.
func (s *Segment) remember(c *cursor) {
	if c.next < 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	slot := c.slot - 1
	if c.slot == 0 {
		slot = s.hintAt % hintsKept
		s.hintAt++
	}
	s.hints[slot] = hint{offset: c.next, pos: c.pos, set: true}
}

// recall moves the cursor to offset when a reader has left a hint there.
func (s *Segment) recall(c *cursor, offset int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, h := range s.hints {
		if h.set && h.offset == offset && h.pos <= c.limit {
			c.pos, c.next, c.epoch, c.slot = h.pos, h.offset, -1, uint8(i)+1
			return true
		}
	}
	return false
}

// check walks whole batches up to stop, with their checksums, behind the first one, h, which is good. Damage ends the
// walk: the next read starts there and says so.
func (s *Segment) check(c *cursor, h header, stop int64) error {
	from := c.pos
	for err := error(nil); ; h, err = c.peekUpTo(stop) {
		if errors.Is(err, io.EOF) || isBad(err) {
			s.passed(from, c.pos)
			return nil
		}
		if err != nil {
			return err
		}
		c.pass(h)
	}
}

// lastWhole moves over whole batches up to stop, without their checksums, with the index's help for the most part of
// the way.
func (s *Segment) lastWhole(c *cursor, h header, stop int64) error {
	c.headersOnly = true
	c.pass(h)
	if stop-c.pos > 2*s.interval() {
		if err := s.skipAhead(c, stop); err != nil {
			return err
		}
	}
	for c.pos < stop {
		h, err := c.peek()
		if errors.Is(err, io.EOF) || isBad(err) || err == nil && h.end() > stop {
			return nil // a header gone bad since: the next read starts there and says so
		}
		if err != nil {
			return err
		}
		c.pass(h)
	}
	return nil
}

// skipAhead moves to the last index entry below stop whose batch agrees.
func (s *Segment) skipAhead(c *cursor, stop int64) error {
	if err := s.load(); err != nil {
		return err
	}
	s.mu.Lock()
	n := s.index.entries
	s.mu.Unlock()
	e, err := s.openEntries(kindIndex)
	if err != nil {
		return err
	}
	defer e.close()
	i, err := floorEntry(n, func(i int64) (bool, error) {
		_, position, err := e.offset(i)
		return position < stop, err
	})
	if err != nil || i < 0 {
		return err
	}
	offset, position, err := e.offset(i)
	if err != nil || position <= c.pos {
		return err
	}
	probe := *c
	a, err := probe.anchor(offset, position)
	if isBad(err) {
		return nil
	}
	if err == nil {
		c.pos, c.next, c.epoch = a.h.pos, a.h.base, a.h.epoch
	}
	return err
}

// seek moves the cursor to the batch that contains offset, or the next after it, and returns it. io.EOF: there is
// none below the cursor's limit. A *DamageError: offset lies in a damaged part. Bytes not verified are checked on
// the way.
func (s *Segment) seek(c *cursor, offset int64) (header, error) {
	if !s.recall(c, offset) {
		if err := s.nearest(c, offset); err != nil {
			return header{}, err
		}
	}
	for {
		prefix, tail := s.verified()
		c.headersOnly = c.pos < prefix || c.pos >= tail
		d := s.damageAround(c.pos)
		var h header
		var err error
		if d == nil {
			h, err = c.peek()
			if isBad(err) {
				d, err = s.damaged(c, err)
			}
		}
		if err != nil {
			return header{}, err
		}
		if d != nil {
			if d.NextOffset < 0 || offset < d.NextOffset {
				return header{}, d
			}
			s.hopped(d)
			c.hop(d)
			continue
		}
		if h.next > offset {
			return h, nil
		}
		s.passed(c.pos, h.end())
		c.pass(h)
	}
}

// nearest moves the cursor to a batch at or before offset whose own place is certain: one the index and the log agree
// on, else the first.
func (s *Segment) nearest(c *cursor, offset int64) error {
	s.mu.Lock()
	n := s.index.entries
	s.mu.Unlock()
	e, err := s.openEntries(kindIndex)
	if err != nil {
		return err
	}
	defer e.close()
	i, err := floorEntry(n, func(i int64) (bool, error) {
		o, position, err := e.offset(i)
		return o <= offset && position < c.limit, err
	})
	if err != nil {
		return err
	}
	for ; i >= 0; i-- {
		o, position, err := e.offset(i)
		if err != nil {
			return err
		}
		prefix, tail := s.verified()
		c.headersOnly = position < prefix || position >= tail
		a, err := c.anchor(o, position)
		if err == nil {
			c.pos, c.next, c.epoch = position, a.h.base, -1
			return nil
		}
		if !isBad(err) {
			return err
		}
	}
	c.pos, c.next, c.epoch = 0, s.base, -1
	return nil
}
