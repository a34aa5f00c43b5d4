package payload

import (
	"reflect"
	"strconv"
	"strings"
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
		{"mqtt.added", "65", false},
		{"mqtt.added", "-1", false},
		{"mqtt.added", "", false},
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

// What a rule adds to a record is for Kafka clients: the message comes back without it, whatever it looks like.
func TestWhatARuleAddedDoesNotTravel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := message().Draw(t, "message")
		hs := headersOf(&want)
		n := rapid.IntRange(0, MaxAdded).Draw(t, "added")
		hs = append(hs, header{Added, []byte(strconv.Itoa(n))})
		for range n {
			hs = append(hs, header{text().Draw(t, "key"), []byte(text().Draw(t, "value"))})
		}
		after := rapid.Bool().Draw(t, "a Kafka client adds another")
		if after {
			hs = append(hs, header{"late", []byte("x")})
			want.User = append(want.User, Pair{"late", "x"})
		}
		var got Message
		for _, h := range hs {
			got.Add(h.key, h.value)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got  %+v\nwant %+v", got, want)
		}
	})
}

// Every header a Kafka client can write travels as a user property, in its order, repeated or not, when its name and value
// are strings to MQTT and its name is not one of ours; Add tells which do.
func TestEveryKafkaHeaderThatCanTravelDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bytes := rapid.OneOf(rapid.SliceOfN(rapid.Byte(), 0, 8), rapid.Map(text(), func(s string) []byte { return []byte(s) }), rapid.Just([]byte(nil)))
		var want []Pair
		var got Message
		for range rapid.IntRange(0, 8).Draw(t, "headers") {
			key, value := string(bytes.Draw(t, "key")), bytes.Draw(t, "value")
			travels := Text(key) && Text(string(value)) && !strings.HasPrefix(key, Prefix)
			if travels {
				want = append(want, Pair{key, string(value)})
			} else if strings.HasPrefix(key, Prefix) {
				continue // ours: the other properties
			}
			if got.Add(key, value) != travels {
				t.Fatalf("%q = %q travels: %v", key, value, !travels)
			}
		}
		if !reflect.DeepEqual(got.User, want) {
			t.Fatalf("got %q, want %q", got.User, want)
		}
	})
}

func FuzzHeaders(f *testing.F) {
	f.Add("mqtt.added", []byte("1"), "mqtt.user.mqtt.x", []byte("v"))
	f.Add("mqtt.expiry", []byte("12"), "mqtt.response-topic", []byte("a/b"))
	f.Add("", []byte(nil), "k\x00", []byte{0xff})
	f.Fuzz(func(t *testing.T, k1 string, v1 []byte, k2 string, v2 []byte) {
		var first, second Message
		first.Add(k1, v1)
		first.Add(k2, v2)
		first.added = 0
		if first.Topic == "" { // what a Kafka client says of QoS counts only beside a topic
			first.Topic, first.QoS = "t", 0
		}
		for _, h := range headersOf(&first) {
			if !second.Add(h.key, h.value) {
				t.Fatalf("%q = %q came from a message and does not go back", h.key, h.value)
			}
		}
		if first.Correlation == nil && first.HasCorrelation {
			first.Correlation = []byte{} // a null says the same as nothing
		}
		if !reflect.DeepEqual(first, second) {
			t.Fatalf("%+v, then %+v", first, second)
		}
	})
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
