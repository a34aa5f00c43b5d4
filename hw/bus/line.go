package bus

import "time"

// line is one opening of a bus, with the goroutine that transfers on it: a transfer that hangs in the kernel cannot be
// called back, so nobody else waits for it. A job owns its buffers: after a timeout the kernel may still write to them.
// Whoever has the bus's mutex may call transfer and close.
type line struct {
	jobs chan func() error
	done chan error // capacity 1: the goroutine never waits for somebody who gave up
	over chan error // the result of closing the bus
	late bool       // a transfer was given up on and has not ended
}

func newLine(closeBus func() error) *line {
	l := &line{jobs: make(chan func() error), done: make(chan error, 1), over: make(chan error, 1)}
	go l.run(closeBus)
	return l
}

func (l *line) run(closeBus func() error) {
	for job := range l.jobs {
		l.done <- job()
	}
	l.over <- closeBus()
}

// transfer runs job and returns its error, or ErrTimeout when it takes too long.
func (l *line) transfer(job func() error, timeout time.Duration) error {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	if l.late {
		select {
		case <-l.done: // of a transfer nobody waits for
			l.late = false
		case <-timer.C:
			return ErrTimeout
		}
	}
	l.jobs <- job
	select {
	case err := <-l.done:
		return err
	case <-timer.C:
		l.late = true
		return ErrTimeout
	}
}

// close ends the goroutine and returns what closing the bus did. It waits for a transfer that hangs.
func (l *line) close() error {
	close(l.jobs)
	return <-l.over
}
