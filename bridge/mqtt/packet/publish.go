package packet

import "encoding/binary"

// Publish carries an application message (3.3).
type Publish struct {
	Dup        bool
	QoS        byte // 0-2
	Retain     bool
	Topic      string // empty only on 5 with a topic alias
	ID         uint16 // 0 on QoS 0
	Properties *Properties
	Payload    []byte
}

func (*Publish) Type() Type { return PUBLISH }

func (r *reader) publish(flags byte) *Publish {
	p := &Publish{Dup: flags&8 != 0, QoS: flags >> 1 & 3, Retain: flags&1 != 0}
	switch {
	case p.QoS == 3:
		r.fail(MalformedPacket, "publish with QoS 3") // [MQTT-3.3.1-4]
	case p.QoS == 0 && p.Dup:
		r.fail(MalformedPacket, "DUP on QoS 0") // [MQTT-3.3.1-2]
	}
	p.Topic = r.text() // [MQTT-3.3.2-1]
	if p.QoS > 0 {
		p.ID = r.id() // none on QoS 0 [MQTT-2.2.1-2]
	}
	p.Properties = r.properties(publishProps, true)
	switch {
	case r.err != nil:
	case p.Topic == "" && r.v == V5 && !p.Properties.Has(TopicAlias):
		r.fail(ProtocolError, "an empty topic without a topic alias") // 3.3.2.1
	case (p.Topic != "" || r.v != V5) && !ValidTopic(p.Topic):
		r.fail(MalformedPacket, "the topic name is empty or has wildcards") // [MQTT-3.3.2-2] [MQTT-4.7.3-1]
	default:
		p.Payload = r.take(len(r.p))
	}
	return p
}

// Append implements Packet.
func (p *Publish) Append(dst []byte, v Version) []byte {
	flags := p.QoS << 1
	if p.Dup {
		flags |= 8
	}
	if p.Retain {
		flags |= 1
	}
	dst, start := open(dst, PUBLISH, flags)
	dst = appendText(dst, p.Topic)
	if p.QoS > 0 {
		dst = binary.BigEndian.AppendUint16(dst, p.ID)
	}
	dst = appendProperties(dst, p.Properties, v)
	return seal(append(dst, p.Payload...), start)
}

// Ack is PUBACK, PUBREC, PUBREL or PUBCOMP (3.4-3.7).
type Ack struct {
	Kind       Type
	ID         uint16
	Reason     Reason // always Success on 3.1.1
	Properties *Properties
}

func (a *Ack) Type() Type { return a.Kind }

func (r *reader) ack(t Type) *Ack {
	a := &Ack{Kind: t, ID: r.id()}
	if r.v != V5 || len(r.p) == 0 {
		return a // a remaining length of 2 means success (3.4.2.1)
	}
	if t == PUBACK || t == PUBREC {
		a.Reason = r.reason(pubackReasons)
	} else {
		a.Reason = r.reason(pubrelReasons)
	}
	if len(r.p) > 0 { // below 4 there is no property length (3.4.2.2.1)
		a.Properties = r.properties(ackProps, false)
	}
	return a
}

// Append implements Packet.
func (a *Ack) Append(dst []byte, v Version) []byte {
	var flags byte
	if a.Kind == PUBREL {
		flags = 2 // [MQTT-3.6.1-1]
	}
	dst, start := open(dst, a.Kind, flags)
	dst = binary.BigEndian.AppendUint16(dst, a.ID)
	return seal(appendReason(dst, a.Reason, a.Properties, v), start)
}

// appendReason appends a reason code and properties in their shortest form.
func appendReason(dst []byte, reason Reason, p *Properties, v Version) []byte {
	if v != V5 || (reason == Success && p.empty()) {
		return dst
	}
	dst = append(dst, byte(reason))
	if p.empty() {
		return dst
	}
	return appendProperties(dst, p, v)
}
