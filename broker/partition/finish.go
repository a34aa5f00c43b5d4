package partition

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"

	"millrace/broker/disk"
	"millrace/broker/segment"
)

// pointWalked makes segments durable that nothing but a walk over them vouches for: the life before may have left them
// in the page cache, and they are served from now on.
var pointWalked = disk.NewPoint("partition.walked")

// finish cuts the log where replay ended and makes the partition of it, nil for one that is given up: its files stay as
// they are, and every step that was done already is done once more when it is tried again.
func (l *log) finish() *Partition {
	if !l.failed {
		l.giveUp(l.settle())
	}
	if l.failed {
		l.p.store.producers.Add(-int64(l.p.producers.forget()))
		if err := closePieces(l.pieces); err != nil {
			l.r.s.log.Warn("close", "partition", l.p.String(), "err", err)
		}
		return nil
	}
	l.p.dateFiles()
	l.p.recovering.Store(false)
	return l.p
}

// dateFiles turns the dates of segments' files, by a clock that may have been wrong, into ages.
func (p *Partition) dateFiles() {
	for i, s := range p.pieces {
		if s.Size() == 0 {
			continue
		}
		next := p.end.Load()
		if i+1 < len(p.pieces) {
			next = p.pieces[i+1].Base()
		}
		at := p.store.cfg.Clock.FileAge(p.topic.ID, p.index, next-1, s.arrival.Load())
		s.arrival.Store(at)
		s.opened.Store(at)
	}
}

// giveUp leaves a partition out whose files cannot be used: one bad file keeps no other from starting.
func (l *log) giveUp(err error) {
	if err != nil && !l.failed {
		l.failed, l.err = true, err
		l.r.s.log.Error("partition is offline: its files cannot be opened", "partition", l.p.String(), "err", err)
	}
}

func (l *log) settle() error {
	p, f := l.p, l.r.fact(l.key())
	if l.hole || l.gaps() || l.walked {
		// What the journal lost may still be in the segment, and may have been acknowledged.
		lost := l.hole || l.gaps()
		if err := l.accept(math.MaxInt64); err != nil {
			return err
		}
		if lost || l.at.Size() > l.pos {
			l.suspectProducers(l.next)
		}
	}
	l.tellDamage()
	if l.next < f.start || l.next == f.start && l.at.Size() < l.pos {
		// Everything that replay would have written lies below the start and was stepped over, or its segment went.
		l.ends[l.at] = l.pos
		l.stray(l.at.Base(), f.start)
		at, err := l.piece(f.start)
		if err != nil {
			return err
		}
		l.at, l.pos, l.next = at, 0, f.start
	}
	if err := l.tellCut(); err != nil {
		return err
	}
	if err := l.cut(); err != nil {
		return err
	}
	start := min(max(f.start, l.pieces[0].Base()), l.next)
	for len(l.pieces) > 1 && l.pieces[1].Base() <= start && l.pieces[0] != l.at {
		if err := l.pieces[0].Remove(); err != nil {
			return err
		}
		l.pieces = l.pieces[1:]
	}
	start = max(start, l.pieces[0].Base())
	if !l.complete {
		if err := l.syncWalked(); err != nil {
			return err
		}
	}
	if err := l.syncTrusted(); err != nil {
		return err
	}
	p.pieces = l.pieces
	p.start, p.high, p.durable = start, l.next, l.next
	p.causes = l.causes(start)
	p.durablePiece, p.durablePos = l.at, l.pos
	p.end.Store(l.next)
	p.store.producers.Add(-int64(p.producers.rollback(l.next)))
	p.epochs.cut(l.next)
	if known := p.epochs.load(); len(known) > 0 {
		p.epoch.Store(known[len(known)-1].Epoch)
	}
	p.recorded = f.made || l.slot != nil
	return nil
}

// tellDamage names what a walk could not get over: valid batches behind invalid bytes. They are cut off, since nothing
// says any more that they were acknowledged in this order.
func (l *log) tellDamage() {
	if !l.walked || l.at.Size() <= l.pos {
		return
	}
	d, err := l.at.Resync(l.pos, l.at.Size())
	if err == nil && d != nil && d.NextOffset >= 0 {
		l.r.lost("%s: damaged from byte %d of segment %d, offset %d, with valid batches from offset %d on behind it",
			l.p, l.pos, l.at.Base(), l.next, d.NextOffset)
	}
}

// cut ends every segment where it ended, and removes those behind the last.
func (l *log) cut() error {
	var errs []error
	for s, pos := range l.ends {
		if s != l.at && s.Size() >= pos {
			errs = append(errs, s.Truncate(pos)) // where it ends there already, its file may go on
		}
	}
	errs = append(errs, l.at.Truncate(l.pos))
	l.stray(l.at.Base(), math.MaxInt64)
	for _, s := range l.strays {
		errs = append(errs, s.Remove())
	}
	l.at.flushed.Store(min(l.at.flushed.Load(), l.pos))
	if l.pos == 0 {
		l.at.opened.Store(0)
	}
	return errors.Join(errs...)
}

// syncTrusted makes durable what was taken from a segment because it looked right.
func (l *log) syncTrusted() error {
	for _, s := range l.trusted {
		if !slices.Contains(l.pieces, s) {
			continue
		}
		if err := l.p.syncPiece(s); err != nil {
			return err
		}
		if err := l.p.store.syncTopics(); err != nil {
			return err
		}
	}
	return nil
}

// syncWalked syncs every segment of a log that no checkpoint knows.
func (l *log) syncWalked() error {
	for _, s := range l.pieces {
		f, err := l.p.store.cfg.FS.OpenFile(s.Path(), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(pointWalked), f.Close()); err != nil {
			return fmt.Errorf("sync %s: %w", s.Path(), err)
		}
	}
	return nil
}

// restoreProducers takes over the newest undamaged producer snapshot at or below offset end, and returns its offset, -1
// when there is none.
func (l *log) restoreProducers(end int64) (int64, error) {
	p := l.p
	offsets, err := p.snapshots()
	if err != nil {
		return -1, err
	}
	for _, o := range slices.Backward(offsets) {
		if o > end {
			continue
		}
		states, err := segment.ReadSnapshot(p.store.cfg.FS, p.dir, o)
		if errors.Is(err, segment.ErrSnapshot) || err != nil && l.r.pointed.lenient {
			l.r.lost("%s: producer snapshot %d is lost: %v", p, o, err)
			continue
		}
		if err != nil {
			return -1, err
		}
		p.store.producers.Add(int64(p.producers.restore(states, p.store.nowMS())))
		p.snapshot = o
		return o, nil
	}
	return -1, nil
}

// snapshots lists the offsets of the producer snapshots in the directory, ascending.
func (p *Partition) snapshots() ([]int64, error) {
	entries, err := p.store.cfg.FS.ReadDir(p.dir)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", filepath.Base(p.dir), err)
	}
	var offsets []int64
	for _, e := range entries {
		if o, ok := segment.ParseName(e.Name(), ".snapshot"); ok {
			offsets = append(offsets, o)
		}
	}
	return offsets, nil
}
