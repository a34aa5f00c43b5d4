package partition

import (
	"errors"

	"millrace/broker/record"
)

// Small entries of one log that follow each other are written together: a write of its own for each is nearly all that
// replay costs. The buffers are bounded for one log and, because a board may have a thousand, for all of them.
const (
	runMin  = 4 << 10
	runMax  = 256 << 10
	heldMax = 8 << 20
)

// gather writes one batch at the cursor, now or together with those that follow it.
func (l *log) gather(b record.Batch) error {
	if b.BaseOffset() != l.next || len(l.unwritten)+len(b) > runMax {
		if err := l.flush(); err != nil {
			return err
		}
	}
	if len(b) > runMax {
		return l.put(b)
	}
	if need := len(l.unwritten) + len(b); need > cap(l.unwritten) {
		size := max(runMin, 2*cap(l.unwritten))
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
		if cap(l.unwritten) == 0 {
			l.r.gathering = append(l.r.gathering, l)
		}
		l.r.held += size - cap(l.unwritten)
		l.unwritten = append(make([]byte, 0, size), l.unwritten...)
	}
	l.unwritten = append(l.unwritten, b...)
	return nil
}

// flush writes what was gathered. It comes before whatever reads the segment or moves the cursor. Where it fails the log
// is given up, and keep takes the entries out of the journal once more.
func (l *log) flush() error {
	if len(l.unwritten) == 0 {
		return nil
	}
	p := l.unwritten
	l.unwritten = p[:0]
	return errors.Join(l.at.Put(l.pos-int64(len(p)), p), l.r.pointed.forget(l.at.Path()))
}

// flush writes what every log has gathered, and lets the buffers go.
func (r *recovery) flush() {
	for _, l := range r.gathering {
		if err := l.flush(); !l.failed {
			l.giveUp(err)
		}
		l.unwritten = nil
	}
	clear(r.gathering)
	r.gathering, r.held = r.gathering[:0], 0
}
