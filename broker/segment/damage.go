package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"millrace/broker/record"
)

// ErrDamaged is what a DamageError is, for errors.Is.
var ErrDamaged = errors.New("segment is damaged")

// DamageError says which part of a log cannot be served, and where to go on.
type DamageError struct {
	// Path is the log file.
	Path string
	// Position and Next are the bytes that are no good, Next exclusive.
	Position, Next int64
	// Offset is the first offset lost, NextOffset the first one that is there again at Next. NextOffset is -1 when
	// no valid batch follows below the limit: what is lost then ends where the caller's limit does.
	Offset, NextOffset int64
	// Reason is what was wrong with the first bad batch.
	Reason error
}

func (e *DamageError) Error() string {
	to := "the end"
	if e.NextOffset >= 0 {
		to = fmt.Sprint("offset ", e.NextOffset)
	}
	return fmt.Sprintf("%s: damaged from byte %d, offset %d, to byte %d, %s: %v", e.Path, e.Position, e.Offset, e.Next, to, e.Reason)
}

// Unwrap makes errors.Is find ErrDamaged and the reason.
func (e *DamageError) Unwrap() []error { return []error{ErrDamaged, e.Reason} }

// damagesKept bounds the damaged parts a segment remembers. With more, what lies behind is checked at every read.
const damagesKept = 64

// damageAround is the remembered damage that covers pos.
func (s *Segment) damageAround(pos int64) *DamageError {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.damages {
		if pos >= d.Position && pos < d.Next {
			return d
		}
	}
	return nil
}

// damageAfter is where the first remembered damage at or behind pos starts, limit when there is none before it.
func (s *Segment) damageAfter(pos, limit int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.damages {
		if d.Next > pos {
			limit = min(limit, max(d.Position, pos))
		}
	}
	return limit
}

// damaged works out how far the damage at the cursor goes, remembers it, and returns it; another error is the disk's.
func (s *Segment) damaged(c *cursor, reason error) (*DamageError, error) {
	if d := s.damageAround(c.pos); d != nil && d.Position == c.pos {
		return d, nil
	}
	var b *badBatch
	if errors.As(reason, &b) {
		reason = b.reason
	}
	d := &DamageError{Path: s.Path(), Position: c.pos, Next: c.limit, Offset: max(c.next, s.base), NextOffset: -1, Reason: reason}
	h, err := c.resync()
	if errors.Is(err, io.EOF) {
		return d, nil
	}
	if err != nil {
		return nil, err
	}
	d.Next, d.NextOffset = h.pos, h.base
	s.mu.Lock()
	if len(s.damages) < damagesKept {
		s.damages = append(s.damages, d)
	} else {
		s.prefix, s.tail = min(s.prefix, d.Position), s.size
	}
	s.hints = [hintsKept]hint{}
	s.mu.Unlock()
	return d, nil
}

// resync finds the first batch behind the bad one at the cursor that can be believed; io.EOF when there is none. The
// cursor stays. A candidate must have a good checksum and a higher offset, and what follows it must go on where it
// ends: a batch somebody stored inside a record's value, or one whose base offset is wrong, passes the first and
// fails the second.
func (c *cursor) resync() (header, error) {
	probe := cursor{s: c.s, w: c.w, limit: c.limit, next: -1, epoch: c.epoch}
	if end, claims, ok, err := c.claimedEnd(); err != nil {
		return header{}, err
	} else if ok {
		h, err := probe.candidate(end, c.next)
		// Where bytes are missing, another batch than the next one may begin there by chance.
		goesOn := err == nil && (h.base == claims.NextOffset() || h.base == c.next+int64(claims.LastOffsetDelta())+1)
		if goesOn || err == nil && c.s.cfg.Sparse || err != nil && !isBad(err) {
			return h, err
		}
	}
	for pos := c.pos + 1; pos+record.HeaderSize <= c.limit; pos++ {
		// Look for the magic byte, 16 bytes into a batch, a window at a time.
		n := int(min(c.limit-pos-magicAt, windowSize))
		p, err := c.w.peek(pos+magicAt, n, windowSize, c.limit)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			p, err = c.w.buf[:c.w.n], nil
		}
		if err != nil {
			return header{}, err
		}
		i := bytes.IndexByte(p, magic)
		if i < 0 {
			pos += int64(max(n-1, 0))
			continue
		}
		pos += int64(i)
		if h, err := probe.candidate(pos, c.next); err == nil || !isBad(err) && !errors.Is(err, io.EOF) {
			return h, err
		}
	}
	return header{}, io.EOF
}

const (
	magicAt = 16
	magic   = 2
)

// claimedEnd is where the bad batch says it ends, and its header.
func (c *cursor) claimedEnd() (end int64, b record.Batch, ok bool, err error) {
	if c.limit-c.pos < record.HeaderSize {
		return 0, nil, false, nil
	}
	p, err := c.w.peek(c.pos, record.HeaderSize, headerRead, c.limit)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, nil, false, nil
	}
	if err != nil {
		return 0, nil, false, err
	}
	size, err := record.PeekSize(p)
	if err != nil || size >= c.limit-c.pos {
		return 0, nil, false, nil
	}
	return c.pos + size, bytes.Clone(p[:record.HeaderSize]), true, nil
}

// candidate says whether the batch at pos can be believed. least is the lowest offset it may start at.
func (c *cursor) candidate(pos, least int64) (header, error) {
	at := *c
	at.pos, at.next = pos, -1
	h, err := at.step()
	if err != nil {
		return header{}, err
	}
	if h.base < least {
		return header{}, bad("%w: base offset %d, want at least %d", record.ErrCorrupt, h.base, least)
	}
	if _, err := at.peek(); err != nil && !errors.Is(err, io.EOF) {
		if !isBad(err) {
			return header{}, err
		}
		// What follows is damaged as well, or this one is. The index tells which, or a batch that goes on where this one
		// ends, a little further: behind missing bytes everything lies elsewhere, up to where recovery wrote again.
		ok, err := c.s.indexKnows(h)
		if err == nil && !ok {
			ok, err = at.goesOn(h.next)
		}
		if err != nil || !ok {
			return header{}, errors.Join(bad("%w: nothing confirms offset %d", record.ErrCorrupt, h.base), err)
		}
	}
	return h, nil
}

// goesOnTries bounds the checksums that one goesOn computes: somebody may have stored a window full of headers.
const goesOnTries = 8

// goesOn says whether a valid batch that begins with offset lies within a window behind the cursor.
func (c *cursor) goesOn(offset int64) (bool, error) {
	n := int(min(c.limit-c.pos, windowSize))
	p, err := c.w.peek(c.pos, n, windowSize, c.limit)
	if err != nil {
		return false, err
	}
	var base [8]byte
	binary.BigEndian.PutUint64(base[:], uint64(offset))
	var found []int64 // the window moves with the first look at a candidate
	for from := 0; len(found) < goesOnTries; {
		i := bytes.Index(p[from:], base[:])
		if i < 0 {
			break
		}
		found = append(found, c.pos+int64(from+i))
		from += i + 1
	}
	for _, pos := range found {
		at := *c
		at.pos, at.next, at.epoch = pos, -1, -1
		if _, err := at.step(); err == nil {
			return true, nil
		} else if !isBad(err) && !errors.Is(err, io.EOF) {
			return false, err
		}
	}
	return false, nil
}
