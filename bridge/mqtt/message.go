package mqtt

import (
	"encoding/binary"
	"errors"
	"fmt"

	"millrace/bridge/mqtt/packet"
	"millrace/bridge/payload"
	"millrace/bridge/route"
	"millrace/broker/record"
)

// message is a record as MQTT sees it, decoded once however many sessions it goes to. Its slices live as long as the
// batch it came from.
type message struct {
	offset int64
	stamp  int64 // Unix ms
	props  payload.Message
	topic  string
	body   []byte
	list   *packet.Properties // without subscription identifiers and expiry; built when first wanted
	built  bool
}

// read fills m from a record; false when the record has no MQTT topic or MQTT cannot carry it.
func (m *message) read(s *Server, topic string, partition int32, r *record.Record) bool {
	if r.Large {
		s.complain("mqtt: a record is left out: it is too large for a subscriber", "topic", topic, "partition", partition,
			"offset", r.Offset, "limit", record.MaxRecord, "headers", record.MaxHeaders)
		return false
	}
	users := m.props.User[:0]
	*m = message{offset: r.Offset, stamp: r.Timestamp, body: r.Value}
	m.props.User = users
	m.props.QoS = 1 // what Kafka clients wrote is as durable as QoS 1; a header says otherwise
	for _, h := range r.Headers {
		m.props.Add(h.Key, h.Value)
	}
	m.topic = m.props.Topic
	// The topic indexes of the log (broker/segment) go by the same: who changes what is taken from the header looks there.
	// What only the server says, only the server's own log says: a Kafka client cannot put it into a header.
	if !packet.ValidTopic(m.topic) || route.Reserved(m.topic) && topic != retainedTopic {
		var ok bool
		if m.topic, ok = s.cfg.Router.Reverse(topic, partition, r.Key); !ok {
			return false
		}
	}
	return len(m.body) < packet.MaxRemaining-1<<17
}

// size is about what the message takes on the wire, in bytes.
func (m *message) size() int {
	n := 32 + len(m.topic) + len(m.body) + len(m.props.ContentType) + len(m.props.ResponseTopic) + len(m.props.Correlation)
	for _, u := range m.props.User {
		n += 5 + len(u.Key) + len(u.Value)
	}
	return n
}

// properties is the message's property list for MQTT 5, nil when empty. The caller may not change it.
func (m *message) properties() *packet.Properties {
	if m.built {
		return m.list
	}
	m.built = true
	p := listOf(&m.props)
	p.Present &^= packet.Of(packet.MessageExpiry)
	if p.Present != 0 {
		m.list = p
	}
	return m.list
}

// listOf is the property list a message was published with.
func listOf(m *payload.Message) *packet.Properties {
	p := new(packet.Properties)
	set := func(have bool, id packet.Property) {
		if have {
			p.Present |= packet.Of(id)
		}
	}
	p.PayloadFormat, p.MessageExpiry = m.Format, m.Expiry
	p.ContentType, p.ResponseTopic, p.CorrelationData, p.User = m.ContentType, m.ResponseTopic, m.Correlation, m.User
	set(m.HasFormat, packet.PayloadFormat)
	set(m.HasExpiry, packet.MessageExpiry)
	set(m.HasContentType, packet.ContentType)
	set(m.ResponseTopic != "", packet.ResponseTopic)
	set(m.HasCorrelation, packet.CorrelationData)
	set(len(m.User) > 0, packet.UserProperty)
	return p
}

// take is the other way: what of a received property list belongs to the application message.
func take(m *payload.Message, p *packet.Properties) {
	if p == nil {
		return
	}
	m.HasFormat, m.Format = p.Has(packet.PayloadFormat), p.PayloadFormat
	m.HasExpiry, m.Expiry = p.Has(packet.MessageExpiry), p.MessageExpiry
	m.HasContentType, m.ContentType = p.Has(packet.ContentType), p.ContentType
	m.ResponseTopic = p.ResponseTopic
	m.HasCorrelation, m.Correlation = p.Has(packet.CorrelationData), p.CorrelationData
	m.User = p.User
}

// appendPublish appends the PUBLISH that carries m. Properties travel unaltered [MQTT-3.3.2-17] [MQTT-3.3.2-18]
// [MQTT-3.3.2-20]; ids are the subscription identifiers that apply [MQTT-3.3.4-3]. head has the topic, which is empty where
// alias says it; alias is 0 for none.
func (m *message) appendPublish(dst []byte, v packet.Version, head packet.Publish, alias uint16, expiry uint32, ids []uint32) []byte {
	head.Payload = m.body
	if v == packet.V5 {
		head.Properties = m.properties()
		if m.props.HasExpiry || len(ids) > 0 || alias > 0 {
			var p packet.Properties
			if head.Properties != nil {
				p = *head.Properties
			}
			if m.props.HasExpiry {
				p.MessageExpiry = expiry // [MQTT-3.3.2-6]
				p.Present |= packet.Of(packet.MessageExpiry)
			}
			if len(ids) > 0 {
				p.SubscriptionIDs = ids
				p.Present |= packet.Of(packet.SubscriptionID)
			}
			if alias > 0 {
				p.TopicAlias = alias
				p.Present |= packet.Of(packet.TopicAlias)
			}
			head.Properties = &p
		}
	}
	return head.Append(dst, v)
}

// errUnreadable is returned by each for a batch whose records cannot be decoded, now or ever.
var errUnreadable = errors.New("records cannot be decoded")

// lost reports whether a read error means that the records will never be read: they are gone, or no records.
func lost(err error) bool {
	return errors.Is(err, ErrOutOfRange) || errors.Is(err, ErrGone) || errors.Is(err, errUnreadable)
}

// each decodes the records of whole batches and calls fn for each at or after from, in order, until fn returns false.
// It returns the offset after the last one done with; with errUnreadable that is the one after the batch. Control
// batches are skipped.
func each(p []byte, from int64, maxBytes int, fn func(r *record.Record) bool) (next int64, err error) {
	next = from
	for len(p) > 0 {
		var b record.Batch
		if b, p, err = record.Next(p); err != nil {
			return next, err
		}
		if !b.Control() {
			for r, err := range b.Records(maxBytes) {
				if err != nil {
					return max(next, b.NextOffset()), fmt.Errorf("%w: %w", errUnreadable, err)
				}
				if r.Offset < next {
					continue
				}
				if !fn(&r) {
					return r.Offset, nil
				}
				next = r.Offset + 1
			}
		}
		next = max(next, b.NextOffset())
	}
	return next, nil
}

// appendString appends a length and s, for session records.
func appendString(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}
