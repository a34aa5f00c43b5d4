package broker

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"millrace/broker/canary"
	"millrace/broker/disk"
	"millrace/broker/partition"
	"millrace/platform/health"
)

// stillMax is how long the reaper and a listener may stand still, and how long one operation of the disk may take during a
// start or a stop, which take as long as they need while they go on: several times what a loaded board, or a card that
// erases, makes them wait.
const stillMax = 30 * time.Second

// vitals are what the board's life is told by.
type vitals struct {
	*health.Monitor
	canary *canary.Canary
	path   *health.Part // beats for the canary
	steps  atomic.Int64 // operations of the disk, where a watchdog waits
	// unwatched is the disk that counts none: to write down what stands still is no progress of it.
	unwatched disk.FS
	still     time.Duration
	gates     []*gate
	open      chan struct{} // closed by openGates
	ends      []func()      // of the listeners as parts
	// started ends the start as a part; stop ends the feeding. Both may be called again.
	started, stop func()
}

// openVitals begins to feed the watchdogs: from here on while the start makes progress.
func (b *Broker) openVitals(context.Context) error {
	b.vitals.open = make(chan struct{})
	b.vitals.still = cmp.Or(b.config.still, stillMax)
	b.vitals.Monitor = health.New(time.Now, b.log.With("component", "health")) // by the kernel's monotonic clock, whatever Now says
	b.vitals.canary = canary.New(canary.Config{
		Log: func(ctx context.Context) (*partition.Partition, error) {
			list, err := b.Ensure(ctx, canary.TopicName)
			if errors.Is(err, partition.ErrOffline) { // one bad file is no reason to reset a board that serves
				list, err = b.Ensure(ctx, canary.BesideName)
			}
			if err != nil {
				return nil, err
			}
			return list[0], nil
		},
		Interval: b.config.Settings.Watchdog.Interval, Alive: func() { b.vitals.path.Beat() },
		NowMS: func() int64 { return b.pulse.Now() }, Logger: b.log.With("component", "canary"),
	})
	if len(b.config.Watchdogs) == 0 {
		b.vitals.started, b.vitals.stop = func() {}, func() {}
		return nil
	}
	b.vitals.unwatched = b.config.FS
	b.config.FS = disk.Watch(b.config.FS, &b.vitals.steps)
	b.vitals.started = sync.OnceFunc(b.hasSteps("the start"))
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b.vitals.Feed(ctx, b.config.Watchdogs, b.tellHung)
	}()
	b.vitals.stop = func() {
		stop()
		<-ended
	}
	return nil
}

// tellHung writes down why the board is about to be reset, if the disk still takes it; nil: it is not, after all.
func (b *Broker) tellHung(why error) {
	b.why.Store(&why)
	b.changeLife(func(*lifeState) {})
}

// hasSteps adds a part that goes on while operations of the disk end; it returns how to take it out again.
func (b *Broker) hasSteps(name string) (end func()) {
	part := b.vitals.Part(name, b.vitals.still)
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(b.vitals.still / 30)
		defer tick.Stop()
		for last := b.vitals.steps.Load(); ; {
			select {
			case <-tick.C:
			case <-quit:
				return
			}
			if now := b.vitals.steps.Load(); now != last {
				last = now
				part.Beat()
			}
		}
	}()
	return func() {
		close(quit)
		<-ended
		part.End()
	}
}

// closing feeds the watchdogs while the stop makes progress; done ends the feeding.
func (b *Broker) closing() (done func()) {
	if b.vitals.Monitor == nil {
		return func() {}
	}
	b.vitals.started()
	for _, end := range b.vitals.ends {
		end()
	}
	b.vitals.ends = nil
	if len(b.config.Watchdogs) == 0 {
		return func() {}
	}
	end := b.hasSteps("the stop")
	return func() {
		end()
		b.vitals.stop()
	}
}

// openCanary has the running board looked after.
func (b *Broker) openCanary(context.Context) error {
	w := &b.config.Settings.Watchdog
	b.vitals.path = b.vitals.Part("the data path", w.Interval+w.Deadline)
	b.owns(func() error { b.vitals.path.End(); return nil })
	cancel := b.OnAdvance(b.vitals.canary.Advanced)
	b.owns(func() error { cancel(); return nil })
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b.vitals.canary.Run(ctx)
	}()
	b.owns(func() error {
		stop()
		<-ended
		return nil
	})
	reaper := b.vitals.Part("the reaper", b.vitals.still)
	b.owns(func() error { reaper.End(); return nil })
	b.every(b.vitals.still/3, reaper.Beat)
	b.vitals.started()
	return nil
}
