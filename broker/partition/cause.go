package partition

import (
	"errors"
	"io/fs"
	"slices"

	"millrace/broker/journal"
	"millrace/broker/segment"
)

// maxCauses is how many changes of cause are remembered; what went before them went for unknown reasons.
const maxCauses = 8

// causes says why the records below the start went: from each entry's offset on for its cause, up to the next one's.
// What comes before the first went by retention, so that a log that nothing else was taken from has an empty list. The
// list is replaced, never changed.
type causes []segment.CauseStart

// moved is the list after the records from an old start on went for a reason. Saying so again, as recovery does, changes
// nothing.
func (c causes) moved(from int64, why segment.Cause) causes {
	c = c.cut(from)
	last := segment.Retention
	if len(c) > 0 {
		last = c[len(c)-1].Cause
	}
	if why == last {
		return c
	}
	c = append(slices.Clip(c), segment.CauseStart{Start: from, Cause: why})
	if len(c) > maxCauses {
		c = slices.Clone(c[1:])
		c[0] = segment.CauseStart{Cause: segment.Unknown}
	}
	return c
}

// cut is the list without what it says of offsets from at on.
func (c causes) cut(at int64) causes {
	for len(c) > 0 && c[len(c)-1].Start >= at {
		c = c[:len(c)-1]
	}
	return c
}

// Gone is a run of offsets below the start of a log, both ends included, and why they went.
type Gone struct {
	First, Last int64
	Cause       segment.Cause
}

// between lists why the offsets from first up to and not including next went.
func (c causes) between(first, next int64) (list []Gone) {
	at := 0
	for at < len(c) && c[at].Start <= first {
		at++
	}
	for first < next {
		g := Gone{First: first, Last: next - 1, Cause: segment.Retention}
		if at > 0 {
			g.Cause = c[at-1].Cause
		}
		if at < len(c) && c[at].Start < next {
			g.Last = c[at].Start - 1
		}
		list, first, at = append(list, g), g.Last+1, at+1
	}
	return list
}

// StartCause says why the start of the log moved last, in this life of the board or an earlier one. It is
// segment.Retention where it never moved.
func (p *Partition) StartCause() segment.Cause {
	p.state.Lock()
	defer p.state.Unlock()
	if len(p.causes) == 0 {
		return segment.Retention
	}
	return p.causes[len(p.causes)-1].Cause
}

// Gone tells why the offsets from from on that are below the start went, in order, in this life of the board or an
// earlier one. It is nil where none has gone, and bounded by maxCauses.
func (p *Partition) Gone(from int64) []Gone {
	p.state.Lock()
	known, start := p.causes, p.start
	p.state.Unlock()
	return known.between(max(from, 0), start)
}

// readCauses is what the partition's directory says of them.
func (l *log) readCauses() causes {
	p := l.p
	known, err := segment.ReadCauses(p.store.cfg.FS, p.dir)
	switch {
	case err == nil:
		p.savedCauses = known
		return known
	case errors.Is(err, fs.ErrNotExist):
		return nil
	}
	p.store.log.Warn("why the oldest records of a log went is not known any more", "partition", p.String(), "err", err)
	return causes{{Cause: segment.Unknown}}
}

// moveStart takes a start-moved entry in. Where the log started before is not known only where both slots are lost; what
// the directory says holds then.
func (f *fact) moveStart(e *journal.Entry) {
	if e.Base > f.start && (f.start >= 0 || f.made) {
		why := segment.Unknown
		if e.Length >= 0 && e.Length < int32(segment.Unknown) {
			why = segment.Cause(e.Length)
		}
		f.causes = f.causes.moved(max(f.start, 0), why)
	}
	f.start = max(f.start, e.Base)
}

// cutStart takes in that a truncation cut the log back to end.
func (f *fact) cutStart(end int64) {
	if end < f.start {
		f.start, f.causes = end, f.causes.cut(end)
	}
}

// causes is what there is to say of a log that starts at start, now that it is recovered.
func (l *log) causes(start int64) causes {
	f := l.r.fact(l.key())
	switch {
	case l.vanished && l.saved.Start > 0:
		return causes{{Cause: segment.Unknown}, {Start: l.saved.Start, Cause: segment.Damage}}
	case l.vanished:
		return causes{{Cause: segment.Damage}}
	case f.start >= 0 && start > f.start:
		return f.causes.moved(f.start, segment.Damage)
	}
	return f.causes.cut(start)
}
