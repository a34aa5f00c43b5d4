// Package health decides whether the watchdogs are fed: only while every part of the data path is seen to go on. A board
// that cannot acknowledge any more is reset; one that is full, or whose sensor is gone, is not.
package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// Watchdog resets the board, or has the service manager do it, when it is not fed for its timeout.
type Watchdog interface {
	// Name says which one it is, for messages.
	Name() string
	// Timeout is how long it waits for the next Feed; more than 0.
	Timeout() time.Duration
	// Feed puts the reset off for another timeout. It may block no longer than a system call to a device does.
	Feed() error
}

// Part is something that has to go on. Its methods are safe for concurrent use.
type Part struct {
	m     *Monitor
	name  string
	limit time.Duration
	last  time.Time // guarded by m.mu
}

// Beat says that the part goes on.
func (p *Part) Beat() {
	now := p.m.now()
	p.m.mu.Lock()
	p.last = now
	p.m.mu.Unlock()
}

// End takes the part out: nobody waits for it any more.
func (p *Part) End() {
	p.m.mu.Lock()
	p.m.parts = slices.DeleteFunc(p.m.parts, func(o *Part) bool { return o == p })
	p.m.mu.Unlock()
}

// Monitor knows the parts. Its methods are safe for concurrent use.
type Monitor struct {
	now func() time.Time
	log *slog.Logger

	mu    sync.Mutex
	parts []*Part
}

// New returns a monitor without parts, which is healthy. now is time.Now, or in a test whatever tells the time; its
// readings must carry the monotonic clock, so that setting the wall clock neither feeds nor bites.
func New(now func() time.Time, log *slog.Logger) *Monitor { return &Monitor{now: now, log: log} }

// Part adds a part that beats at least every limit; its first beat counts as given.
func (m *Monitor) Part(name string, limit time.Duration) *Part {
	p := &Part{m: m, name: name, limit: limit, last: m.now()}
	m.mu.Lock()
	m.parts = append(m.parts, p)
	m.mu.Unlock()
	return p
}

// ErrStill is what Check's error wraps: some part has not gone on for longer than its limit.
var ErrStill = errors.New("stands still")

// Check is nil while every part goes on; otherwise the error names each that does not, and for how long.
func (m *Monitor) Check() error {
	now := m.now()
	m.mu.Lock()
	defer m.mu.Unlock()
	var still []string
	for _, p := range m.parts {
		if age := now.Sub(p.last); age > p.limit {
			still = append(still, fmt.Sprintf("%s for %v (limit %v)", p.name, age.Round(time.Millisecond), p.limit))
		}
	}
	if len(still) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrStill, strings.Join(still, ", "))
}

// feeds is how often a watchdog is fed within its timeout: a feed that comes late by half of it is still in time.
const feeds = 4

// Feed feeds the watchdogs while Check is nil, until ctx ends; it returns at once where there are none. still is told why
// when the feeding stops, and nil when it goes on: in that order, but not everything where it takes its time. The disk it
// may want to write to is perhaps what stands still, so Feed goes on meanwhile, and when ctx has ended it waits for still no
// longer than half of the shortest timeout, in which nobody is fed. One that hangs beyond that ends with the process.
func (m *Monitor) Feed(ctx context.Context, dogs []Watchdog, still func(error)) {
	if len(dogs) == 0 {
		return
	}
	every := dogs[0].Timeout()
	for _, d := range dogs {
		every = min(every, d.Timeout())
	}
	tick := time.NewTicker(max(every/feeds, time.Millisecond))
	defer tick.Stop()
	hungry := false
	t := newTeller(still)
	defer t.end(every / 2)
	for {
		switch err := m.Check(); {
		case err == nil && hungry:
			hungry = false
			m.log.Warn("the watchdogs are fed again")
			t.tell(nil)
			fallthrough
		case err == nil:
			for _, d := range dogs {
				if err := d.Feed(); err != nil {
					m.log.Error("a watchdog cannot be fed", "watchdog", d.Name(), "err", err)
				}
			}
		case !hungry:
			hungry = true
			m.log.Error("the watchdogs are not fed: the board is reset", "err", err, "within", every)
			t.tell(err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// teller tells somebody who may be slow, or hang, the newest there is.
type teller struct {
	news  chan error // holds one
	ended chan struct{}
}

func newTeller(to func(error)) *teller {
	t := &teller{news: make(chan error, 1), ended: make(chan struct{})}
	go func() {
		defer close(t.ended)
		for err := range t.news {
			to(err)
		}
	}()
	return t
}

// tell never waits. Only its caller puts something in.
func (t *teller) tell(err error) {
	select {
	case <-t.news: // not wanted any more
	default:
	}
	t.news <- err
}

// end waits until the last was told, or for so long.
func (t *teller) end(most time.Duration) {
	close(t.news)
	late := time.NewTimer(most)
	defer late.Stop()
	select {
	case <-t.ended:
	case <-late.C:
	}
}
