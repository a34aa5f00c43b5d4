// Package packet is the MQTT 3.1.1 and 5 wire format: every control packet, decoded strictly and encoded canonically.
//
// Decoding is a pure function of bytes and limits. It never panics, allocates in proportion to the bytes it was given
// (never to what a length field promises) and answers every malformed form with the reason code the specification
// names. Clauses are cited in MQTT 5 numbering unless a 3.1.1 one is meant.
package packet

// Version is the protocol level of a connection as CONNECT carries it.
type Version byte

const (
	V311 Version = 4
	V5   Version = 5
)

// Type is the control packet type, the high nibble of the first byte (2.1.2).
type Type byte

const (
	CONNECT Type = iota + 1
	CONNACK
	PUBLISH
	PUBACK
	PUBREC
	PUBREL
	PUBCOMP
	SUBSCRIBE
	SUBACK
	UNSUBSCRIBE
	UNSUBACK
	PINGREQ
	PINGRESP
	DISCONNECT
	AUTH
)

var typeNames = [16]string{
	"RESERVED", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE", "SUBACK",
	"UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH",
}

func (t Type) String() string { return typeNames[t&15] }

// MaxRemaining is the largest remaining length four bytes can carry (1.5.5), 256 MiB less one byte.
const MaxRemaining = 268_435_455

// Packet is one control packet. The concrete types are *Connect, *Connack, *Publish, *Ack, *Subscribe, *Suback,
// *Unsubscribe, *Unsuback, *Ping, *Disconnect and *Auth.
type Packet interface {
	// Type is the packet's type.
	Type() Type
	// Append appends the packet's one canonical encoding for v to dst: properties in ascending order of their
	// identifiers, trailing success codes and empty property lists left out where the specification allows it. What v
	// cannot carry (properties on 3.1.1) is left out. The caller keeps strings and lists within the limits of the format.
	Append(dst []byte, v Version) []byte
}

// Limits bound what one packet may make the decoder allocate, beside its own size. Zero is no limit of that kind.
type Limits struct {
	Filters int // topic filters in one SUBSCRIBE or UNSUBSCRIBE
	User    int // user properties in one property list
}

// Frame reads the fixed header at the front of p and returns the whole packet's size in bytes, header included, or 0
// when p ends inside the header. The caller compares the size with its own limit before it makes room for it.
// The error, an *Error, tells that the length can never become valid.
func Frame(p []byte) (int, error) {
	if len(p) < 2 {
		return 0, nil
	}
	value, n := 0, 1
	for shift := 0; ; shift += 7 {
		if n == len(p) {
			return 0, nil
		}
		b := p[n]
		n++
		value |= int(b&0x7f) << shift
		if b < 0x80 {
			return n + value, nil
		}
		if shift == 21 {
			return 0, &Error{MalformedPacket, "remaining length of more than four bytes"}
		}
	}
}

// Decode decodes the one packet that fills p, as Frame measured it. v is the connection's version; a CONNECT brings its
// own and ignores v. Byte slices in the result alias p, strings do not. Every error is an *Error.
func Decode(p []byte, v Version, lim Limits) (Packet, error) {
	size, err := Frame(p)
	if err != nil {
		return nil, err
	}
	if size == 0 || size != len(p) {
		return nil, &Error{MalformedPacket, "the remaining length is not the packet's"}
	}
	head := 2
	for p[head-1] >= 0x80 {
		head++
	}
	t, flags := Type(p[0]>>4), p[0]&15
	// 3.1.1 does not ask for the shortest form of a length; 5 does [MQTT-1.5.5-1].
	padded := head > 2 && p[head-1] == 0
	if padded && v == V5 && t != CONNECT {
		return nil, &Error{MalformedPacket, "remaining length not in its shortest form"}
	}
	// Reserved flag bits must hold the value the table gives [MQTT-2.1.3-1], [MQTT-2.2.2-2] of 3.1.1.
	if want := fixedFlags[t]; want != anyFlags && flags != want {
		return nil, &Error{MalformedPacket, "reserved flags of the fixed header"}
	}
	r := reader{p: p[head:], v: v, lim: lim}
	var pkt Packet
	switch t {
	case CONNECT:
		c := r.connect()
		if padded && r.v == V5 {
			r.fail(MalformedPacket, "remaining length not in its shortest form")
		}
		pkt = c
	case CONNACK:
		pkt = r.connack()
	case PUBLISH:
		pkt = r.publish(flags)
	case PUBACK, PUBREC, PUBREL, PUBCOMP:
		pkt = r.ack(t)
	case SUBSCRIBE:
		pkt = r.subscribe()
	case SUBACK:
		pkt = r.suback()
	case UNSUBSCRIBE:
		pkt = r.unsubscribe()
	case UNSUBACK:
		pkt = r.unsuback()
	case PINGREQ, PINGRESP:
		pkt = &Ping{Response: t == PINGRESP}
	case DISCONNECT:
		pkt = r.disconnect()
	case AUTH:
		pkt = r.auth()
	default:
		return nil, &Error{MalformedPacket, "packet type 0 is forbidden"}
	}
	if r.err == nil && len(r.p) != 0 {
		r.fail(MalformedPacket, "bytes left over at the end of the packet")
	}
	if r.err != nil {
		return nil, r.err
	}
	return pkt, nil
}

const anyFlags = 0xff

// fixedFlags are the flags of each type; what is not here has 0, DISCONNECT [MQTT-3.14.1-1] and AUTH [MQTT-3.15.1-1] too.
// PUBREL [MQTT-3.6.1-1], SUBSCRIBE [MQTT-3.8.1-1] and UNSUBSCRIBE [MQTT-3.10.1-1] have 2.
var fixedFlags = [16]byte{PUBLISH: anyFlags, PUBREL: 2, SUBSCRIBE: 2, UNSUBSCRIBE: 2}
