package mqtt_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/mqtt"
	"millrace/bridge/mqtt/mqtttest"
	"millrace/bridge/mqtt/packet"
)

// world is a server on a log in memory and clients on pipes, in a bubble of its own time.
type world struct {
	t   *testing.T
	log *mqtttest.Log
	cfg mqtt.Config
	s   *mqtt.Server
}

// story runs fn in a bubble; every goroutine must have ended with it.
func story(t *testing.T, fn func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, log: &mqtttest.Log{}, cfg: mqtt.Config{AllowAnonymous: true}}
		w.cfg.Log = w.log
		// Deferred, because a Fatal in fn leaves by Goexit: with a server that still runs the bubble would panic and hide why.
		defer func() {
			if w.s != nil {
				if err := w.s.Close(); err != nil {
					t.Error(err)
				}
			}
		}()
		fn(w)
	})
}

func (w *world) server() *mqtt.Server {
	w.t.Helper()
	if w.s == nil {
		s, err := mqtt.New(w.cfg)
		if err != nil {
			w.t.Fatal(err)
		}
		w.s = s
	}
	return w.s
}

// restart closes the server and starts another on the same log.
func (w *world) restart() {
	w.t.Helper()
	if err := w.server().Close(); err != nil {
		w.t.Fatal(err)
	}
	w.s = nil
	w.server()
}

// peer is the other end of a connection. What the server sends is read as it comes, unless paused.
type peer struct {
	t    *testing.T
	conn net.Conn
	v    packet.Version
	got  chan packet.Packet // closed when the server closes
	over bool               // it has closed, and take has not told yet
	out  chan []byte        // of post
}

// dial opens a connection whose packets are read as they come.
func (w *world) dial(v packet.Version) *peer { return w.pipe(v).read() }

// pipe opens a connection nobody reads from before read is called.
func (w *world) pipe(v packet.Version) *peer {
	here, there := net.Pipe()
	w.server().ServeConn(there)
	p := &peer{t: w.t, conn: here, v: v, got: make(chan packet.Packet, 10_000)}
	w.t.Cleanup(func() { here.Close() })
	return p
}

func (p *peer) read() *peer {
	go func() {
		defer close(p.got)
		var buf []byte
		tmp := make([]byte, 4096)
		for {
			for {
				n, err := packet.Frame(buf)
				if err != nil {
					p.t.Error(err)
					return
				}
				if n == 0 || n > len(buf) {
					break
				}
				pkt, err := packet.Decode(bytes.Clone(buf[:n]), p.v, packet.Limits{})
				if err != nil {
					p.t.Errorf("the server sent %x: %v", buf[:n], err)
					return
				}
				p.got <- pkt
				buf = buf[n:]
			}
			n, err := p.conn.Read(tmp)
			buf = append(buf, tmp[:n]...)
			if err != nil {
				return
			}
		}
	}()
	return p
}

func (p *peer) send(pkts ...packet.Packet) *peer {
	p.t.Helper()
	for _, pkt := range pkts {
		if _, err := p.conn.Write(pkt.Append(nil, p.v)); err != nil && !errors.Is(err, io.ErrClosedPipe) {
			p.t.Fatal(err)
		}
	}
	return p
}

// sendSlowly sends without waiting for the server to read.
func (p *peer) sendSlowly(pkts ...packet.Packet) {
	var all []byte
	for _, pkt := range pkts {
		all = pkt.Append(all, p.v)
	}
	go func() {
		if _, err := p.conn.Write(all); err != nil && !errors.Is(err, io.ErrClosedPipe) {
			p.t.Error(err)
		}
	}()
}

// takePackets waits until all is quiet and returns what has come since.
func (p *peer) takePackets() (got []packet.Packet) {
	p.t.Helper()
	synctest.Wait()
	for {
		select {
		case pkt, ok := <-p.got:
			if ok {
				got = append(got, pkt)
				continue
			}
			p.got, p.over = nil, true
		default:
		}
		return got
	}
}

// take is takePackets in words; "closed" comes last.
func (p *peer) take() (got []string) {
	p.t.Helper()
	for _, pkt := range p.takePackets() {
		got = append(got, show(pkt))
	}
	if p.over {
		p.over = false // it is told once
		got = append(got, "closed")
	}
	return got
}

// wants compares what has come since all was last quiet.
func (p *peer) wants(want ...string) {
	p.t.Helper()
	if g, w := strings.Join(p.take(), "\n"), strings.Join(want, "\n"); g != w {
		p.t.Errorf("got\n%s\nwant\n%s", g, w)
	}
}

func show(p packet.Packet) string {
	switch p := p.(type) {
	case *packet.Connack:
		if p.SessionPresent {
			return fmt.Sprintf("connack %v present", p.Reason)
		}
		return fmt.Sprintf("connack %v", p.Reason)
	case *packet.Publish:
		s := fmt.Sprintf("publish %s %q q%d", p.Topic, p.Payload, p.QoS)
		if p.ID != 0 {
			s += fmt.Sprintf(" id%d", p.ID)
		}
		if p.Retain {
			s += " retain"
		}
		if p.Dup {
			s += " dup"
		}
		if p.Properties != nil && len(p.Properties.SubscriptionIDs) > 0 {
			s += fmt.Sprint(" subs", p.Properties.SubscriptionIDs)
		}
		if p.Properties.Has(packet.MessageExpiry) {
			s += fmt.Sprint(" expiry", p.Properties.MessageExpiry)
		}
		return s
	case *packet.Ack:
		return strings.ToLower(fmt.Sprintf("%v %d %v", p.Kind, p.ID, p.Reason))
	case *packet.Suback:
		return fmt.Sprintf("suback %d %v", p.ID, p.Reasons)
	case *packet.Unsuback:
		return fmt.Sprintf("unsuback %d %v", p.ID, p.Reasons)
	case *packet.Disconnect:
		return fmt.Sprintf("disconnect %v", p.Reason)
	}
	return strings.ToLower(p.Type().String())
}

// connect sends CONNECT: clean sessions without expiry unless a change says otherwise.
func (w *world) connect(v packet.Version, id string, change ...func(*packet.Connect)) *peer {
	c := &packet.Connect{Version: v, ClientID: id, CleanStart: true}
	for _, fn := range change {
		fn(c)
	}
	return w.dial(v).send(c)
}

func keep(c *packet.Connect) { // a session that outlives the connection
	c.CleanStart = false
	if c.Version == packet.V5 {
		props(c, packet.SessionExpiry).SessionExpiry = 3600
	}
}

func props(c *packet.Connect, id packet.Property) *packet.Properties {
	if c.Properties == nil {
		c.Properties = new(packet.Properties)
	}
	c.Properties.Present |= packet.Of(id)
	return c.Properties
}

func pub(topic, body string, qos byte, id uint16) *packet.Publish {
	return &packet.Publish{Topic: topic, Payload: []byte(body), QoS: qos, ID: id}
}

func sub(id uint16, filters ...string) *packet.Subscribe {
	s := &packet.Subscribe{ID: id}
	for _, f := range filters {
		s.Filters = append(s.Filters, packet.Subscription{Filter: f, QoS: 1})
	}
	return s
}

func ack(id uint16) *packet.Ack { return &packet.Ack{Kind: packet.PUBACK, ID: id} }

func both(t *testing.T, fn func(w *world, v packet.Version)) {
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		t.Run(fmt.Sprintf("v%d", v), func(t *testing.T) { story(t, func(w *world) { fn(w, v) }) })
	}
}

func TestPublishReachesSubscribers(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		a := w.connect(v, "a").send(sub(1, "x/+/z", "x/#"))
		a.wants("connack 0x00", "suback 1 [0x01 0x01]")
		b := w.connect(v, "b").send(pub("x/y/z", "one", 1, 7), pub("x/y", "two", 0, 0), pub("w", "no", 1, 8))
		b.wants("connack 0x00", "puback 7 0x00", "puback 8 0x00")
		a.wants(`publish x/y/z "one" q1 id1`, `publish x/y "two" q0`)
	})
}

// PUBACK says that the message is the server's: it is durable [MQTT-4.3.2-4].
func TestPubackWaitsForTheCommitAndKeepsOrder(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		w.log.NumPartitions = 4
		a := w.connect(v, "a")
		w.log.Hold()
		a.send(pub("t/1", "1", 1, 1), pub("t/2", "2", 1, 2), pub("t/3", "3", 1, 3), &packet.Ping{})
		a.wants("connack 0x00", "pingresp")
		if w.log.Held() != 3 {
			t := w.log.Held()
			a.t.Errorf("%d publishes on their way, want 3", t)
		}
		w.log.Release()
		a.wants("puback 1 0x00", "puback 2 0x00", "puback 3 0x00")
	})
}

func TestNoPubackBeforeItsOwnCommitOrOutOfOrder(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		w.log.NumPartitions = 4
		a := w.connect(v, "a")
		w.log.Hold()
		a.send(pub("t/1", "1", 1, 1), pub("t/2", "2", 1, 2), pub("t/3", "3", 1, 3))
		a.wants("connack 0x00")
		w.log.ReleaseOne(1)
		a.wants() // the first is not durable
		w.log.ReleaseOne(0)
		a.wants("puback 1 0x00", "puback 2 0x00") // the third is not
		w.log.Release()
		a.wants("puback 3 0x00")
	})
}

// Room for publishes on their way grows with them, in whatever place of it the first one is.
func TestManyPublishesOnTheirWayAreAcknowledgedInOrder(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		w.cfg.ReceiveMaximum = 13
		a := w.connect(v, "a")
		a.wants("connack 0x00")
		id := uint16(0)
		for _, most := range []int{1, 2, 3, 5, 7, 13, 4} {
			w.log.Hold()
			var acks []string
			for range most {
				id++
				a.send(pub("t", "x", 1, id))
				acks = append(acks, fmt.Sprintf("puback %d 0x00", id))
			}
			a.wants()
			if n := w.log.Held(); n != most {
				a.t.Errorf("%d publishes on their way, want %d", n, most)
			}
			w.log.ReleaseOne(0)
			a.wants(acks[0])
			id++
			a.send(pub("t", "x", 1, id)) // in the place of the first
			a.wants()
			w.log.Release()
			a.wants(append(acks[1:], fmt.Sprintf("puback %d 0x00", id))...)
		}
	})
}

func TestReadingStopsAtReceiveMaximum(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		w.cfg.ReceiveMaximum = 2
		a := w.connect(v, "a")
		w.log.Hold()
		a.sendSlowly(pub("t", "1", 1, 1), pub("t", "2", 1, 2), pub("t", "3", 1, 3), pub("t", "4", 1, 4))
		a.wants("connack 0x00")
		if n := w.log.Held(); n != 2 {
			a.t.Errorf("%d publishes on their way, want 2", n)
		}
		w.log.Release()
		a.wants("puback 1 0x00", "puback 2 0x00", "puback 3 0x00", "puback 4 0x00")
	})
}

// Who can be told that the disk is full is told; who cannot waits for room. Any other failure of the disk ends its connection
// ([MQTT-4.8.0-2] of 3.1.1).
func TestARefusedMessageIsNeverAcknowledged(t *testing.T) {
	story(t, func(w *world) {
		w.log.Fail(fmt.Errorf("disk at its reserve: %w", mqtt.ErrFull))
		a := w.connect(packet.V5, "a").send(pub("t", "1", 1, 1))
		a.wants("connack 0x00", "puback 1 0x97")
		b := w.connect(packet.V311, "b").send(pub("t", "1", 1, 1))
		b.wants("connack 0x00")
		b.sendSlowly(pub("t", "2", 1, 2), &packet.Ping{})
		time.Sleep(time.Hour)
		b.wants("pingresp")
		w.log.Fail(nil)
		b.wants()
		time.Sleep(time.Second)
		b.wants("puback 1 0x00", "puback 2 0x00")
		if got := w.stored(); got != "1 2" {
			t.Errorf("the log has %q", got)
		}
		a.send(pub("t", "1", 1, 2))
		a.wants("puback 2 0x00")
		w.log.Fail(errors.New("the disk has failed"))
		b.send(pub("t", "3", 1, 3))
		b.wants("closed")
		a.send(pub("t", "3", 1, 3))
		a.wants("puback 3 0x80")
	})
}

// [MQTT-3.3.5-2] of 3.1.1
func TestTopicsNoRouteTakes(t *testing.T) {
	story(t, func(w *world) {
		a := w.connect(packet.V5, "a").send(pub("$SYS/x", "1", 1, 1), pub(strings.Repeat("a/", 70), "1", 1, 2), pub("ok", "", 1, 3))
		a.wants("connack 0x00", "puback 1 0x90", "puback 2 0x90", "puback 3 0x00")
		w.connect(packet.V311, "b").send(pub("$SYS/x", "1", 1, 1)).wants("connack 0x00", "closed")
	})
}
