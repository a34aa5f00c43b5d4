package partition

import (
	"errors"

	"millrace/broker/journal"
	"millrace/broker/record"
)

// Small entries of one log that follow each other are written together: a write of its own for each is nearly all that
// replay costs. The buffers are bounded for one log and, because a board may have a thousand, for all of them.
const (
	runMin  = 4 << 10
	runMax  = 256 << 10
	heldMax = 8 << 20
)

// unwritten is what replay has of a log and has not written yet: whole batches that end at the cursor.
type unwritten struct {
	bytes []byte
	base  int64  // offset of the first record
	frame uint64 // the journal's, of the first batch
}

// gather writes one batch at the cursor, now or together with those that follow it.
func (l *log) gather(b record.Batch) error {
	g := &l.unwritten
	if b.BaseOffset() != l.next || len(g.bytes)+len(b) > runMax {
		if err := l.flush(); err != nil {
			return err
		}
	}
	if len(b) > runMax {
		return l.put(b)
	}
	if need := len(g.bytes) + len(b); need > cap(g.bytes) {
		size := max(runMin, 2*cap(g.bytes))
		for size < need {
			size *= 2
		}
		if l.r.held+size > heldMax {
			if err := l.flush(); err != nil {
				return err
			}
			l.r.flush()
			size = max(runMin, len(b))
		}
		if cap(g.bytes) == 0 {
			l.r.gathering = append(l.r.gathering, l)
		}
		l.r.held += size - cap(g.bytes)
		g.bytes = append(make([]byte, 0, size), g.bytes...)
	}
	if len(g.bytes) == 0 {
		g.base, g.frame = b.BaseOffset(), l.r.frame
	}
	g.bytes = append(g.bytes, b...)
	return nil
}

// flush writes what was gathered. It comes before whatever reads the segment or moves the cursor. Where it fails the
// bytes are kept with those that nobody knows: the log is given up, and the journal will forget them.
func (l *log) flush() error {
	g := &l.unwritten
	if len(g.bytes) == 0 {
		return nil
	}
	p := g.bytes
	g.bytes = p[:0]
	from := l.pos - int64(len(p))
	err := l.at.Put(from, p)
	if err != nil {
		l.r.report.Quarantined++
		l.r.broken = errors.Join(l.r.broken, l.r.quarantine(g.frame, &journal.Entry{
			Kind: journal.Append, Topic: l.p.topic.ID, Partition: l.p.index,
			Segment: l.at.Base(), Position: from, Base: g.base, Length: int32(len(p)), Bytes: p,
		}))
	}
	return err
}

// flush writes what every log has gathered, and lets the buffers go.
func (r *recovery) flush() {
	for _, l := range r.gathering {
		if err := l.flush(); !l.failed {
			l.giveUp(err)
		}
		l.unwritten.bytes = nil
	}
	clear(r.gathering)
	r.gathering, r.held = r.gathering[:0], 0
}
