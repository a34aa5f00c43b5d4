package feed

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"periph.io/x/conn/v3/i2c"
	"periph.io/x/conn/v3/physic"

	"millrace/broker/record"
	"millrace/hw/bus"
	"millrace/hw/bus/sim"
	"millrace/platform/config"
	"millrace/platform/pulse"
)

// rig is a board with one simulated bus. Cleanup closes the feed and checks that every append was answered once.
type rig struct {
	*Feed
	t      *testing.T
	wire   *sim.Bus
	opened int

	mu      sync.Mutex
	air     physic.Env
	records []record.Record
	refuse  error
	hold    bool
	held    []func(error)
	log     strings.Builder
}

func (r *rig) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(p)
}

func (r *rig) lines() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.FieldsFunc(r.log.String(), func(c rune) bool { return c == '\n' })
}

func (r *rig) append(_ context.Context, topic string, rec record.Record, done func(error)) {
	if topic != "climate" {
		r.t.Errorf("appended to %q", topic)
	}
	r.mu.Lock()
	refuse := r.refuse
	switch {
	case r.hold:
		r.held = append(r.held, done)
		done = func(error) {}
	case refuse == nil:
		r.records = append(r.records, rec)
	}
	r.mu.Unlock()
	done(refuse)
}

func (r *rig) chip() sim.Device {
	return sim.NewBME280(func() physic.Env {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.air
	})
}

func (r *rig) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

// stored says how many records there are after so much time.
func (r *rig) stored(after time.Duration) int {
	time.Sleep(after) // of the bubble: moves the fake clock
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.records)
}

func start(t *testing.T, sources ...Source) *rig {
	t.Helper()
	r := &rig{t: t, wire: sim.New(map[uint16]sim.Device{})}
	r.air = physic.Env{Temperature: physic.ZeroCelsius + 20*physic.Kelvin, Humidity: 50 * physic.PercentRH, Pressure: 100000 * physic.Pascal}
	r.wire.Plug(0x76, r.chip())
	var buses bus.Registry
	buses.Add("I2C1", func() (i2c.BusCloser, error) {
		r.opened++
		return r.wire, nil
	})
	p := pulse.New(time.Now)
	feed, err := Start(Config{
		Sources: sources,
		OpenBus: func(name string) (Bus, error) { return buses.Open(name, 100*time.Millisecond) },
		Append:  r.append, Pulse: p, Now: time.Now, Logger: slog.New(slog.NewTextHandler(r, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	r.Feed = feed
	t.Cleanup(func() {
		if err := feed.Close(); err != nil {
			t.Error(err)
		}
		p.Close()
		s := feed.Stats()
		if s.Read != s.Steady+s.Stored+s.Refused+s.Skipped {
			t.Errorf("readings do not add up: %+v", s)
		}
	})
	return r
}

func cabinet(deadband map[string]float64) Source {
	return Source{
		Name: "cabinet", Driver: "bme280", Bus: "I2C1", Address: 0x76, Every: 10 * time.Second,
		Topic: "climate", Format: SenMLJSON, Deadband: deadband,
	}
}

func TestReadingsComeOnSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now().UnixMilli()
		r := start(t, cabinet(nil))
		if n := r.stored(35 * time.Second); n != 4 { // at 0, 10, 20 and 30 s
			t.Fatalf("%d records in 35 s", n)
		}
		for i, rec := range r.records {
			// A measurement takes some 10 ms, and the schedule does not drift by it.
			if late := rec.Timestamp - begin - int64(i)*10_000; late < 0 || late > 20 {
				t.Errorf("record %d is %d ms late", i, late)
			}
			if string(rec.Key) != "cabinet" || string(rec.Headers[0].Value) != "application/senml+json" {
				t.Errorf("record %d: %q %q", i, rec.Key, rec.Headers)
			}
		}
		want := `,"n":"temperature","u":"Cel","v":20},{"n":"humidity","u":"%RH","v":50.01},{"n":"pressure","u":"Pa","v":99999.9}`
		if first, second := string(r.records[0].Value), string(r.records[1].Value); !strings.Contains(second, want) ||
			!strings.Contains(first, `{"n":"quality","vs":"first"}`) || strings.Contains(second, "quality") {
			t.Errorf("recorded\n%s\n%s", first, second)
		}
	})
}

func TestADeadbandKeepsSmallChangesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, cabinet(map[string]float64{"temperature": 0.5}))
		for i, tt := range []struct {
			milliC physic.Temperature
			Pa     physic.Pressure
			want   int
		}{
			{20000, 100000, 1},
			{20000, 100000, 2}, // no longer the first measurement: the doubt is gone
			{20400, 100000, 2},
			{19600, 90000, 2}, // pressure has no deadband beside one that has
			{19400, 100000, 3},
			{19800, 100000, 3}, // against the last record, not the last reading
			{19900, 100000, 4},
		} {
			r.set(func() {
				r.air.Temperature = physic.ZeroCelsius + tt.milliC*physic.MilliKelvin
				r.air.Pressure = tt.Pa * physic.Pascal
			})
			after := 10 * time.Second
			if i == 0 {
				after = time.Second
			}
			if n := r.stored(after); n != tt.want {
				t.Errorf("step %d: %d records, want %d", i, n, tt.want)
			}
		}
	})
}

func TestAFailingSensorIsReportedOnceAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, cabinet(nil))
		r.stored(time.Second)
		r.wire.Plug(0x76, nil)
		if n := r.stored(time.Hour); n != 1 {
			t.Fatalf("%d records from a sensor that is gone", n)
		}
		// 10 s each at first, then every retryMax: an hour is about a dozen and a half attempts.
		if s := r.Stats(); s.Failed < 10 || s.Failed > 30 {
			t.Errorf("%d attempts in an hour", s.Failed)
		}
		if lines := r.lines(); len(lines) != 1 || !strings.Contains(lines[0], "sensor fails") || !strings.Contains(lines[0], "no device acknowledges") {
			t.Errorf("log: %q", lines)
		}
		if r.opened < 4 {
			t.Errorf("the bus was opened %d times", r.opened)
		}
		r.wire.Plug(0x76, r.chip())
		if n := r.stored(retryMax + time.Minute); n < 2 {
			t.Errorf("%d records after it came back", n)
		}
		if lines := r.lines(); len(lines) != 2 || !strings.Contains(lines[1], "sensor works again") {
			t.Errorf("log: %q", lines)
		}
		if n := r.stored(0); !strings.Contains(string(r.records[1].Value), "first") {
			t.Errorf("%d records; a chip that was set up again is not doubted: %s", n, r.records[1].Value)
		}
	})
}

func TestABrokenNeighbourKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := cabinet(nil)
		broken.Name, broken.Address, broken.Every = "roof", 0x77, time.Second
		r := start(t, broken, cabinet(nil))
		if n := r.stored(65 * time.Second); n != 7 {
			t.Errorf("%d records in 65 s", n)
		}
	})
}

func TestARefusedReadingIsMadeUpFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, cabinet(map[string]float64{"temperature": 0.5}))
		r.stored(15 * time.Second)
		r.set(func() { r.refuse = errors.New("disk full"); r.air.Temperature += physic.Kelvin })
		if n := r.stored(30 * time.Second); n != 2 {
			t.Errorf("%d records while the log refuses", n)
		}
		r.set(func() { r.refuse = nil })
		if n := r.stored(30 * time.Second); n != 3 { // the air is steady, but its change was never recorded
			t.Errorf("%d records after", n)
		}
		if s := r.Stats(); s.Refused != 3 {
			t.Errorf("stats: %+v", s)
		}
	})
}

func TestAStalledLogBoundsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, cabinet(nil))
		r.set(func() { r.hold = true })
		r.stored(time.Hour)
		r.set(func() {
			if len(r.held) > inflightMax {
				t.Errorf("%d readings wait", len(r.held))
			}
			for _, done := range r.held {
				done(nil)
			}
			r.hold, r.held = false, nil
		})
		if n := r.stored(time.Minute); n != 6 {
			t.Errorf("%d records in the minute after", n)
		}
	})
}

func TestSourcesAreChecked(t *testing.T) {
	for name, change := range map[string]func(*Source){
		"name":   func(s *Source) { s.Name = "räume/1" },
		"driver": func(s *Source) { s.Driver = "x" },
		"every":  func(s *Source) { s.Every = 0 },
		"format": func(s *Source) { s.Format = "xml" },
	} {
		s := cabinet(nil)
		change(&s)
		if f, err := Start(Config{Sources: []Source{s}}); err == nil {
			t.Errorf("a wrong %s was taken: %v", name, f)
		}
	}
	for _, f := range config.Formats {
		if err := Format(f).check(); err != nil {
			t.Errorf("the configuration allows what cannot be written: %v", err)
		}
	}
	if len(config.Formats) != len(mediaTypes) || slices.Contains(config.Formats, "") {
		t.Errorf("the configuration knows %v", config.Formats)
	}
}
