package crash

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/bridge/mqtt/packet"
	"millrace/testbench/process"
)

var willRounds = flag.Int("crash.wills", 6, "how often TestWillsAcrossKills kills the server")

const (
	willClients = 12
	willTime    = 150 * time.Millisecond // of one life of the server at most, after it is ready
)

// mourner connects with a will again and again, cuts the connection or takes its leave, and keeps what its wills may have
// come to: how often each may have been published.
type mourner struct {
	id   string
	rng  *rand.Rand
	n    int
	told map[string][2]int // by will: at least, at most
}

// connect returns a connection whose CONNACK came, nil where the server has gone. will may be empty.
func (m *mourner) connect(address, will string) net.Conn {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil
	}
	c := &packet.Connect{Version: packet.V311, ClientID: m.id, CleanStart: true}
	if will != "" {
		c.Will = &packet.Will{Topic: "will/" + m.id, Payload: []byte(will), QoS: 1, Retain: m.rng.IntN(2) == 0}
		m.told[will] = [2]int{0, 1} // nobody has said yet that it is the server's
	}
	ack := make([]byte, 4)
	_, err = conn.Write(c.Append(nil, packet.V311))
	if err == nil {
		_, err = io.ReadFull(conn, ack)
	}
	if err != nil || ack[0]>>4 != byte(packet.CONNACK) || ack[3] != 0 {
		conn.Close() //nolint:errcheck // it has failed already
		return nil
	}
	return conn
}

// live goes on until the server is gone.
func (m *mourner) live(address string) {
	left := "" // the will it took back last
	for {
		m.n++
		will := fmt.Sprint(m.id, "/", m.n)
		conn := m.connect(address, will)
		if conn == nil {
			return
		}
		m.told[will] = [2]int{1, 1}
		if left != "" {
			m.told[left] = [2]int{0, 0} // this one is durable, so its end is
			left = ""
		}
		if m.rng.IntN(3) == 0 {
			m.told[will] = [2]int{0, 1}                                 // nobody says that the DISCONNECT came
			conn.Write((&packet.Disconnect{}).Append(nil, packet.V311)) //nolint:errcheck // as above
			if _, err := conn.Read(make([]byte, 1)); err == io.EOF {
				left = will // the server has read it, and closed
			}
		}
		conn.Close() //nolint:errcheck // as above
	}
}

// TestWillsAcrossKills kills the server while clients with wills come and go. Every will whose CONNECT was acknowledged is
// published once, whatever was killed when, unless its client took its leave.
func TestWillsAcrossKills(t *testing.T) {
	s := *seed
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("-crash.seed=%d -crash.wills=%d", s, *willRounds)
	rng := rand.New(rand.NewPCG(s, 18))
	p := process.Start(t, "")
	var all []*mourner
	for i := range willClients {
		all = append(all, &mourner{id: fmt.Sprint("m", i), rng: rand.New(rand.NewPCG(s, uint64(i))), told: make(map[string][2]int)})
	}
	for range *willRounds {
		var lives sync.WaitGroup
		for _, m := range all {
			lives.Go(func() { m.live(p.MQTT) })
		}
		time.Sleep(time.Duration(rng.Int64N(int64(willTime)))) // the moment of the kill is what the seed chooses
		p.Kill()
		lives.Wait()
		p.Start()
	}
	for _, m := range all { // a client that is back finds its will published
		conn := m.connect(p.MQTT, "")
		if conn == nil {
			t.Fatal("the server is not there")
		}
		defer conn.Close() //nolint:errcheck // nothing is read any more
		// What is acknowledged now is behind all that was on its way.
		ack := make([]byte, 4)
		_, err := conn.Write((&packet.Publish{Topic: "flush", QoS: 1, ID: 1}).Append(nil, packet.V311))
		if err == nil {
			_, err = io.ReadFull(conn, ack)
		}
		if err != nil || ack[0]>>4 != byte(packet.PUBACK) {
			t.Fatalf("%v, %x", err, ack)
		}
	}
	came := willsIn(t, p)
	wills, published := 0, 0
	for _, m := range all {
		for will, want := range m.told {
			wills++
			published += came[will]
			if came[will] < want[0] || came[will] > want[1] {
				t.Errorf("will %s was published %d times, want %d to %d", will, came[will], want[0], want[1])
			}
		}
	}
	if published < willClients {
		t.Errorf("only %d wills of %d were published", published, wills)
	}
	t.Logf("%d wills, %d published", wills, published)
}

// willsIn counts the bodies in the default topic.
func willsIn(t *testing.T, p *process.Process) map[string]int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(p.Kafka), kgo.ConsumeTopics(mqttTopic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, mqttTopic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
	var left int64
	ends.Each(func(o kadm.ListedOffset) { left += o.Offset })
	came := make(map[string]int)
	for left > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			left--
			came[string(r.Value)]++
		})
	}
	return came
}
