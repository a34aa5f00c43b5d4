package swarm

import (
	"encoding/binary"
	"errors"

	"millrace/bridge/mqtt/packet"
)

// ErrCut is returned for a packet that ends inside a field.
var ErrCut = errors.New("the packet ends inside a field")

// Publish is a QoS 1 PUBLISH that is made once and sent again and again under other identifiers.
type Publish struct {
	bytes       []byte
	id, payload int
}

// NewPublish makes one with room for so many bytes of payload.
func NewPublish(v packet.Version, topic string, payload int) *Publish {
	p := packet.Publish{QoS: 1, Topic: topic, ID: 1, Payload: make([]byte, payload)}
	raw := p.Append(nil, v)
	id := len(raw) - payload - 2
	if v == packet.V5 {
		id-- // no properties
	}
	return &Publish{raw, id, len(raw) - payload}
}

// Payload is what the message carries, to be filled in before Send.
func (p *Publish) Payload() []byte { return p.bytes[p.payload:] }

// Send sends it under an identifier, which is not 0.
func (p *Publish) Send(c *Client, id uint16) {
	binary.BigEndian.PutUint16(p.bytes[p.id:], id)
	c.Send(p.bytes)
}

// Received are the parts of a PUBLISH that are worth looking at in a load. They are bytes of the packet.
type Received struct {
	QoS            byte
	Dup            bool
	ID             uint16 // 0 with QoS 0
	Topic, Payload []byte
}

// Read reads a PUBLISH without allocating.
func Read(p []byte, v packet.Version) (r Received, err error) {
	r.QoS, r.Dup = p[0]>>1&3, p[0]&8 != 0
	for p = p[1:]; len(p) > 0 && p[0] >= 0x80; {
		p = p[1:]
	}
	if len(p) < 3 {
		return r, ErrCut
	}
	n := int(binary.BigEndian.Uint16(p[1:]))
	if p = p[3:]; len(p) < n {
		return r, ErrCut
	}
	r.Topic, p = p[:n], p[n:]
	if r.QoS > 0 {
		if len(p) < 2 {
			return r, ErrCut
		}
		r.ID, p = binary.BigEndian.Uint16(p), p[2:]
	}
	if v == packet.V5 {
		size, w := binary.Uvarint(p) // a variable byte integer is one
		if w <= 0 || size > uint64(len(p)-w) {
			return r, ErrCut
		}
		p = p[w+int(size):]
	}
	r.Payload = p
	return r, nil
}

// Puback acknowledges a message.
func (c *Client) Puback(id uint16) {
	c.Send([]byte{byte(packet.PUBACK) << 4, 2, byte(id >> 8), byte(id)})
}

// Acked reads a PUBACK: its identifier, and on 5 the reason.
func Acked(p []byte) (id uint16, reason packet.Reason, err error) {
	if len(p) < 4 {
		return 0, 0, ErrCut
	}
	if len(p) > 4 {
		reason = packet.Reason(p[4])
	}
	return binary.BigEndian.Uint16(p[2:]), reason, nil
}
