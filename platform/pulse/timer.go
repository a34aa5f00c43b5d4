package pulse

import (
	"sync/atomic"
	"time"
)

// Timer calls a function when its time has come. Make one for each thing that is timed, when that thing is built: the
// pulse looks at every timer each time it wakes. Many deadlines belong in a wheel. It is safe for concurrent use.
type Timer struct {
	pulse *Pulse
	fn    func()
	at    atomic.Int64 // never while the timer is stopped
}

// NewTimer makes a stopped timer. fn is called from the pulse's goroutine and must not block; it may Reset the timer,
// and then is called again: so one timer also does what is periodic. The owner closes the timer.
func (p *Pulse) NewTimer(fn func()) *Timer {
	t := &Timer{pulse: p, fn: fn}
	t.at.Store(never)
	p.Register(t)
	return t
}

// Reset sets the timer to go off once, d from now, whatever it was set to before.
func (t *Timer) Reset(d time.Duration) {
	at := (t.pulse.now().Sub(t.pulse.start) + max(d, 0) + time.Millisecond - 1).Milliseconds() // never early
	t.at.Store(at)
	t.pulse.Wake(at)
}

// Stop keeps the timer from going off and reports whether it was set. A call of fn may still be running.
func (t *Timer) Stop() bool { return t.at.Swap(never) != never }

// Close stops the timer for good and frees it.
func (t *Timer) Close() {
	t.Stop()
	t.pulse.Unregister(t)
}

// Next implements Source.
func (t *Timer) Next() (atMS int64, ok bool) {
	at := t.at.Load()
	return at, at != never
}

// Advance implements Source.
func (t *Timer) Advance(nowMS int64) {
	// A timer that was stopped or set again meanwhile fails one of the two.
	if at := t.at.Load(); at <= nowMS && t.at.CompareAndSwap(at, never) {
		t.fn()
	}
}
