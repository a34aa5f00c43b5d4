package idle

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/bridge/mqtt/packet"
	"millrace/testbench/process"
)

func TestMain(m *testing.M) { os.Exit(process.Main(m)) }

const (
	watched = 12 * time.Second // long enough for the broker's own ten-second tick
	// Row 13.
	wakesMax = 5.0   // a second
	cpuMax   = 0.002 // of one core
	// Row 3.
	rssMax = 16 << 20
)

// figures are what the kernel counts.
type figures struct {
	at       time.Time
	switches map[int]int64 // of each thread
	cpu      time.Duration
}

// span is what lies between two looks.
type span struct {
	seconds float64
	wakes   float64 // a second
	program float64 // of them, those of other threads than the runtime's monitor
	cpu     float64 // of one core
}

func between(before, after figures, monitor int) span {
	s := span{seconds: after.at.Sub(before.at).Seconds()}
	s.cpu = (after.cpu - before.cpu).Seconds() / s.seconds
	for thread, n := range after.switches {
		n -= before.switches[thread]
		s.wakes += float64(n) / s.seconds
		if thread != monitor {
			s.program += float64(n) / s.seconds
		}
	}
	return s
}

// monitorOf is the thread of the Go runtime's monitor: the first that runtime.main starts, before anything else, so the one
// with the next number after the process's own, unless numbers began again in between.
func monitorOf(p *process.Process, threads map[int]int64) int {
	all := slices.Sorted(maps.Keys(threads))
	i := slices.Index(all, int(p.PID()))
	return all[(i+1)%len(all)]
}

// judged is the first of some spans that is quiet, else the one in which the program's own threads were quietest, and what
// is held against the goal of it: all its wake-ups in the one case, those of its own threads in the other.
func judged(spans []span) (of span, wakes float64) {
	for _, s := range spans {
		if s.wakes < wakesMax {
			return s, s.wakes
		}
	}
	of = slices.MinFunc(spans, func(a, b span) int { return cmp.Compare(a.program, b.program) })
	return of, of.program
}

func TestWhatIsJudged(t *testing.T) {
	late, later, quiet := span{wakes: 9, program: 3}, span{wakes: 8, program: 4}, span{wakes: 4, program: 2}
	for _, tt := range []struct {
		spans []span
		of    span
		wakes float64
	}{
		{[]span{late, quiet, later}, quiet, 4},
		{[]span{later, late, later}, late, 3},
		{[]span{{wakes: 30, program: 20}}, span{wakes: 30, program: 20}, 20},
	} {
		if of, wakes := judged(tt.spans); of != tt.of || wakes != tt.wakes {
			t.Errorf("of %v %v is judged by %v, want %v by %v", tt.spans, of, wakes, tt.of, tt.wakes)
		}
	}
	one := between(figures{switches: map[int]int64{7: 1, 8: 100}}, figures{at: time.Time{}.Add(2 * time.Second), switches: map[int]int64{7: 3, 8: 140, 9: 4}}, 8)
	if one.wakes != 23 || one.program != 3 {
		t.Errorf("%+v", one)
	}
}

func look(t *testing.T, p *process.Process) (f figures) {
	t.Helper()
	var err error
	f.at = time.Now()
	if f.switches, err = p.PID().Switches(); err != nil {
		t.Fatal(err)
	}
	if f.cpu, err = p.PID().CPU(); err != nil {
		t.Fatal(err)
	}
	return f
}

func rss(t *testing.T, p *process.Process) int64 {
	t.Helper()
	n, err := p.PID().RSS()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// The wake-ups are those of all threads. On a machine whose neighbours load it they are not only what the program does: when
// the thread that should run a timer that is due is scheduled late, the monitor of Go's runtime looks for it 50 times, 20
// microseconds apart, and then with doubling pauses, which is up to 70 wake-ups for each. So where no span is quiet, and only
// there, the program's own threads are held against the same bound, and the log says both.
func TestAnIdleBoardIsIdle(t *testing.T) {
	p := process.Start(t, "")
	begin := p.Began
	kafka, err := kgo.NewClient(kgo.SeedBrokers(p.Kafka), kgo.AllowAutoTopicCreation(), kgo.MetadataMaxAge(time.Hour),
		kgo.ConnIdleTimeout(15*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer kafka.Close()
	fresh := rss(t, p)
	if err := kafka.ProduceSync(t.Context(), &kgo.Record{Topic: "first", Value: []byte("first")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	t.Logf("start to first acknowledged record: %v; goal 100 ms, not held here", time.Since(begin).Round(time.Millisecond))

	mqtt := paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + p.MQTT).SetClientID("idle").SetKeepAlive(time.Hour))
	defer mqtt.Disconnect(0)
	for _, token := range []func() paho.Token{mqtt.Connect, func() paho.Token { return mqtt.Subscribe("plant/#", 1, nil) }} {
		token := token()
		if token.Wait(); token.Error() != nil {
			t.Fatal(token.Error())
		}
	}

	// What the records before left to do (a checkpoint, memory to give back, the canary's topic to make after 30 s) is not
	// idling: the first quiet span of five counts. Nothing is waited for: the span is what is measured.
	var spans []span
	for range 5 {
		before := look(t, p)
		<-time.After(watched)
		after := look(t, p)
		s := between(before, after, monitorOf(p, after.switches))
		spans = append(spans, s)
		if s.wakes < wakesMax {
			break
		}
		t.Logf("not quiet: %.1f wake-ups a second, %.1f without the runtime's monitor", s.wakes, s.program)
	}
	of, wakes := judged(spans)
	resident := rss(t, p)
	if !mqtt.IsConnectionOpen() {
		t.Error("the MQTT client is not connected any more")
	}

	t.Logf("idle for %.0f s: %.1f wake-ups a second, %.1f without the runtime's monitor, %.2f %% CPU, %.1f MiB resident (%.1f when it was ready)",
		of.seconds, of.wakes, of.program, 100*of.cpu, mib(resident), mib(fresh))
	if wakes >= wakesMax {
		t.Errorf("%.1f wake-ups a second, want fewer than %.0f", wakes, wakesMax)
	}
	if wakes <= 0 {
		t.Error("no wake-ups at all: the figure is not read")
	}
	if of.cpu > cpuMax {
		t.Errorf("%.2f %% CPU, want at most %.1f", 100*of.cpu, 100*cpuMax)
	}
	if fresh > rssMax || resident > rssMax {
		t.Errorf("%.1f MiB resident when ready, %.1f idle; want at most %d", mib(fresh), mib(resident), rssMax>>20)
	}
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// TestIdleClientsAreSmall is row 4 of the goals: what a connected MQTT client with two subscriptions costs.
func TestIdleClientsAreSmall(t *testing.T) {
	const (
		clients, first = 2000, 500
		clientMax      = 8 << 10 // bytes
	)
	p := process.Start(t, "")
	idleClients(t, p, 0, first) // the code they need is there now
	before := rss(t, p)
	idleClients(t, p, first, clients-first)
	// What the collector has not given back yet is no client's: the least of some looks counts.
	resident := rss(t, p)
	for range 50 {
		<-time.After(100 * time.Millisecond)
		resident = min(resident, rss(t, p))
	}
	each := (resident - before) / (clients - first)
	t.Logf("%d bytes for an idle client with two subscriptions, %.1f MiB with %d of them", each, mib(resident), clients)
	if each > clientMax {
		t.Errorf("%d bytes for each, want at most %d", each, clientMax)
	}
}

// idleClients connects n MQTT clients with two subscriptions each, numbered from first on, until the test ends.
func idleClients(t *testing.T, p *process.Process, first, n int) {
	t.Helper()
	for i := range n {
		id := fmt.Sprint("device-", first+i)
		c, err := net.Dial("tcp", p.MQTT)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() }) // it has nothing to lose
		out := (&packet.Connect{Version: packet.V5, ClientID: id, CleanStart: true, KeepAlive: 600}).Append(nil, packet.V5)
		out = (&packet.Subscribe{ID: 1, Filters: []packet.Subscription{{Filter: "cmd/" + id + "/#"}, {Filter: "all/+"}}}).Append(out, packet.V5)
		if _, err := c.Write(out); err != nil {
			t.Fatal(err)
		}
		for _, want := range []byte{0x20, 0x90} { // CONNACK, SUBACK
			var head [2]byte
			if _, err := io.ReadFull(c, head[:]); err != nil || head[0] != want {
				t.Fatalf("client %d: %x, %v; want %x", first+i, head, err, want)
			}
			if _, err := io.CopyN(io.Discard, c, int64(head[1])); err != nil {
				t.Fatal(err)
			}
		}
	}
}
