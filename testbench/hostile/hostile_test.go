package hostile

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/testbench/process"
)

// only leaves attacks out, to find which of them costs what.
var only = flag.String("hostile.only", "", "regular expression of the attacks to make; empty: all")

func TestMain(m *testing.M) { os.Exit(process.Main(m)) }

const (
	rssMax   = 48 << 20 // row 5 of the goals, and memory.limit
	sampling = 100 * time.Millisecond
	idlers   = 1000 // at each door
	backlog  = "backlog"
)

// The default of 1000 Kafka connections would refuse the idle ones what the attacks leave; memory.limit is the default.
const configuration = `
[broker]
max.connections = 1500
`

func TestHostileClients(t *testing.T) {
	p := process.Start(t, configuration)
	fill(t, p)

	judge := watchMemory(t, p, rssMax)
	working, done := context.WithCancel(t.Context())
	defer done()
	var honests sync.WaitGroup
	counts := []*honest{{name: "produced"}, {name: "consumed"}, {name: "published"}, {name: "received"}}
	honests.Go(func() { produceAndConsume(working, t, p, counts[0], counts[1]) })
	honests.Go(func() { publishAndReceive(working, t, p, counts[2], counts[3]) })

	idle := append(idleKafka(t, p, idlers), idleMQTT(t, p, idlers)...)
	attackAll(t, p, attacks(backlog))
	for _, c := range idle {
		c.alive(t)
	}
	done()
	honests.Wait()
	for _, h := range counts {
		t.Log(h)
		if h.count.Load() < 10 {
			t.Errorf("%s: only %d", h.name, h.count.Load())
		}
	}
	judge()
}

// fill produces what the readers that do not read ask for.
func fill(t *testing.T, p *process.Process) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(p.Kafka), kgo.AllowAutoTopicCreation(), kgo.DefaultProduceTopic(backlog),
		kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for i := range 24 {
		if err := client.ProduceSync(t.Context(), &kgo.Record{Value: noise(i, 900<<10)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

// watchMemory looks at the resident memory until judge is called, which holds the most it saw against the limit.
func watchMemory(t *testing.T, p *process.Process, limit int64) (judge func()) {
	t.Helper()
	watching, unwatch := context.WithCancel(t.Context())
	var watch sync.WaitGroup
	t.Cleanup(func() {
		unwatch()
		watch.Wait()
	})
	var peak int64
	watch.Go(func() {
		tick := time.NewTicker(sampling)
		defer tick.Stop()
		for watching.Err() == nil {
			n, err := p.PID().RSS()
			if err != nil {
				t.Error(err)
				return
			}
			peak = max(peak, n)
			select {
			case <-tick.C:
			case <-watching.Done():
			}
		}
	})
	return func() {
		t.Helper()
		unwatch()
		watch.Wait()
		t.Logf("at most %.1f MiB resident", float64(peak)/(1<<20))
		if peak > limit {
			t.Errorf("%.1f MiB resident, want at most %d", float64(peak)/(1<<20), limit>>20)
		}
	}
}

// idler is a connection that wants nothing, and is answered when it asks.
type idler struct {
	net.Conn
	ask  []byte
	read func(io.Reader) error // reads the answer, all of it
}

func (c idler) alive(t *testing.T) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(bound)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(c.ask); err != nil {
		t.Fatalf("an idle client finds itself cut off: %v", err)
	}
	if err := c.read(c); err != nil {
		t.Fatalf("an idle client is not answered: %v", err)
	}
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := net.DialTimeout("tcp", address, bound)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// idleKafka are clients that have said who they are, as all do first.
func idleKafka(t *testing.T, p *process.Process, n int) (list []idler) {
	t.Helper()
	for range n {
		c := idler{dial(t, p.Kafka), kafkaFrame(18, 0, nil), readFrame}
		c.alive(t)
		list = append(list, c)
	}
	return list
}

func readFrame(r io.Reader) error {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return err
	}
	_, err := io.CopyN(io.Discard, r, int64(binary.BigEndian.Uint32(size[:])))
	return err
}

func readPong(r io.Reader) error {
	var pong [2]byte
	if _, err := io.ReadFull(r, pong[:]); err != nil {
		return err
	}
	if pong != [2]byte{0xd0, 0} {
		return fmt.Errorf("%x is no PINGRESP", pong)
	}
	return nil
}

// idleMQTT are clients with a session and a subscription.
func idleMQTT(t *testing.T, p *process.Process, n int) (list []idler) {
	t.Helper()
	for i := range n {
		c := idler{dial(t, p.MQTT), []byte{0xc0, 0}, readPong}
		name := fmt.Sprint("idle-", i)
		if _, err := c.Write(append(mqttConnect(name, 0), mqttSubscribe(name+"/#")...)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 4+5)); err != nil { // CONNACK and SUBACK
			t.Fatal(err)
		}
		list = append(list, c)
	}
	return list
}
