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

// acks are the publishes of one connection on their way into the log, in the order they came. Each is answered when it
// is durable and all before it are answered [MQTT-4.6.0-2].
type acks struct {
	c *client

	mu   sync.Mutex
	cond *sync.Cond // waits for room
	// ring[first%len] … ring[next-1] are on their way. Invariant: next-first <= len(ring) = receive maximum.
	ring        []pending
	first, next uint64
	closed      bool // nothing is sent any more
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
	if a.ring == nil {
		a.ring = make([]pending, a.c.s.cfg.ReceiveMaximum)
	}
	for a.next-a.first == uint64(len(a.ring)) && !a.closed {
		a.cond.Wait()
	}
	if a.closed {
		return 0, false
	}
	a.ring[a.next%uint64(len(a.ring))] = pending{id: id, qos: qos}
	a.next++
	return a.next - 1, true
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
	a.cond.Broadcast()
}

func (a *acks) close() {
	a.mu.Lock()
	a.closed = true
	a.cond.Broadcast()
	a.mu.Unlock()
}

// answer sends the PUBACK of a publish that landed [MQTT-4.3.2-4]; false when the connection has to end instead: 3.1.1
// has no way to refuse a message but that ([MQTT-3.3.5-2] of 3.1.1), and what was dropped is never acknowledged.
func (c *client) answer(p *pending) bool {
	if p.err != nil {
		c.s.complain("mqtt: publish refused", "client", c.id, "qos", p.qos, "error", p.err)
	}
	switch {
	case p.qos == 0:
		if p.err != nil {
			c.s.traffic.publishDropped.Add(1)
		}
		return true
	case p.err == nil:
		c.send(&packet.Ack{Kind: packet.PUBACK, ID: p.id})
	case c.version == packet.V5:
		ack := &packet.Ack{Kind: packet.PUBACK, ID: p.id, Reason: reasonOf(p.err)}
		if c.reasons { // [MQTT-3.1.2-29]
			ack.Properties = c.reasonString(p.err.Error())
		}
		c.send(ack)
	default:
		delay := time.Duration(0)
		if errors.Is(p.err, ErrFull) || errors.Is(p.err, ErrTooLarge) {
			delay = refusalDelay
		}
		c.s.deadlines.at(c.s.cfg.Now().Add(delay), func() { c.end(packet.QuotaExceeded, "") })
		return false
	}
	return true
}

// reasonOf is the only translation of a publish's error to its PUBACK.
func reasonOf(err error) packet.Reason {
	switch {
	case errors.Is(err, ErrFull):
		return packet.QuotaExceeded
	case errors.Is(err, route.ErrNoRoute), errors.Is(err, route.ErrTopicName), errors.Is(err, ErrBadTopic):
		return packet.InvalidTopicName
	case errors.Is(err, ErrTooLarge):
		return packet.ImplementationError
	}
	return packet.UnspecifiedError
}

// onPublish sends a publish on its way. size is the packet's.
func (c *client) onPublish(p *packet.Publish, size int) error {
	switch {
	case p.QoS > 1:
		// CONNACK said so on 5 [MQTT-3.2.2-11]; 3.1.1 has no other answer than closing.
		return &packet.Error{Reason: packet.QoSNotSupported, Why: "QoS 2 is not offered"}
	case p.Properties.Has(packet.SubscriptionID):
		return &packet.Error{Reason: packet.ProtocolError, Why: "a subscription identifier from a client"} // [MQTT-3.3.4-6]
	}
	if err := c.resolveAlias(p); err != nil {
		return err
	}
	c.s.traffic.publishReceived.Add(1)
	c.s.traffic.publishBytesReceived.Add(int64(len(p.Payload)))
	n, ok := c.acks.begin(p.ID, p.QoS)
	if !ok {
		return nil
	}
	m := payload.Message{Topic: p.Topic, Client: c.id, QoS: p.QoS, Retain: p.Retain}
	take(&m, p.Properties)
	if c.tooLong(p.Topic) {
		c.acks.land(n, fmt.Errorf("topic of more than %d levels or %d bytes: %w", c.s.cfg.MaxTopicLevels,
			c.s.cfg.MaxTopicBytes, ErrBadTopic))
		return nil
	}
	if err := c.s.cfg.Inflight.Acquire(c.ctx, int64(size)); err != nil {
		c.acks.land(n, err)
		return nil
	}
	c.s.publish(c.ctx, &m, p.Payload, func(err error) {
		c.s.cfg.Inflight.Release(int64(size))
		c.acks.land(n, err)
	})
	return nil
}

// tooLong reports whether a topic or filter is over the limits: what a client may make us remember is bounded.
func (c *client) tooLong(topic string) bool {
	return len(topic) > c.s.cfg.MaxTopicBytes || strings.Count(topic, "/") >= c.s.cfg.MaxTopicLevels
}

// resolveAlias gives the publish its topic and remembers what the client maps (3.3.2.3.4).
func (c *client) resolveAlias(p *packet.Publish) error {
	if !p.Properties.Has(packet.TopicAlias) {
		return nil
	}
	alias := p.Properties.TopicAlias
	if int(alias) > c.s.cfg.TopicAliases {
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
// called exactly once, perhaps before publish returns: when all of it is durable, or with the first error.
func (s *Server) publish(ctx context.Context, m *payload.Message, body []byte, done func(error)) {
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
	if body == nil {
		body = []byte{} // an empty payload is not Kafka's null
	}
	rec := &w.records[0]
	*rec = record.Record{Timestamp: s.cfg.Now().UnixMilli(), Key: w.target.Key, Value: body}
	w.headers = w.headers[:0]
	m.Headers(func(key string, value []byte) bool {
		w.headers = append(w.headers, record.Header{Key: key, Value: value})
		return true
	})
	own := len(w.headers)
	if n := len(w.target.Headers); n > 0 {
		w.headers = append(w.headers, record.Header{Key: payload.Added, Value: strconv.AppendInt(nil, int64(n), 10)})
	}
	for _, h := range w.target.Headers {
		w.headers = append(w.headers, record.Header{Key: h.Key, Value: []byte(h.Value)})
	}
	rec.Headers = w.headers
	s.wg.Add(1)
	finish := func(err error) {
		done(err)
		s.wg.Done()
	}
	if topic := certificate(m.Topic); topic != "" && len(body) > 0 {
		// A birth is kept as it passes through [tck-id-conformance-mqtt-aware-store], as a retained message
		// [tck-id-conformance-mqtt-aware-nbirth-mqtt-retain] [tck-id-conformance-mqtt-aware-dbirth-mqtt-retain].
		birth := *m
		birth.Topic, birth.Retain = topic, true
		kept := record.Record{Timestamp: rec.Timestamp, Key: []byte(topic), Value: body}
		birth.Headers(func(key string, value []byte) bool {
			kept.Headers = append(kept.Headers, record.Header{Key: key, Value: value})
			return true
		})
		finish = both(finish)
		s.retained.put(ctx, kept, finish)
	}
	if m.Retain {
		// The retained copy goes first: whoever subscribes now either finds it or gets the live message.
		finish = both(finish)
		kept := record.Record{Timestamp: rec.Timestamp, Key: []byte(m.Topic), Value: body, Headers: w.headers[:own]}
		if len(body) == 0 {
			kept.Value = nil // [MQTT-3.3.1-6] [MQTT-3.3.1-7]
		}
		s.retained.put(ctx, kept, finish)
	}
	p.AppendRecords(w.records[:], false, func(_ int64, err error) { finish(err) })
	clear(w.headers)
	*rec = record.Record{}
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

// sendWill publishes a will [MQTT-3.1.2-7] [MQTT-3.1.2-14] [MQTT-3.1.2-15].
func (s *Server) sendWill(w *will) {
	m := payload.Message{Topic: w.Topic, Client: w.client, QoS: w.QoS, Retain: w.Retain}
	take(&m, w.Properties)
	s.publish(s.ctx, &m, w.Payload, func(err error) {
		s.drop(w)
		if err != nil {
			s.log.Error("mqtt: will could not be published", "client", w.client, "topic", w.Topic, "error", err)
		}
	})
}
