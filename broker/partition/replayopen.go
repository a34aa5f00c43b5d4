package partition

import (
	"fmt"
	"path/filepath"
	"slices"

	"millrace/broker/segment"
)

// create makes a directory that is not there, with an empty log where the old one's end was.
func (l *log) create() error {
	start := int64(0)
	if l.slot != nil && l.slot.Next > 0 {
		start = l.slot.Next
		l.r.lost("%s: the directory is gone; offsets %d to %d are lost", l.p, l.slot.Start, l.slot.Next-1)
		f := l.r.fact(l.key())
		f.start = max(f.start, start) // nothing before is there, and no offset is given twice
		l.slot, l.vanished = nil, true
	} else if f := l.r.fact(l.key()); len(f.bases) > 0 {
		start = slices.Min(f.bases) // older segments went before the journal's first frame
	}
	made, err := l.p.store.create(l.p.topic, l.p.index, *l.p.config.Load(), start)
	if err != nil {
		return err
	}
	made.recovering.Store(true)
	l.p, l.pieces = made, made.pieces
	return l.r.pointed.close() // files of that name may have been set aside
}

// open opens every segment there is, and makes one where there is none.
func (l *log) open() error {
	p := l.p
	entries, err := p.store.cfg.FS.ReadDir(p.dir)
	if err != nil {
		return err
	}
	changed, damaged, err := segment.FinishSwaps(p.store.cfg.FS, p.dir, entries)
	for _, name := range damaged {
		l.r.lost("%s: %s, what a compaction had written, is damaged", p, filepath.Base(name))
	}
	if err == nil && changed {
		entries, err = p.store.cfg.FS.ReadDir(p.dir)
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		base, ok := segment.ParseName(e.Name(), segment.LogSuffix)
		if !ok {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		s, err := segment.Open(p.store.cfg.FS, p.dir, base, p.segmentConfig())
		if err != nil {
			return fmt.Errorf("segment %d: %w", base, err)
		}
		x := &piece{Segment: s}
		x.arrival.Store(info.ModTime().UnixMilli())
		if s.Size() > 0 {
			x.opened.Store(info.ModTime().UnixMilli())
		}
		l.pieces = append(l.pieces, x)
	}
	if len(l.pieces) > 0 {
		return nil
	}
	base := int64(0)
	if l.slot != nil {
		base = l.slot.Segment
	}
	_, err = l.piece(base)
	return err
}

// piece is the segment with that base, made when there is none.
func (l *log) piece(base int64) (*piece, error) {
	i, ok := slices.BinarySearchFunc(l.pieces, base, func(s *piece, base int64) int {
		switch {
		case s.Base() < base:
			return -1
		case s.Base() > base:
			return 1
		}
		return 0
	})
	if ok {
		return l.pieces[i], nil
	}
	if s := l.strays[base]; s != nil {
		delete(l.strays, base)
		l.pieces = slices.Insert(l.pieces, i, s)
		return s, nil
	}
	s, err := segment.Create(l.p.store.cfg.FS, l.p.dir, base, l.p.segmentConfig())
	if err != nil {
		return nil, err
	}
	if err := l.r.pointed.forget(s.Path()); err != nil {
		return nil, err
	}
	l.pieces = slices.Insert(l.pieces, i, &piece{Segment: s})
	l.made = append(l.made, base)
	return l.pieces[i], nil
}

// lay says whether a segment was there before recovery made any.
func (l *log) lay(base int64) bool {
	return !slices.Contains(l.made, base) &&
		(l.strays[base] != nil || slices.ContainsFunc(l.pieces, func(s *piece) bool { return s.Base() == base }))
}

// stray takes the segments with bases between from and to out of the log: a truncation has cut them, or the journal
// rolls past them. Their files stay until the end, because the journal may yet point into them.
func (l *log) stray(from, to int64) {
	l.pieces = slices.DeleteFunc(l.pieces, func(s *piece) bool {
		if s.Base() <= from || s.Base() >= to {
			return false
		}
		l.strays[s.Base()] = s
		delete(l.ends, s)
		return true
	})
}
