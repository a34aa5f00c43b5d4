package broker

import (
	"context"
	"errors"
	"math"
	"runtime/debug"
	"strings"
	"time"

	"millrace/broker/boot"
	"millrace/hw/clock"
	"millrace/platform/metrics"
)

const (
	// rtcEvery is how often a real-time clock is read that has told the time, and nobody better does.
	rtcEvery = 10 * time.Minute
	// rtcSetEvery is how often it is set where NTP tells the time.
	rtcSetEvery = 24 * time.Hour
	// rtcOff is how far off it has to be for that: it has whole seconds.
	rtcOff = 2 * time.Second
)

// keeper asks who can tell the time. After Open only its own goroutine uses it.
type keeper struct {
	b *Broker
	// ntp says whether the kernel's clock is disciplined; rtc runs fn with the real-time clock, nil where there is none.
	ntp func() bool
	rtc func(fn func(clock.RTC) error) error

	readAt, setAt time.Duration // of the pulse; 0: not yet
	told          bool          // the real-time clock told the time when it was last read
	complained    string        // what was logged last
}

// openClock finds out what time it is, before anything is dated.
func (b *Broker) openClock(context.Context) error {
	s := b.config.Settings
	if b.config.Wall == nil {
		b.config.Wall = b.config.Now
	}
	start := b.config.Now()
	elapsed := func() time.Duration { return b.config.Now().Sub(start) }
	b.keeper = &keeper{b: b, ntp: b.config.Disciplined}
	if b.keeper.ntp == nil {
		b.keeper.ntp = b.keeper.kernel
	}
	switch rtc := s.Clock.RTC; {
	case strings.HasPrefix(rtc, "/"):
		b.keeper.rtc = func(fn func(clock.RTC) error) error { return fn(clock.NewDevice(rtc)) }
	case rtc != "":
		b.keeper.rtc = func(fn func(clock.RTC) error) error {
			bus, err := b.buses.Open(s.Clock.RTCBus, busTimeout(s.Buses, s.Clock.RTCBus))
			if err != nil {
				return err
			}
			return errors.Join(fn(clock.NewDS3231(bus)), bus.Close())
		}
	}
	first := b.keeper.read(0, false)
	var setWall func(time.Time) error
	if s.Clock.SetSystemTime {
		setWall = b.config.setWall
	}
	b.clock = boot.Open(boot.Config{
		FS: b.config.FS, Dir: b.dir(), Wall: b.config.Wall, SetWall: setWall, Elapsed: elapsed, Running: running(elapsed), Build: built(),
		Logger: b.log.With("component", "clock"),
	}, first)
	return nil
}

// running is a clock that goes on while the board sleeps, or the other where there is none.
func running(elapsed func() time.Duration) func() time.Duration {
	if _, err := clock.Running(); err != nil {
		return elapsed
	}
	return func() time.Duration {
		t, err := clock.Running()
		if err != nil { // it was there when we began
			return elapsed()
		}
		return t
	}
}

// built is when the program's source was last changed, as far as it knows.
func built() time.Time {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return time.Time{}
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			if t, err := time.Parse(time.RFC3339, s.Value); err == nil {
				return t
			}
		}
	}
	return time.Time{}
}

// kernel asks whether the kernel's clock is disciplined, unless the configuration says not to believe it.
func (k *keeper) kernel() bool {
	if !k.b.config.Settings.Clock.NTP {
		return false
	}
	state, err := clock.ReadKernel()
	if err != nil {
		k.complain("the kernel does not say whether its clock is disciplined", err)
	}
	return err == nil && state.Synced
}

// complain logs what is not the same as the last time.
func (k *keeper) complain(what string, err error) {
	if text := what + err.Error(); k.complained != text {
		k.complained = text
		k.b.log.Warn(what, "err", err)
	}
}

// read asks the best source there is. known says that the time is: then a real-time clock is asked seldom.
func (k *keeper) read(at time.Duration, known bool) boot.Reading {
	switch {
	case k.ntp():
		return boot.Reading{Source: boot.NTP}
	case k.rtc == nil:
		return boot.Reading{}
	case known && k.told && at-k.readAt < rtcEvery:
		return boot.Reading{Source: boot.RTC, Time: k.b.clock.Now()}
	}
	r := boot.Reading{Source: boot.RTC}
	err := k.rtc(func(rtc clock.RTC) (err error) {
		r.Time, err = rtc.Read()
		return err
	})
	k.readAt, k.told = at, err == nil
	if err != nil {
		k.complain("the real-time clock does not tell the time", err)
		return boot.Reading{}
	}
	return r
}

// look is what happens every tick.
func (k *keeper) look() {
	at := time.Duration(k.b.pulse.Now()) * time.Millisecond
	r := k.read(at, k.b.clock.Known())
	// What the disk refuses the clock has logged, and is tried again.
	if err := k.b.clock.Observe(r); err != nil || r.Source != boot.NTP || k.rtc == nil || !k.b.config.Settings.Clock.SetRTC {
		return
	}
	if k.setAt != 0 && at-k.setAt < rtcSetEvery {
		return
	}
	k.setAt = max(at, 1)
	err := k.rtc(func(rtc clock.RTC) error {
		is, err := rtc.Read()
		now := k.b.clock.Now()
		if off := is.Sub(now).Abs(); err == nil && off < rtcOff {
			return nil
		}
		k.b.log.Info("the real-time clock is set", "clock", rtc.String(), "was", is, "to", now.UTC())
		return rtc.Set(now)
	})
	if err != nil {
		k.complain("the real-time clock cannot be set", err)
	}
}

// beginClock lets the clock know the partitions, and starts who looks after it.
func (b *Broker) beginClock(context.Context) error {
	if err := b.clock.Begin(b.ends); err != nil {
		b.log.Error("what is stamped in this life may not be put right in the next", "err", err)
	}
	wake, ended := make(chan struct{}, 1), make(chan struct{})
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		defer close(ended)
		for {
			select {
			case <-ctx.Done():
				return
			case <-wake:
				b.keeper.look()
			}
		}
	}()
	b.owns(func() error {
		stop()
		<-ended
		if err := b.clock.Close(); err != nil {
			b.log.Error("what the time has come to is not written; the next start goes by what was written before", "err", err)
		}
		return nil
	})
	b.every(tick, func() {
		select {
		case wake <- struct{}{}:
		default: // it is still looking
		}
	})
	return nil
}

// ends are the partitions as the boot table has them.
func (b *Broker) ends() []boot.Range {
	var list []boot.Range
	for p := range b.store.All() {
		list = append(list, boot.Range{
			Place: boot.Place{Topic: p.TopicID(), Partition: p.Index()}, First: p.Start(), End: p.End(),
		})
	}
	for _, o := range b.store.OfflinePartitions() {
		list = append(list, boot.Range{Place: boot.Place{Topic: o.Topic.ID, Partition: o.Index}, End: math.MaxInt64})
	}
	return list
}

// checkpointed is called when something was written anyway.
func (b *Broker) checkpointed() {
	// The clock has logged what the disk refuses. The first checkpoints come before the clock has begun.
	_ = b.clock.Save()
}

// Export is the stamp with which a record is to leave the board, and whether its time is not known; see boot.View.
func (b *Broker) Export(topic [16]byte, index int32, offset, stampMS int64) (atMS int64, unsure bool) {
	return b.clock.View().Export(boot.Place{Topic: topic, Partition: index}, offset, stampMS)
}

// clockFigures are what the board makes of the time.
func (b *Broker) clockFigures(m *metrics.Writer) {
	f := b.clock.Figures()
	for _, s := range []boot.Source{boot.None, boot.RTC, boot.NTP} {
		m.Gauge("millrace_clock_source", "1 for who vouches for the time now.", one(f.Source == s), "source", s.String())
	}
	m.Gauge("millrace_clock_known", "Whether the time of this life is known.", one(f.Known))
	m.Gauge("millrace_clock_correction_seconds", "What the stamps of this life are put right by when they are exported.", f.Correction.Seconds())
	m.Gauge("millrace_clock_eras", "Entries of the boot table.", float64(f.Eras))
	m.Gauge("millrace_clock_floor_seconds", "The time, since 1970, that this board has reached for sure, as it is on flash.", float64(f.Floor.UnixMilli())/1000)
	m.Counter("millrace_clock_steps_total", "Jumps of the wall clock since the start.", float64(f.Steps))
}
