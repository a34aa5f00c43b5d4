package partition

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"slices"

	"millrace/broker/disk"
	"millrace/broker/journal"
	"millrace/broker/record"
	"millrace/broker/segment"
)

// accept moves the cursor over valid batches that end by offset end.
func (l *log) accept(end int64) error {
	if err := l.flush(); err != nil {
		return err
	}
	f, err := l.p.store.cfg.FS.OpenFile(l.at.Path(), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		err = l.stepBatches(f, info.Size(), end, true)
	}
	l.hole = false
	return errors.Join(err, f.Close())
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
	return l.at.Put(l.pos, b)
}

// stepOver checks pointed bytes and moves the cursor behind them. Where they are damaged what is valid of them stays.
func (l *log) stepOver(e *journal.Entry, length int64) error {
	if err := l.flush(); err != nil {
		return err
	}
	whole := length == int64(e.Length)
	if whole && !l.holds(e) {
		// How far the loss goes is known when the next entry names its place.
		l.hole = true
		l.r.lost("%s: bytes %d to %d of segment %d are damaged, from offset %d on", l.p, e.Position, e.Position+length-1, e.Segment, e.Base)
		return nil
	}
	f, err := l.p.store.cfg.FS.OpenFile(l.at.Path(), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	err = l.stepBatches(f, e.Position+length, math.MaxInt64, l.r.last)
	l.hole = l.pos < e.Position+length // an entry that a truncation cut in half, and what came behind was lost
	return errors.Join(err, f.Close())
}

// stepBatches gives the segment the valid batches that lie at the cursor, up to byte end and offset last, one at a time.
// Where doubted they may lie in the page cache alone: a stop came before their sync, or the sync failed and left their
// pages clean. They are written again, and settle syncs them before anybody is served.
func (l *log) stepBatches(f disk.File, end, last int64, doubted bool) error {
	step := l.at.WriteAt
	if doubted {
		step = func(_ int64, b []byte) error { return l.put(b) }
		if !slices.Contains(l.trusted, l.at) {
			l.trusted = append(l.trusted, l.at)
		}
	}
	var head [record.HeaderSize]byte
	var buf []byte
	for end-l.pos >= record.HeaderSize {
		if _, err := f.ReadAt(head[:], l.pos); err != nil {
			return err
		}
		size, err := record.PeekSize(head[:])
		if err != nil || size > end-l.pos {
			return nil
		}
		buf = slices.Grow(buf[:0], int(size))[:size]
		if _, err := f.ReadAt(buf, l.pos); err != nil {
			return err
		}
		b := record.Batch(buf)
		if b.Check() != nil || b.BaseOffset() != l.next || b.NextOffset() > last {
			return nil
		}
		if err := step(l.pos, b); err != nil {
			return err
		}
		l.note(b)
		l.pos, l.next = l.pos+size, b.NextOffset()
	}
	return nil
}

// holds says whether the segment has exactly the bytes a pointer names.
func (l *log) holds(e *journal.Entry) bool {
	i := slices.IndexFunc(l.pieces, func(s *piece) bool { return s.Base() == e.Segment })
	path := ""
	if i >= 0 {
		path = l.pieces[i].Path()
	} else {
		path = l.p.dir + string(os.PathSeparator) + fmt.Sprintf("%020d%s", e.Segment, segment.LogSuffix)
	}
	f, err := l.p.store.cfg.FS.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return false
	}
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	n, err := io.Copy(h, io.NewSectionReader(f, e.Position, int64(e.Length)))
	return errors.Join(err, f.Close()) == nil && n == int64(e.Length) && h.Sum32() == e.CRC
}

// pointed is the bytes a pointer names, nil where the segment does not have them.
func (l *log) pointed(e *journal.Entry) []byte {
	if !l.lay(e.Segment) || !l.holds(e) {
		return nil
	}
	f, err := l.p.store.cfg.FS.OpenFile(l.p.dir+string(os.PathSeparator)+fmt.Sprintf("%020d%s", e.Segment, segment.LogSuffix), os.O_RDONLY, 0)
	if err != nil {
		return nil
	}
	raw := make([]byte, e.Length)
	if _, err := f.ReadAt(raw, e.Position); errors.Join(err, f.Close()) != nil {
		return nil
	}
	return raw
}
