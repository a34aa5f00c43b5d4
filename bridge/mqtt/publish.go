package mqtt

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"millrace/bridge/mqtt/packet"
	"millrace/bridge/payload"
	"millrace/bridge/route"
	"millrace/broker/record"
)

// refusalDelay is how long a 3.1.1 client whose message was refused waits for its connection to end. It cannot be told
// why, and would come back at once with the same message.
const refusalDelay = time.Second

// ringLeast is for how many publishes on their way there is room at first.
const ringLeast = 2

// acks are the publishes of one connection on their way into the log, in the order they came. Each is answered when it
// is durable and all before it are answered [MQTT-4.6.0-2]. They go into the log in that order too [MQTT-4.6.0-5].
type acks struct {
	c *client

	mu   sync.Mutex
	cond *sync.Cond // waits for the end of acting
	// ring[first%len] … ring[next-1] are on their way. It grows as they are more at once, up to most, the receive maximum:
	// a thousand clients that publish now and then have none of them.
	// Invariant: next-first <= len(ring) <= most.
	ring        []pending
	most        int
	first, next uint64
	releasing   int  // PUBRELs on their way, at most as many
	closed      bool // nothing is sent any more
	acting      bool // a packet is acted on
}

// enter begins to act on a packet; false when the connection has ended. leave ends it.
func (a *acks) enter() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.acting = a.c.ctx.Err() == nil
	return a.acting
}

func (a *acks) leave() {
	a.mu.Lock()
	a.acting = false
	a.cond.Broadcast()
	a.mu.Unlock()
}

// idle waits until no packet is acted on. Where the connection has ended none will be.
func (a *acks) idle() {
	a.mu.Lock()
	for a.acting {
		a.cond.Wait()
	}
	a.mu.Unlock()
}

type pending struct {
	id     uint16
	qos    byte
	landed bool
	err    error
}

// begin takes a place, waiting for one: this is how the reading of a client that is ahead of the disk is delayed
// [MQTT-3.3.4-7]. false: the connection ends.
func (a *acks) begin(id uint16, qos byte) (uint64, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.most == 0 {
		a.most = a.c.limits().ReceiveMaximum
	}
	for a.next-a.first == uint64(len(a.ring)) && !a.closed {
		if len(a.ring) < a.most {
			a.grow()
			break
		}
		a.pause()
	}
	if a.closed {
		return 0, false
	}
	a.ring[a.next%uint64(len(a.ring))] = pending{id: id, qos: qos}
	a.next++
	return a.next - 1, true
}

// grow makes the ring larger.
func (a *acks) grow() {
	ring := make([]pending, min(max(2*len(a.ring), ringLeast), a.most))
	for n := a.first; n < a.next; n++ {
		ring[n%uint64(len(ring))] = a.ring[n%uint64(len(a.ring))]
	}
	a.ring = ring
}

// land notes what became of a publish and answers whatever is due. It is called by the commit and does not block.
func (a *acks) land(n uint64, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := &a.ring[n%uint64(len(a.ring))]
	p.landed, p.err = true, err
	for a.first < a.next {
		p := &a.ring[a.first%uint64(len(a.ring))]
		if !p.landed {
			break
		}
		a.first++
		if !a.closed && !a.c.answer(p) {
			a.closed = true
		}
		*p = pending{}
	}
	a.c.nudge()
}

func (a *acks) close() {
	a.mu.Lock()
	a.closed = true
	a.c.nudge()
	a.mu.Unlock()
}

// answer sends the PUBACK or PUBREC of a publish that landed [MQTT-3.3.4-1] [MQTT-2.2.1-5] [MQTT-4.3.2-4] [MQTT-4.3.3-8],
// [MQTT-4.3.2-2] of 3.1.1; false when the connection has to end instead: 3.1.1 has no way to refuse a message but that
// ([MQTT-3.3.5-2] of 3.1.1, [MQTT-4.8.0-2] of 3.1.1), and what was dropped is never acknowledged.
func (c *client) answer(p *pending) bool {
	if p.err != nil {
		c.s.complain("mqtt: publish refused", "client", c.id, "qos", p.qos, "error", p.err)
	}
	kind := packet.PUBACK
	if p.qos == 2 {
		kind = packet.PUBREC
	}
	switch {
	case p.qos == 0:
		if p.err != nil {
			c.s.traffic.publishDropped.Add(1)
		}
		return true
	case p.err == nil:
		c.send(&packet.Ack{Kind: kind, ID: p.id})
	case c.version == packet.V5:
		// At QoS 2 the identifier is free again with this [MQTT-4.3.3-9].
		ack := &packet.Ack{Kind: kind, ID: p.id, Reason: reasonOf(p.err)}
		if c.reasons { // [MQTT-3.1.2-29]
			ack.Properties = c.reasonString(p.err.Error())
		}
		c.send(ack)
	default:
		delay := time.Duration(0)
		if errors.Is(p.err, ErrFull) || errors.Is(p.err, ErrTooLarge) || errors.Is(p.err, ErrNotAuthorized) {
			delay = refusalDelay
		}
		c.s.deadlines.at(c.s.cfg.Now().Add(delay), func() { c.end(packet.QuotaExceeded, "") })
		return false
	}
	return true
}

// reasonOf is the only translation of a publish's error to its PUBACK or PUBREC.
func reasonOf(err error) packet.Reason {
	switch {
	case errors.Is(err, ErrFull):
		return packet.QuotaExceeded
	case errors.Is(err, route.ErrNoRoute), errors.Is(err, route.ErrTopicName), errors.Is(err, ErrBadTopic):
		return packet.InvalidTopicName
	case errors.Is(err, ErrNotAuthorized):
		return packet.NotAuthorized
	case errors.Is(err, ErrTooLarge):
		return packet.ImplementationError
	}
	return packet.UnspecifiedError
}

// onPublish sends a publish on its way. size is the packet's. At QoS 1 any is a new message, whatever DUP says
// [MQTT-4.3.2-5].
func (c *client) onPublish(p *packet.Publish, size int) error {
	ss := c.session
	if p.Properties.Has(packet.SubscriptionID) {
		return &packet.Error{Reason: packet.ProtocolError, Why: "a subscription identifier from a client"} // [MQTT-3.3.4-6]
	}
	if err := c.resolveAlias(p); err != nil {
		return err
	}
	if p.QoS == 2 && c.version == packet.V5 && ss.unreleased.full(p.ID) {
		return &packet.Error{
			Reason: packet.ReceiveMaximumExceeded,
			Why:    fmt.Sprintf("receive maximum is %d, and %d packet identifiers are not released", c.limits().ReceiveMaximum, unreleasedMax),
		}
	}
	c.s.traffic.publishReceived[p.QoS].Add(1)
	c.s.traffic.publishBytesReceived.Add(int64(len(p.Payload)))
	n, ok := c.acks.begin(p.ID, p.QoS)
	if !ok {
		return nil
	}
	done := func(err error) { c.acks.land(n, err) }
	if p.QoS == 2 {
		if !ss.unreleased.begin(p.ID, done) {
			return nil // a repetition: nothing of it is stored [MQTT-4.3.3-10]
		}
		id := p.ID
		done = func(err error) { ss.unreleased.land(id, err) }
	}
	m := payload.Message{Topic: p.Topic, Client: c.id, QoS: p.QoS, Retain: p.Retain}
	take(&m, p.Properties)
	if c.tooLong(p.Topic) {
		done(fmt.Errorf("topic of more than %d levels or %d bytes: %w", c.limits().MaxTopicLevels,
			c.s.cfg.MaxTopicBytes, ErrBadTopic))
		return nil
	}
	if err := c.s.mayWrite(&c.who, c.id, p.Topic); err != nil {
		c.acks.land(n, err)
		return nil
	}
	c.intoLog(p.QoS, int64(size), func(done func(error)) {
		if p.QoS == 2 && ss.durable() {
			c.publishOnce(&m, p, done)
		} else {
			c.s.publish(c.ctx, &m, p.Payload, nil, done)
		}
	}, done)
	return nil
}

// publishOnce is publish for QoS 2 in a session that outlives its connection: the packet identifier lands with the
// message, all or nothing.
func (c *client) publishOnce(m *payload.Message, p *packet.Publish, done func(error)) {
	ss, store := c.session, c.s.store
	if !c.known {
		// Identifiers of a session nobody knows would be nobody's: the session is there first.
		c.s.life.Lock()
		c.known = ss.stored
		c.s.life.Unlock()
		if !c.known {
			if err := c.saved(); err != nil {
				done(fmt.Errorf("%w: %w", ErrFull, err))
				return
			}
			c.known = true
		}
	}
	part, err := c.s.own(c.ctx, sessionsTopic)
	if err != nil {
		done(err)
		return
	}
	ss.writing.Lock()
	defer ss.writing.Unlock()
	if ss.over {
		done(errSessionOver) // taken over by a clean start
		return
	}
	c.s.publish(c.ctx, m, p.Payload, &Part{part, []record.Record{store.arrival(ss, p.ID)}, func(int64, error) {}}, done)
}

// tooLong reports whether a topic or filter is over the limits: what a client may make us remember is bounded.
func (c *client) tooLong(topic string) bool {
	return len(topic) > c.s.cfg.MaxTopicBytes || strings.Count(topic, "/") >= c.limits().MaxTopicLevels
}

// resolveAlias gives the publish its topic and remembers what the client maps (3.3.2.3.4), as far as CONNACK said
// [MQTT-3.3.2-12].
func (c *client) resolveAlias(p *packet.Publish) error {
	if !p.Properties.Has(packet.TopicAlias) {
		return nil
	}
	alias := p.Properties.TopicAlias
	if int(alias) > c.limits().TopicAliases {
		return &packet.Error{Reason: packet.InvalidTopicAlias, Why: "topic alias over the maximum"} // [MQTT-3.3.2-9]
	}
	if p.Topic != "" {
		if c.tooLong(p.Topic) {
			return &packet.Error{Reason: packet.InvalidTopicName, Why: "a topic alias for too long a topic"}
		}
		if c.aliases == nil {
			c.aliases = make(map[uint16]string)
		}
		c.aliases[alias] = p.Topic
		return nil
	}
	var ok bool
	if p.Topic, ok = c.aliases[alias]; !ok {
		return &packet.Error{Reason: packet.ProtocolError, Why: "a topic alias that was never set"}
	}
	return nil
}

// scratch is the memory a publish is turned into a record in; appends keep nothing of it.
type scratch struct {
	target  route.Target
	records [1]record.Record
	headers []record.Header
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// publish appends a message to the topic its route says, and to the retained messages when it asks for that. done is
// called exactly once, perhaps before publish returns: when all of it is durable, or with the first error. with, where it
// is not nil, lands with all of it or not at all.
func (s *Server) publish(ctx context.Context, m *payload.Message, body []byte, with *Part, done func(error)) {
	w := scratches.Get().(*scratch)
	defer scratches.Put(w)
	if err := s.cfg.Router.Route(m.Topic, m.Client, &w.target); err != nil {
		done(err)
		return
	}
	p, err := s.partition(ctx, &w.target)
	if err != nil {
		done(err)
		return
	}
	own := w.fill(m, body, s.cfg.Clock.Now().UnixMilli())
	var kept []record.Record
	if m.Retain || certificate(m.Topic) != "" {
		kept = keepers(m, &w.records[0], own)
	}
	s.wg.Add(1)
	finish := func(err error) {
		done(err)
		s.wg.Done()
	}
	if with != nil {
		s.publishWith(ctx, kept, *with, Part{p, w.records[:], func(_ int64, err error) { finish(err) }})
	} else {
		for _, r := range kept { // first: whoever subscribes now either finds it or gets the live message
			finish = both(finish)
			s.retained.put(ctx, r, finish)
		}
		p.AppendRecords(w.records[:], false, func(_ int64, err error) { finish(err) })
	}
	clear(w.headers)
	w.records[0] = record.Record{}
}

// fill makes the record of a message, which was routed. own are the headers that are the message's. With what keepers does it
// is no part of publish, where many goroutines are at once: their stacks would be twice as large.
//
//go:noinline
func (w *scratch) fill(m *payload.Message, body []byte, stamp int64) (own []record.Header) {
	if body == nil {
		body = []byte{} // an empty payload is not Kafka's null
	}
	w.headers = w.headers[:0]
	m.Headers(func(key string, value []byte) bool {
		w.headers = append(w.headers, record.Header{Key: key, Value: value})
		return true
	})
	own = w.headers
	if n := len(w.target.Headers); n > 0 {
		w.headers = append(w.headers, record.Header{Key: payload.Added, Value: strconv.AppendInt(nil, int64(n), 10)})
	}
	for _, h := range w.target.Headers {
		w.headers = append(w.headers, record.Header{Key: h.Key, Value: []byte(h.Value)})
	}
	w.records[0] = record.Record{Timestamp: stamp, Key: w.target.Key, Value: body, Headers: w.headers}
	return own
}

// keepers are what is kept of a message as retained messages.
//
//go:noinline
func keepers(m *payload.Message, rec *record.Record, own []record.Header) (kept []record.Record) {
	body := rec.Value
	if topic := certificate(m.Topic); topic != "" && len(body) > 0 {
		// A birth is kept as it passes through [tck-id-conformance-mqtt-aware-store], as a retained message
		// [tck-id-conformance-mqtt-aware-nbirth-mqtt-retain] [tck-id-conformance-mqtt-aware-dbirth-mqtt-retain].
		birth := *m
		birth.Topic, birth.Retain = topic, true
		copied := record.Record{Timestamp: rec.Timestamp, Key: []byte(topic), Value: body}
		birth.Headers(func(key string, value []byte) bool {
			copied.Headers = append(copied.Headers, record.Header{Key: key, Value: value})
			return true
		})
		kept = append(kept, copied)
	}
	if m.Retain { // [MQTT-3.3.1-8]
		copied := record.Record{Timestamp: rec.Timestamp, Key: []byte(m.Topic), Value: body, Headers: own}
		if len(body) == 0 {
			copied.Value = nil // [MQTT-3.3.1-6] [MQTT-3.3.1-7]
		}
		kept = append(kept, copied)
	}
	return kept
}

// publishWith appends a message, what is kept of it as retained messages, and what lands with it.
func (s *Server) publishWith(ctx context.Context, kept []record.Record, with, message Part) {
	parts := []Part{with}
	for _, r := range kept {
		part, err := s.retained.begin(ctx, r, func(error) {})
		if err != nil {
			for _, begun := range append(parts, message) {
				begun.Done(0, err)
			}
			return
		}
		switch last := parts[len(parts)-1]; {
		case part.Partition == nil: // nothing to do
		case part.Partition == last.Partition:
			parts[len(parts)-1] = Part{last.Partition, append(last.Records, part.Records...), func(base int64, err error) {
				last.Done(base, err)
				part.Done(base+int64(len(last.Records)), err)
			}}
		default:
			parts = append(parts, part)
		}
	}
	s.cfg.Log.AppendTogether(append(parts, message))
}

// both calls done once, after two calls, with the first error.
func both(done func(error)) func(error) {
	var n atomic.Int32
	var first atomic.Pointer[error]
	return func(err error) {
		if err != nil {
			first.CompareAndSwap(nil, &err)
		}
		if n.Add(1) < 2 {
			return
		}
		if e := first.Load(); e != nil {
			done(*e)
		} else {
			done(nil)
		}
	}
}

// partition finds where a routed message goes, making the topic when it is new.
func (s *Server) partition(ctx context.Context, to *route.Target) (Partition, error) {
	n := s.cfg.Log.Partitions(to.Topic)
	if n == 0 {
		if err := s.ensure(ctx, to.Topic); err != nil {
			return nil, err
		}
		if n = s.cfg.Log.Partitions(to.Topic); n == 0 {
			return nil, fmt.Errorf("topic %s: %w", to.Topic, ErrGone)
		}
	}
	i := to.Partition
	if i < 0 {
		i = record.PartitionForKey(to.Key, n)
	}
	p, ok := s.cfg.Log.Partition(to.Topic, i)
	if !ok {
		return nil, fmt.Errorf("route %s: topic %s has no partition %d: %w", to.Rule, to.Topic, i, ErrBadTopic)
	}
	return p, nil
}

// ensure makes a topic. A thousand clients may want the same new one at once: one of them makes it.
func (s *Server) ensure(ctx context.Context, topic string) error {
	s.creating.Lock()
	defer s.creating.Unlock()
	if s.cfg.Log.Partitions(topic) > 0 {
		return nil
	}
	if err := s.cfg.Log.Ensure(ctx, topic); err != nil {
		return fmt.Errorf("create topic %s: %w", topic, err)
	}
	return nil
}
