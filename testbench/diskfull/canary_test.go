package diskfull

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"millrace/broker"
	"millrace/platform/config"
	"millrace/platform/health"
	"millrace/testbench/lane"
)

// dog remembers the longest time between two feeds.
type dog struct {
	last, longest atomic.Int64 // ns
	feeds         atomic.Int64
}

func (*dog) Name() string           { return "dog" }
func (*dog) Timeout() time.Duration { return time.Second }

func (d *dog) Feed() error {
	now := time.Now().UnixNano()
	if last := d.last.Swap(now); last != 0 {
		d.longest.Store(max(d.longest.Load(), now-last))
	}
	d.feeds.Add(1)
	return nil
}

// guarded opens a board on dir that a watchdog waits for.
func guarded(t *testing.T, dir string, interval, deadline time.Duration) *dog {
	t.Helper()
	d := &dog{}
	c := config.Default()
	c.Broker.LogDirs, c.Broker.ClusterAlias = dir, "bench"
	c.Broker.Listeners, c.MQTT.Listeners, c.HTTP.Listener = []string{"PLAINTEXT://127.0.0.1:0"}, []string{"tcp://127.0.0.1:0"}, ""
	c.Journal.BytesMax = 2 * mib
	c.Flash.ReserveBytes = 2*c.Journal.BytesMax + 16*mib
	c.Watchdog.Interval, c.Watchdog.Deadline = interval, deadline
	b, err := broker.Open(t.Context(), broker.Config{Settings: c, Watchdogs: []health.Watchdog{d}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// passed waits; nothing is waited for, the span is what is looked at.
func passed(d time.Duration) { <-time.After(d) }

// A disk that somebody else has filled to the last block is no reason to reset the board.
func TestADiskFilledToTheLastBlockDoesNotBite(t *testing.T) {
	t.Parallel()
	const deadline = time.Second
	disk := volume(t, 96)
	d := guarded(t, filepath.Join(disk, "data"), 100*time.Millisecond, deadline)
	passed(deadline) // the canary has flown, and its space is kept
	if err := fill(filepath.Join(disk, "stranger")); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk does not fill up: %v", err)
	}
	d.longest.Store(0)
	before := d.feeds.Load()
	passed(10 * deadline)
	if longest := time.Duration(d.longest.Load()); longest > d.Timeout()+deadline || d.feeds.Load() == before {
		t.Errorf("%v without a feed, %d feeds in ten deadlines", longest, d.feeds.Load()-before)
	}
}

// fill writes zeros until an error.
func fill(name string) (err error) {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for size := 1 << 20; size >= 512; size /= 2 {
		for zeros := make([]byte, size); err == nil; {
			_, err = f.Write(zeros)
		}
		if size > 512 && errors.Is(err, syscall.ENOSPC) {
			err = nil
		}
	}
	return err
}

// dayMax bounds what a board at rest writes for its canary in a day, in bytes of the device.
const dayMax = 64 * mib

// What the canary costs a board at rest: all that reaches the device, the filesystem's own blocks too. The looks are as far
// apart as the filesystem's commits, so that none shares one with another; as shipped they are 30 s apart.
func TestWhatTheCanaryWritesInADay(t *testing.T) {
	t.Parallel()
	const interval, looks = 6 * time.Second, 3
	disk := volume(t, 96)
	device, err := exec.Command(lane.Need(t, "findmnt")[0], "-n", "-o", "SOURCE", disk).Output()
	if err != nil {
		t.Fatal(err)
	}
	sectors := func() (n int64) {
		raw, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(strings.TrimSpace(string(device))), "stat"))
		if err != nil {
			t.Fatal(err)
		}
		if n, err = strconv.ParseInt(strings.Fields(string(raw))[6], 10, 64); err != nil {
			t.Fatal(err)
		}
		return n
	}
	guarded(t, filepath.Join(disk, "data"), interval, 5*time.Second)
	passed(interval * 3 / 2) // the topic is made
	if out, err := exec.Command("sync", "-f", disk).CombinedOutput(); err != nil {
		t.Fatalf("sync: %v: %s", err, out)
	}
	before := sectors()
	passed(looks * interval)
	if out, err := exec.Command("sync", "-f", disk).CombinedOutput(); err != nil {
		t.Fatalf("sync: %v: %s", err, out)
	}
	each := float64(sectors()-before) * 512 / looks
	day := each * float64(24*time.Hour/config.Default().Watchdog.Interval)
	t.Logf("an idle board writes %.0f bytes for each look of the canary, %.1f MiB a day", each, day/mib)
	if day > dayMax || each == 0 {
		t.Errorf("%.1f MiB a day, want %d at most, and not nothing", day/mib, dayMax/mib)
	}
}
