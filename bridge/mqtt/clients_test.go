package mqtt_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing/synctest"

	"millrace/bridge/mqtt/packet"
)

// Clients that do what the specification has them do, for the stories that check what comes of it.

// journal is what happened; a failure prints it.
type journal struct {
	w      *world
	events []string
	deaf   func() bool // nil: never. While it is true the clients hear nothing
	// resent: QoS 1 publishes whose PUBACK was lost are in the log twice.
	resent bool
	// faults are what went wrong, where it is wanted: then the story goes on.
	wanted bool
	faults []string
}

func (j *journal) fault(format string, args ...any) {
	j.w.t.Helper()
	if !j.wanted {
		j.w.t.Fatalf(format, args...)
	}
	j.faults = append(j.faults, fmt.Sprintf(format, args...))
}

func (j *journal) hears() bool { return j.deaf == nil || !j.deaf() }

func (j *journal) note(format string, args ...any) {
	j.events = append(j.events, fmt.Sprintf(format, args...))
}

func (j *journal) String() string { return strings.Join(j.events, "\n") }

// post sends in order without waiting for the server to read.
func (p *peer) post(pkt packet.Packet) {
	if p.out == nil {
		p.out = make(chan []byte, 1000)
		p.t.Cleanup(func() { close(p.out) })
		go func() {
			for b := range p.out {
				if _, err := p.conn.Write(b); err != nil && !errors.Is(err, io.ErrClosedPipe) {
					p.t.Error(err)
				}
			}
		}()
	}
	p.out <- pkt.Append(nil, p.v)
}

// talker publishes in a durable session. What was not completed it sends again when it is back [MQTT-4.4.0-1].
type talker struct {
	*journal
	v    packet.Version
	id   string
	p    *peer
	last uint16
	sent []*sending // not completed, in order
	next map[string]int
}

type sending struct {
	topic    string
	n        int
	qos      byte
	id       uint16
	received bool
}

func (s *sending) publish() *packet.Publish {
	return pub(s.topic, fmt.Sprintf("%d %d", s.qos, s.n), s.qos, s.id)
}

func (t *talker) connect() {
	t.note("%s connects", t.id)
	t.p = t.w.connect(t.v, t.id, keep)
	for _, s := range t.sent {
		if s.received {
			t.p.post(pubrel(s.id))
		} else {
			t.p.post(again(s.publish()))
		}
	}
}

func (t *talker) publish(topic string, qos byte) {
	key := fmt.Sprint(topic, " ", qos)
	if t.last++; t.last == 0 {
		t.last = 1
	}
	s := &sending{topic: topic, n: t.next[key], qos: qos, id: t.last}
	t.next[key]++
	t.sent = append(t.sent, s)
	t.note("%s publishes %s q%d %d id %d", t.id, topic, qos, s.n, s.id)
	t.p.post(s.publish())
}

// drain takes what has come and answers it. It reports whether there was anything.
func (t *talker) drain() (any bool) {
	t.w.t.Helper()
	for t.hears() {
		select {
		case pkt, ok := <-t.p.got:
			if !ok {
				return any
			}
			any = true
			a, ok := pkt.(*packet.Ack)
			if !ok {
				continue
			}
			t.note("%s gets %s", t.id, show(a))
			i := 0
			for i < len(t.sent) && t.sent[i].id != a.ID {
				i++
			}
			if a.Reason != packet.Success && a.Reason != packet.PacketIDNotFound || i == len(t.sent) {
				t.fault("%s got %s", t.id, show(a))
				continue
			}
			switch s := t.sent[i]; a.Kind {
			case packet.PUBREC:
				s.received = true
				t.p.post(pubrel(a.ID))
			case packet.PUBACK, packet.PUBCOMP:
				t.sent = append(t.sent[:i:i], t.sent[i+1:]...)
			}
		default:
			return any
		}
	}
	return any
}

// listener subscribes in a durable session, and keeps what QoS 2 has a receiver keep (4.3.3).
type listener struct {
	*journal
	v       packet.Version
	p       *peer
	answers []*packet.Ack // to what came; not sent yet
	greeted bool          // CONNACK has come
	known   bool          // SUBACK has come, ever
	held    map[uint16]bool
	// next is what is expected of each topic and QoS, at the earliest: one more than the highest seen.
	next map[string]int
	// last is the newest of each topic and QoS on this connection: there nothing comes twice, or out of order.
	last map[string]int
}

func (l *listener) connect() {
	l.note("connect")
	l.p = l.w.connect(l.v, "durable", keep)
	l.answers, l.last, l.greeted = nil, map[string]int{}, false
	synctest.Wait()
}

// drain takes what has come and checks it. It reports whether there was anything.
func (l *listener) drain() (any bool) {
	l.w.t.Helper()
	for l.hears() {
		select {
		case pkt, ok := <-l.p.got:
			if !ok {
				return any
			}
			any = true
			l.take(pkt)
		default:
			return any
		}
	}
	return any
}

func (l *listener) take(pkt packet.Packet) {
	l.w.t.Helper()
	switch p := pkt.(type) {
	case *packet.Connack:
		if l.known && !p.SessionPresent {
			l.fault("the session is lost")
		}
		l.greeted = true
	case *packet.Suback:
		l.known = true
	case *packet.Ack:
		l.note("got %s", show(p))
		if p.Kind != packet.PUBREL {
			l.fault("got %s", show(p))
		}
		delete(l.held, p.ID)
		l.answers = append(l.answers, pubcomp(p.ID))
	case *packet.Publish:
		l.publish(p)
	}
}

func (l *listener) publish(m *packet.Publish) {
	l.w.t.Helper()
	if !l.greeted {
		l.fault("%s: %q came before CONNACK", m.Topic, m.Payload)
	}
	var qos byte
	var n int
	if _, err := fmt.Sscan(string(m.Payload), &qos, &n); err != nil || qos != m.QoS {
		l.fault("%s %q came with QoS %d, %v", m.Topic, m.Payload, m.QoS, err)
	}
	key := fmt.Sprint(m.Topic, " ", qos)
	l.note("got %s %d id %d dup %v", key, n, m.ID, m.Dup)
	if last, ok := l.last[key]; ok && n <= last && (qos == 2 || !l.resent) {
		l.fault("%s: got %d after %d on one connection", key, n, last)
	}
	l.last[key] = n
	if qos == 1 {
		l.answers = append(l.answers, ack(m.ID))
	} else {
		l.answers = append(l.answers, pubrec(m.ID))
		if l.held[m.ID] {
			if !m.Dup {
				l.fault("%s: %d came under identifier %d again, and without DUP", key, n, m.ID)
			}
			return
		}
		l.held[m.ID] = true
	}
	switch next := l.next[key]; {
	case n > next:
		l.fault("%s: got %d, and %d never came", key, n, next)
	case n < next && qos == 2:
		l.fault("%s: got %d twice", key, n)
	case n == next:
		l.next[key]++
	}
}

func (l *listener) answer(i int) {
	l.note("send %s", show(l.answers[i]))
	l.p.post(l.answers[i])
	l.answers = append(l.answers[:i:i], l.answers[i+1:]...)
}

// settle goes on until nothing is left to say.
func settle(l *listener, talkers ...*talker) {
	l.w.t.Helper()
	for quiet := false; !quiet; {
		synctest.Wait()
		quiet = !l.drain()
		for _, t := range talkers {
			quiet = !t.drain() && quiet
		}
		for len(l.answers) > 0 {
			l.answer(0)
		}
	}
}

// complete checks that all that was published has come.
func complete(l *listener, talkers ...*talker) {
	l.w.t.Helper()
	for _, t := range talkers {
		if len(t.sent) > 0 {
			l.fault("%s: %d publishes were never completed", t.id, len(t.sent))
		}
		for key, n := range t.next {
			if l.next[key] != n {
				l.fault("%s: %d of %d arrived", key, l.next[key], n)
			}
		}
	}
}
