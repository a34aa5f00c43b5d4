// Package feed reads sensors on a schedule and appends what they say to topics, through the same append as everything
// else. Each bus has one goroutine; a transfer on it is bounded, a sensor that fails is retried more and more slowly and
// reported when that starts and when it ends, and a bus on which nothing works any more is opened anew.
package feed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"periph.io/x/conn/v3/i2c"

	"millrace/broker/record"
	"millrace/hw/sensor"
	"millrace/platform/pulse"
)

const (
	// inflightMax bounds the readings of one sensor that wait for their acknowledgement. With the disk stalled for
	// longer than that, readings are skipped and counted.
	inflightMax = 16
	// retryFirst and retryMax bound the wait before a failing sensor is tried again; it is never shorter than its own
	// schedule.
	retryFirst = time.Second
	retryMax   = 5 * time.Minute
	// reopenAfter failures on a bus without a success in between the bus is opened anew.
	reopenAfter = 3
	// senseMax bounds one reading, over the bound of each transfer: a chip measures for milliseconds.
	senseMax = 5 * time.Second
)

// Source is a sensor's place in a topic.
type Source struct {
	Name     string // the key of its records and the base name of its SenML, RFC 8428 4.5.1
	Driver   string // as sensor.Drivers has it
	Bus      string
	Address  uint16
	Every    time.Duration
	Topic    string
	Format   Format
	Deadband map[string]float64 // by quantity, in the units that are recorded; empty: every reading is recorded
}

// Bus is an open bus. *bus.Bus is the real one.
type Bus interface {
	i2c.Bus
	// Reopen closes and opens the bus: what can be done for one that hangs.
	Reopen() error
	Close() error
}

// Append puts one record into a topic; the partition goes by the key. done is called exactly once, after the record is
// durable or with what kept it from it, and must not block. The record's slices are not changed until then.
type Append func(ctx context.Context, topic string, r record.Record, done func(error))

// Config is what a Feed needs.
type Config struct {
	Sources []Source
	// OpenBus opens a bus by name, with bounded transfers.
	OpenBus func(name string) (Bus, error)
	Append  Append
	Pulse   *pulse.Pulse
	Now     func() time.Time
	Stamp   func() time.Time // what records are stamped with; nil: Now
	Logger  *slog.Logger     // nil: silent
}

// Stats counts, since the start.
type Stats struct {
	Read    int64 // readings taken
	Steady  int64 // of these, within the deadband and not recorded
	Stored  int64 // acknowledged
	Refused int64 // by the log
	Skipped int64 // because too many waited for their acknowledgement
	Failed  int64 // attempts to read that failed
}

// Feed runs the schedule. It is safe for concurrent use.
type Feed struct {
	cfg   Config
	stop  context.CancelFunc
	lines []*line
	done  sync.WaitGroup

	read, steady, stored, refused, skipped, failed atomic.Int64
	inflight                                       sync.WaitGroup

	mu     sync.Mutex
	errors []error // of closing
}

// senmlName is what a name may be, RFC 8428 4.5.1.
var senmlName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9:./_-]*$`)

// Start checks the sources and begins to read them. A bus or sensor that is not there now is no error: it is reported
// and tried again.
func Start(cfg Config) (*Feed, error) {
	if cfg.Stamp == nil {
		cfg.Stamp = cfg.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	f := &Feed{cfg: cfg}
	for _, s := range cfg.Sources {
		if err := check(s); err != nil {
			return nil, fmt.Errorf("sensor %q: %w", s.Name, err)
		}
		f.lineOf(s.Bus).add(s)
	}
	var ctx context.Context
	ctx, f.stop = context.WithCancel(context.Background())
	for _, l := range f.lines {
		l.start()
		f.done.Go(func() { l.run(ctx) })
	}
	return f, nil
}

func check(s Source) error {
	if !senmlName.MatchString(s.Name) {
		return errors.New("a name begins with a letter or digit and goes on with those or one of - : . / _")
	}
	if s.Every <= 0 {
		return fmt.Errorf("cannot be read every %v", s.Every)
	}
	return errors.Join(sensor.Known(s.Driver), s.Format.check())
}

func (f *Feed) lineOf(bus string) *line {
	at := slices.IndexFunc(f.lines, func(l *line) bool { return l.name == bus })
	if at < 0 {
		at = len(f.lines)
		f.lines = append(f.lines, &line{feed: f, name: bus, due: make(chan struct{}, 1)})
	}
	return f.lines[at]
}

// Stats is a snapshot of the counts.
func (f *Feed) Stats() Stats {
	return Stats{
		Read: f.read.Load(), Steady: f.steady.Load(), Stored: f.stored.Load(),
		Refused: f.refused.Load(), Skipped: f.skipped.Load(), Failed: f.failed.Load(),
	}
}

// Close stops reading, puts the chips to sleep, closes the buses and waits until every append has been answered, so the
// log must still be open.
func (f *Feed) Close() error {
	f.stop()
	f.done.Wait()
	f.inflight.Wait()
	return errors.Join(f.errors...)
}

func (f *Feed) closed(err error) {
	if err != nil {
		f.mu.Lock()
		f.errors = append(f.errors, err)
		f.mu.Unlock()
	}
}
