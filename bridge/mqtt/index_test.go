package mqtt

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"millrace/bridge/mqtt/packet"
	"millrace/bridge/route"
)

// wants is 4.7 said another way: level lists, recursively.
func wants(f, t []string, first bool) bool {
	switch {
	case len(f) == 0:
		return len(t) == 0
	case f[0] == "#":
		return !first || len(t) == 0 || !strings.HasPrefix(t[0], "$")
	case len(t) == 0:
		return false
	case f[0] == "+":
		return (!first || !strings.HasPrefix(t[0], "$")) && wants(f[1:], t[1:], false)
	}
	return f[0] == t[0] && wants(f[1:], t[1:], false)
}

// [MQTT-4.7.2-1] [MQTT-4.7.3-4] [MQTT-3.3.2-3]
func TestTheIndexFindsWhatTheFiltersMean(t *testing.T) {
	levels := rapid.SampledFrom([]string{"a", "b", "", "$s", "+", "+", "#"})
	filters := rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(levels, 1, 4).Draw(t, "levels"), "/")
	}).Filter(packet.ValidFilter)
	topics := filters.Filter(packet.ValidTopic)
	router, err := route.New(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		x := newIndex(router)
		reached := x.interest("a")
		var in []*subscription
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			if len(in) > 0 && rapid.IntRange(0, 2).Draw(t, "what") == 0 {
				i := rapid.IntRange(0, len(in)-1).Draw(t, "which")
				x.remove(in[i])
				in = slices.Delete(in, i, i+1)
			} else {
				s := &subscription{filter: filters.Draw(t, "filter")}
				x.add(s)
				in = append(in, s)
			}
		}
		topic := topics.Draw(t, "topic")
		got := x.match(topic, nil)
		for _, s := range in {
			want := wants(strings.Split(s.filter, "/"), strings.Split(topic, "/"), true)
			if matches(s.filter, topic) != want {
				t.Fatalf("matches(%q, %q) is %v", s.filter, topic, !want)
			}
			if i := slices.Index(got, s); (i >= 0) != want {
				t.Fatalf("index: %q for %q is %v", s.filter, topic, !want)
			} else if want {
				got = slices.Delete(got, i, i+1)
			}
		}
		if len(got) != 0 {
			t.Fatalf("%d subscriptions too many", len(got))
		}
		n := 0
		for f := range x.filters {
			if router.Reaches(f, "a") {
				n++
			}
		}
		if int(reached.n.Load()) != n {
			t.Fatalf("interest is %d, want %d", reached.n.Load(), n)
		}
		for _, s := range in {
			x.remove(s)
		}
		if len(x.root.next) != 0 || len(x.root.deep) != 0 || len(x.filters) != 0 || reached.n.Load() != 0 {
			t.Fatal("something is left in an empty index")
		}
	})
}

// versionOne is a session as it was written before there was QoS 2: a cursor, a message in flight and a subscription.
var versionOne = []byte("\x01\x3c\x00\x09" + "\x01" + "0123456789abcdef\x03" + "\x01\x00\x05" + "\x01\x00\x04\x09" + "\x01\x01a\x01\x00\x00")

func TestSessionsOfTheFirstVersionAreRead(t *testing.T) {
	st := &stream{index: 3, part: fixedPartition{}}
	ss := &session{}
	if _, err := decodeSession(versionOne, ss, finder{func(streamKey) *stream { return st }, aGroup}); err != nil {
		t.Fatal(err)
	}
	if want := (delivery{st: st, offset: 4, id: 9, qos: 1}); len(ss.inflight) != 1 || ss.inflight[0] != want || ss.lag[st] != 5 ||
		len(ss.subs) != 1 || ss.subs[0].filter != "a" || ss.lastID != 9 {
		t.Errorf("%+v", ss)
	}
}

// FuzzSessionRecord: a session record never panics the decoder, and what decodes encodes to something that decodes the same.
func FuzzSessionRecord(f *testing.F) {
	st := &stream{index: 3, part: fixedPartition{}}
	groups := make(map[string]*group)
	find := finder{func(streamKey) *stream { return st }, func(key string) *group {
		if groups[key] == nil {
			groups[key] = aGroup(key)
		}
		return groups[key]
	}}
	ss := &session{expiry: 60, lastID: 9, reader: reader{lag: map[*stream]int64{st: 5}}, inflight: []delivery{
		{st: st, offset: 4, id: 9, qos: 1},
		{st: st, offset: 5, id: 10, qos: 2},
		{id: 11, qos: 2, released: true},
		{st: st, offset: 6, id: 12, qos: 2, group: find.group("$share/g/a")},
	}}
	ss.handTo(st, 6)
	ss.subs = []*subscription{{filter: "a/#", qos: 1, noLocal: true, asIs: true, retain: 2, id: 77, starts: []position{{st, 8}}}}
	f.Add(encodeSession(ss, ss.lag, ss.exact.handed, 12345))
	f.Add(encodeSession(&session{expiry: never}, nil, nil, 0))
	f.Add(versionOne)
	f.Add(encodeTable(ss))
	f.Fuzz(func(t *testing.T, p []byte) {
		table := &session{}
		if err := decodeTable(p, table, find); err == nil {
			again := &session{}
			if err := decodeTable(encodeTable(table), again, find); err != nil || !slices.Equal(again.inflight, table.inflight) ||
				!maps.Equal(again.exact.handed, table.exact.handed) {
				t.Fatalf("%+v became %+v, %v", table.inflight, again.inflight, err)
			}
		}
		got := &session{}
		away, err := decodeSession(p, got, find)
		if err != nil {
			return
		}
		one := encodeSession(got, got.lag, got.exact.handed, away)
		again := &session{}
		if away2, err := decodeSession(one, again, find); err != nil || away2 != away {
			t.Fatalf("%x: %v", one, err)
		}
		if two := encodeSession(again, again.lag, again.exact.handed, away); string(one) != string(two) {
			t.Fatalf("%x became %x", one, two)
		}
	})
}

type fixedPartition struct{ Partition }

func (fixedPartition) ID() [16]byte { return [16]byte{1} }

// An identifier is never 0, nor one of a message in flight [MQTT-2.2.1-4] [MQTT-4.3.2-1] [MQTT-4.3.3-1].
func TestIdentifiersInUseAreLeftOut(t *testing.T) {
	ss := &session{lastID: 65533, inflight: []delivery{{id: 65535, qos: 1}, {id: 1, qos: 2, released: true}, {id: 3, qos: 2}}}
	for _, want := range []uint16{65534, 2, 4} {
		if got := ss.nextID(); got != want {
			t.Errorf("got %d, want %d", got, want)
		}
	}
}

// The DISCONNECT of a connection that has just lost its session to another says nothing of the other's expiry.
func TestADisconnectAfterATakeoverChangesNothing(t *testing.T) {
	s := &Server{}
	c, other := &client{s: s, expiry: 60}, &client{s: s, expiry: 60}
	c.session = &session{reader: reader{s: s}, expiry: 60, client: other}
	end := &packet.Disconnect{Properties: &packet.Properties{Present: packet.Of(packet.SessionExpiry)}}
	if err := c.onDisconnect(end); err != nil || c.session.expiry != 60 {
		t.Errorf("%v, expiry %d", err, c.session.expiry)
	}
	c.session.client = c
	if err := c.onDisconnect(end); err != nil || c.session.expiry != 0 {
		t.Errorf("%v, expiry %d", err, c.session.expiry)
	}
}
