package journal

import (
	"errors"
	"fmt"
	"time"
)

// fail answers a failed commit: cut, go on in a new file, and fail every group, in order, until nothing waits. The cut
// comes first, so that an error answer means that the group will not come back. Where the new file cannot be made the
// groups are not kept waiting: they fail, and the journal tries again until it can.
//
// It returns false when the journal was closed before it had a file again; the committer has then ended.
func (j *Journal) fail(cause error) bool {
	j.stats.failures.Add(1)
	j.o.Logger.Error("journal: a commit failed", "frame", j.c.tail.index+1, "err", cause)
	kind := ErrWrite
	if errors.Is(cause, errDoubt) {
		kind = ErrUnavailable
	}
	answer := fmt.Errorf("%w: %w", kind, cause)
	for wait := firstBackoff; ; wait = min(2*wait, lastBackoff) {
		err := j.c.tail.restart()
		if err == nil {
			j.reject(answer)
			j.o.Logger.Info("journal: goes on in a new file", "frame", j.c.tail.index+1)
			return true
		}
		answer = fmt.Errorf("%w: %w", ErrUnavailable, err)
		j.o.Logger.Warn("journal: no new file", "again", wait, "err", err)
		if !j.unavailable(wait, answer) {
			return false
		}
	}
}

// unavailable fails what is staged for a while, and returns false when the journal is closing.
func (j *Journal) unavailable(wait time.Duration, answer error) bool {
	timer := j.o.After(wait)
	for {
		j.reject(answer)
		j.mu.Lock()
		closing := j.closing
		j.mu.Unlock()
		if closing { // the file holds nothing that was not answered with an error, and no frame after it
			j.mu.Lock()
			j.ended, j.late = true, true
			j.mu.Unlock()
			j.drainLate()
			return false
		}
		select {
		case <-timer:
			return true
		case <-j.wake:
		}
	}
}

// reject answers the groups of the failed commit and then everything that waits, in order, until nothing does. At that
// moment every group staged so far has been answered, so whoever stages next has fallen back already.
func (j *Journal) reject(answer error) {
	c := &j.c
	j.answer(answer)
	j.tellDrained(answer)
	for !j.settle() {
		j.gather()
		for c.head < len(c.pending) {
			c.taken = c.pending[c.head : c.head+1]
			c.head++
			j.answer(answer)
		}
	}
}

// answerLate has what comes after the committer has ended answered in its order. Callers hold mu.
func (j *Journal) answerLate() {
	if !j.late {
		j.late = true
		go j.drainLate()
	}
}

// drainLate answers until nothing waits. Only one runs at a time: whoever starts it has set late.
func (j *Journal) drainLate() {
	for {
		j.mu.Lock()
		seals, queue := j.seals, j.queue
		j.seals, j.queue = nil, nil
		if len(seals) == 0 && len(queue) == 0 {
			j.late = false
			j.mu.Unlock()
			return
		}
		j.mu.Unlock()
		for _, g := range queue {
			j.mu.Lock()
			j.queued -= g.bytes
			j.mu.Unlock()
			g.done(ErrClosed)
		}
		for _, seal := range seals {
			seal()
		}
	}
}
