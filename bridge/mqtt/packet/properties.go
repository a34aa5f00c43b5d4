package packet

import (
	"encoding/binary"
	"strings"

	"millrace/bridge/payload"
)

// Property is a property identifier (2.2.2.2).
type Property byte

const (
	PayloadFormat        Property = 0x01
	MessageExpiry        Property = 0x02
	ContentType          Property = 0x03
	ResponseTopic        Property = 0x08
	CorrelationData      Property = 0x09
	SubscriptionID       Property = 0x0B
	SessionExpiry        Property = 0x11
	AssignedClientID     Property = 0x12
	ServerKeepAlive      Property = 0x13
	AuthMethod           Property = 0x15
	AuthData             Property = 0x16
	RequestProblem       Property = 0x17
	WillDelay            Property = 0x18
	RequestResponse      Property = 0x19
	ResponseInformation  Property = 0x1A
	ServerReference      Property = 0x1C
	ReasonString         Property = 0x1F
	ReceiveMaximum       Property = 0x21
	TopicAliasMaximum    Property = 0x22
	TopicAlias           Property = 0x23
	MaximumQoS           Property = 0x24
	RetainAvailable      Property = 0x25
	UserProperty         Property = 0x26
	MaximumPacketSize    Property = 0x27
	WildcardAvailable    Property = 0x28
	SubscriptionIDsAvail Property = 0x29
	SharedAvailable      Property = 0x2A

	lastProperty = SharedAvailable
)

// Set is a set of property identifiers, one bit each.
type Set uint64

// Of makes a set.
func Of(ids ...Property) Set {
	var s Set
	for _, id := range ids {
		s |= 1 << id
	}
	return s
}

// Has reports whether the set holds id.
func (s Set) Has(id Property) bool { return s&(1<<id) != 0 }

// Properties is one MQTT 5 property list. Every list of the protocol fits the one struct; which identifiers a packet may
// carry is checked on decoding. A nil *Properties is the empty list.
type Properties struct {
	// Numbers holds the present numeric properties by identifier; Strings and the rest likewise.
	// Invariant: a bit in Present says that the property is there, whatever its value.
	Present Set

	PayloadFormat        byte
	RequestProblem       byte
	RequestResponse      byte
	MaximumQoS           byte
	RetainAvailable      byte
	WildcardAvailable    byte
	SubscriptionIDsAvail byte
	SharedAvailable      byte
	ServerKeepAlive      uint16 // seconds
	ReceiveMaximum       uint16
	TopicAliasMaximum    uint16
	TopicAlias           uint16
	MessageExpiry        uint32 // seconds
	SessionExpiry        uint32 // seconds; 0xFFFFFFFF never expires
	WillDelay            uint32 // seconds
	MaximumPacketSize    uint32 // bytes
	ContentType          string
	ResponseTopic        string
	AssignedClientID     string
	AuthMethod           string
	ResponseInformation  string
	ServerReference      string
	ReasonString         string
	CorrelationData      []byte
	AuthData             []byte
	SubscriptionIDs      []uint32 // several only in a PUBLISH from a server [MQTT-3.3.4-4]
	User                 []payload.Pair
}

// Has reports whether the list holds id. It is safe on nil.
func (p *Properties) Has(id Property) bool { return p != nil && p.Present.Has(id) }

// kind is how a property is written.
type kind byte

const (
	none kind = iota
	flag      // a byte of 0 or 1
	one
	two
	four
	length // variable byte integer
	text
	bin
	pair
)

var kinds = [lastProperty + 1]kind{
	PayloadFormat: flag, MessageExpiry: four, ContentType: text, ResponseTopic: text, CorrelationData: bin,
	SubscriptionID: length, SessionExpiry: four, AssignedClientID: text, ServerKeepAlive: two, AuthMethod: text,
	AuthData: bin, RequestProblem: flag, WillDelay: four, RequestResponse: flag, ResponseInformation: text,
	ServerReference: text, ReasonString: text, ReceiveMaximum: two, TopicAliasMaximum: two, TopicAlias: two,
	MaximumQoS: flag, RetainAvailable: flag, UserProperty: pair, MaximumPacketSize: four, WildcardAvailable: flag,
	SubscriptionIDsAvail: flag, SharedAvailable: flag,
}

// The property lists of each packet (table 2-4).
var (
	connectProps = Of(SessionExpiry, AuthMethod, AuthData, RequestProblem, RequestResponse, ReceiveMaximum,
		TopicAliasMaximum, UserProperty, MaximumPacketSize)
	willProps    = Of(PayloadFormat, MessageExpiry, ContentType, ResponseTopic, CorrelationData, WillDelay, UserProperty)
	connackProps = Of(SessionExpiry, AssignedClientID, ServerKeepAlive, AuthMethod, AuthData, ResponseInformation,
		ServerReference, ReasonString, ReceiveMaximum, TopicAliasMaximum, MaximumQoS, RetainAvailable, UserProperty,
		MaximumPacketSize, WildcardAvailable, SubscriptionIDsAvail, SharedAvailable)
	publishProps = Of(PayloadFormat, MessageExpiry, ContentType, ResponseTopic, CorrelationData, SubscriptionID,
		TopicAlias, UserProperty)
	ackProps         = Of(ReasonString, UserProperty)
	subscribeProps   = Of(SubscriptionID, UserProperty)
	unsubscribeProps = Of(UserProperty)
	disconnectProps  = Of(SessionExpiry, ServerReference, ReasonString, UserProperty)
	authProps        = Of(AuthMethod, AuthData, ReasonString, UserProperty)
)

func (p *Properties) byteOf(id Property) *byte {
	switch id {
	case PayloadFormat:
		return &p.PayloadFormat
	case RequestProblem:
		return &p.RequestProblem
	case RequestResponse:
		return &p.RequestResponse
	case MaximumQoS:
		return &p.MaximumQoS
	case RetainAvailable:
		return &p.RetainAvailable
	case WildcardAvailable:
		return &p.WildcardAvailable
	case SubscriptionIDsAvail:
		return &p.SubscriptionIDsAvail
	}
	return &p.SharedAvailable
}

func (p *Properties) twoOf(id Property) *uint16 {
	switch id {
	case ServerKeepAlive:
		return &p.ServerKeepAlive
	case ReceiveMaximum:
		return &p.ReceiveMaximum
	case TopicAliasMaximum:
		return &p.TopicAliasMaximum
	}
	return &p.TopicAlias
}

func (p *Properties) fourOf(id Property) *uint32 {
	switch id {
	case MessageExpiry:
		return &p.MessageExpiry
	case SessionExpiry:
		return &p.SessionExpiry
	case WillDelay:
		return &p.WillDelay
	}
	return &p.MaximumPacketSize
}

func (p *Properties) textOf(id Property) *string {
	switch id {
	case ContentType:
		return &p.ContentType
	case ResponseTopic:
		return &p.ResponseTopic
	case AssignedClientID:
		return &p.AssignedClientID
	case AuthMethod:
		return &p.AuthMethod
	case ResponseInformation:
		return &p.ResponseInformation
	case ServerReference:
		return &p.ServerReference
	}
	return &p.ReasonString
}

func (p *Properties) binOf(id Property) *[]byte {
	if id == CorrelationData {
		return &p.CorrelationData
	}
	return &p.AuthData
}

// properties reads a property list of which only the identifiers in allowed may occur. On 3.1.1 there is none.
// repeat allows several subscription identifiers.
func (r *reader) properties(allowed Set, repeat bool) *Properties {
	if r.v != V5 {
		return nil
	}
	// A list without properties is written as length zero [MQTT-2.2.2-1].
	n := r.varint()
	if n == 0 || r.err != nil {
		return nil
	}
	list := reader{p: r.take(n), v: r.v, lim: r.lim}
	if r.err != nil {
		return nil
	}
	p := new(Properties)
	for len(list.p) > 0 && list.err == nil {
		list.property(p, allowed, repeat)
	}
	if list.err == nil && p.Has(AuthData) && !p.Has(AuthMethod) {
		list.fail(ProtocolError, "authentication data without a method") // 3.1.2.11.10, 3.2.2.3.18, 3.15.2.2.3
	}
	if list.err != nil {
		r.err, r.p = list.err, nil
		return nil
	}
	return p
}

func (r *reader) property(p *Properties, allowed Set, repeat bool) {
	v := r.varint()
	if r.err != nil {
		return
	}
	if v > int(lastProperty) || !allowed.Has(Property(v)) {
		// An identifier that is not valid for its packet makes it malformed (2.2.2.2).
		r.fail(MalformedPacket, "a property this packet cannot carry")
		return
	}
	id := Property(v)
	if p.Present.Has(id) && id != UserProperty && (id != SubscriptionID || !repeat) {
		r.fail(ProtocolError, "a property given twice")
		return
	}
	p.Present |= 1 << id
	switch kinds[id] {
	case flag:
		b := p.byteOf(id)
		if *b = r.byte(); *b > 1 {
			r.fail(ProtocolError, "a property that is 0 or 1 has another value")
		}
	case two:
		n := p.twoOf(id)
		if *n = r.uint16(); *n == 0 && r.err == nil {
			switch id {
			case ReceiveMaximum:
				r.fail(ProtocolError, "receive maximum 0") // 3.1.2.11.3
			case TopicAlias:
				r.fail(InvalidTopicAlias, "topic alias 0") // [MQTT-3.3.2-8]
			}
		}
	case four:
		n := p.fourOf(id)
		if *n = r.uint32(); *n == 0 && id == MaximumPacketSize {
			r.fail(ProtocolError, "maximum packet size 0") // 3.1.2.11.4
		}
	case length:
		n := r.varint()
		if n == 0 {
			r.fail(ProtocolError, "subscription identifier 0") // 3.8.2.1.2
		}
		p.SubscriptionIDs = append(p.SubscriptionIDs, uint32(n))
	case text: // [MQTT-3.3.2-13] [MQTT-3.3.2-19]
		s := p.textOf(id)
		*s = r.text()
		if id == ResponseTopic && r.err == nil && !ValidTopic(*s) {
			r.fail(ProtocolError, "response topic with wildcards or empty") // [MQTT-3.3.2-14] [MQTT-4.7.3-1]
		}
	case bin:
		*p.binOf(id) = r.binary()
	case pair:
		if r.lim.User > 0 && len(p.User) >= r.lim.User {
			r.fail(QuotaExceeded, "too many user properties")
			return
		}
		k := r.text() // [MQTT-1.5.7-1]
		p.User = append(p.User, payload.Pair{Key: k, Value: r.text()})
	}
}

// appendProperties appends p's list, in ascending order of identifiers. On 3.1.1 it appends nothing.
func appendProperties(dst []byte, p *Properties, v Version) []byte {
	if v != V5 {
		return dst
	}
	dst = append(dst, 0)
	if p.empty() {
		return dst
	}
	start := len(dst)
	for id := range lastProperty + 1 {
		if !p.Present.Has(id) {
			continue
		}
		switch kinds[id] {
		case flag, one:
			dst = append(dst, byte(id), *p.byteOf(id))
		case two:
			dst = binary.BigEndian.AppendUint16(append(dst, byte(id)), *p.twoOf(id))
		case four:
			dst = binary.BigEndian.AppendUint32(append(dst, byte(id)), *p.fourOf(id))
		case length:
			for _, n := range p.SubscriptionIDs {
				dst = appendVarint(append(dst, byte(id)), int(n))
			}
		case text:
			dst = appendText(append(dst, byte(id)), *p.textOf(id))
		case bin:
			dst = appendBinary(append(dst, byte(id)), *p.binOf(id))
		case pair:
			for _, u := range p.User {
				dst = appendText(appendText(append(dst, byte(id)), u.Key), u.Value)
			}
		}
	}
	return seal(dst, start)
}

func (p *Properties) empty() bool { return p == nil || p.Present == 0 }

// ValidTopic reports whether s can be a topic name: at least one character [MQTT-4.7.3-1], no U+0000 [MQTT-4.7.3-2],
// no wildcard [MQTT-4.7.0-1].
func ValidTopic(s string) bool {
	return s != "" && payload.Text(s) && !strings.ContainsAny(s, "+#")
}

// ValidFilter reports whether s can be a topic filter: `#` only as the last level, alone in it [MQTT-4.7.1-1], `+` alone
// in its level [MQTT-4.7.1-2], at least one character [MQTT-4.7.3-1].
func ValidFilter(s string) bool {
	if s == "" || !payload.Text(s) {
		return false
	}
	for {
		level, rest, more := strings.Cut(s, "/")
		switch {
		case level == "#":
			return !more
		case level != "+" && strings.ContainsAny(level, "+#"):
			return false
		case !more:
			return true
		}
		s = rest
	}
}
