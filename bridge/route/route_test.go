package route

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func mustNew(t *testing.T, rules []Rule, reverses ...Reverse) *Router {
	t.Helper()
	r, err := New(rules, reverses)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRoute(t *testing.T) {
	three := int32(3)
	r := mustNew(t, []Rule{
		{Name: "climate", Filter: "sensors/{site}/+/{kind}", Topic: "sensors.{kind}"},
		{Filter: "alarms/{site}/#", Topic: "alarms", Key: "{site}/{mqtt.client}", Partition: &three, Headers: []Header{{"site", "<{site}>"}}},
		{Filter: "$aws/things/{name}", Topic: "things", Key: "{name}"},
		{Filter: "bad/{name}", Topic: "{name}"},
	})
	for _, tt := range []struct {
		in, topic, key string
		partition      int32
		err            error
	}{
		{"sensors/north/3/temp", "sensors.temp", "sensors/north/3/temp", -1, nil},
		{"sensors/north/3/température", "sensors.temp-rature", "sensors/north/3/température", -1, nil},
		{"sensors/north/3", "mqtt", "sensors/north/3", -1, nil},
		{"sensors/north/3/", "sensors.", "sensors/north/3/", -1, nil},
		{"alarms/west", "alarms", "west/dev1", 3, nil},
		{"alarms/west/a/b", "alarms", "west/dev1", 3, nil},
		{"$aws/things/x", "things", "x", -1, nil},
		{"$aws/x", "", "", 0, ErrNoRoute},
		{"$SYS/broker", "", "", 0, ErrNoRoute},
		{"bad/__mqtt_sessions", "", "", 0, ErrTopicName},
		{"bad/..", "", "", 0, ErrTopicName},
		{"bad/", "", "", 0, ErrTopicName},
		{"bad/" + strings.Repeat("x", 250), "", "", 0, ErrTopicName},
		{"/", "mqtt", "/", -1, nil},
	} {
		var to Target
		err := r.Route(tt.in, "dev1", &to)
		if !errors.Is(err, tt.err) {
			t.Errorf("%s: error %v, want %v", tt.in, err, tt.err)
		} else if err == nil && (to.Topic != tt.topic || string(to.Key) != tt.key || to.Partition != tt.partition) {
			t.Errorf("%s: %s %q %d, want %s %q %d", tt.in, to.Topic, to.Key, to.Partition, tt.topic, tt.key, tt.partition)
		}
	}
	var to Target
	if err := r.Route("alarms/west/x", "c", &to); err != nil || !slices.Equal(to.Headers, []Header{{"site", "<west>"}}) {
		t.Errorf("headers %v, %v", to.Headers, err)
	}
}

func TestReverse(t *testing.T) {
	r := mustNew(t, nil,
		Reverse{"", "sensors.{kind}", "k/{kind}/{kafka.key}"},
		Reverse{"", "{a}-{b}.log", "logs/{b}/{a}/{kafka.partition}"})
	for _, tt := range []struct{ topic, key, want string }{
		{"sensors.temp", "north/3", "k/temp/north/3"},
		{"sensors.temp", "a\xffb", "sensors.temp"},
		{"sensors.temp", "a/#", "sensors.temp"},
		{"sensors.", "x", "sensors."},
		{"app-web-1.log", "", "logs/web-1/app/7"},
		{"mqtt", "a/b", "a/b"},
		{"mqtt", "", "mqtt"},
		{"mqtt", "$SYS/x", "mqtt"},
		{"orders", "anything", "orders"},
	} {
		if got, ok := r.Reverse(tt.topic, 7, []byte(tt.key)); !ok || got != tt.want {
			t.Errorf("Reverse(%s, %q) = %q, %v; want %q", tt.topic, tt.key, got, ok, tt.want)
		}
	}
}

func TestBadRulesAreNamed(t *testing.T) {
	negative := int32(-1)
	for _, tt := range []struct {
		rules []Rule
		want  string
	}{
		{[]Rule{{Name: "a", Filter: "x/#", Topic: "x"}, {Name: "b", Filter: "x/{y}", Topic: "z"}}, `route b: can never match: route a before`},
		{[]Rule{{Filter: "#", Topic: "x"}, {Filter: "a", Topic: "y"}}, "route #2: can never match: route #1"},
		{[]Rule{{Filter: "", Topic: "x"}}, "is empty"},
		{[]Rule{{Filter: "a/#/b", Topic: "x"}}, "# before its last level"},
		{[]Rule{{Filter: "a+", Topic: "x"}}, "not alone in its level"},
		{[]Rule{{Filter: "a/x{b}", Topic: "x"}}, "not alone in its level"},
		{[]Rule{{Filter: "{a}/{a}", Topic: "x"}}, "twice"},
		{[]Rule{{Filter: "{}", Topic: "x"}}, "without a plain name"},
		{[]Rule{{Filter: "a", Topic: "{b}"}}, "nothing defines"},
		{[]Rule{{Filter: "a", Topic: "x{"}}, "{ without }"},
		{[]Rule{{Filter: "a", Topic: "x}"}}, "} without {"},
		{[]Rule{{Filter: "a", Topic: "x y"}}, "not a name Kafka allows"},
		{[]Rule{{Filter: "a", Topic: ""}}, "not a name Kafka allows"},
		{[]Rule{{Filter: "a", Topic: "__x"}}, "not a name Kafka allows"},
		{[]Rule{{Filter: "a", Topic: "x", Key: "{q}"}}, "key"},
		{[]Rule{{Filter: "a", Topic: "x", Partition: &negative}}, "negative"},
		{[]Rule{{Filter: "a", Topic: "x", Headers: []Header{{"mqtt.topic", "y"}}}}, "server's own"},
		{[]Rule{{Filter: "a", Topic: "x", Headers: []Header{{"k", "{y}"}}}}, "nothing defines"},
		{[]Rule{{Filter: "$SYS/a", Topic: "x"}}, "cannot publish"},
	} {
		if _, err := New(tt.rules, nil); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want an error with %q", tt.rules, err, tt.want)
		}
	}
	for _, tt := range []Reverse{
		{"r", "", "x"}, {"r", "{a}{b}", "x"}, {"r", "{a}", "{b}"}, {"r", "{a}", "x/+"}, {"r", "a", "$SYS/x"}, {"r", "{a}", ""},
	} {
		if _, err := New(nil, []Reverse{tt}); err == nil || !strings.Contains(err.Error(), `reverse route r:`) {
			t.Errorf("%+v: %v, want an error that names the rule", tt, err)
		}
	}
}

// The properties run over a small alphabet, so that coincidences are frequent.

func topics() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "", "$s"}), 1, 4).Draw(t, "levels"), "/")
	}).Filter(func(s string) bool { return s != "" })
}

func filters() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		s := strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "", "$s", "+", "+"}), 0, 4).Draw(t, "levels"), "/")
		switch {
		case rapid.Bool().Draw(t, "multi") && s != "":
			s += "/#"
		case s == "":
			s = "#"
		}
		return s
	})
}

// matches is the specification's 4.7 said another way: level lists, recursively.
func matches(f, t []string, first bool) bool {
	switch {
	case len(f) == 0:
		return len(t) == 0
	case f[0] == "#":
		return !first || len(t) == 0 || !strings.HasPrefix(t[0], "$")
	case len(t) == 0:
		return false
	case f[0] == "+":
		return (!first || !strings.HasPrefix(t[0], "$")) && matches(f[1:], t[1:], false)
	}
	return f[0] == t[0] && matches(f[1:], t[1:], false)
}

func TestFilterRelationsAgreeWithTheirMeaning(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ft, gt, topic := filters().Draw(t, "f"), filters().Draw(t, "g"), topics().Draw(t, "topic")
		f, why := parseFilter(ft)
		g, why2 := parseFilter(gt)
		if f == nil || g == nil {
			t.Fatal(ft, why, gt, why2)
		}
		fm, gm := f.match(topic), g.match(topic)
		if want := matches(strings.Split(ft, "/"), strings.Split(topic, "/"), true); fm != want {
			t.Fatalf("%q matches %q: %v, want %v", ft, topic, fm, want)
		}
		if gm && !fm && f.covers(g) {
			t.Fatalf("%q is said to cover %q, but not %q", ft, gt, topic)
		}
		if fm && gm && (!f.overlaps(g) || !g.overlaps(f)) {
			t.Fatalf("%q and %q share %q and are said not to overlap", ft, gt, topic)
		}
		if f.covers(g) && !f.overlaps(g) {
			t.Fatalf("%q covers %q without overlapping it", ft, gt)
		}
	})
}

func TestReachesNeverMissesWhatRouteWrote(t *testing.T) {
	captured := func(f string) string { // name the wildcards: {w0}, {w1}...
		levels := strings.Split(f, "/")
		for i, l := range levels {
			if l == "+" {
				levels[i] = "{w" + string(rune('0'+i)) + "}"
			}
		}
		return strings.Join(levels, "/")
	}
	rapid.Check(t, func(t *rapid.T) {
		var rules []Rule
		for range rapid.IntRange(0, 3).Draw(t, "rules") {
			f := captured(filters().Draw(t, "rule"))
			to := "t"
			for i := range 4 {
				if name := "{w" + string(rune('0'+i)) + "}"; strings.Contains(f, name) {
					to += "." + name
				}
			}
			rules = append(rules, Rule{Filter: f, Topic: to})
		}
		reverses := []Reverse{{"", "t.{x}.{y}", "k/{y}/{kafka.key}/{x}"}, {"", "t.{x}", "a/{x}"}}
		r, err := New(rules, reverses)
		if err != nil {
			t.Skip(err) // shadowed
		}
		topic, f := topics().Draw(t, "topic"), filters().Draw(t, "filter")
		if sub, _ := parseFilter(f); sub.match(topic) {
			var to Target
			if err := r.Route(topic, "c", &to); err == nil && !r.Reaches(f, to.Topic) {
				t.Fatalf("%q goes to %q, which %q is said not to reach", topic, to.Topic, f)
			}
		}
		kafka := rapid.SampledFrom([]string{"t.a", "t.a.b", "t.b.a", "mqtt", "other", "a"}).Draw(t, "kafka topic")
		key := rapid.OneOf(topics(), rapid.Just("")).Draw(t, "key")
		name, ok := r.Reverse(kafka, 0, []byte(key))
		if !ok {
			t.Fatalf("%s has no MQTT topic for key %q", kafka, key)
		}
		if sub, _ := parseFilter(f); sub.match(name) && !r.Reaches(f, kafka) {
			t.Fatalf("a record of %q is %q, which %q is said not to reach", kafka, name, f)
		}
	})
}

func TestReachesIsNarrow(t *testing.T) {
	r := mustNew(t, []Rule{{Filter: "sensors/{site}/{kind}", Topic: "sensors.{kind}"}})
	for _, tt := range []struct {
		filter, topic string
		want          bool
	}{
		{"sensors/+/temp", "sensors.temp", true},
		{"sensors/+/temp", "sensors.hum", false},
		{"sensors/+/temp", "orders", false},
		{"sensors/+/+", "sensors.hum", true},
		{"a/b", "orders", false},
		{"a/b", "mqtt", true},
		{"orders", "orders", true},
		{"+", "orders", true},
		{"#", "orders", true},
		{"$x/y", "orders", false},
	} {
		if got := r.Reaches(tt.filter, tt.topic); got != tt.want {
			t.Errorf("Reaches(%s, %s) = %v, want %v", tt.filter, tt.topic, got, tt.want)
		}
	}
}

func TestRouteToAFixedTopicDoesNotAllocate(t *testing.T) {
	r := mustNew(t, []Rule{{Filter: "a/{b}/#", Topic: "x", Key: "{b}"}})
	to := Target{Key: make([]byte, 0, 64)}
	if n := testing.AllocsPerRun(100, func() {
		if err := r.Route("a/bcd/e", "c", &to); err != nil {
			t.Fatal(err)
		}
		if err := r.Route("other/topic", "c", &to); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
