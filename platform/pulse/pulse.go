// Package pulse owns the timer of everything that waits for a deadline. It sleeps until the earliest one of what is
// registered with it, so an idle board really idles, and the rest is told the time. Timers of their own have the MQTT
// door, one for the deadlines of all its sessions, and waits that end by themselves: for a bus, an election, the next
// commit, a door that could not accept.
//
// Times are milliseconds since the pulse was made, by the monotonic clock: setting a board's wall clock moves no
// deadline.
package pulse

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Source is something with deadlines: a timing wheel behind its owner's lock, or a Timer of this package.
// Both methods are called from the pulse's goroutine.
type Source interface {
	// Next is the earliest time in milliseconds at which Advance has something to do; ok is false when nothing waits.
	Next() (atMS int64, ok bool)
	// Advance does what is due at nowMS. It must not block: everything else that is timed waits for it.
	Advance(nowMS int64)
}

// Pulse is the process's reaper of expired operations. It is safe for concurrent use.
type Pulse struct {
	now   func() time.Time
	start time.Time

	// armed is the time the goroutine will look again without being woken. While it looks it is never, so every wake
	// is passed on and a deadline added behind its back is not missed.
	armed atomic.Int64
	wake  chan struct{} // of one: a wake that is waiting stands for all
	quit  chan struct{}
	done  chan struct{}
	close sync.Once
	wakes atomic.Int64

	mu      sync.Mutex
	sources []Source
}

const (
	atOnce = math.MinInt64
	never  = math.MaxInt64
)

// New starts a pulse. now is time.Now, or in a test whatever tells the time; its readings must carry the monotonic
// clock, as time.Now's do. The caller closes the pulse.
func New(now func() time.Time) *Pulse {
	p := &Pulse{
		now:   now,
		start: now(),
		wake:  make(chan struct{}, 1),
		quit:  make(chan struct{}),
		done:  make(chan struct{}),
	}
	p.armed.Store(never)
	go p.run()
	return p
}

// Now is the time in milliseconds since the pulse was made. It never goes back.
func (p *Pulse) Now() int64 { return p.now().Sub(p.start).Milliseconds() }

// Register adds a source; its deadlines are kept from now on.
func (p *Pulse) Register(s Source) {
	p.mu.Lock()
	p.sources = append(p.sources, s)
	p.mu.Unlock()
	p.Wake(atOnce)
}

// Unregister removes a source. Its Advance may still be running when this returns.
func (p *Pulse) Unregister(s Source) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// A new slice, because the goroutine may be walking the old one.
	p.sources = slices.DeleteFunc(slices.Clone(p.sources), func(x Source) bool { return x == s })
}

// Wake tells the pulse that a source now has a deadline at atMS. It costs a load when the pulse would look by then
// anyway, never blocks, and may be called with the source's lock held.
func (p *Pulse) Wake(atMS int64) {
	if atMS >= p.armed.Load() {
		return
	}
	select {
	case p.wake <- struct{}{}:
	default: // one is waiting already, and it looks after we have added
	}
}

// Wakes counts how often the pulse has looked since it was made: an idle process makes few.
func (p *Pulse) Wakes() int64 { return p.wakes.Load() }

// Close stops the pulse and waits for a running Advance to end. Nothing is advanced afterwards. It may be called more
// than once.
func (p *Pulse) Close() {
	p.close.Do(func() { close(p.quit) })
	<-p.done
}

func (p *Pulse) run() {
	defer close(p.done)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		p.armed.Store(never)
		p.wakes.Add(1)
		next := p.look()
		// Sources that got a deadline since they were asked found armed at never and left a wake behind, which ends
		// the wait below at once.
		p.armed.Store(next)
		if next == never {
			timer.Stop()
		} else {
			timer.Reset(p.until(next))
		}
		select {
		case <-p.quit:
			return
		case <-p.wake:
		case <-timer.C:
		}
	}
}

// until is how long to sleep so that Now is at least atMS afterwards.
func (p *Pulse) until(atMS int64) time.Duration {
	const longest = 24 * time.Hour // far deadlines are looked at again, and nothing overflows
	elapsed := p.now().Sub(p.start)
	if atMS > (elapsed + longest).Milliseconds() {
		return longest
	}
	return max(time.Duration(atMS)*time.Millisecond-elapsed, 0)
}

// look advances every source that is due and returns the earliest deadline left.
func (p *Pulse) look() int64 {
	p.mu.Lock()
	sources := p.sources
	p.mu.Unlock()
	now, next := p.Now(), int64(never)
	for _, s := range sources {
		at, ok := s.Next()
		if ok && at <= now {
			s.Advance(now)
			at, ok = s.Next()
		}
		if ok {
			next = min(next, at)
		}
	}
	return next
}
