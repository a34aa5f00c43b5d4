package journal

import (
	"errors"
	"fmt"
)

// errDoubt is in the error of a commit that failed in the wal after it failed in the front: nobody can tell whether the
// front has it.
var errDoubt = errors.New("the front may have the frame")

// openFront decides what the front is good for, beside the wal that files has found. A front whose acknowledged frames
// cannot be told is refused; one that merely does not answer, and holds nothing, is done without.
func (j *Journal) openFront() error {
	o, f, c := &j.o, &j.files, &j.c.front
	c.id, c.after = f.id, o.FrontInterval
	err := o.FrontError
	if o.Front != nil {
		err = c.open(o.Front, f.id, f.next, false)
	}
	switch {
	case f.mark != 0 && f.mark != f.id:
		err = fmt.Errorf("frames of journal %016x were acknowledged from a front, this is %016x: %w", f.mark, f.id, ErrFront)
	case o.Front == nil && err == nil && f.mark != 0:
		err = fmt.Errorf("the last run acknowledged frames of journal %016x from a front, and there is none now: %w", f.mark, ErrFront)
	case err == nil:
	case errors.Is(err, errFrontBlank) && f.mark == 0: // a new one
		err = nil
	case errors.Is(err, ErrForeign) && f.mark == 0 && !c.foreign():
		err = nil // neither side has anything to lose: a cut in the first start leaves this, and a restored backup
	case f.mark == 0 && !errors.Is(err, ErrForeign) && !errors.Is(err, ErrInvalid):
		o.Logger.Error("journal: the front does not answer; nothing was in it, and commits go to the disk", "err", err)
		c.mem, err = nil, nil
	default:
		err = fmt.Errorf("front: %w: %w", ErrFront, err)
	}
	if err != nil && o.ForgetFront && !errors.Is(err, ErrInvalid) {
		o.Logger.Warn("journal: what the front holds is given up, as was asked for", "err", err)
		f.mark, err = 0, nil
		if *c = (front{id: f.id, after: o.FrontInterval}); o.Front != nil {
			err = c.open(o.Front, f.id, f.next, true)
		}
		if err != nil && !errors.Is(err, ErrInvalid) {
			o.Logger.Error("journal: the front does not answer; commits go to the disk", "err", err)
			c.mem, err = nil, nil
		}
	}
	if err != nil {
		return err
	}
	if err := f.refill(c.split(f.next)); err != nil {
		return err
	}
	f.walNext = f.next
	c.extend(&f.report, f.walNext, f.after)
	if c.mem != nil && !c.blank {
		f.next = max(f.next, c.header.drained+1) // a frame that is not above it would not count in the front
	}
	if n := len(c.pending); n > 0 {
		f.next = c.pending[n-1].index + 1
	}
	return nil
}

// startFront takes the front into use, once what was in it is in the wal.
func (j *Journal) startFront() error {
	c := &j.c.front
	if c.mem != nil {
		if err := c.begin(j.files.next - 1); err != nil {
			j.frontFailed(err)
		}
	}
	c.marked = c.mem != nil
	if c.marked {
		return j.files.setMark(j.id)
	}
	return j.files.setMark(0)
}

// frontFailed goes on without the front. What it holds is in memory too, and is drained from there.
func (j *Journal) frontFailed(err error) {
	c := &j.c.front
	j.stats.frontFailures.Add(1)
	j.o.Logger.Error("journal: the front failed; commits go to the disk from now on", "held", len(c.ends), "err", err)
	c.mem, c.want = nil, true
}

// store makes the frame durable: in the front where it fits, else in the wal, behind all that the front holds.
func (j *Journal) store() error {
	c := &j.c
	f := &c.front
	doubt := false
	if len(c.flush.syncs) == 0 && f.fits(len(c.sealed)) {
		err := f.put(c.sealed)
		if err == nil {
			j.held(1)
			return nil
		}
		j.frontFailed(err)
		doubt = true
	}
	c.frames = append(f.frames(c.frames[:0]), c.sealed)
	err := c.write()
	j.drained()
	if err != nil && doubt {
		return fmt.Errorf("%w: %w", errDoubt, err)
	}
	return err
}

// held counts a frame that was put into the front.
func (j *Journal) held(n int64) {
	f := &j.c.front
	j.stats.fronted.Add(n)
	j.stats.frontBytes.Store(int64(len(f.held)))
	if len(f.ends) == 1 {
		j.frontFirst.Store(j.c.tail.index + 1)
		f.timer = j.o.After(f.after)
	}
	if f.used > f.size/2 {
		f.want = true
	}
}

// drained lets go of the frames that are in the wal now, whatever became of the rest.
func (j *Journal) drained() {
	f := &j.c.front
	if n := len(f.ends); n > 0 {
		f.trim(min(n, int(j.c.tail.index+1-j.frontFirst.Load())))
		j.stats.frontBytes.Store(int64(len(f.held)))
		if len(f.ends) > 0 {
			j.frontFirst.Store(j.c.tail.index + 1)
			return
		}
		j.frontFirst.Store(0)
		j.stats.drains.Add(1)
		if f.mem != nil {
			if err := f.begin(j.c.tail.index); err != nil {
				j.frontFailed(err)
			}
		}
	}
	if f.mem == nil && f.marked { // the next start needs no front any more
		if err := j.files.setMark(0); err != nil {
			j.o.Logger.Warn("journal: the next start will ask for the front, which holds nothing", "err", err)
		}
		f.marked = false
	}
}

// drain writes what the front holds to the wal, in one write where no segment ends in between, and tells who waits for it.
// It returns false when the journal has ended.
func (j *Journal) drain() bool {
	c := &j.c
	c.front.want = false
	c.frames = c.front.frames(c.frames[:0])
	if len(c.frames) == 0 {
		j.tellDrained(nil)
		return true
	}
	err := c.tail.refresh()
	if err == nil {
		if err = c.tail.writeAll(c.frames); err == nil {
			err = c.tail.accept()
		}
	}
	j.drained()
	if err == nil {
		j.tellDrained(nil)
		return true
	}
	// Nobody is answered: all of it is still in the front and in memory.
	j.stats.failures.Add(1)
	j.o.Logger.Error("journal: the front could not be drained", "held", len(c.front.ends), "err", err)
	c.front.timer = j.o.After(c.front.after)
	j.tellDrained(err)
	if c.tail.restart() == nil {
		return true
	}
	return j.fail(err)
}

// drainTo returns when every frame up to index is in the wal.
func (j *Journal) drainTo(index uint64) error {
	if first := j.frontFirst.Load(); first == 0 || first > index {
		return nil
	}
	done := make(chan error, 1)
	j.mu.Lock()
	if j.ended {
		j.mu.Unlock()
		return ErrClosed
	}
	j.drains = append(j.drains, done)
	j.mu.Unlock()
	j.signal()
	return <-done
}

// tellDrained answers whoever waits for the front to be drained.
func (j *Journal) tellDrained(err error) {
	j.mu.Lock()
	drains := j.drains
	j.drains = nil
	j.mu.Unlock()
	for _, done := range drains {
		done <- err
	}
}
