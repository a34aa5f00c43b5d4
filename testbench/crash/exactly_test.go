package crash

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/bridge/mqtt/packet"
	"millrace/testbench/lane"
	"millrace/testbench/process"
)

var rounds = flag.Int("crash.rounds", lane.Count("MILLRACE_MQTT_KILLS", 20),
	"how often the process is killed under MQTT sessions (MILLRACE_MQTT_KILLS)")

// faults gathers what agents find wrong.
type faults struct {
	mu  sync.Mutex
	all []string
}

func (f *faults) add(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.all) < 20 {
		f.all = append(f.all, fmt.Sprintf(format, args...))
	}
}

func (f *faults) list() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.all
}

// exactly has two publishers, and two subscribers and two who share a subscription, with durable sessions exchange messages of QoS 1 and 2 while the process is killed,
// again and again, with messages in flight in both directions. It returns what went wrong, as soon as something has.
func exactly(t *testing.T, p *process.Process) []string {
	s := *seed
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("-crash.seed=%d -crash.rounds=%d", s, *rounds)
	rng := rand.New(rand.NewPCG(s, 2))
	var bad faults
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	agents := 0
	newAgent := func(name string) *agent {
		agents++
		return &agent{
			name: name, address: p.MQTT, version: packet.V311 + packet.Version(agents%2),
			rng: rand.New(rand.NewPCG(s, uint64(10+agents))), fault: bad.add,
		}
	}
	var all []*agent
	var listeners []*listener
	together := &team{came: make(map[string]map[int]bool)}
	for i := range 4 {
		l := &listener{
			agent: newAgent(fmt.Sprint("listener", i)), seed: s, held: make(map[uint16]bool), first: make(chan struct{}),
			next: make(map[string]int),
		}
		if i < 2 {
			listeners = append(listeners, l)
		} else {
			l.team = together
		}
		all = append(all, l.agent)
		running.Go(func() { l.run(ctx) })
		<-l.first
	}
	var talkers []*talker
	for i := range 2 {
		u := &talker{agent: newAgent(fmt.Sprint("talker", i)), seed: s, left: make(chan struct{}), next: make(map[string]int)}
		talkers, all = append(talkers, u), append(all, u.agent)
	}
	left := make([]chan struct{}, len(talkers))
	for i, u := range talkers {
		left[i] = u.left
		running.Go(func() { u.run(ctx) })
	}
	advance := func() bool {
		before := make([]int64, len(all))
		for i, a := range all {
			before[i] = a.steps.Load()
		}
		return until(func() bool {
			for i, a := range all {
				if a.steps.Load() < before[i]+5 {
					return len(bad.list()) > 0
				}
			}
			return true
		})
	}
	for range *rounds {
		if !advance() {
			return append(bad.list(), "nothing went on for a minute")
		}
		if len(bad.list()) > 0 {
			return bad.list()
		}
		time.Sleep(time.Duration(rng.Int64N(int64(300 * time.Millisecond)))) // any instant will do, so it is drawn
		p.Kill()
		p.Start()
	}
	want := make(map[string]int)
	for i, u := range talkers {
		u.quit.Store(true)
		if !until(func() bool {
			select {
			case <-left[i]:
				return true
			default:
				return len(bad.list()) > 0
			}
		}) {
			return append(bad.list(), u.name+": publishes were never completed")
		}
		if len(bad.list()) > 0 {
			return bad.list()
		}
		maps.Copy(want, u.next)
	}
	total := 0
	for _, n := range want {
		total += n
	}
	for _, l := range listeners {
		if !until(func() bool { return l.has(want) || len(bad.list()) > 0 }) {
			l.mu.Lock()
			bad.add("%s has %v, and %v was published and completed", l.name, l.next, want)
			l.mu.Unlock()
		}
	}
	if !until(func() bool { return together.misses(want) == 0 || len(bad.list()) > 0 }) {
		bad.add("of %d messages %d came to no member of the team", total, together.misses(want))
	}
	t.Logf("%d messages", total)
	return bad.list()
}

// until waits for done to be true, for a minute at most.
func until(done func() bool) bool {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(time.Minute)
	defer limit.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-limit.C:
			return done()
		}
	}
	return true
}

// TestKill9DeliversOnce: over SIGKILL nothing acknowledged is lost, each message of QoS 2 comes once, and the order of
// each topic and QoS is kept, in both directions.
func TestKill9DeliversOnce(t *testing.T) {
	for _, fault := range exactly(t, process.Start(t, "")) {
		t.Error(fault)
	}
}

// TestKill9WithoutPubrec is the negative control: a binary that writes no PUBREC into its delivery tables, and is the
// same otherwise, delivers twice.
func TestKill9WithoutPubrec(t *testing.T) {
	const line = "flags |= deliveryReleased"
	source := filepath.Join("..", "..", "bridge", "mqtt", "sessionrecord.go")
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), line, "_ = deliveryReleased", 1)
	if changed == string(text) {
		t.Fatalf("%s has no %q any more", source, line)
	}
	dir := t.TempDir()
	replacement, overlay := filepath.Join(dir, "sessionrecord.go"), filepath.Join(dir, "overlay.json")
	absolute, err := filepath.Abs(source)
	if err != nil {
		t.Fatal(err)
	}
	list, err := json.Marshal(map[string]map[string]string{"Replace": {absolute: replacement}})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{replacement: []byte(changed), overlay: list} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found := exactly(t, process.StartChanged(t, "-overlay", overlay))
	for _, fault := range found {
		if strings.HasSuffix(fault, "came twice") {
			t.Logf("found: %s", fault)
			return
		}
	}
	t.Errorf("%d kills, and nothing came twice: %q", *rounds, found)
}
