package partition

import (
	"errors"
	"io"
	"math"
	"os"

	"millrace/broker/record"
	"millrace/broker/segment"
)

// putBack mends a segment that is shorter than the checkpoint saw it because bytes are missing from its middle: the
// batches behind the gap move to where they were, and a filler takes the place of the lost ones. The cursor stands at
// the gap. It does nothing unless all that follows the gap is valid and ends with offset next.
func (l *log) putBack(end, next int64) error {
	size := l.at.Size()
	if l.pos >= size {
		return nil
	}
	from, base, err := l.behindGap(size, next)
	if err != nil || from < 0 {
		return err
	}
	if err := l.shift(from, size, end-size); err != nil {
		return err
	}
	if err := l.fill(from+end-size, base); err != nil {
		return err
	}
	return l.accept(next)
}

// behindGap is where batches go on that reach to the segment's end and to offset next, and the first one's offset; -1
// when there are none. Where whole batches are missing they go on at the cursor itself.
func (l *log) behindGap(size, next int64) (from, base int64, err error) {
	d, err := l.at.Resync(l.pos, size)
	if err != nil {
		return -1, -1, err
	}
	for _, at := range []int64{l.pos, d.Next} {
		b, err := l.batchIn(at, size)
		if err != nil {
			return -1, -1, err
		}
		if b == nil || b.BaseOffset() <= l.next {
			continue
		}
		last := b.NextOffset()
		valid, err := l.at.Scan(at+int64(len(b)), func(after record.Batch, _ int64) error {
			if after.BaseOffset() != last {
				return errGap
			}
			last = after.NextOffset()
			return nil
		})
		if err != nil && !errors.Is(err, errGap) {
			return -1, -1, err
		}
		if err == nil && valid == size && last == next {
			return at, b.BaseOffset(), nil
		}
	}
	return -1, -1, nil
}

var errGap = errors.New("offsets do not go on")

// batchIn is the whole batch at byte at of the cursor's segment, nil when there is none that is valid.
func (l *log) batchIn(at, size int64) (record.Batch, error) {
	f, err := l.p.store.cfg.FS.OpenFile(l.at.Path(), os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	b := make([]byte, record.HeaderSize)
	var n int64
	if size-at >= record.HeaderSize {
		if _, err = f.ReadAt(b, at); err == nil {
			n, _ = record.PeekSize(b) // 0 for what is no batch
		}
	}
	if n < record.HeaderSize || n > size-at {
		return nil, errors.Join(err, f.Close())
	}
	b = make([]byte, n)
	_, err = f.ReadAt(b, at)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if record.Batch(b).Check() != nil {
		return nil, nil
	}
	return b, nil
}

// shift moves the bytes from..to of the cursor's segment up by so many, the last ones first.
func (l *log) shift(from, to, by int64) error {
	f, err := l.p.store.cfg.FS.OpenFile(l.at.Path(), os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	buf := make([]byte, min(64<<10, to-from))
	for err == nil && to > from {
		n := min(int64(len(buf)), to-from)
		if _, err = f.ReadAt(buf[:n], to-n); err == nil || errors.Is(err, io.EOF) {
			_, err = f.WriteAt(buf[:n], to-n+by)
		}
		to -= n
	}
	return errors.Join(err, f.Close())
}

// readEpochs takes over the leader epoch checkpoint. It has no checksum, and a wrong digit in it would make good batches
// look bad; so it is believed only where the log agrees, and told anew by the log where it does not.
func (l *log) readEpochs() error {
	p := l.p
	known, err := segment.ReadEpochs(p.store.cfg.FS, p.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		var agrees bool
		if agrees, err = l.agrees(known); agrees {
			p.epochs.store(known)
			p.savedEpochs = p.epochs.list.Load()
			return nil
		}
	}
	p.store.log.Warn("leader epochs do not fit the log and are read from it anew", "partition", p.String(), "err", err)
	for _, s := range l.pieces {
		for from := int64(0); from < s.Size(); {
			valid, err := s.Scan(from, func(b record.Batch, _ int64) error {
				p.epochs.note(b.LeaderEpoch(), b.BaseOffset())
				return nil
			})
			if err != nil {
				return err
			}
			if valid >= s.Size() {
				break
			}
			d, err := s.Resync(valid, s.Size())
			if err != nil {
				return err
			}
			if d == nil || d.NextOffset < 0 {
				break
			}
			from = d.Next
		}
	}
	return nil
}

// agrees reports whether each leader epoch begins where the log says, as far as the log still has, or already has, the
// place.
func (l *log) agrees(known []segment.EpochStart) (bool, error) {
	first := l.pieces[0].Base()
	if len(known) > 0 && known[0].Start > first && l.pieces[0].Size() > 0 {
		return false, nil
	}
	for i, e := range known {
		if i+1 < len(known) && known[i+1].Start <= first {
			continue // it ended before the log's start
		}
		b, err := l.batchAt(max(e.Start, first))
		if err != nil {
			return false, err
		}
		if b != nil && b.LeaderEpoch() != e.Epoch {
			return false, nil
		}
	}
	return true, nil
}

// batchAt is the header of the batch that begins with offset, nil when there is none to be read.
func (l *log) batchAt(offset int64) (record.Batch, error) {
	s := l.pieces[floor(l.pieces, offset)]
	var position int64
	if offset != s.Base() {
		var err error
		if position, err = s.Position(offset); err != nil {
			return nil, err
		}
	}
	f, err := l.p.store.cfg.FS.OpenFile(s.Path(), os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	b := make(record.Batch, record.HeaderSize)
	n, err := f.ReadAt(b, position)
	if errors.Is(err, io.EOF) && n < len(b) {
		return nil, f.Close()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if b.CheckHeader() != nil || b.BaseOffset() != offset {
		return nil, nil
	}
	return b, nil
}

// tellCut names what is cut off because no frame of the journal vouches for it: an append that the last stop
// interrupted, or one whose frame was lost at the journal's end. The two look the same.
func (l *log) tellCut() error {
	f, err := l.p.store.cfg.FS.OpenFile(l.at.Path(), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	from, upto := l.next, l.next
	head := make(record.Batch, record.HeaderSize)
	for at := l.pos; info.Size()-at >= record.HeaderSize; {
		if _, err := f.ReadAt(head, at); err != nil {
			return errors.Join(err, f.Close())
		}
		size, err := record.PeekSize(head)
		if err != nil || size > info.Size()-at || head.CheckHeader() != nil || head.BaseOffset() != upto || head.NextOffset() > math.MaxInt64/2 {
			break
		}
		at, upto = at+size, head.NextOffset()
	}
	for _, s := range l.pieces {
		if s.Base() != upto || s.Base() <= l.at.Base() {
			continue
		}
		if _, err := s.Scan(0, func(b record.Batch, _ int64) error {
			upto = b.NextOffset()
			return nil
		}); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	if upto > from {
		l.p.store.log.Warn("records are cut off that the journal does not have: they were never acknowledged, or its end is damaged",
			"partition", l.p.String(), "from", from, "to", upto-1)
	}
	return f.Close()
}
