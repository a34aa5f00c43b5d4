package vm

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"millrace/broker"
)

// stuckMax is how long a board may sit on a disk that hangs until it is reset: canary, the service's watchdog, the limits of
// killing it, and the hardware watchdog behind them add up to less. Emulation on a loaded machine makes it longer.
const stuckMax = 10 * time.Minute

// biteMax is after how long PID 1 ends a broker that stands still, at the latest: what the board below is set to, and
// WatchdogSec= of the unit.
const biteMax = time.Second + 5*time.Second + 30*time.Second

// life is what tells one run of a board and its broker from another.
func (b *Board) life() string {
	b.t.Helper()
	return b.Do("cat /proc/sys/kernel/random/boot_id; systemctl show -p MainPID,InvocationID,NRestarts millrace.service")
}

// goesOn expects that nothing was reset or started again since a life was looked at, for at least so long, and that the
// watchdogs wait for a feed all the time.
func (b *Board) goesOn(t *testing.T, what, before string, least time.Duration) {
	t.Helper()
	if now := b.life(); now != before {
		t.Errorf("%s: the board was\n%sand is\n%s", what, before, now)
	}
	seconds, err := strconv.ParseFloat(strings.Fields(b.Do("cat /proc/uptime"))[0], 64)
	if err != nil || seconds < least.Seconds() {
		t.Errorf("%s: the board is up for %v s, want %v: %v", what, seconds, least, err)
	}
	armed := b.Do("systemctl show -p WatchdogUSec millrace.service; cat /sys/class/watchdog/watchdog0/state")
	if armed != "WatchdogUSec=30s\nactive\n" {
		t.Errorf("%s: no watchdog waits: %s", what, armed)
	}
	if health := b.Do("busybox wget -q -O - http://127.0.0.1:8080/healthz"); !strings.Contains(health, "ok") {
		t.Errorf("%s: %s", what, health)
	}
	if list := read(t, b.door(), broker.EventsTopic); len(list) > 0 {
		t.Errorf("%s: something was published: %v", what, list)
	}
}

// told waits for so many events of a board, and returns how the last life ended by the last.
func (b *Board) told(t *testing.T, count int) broker.End {
	t.Helper()
	var list []stored
	waitFor(t, "an event", func() bool {
		list = read(t, b.door(), broker.EventsTopic)
		return len(list) >= count
	})
	var event struct {
		Event string
		Last  broker.End
	}
	if err := json.Unmarshal([]byte(list[len(list)-1].payload), &event); err != nil || len(list) != count || event.Event != "start" {
		t.Fatalf("%d events, want %d, the last a start: %v: %v", len(list), count, list, err)
	}
	return event.Last
}

// Two boards, side by side. At one the disk hangs, then the broker is stopped: PID 1 gets no sign of life, the board is reset
// and serves again, nothing acknowledged is lost, and it tells why. The other has nothing to do all the while, and then a clock
// that is set back and forth by years: it is not reset.
func TestWhatResetsABoard(t *testing.T) {
	t.Parallel()
	bad, good := New(t), New(t)
	lost, kept := newLedger(), newLedger()
	for _, b := range []*Board{bad, good} {
		b.Hand()
		b.Settings(b.Provision() + "[watchdog]\ncanary.interval = \"1s\"\n")
	}
	acknowledged(t, bad, lost, "before")
	acknowledged(t, good, kept, "before")
	bad.Await(up)
	good.Await(up)

	idle, began := good.life(), time.Now()
	throttle := func(bytes int) {
		bad.Command(nil, "block_set_io_throttle", map[string]any{
			"device": "disk", "bps": bytes, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0,
		})
	}
	throttle(1) // a second
	bad.AwaitReset(stuckMax)
	t.Logf("the board was reset %.0f s after its disk hung", time.Since(began).Seconds())
	throttle(0)
	serves := func(life string) {
		client := connect(t.Context(), t, bad.door())
		defer client.Disconnect(0)
		if err := publish(client, lost, life, 1); err != nil {
			t.Fatal(err)
		}
		holds(t, bad, lost)
	}
	serves("after the disk")
	// A disk that takes nothing takes no cause either, but a watchdog knows that it has bitten. Where PID 1 needed none all
	// that is left is that the machine went down.
	want := broker.EndReset
	if bad.qmp.bites.Load() > 0 {
		want = broker.EndWatchdog
	}
	end := bad.told(t, 1)
	if end.How != broker.EndHung && end.How != want {
		t.Errorf("the board tells %+v, want it to name %s", end, want)
	}
	t.Logf("a disk that hung: the hardware watchdog has bitten %d times; the board tells %+v", bad.qmp.bites.Load(), end)
	watched := time.Since(began)
	good.goesOn(t, fmt.Sprintf("nothing to do for %.0f s", watched.Seconds()), idle, watched)

	bad.Await(up)
	bad.Do("systemctl kill -s STOP millrace.service")
	stopped := time.Now()
	client := connect(t.Context(), t, good.door())
	for n, years := range []int{5, -30, 25} {
		good.Do(fmt.Sprintf("date -s @$(($(date +%%s) + %d * 31536000))", years))
		if err := publish(client, kept, fmt.Sprint("jump ", n), 50); err != nil {
			t.Fatal(err)
		}
	}
	client.Disconnect(0)
	jumped := time.Now()
	bad.AwaitReset(stuckMax)
	t.Logf("the board was reset %.0f s after its broker was stopped", time.Since(stopped).Seconds())
	serves("after the stop")
	end = bad.told(t, 2)
	if end.How != broker.EndHung || !strings.Contains(end.Why, "sign of life") {
		t.Errorf("the board tells %+v", end)
	}
	t.Logf("a broker that was stopped: it tells %+v", end)
	if left := biteMax + 10*time.Second - time.Since(jumped); left > 0 && good.qmp.event("RESET", left) {
		t.Error("a clock that jumps resets the board")
	}
	good.goesOn(t, "a clock that jumps", idle, time.Since(began))
	holds(t, good, kept)
	good.Kill()
	bad.Kill()
}
