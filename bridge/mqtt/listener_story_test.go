package mqtt_test

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/mqtt"
	"millrace/bridge/mqtt/packet"
)

// quay is a listener of pipes, with the kernel's queue.
type quay struct {
	waiting chan net.Conn
	closed  chan struct{}
}

func newQuay() *quay {
	return &quay{waiting: make(chan net.Conn, 10_000), closed: make(chan struct{})}
}

func (q *quay) Accept() (net.Conn, error) {
	select {
	case conn := <-q.waiting:
		return conn, nil
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

func (q *quay) Close() error {
	close(q.closed)
	return nil
}

func (q *quay) Addr() net.Addr { return &net.UnixAddr{Name: "quay", Net: "unix"} }

// listen serves a listener of pipes until the story ends.
func (w *world) listen(l *mqtt.Listener) *quay {
	q := newQuay()
	if f, ok := l.Listener.(*flaky); ok {
		q = f.quay
	} else {
		l.Listener = q
	}
	l.Anonymous = true
	s := w.server()
	go func() {
		if err := s.Serve(l); !errors.Is(err, mqtt.ErrClosed) {
			w.t.Error(err)
		}
	}()
	return q
}

// dial queues a connection that says CONNECT as soon as it is accepted.
func (q *quay) dial(w *world, id string) *peer {
	return q.connect(w, &packet.Connect{Version: packet.V5, ClientID: id, CleanStart: true})
}

func (q *quay) connect(w *world, c *packet.Connect) *peer {
	here, there := net.Pipe()
	q.waiting <- there
	p := &peer{t: w.t, conn: here, v: c.Version, got: make(chan packet.Packet, 10_000)}
	w.t.Cleanup(func() { here.Close() })
	p.sendSlowly(c)
	return p.read()
}

// A storm of connections comes in at the listener's rate, after as many at once; who is in, and who uses another listener,
// does not notice.
func TestAConnectStormComesInAtARate(t *testing.T) {
	story(t, func(w *world) {
		const rate, storm = 50, 500
		calm, busy := w.listen(&mqtt.Listener{Rate: rate}), w.listen(&mqtt.Listener{Rate: rate})
		in := busy.dial(w, "in")
		in.wants("connack 0x00")
		time.Sleep(10 * time.Second) // what was not used is not saved up
		for i := range storm {
			busy.dial(w, fmt.Sprint("storm", i))
		}
		for second := range 5 {
			synctest.Wait()
			if n, want := w.s.Connections(), 1+second+rate*(second+1); n < want-2 || n > want+1 {
				t.Errorf("%d connections after %d s, want %d", n, second, want)
			}
			began := time.Now()
			in.send(&packet.Ping{})
			in.wants("pingresp")
			calm.dial(w, fmt.Sprint("calm", second)).wants("connack 0x00")
			if took := time.Since(began); took != 0 {
				t.Errorf("others waited %v", took)
			}
			time.Sleep(time.Second)
		}
		time.Sleep(storm / rate * time.Second)
		synctest.Wait()
		if n := w.s.Connections(); n != 1+5+storm {
			t.Errorf("%d connections in the end", n)
		}
	})
}

func TestAListenerHasAsManyConnectionsAsItIsGiven(t *testing.T) {
	story(t, func(w *world) {
		small, other := w.listen(&mqtt.Listener{MaxConnections: 2}), w.listen(&mqtt.Listener{})
		a := small.dial(w, "a")
		a.wants("connack 0x00")
		small.dial(w, "b").wants("connack 0x00")
		small.dial(w, "c").wants("closed")
		other.dial(w, "d").wants("connack 0x00")
		a.send(&packet.Disconnect{})
		a.wants("closed")
		small.dial(w, "e").wants("connack 0x00")
		small.dial(w, "f").wants("closed")
	})
}

// A listener whose Accept fails for a while goes on: descriptors come back.
func TestAcceptingGoesOn(t *testing.T) {
	story(t, func(w *world) {
		q := w.listen(&mqtt.Listener{Listener: &flaky{newQuay(), 5}})
		synctest.Wait()
		p := q.dial(w, "a")
		time.Sleep(time.Second)
		p.wants("connack 0x00")
	})
}

type flaky struct {
	*quay
	left int
}

func (f *flaky) Accept() (net.Conn, error) {
	if f.left--; f.left >= 0 {
		return nil, errors.New("too many open files")
	}
	return f.quay.Accept()
}

// MQTT 5 is told the keep alive that holds (3.2.2.3.14); 3.1.1 is refused as Mosquitto does it, for it cannot be told.
func TestKeepAliveIsBounded(t *testing.T) {
	story(t, func(w *world) {
		w.cfg.MaxKeepAlive = 100
		for _, asked := range []uint16{0, 1, 100, 101, 65535} {
			given := func(c *packet.Connect) { c.KeepAlive = asked }
			p := w.connect(packet.V5, "a", given)
			synctest.Wait()
			ack, ok := (<-p.got).(*packet.Connack)
			over := asked == 0 || asked > 100
			if !ok || ack.Reason != packet.Success || ack.Properties.Has(packet.ServerKeepAlive) != over || over && ack.Properties.ServerKeepAlive != 100 {
				t.Fatalf("%d: %+v", asked, ack)
			}
			if over {
				time.Sleep(149 * time.Second)
				p.wants()
				time.Sleep(2 * time.Second)
				p.wants("disconnect 0x8D", "closed")
			}
			old := w.connect(packet.V311, "b", given)
			if over {
				old.wants("connack 0x02", "closed")
			} else {
				old.wants("connack 0x00")
			}
		}
	})
}

// Each limit of a client holds at its value and not a step before.
func TestLimitsOfAClient(t *testing.T) {
	story(t, func(w *world) {
		w.cfg.MaxSubscriptions, w.cfg.MaxTopicLevels, w.cfg.MaxInflight, w.cfg.MaxSessions = 3, 4, 2, 4
		a := w.connect(packet.V5, "a").send(sub(1, "a", "b", "c", "d", "a"), sub(2, "1/2/3/4", "1/2/3/4/5"))
		a.wants("connack 0x00", "suback 1 [0x01 0x01 0x01 0x97 0x01]", "suback 2 [0x97 0x8F]")
		p := w.connect(packet.V5, "p").send(pub("1/2/3/4", "1", 1, 1), pub("1/2/3/4/5", "1", 1, 2))
		p.wants("connack 0x00", "puback 1 0x00", "puback 2 0x90")
		p.send(pub("a", "1", 1, 3), pub("a", "2", 1, 4), pub("a", "3", 1, 5))
		p.wants("puback 3 0x00", "puback 4 0x00", "puback 5 0x00")
		a.wants(`publish a "1" q1 id1`, `publish a "2" q1 id2`) // and no third before one is acknowledged
		a.send(ack(1))
		a.wants(`publish a "3" q1 id3`)
		w.connect(packet.V5, "w", func(c *packet.Connect) { c.Will = &packet.Will{Topic: strings.Repeat("/", 4)} }).wants("connack 0x90", "closed")
		w.connect(packet.V5, "c").wants("connack 0x00")
		w.connect(packet.V5, "d").wants("connack 0x00")
		w.connect(packet.V5, "e").wants("connack 0x97", "closed")
		w.connect(packet.V311, "f").wants("connack 0x03", "closed")
	})
}
