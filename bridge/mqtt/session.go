package mqtt

import (
	"maps"
	"slices"
	"sync"

	"millrace/bridge/mqtt/packet"
	"millrace/broker/auth"
)

// never is the session expiry that never comes (3.1.2.11.2).
const never = 0xFFFFFFFF

// session is a cursor over the log with subscriptions, not a queue (4.1).
type session struct {
	reader
	id string

	// owner is whose session it is: nobody else gets it. Anonymous's is anybody's.
	owner auth.Principal
	// client is the session's connection, nil while it has none.
	client *client
	// held says that nothing may be sent: the connection is not greeted yet, or is being taken away. Then no scan moves the
	// cursor, and what the tail reader has for the session is noted in lag. Without a connection it means nothing.
	held   bool
	expiry uint32 // seconds after the connection ends; 0: with it
	subs   []*subscription
	// inflight are the QoS 1 and 2 messages not acknowledged, or not completed, in the order sent [MQTT-4.6.0-1].
	// Invariant: ids are unique and not 0. Of those sent on a connection there are at most window.
	inflight []delivery
	// unsent counts those of inflight that did not go out on this connection, and are not parked to do so. Until it is 0
	// nothing new is sent: redelivery comes first [MQTT-4.4.0-1].
	unsent  int
	keeps   bool // it outlives its connection: what QoS 2 promises has to be durable
	exact   exactly
	replays []replay // retained messages still to send
	window  int      // the client's receive maximum, at most ours [MQTT-3.3.4-9] [MQTT-4.9.0-1]
	lastID  uint16
	queued  bool // in the queue of the scans
	dirty   bool // the cursor moved since it was written
	stored  bool // the log has a record of it
	// cost is what the session and its subscriptions hold of the State budget; life guards it.
	cost    int64
	expires *deadline

	unreleased unreleased

	// writing is held while the session's record is made and appended, so that records are in the log in the order of
	// the states they tell. It comes after life and before every other lock.
	writing sync.Mutex
	over    bool // the session has ended: nothing more is written of it but that; under writing
}

type position struct {
	st     *stream
	offset int64
}

// delivery is one QoS 1 or 2 message sent and not yet acknowledged.
type delivery struct {
	st       *stream // nil when it is released and its topic is gone
	offset   int64
	record   uint64 // of exactly: durable with it
	group    *group // that handed it out, nil: it came by the session's own cursor
	id       uint16
	qos      byte
	sent     bool // on this connection, or parked to be
	released bool // QoS 2: PUBREC came, PUBREL is what the client gets
}

// replay is the walk over the retained messages a new subscription is owed.
type replay struct {
	sub       *subscription
	next, end int64 // offsets of the retained topic
}

// outcome is what became of an offer.
type outcome byte

const (
	done    outcome = iota // sent, or nothing this session wants
	blocked                // no room now, or the connection ended: the message stays in the log and the session behind it
	unfit                  // larger than the client takes, or not for it to read: as if it had been delivered [MQTT-3.1.2-25]
)

// offer sends m of st to the session when one of subs wants it. Under ss.mu.
func (ss *session) offer(st *stream, m *message, subs []*subscription) outcome {
	if ss.client == nil {
		return done
	}
	var qos byte
	want, asIs := false, false
	var one [4]uint32
	ids := one[:0]
	for _, sub := range subs {
		if sub.gone || m.offset < sub.begins(st) {
			continue
		}
		if sub.starts != nil {
			sub.passed(st, m.offset)
		}
		if sub.noLocal && m.props.Client == ss.id {
			continue // [MQTT-3.8.3-3]
		}
		want = true
		// Overlapping subscriptions get one copy, with the highest QoS of them [MQTT-3.3.4-2].
		qos = max(qos, min(sub.qos, m.props.QoS)) // [MQTT-3.8.4-8]
		asIs = asIs || sub.asIs
		if sub.id != 0 {
			ids = append(ids, sub.id)
		}
	}
	if !want || qos == 2 && ss.had(st, m.offset) {
		return done
	}
	// RETAIN is set on live messages only for subscriptions that ask for it [MQTT-3.3.1-12] [MQTT-3.3.1-13],
	// [MQTT-3.3.1-9] of 3.1.1.
	result := ss.send(st, m, packet.Publish{QoS: qos, Retain: asIs && m.props.Retain}, ids, nil)
	if result == done && qos == 2 && ss.keeps {
		ss.handTo(st, m.offset+1)
	}
	return result
}

// send sends m, if there is room. A message over QoS 0 counts as one of the window until it is acknowledged, or completed
// [MQTT-4.9.0-2], and only messages wait for that [MQTT-4.9.0-3] [MQTT-3.3.4-10]. head says how it is sent, and g is the
// group that hands it out. Under ss.mu, with a client.
func (ss *session) send(st *stream, m *message, head packet.Publish, ids []uint32, g *group) outcome {
	qos := head.QoS
	left, alive := ss.s.remaining(st, m)
	if !alive {
		return done // [MQTT-3.3.2-5]
	}
	c := ss.client
	if !c.mayRead(st, m) {
		return unfit
	}
	parks := qos == 2 && ss.keeps
	if ss.held || ss.unsent > 0 || (qos > 0 && len(ss.inflight) >= ss.window) || !c.out.hasRoom(m.size()) ||
		parks && len(ss.exact.parked) >= ss.s.cfg.MaxOutput {
		ss.blocked = true
		return blocked
	}
	// DUP is 0 whatever it was when the message came [MQTT-3.3.1-3] [MQTT-4.3.1-1] [MQTT-4.3.2-2] [MQTT-4.3.3-2].
	d := delivery{st: st, offset: m.offset, qos: qos, group: g, sent: true}
	if qos > 0 {
		head.ID = ss.nextID() // [MQTT-2.2.1-4] [MQTT-4.3.2-1] [MQTT-4.3.3-1], [MQTT-4.3.2-1] of 3.1.1, [MQTT-4.3.3-1] of 3.1.1
		d.id = head.ID
	}
	var result outcome
	if parks {
		d.record = ss.exact.made + 1
		result = ss.parkPublish(m, head, left, ids)
	} else {
		result = c.publish(m, head, left, ids)
	}
	switch result {
	case blocked:
		ss.blocked = true
		return blocked
	case unfit:
		return unfit
	}
	ss.dirty = true
	if qos > 0 { // until PUBACK [MQTT-4.3.2-3] or PUBREC [MQTT-4.3.3-3]
		ss.inflight = append(ss.inflight, d)
		if g != nil {
			g.handed.out(d.at())
		}
	}
	return done
}

// parkPublish is client.publish for what may not go out yet. Under ss.mu.
func (ss *session) parkPublish(m *message, head packet.Publish, expiry uint32, ids []uint32) outcome {
	c, n := ss.client, len(ss.exact.parked)
	head.Topic = m.topic // without an alias: it goes out later than others, or never
	p := m.appendPublish(ss.exact.parked, c.version, head, 0, expiry, ids)
	if len(p)-n > c.maxPacket {
		return unfit
	}
	ss.park(func([]byte) []byte { return p })
	c.s.traffic.publishSent[head.QoS].Add(1)
	c.s.traffic.publishBytesSent.Add(int64(len(m.body)))
	return done
}

// nextID finds a packet identifier that is not in use. The window is smaller than the space of identifiers.
func (ss *session) nextID() uint16 {
	for {
		if ss.lastID++; ss.lastID != 0 && !slices.ContainsFunc(ss.inflight, func(d delivery) bool { return d.id == ss.lastID }) {
			return ss.lastID
		}
	}
}

// forgetGone takes the partitions of deleted topics out of the cursor. Under ss.mu.
func (ss *session) forgetGone() {
	gone := func(st *stream, _ int64) bool { return st.gone.Load() }
	maps.DeleteFunc(ss.lag, gone)
	maps.DeleteFunc(ss.exact.handed, gone)
	for _, sub := range ss.subs {
		sub.starts = slices.DeleteFunc(sub.starts, func(p position) bool { return p.st.gone.Load() })
	}
}

// acked takes a PUBACK of the client [MQTT-4.3.2-3]. It reports whether the id was known.
func (ss *session) acked(c *client, id uint16) bool {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.client != c {
		return true // taken over meanwhile
	}
	i := slices.IndexFunc(ss.inflight, func(d delivery) bool { return d.id == id && d.qos == 1 })
	if i < 0 {
		return false
	}
	ss.settle(i)
	return true
}

// settle ends the i-th delivery, for its group too: what its client acknowledged or refused no other gets [MQTT-4.8.2-6]. Under ss.mu.
func (ss *session) settle(i int) {
	d := ss.inflight[i]
	if !d.sent {
		ss.unsent--
	}
	if d.group != nil {
		d.group.ended(&d)
	}
	if ss.inflight = slices.Delete(ss.inflight, i, i+1); len(ss.inflight) == 0 {
		ss.inflight = nil
	}
	ss.dirty = true
	if len(ss.inflight)-ss.unsent <= ss.window/2 {
		ss.wakeLocked()
	}
}

// open reports whether messages may be sent. Under ss.mu.
func (ss *session) open() bool { return ss.client != nil && !ss.held }

// filters are all its subscriptions: no topic matches the filter of a shared one as it stands. Under ss.mu.
func (ss *session) filters() []*subscription { return ss.subs }

// own are the subscriptions that are not shared. Under ss.mu.
func (ss *session) own() []*subscription {
	return slices.DeleteFunc(slices.Clone(ss.subs), func(sub *subscription) bool { return sub.group != nil })
}

// greeted begins the deliveries of a connection whose CONNACK is on its way [MQTT-3.2.0-1], if it still has the session.
func (ss *session) greeted(c *client) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.epoch == c.epoch {
		ss.held = false
		ss.wakeLocked()
	}
}

// wake makes the scans look at the session again, when it had been stopped for want of room.
func (ss *session) wake() {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.wakeLocked()
}

func (ss *session) wakeLocked() {
	if !ss.blocked || !ss.open() {
		return
	}
	ss.blocked = false
	ss.pushLocked()
}

// pushLocked gives the session's work to the scans: redelivery and retained messages, then every partition it lags in, and
// the groups that wait for room.
func (ss *session) pushLocked() {
	if ss.unsent > 0 || len(ss.replays) > 0 {
		if !ss.queued {
			ss.queued = true
			ss.s.streams.push(ss)
		}
		return // the partitions follow when that is done
	}
	for st := range ss.lag {
		st.wait(&ss.reader)
	}
	for _, sub := range ss.subs {
		if sub.group != nil {
			sub.group.wake()
		}
	}
}

// run is the session's own turn in the scans: redelivery first, then retained messages.
func (ss *session) run() {
	ss.mu.Lock()
	ss.queued = false
	epoch := ss.epoch
	ss.mu.Unlock()
	var scratch []byte
	for ss.step(epoch, &scratch) {
	}
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.epoch != epoch || !ss.open() {
		return
	}
	if ss.unsent == 0 && len(ss.replays) == 0 {
		// What came new meanwhile had to wait for this, and nobody else wakes the session for it.
		ss.blocked = false
	}
	if !ss.blocked {
		ss.pushLocked()
	}
}

// step does one redelivery or one retained message; false when there is none or no room. The log is read without the
// session's lock, so that a slow disk holds up nobody else.
func (ss *session) step(epoch uint64, scratch *[]byte) bool {
	ss.mu.Lock()
	t, more := ss.task(epoch)
	ss.mu.Unlock()
	if !more {
		return false
	}
	var m *message
	var err error
	if !t.released {
		m, err = t.st.message(t.offset, scratch)
	}
	if err != nil && !lost(err) {
		ss.tryAgain(epoch, t, err)
		return false
	}
	if m == nil && !t.released {
		ss.s.log.Warn("mqtt: message is no longer in the log", "client", ss.id, "topic", t.st.topic,
			"partition", t.st.index, "offset", t.offset, "error", err)
	}
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if now, more := ss.task(epoch); !more || now != t {
		return more // acknowledged, unsubscribed or taken over meanwhile
	}
	if t.again {
		if m != nil && !ss.client.out.hasRoom(m.size()) {
			ss.blocked = true
			return false
		}
		ss.redeliver(m)
		return true
	}
	return ss.replay(t.offset, m)
}

// tryAgain comes back to t later: what the disk did not give now is not lost, and nothing goes before it.
func (ss *session) tryAgain(epoch uint64, t task, err error) {
	ss.s.log.Error("mqtt: read failed, trying again", "client", ss.id, "topic", t.st.topic, "partition", t.st.index,
		"offset", t.offset, "error", err)
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.epoch == epoch {
		ss.blocked = true
		ss.s.deadlines.at(ss.s.cfg.Now().Add(retryDelay), ss.wake)
	}
}

// task is one message to send again, or its PUBREL, or one retained message.
type task struct {
	st       *stream
	offset   int64
	again    bool
	released bool
	id       uint16
}

// task is what step has to do next. Under ss.mu.
func (ss *session) task(epoch uint64) (task, bool) {
	switch {
	case ss.epoch != epoch || !ss.open():
		return task{}, false
	case !ss.client.out.hasRoom(0):
		ss.blocked = true
		return task{}, false
	case ss.unsent > 0:
		d := &ss.inflight[ss.firstUnsent()]
		// What is not durable the client may not hear of; landed goes on. A window may be smaller than the last connection's.
		if d.record > ss.exact.durable || !d.released && len(ss.inflight)-ss.unsent >= ss.window {
			ss.blocked = true
			return task{}, false
		}
		return task{d.st, d.offset, true, d.released, d.id}, true
	}
	for len(ss.replays) > 0 {
		r := ss.replays[0]
		if offset, ok := ss.s.retained.next(r.sub.filter, r.next, r.end); ok && !r.sub.gone {
			return task{st: ss.s.retained.stream(), offset: offset}, true
		}
		if ss.replays = slices.Delete(ss.replays, 0, 1); len(ss.replays) == 0 {
			ss.replays = nil
		}
	}
	return task{}, false
}

func (ss *session) firstUnsent() int {
	return slices.IndexFunc(ss.inflight, func(d delivery) bool { return !d.sent })
}

// redeliver sends the next unacknowledged message again, with its packet identifier and DUP [MQTT-4.4.0-1]
// [MQTT-3.3.1-1], or its PUBREL and no PUBLISH any more [MQTT-4.3.3-5] [MQTT-4.3.3-6]. m is nil when it is released, or the log has dropped it meanwhile. Under ss.mu.
func (ss *session) redeliver(m *message) {
	i := ss.firstUnsent()
	d := &ss.inflight[i]
	if d.released {
		ss.client.send(&packet.Ack{Kind: packet.PUBREL, ID: d.id})
		d.sent = true
		ss.unsent--
		return
	}
	if m == nil || !ss.client.mayRead(d.st, m) {
		ss.giveUp(i)
		return
	}
	head := packet.Publish{QoS: d.qos, ID: d.id, Dup: true, Retain: d.st == ss.s.retained.stream()}
	var ids []uint32
	for _, sub := range ss.subs {
		if sub.group == d.group && (sub.group != nil || matches(sub.filter, m.topic)) {
			head.Retain = head.Retain || sub.asIs && m.props.Retain
			if sub.id != 0 {
				ids = append(ids, sub.id)
			}
		}
	}
	// It was sent: it does not expire any more [MQTT-4.3.3-7] [MQTT-4.3.3-13].
	left, _ := ss.s.remaining(d.st, m)
	switch ss.client.publish(m, head, max(left, 1), ids) {
	case done:
		d.sent = true
		ss.unsent--
	case unfit: // larger than the client takes now
		ss.giveUp(i)
	case blocked: // the next connection gets it
	}
}

// giveUp ends the i-th delivery, whose message cannot be sent again. At QoS 2 the client may have had it: until it lets
// go of the identifier, with PUBREL, another message under it would be taken for a repetition. Under ss.mu.
func (ss *session) giveUp(i int) {
	if d := &ss.inflight[i]; d.qos == 2 {
		d.released = true
		if d.group != nil && ss.keeps {
			ss.record() // with which the group hears that it is over
		}
	} else {
		ss.settle(i)
	}
}

// replay sends the next retained message a new subscription is owed [MQTT-3.3.1-9], [MQTT-3.3.1-6] of 3.1.1, with its
// identifier alone [MQTT-3.3.4-5]; false when there is no room. m is
// nil when it cannot be read. Under ss.mu.
func (ss *session) replay(offset int64, m *message) bool {
	r := &ss.replays[0]
	if m != nil && (!r.sub.noLocal || m.props.Client != ss.id) {
		var ids []uint32
		if r.sub.id != 0 {
			ids = []uint32{r.sub.id}
		}
		// Sent because of a new subscription: RETAIN is set ([MQTT-3.3.1-8] of 3.1.1).
		if ss.send(ss.s.retained.stream(), m, packet.Publish{QoS: min(r.sub.qos, m.props.QoS), Retain: true}, ids, nil) == blocked {
			return false
		}
	}
	r.next = offset + 1
	return true
}
