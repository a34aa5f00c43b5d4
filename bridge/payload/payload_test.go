package payload

import (
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

type header struct {
	key   string
	value []byte
}

func headersOf(m *Message) (hs []header) {
	m.Headers(func(k string, v []byte) bool {
		hs = append(hs, header{k, append([]byte{}, v...)})
		return true
	})
	return hs
}

func text() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		s := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{
			"", "mqtt.", "mqtt.topic", "mqtt.user.", "mqtt.user.mqtt.user.x", "mqtt.qos",
		})).Draw(t, "text")
		if !Text(s) {
			return "plain"
		}
		return s
	})
}

func message() *rapid.Generator[Message] {
	return rapid.Custom(func(t *rapid.T) Message {
		m := Message{Topic: "a/" + text().Draw(t, "topic"), Client: text().Draw(t, "client")}
		m.QoS = rapid.ByteRange(0, 2).Draw(t, "qos")
		m.Retain = rapid.Bool().Draw(t, "retain")
		if m.HasFormat = rapid.Bool().Draw(t, "has format"); m.HasFormat {
			m.Format = rapid.ByteRange(0, 1).Draw(t, "format")
		}
		if m.HasExpiry = rapid.Bool().Draw(t, "has expiry"); m.HasExpiry {
			m.Expiry = rapid.Uint32().Draw(t, "expiry")
		}
		if m.HasContentType = rapid.Bool().Draw(t, "has content type"); m.HasContentType {
			m.ContentType = text().Draw(t, "content type")
		}
		m.ResponseTopic = rapid.SampledFrom([]string{"", "r", "r/é", "$x/y"}).Draw(t, "response topic")
		if m.HasCorrelation = rapid.Bool().Draw(t, "has correlation"); m.HasCorrelation {
			m.Correlation = rapid.SliceOf(rapid.Byte()).Draw(t, "correlation")
		}
		for range rapid.IntRange(0, 5).Draw(t, "users") {
			m.User = append(m.User, Pair{text().Draw(t, "name"), text().Draw(t, "value")})
		}
		return m
	})
}

func TestHeadersRoundTripWithoutLoss(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := message().Draw(t, "message")
		var got Message
		for _, h := range headersOf(&want) {
			if !got.Add(h.key, h.value) {
				t.Fatalf("header %q = %q was refused", h.key, h.value)
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got  %+v\nwant %+v", got, want)
		}
	})
}

func TestForeignHeaders(t *testing.T) {
	for _, tt := range []struct {
		key, value string
		want       bool
	}{
		{"traceparent", "00-4bf9", true},
		{"", "", true},
		{"blob", "\xff\xfe", false},
		{"nul", "a\x00b", false},
		{"bad\xff", "v", false},
		{"mqtt.qos", "3", false},
		{"mqtt.qos", "", false},
		{"mqtt.retain", "0", false},
		{"mqtt.payload-format", "2", false},
		{"mqtt.expiry", "-1", false},
		{"mqtt.expiry", "4294967296", false},
		{"mqtt.expiry", "4294967295", true},
		{"mqtt.content-type", "\xff", false},
		{"mqtt.response-topic", "a/+", false},
		{"mqtt.response-topic", "", false},
		{"mqtt.response-topic", "a", true},
		{"mqtt.correlation-data", "\x00\xff", true},
		{"mqtt.unknown", "x", false},
		{"mqtt.user.mqtt.x", "x", true},
	} {
		var m Message
		if got := m.Add(tt.key, []byte(tt.value)); got != tt.want {
			t.Errorf("Add(%q, %q) = %v, want %v", tt.key, tt.value, got, tt.want)
		} else if !got && !reflect.DeepEqual(m, Message{}) {
			t.Errorf("Add(%q, %q) refused and still changed the message: %+v", tt.key, tt.value, m)
		}
	}
}

func TestHeadersStopsWhenTold(t *testing.T) {
	m := Message{Topic: "t", Client: "c", Retain: true, User: []Pair{{"a", "b"}, {"c", "d"}}}
	for stop := 1; stop <= len(headersOf(&m)); stop++ {
		calls := 0
		m.Headers(func(string, []byte) bool { calls++; return calls < stop })
		if calls != stop {
			t.Errorf("%d calls after asking to stop at %d", calls, stop)
		}
	}
}

func TestRemaining(t *testing.T) {
	for _, tt := range []struct {
		name       string
		m          Message
		stamp, now int64
		left       uint32
		alive      bool
	}{
		{"no expiry", Message{}, 0, 1 << 40, 0, true},
		{"fresh", Message{HasExpiry: true, Expiry: 10}, 1000, 1000, 10, true},
		{"part gone", Message{HasExpiry: true, Expiry: 10}, 1000, 4500, 7, true},
		{"last second", Message{HasExpiry: true, Expiry: 10}, 1000, 10_999, 1, true},
		{"over", Message{HasExpiry: true, Expiry: 10}, 1000, 11_000, 0, false},
		{"zero", Message{HasExpiry: true}, 1000, 1000, 0, false},
		{"clock went back", Message{HasExpiry: true, Expiry: 10}, 9000, 1000, 10, true},
	} {
		if left, alive := tt.m.Remaining(tt.stamp, tt.now); left != tt.left || alive != tt.alive {
			t.Errorf("%s: %d, %v; want %d, %v", tt.name, left, alive, tt.left, tt.alive)
		}
	}
}
