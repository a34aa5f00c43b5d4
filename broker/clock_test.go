package broker

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"periph.io/x/conn/v3/i2c"

	"millrace/bridge/mqtt/packet"
	"millrace/broker/boot"
	"millrace/broker/group"
	"millrace/broker/partition"
	"millrace/broker/record"
	"millrace/hw/bus"
	"millrace/hw/bus/sim"
	"millrace/hw/clock"
	"millrace/platform/config"
)

const (
	aDay  = 24 * time.Hour
	aYear = 365 * aDay
)

// place is where a board stands: time passes there, and its clock is set.
type place struct {
	t      *testing.T
	dir    string
	buses  bus.Registry
	passed atomic.Int64 // beyond what really did
	wall   atomic.Int64 // the system's clock, ahead of the right time
	ntp    atomic.Bool
	change func(*config.Config)
}

func (p *place) now() time.Time { return time.Now().Add(time.Duration(p.passed.Load())) }

// start begins a life with a system's clock that is so far ahead.
func (p *place) start(wall time.Duration, ntp bool) *Broker {
	p.t.Helper()
	p.wall.Store(int64(wall))
	p.ntp.Store(ntp)
	s := config.Default()
	s.Broker.LogDirs, s.Broker.ClusterAlias = p.dir, "test"
	s.Broker.Listeners, s.MQTT.Listeners, s.HTTP.Listener = []string{"PLAINTEXT://127.0.0.1:0"}, []string{"tcp://127.0.0.1:0"}, ""
	s.Broker.OffsetsRetention, s.Broker.ProducerExpiration = aDay, aDay
	s.Topics[0].Config["retention.ms"] = fmt.Sprint(aDay.Milliseconds())
	if p.change != nil {
		p.change(s)
	}
	b, err := Open(p.t.Context(), Config{
		Settings: s, Now: p.now, Wall: func() time.Time { return p.now().Add(time.Duration(p.wall.Load())) }, Disciplined: p.ntp.Load, Buses: &p.buses,
		setWall: func(to time.Time) error {
			p.wall.Store(int64(to.Sub(p.now())))
			return nil
		},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if err := b.Close(); err != nil {
			p.t.Error(err)
		}
	})
	return b
}

// stop ends a life. Its files bear the dates of its system's clock.
func (p *place) stop(b *Broker) {
	p.t.Helper()
	if err := b.Close(); err != nil {
		p.t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(p.dir, "topics", "*", "*.log"))
	if err != nil {
		p.t.Fatal(err)
	}
	date := p.now().Add(time.Duration(p.wall.Load()))
	for _, name := range files {
		if err := os.Chtimes(name, date, date); err != nil {
			p.t.Fatal(err)
		}
	}
}

// has is what is left of what fill has made, each by its name.
func (p *place) has(b *Broker) (left []string) {
	p.t.Helper()
	b.store.Tick(b.clock.AgeMS())
	for q := range b.store.All() {
		if _, err := q.Retain(b.clock.AgeMS()); err != nil {
			p.t.Fatal(err)
		}
		if q.Topic() != "mqtt" || q.Index() != 0 {
			continue
		}
		if q.Start() == 0 {
			left = append(left, "records")
		}
		if q.ProducerCount() == 1 {
			left = append(left, "producer")
		}
	}
	list, err := b.groups.Offsets("g", nil)
	for errors.Is(err, group.ErrLoading) {
		runtime.Gosched()
		list, err = b.groups.Offsets("g", nil)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	if len(list) == 1 {
		left = append(left, "offsets")
	}
	client, present := p.away(b, false)
	if present {
		left = append(left, "session")
		client.send(&packet.Publish{Topic: "x/end"})
		for {
			m, ok := client.next().(*packet.Publish)
			if !ok {
				p.t.Fatal("the connection has ended")
			}
			if m.Topic == "x/end" {
				break
			}
			left = append(left, "message")
		}
	}
	return left
}

// away connects the client whose session lasts a day, and tells whether there was one.
func (p *place) away(b *Broker, clean bool) (client *mqttPeer, present bool) {
	p.t.Helper()
	conn, err := net.Dial("tcp", b.Addresses().MQTT[0])
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { conn.Close() })
	client = &mqttPeer{t: p.t, conn: conn, v: packet.V5}
	client.send(&packet.Connect{
		Version: packet.V5, ClientID: "away", CleanStart: clean,
		Properties: &packet.Properties{Present: packet.Of(packet.SessionExpiry), SessionExpiry: 86400},
	})
	c, ok := client.next().(*packet.Connack)
	if !ok || c.Reason.Failed() {
		p.t.Fatalf("CONNACK is %+v", c)
	}
	return client, c.SessionPresent
}

// fill leaves a session with a message for it, which expires in a day, and a record of an idempotent producer in the same
// partition, and offsets of a group.
func (p *place) fill(b *Broker) {
	p.t.Helper()
	client, _ := p.away(b, true)
	client.send(&packet.Subscribe{ID: 1, Filters: []packet.Subscription{{Filter: "x/#", QoS: 1}}})
	if _, ok := client.next().(*packet.Suback); !ok {
		p.t.Fatal("no SUBACK")
	}
	client.send(&packet.Disconnect{})
	if rest := client.next(); rest != nil {
		p.t.Fatalf("after DISCONNECT: %v", rest)
	}
	other := dialMQTT(p.t, b, packet.V5, "other")
	other.send(&packet.Publish{
		Topic: "x/1", QoS: 1, ID: 1, Properties: &packet.Properties{Present: packet.Of(packet.MessageExpiry), MessageExpiry: 86400},
	})
	if ack, ok := other.next().(*packet.Ack); !ok || ack.Reason.Failed() {
		p.t.Fatalf("PUBACK is %+v", ack)
	}
	list, err := b.Ensure(p.t.Context(), "mqtt")
	if err != nil {
		p.t.Fatal(err)
	}
	batch := record.NewBuilder(record.None)
	batch.Add(p.now().UnixMilli(), []byte("k"), []byte("v"), nil)
	raw, err := batch.Build()
	if err != nil {
		p.t.Fatal(err)
	}
	raw.SetProducer(5, 0, 0, false)
	done := make(chan partition.AppendResult, 1)
	list[0].Append(raw, partition.AppendOptions{Epoch: -1}, func(r partition.AppendResult) { done <- r })
	if r := <-done; r.Err != nil {
		p.t.Fatal(r.Err)
	}
	if _, err := b.groups.Find(p.t.Context(), "g"); err != nil {
		p.t.Fatal(err)
	}
	commit := group.Commit{Group: "g", Generation: -1, Offsets: []group.Committed{{Place: group.Place{Topic: "mqtt"}, Offset: 1, Epoch: -1, RetainMS: -1}}}
	for loading := true; loading; runtime.Gosched() {
		committed := make(chan error, 1)
		b.groups.Commit(commit, func(err error) { committed <- err })
		err := <-committed
		if loading = errors.Is(err, group.ErrLoading); err != nil && !loading {
			p.t.Fatal(err)
		}
	}
}

// Nothing that is kept for a day goes because a clock says that it is another year, in this life or in the next.
func TestAJumpOfTheClockExpiresNothing(t *testing.T) {
	all := "records producer offsets session message"
	for _, tt := range []struct {
		name string
		wall time.Duration // of the first life
		ntp  bool
		then func(p *place, b *Broker) *Broker
	}{
		{"nothing happens", 0, true, func(_ *place, b *Broker) *Broker { return b }},
		{"set ten years ahead", 0, true, func(p *place, b *Broker) *Broker { p.set(b, 10*aYear, false); return b }},
		{"set ten years back", 0, true, func(p *place, b *Broker) *Broker { p.set(b, -10*aYear, false); return b }},
		{"set ten years ahead, and nobody ever knew better", 0, false, func(p *place, b *Broker) *Broker { p.set(b, 10*aYear, false); return b }},
		{"ten years ahead by a wrong NTP server", 0, true, func(p *place, b *Broker) *Broker { p.set(b, 10*aYear, true); return b }},
		{"the right time after 1970", -56 * aYear, false, func(p *place, b *Broker) *Broker { p.set(b, 0, true); return b }},
		{"the right time after a clock that was a year behind", -aYear, false, func(p *place, b *Broker) *Broker { p.set(b, 0, true); return b }},
		{"the next life starts ten years ahead", 0, true, func(p *place, b *Broker) *Broker { p.stop(b); return p.start(10*aYear, false) }},
		{"the next life starts in 1970", 0, true, func(p *place, b *Broker) *Broker { p.stop(b); return p.start(-56*aYear, false) }},
		{"1970, and the next life knows the time", -56 * aYear, false, func(p *place, b *Broker) *Broker { p.stop(b); return p.start(0, true) }},
		{"a year behind, and the next life knows the time", -aYear, false, func(p *place, b *Broker) *Broker { p.stop(b); return p.start(0, true) }},
		{"1970, the right time, and the next life knows it too", -56 * aYear, false, func(p *place, b *Broker) *Broker {
			p.set(b, 0, true)
			p.stop(b)
			return p.start(0, true)
		}},
		{"ten years ahead by a wrong NTP server, and the next life knows the time", 0, true, func(p *place, b *Broker) *Broker {
			p.set(b, 10*aYear, true)
			p.stop(b)
			return p.start(0, true)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &place{t: t, dir: t.TempDir()}
			b := p.start(tt.wall, tt.ntp)
			p.fill(b)
			b = tt.then(p, b)
			if left := strings.Join(p.has(b), " "); left != all {
				t.Errorf("left is %q, want %q", left, all)
			}
		})
	}
}

// set sets the system's clock so far ahead of the right time.
func (p *place) set(b *Broker, ahead time.Duration, ntp bool) {
	p.t.Helper()
	p.wall.Store(int64(ahead))
	p.ntp.Store(ntp)
	r := boot.Reading{}
	if ntp {
		r.Source = boot.NTP
	}
	if err := b.clock.Observe(r); err != nil {
		p.t.Fatal(err)
	}
}

// And what has been kept for its day goes.
func TestADayThatPassedExpiresWhatIsADayOld(t *testing.T) {
	p := &place{t: t, dir: t.TempDir()}
	b := p.start(0, true)
	p.fill(b)
	p.stop(b)
	p.passed.Add(int64(25 * time.Hour))
	b = p.start(0, true)
	if left := strings.Join(p.has(b), " "); left != "producer offsets" { // their time counts while the board runs
		t.Errorf("after a day without power: %q", left)
	}
	p.passed.Add(int64(25 * time.Hour))
	b.store.Tick(b.clock.AgeMS())
	if n := b.store.Get(b.Image().Topic("mqtt").ID, 0).ProducerCount(); n != 0 {
		t.Errorf("after another %d producers are known", n)
	}
}

func TestTheTimeOfABoard(t *testing.T) {
	p := &place{t: t, dir: t.TempDir()}
	b := p.start(-56*aYear, false)
	appendOne(t, b, "a", "early")
	id := b.Image().Topic("a").ID
	stamp := func(offset int64) int64 {
		q := b.store.Get(id, 0)
		span, err := q.Read(offset, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		defer span.Release()
		raw, err := span.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		first, _, err := record.Next(raw)
		if err != nil {
			t.Fatal(err)
		}
		return first.BaseTimestamp()
	}
	export := func(offset int64) (time.Time, bool) {
		at, unsure := b.Export(id, 0, offset, stamp(offset))
		return time.UnixMilli(at), unsure
	}
	near := func(at time.Time) bool { return at.Sub(p.now()).Abs() < time.Minute }
	if at, unsure := export(0); !unsure || at.Year() < 2020 || at.After(p.now()) {
		t.Errorf("before the time is known it leaves as %v, unsure %v", at, unsure)
	}
	local := stamp(0)
	p.passed.Add(int64(time.Hour))
	p.set(b, 0, true)
	appendOne(t, b, "a", "late")
	p.stop(b)
	b = p.start(-56*aYear, false)
	if at, unsure := export(0); unsure || !near(at.Add(time.Hour)) {
		t.Errorf("the early one leaves as %v, unsure %v", at, unsure)
	}
	if at, unsure := export(1); unsure || !near(at) {
		t.Errorf("the late one leaves as %v, unsure %v", at, unsure)
	}
	if stamp(0) != local {
		t.Error("a record on the board has changed")
	}
	var out bytes.Buffer
	if err := b.writeMetrics(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"millrace_clock_source{source=\"none\"} 1\n", "millrace_clock_source{source=\"ntp\"} 0\n", "millrace_clock_known 0\n", "millrace_clock_eras 2\n",
		"millrace_clock_floor_seconds ", "millrace_clock_correction_seconds 0\n", "millrace_clock_steps_total 0\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the metrics have no %q", want)
		}
	}
}

func TestABoardWithARealTimeClock(t *testing.T) {
	p := &place{t: t, dir: t.TempDir(), change: func(s *config.Config) { s.Clock.RTC = "ds3231" }}
	chip := sim.NewDS3231(p.now)
	wire := sim.New(map[uint16]sim.Device{clock.DS3231Address: chip})
	p.buses.Add("I2C1", func() (i2c.BusCloser, error) { return wire, nil })
	rtc := clock.NewDS3231(wire)

	b := p.start(-56*aYear, false) // a new battery
	if b.clock.Known() {
		t.Error("a clock that stood still was believed")
	}
	p.wall.Store(0)
	p.ntp.Store(true)
	p.stop(b)
	b = p.start(0, true)
	b.keeper.look()
	if at, err := rtc.Read(); err != nil || at.Sub(p.now()).Abs() > time.Second {
		t.Errorf("NTP knows the time, and the clock says %v, %v", at, err)
	}
	p.stop(b)
	p.passed.Add(int64(100 * aDay))
	b = p.start(-56*aYear, false)
	if at := b.clock.Now(); !b.clock.Known() || b.clock.Source() != boot.RTC || at.Sub(p.now()).Abs() > 2*time.Second {
		t.Errorf("after a hundred days: %v by %v, known %v", at, b.clock.Source(), b.clock.Known())
	}
	b.keeper.look()
	if b.clock.Source() != boot.RTC || b.clock.Figures().Steps != 0 {
		t.Errorf("%+v", b.clock.Figures())
	}
	p.stop(b)
	chip.Flat()
	b = p.start(-56*aYear, false)
	if b.clock.Known() {
		t.Error("a flat battery's time was believed")
	}
}

// The system's clock is set from a real-time clock whose time can be, and from no other.
func TestASystemClockThatIsSet(t *testing.T) {
	p := &place{t: t, dir: t.TempDir(), change: func(s *config.Config) { s.Clock.RTC, s.Clock.SetSystemTime = "ds3231", true }}
	wire := sim.New(map[uint16]sim.Device{clock.DS3231Address: sim.NewDS3231(p.now)})
	p.buses.Add("I2C1", func() (i2c.BusCloser, error) { return wire, nil })
	rtc := clock.NewDS3231(wire)
	if err := rtc.Set(p.now()); err != nil {
		t.Fatal(err)
	}
	b := p.start(-56*aYear, false)
	if wall := time.Duration(p.wall.Load()).Abs(); wall > 2*time.Second {
		t.Errorf("the system's clock is %v off", wall)
	}
	b.keeper.look()
	if f := b.clock.Figures(); !f.Known || f.Eras != 0 || f.Steps != 0 {
		t.Errorf("it was right from the beginning: %+v", f)
	}
	p.stop(b)
	if err := rtc.Set(p.now().Add(-aYear)); err != nil { // somebody's mistake: the time has been there
		t.Fatal(err)
	}
	const off = -56 * aYear
	b = p.start(off, false)
	if b.clock.Known() || p.wall.Load() != int64(off) {
		t.Errorf("a real-time clock that is behind: believed %v, the system's clock is %v off", b.clock.Known(), time.Duration(p.wall.Load()))
	}
}
