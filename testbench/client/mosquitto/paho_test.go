package mosquitto

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"millrace/testbench/process"
)

func pahoOptions(p *process.Process, id string) *paho.ClientOptions {
	return paho.NewClientOptions().AddBroker("tcp://" + p.MQTT).SetClientID(id).SetCleanSession(false).
		SetStore(paho.NewOrderedMemoryStore()).SetOrderMatters(true).SetConnectRetry(true).
		SetConnectRetryInterval(50 * time.Millisecond).SetMaxReconnectInterval(100 * time.Millisecond)
}

func finished(t *testing.T, token paho.Token) {
	t.Helper()
	if !token.WaitTimeout(patience) {
		t.Fatalf("no answer in %v", patience)
	}
	if token.Error() != nil {
		t.Fatal(token.Error())
	}
}

// arrival is one message at a subscriber, in the life of its connection.
type arrival struct{ life, n int }

// A publisher and a subscriber that reconnect by themselves, while the process is killed under them: all that was
// acknowledged arrives; within a life of the subscriber's connection in the order of the log, without a gap; again only
// in a new life, of either.
func TestPahoOverKill9(t *testing.T) {
	p := start(t, "")
	const n, kills, window = 1500, 3, 20
	var life, pubLife atomic.Int64
	var mu sync.Mutex
	var arrivals []arrival
	all := make(chan struct{})
	seen := make(map[int]bool)
	take := func(_ paho.Client, m paho.Message) {
		number, err := strconv.Atoi(strings.TrimSpace(string(m.Payload())))
		if err != nil || m.Topic() != "paho/count" || m.Qos() != 1 || m.Retained() {
			t.Errorf("%s %q with QoS %d", m.Topic(), m.Payload(), m.Qos())
			return
		}
		mu.Lock()
		defer mu.Unlock()
		arrivals = append(arrivals, arrival{int(life.Load()), number})
		if seen[number] = true; len(seen) == n {
			select {
			case <-all:
			default:
				close(all)
			}
		}
	}
	reader := paho.NewClient(pahoOptions(p, "reader").SetDefaultPublishHandler(take).
		SetOnConnectHandler(func(paho.Client) { life.Add(1) }))
	finished(t, reader.Connect())
	defer reader.Disconnect(0)
	finished(t, reader.Subscribe("paho/+", 1, nil))
	writer := paho.NewClient(pahoOptions(p, "writer").SetOnConnectHandler(func(paho.Client) { pubLife.Add(1) }))
	finished(t, writer.Connect())
	defer writer.Disconnect(0)

	for i := 0; i < n; i += window {
		var burst []paho.Token
		for j := i; j < i+window; j++ {
			burst = append(burst, writer.Publish("paho/count", 1, false, fmt.Sprintf("%8d", j)))
		}
		if i > 0 && i%(n/(kills+1)/window*window) == 0 { // while the burst is on its way
			p.Kill()
			p.Start()
		}
		for _, token := range burst {
			// An error is that the connection ended while it was written: it was not acknowledged, and is sent again.
			if !token.WaitTimeout(patience) {
				t.Fatalf("no answer in %v", patience)
			}
		}
	}
	select {
	case <-all:
	case <-time.After(patience):
		t.Fatalf("not all of %d messages arrived", n)
	}
	mu.Lock()
	defer mu.Unlock()
	if life.Load() < kills+1 || pubLife.Load() < kills+1 {
		t.Errorf("%d and %d connections over %d kills", life.Load(), pubLife.Load(), kills)
	}
	judge(t, p, arrivals, n)
	t.Logf("%d messages arrived of %d published, in %d lives", len(arrivals), n, life.Load())
}

// judge holds what arrived against the log: each life of the connection is one unbroken run of it, and each begins no
// later than where the last one ended.
func judge(t *testing.T, p *process.Process, arrivals []arrival, n int) {
	t.Helper()
	var log []int
	counted := map[int]bool{}
	pub(t, p, "", "-q", "1", "-t", "paho-end", "-m", "end")
	for _, line := range strings.Split(kcat(t, p, "", "-C", "-t", "mqtt", "-o", "beginning", "-e", "-q", "-f", `%k %s\n`), "\n") {
		number, ok := strings.CutPrefix(line, "paho/count ")
		if !ok {
			continue
		}
		i, err := strconv.Atoi(strings.TrimSpace(number))
		if err != nil || len(number) != 8 {
			t.Fatalf("the log has %q", line)
		}
		log = append(log, i)
		counted[i] = true
	}
	if len(counted) != n {
		t.Fatalf("the log has %d of %d messages", len(counted), n)
	}
	at := 0 // the log up to here has arrived
	for len(arrivals) > 0 {
		run := 1
		for run < len(arrivals) && arrivals[run].life == arrivals[0].life {
			run++
		}
		begin, ok := find(log, arrivals[:run], at)
		if !ok {
			t.Fatalf("life %d: %d messages from %d to %d are no run of the log that begins at or before its record %d",
				arrivals[0].life, run, arrivals[0].n, arrivals[run-1].n, at)
		}
		at = max(at, begin+run)
		arrivals = arrivals[run:]
	}
}

// find is the last place at or before at where the log reads as the messages do.
func find(log []int, run []arrival, at int) (begin int, ok bool) {
next:
	for begin = at; begin >= 0; begin-- {
		if begin+len(run) > len(log) {
			continue
		}
		for i, a := range run {
			if log[begin+i] != a.n {
				continue next
			}
		}
		return begin, true
	}
	return 0, false
}

// The judge finds what it is there to find.
func TestFind(t *testing.T) {
	log := []int{0, 1, 2, 3, 2, 3, 4} // the publisher sent 2 and 3 again
	for _, tt := range []struct {
		run   []int
		at    int
		begin int
		ok    bool
	}{
		{[]int{0, 1, 2}, 0, 0, true},
		{[]int{2, 3, 4}, 4, 4, true},
		{[]int{1, 2, 3, 2}, 3, 1, true}, // again what came before, in a new life
		{[]int{4}, 5, 0, false},         // 3 is missing
		{[]int{2, 4}, 2, 0, false},      // a gap within
		{[]int{1, 0}, 2, 0, false},      // wrong order
		{[]int{2, 2, 3}, 2, 0, false},   // twice within
		{[]int{3, 4, 5}, 5, 0, false},   // what never was
	} {
		var run []arrival
		for _, n := range tt.run {
			run = append(run, arrival{1, n})
		}
		if begin, ok := find(log, run, tt.at); ok != tt.ok || ok && begin != tt.begin {
			t.Errorf("%v at %d: %d, %v", tt.run, tt.at, begin, ok)
		}
	}
}
