package crash

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"millrace/bridge/mqtt/packet"
)

// agent is one MQTT client with a durable session that lives through all crashes of the server and keeps what the
// specification has it keep. What it finds wrong it tells fault.
type agent struct {
	name    string
	address string
	version packet.Version
	rng     *rand.Rand
	fault   func(format string, args ...any)
	known   bool         // the server has said that it has the session
	steps   atomic.Int64 // of progress, as progress wants it
	conn    net.Conn
	failed  bool // the connection
	greeted bool // by CONNACK, on this connection
}

const (
	silence = 100 * time.Millisecond // between two attempts to connect
	pace    = 2 * time.Millisecond   // between two looks at what to do next
	inhand  = 24                     // publishes of one client that are not completed
)

// live connects again and again until ctx ends. greeted is called for every connection, take for each packet, idle now
// and then.
func (a *agent) live(ctx context.Context, greeted func(), take func(packet.Packet), idle func()) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for ctx.Err() == nil {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", a.address)
		if err != nil {
			select {
			case <-time.After(silence):
			case <-ctx.Done():
			}
			continue
		}
		a.conn, a.failed, a.greeted = conn, false, false
		packets := make(chan packet.Packet, 1)
		var reading sync.WaitGroup
		reading.Go(func() {
			defer close(packets)
			if err := a.read(packets); err != nil {
				a.fault("%s: the server sent what it must not: %v", a.name, err)
			}
		})
		c := &packet.Connect{Version: a.version, ClientID: a.name}
		if a.version == packet.V5 {
			c.Properties = &packet.Properties{Present: packet.Of(packet.SessionExpiry), SessionExpiry: 3600}
		}
		a.send(c)
		for open := true; open && !a.failed; {
			var p packet.Packet
			select {
			case p, open = <-packets:
				if !open {
					continue
				}
				if ack, ok := p.(*packet.Connack); !ok {
					take(p)
				} else if ack.Reason != packet.Success || a.known && !ack.SessionPresent {
					a.fault("%s: CONNACK %v, session present %v", a.name, ack.Reason, ack.SessionPresent)
				} else {
					a.greeted = true
					greeted()
				}
			case <-tick.C:
				if a.greeted {
					idle()
				}
			case <-ctx.Done():
				open = false
			}
		}
		conn.Close()        //nolint:errcheck // it has ended already, or ends here
		for range packets { // what came last is lost, as anything on a connection may be
		}
		reading.Wait()
	}
}

// read reads packets until the connection ends.
func (a *agent) read(packets chan<- packet.Packet) error {
	conn := a.conn
	buf := make([]byte, 0, 256<<10)
	for {
		n, err := packet.Frame(buf)
		if err != nil {
			return err
		}
		if n > 0 && n <= len(buf) {
			p, err := packet.Decode(slices.Clone(buf[:n]), a.version, packet.Limits{})
			if err != nil {
				return err
			}
			packets <- p
			buf = append(buf[:0], buf[n:]...)
			continue
		}
		buf = slices.Grow(buf, max(n-len(buf), 4096))
		got, err := conn.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+got]
		if err != nil {
			return nil // whatever it is, a crash can be the reason
		}
	}
}

func (a *agent) send(p packet.Packet) {
	if !a.failed {
		if _, err := a.conn.Write(p.Append(nil, a.version)); err != nil {
			a.failed = true
			if !errors.Is(err, io.EOF) {
				a.conn.Close() //nolint:errcheck // the write has told that it is over
			}
		}
	}
}

// sending is a publish that is not completed.
type sending struct {
	topic    string
	qos      byte
	n        int
	id       uint16
	received bool
}

// talker publishes with QoS 1 and 2.
type talker struct {
	*agent
	seed uint64
	last uint16
	sent []*sending
	quit atomic.Bool    // nothing new
	left chan struct{}  // closed when nothing is left
	next map[string]int // by topic and QoS; for others once left is closed
}

func key(topic string, qos byte) string { return fmt.Sprintf("%s/%d", topic, qos) }

func (t *talker) run(ctx context.Context) {
	publish := func(s *sending, dup bool) {
		t.send(&packet.Publish{
			Topic: s.topic, QoS: s.qos, ID: s.id, Dup: dup, Payload: payload(t.seed, key(s.topic, s.qos), s.n),
		})
	}
	t.live(ctx, func() {
		for _, s := range t.sent {
			if s.received {
				t.send(&packet.Ack{Kind: packet.PUBREL, ID: s.id})
			} else {
				publish(s, true)
			}
		}
	}, func(p packet.Packet) {
		a, ok := p.(*packet.Ack)
		if !ok {
			return
		}
		i := slices.IndexFunc(t.sent, func(s *sending) bool { return s.id == a.ID })
		if i < 0 || a.Reason.Failed() && a.Reason != packet.PacketIDNotFound {
			t.fault("%s: %v %d %v", t.name, a.Kind, a.ID, a.Reason)
			return
		}
		if a.Kind == packet.PUBREC {
			t.known = true // PUBREC was a promise that outlives the server
			t.sent[i].received = true
			t.send(&packet.Ack{Kind: packet.PUBREL, ID: a.ID})
			return
		}
		t.sent = slices.Delete(t.sent, i, i+1)
		t.steps.Add(1)
	}, func() {
		if t.quit.Load() {
			if len(t.sent) == 0 && t.left != nil {
				close(t.left)
				t.left = nil
			}
			return
		}
		for range t.rng.IntN(4) {
			if t.failed || len(t.sent) >= inhand {
				return
			}
			if t.last++; t.last == 0 {
				t.last = 1
			}
			topic, qos := fmt.Sprintf("%s/%d", t.name, t.rng.IntN(2)), byte(1+t.rng.IntN(2))
			s := &sending{topic: topic, qos: qos, n: t.next[key(topic, qos)], id: t.last}
			t.next[s.key()]++
			t.sent = append(t.sent, s)
			publish(s, false)
		}
	})
}

func (s *sending) key() string { return key(s.topic, s.qos) }

// listener subscribes with QoS 2 and takes its time to answer.
type listener struct {
	*agent
	seed    uint64
	held    map[uint16]bool // identifiers of QoS 2 that are not released
	answers []*packet.Ack
	first   chan struct{} // closed with SUBACK

	mu   sync.Mutex
	next map[string]int // by topic and QoS: one more than the highest that came
}

func (l *listener) run(ctx context.Context) {
	l.live(ctx, func() {
		l.answers = nil
		if !l.known {
			l.send(&packet.Subscribe{ID: 1, Filters: []packet.Subscription{{Filter: "#", QoS: 2}}})
		}
	}, l.take, func() {
		for n := l.rng.IntN(len(l.answers) + 1); n > 0; n-- {
			l.send(l.answers[0])
			l.answers = l.answers[1:]
		}
		if l.known && l.rng.IntN(300) == 0 {
			l.failed = true // a connection may end by itself, too
		}
	})
}

func (l *listener) take(pkt packet.Packet) {
	switch p := pkt.(type) {
	case *packet.Suback:
		if !l.known {
			l.known = true
			close(l.first)
		}
	case *packet.Ack:
		if p.Kind != packet.PUBREL {
			l.fault("%s: %v %d", l.name, p.Kind, p.ID)
			return
		}
		delete(l.held, p.ID)
		l.answers = append(l.answers, &packet.Ack{Kind: packet.PUBCOMP, ID: p.ID})
	case *packet.Publish:
		l.publish(p)
	}
}

func (l *listener) publish(m *packet.Publish) {
	sender, n, err := parse(m.Payload)
	if err != nil || sender != key(m.Topic, m.QoS) || !slices.Equal(m.Payload, payload(l.seed, sender, n)) {
		l.fault("%s: %s with QoS %d is not what was sent (%v)", l.name, m.Topic, m.QoS, err)
		return
	}
	if m.QoS == 1 {
		l.answers = append(l.answers, &packet.Ack{Kind: packet.PUBACK, ID: m.ID})
	} else {
		l.answers = append(l.answers, &packet.Ack{Kind: packet.PUBREC, ID: m.ID})
		if l.held[m.ID] {
			if !m.Dup {
				l.fault("%s: %s %d came again under identifier %d, without DUP", l.name, sender, n, m.ID)
			}
			return
		}
		l.held[m.ID] = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch next := l.next[sender]; {
	case n > next:
		l.fault("%s: %s %d came, and %d did not", l.name, sender, n, next)
	case n < next && m.QoS == 2:
		l.fault("%s: %s %d came twice", l.name, sender, n)
		return
	case n < next: // QoS 1
		return
	}
	l.next[sender] = n + 1
	l.steps.Add(1)
}

// has reports whether everything of want has come.
func (l *listener) has(want map[string]int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Equal(l.next, want)
}
