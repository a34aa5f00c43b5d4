// Package payload maps what travels beside an MQTT payload (topic, client, QoS, MQTT 5 properties) to the headers of a
// record and back, without loss. A Kafka consumer reads them as plain headers; a record a Kafka client wrote becomes an
// MQTT message with whatever of it MQTT can carry.
package payload

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// The header keys. Everything that starts with Prefix is ours; every other header is an MQTT 5 user property.
const (
	Prefix        = "mqtt."
	Topic         = "mqtt.topic"            // the topic the client published to, UTF-8
	Client        = "mqtt.client"           // the publishing client's id, UTF-8: No Local needs it
	QoS           = "mqtt.qos"              // "0", "1" or "2": the publisher's
	Retain        = "mqtt.retain"           // "1" when the publisher set RETAIN
	Format        = "mqtt.payload-format"   // "0" or "1" [MQTT-3.3.2-4]
	Expiry        = "mqtt.expiry"           // seconds, decimal, as published: it counts from the record's timestamp
	ContentType   = "mqtt.content-type"     // UTF-8 [MQTT-3.3.2-20]
	ResponseTopic = "mqtt.response-topic"   // UTF-8 [MQTT-3.3.2-15]
	Correlation   = "mqtt.correlation-data" // bytes [MQTT-3.3.2-16]
	UserPrefix    = "mqtt.user."            // before a user property whose own name starts with Prefix
	Added         = "mqtt.added"            // decimal: so many headers after this one are a routing rule's, not the publisher's
)

// MaxAdded bounds the headers a rule adds.
const MaxAdded = 64

// Pair is one MQTT 5 user property. Names may repeat and their order is kept [MQTT-3.3.2-18].
type Pair struct{ Key, Value string }

// Message is everything about an application message except its payload. The zero value has no property at all.
type Message struct {
	Topic  string // empty: not born in MQTT
	Client string
	QoS    byte // 0-2
	Retain bool

	HasFormat      bool
	Format         byte // 0 bytes, 1 UTF-8
	HasExpiry      bool
	Expiry         uint32 // seconds
	HasContentType bool
	ContentType    string
	ResponseTopic  string // empty: none; an empty response topic is not valid MQTT
	HasCorrelation bool
	Correlation    []byte
	User           []Pair

	added int // headers to come that a rule added
}

// Headers calls yield for every header of m, in a fixed order, user properties last and in theirs. It stops when yield
// returns false. Values are valid until m changes.
func (m *Message) Headers(yield func(key string, value []byte) bool) {
	put := func(have bool, key, value string) bool { return !have || yield(key, []byte(value)) }
	_ = put(m.Topic != "", Topic, m.Topic) &&
		put(m.Client != "", Client, m.Client) &&
		put(m.Topic != "", QoS, strconv.Itoa(int(m.QoS))) &&
		put(m.Retain, Retain, "1") &&
		put(m.HasFormat, Format, strconv.Itoa(int(m.Format))) &&
		put(m.HasExpiry, Expiry, strconv.FormatUint(uint64(m.Expiry), 10)) &&
		put(m.HasContentType, ContentType, m.ContentType) &&
		put(m.ResponseTopic != "", ResponseTopic, m.ResponseTopic) &&
		(!m.HasCorrelation || yield(Correlation, m.Correlation)) &&
		m.user(yield)
}

func (m *Message) user(yield func(string, []byte) bool) bool {
	for _, p := range m.User {
		key := p.Key
		if strings.HasPrefix(key, Prefix) {
			key = UserPrefix + key
		}
		if !yield(key, []byte(p.Value)) {
			return false
		}
	}
	return true
}

// Add takes one record header into m, in the order the record has them. It reports whether MQTT can carry it: a value
// that is not what its key promises, a name or value that is no MQTT string, unknown keys under Prefix, and what a rule
// added are left out. Correlation aliases value; strings are copied.
func (m *Message) Add(key string, value []byte) bool {
	if m.added > 0 {
		m.added--
		return false
	}
	if !strings.HasPrefix(key, Prefix) {
		return m.addUser(key, value)
	}
	switch key {
	case Topic:
		return setText(&m.Topic, value)
	case Client:
		return setText(&m.Client, value)
	case QoS:
		if len(value) != 1 || value[0] < '0' || value[0] > '2' {
			return false
		}
		m.QoS = value[0] - '0'
	case Retain:
		if string(value) != "1" {
			return false
		}
		m.Retain = true
	case Format:
		if len(value) != 1 || value[0] < '0' || value[0] > '1' {
			return false
		}
		m.HasFormat, m.Format = true, value[0]-'0'
	case Expiry:
		n, err := strconv.ParseUint(string(value), 10, 32)
		if err != nil {
			return false
		}
		m.HasExpiry, m.Expiry = true, uint32(n)
	case ContentType:
		if !setText(&m.ContentType, value) {
			return false
		}
		m.HasContentType = true
	case ResponseTopic:
		// The Response Topic must not contain wildcard characters [MQTT-3.3.2-14].
		if len(value) == 0 || strings.ContainsAny(string(value), "+#") {
			return false
		}
		return setText(&m.ResponseTopic, value)
	case Added:
		n, err := strconv.ParseUint(string(value), 10, 8)
		if err != nil || n > MaxAdded {
			return false
		}
		m.added = int(n)
	case Correlation:
		if len(value) > 65535 {
			return false
		}
		m.HasCorrelation, m.Correlation = true, value
	default:
		name, ok := strings.CutPrefix(key, UserPrefix)
		return ok && m.addUser(name, value)
	}
	return true
}

func (m *Message) addUser(key string, value []byte) bool {
	if !Text(key) || !Text(string(value)) {
		return false
	}
	m.User = append(m.User, Pair{key, string(value)})
	return true
}

func setText(dst *string, value []byte) bool {
	if !Text(string(value)) {
		return false
	}
	*dst = string(value)
	return true
}

// Text reports whether s can be an MQTT UTF-8 string: at most 65,535 bytes, well formed, no surrogates
// [MQTT-1.5.4-1], no U+0000 [MQTT-1.5.4-2].
func Text(s string) bool {
	return len(s) <= 65535 && utf8.ValidString(s) && strings.IndexByte(s, 0) < 0
}

// Remaining tells how many seconds of the message's expiry are left at now, for a record that arrived at stamp (both
// Unix milliseconds), and whether it may still be delivered [MQTT-3.3.2-5]. A message without expiry never expires; one
// stamped later than now (the clock went back) has all of it left.
func (m *Message) Remaining(stamp, now int64) (seconds uint32, alive bool) {
	if !m.HasExpiry {
		return 0, true
	}
	waited := max(now-stamp, 0) / 1000
	if waited >= int64(m.Expiry) {
		return 0, false
	}
	// The interval sent is what was received minus the time waited here [MQTT-3.3.2-6].
	return m.Expiry - uint32(waited), true
}
