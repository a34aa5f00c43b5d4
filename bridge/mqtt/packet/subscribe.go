package packet

import (
	"encoding/binary"
	"strings"
)

// Subscribe asks for subscriptions (3.8).
type Subscribe struct {
	ID         uint16
	Properties *Properties
	Filters    []Subscription
}

// Subscription is one topic filter with its options (3.8.3.1). The codec checks that Filter is an MQTT string; whether
// it is a filter is for the server to answer in SUBACK.
type Subscription struct {
	Filter            string
	QoS               byte // the most the client wants
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    byte // 0 send retained, 1 only when new, 2 never
}

// SharePrefix starts the filter of a shared subscription (4.8.2).
const SharePrefix = "$share/"

func (*Subscribe) Type() Type { return SUBSCRIBE }

func (r *reader) subscribe() *Subscribe {
	s := &Subscribe{ID: r.id()}
	s.Properties = r.properties(subscribeProps, false)
	for r.err == nil && len(r.p) > 0 {
		if r.lim.Filters > 0 && len(s.Filters) >= r.lim.Filters {
			r.fail(QuotaExceeded, "too many topic filters in one packet")
			return nil
		}
		f := Subscription{Filter: r.text()} // [MQTT-3.8.3-1]
		o := r.byte()
		f.QoS, f.NoLocal, f.RetainAsPublished, f.RetainHandling = o&3, o&4 != 0, o&8 != 0, o>>4&3
		switch {
		case r.err != nil:
		case r.v == V5 && o&0xC0 != 0, r.v != V5 && o&0xFC != 0:
			r.fail(MalformedPacket, "reserved bits of the subscription options") // [MQTT-3.8.3-5], [MQTT-3.8.3-4] of 3.1.1
		case f.QoS == 3:
			r.fail(ProtocolError, "subscription with QoS 3") // 3.8.3.1, [MQTT-3.8.3-4] of 3.1.1
		case f.RetainHandling == 3:
			r.fail(ProtocolError, "retain handling 3") // 3.8.3.1
		case f.NoLocal && strings.HasPrefix(f.Filter, SharePrefix):
			r.fail(ProtocolError, "no local on a shared subscription") // [MQTT-3.8.3-4]
		}
		s.Filters = append(s.Filters, f)
	}
	if r.err == nil && len(s.Filters) == 0 {
		r.fail(ProtocolError, "subscribe without a topic filter") // [MQTT-3.8.3-2]
	}
	return s
}

// Append implements Packet.
func (s *Subscribe) Append(dst []byte, v Version) []byte {
	dst, start := open(dst, SUBSCRIBE, 2) // [MQTT-3.8.1-1]
	dst = binary.BigEndian.AppendUint16(dst, s.ID)
	dst = appendProperties(dst, s.Properties, v)
	for _, f := range s.Filters {
		o := f.QoS
		if v == V5 {
			o |= f.RetainHandling << 4
			if f.NoLocal {
				o |= 4
			}
			if f.RetainAsPublished {
				o |= 8
			}
		}
		dst = append(appendText(dst, f.Filter), o)
	}
	return seal(dst, start)
}

// Suback answers a Subscribe, one reason for each filter in order (3.9) [MQTT-3.9.3-1].
type Suback struct {
	ID         uint16
	Properties *Properties
	Reasons    []Reason
}

func (*Suback) Type() Type { return SUBACK }

func (r *reader) suback() *Suback {
	s := &Suback{ID: r.id()}
	s.Properties = r.properties(ackProps, false)
	valid := subackReasons
	if r.v != V5 {
		valid = subackReturns311
	}
	s.Reasons = r.reasons(valid)
	return s
}

func (r *reader) reasons(valid string) []Reason {
	if r.err == nil && len(r.p) == 0 {
		r.fail(ProtocolError, "an acknowledgement without reason codes")
	}
	if r.err != nil {
		return nil
	}
	codes := make([]Reason, 0, len(r.p))
	for r.err == nil && len(r.p) > 0 {
		codes = append(codes, r.reason(valid))
	}
	return codes
}

// Append implements Packet.
func (s *Suback) Append(dst []byte, v Version) []byte {
	dst, start := open(dst, SUBACK, 0)
	dst = binary.BigEndian.AppendUint16(dst, s.ID)
	dst = appendProperties(dst, s.Properties, v)
	for _, c := range s.Reasons {
		dst = append(dst, byte(c))
	}
	return seal(dst, start)
}

// Unsubscribe ends subscriptions (3.10).
type Unsubscribe struct {
	ID         uint16
	Properties *Properties
	Filters    []string
}

func (*Unsubscribe) Type() Type { return UNSUBSCRIBE }

func (r *reader) unsubscribe() *Unsubscribe {
	u := &Unsubscribe{ID: r.id()}
	u.Properties = r.properties(unsubscribeProps, false)
	for r.err == nil && len(r.p) > 0 {
		if r.lim.Filters > 0 && len(u.Filters) >= r.lim.Filters {
			r.fail(QuotaExceeded, "too many topic filters in one packet")
			return nil
		}
		u.Filters = append(u.Filters, r.text()) // [MQTT-3.10.3-1]
	}
	if r.err == nil && len(u.Filters) == 0 {
		r.fail(ProtocolError, "unsubscribe without a topic filter") // [MQTT-3.10.3-2]
	}
	return u
}

// Append implements Packet.
func (u *Unsubscribe) Append(dst []byte, v Version) []byte {
	dst, start := open(dst, UNSUBSCRIBE, 2) // [MQTT-3.10.1-1]
	dst = binary.BigEndian.AppendUint16(dst, u.ID)
	dst = appendProperties(dst, u.Properties, v)
	for _, f := range u.Filters {
		dst = appendText(dst, f)
	}
	return seal(dst, start)
}

// Unsuback answers an Unsubscribe (3.11). Reasons exists on 5 only.
type Unsuback struct {
	ID         uint16
	Properties *Properties
	Reasons    []Reason
}

func (*Unsuback) Type() Type { return UNSUBACK }

func (r *reader) unsuback() *Unsuback {
	u := &Unsuback{ID: r.id()}
	if r.v != V5 {
		return u
	}
	u.Properties = r.properties(ackProps, false)
	u.Reasons = r.reasons(unsubackReasons)
	return u
}

// Append implements Packet.
func (u *Unsuback) Append(dst []byte, v Version) []byte {
	dst, start := open(dst, UNSUBACK, 0)
	dst = binary.BigEndian.AppendUint16(dst, u.ID)
	if v == V5 {
		dst = appendProperties(dst, u.Properties, v)
		for _, c := range u.Reasons {
			dst = append(dst, byte(c))
		}
	}
	return seal(dst, start)
}
