package mqtt

import (
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"millrace/bridge/mqtt/packet"
)

// sys serves the figures under $SYS, by Mosquitto's names. They are retained messages that no log holds: a new
// subscription gets them as they were last, and each interval those get one that are there and to whom it is new. While
// nobody has a subscription under $SYS nothing is computed and no timer runs.
type sys struct {
	s     *Server
	begun time.Time

	armMu sync.Mutex
	armed bool // a tick is due

	// mu is held while figures are handed out, so that nobody gets an older one last. No other lock is held when it is
	// taken.
	mu      sync.Mutex
	last    []figure              // as they were told; nil: nobody was
	missed  map[*session]struct{} // had no room for all of last
	highest struct{ clients, heap int64 }
}

// figure is one topic under $SYS and its value.
type figure struct{ topic, value string }

// sysFilter reports whether a filter is one of $SYS. No other filter matches its topics [MQTT-4.7.2-1].
func sysFilter(filter string) bool { return filter == "$SYS" || strings.HasPrefix(filter, "$SYS/") }

// Traffic counts what went over all connections since the start: control packets, PUBLISHes of them, and bytes of packets
// and of payloads.
type Traffic struct {
	Received, Sent, BytesReceived, BytesSent int64
	PublishReceived, PublishSent             [3]int64 // by QoS
	PublishBytesReceived, PublishBytesSent   int64
	PublishDropped                           int64 // QoS 0 that the log refused
}

// traffic is Traffic as it grows.
type traffic struct {
	received, bytesReceived, publishBytesReceived, publishBytesSent, publishDropped atomic.Int64
	publishReceived, publishSent                                                    [3]atomic.Int64 // by QoS
}

// frame counts a packet that came.
func (t *traffic) frame(n int) {
	t.received.Add(1)
	t.bytesReceived.Add(int64(n))
}

// Traffic is what went over all connections so far.
func (s *Server) Traffic() Traffic {
	t := &s.traffic
	all := Traffic{
		Received: t.received.Load(), BytesReceived: t.bytesReceived.Load(), Sent: s.outlets.packets.Load(), BytesSent: s.outlets.sent.Load(),
		PublishBytesReceived: t.publishBytesReceived.Load(), PublishBytesSent: t.publishBytesSent.Load(), PublishDropped: t.publishDropped.Load(),
	}
	for qos := range all.PublishReceived {
		all.PublishReceived[qos], all.PublishSent[qos] = t.publishReceived[qos].Load(), t.publishSent[qos].Load()
	}
	return all
}

// arm sees to it that ticks come. It is called, perhaps with life held, after a subscription under $SYS is in the index.
func (y *sys) arm() {
	if y.s.cfg.SysInterval < 0 {
		return
	}
	y.armMu.Lock()
	defer y.armMu.Unlock()
	if !y.armed {
		y.armed = true
		y.later()
	}
}

func (y *sys) later() { y.s.deadlines.at(y.s.cfg.Now().Add(y.s.cfg.SysInterval), y.tick) }

// wanted reports whether somebody listens. When nobody does ticks end.
func (y *sys) wanted() bool {
	y.armMu.Lock()
	defer y.armMu.Unlock()
	y.armed = y.s.index.sys.Load() > 0
	return y.armed
}

// tick hands out what has changed.
func (y *sys) tick() {
	if !y.wanted() {
		y.mu.Lock()
		y.last, y.missed = nil, nil
		y.mu.Unlock()
		return
	}
	y.mu.Lock()
	before, missed := y.last, y.missed
	y.last, y.missed = y.figures(), nil
	for i, f := range y.last {
		y.tell(f, func(ss *session) bool {
			_, late := missed[ss]
			return late || before == nil || before[i].value != f.value
		})
	}
	y.mu.Unlock()
	y.later()
}

// tell sends one figure to those who subscribed to it and are to be told.
func (y *sys) tell(f figure, told func(*session) bool) {
	subs := y.s.index.match(f.topic, nil)
	// A session's subscriptions beside each other: it gets one copy [MQTT-3.3.4-2].
	slices.SortFunc(subs, func(a, b *subscription) int { return strings.Compare(a.session.id, b.session.id) })
	for len(subs) > 0 {
		ss, n := subs[0].session, 1
		for n < len(subs) && subs[n].session == ss {
			n++
		}
		if told(ss) {
			y.send(ss, f, subs[:n], false)
		}
		subs = subs[n:]
	}
}

// send is a figure on its way to a session, at QoS 0 because the next makes it old. Without room it comes with the next
// tick. fresh says that it goes to a new subscription. Under y.mu.
func (y *sys) send(ss *session, f figure, subs []*subscription, fresh bool) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	c := ss.client
	if c == nil {
		return // its next connection is one that was not there
	}
	var head packet.Publish
	var ids []uint32
	want := false
	for _, sub := range subs {
		if sub.gone {
			continue
		}
		want = true
		// RETAIN as for any retained message [MQTT-3.3.1-12] [MQTT-3.3.1-13], [MQTT-3.3.1-8] of 3.1.1.
		head.Retain = head.Retain || fresh || sub.asIs
		if sub.id != 0 {
			ids = append(ids, sub.id)
		}
	}
	if !want || !c.mayReadIn("", f.topic) {
		return
	}
	m := &message{topic: f.topic, body: []byte(f.value)}
	if !ss.open() || !c.out.hasRoom(m.size()) || c.publish(m, head, 0, ids) == blocked {
		if y.missed == nil {
			y.missed = make(map[*session]struct{})
		}
		y.missed[ss] = struct{}{}
	}
}

// greet sends a new subscription the figures as they were last.
func (y *sys) greet(sub *subscription) {
	if y.s.cfg.SysInterval < 0 {
		return
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.last == nil {
		y.last = y.figures()
	}
	for _, f := range y.last {
		if matches(sub.filter, f.topic) {
			y.send(sub.session, f, []*subscription{sub}, true)
		}
	}
}

// figures are those of now. Under y.mu.
func (y *sys) figures() []figure {
	s := y.s
	now := s.Census()
	heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(heap)
	used := int64(heap[0].Value.Uint64())
	y.highest.clients, y.highest.heap = max(y.highest.clients, int64(now.Connected)), max(y.highest.heap, used)
	t := s.Traffic()
	list := []figure{
		{"version", "millrace version " + s.cfg.Version},
		{"uptime", strconv.FormatInt(int64(s.cfg.Now().Sub(y.begun)/time.Second), 10) + " seconds"},
	}
	for _, n := range []struct {
		name  string
		value int64
	}{
		{"clients/total", int64(now.Sessions)},
		{"clients/connected", int64(now.Connected)},
		{"clients/disconnected", int64(now.Sessions - now.Connected)},
		{"clients/maximum", y.highest.clients},
		{"messages/received", t.Received},
		{"messages/sent", t.Sent},
		{"bytes/received", t.BytesReceived},
		{"bytes/sent", t.BytesSent},
		{"publish/messages/received", total(t.PublishReceived)},
		{"publish/messages/sent", total(t.PublishSent)},
		{"publish/messages/dropped", t.PublishDropped},
		{"publish/bytes/received", t.PublishBytesReceived},
		{"publish/bytes/sent", t.PublishBytesSent},
		{"subscriptions/count", int64(now.Subscriptions)},
		{"shared_subscriptions/count", int64(now.Shared)},
		{"retained messages/count", int64(now.Retained)},
		{"heap/current", used},
		{"heap/maximum", y.highest.heap},
	} {
		list = append(list, figure{n.name, strconv.FormatInt(n.value, 10)})
	}
	for i := range list {
		list[i].topic = "$SYS/broker/" + list[i].topic
	}
	return list
}

// total is a count of all QoS.
func total(byQoS [3]int64) int64 { return byQoS[0] + byQoS[1] + byQoS[2] }

// Census counts what the door remembers.
type Census struct {
	Sessions, Connected   int // with or without a connection; with one
	Resting               int // of Sessions, those that are one string in memory
	Subscriptions, Shared int // of all sessions that are not shared; that are
	Groups                int // shared subscriptions that differ
	Retained              int // retained messages
	Inflight              int // QoS 1 and 2 messages that are not acknowledged or completed, but those of resting sessions
}

// Census counts now. Each session is locked for a moment.
func (s *Server) Census() (n Census) {
	s.life.Lock()
	n.Resting, n.Groups = len(s.resting.all), len(s.groups)
	n.Sessions = len(s.sessions) + n.Resting
	n.Subscriptions, n.Shared = int(s.resting.subs), int(s.resting.shared)
	for _, ss := range s.sessions {
		ss.mu.Lock()
		if ss.client != nil {
			n.Connected++
		}
		for _, sub := range ss.subs {
			if sub.group != nil {
				n.Shared++
			} else {
				n.Subscriptions++
			}
		}
		n.Inflight += len(ss.inflight)
		ss.mu.Unlock()
	}
	s.life.Unlock()
	s.retained.mu.RLock()
	defer s.retained.mu.RUnlock()
	n.Retained = len(s.retained.byTopic)
	return n
}
