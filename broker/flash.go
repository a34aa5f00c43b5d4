package broker

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	"millrace/broker/journal"
	"millrace/broker/wear"
	"millrace/hw/storage"
	"millrace/platform/config"
)

// flash keeps what is written in a day within the budget: it sets the journal's commit interval. Its measure is what the
// kernel has written to the data directory's device, whoever wrote it; where that cannot be read, the bytes that the
// journal and the segments were given, which is less than what reaches the device.
type flash struct {
	log     *slog.Logger
	journal *journal.Journal

	mu       sync.Mutex
	governor *wear.Governor
	device   *storage.Flash // nil: the broker's own bytes are the measure
	written  int64          // the counter at the last step
	from     int64          // at the first
	interval time.Duration
	strained bool
}

// The measures, as log and metrics name them.
const (
	measureDevice = "device"
	measureOwn    = "broker"
)

// openFlash takes the commit interval over.
func (b *Broker) openFlash() {
	s := b.config.Settings
	f := &flash{log: b.log.With("component", "flash"), journal: b.journal, governor: wear.NewGovernor(flashBudget(s))}
	f.interval = f.governor.Interval()
	device, err := storage.FlashOf(cmp.Or(b.config.sys, storage.Sys), b.dir())
	f.device = device
	level := slog.LevelInfo
	if s.Flash.WriteBudget == 0 {
		level = slog.LevelDebug
	}
	if f.device != nil {
		f.log.Log(context.Background(), level, "bytes written are counted by the device", "device", f.device.String())
	} else {
		f.log.Log(context.Background(), level, "the device tells no bytes written; the broker's own are counted, which are fewer", "err", err)
	}
	f.from = f.read()
	f.written = f.from
	f.governor.Step(f.elapsed(b.pulse.Now()), f.written)
	b.flash = f
	b.openLifetime(device)
}

func (*flash) elapsed(nowMS int64) time.Duration { return time.Duration(nowMS) * time.Millisecond }

func flashBudget(s *config.Config) wear.Config {
	return wear.Config{Budget: s.Flash.WriteBudget, Min: s.Journal.CommitInterval, Max: s.Flash.CommitIntervalMax}
}

// configure puts a new budget in force.
func (f *flash) configure(s *config.Config) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.governor.Configure(flashBudget(s))
	f.apply()
}

// step is called on the board's slow tick. It does not block on the disk: what it reads is the kernel's memory.
func (f *flash) step(nowMS int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.written = f.read()
	f.governor.Step(f.elapsed(nowMS), f.written)
	f.apply()
	if is := f.governor.Strained(); is != f.strained {
		f.strained = is
		if is {
			f.log.Warn("more is written than write.budget allows, with the longest commit interval",
				"bytes/day", f.governor.PerDay(), "spent", f.governor.Spent(), "interval", f.interval)
		} else {
			f.log.Info("write.budget can be kept again", "bytes/day", f.governor.PerDay())
		}
	}
}

// apply gives the journal the interval. Callers hold mu.
func (f *flash) apply() {
	is := f.governor.Interval()
	if is == f.interval {
		return
	}
	f.log.Debug("commit interval", "from", f.interval, "to", is, "bytes/day", f.governor.PerDay())
	f.interval = is
	f.journal.SetInterval(is)
}

// read is the counter of the measure in use. A device that no longer tells is done without.
func (f *flash) read() int64 {
	if f.device != nil {
		n, err := f.device.Written()
		if err == nil {
			return n
		}
		f.log.Warn("the device tells no bytes written any more; the broker's own are counted from now on", "err", err)
		f.device = nil
		own := f.own()
		f.governor.Rebase(own)
		f.from = own - (f.written - f.from)
	}
	return f.own()
}

// own is what the journal and the segments were given since the start.
func (f *flash) own() int64 {
	s := f.journal.Stats()
	return s.FrameBytes + s.ZeroBytes + s.InlineBytes + s.PointedBytes
}

// figures are what the metrics show.
type figures struct {
	measure                string
	written, perDay, spent int64
	budget                 int64
	interval               time.Duration
}

func (f *flash) figures() figures {
	f.mu.Lock()
	defer f.mu.Unlock()
	measure := measureOwn
	if f.device != nil {
		measure = measureDevice
	}
	return figures{
		measure: measure, written: f.written - f.from, perDay: f.governor.PerDay(), spent: f.governor.Spent(),
		budget: f.governor.Budget(), interval: f.interval,
	}
}
