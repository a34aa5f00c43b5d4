package broker

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"periph.io/x/conn/v3/i2c"
	"periph.io/x/conn/v3/physic"

	"millrace/broker/canary"
	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
	"millrace/broker/partition"
	"millrace/hw/bus"
	"millrace/platform/config"
	"millrace/platform/health"
)

// dog is a watchdog that bites when it is not fed for its timeout. A machine that stands still does not count: what it
// waits is the time its own goroutine has seen pass, a tick at a time.
type dog struct {
	timeout time.Duration
	fed     atomic.Bool
	feeds   atomic.Int64
	bites   atomic.Int64
	quit    chan struct{}
	ended   chan struct{}
}

func newDog(t *testing.T, timeout time.Duration) *dog {
	d := &dog{timeout: timeout, quit: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(d.ended)
		const steps = 20
		tick := time.NewTicker(timeout / steps)
		defer tick.Stop()
		for hungry := 0; ; {
			select {
			case <-d.quit:
				return
			case <-tick.C:
			}
			if hungry++; d.fed.Swap(false) {
				hungry = 0
			}
			if hungry >= steps {
				d.bites.Add(1)
				hungry = 0
			}
		}
	}()
	t.Cleanup(func() { close(d.quit); <-d.ended })
	return d
}

func (d *dog) Name() string           { return "dog" }
func (d *dog) Timeout() time.Duration { return d.timeout }

func (d *dog) Feed() error {
	d.feeds.Add(1)
	d.fed.Store(true)
	return nil
}

// life is a board with a watchdog, whose times are short.
type life struct {
	t      *testing.T
	b      *Broker
	dog    *dog
	fs     *card
	jump   atomic.Int64 // of the wall clock, and of the monotonic one: there is no other way to tell a process
	broken bool         // it cannot close without complaint
}

const (
	shortInterval = 40 * time.Millisecond
	shortDeadline = time.Second
)

func newLife(t *testing.T, change func(*Config)) *life {
	t.Helper()
	t.Parallel() // they wait most of the time
	l := &life{t: t, dog: newDog(t, time.Second), fs: &card{hold: "journal.commit", release: make(chan struct{})}}
	s := config.Default()
	s.Broker.LogDirs, s.Broker.ClusterAlias = inMemory(t), "test"
	s.Broker.Listeners, s.MQTT.Listeners, s.HTTP.Listener = []string{"PLAINTEXT://127.0.0.1:0"}, []string{"tcp://127.0.0.1:0"}, ""
	s.Watchdog.Interval, s.Watchdog.Deadline = shortInterval, shortDeadline
	c := Config{
		Settings: s, FS: l.fs, Watchdogs: []health.Watchdog{l.dog}, still: time.Second,
		Now: func() time.Time { return time.Now().Add(time.Duration(l.jump.Load())) },
	}
	if change != nil {
		change(&c)
	}
	var err error
	if l.b, err = Open(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.b.Close(); err != nil && !l.broken {
			t.Error(err)
		}
	})
	return l
}

// inMemory is a directory where no other load of the machine makes a sync wait for seconds, if there is such a place.
func inMemory(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "millrace")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func (l *life) refuse(write func(name string) error) { l.fs.refuse.Store(&write) }

// lives has the board go on for so many deadlines, and ten looks of the canary.
func (l *life) lives(deadlines time.Duration, why string) {
	l.t.Helper()
	looks := func() int64 {
		f := l.b.vitals.canary.Figures()
		return f.Flown + f.Ridden + f.Full
	}
	before, began := looks(), time.Now()
	for time.Since(began) < deadlines*shortDeadline || looks() < before+10 {
		if n := l.dog.bites.Load(); n > 0 {
			l.t.Fatalf("%s: bitten after %v: %v", why, time.Since(began), l.b.vitals.Check())
		}
		if time.Since(began) > time.Minute {
			l.t.Fatalf("%s: %d looks in a minute: %v", why, looks()-before, l.b.vitals.Check())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// dies waits for the bite, whose reason names a part.
func (l *life) dies(part string) {
	l.t.Helper()
	var err error
	for began := time.Now(); l.dog.bites.Load() == 0; time.Sleep(5 * time.Millisecond) {
		if e := l.b.vitals.Check(); e != nil {
			err = e
		}
		if time.Since(began) > time.Minute {
			l.t.Fatal("not bitten in a minute")
		}
	}
	if err == nil || !strings.Contains(err.Error(), part) {
		l.t.Errorf("bitten for %v, want %s", err, part)
	}
}

func TestAnIdleBoardIsNotBitten(t *testing.T) {
	l := newLife(t, nil)
	l.lives(3, "idle")
	f := l.b.vitals.canary.Figures()
	if f.Flown < 10 || f.Ridden != 0 || f.Failed != 0 {
		t.Errorf("%+v", f)
	}
}

// Where clients' records pass the high watermark and are read back, nothing is written for the canary.
func TestTheCanaryRidesCommitsOfOthers(t *testing.T) {
	l := newLife(t, func(c *Config) { c.Settings.Watchdog.Interval = 200 * time.Millisecond })
	for l.b.vitals.canary.Figures().Ridden < 10 {
		appendOne(t, l.b, "busy", "x")
	}
	if f := l.b.vitals.canary.Figures(); f.Flown > 1 {
		t.Errorf("%d records of its own beside %d rides", f.Flown, f.Ridden)
	}
	if _, made := l.b.Topic(canary.TopicName); made && l.b.vitals.canary.Figures().Flown == 0 {
		t.Error("the topic was made for nothing")
	}
}

func TestAStuckDiskBites(t *testing.T) {
	l := newLife(t, nil)
	l.lives(0, "before")
	l.fs.held.Store(true)
	l.dies("the data path")
	close(l.fs.release)
}

// card is the machine's disk with faults.
type card struct {
	disk.OS
	hold    disk.Point // syncs there wait until it is released, while held
	held    atomic.Bool
	release chan struct{}
	used    atomic.Bool                             // there is no free space
	refuse  atomic.Pointer[func(name string) error] // writes
	dawdle  time.Duration                           // opening, and syncing a directory, takes so long
}

func (f *card) OpenFile(name string, flag int, perm os.FileMode) (disk.File, error) {
	time.Sleep(f.dawdle)
	opened, err := f.OS.OpenFile(name, flag, perm)
	return cardFile{opened, f}, err
}

func (f *card) SyncDir(name string, point disk.Point) error {
	time.Sleep(f.dawdle)
	return f.OS.SyncDir(name, point)
}

func (f *card) Usage(name string) (disk.Usage, error) {
	if f.used.Load() {
		return disk.Usage{Total: 1 << 30}, nil
	}
	return f.OS.Usage(name)
}

type cardFile struct {
	disk.File
	f *card
}

func (f cardFile) Sync(point disk.Point) error {
	if point == f.f.hold && f.f.held.Load() {
		<-f.f.release
	}
	return f.File.Sync(point)
}

func (f cardFile) WriteAt(p []byte, off int64) (int, error) {
	if refuse := f.f.refuse.Load(); refuse != nil {
		if err := (*refuse)(f.Name()); err != nil {
			return 0, err
		}
	}
	return f.File.WriteAt(p, off)
}

func (f cardFile) Allocate(size int64) error { return f.File.(disk.Allocator).Allocate(size) }

func TestADeadlockedCommitterBites(t *testing.T) {
	l := newLife(t, nil)
	l.lives(0, "before")
	block := make(chan struct{})
	var once atomic.Bool
	cancel := l.b.OnAdvance(func(*partition.Partition) {
		if !once.Swap(true) {
			<-block
		}
	})
	l.dies("the data path")
	cancel()
	close(block)
}

func TestAJournalThatCannotWriteBites(t *testing.T) {
	l := newLife(t, nil)
	l.lives(0, "before")
	l.refuse(func(string) error { return syscall.EIO })
	l.dies("the data path")
	l.fs.refuse.Store(nil)
}

func TestAFullDiskDoesNotBite(t *testing.T) {
	l := newLife(t, nil)
	l.lives(0, "before")
	l.fs.used.Store(true)
	l.b.space.Refresh(0)
	l.lives(10, "down to the floor")
	f := l.b.vitals.canary.Figures()
	if f.Full > 0 {
		t.Errorf("%d of the looks had no room: what is kept for the canary is not its", f.Full)
	}
	// Not even the files can grow.
	l.refuse(func(name string) error {
		if strings.Contains(name, "/topics/") && !strings.HasSuffix(name, canary.TopicName+"-0/00000000000000000000.log") {
			return syscall.ENOSPC
		}
		return nil
	})
	l.lives(10, "full to the last block")
	l.fs.refuse.Store(nil)
}

func TestAWedgedBusDoesNotBite(t *testing.T) {
	hang := make(chan struct{})
	l := newLife(t, func(c *Config) {
		c.Buses = &bus.Registry{}
		c.Buses.Add("I2C9", func() (i2c.BusCloser, error) { return wedged{hang}, nil })
		c.Settings.Buses = []config.Bus{{Name: "I2C9", Timeout: 50 * time.Millisecond}}
		c.Settings.Sensors = []config.Sensor{{
			Name: "s", Driver: "bme280", Bus: "I2C9", Address: 0x76, Every: 50 * time.Millisecond, Topic: "t", Format: "json",
		}}
	})
	l.lives(3, "a bus hangs")
	close(hang)
}

type wedged struct{ hang chan struct{} }

func (w wedged) String() string                  { return "wedged" }
func (w wedged) Tx(uint16, []byte, []byte) error { <-w.hang; return errors.New("hung") }
func (w wedged) SetSpeed(physic.Frequency) error { return nil }
func (w wedged) Close() error                    { return nil }

func TestAJumpedClockDoesNotBite(t *testing.T) {
	l := newLife(t, nil)
	for _, years := range []int64{10, 30} {
		l.jump.Add(years * int64(365*24*time.Hour))
		l.lives(2, "the clock jumps")
	}
}

func TestAListenerThatEndsBites(t *testing.T) {
	l := newLife(t, nil)
	l.lives(0, "before")
	l.broken = true
	if err := l.b.vitals.gates[0].Close(); err != nil {
		t.Fatal(err)
	}
	l.dies("the Kafka listener")
}

func TestAReaperThatStandsStillBites(t *testing.T) {
	l := newLife(t, nil)
	l.lives(0, "before")
	block := make(chan struct{})
	timer := l.b.pulse.NewTimer(func() { <-block })
	timer.Reset(0)
	l.dies("the reaper")
	close(block)
	timer.Close()
}

// A recovery takes as long as it needs while the disk goes on, and is bitten when it does not.
func TestAStartIsFedWhileItMakesProgress(t *testing.T) {
	stuck := &card{hold: "quorum.log", release: make(chan struct{})}
	d := newDog(t, 300*time.Millisecond)
	open := func(fs disk.FS) (*Broker, error) {
		s := config.Default()
		s.Broker.LogDirs, s.Broker.ClusterAlias = t.TempDir(), "test"
		s.Broker.Listeners, s.MQTT.Listeners, s.HTTP.Listener = []string{"PLAINTEXT://127.0.0.1:0"}, []string{"tcp://127.0.0.1:0"}, ""
		return Open(t.Context(), Config{Settings: s, FS: fs, Watchdogs: []health.Watchdog{d}, still: 500 * time.Millisecond})
	}
	b, err := open(&card{dawdle: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if d.bites.Load() > 0 {
		t.Error("a slow start was bitten")
	}
	stuck.held.Store(true)
	began := make(chan struct{})
	go func() {
		defer close(began)
		b, err = open(stuck)
	}()
	for d.bites.Load() == 0 {
		time.Sleep(5 * time.Millisecond)
		if t.Context().Err() != nil {
			return
		}
	}
	close(stuck.release)
	<-began
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

// What is wrong with the canary's own topic is wrong with one topic, and no reason to reset a board that serves the others.
func TestADamagedCanaryDoesNotBite(t *testing.T) {
	failing := func(c *Config, with error) {
		c.FS = &disktest.Failing{FS: disk.OS{}, Fault: func(op, name string) error {
			if strings.Contains(name, canary.TopicName+"-0") {
				return fmt.Errorf("%s %s: %w", op, name, with)
			}
			return nil
		}}
	}
	t.Run("it cannot be read", func(t *testing.T) {
		dir := inMemory(t)
		b := boardOn(t, nil, dir, func(c *config.Config) { c.Watchdog.Interval = 20 * time.Millisecond })
		for b.vitals.canary.Figures().Flown == 0 {
			time.Sleep(5 * time.Millisecond)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		l := newLife(t, func(c *Config) {
			c.Settings.Broker.LogDirs = dir
			failing(c, syscall.EIO)
		})
		l.lives(3, "it is offline")
		if f := l.b.vitals.canary.Figures(); f.Flown == 0 || f.Failed > 0 {
			t.Errorf("%+v", f)
		}
	})
	t.Run("there is no room to make it", func(t *testing.T) {
		l := newLife(t, func(c *Config) { failing(c, syscall.ENOSPC) })
		l.lives(3, "it is not there")
		if f := l.b.vitals.canary.Figures(); f.Full == 0 || f.Failed > 0 {
			t.Errorf("%+v", f)
		}
		appendOne(t, l.b, "other", "x")
	})
}
