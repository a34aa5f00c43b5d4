package segment

import (
	"errors"
	"fmt"
	"io"

	"millrace/broker/record"
)

// header is what a walk needs of a batch.
type header struct {
	pos, size  int64
	base, next int64 // first offset, and the one after the last
	maxTS      int64
	epoch      int32
}

func (h header) end() int64 { return h.pos + h.size }

// cursor walks the batches of a log in order.
type cursor struct {
	s   *Segment
	w   *window
	pos int64
	// limit is where the walk ends. A batch that reaches past it is bad.
	limit int64
	// next is the offset the batch at pos must start at, -1 when it is not known.
	next int64
	// epoch is the least leader epoch the batch at pos may have.
	epoch int32
	// headersOnly skips the checksums: for bytes that were checked before.
	headersOnly bool
	// slot is that of the hint the cursor started from, from 1, 0 for none.
	slot uint8
}

// badBatch is the reason why bytes are no batch to be served. Other errors of a walk are the disk's.
type badBatch struct{ reason error }

func (b *badBatch) Error() string { return b.reason.Error() }

func bad(format string, args ...any) error { return &badBatch{fmt.Errorf(format, args...)} }

func isBad(err error) bool {
	var b *badBatch
	return errors.As(err, &b)
}

// peek looks at the batch at pos without moving. It returns io.EOF at the limit and a *badBatch for bytes that must
// not be served.
func (c *cursor) peek() (header, error) {
	if c.pos >= c.limit {
		return header{}, io.EOF
	}
	if c.limit-c.pos < record.HeaderSize {
		return header{}, bad("%w: %d bytes left", record.ErrShort, c.limit-c.pos)
	}
	hint := windowSize
	if c.headersOnly {
		hint = headerRead
	}
	p, err := c.w.peek(c.pos, record.HeaderSize, hint, c.limit)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return header{}, bad("%w: the file ends", record.ErrShort)
	}
	if err != nil {
		return header{}, err
	}
	size, err := record.PeekSize(p)
	if err != nil {
		return header{}, &badBatch{err}
	}
	if size > c.limit-c.pos {
		return header{}, bad("%w: batch of %d bytes, %d left", record.ErrShort, size, c.limit-c.pos)
	}
	b := record.Batch(p)
	if err := b.CheckHeader(); err != nil {
		return header{}, &badBatch{err}
	}
	h := header{pos: c.pos, size: size, base: b.BaseOffset(), next: b.NextOffset(), maxTS: b.MaxTimestamp(), epoch: b.LeaderEpoch()}
	if err := c.fits(h); err != nil {
		return header{}, err
	}
	if c.headersOnly {
		return h, nil
	}
	if err := c.checksum(h, b.CRC()); err != nil {
		return header{}, err
	}
	return h, c.epochHolds(h)
}

// peekUpTo is peek that returns io.EOF for a batch that ends behind stop, and reads no more than the header of that one.
func (c *cursor) peekUpTo(stop int64) (header, error) {
	if c.pos >= stop {
		return header{}, io.EOF
	}
	checked := c.headersOnly
	c.headersOnly = true
	h, err := c.peek()
	c.headersOnly = checked
	if err == nil && h.end() > stop {
		err = io.EOF
	}
	if err != nil || checked {
		return h, err
	}
	return c.peek()
}

// checksum compares the batch's bytes with the CRC its header has.
func (c *cursor) checksum(h header, want uint32) error {
	var crc uint32
	var err error
	if h.size <= windowSize {
		var p []byte
		if p, err = c.w.peek(h.pos, int(h.size), windowSize, c.limit); err == nil {
			crc = record.Castagnoli(p[record.ChecksumStart:])
		}
	} else {
		crc, err = c.w.checksum(h.pos+record.ChecksumStart, h.end(), c.limit)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return bad("%w: the file ends", record.ErrShort)
	}
	if err == nil && crc != want {
		return bad("%w: CRC %08x, computed %08x", record.ErrCorrupt, want, crc)
	}
	return err
}

// epochHolds asks the batch behind h whether a leader epoch that rises at h, and that nobody else knows, stays.
func (c *cursor) epochHolds(h header) error {
	if h.epoch <= c.epoch || c.limit-h.end() < record.HeaderSize {
		return nil
	}
	if c.s.cfg.EpochAt != nil {
		if _, ok := c.s.cfg.EpochAt(h.base); ok {
			return nil
		}
	}
	p, err := c.w.peek(h.end(), record.HeaderSize, headerRead, c.limit)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	if err != nil {
		return err
	}
	if after := record.Batch(p); after.Magic() == magic && after.BaseOffset() == h.next && after.LeaderEpoch() < h.epoch {
		return bad("%w: leader epoch %d before %d", record.ErrCorrupt, h.epoch, after.LeaderEpoch())
	}
	return nil
}

// fits compares what no checksum covers, base offset and leader epoch, with the neighbours and the epochs known.
func (c *cursor) fits(h header) error {
	sparse := c.s.cfg.Sparse
	switch {
	case h.base < c.s.base:
		return bad("%w: base offset %d in a segment from %d", record.ErrCorrupt, h.base, c.s.base)
	case h.next-1-c.s.base > maxRelative:
		return bad("%w: last offset %d in a segment from %d", record.ErrCorrupt, h.next-1, c.s.base)
	case c.next >= 0 && (h.base < c.next || h.base > c.next && !sparse):
		return bad("%w: base offset %d, want %d", record.ErrCorrupt, h.base, c.next)
	case h.epoch < c.epoch:
		return bad("%w: leader epoch %d after %d", record.ErrCorrupt, h.epoch, c.epoch)
	}
	if c.s.cfg.EpochAt != nil {
		if epoch, ok := c.s.cfg.EpochAt(h.base); ok && epoch != h.epoch {
			return bad("%w: leader epoch %d at offset %d, want %d", record.ErrCorrupt, h.epoch, h.base, epoch)
		}
	}
	return nil
}

// pass moves behind h, which peek returned.
func (c *cursor) pass(h header) { c.pos, c.next, c.epoch = h.end(), h.next, h.epoch }

// step is peek and pass.
func (c *cursor) step() (header, error) {
	h, err := c.peek()
	if err == nil {
		c.pass(h)
	}
	return h, err
}

// hop moves behind a damaged part.
func (c *cursor) hop(d *DamageError) {
	c.pos = d.Next
	c.next = d.NextOffset
}
