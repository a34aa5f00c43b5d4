package hostile

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/bridge/mqtt/packet"
	"millrace/testbench/process"
	"millrace/testbench/procfs"
	"millrace/testbench/swarm"
)

var loadTime = flag.Duration("hostile.load", 8*time.Second, "how long TestMQTTUnderLoad loads each board")

const (
	loadPublishers = 1000
	loadPayload    = 200
	floodFactor    = 10 // times what was acknowledged before the flood are due to be published in it
	floodAhead     = 96
	// stormers connect and leave as fast as they can, and stormRoom is what is left for them of the connections.
	stormers, stormRoom = 16, 48
	mutes               = 4 // subscribers that do not read, of each QoS
	pingers             = 32
	pingMax             = time.Second
	// loadBound is how long what was published may take to be acknowledged and to reach the subscriber in the end.
	loadBound = 2 * time.Minute
)

// TestMQTTUnderLoad is a thousand publishers with QoS 1, a subscriber that wants it all, as many idle clients as the memory
// has room for, subscribers that stop reading, and a storm of clients that come and go, at first at the publishers' own
// pace and then with ten times as much as the board takes. Memory stays under its limit, whoever pings is answered in a
// second, and the subscriber gets each acknowledged message once and in order.
func TestMQTTUnderLoad(t *testing.T) {
	for _, size := range []struct {
		connections int
		limit       int64 // MiB
	}{{2000, 48}, {5000, 80}} {
		t.Run(fmt.Sprintf("%d connections at %d MiB", size.connections, size.limit), func(t *testing.T) {
			p := process.Start(t, fmt.Sprintf("[memory]\nlimit = \"%dMiB\"\n", size.limit))
			confined := confine(t, p, size.limit<<20*cgroupMax/rssMax)
			defer p.Stop() // before its control group goes
			judge := watchMemory(t, p, size.limit<<20)
			idle := idleMQTT(t, p, size.connections-loadPublishers-1-2*mutes-stormRoom)
			silent := muteSubscribers(t, p)
			l := newLoad(t, p)
			l.connect()

			working, done := context.WithCancel(t.Context())
			defer done()
			var others sync.WaitGroup
			pinged := &honest{name: "pinged"}
			share := machineShare(t, p)
			for i := range pingers {
				others.Go(func() { pingAll(working, t, idle, i, pinged) })
			}
			var came, refused atomic.Int64
			for i := range stormers {
				others.Go(func() { storm(working, p.MQTT, i, &came, &refused) })
			}

			calm := l.pace(*loadTime / 4)
			flooded, due := l.flood(calm, *loadTime*3/4)
			l.finish()
			done()
			others.Wait()
			for _, c := range idle {
				c.alive(t)
			}
			t.Logf("%.0f/s acknowledged one at a time; then %.0f/s of %.0f due; %d messages in all; %d clients came and went, %d were refused",
				calm, flooded, due, l.acked, came.Load(), refused.Load())
			t.Log(pinged)
			if pinged.count.Load() < pingers {
				t.Errorf("only %v", pinged)
			}
			// On a machine that does other work too, both of us wait for it.
			got := share()
			t.Logf("%.0f %% of the machine's time was the broker's and this test's own", 100*got)
			if worst, most := time.Duration(pinged.worst.Load()), time.Duration(float64(pingMax)/got); worst > most {
				t.Errorf("a ping was answered after %v, want at most %v", worst, most)
			}
			if came.Load() == 0 {
				t.Error("there was no storm")
			}
			for _, c := range silent {
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			}
			judge()
			if confined != nil {
				if n := confined.kills(t); n != 0 {
					t.Errorf("%d kills for want of memory", n)
				}
			}
		})
	}
}

// load is the publishers and the subscriber that gets what they publish.
type load struct {
	*swarm.Swarm
	t           *testing.T
	address     string
	pubs        [loadPublishers]loader
	ready       int
	acked, sent int
	paced       bool                   // each publishes again when it is acknowledged
	next        [loadPublishers]uint64 // what the subscriber gets next of each
	received    int
}

type loader struct {
	*swarm.Client
	message     *swarm.Publish
	sent, acked uint64
}

func newLoad(t *testing.T, p *process.Process) *load {
	t.Helper()
	s, err := swarm.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &load{Swarm: s, t: t, address: p.MQTT}
}

// turn is one Turn, which must not fail.
func (l *load) turn(until time.Time) {
	l.t.Helper()
	if err := l.Turn(until); err != nil {
		l.t.Fatal(err)
	}
}

// connect connects the subscriber, and then the publishers.
func (l *load) connect() {
	l.t.Helper()
	sub := l.open("load-subscriber")
	sub.Take = func(p []byte) error {
		sub.Append(&packet.Subscribe{ID: 1, Filters: []packet.Subscription{{Filter: "load/#", QoS: 1}}}, packet.V311)
		sub.Take = func(p []byte) error {
			l.ready++
			sub.Take = func(p []byte) error { return l.receive(sub, p) }
			return expect(p, packet.SUBACK, 1, 1)
		}
		return expect(p, packet.CONNACK, 1, 0)
	}
	limit := time.Now().Add(loadBound)
	for wanted := 1; l.ready < 1+loadPublishers; {
		for l.ready == wanted && wanted < 1+loadPublishers {
			pub := &l.pubs[wanted-1]
			pub.message = swarm.NewPublish(packet.V311, fmt.Sprintf("load/%d", wanted-1), loadPayload)
			pub.Client = l.open(fmt.Sprintf("load-%d", wanted-1))
			pub.Take = func(p []byte) error {
				l.ready++
				pub.Take = func(p []byte) error { return l.ack(pub, p) }
				return expect(p, packet.CONNACK, 1, 0)
			}
			wanted++
		}
		if l.turn(limit); time.Now().After(limit) {
			l.t.Fatalf("%d clients are connected after %v", l.ready, loadBound)
		}
	}
}

func (l *load) open(id string) *swarm.Client {
	l.t.Helper()
	c, err := l.Dial(l.address)
	if err != nil {
		l.t.Fatal(err)
	}
	c.Append(&packet.Connect{Version: packet.V311, CleanStart: true, ClientID: id}, packet.V311)
	c.Gone = func(err error) { l.t.Fatalf("the connection of %s has ended: %v", id, err) }
	return c
}

// expect says whether a packet is of a type and ends in a byte that says yes, at its place from the end.
func expect(p []byte, kind packet.Type, fromEnd int, yes byte) error {
	if packet.Type(p[0]>>4) != kind || p[len(p)-fromEnd] != yes {
		return fmt.Errorf("% x is no good %v", p, kind)
	}
	return nil
}

func (l *load) publish(n int) {
	pub := &l.pubs[n]
	binary.BigEndian.PutUint32(pub.message.Payload(), uint32(n))
	binary.BigEndian.PutUint64(pub.message.Payload()[4:], pub.sent)
	pub.message.Send(pub.Client, uint16(pub.sent%0xffff)+1)
	pub.sent++
	l.sent++
}

// ack takes a PUBACK: they come in the order of the publishes [MQTT-4.6.0-2].
func (l *load) ack(pub *loader, p []byte) error {
	if packet.Type(p[0]>>4) != packet.PUBACK {
		return fmt.Errorf("a publisher is sent % x", p)
	}
	id, _, err := swarm.Acked(p)
	if want := uint16(pub.acked%0xffff) + 1; err == nil && id != want {
		err = fmt.Errorf("PUBACK %d, want %d", id, want)
	}
	if err != nil {
		return err
	}
	pub.acked++
	l.acked++
	if l.paced {
		l.publish(int(binary.BigEndian.Uint32(pub.message.Payload())))
	}
	return nil
}

// receive takes a message of the subscriber: the next of its publisher.
func (l *load) receive(sub *swarm.Client, p []byte) error {
	if packet.Type(p[0]>>4) != packet.PUBLISH {
		return fmt.Errorf("the subscriber is sent % x", p)
	}
	r, err := swarm.Read(p, packet.V311)
	if err != nil {
		return err
	}
	if len(r.Payload) != loadPayload || r.QoS != 1 || r.Dup {
		return fmt.Errorf("%d bytes with QoS %d on %s, DUP %v", len(r.Payload), r.QoS, r.Topic, r.Dup)
	}
	n, number := binary.BigEndian.Uint32(r.Payload), binary.BigEndian.Uint64(r.Payload[4:])
	if n >= loadPublishers || number != l.next[n] {
		return fmt.Errorf("message %d of publisher %d, want %d", number, n, l.next[n])
	}
	l.next[n]++
	l.received++
	sub.Puback(r.ID)
	return nil
}

// pace has every publisher publish whenever it is acknowledged, and returns how many messages a second that is.
func (l *load) pace(span time.Duration) (perSecond float64) {
	l.t.Helper()
	l.paced = true
	for n := range l.pubs {
		l.publish(n)
	}
	begin, before := time.Now(), l.acked
	for end := begin.Add(span); time.Now().Before(end); {
		l.turn(end)
	}
	l.paced = false
	return float64(l.acked-before) / time.Since(begin).Seconds()
}

// flood has floodFactor times so many messages a second due, each publisher's in its turn. One that has floodAhead
// unacknowledged, which is more than the broker takes at once, cannot send. It returns how many a second were
// acknowledged, and due.
func (l *load) flood(rate float64, span time.Duration) (perSecond, due float64) {
	l.t.Helper()
	begin, before := time.Now(), l.acked
	for k := 0; time.Since(begin) < span; {
		now := int(time.Since(begin).Seconds() * rate * floodFactor) // once: this program may be too slow to get there
		for ; k < now && time.Since(begin) < span; k++ {
			if pub := &l.pubs[k%loadPublishers]; pub.sent-pub.acked < floodAhead {
				l.publish(k % loadPublishers)
			}
			if k%1000 == 0 {
				l.turn(time.Now())
			}
		}
		l.turn(time.Now().Add(time.Millisecond))
		due = float64(now)
	}
	took := time.Since(begin).Seconds()
	return float64(l.acked-before) / took, due / took
}

// finish waits until everything is acknowledged and received.
func (l *load) finish() {
	l.t.Helper()
	begin := time.Now()
	for limit := begin.Add(loadBound); l.acked < l.sent || l.received < l.sent; {
		if l.turn(limit); time.Now().After(limit) {
			l.t.Fatalf("%v after the flood %d of %d messages are acknowledged and %d received", loadBound, l.acked, l.sent, l.received)
		}
	}
	l.t.Logf("everything was acknowledged and received %v after the flood", time.Since(begin).Round(time.Millisecond))
}

// muteSubscribers want everything that is published, with QoS 0 and 1, and never read a byte of it.
func muteSubscribers(t *testing.T, p *process.Process) (list []net.Conn) {
	t.Helper()
	for i := range 2 * mutes {
		c, err := net.DialTimeout("tcp", p.MQTT, bound)
		if err != nil {
			t.Fatal(err)
		}
		subscribe := mqttSubscribe("load/#")
		subscribe[len(subscribe)-1] = byte(i % 2)
		if err := errors.Join(c.(*net.TCPConn).SetReadBuffer(4<<10), written(c, append(mqttConnect(fmt.Sprint("mute-", i), 0), subscribe...))); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 4+5)); err != nil { // CONNACK and SUBACK
			t.Fatal(err)
		}
		list = append(list, c)
	}
	return list
}

func written(c net.Conn, b []byte) error {
	_, err := c.Write(b)
	return err
}

// pingAll pings with every pingers-th of the idle clients, one after the other, until ctx ends.
func pingAll(ctx context.Context, t *testing.T, idle []idler, first int, pinged *honest) {
	for n := first; ctx.Err() == nil; n += pingers {
		c := idle[n%len(idle)]
		begin := time.Now()
		err := errors.Join(c.SetDeadline(begin.Add(bound)), written(c, c.ask))
		if err == nil {
			err = c.read(c)
		}
		if err != nil {
			t.Errorf("a ping after %v: %v", time.Since(begin), err)
			return
		}
		pinged.did(begin)
		<-time.After(sampling / 2)
	}
}

// machineShare begins to look at who has the CPUs. share is what part of their time others left to the broker and to this
// program, whether it was used or not.
func machineShare(t *testing.T, p *process.Process) (share func() float64) {
	t.Helper()
	read := func() (all, others time.Duration) {
		all, busy, err := procfs.Machine()
		if err != nil {
			t.Fatal(err)
		}
		others = busy
		for _, pid := range []procfs.PID{p.PID(), procfs.PID(os.Getpid())} {
			own, err := pid.CPU()
			if err != nil {
				t.Fatal(err)
			}
			others -= own
		}
		return all, others
	}
	all, others := read()
	return func() float64 {
		allNow, othersNow := read()
		return min(1, max(0.05, 1-float64(othersNow-others)/float64(allNow-all)))
	}
}

// storm comes and goes until ctx ends: with every manner there is, and without.
func storm(ctx context.Context, address string, n int, came, refused *atomic.Int64) {
	for k := 0; ctx.Err() == nil; k++ {
		c, err := net.DialTimeout("tcp", address, bound)
		if err != nil { // no port is free just now
			refused.Add(1)
			<-time.After(sampling)
			continue
		}
		err = errors.Join(c.SetDeadline(time.Now().Add(bound)), written(c, mqttConnect(fmt.Sprintf("storm-%d-%d", n, k), 10)))
		if err == nil && k%3 > 0 {
			_, err = io.ReadFull(c, make([]byte, 4))
			if err == nil && k%3 == 1 {
				err = written(c, []byte{0xe0, 0})
			}
		}
		if k%3 != 1 { // as a client that crashes
			err = errors.Join(err, c.(*net.TCPConn).SetLinger(0))
		}
		if err = errors.Join(err, c.Close()); err != nil {
			refused.Add(1)
			continue
		}
		came.Add(1)
	}
}
