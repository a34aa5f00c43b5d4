package feed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync/atomic"
	"time"

	"millrace/broker/record"
	"millrace/hw/sensor"
	"millrace/platform/pulse"
)

// line is one bus and its sensors. Everything in it belongs to its goroutine, except the channel.
type line struct {
	feed   *Feed
	name   string
	timer  *pulse.Timer
	due    chan struct{} // of one
	bus    Bus           // nil: not open
	probes []*probe
	// failures in a row on this bus, of any sensor.
	failures int
}

// probe is one sensor.
type probe struct {
	Source
	log  *slog.Logger
	dev  sensor.Sensor // nil: to be found (again)
	next time.Time
	// beat is the schedule: next is always beat or, after failures, later.
	beat     time.Time
	failed   time.Time // since when; zero: it works
	retry    time.Duration
	last     sensor.Reading // recorded last
	recorded bool
	inflight atomic.Int32
	lost     atomic.Bool // a record was refused: the next reading is recorded whatever the deadband says
}

func (l *line) add(s Source) {
	l.probes = append(l.probes, &probe{Source: s, log: l.feed.cfg.Logger.With("sensor", s.Name, "bus", s.Bus)})
}

func (l *line) start() {
	now := l.feed.cfg.Now()
	for _, p := range l.probes {
		p.beat, p.next = now, now
	}
	l.timer = l.feed.cfg.Pulse.NewTimer(func() {
		select {
		case l.due <- struct{}{}:
		default: // it is waiting already
		}
	})
	l.timer.Reset(0)
}

func (l *line) run(ctx context.Context) {
	defer l.close()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.due:
		}
		for _, p := range l.probes {
			if now := l.feed.cfg.Now(); ctx.Err() == nil && !now.Before(p.next) {
				l.visit(ctx, p)
			}
		}
		next := l.probes[0].next
		for _, p := range l.probes[1:] {
			if p.next.Before(next) {
				next = p.next
			}
		}
		l.timer.Reset(next.Sub(l.feed.cfg.Now()))
	}
}

// visit reads one sensor and sets when to come again.
func (l *line) visit(ctx context.Context, p *probe) {
	reading, err := l.sense(ctx, p)
	if ctx.Err() != nil {
		return
	}
	now := l.feed.cfg.Now()
	// Beats that were missed are left out: a slow bus must not fall further and further behind.
	p.beat = p.beat.Add((now.Sub(p.beat)/p.Every + 1) * p.Every)
	p.next = p.beat
	if err != nil {
		l.failure(p, now, err)
		return
	}
	l.failures = 0
	if !p.failed.IsZero() {
		p.log.Info("sensor works again", "after", now.Sub(p.failed).Round(time.Second), "chip", p.dev.String())
		p.failed, p.retry = time.Time{}, 0
	}
	l.record(ctx, p, l.feed.cfg.Stamp(), reading)
}

func (l *line) sense(ctx context.Context, p *probe) (sensor.Reading, error) {
	if l.bus == nil {
		bus, err := l.feed.cfg.OpenBus(l.name)
		if err != nil {
			return sensor.Reading{}, err
		}
		l.bus = bus
	}
	if p.dev == nil {
		dev, err := sensor.Open(p.Driver, l.bus, p.Address)
		if err != nil {
			return sensor.Reading{}, err
		}
		p.dev = dev
	}
	ctx, cancel := context.WithTimeout(ctx, senseMax)
	defer cancel()
	return p.dev.Sense(ctx)
}

// failure forgets the chip, because one that lost power has lost its settings too, and waits longer each time.
func (l *line) failure(p *probe, now time.Time, err error) {
	l.feed.failed.Add(1)
	p.dev = nil
	if p.failed.IsZero() {
		p.failed = now
		p.log.Warn("sensor fails; it is retried and reported when it works again", "error", err)
	}
	p.retry = min(max(2*p.retry, retryFirst), retryMax)
	if retry := now.Add(p.retry); retry.After(p.next) {
		p.next = retry
	}
	if l.failures++; l.bus == nil || l.failures%reopenAfter != 0 {
		return
	}
	for _, other := range l.probes {
		other.dev = nil
	}
	if err := l.bus.Reopen(); err != nil {
		// The failing sensors have been reported; this tells why they may stay so.
		p.log.Warn("bus cannot be opened again", "error", err)
	}
}

// record appends the reading, unless nothing has changed.
func (l *line) record(ctx context.Context, p *probe, now time.Time, r sensor.Reading) {
	f := l.feed
	f.read.Add(1)
	if lost := p.lost.Swap(false); !lost && p.recorded && p.steady(r) {
		f.steady.Add(1)
		return
	}
	if p.inflight.Load() >= inflightMax {
		f.skipped.Add(1)
		p.lost.Store(true)
		return
	}
	value, err := p.Format.encode(p.Name, now, r)
	if err != nil {
		f.refused.Add(1)
		p.log.Error("reading cannot be encoded", "error", err)
		return
	}
	p.last, p.recorded = r, true
	p.inflight.Add(1)
	f.inflight.Add(1)
	rec := record.Record{
		Timestamp: now.UnixMilli(), Key: []byte(p.Name), Value: value,
		Headers: []record.Header{{Key: "content-type", Value: []byte(p.Format.mediaType())}},
	}
	f.cfg.Append(ctx, p.Topic, rec, func(err error) {
		defer f.inflight.Done()
		p.inflight.Add(-1)
		if err == nil {
			f.stored.Add(1)
			return
		}
		f.refused.Add(1)
		if !p.lost.Swap(true) {
			p.log.Warn("reading is not recorded", "topic", p.Topic, "error", err)
		}
	})
}

// steady: no quantity with a deadband has left it since the last record, and the doubts are the same.
func (p *probe) steady(r sensor.Reading) bool {
	if len(p.Deadband) == 0 || r.Quality != p.last.Quality || r.Has != p.last.Has {
		return false
	}
	before := values(p.last)
	for i, v := range values(r) {
		if band, ok := p.Deadband[v.name]; ok && math.Abs(v.amount-before[i].amount) >= band {
			return false
		}
	}
	return true
}

func (l *line) close() {
	l.timer.Close()
	if l.bus == nil {
		return
	}
	for _, p := range l.probes {
		if p.dev != nil {
			if err := p.dev.Halt(); err != nil {
				l.feed.closed(fmt.Errorf("halt sensor %s: %w", p.Name, err))
			}
		}
	}
	l.feed.closed(errors.Join(l.bus.Close()))
}
