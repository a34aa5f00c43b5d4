package partition

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"millrace/broker/journal"
	"millrace/broker/record"
)

// accept moves the cursor over valid batches that end by offset end.
func (l *log) accept(end int64) error {
	if err := l.flush(); err != nil {
		return err
	}
	l.hole = false
	return l.stepBatches(math.MaxInt64, end, true)
}

// fillerMax is about how large a filler may be, in bytes, where there are offsets enough for more than one.
const fillerMax = 1 << 20

// fill covers lost bytes up to position and lost offsets up to next with batches that clients step over, so that the
// log stays walkable.
func (l *log) fill(position, next int64) error {
	n := position - l.pos
	switch {
	case n == 0 && next == l.next:
		return nil
	case n < record.HeaderSize || next <= l.next || n > math.MaxInt32 || next-l.next > math.MaxInt32:
		return fmt.Errorf("%s: %d bytes for offsets %d to %d: %w", l.p, n, l.next, next-1, errOrder)
	}
	l.lose(l.next, next)
	epoch, _ := l.p.epochs.at(l.next)
	for parts := min(next-l.next, (n+fillerMax-1)/fillerMax); parts > 0; parts-- {
		size, last := (position-l.pos)/parts, l.next+(next-l.next)/parts-1
		f, err := filler(int(size), l.next, last, epoch)
		if err != nil {
			return err
		}
		if err := l.put(f); err != nil {
			return err
		}
		l.pos, l.next = l.pos+size, last+1
	}
	l.hole = false
	return nil
}

// write puts an inline entry at its place.
func (l *log) write(e *journal.Entry, batches []byte) error {
	for rest := batches; len(rest) > 0; {
		b, after, err := record.Next(rest)
		if err != nil {
			return fmt.Errorf("%s: entry for offset %d: %w", l.p, e.Base, err)
		}
		rest = after
		if err := l.gather(b); err != nil {
			return err
		}
		l.note(b)
		l.pos, l.next = l.pos+int64(len(b)), b.NextOffset()
	}
	return nil
}

// put writes one batch at the cursor. The bytes are written even where they are there already: after a failed sync the
// page cache shows what the disk does not have.
func (l *log) put(b record.Batch) error {
	if err := l.flush(); err != nil {
		return err
	}
	return errors.Join(l.at.Put(l.pos, b), l.r.pointed.forget(l.at.Path()))
}

// stepOver checks pointed bytes and moves the cursor behind them. Where they are damaged what is valid of them stays.
func (l *log) stepOver(e *journal.Entry, length int64) error {
	if err := l.flush(); err != nil {
		return err
	}
	filled := false
	if length == int64(e.Length) {
		holds, err := l.holds(e)
		if err != nil {
			return err
		}
		if !holds {
			l.suspectProducers(e.Base)
			if filled, err = l.filled(e); err != nil {
				return err
			}
		}
		if !holds && !filled {
			// How far the loss goes is known when the next entry names its place.
			l.hole = true
			l.r.lost("%s: bytes %d to %d of segment %d are damaged, from offset %d on", l.p, e.Position, e.Position+length-1, e.Segment, e.Base)
			return nil
		}
	}
	err := l.stepBatches(e.Position+length, math.MaxInt64, l.r.last || filled)
	l.hole = l.pos < e.Position+length // an entry that a truncation cut in half, and what came behind was lost
	return err
}

// stepBatches gives the segment the valid batches that lie at the cursor, up to byte end and offset last, one at a time.
// Where doubted they may lie in the page cache alone: a stop came before their sync, or the sync failed and left their
// pages clean. They are written again, and settle syncs them before anybody is served.
func (l *log) stepBatches(end, last int64, doubted bool) error {
	step := l.at.Adopt
	if doubted {
		step = l.at.Put
		if !slices.Contains(l.trusted, l.at) {
			l.trusted = append(l.trusted, l.at)
		}
	}
	path := l.at.Path()
	for {
		head, err := l.r.pointed.at(path, l.pos, record.HeaderSize)
		if err != nil {
			return err
		}
		if len(head) < record.HeaderSize {
			return nil
		}
		size, err := record.PeekSize(head)
		if err != nil || size > end-l.pos {
			return nil
		}
		raw, err := l.r.pointed.at(path, l.pos, size)
		if err != nil {
			return err
		}
		b := record.Batch(raw)
		if int64(len(raw)) < size || b.Check() != nil || b.BaseOffset() != l.next || b.NextOffset() > last {
			return nil
		}
		if err := step(l.pos, b); err != nil {
			return err
		}
		l.note(b)
		l.pos, l.next = l.pos+size, b.NextOffset()
	}
}
