package route

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestWhatCannotBeIsNamedWithAWayOut(t *testing.T) {
	for _, tt := range []struct {
		name     string
		rules    []Rule
		reverses []Reverse
		want     string // "" for rules that are good
	}{
		{"two alone", []Rule{{Filter: "a/+", Topic: "x"}, {Filter: "a/b", Topic: "y"}}, nil, "route #2: can never match: route #1 before it takes every topic of \"a/b\"; put the narrower one first"},
		{"two in their order", []Rule{{Filter: "a/b", Topic: "y"}, {Filter: "a/+", Topic: "x"}}, nil, ""},
		{"the same filter with other names", []Rule{{Filter: "a/{b}", Topic: "x"}, {Filter: "a/{c}", Topic: "y.{c}"}}, nil, "route #2: can never match"},
		{"# and +/# are one", []Rule{{Filter: "+/#", Topic: "x"}, {Filter: "#", Topic: "y"}}, nil, "route #2: can never match"},
		{"three together", []Rule{{Filter: "+", Topic: "x"}, {Filter: "{a}/{b}/#", Topic: "y"}, {Filter: "#", Topic: "z"}}, nil, "routes #1 and #2 before it together take every topic of \"#\""},
		{"three that leave one", []Rule{{Filter: "+", Topic: "x"}, {Filter: "+/+/+/#", Topic: "y"}, {Filter: "#", Topic: "z"}}, nil, ""},
		{"# leaves $", []Rule{{Filter: "#", Topic: "x"}, {Filter: "$aws/#", Topic: "y"}}, nil, ""},
		{"$share", []Rule{{Filter: "$share/g/x", Topic: "x"}}, nil, "clients cannot publish"},
		{"$SYS", []Rule{{Filter: "$SYS", Topic: "x"}}, nil, "clients cannot publish"},
		{"$SYS below", []Rule{{Filter: "$SYS/#", Topic: "x"}}, nil, "clients cannot publish"},
		{"certificates", []Rule{{Filter: "$sparkplug/certificates/#", Topic: "x"}}, nil, "clients cannot publish"},
		{"no string", []Rule{{Filter: "a/\x00", Topic: "x"}}, nil, "not UTF-8 without U+0000"},
		{"slash in a topic", []Rule{{Filter: "a/{b}", Topic: "x/{b}"}}, nil, `topic "x/{b}" is not a name Kafka allows: '/'`},
		{"internal topic", []Rule{{Filter: "a/{b}", Topic: "__x{b}"}}, nil, "internal topics"},
		{"long topic", []Rule{{Filter: "a/{b}", Topic: "{b}" + strings.Repeat("x", 250)}}, nil, "250 characters, and 249 are"},
		{"unknown capture", []Rule{{Filter: "{a}/{b}/+", Topic: "{c}"}}, nil, "uses {c}, which nothing defines; there are a, b, mqtt.topic, mqtt.client"},
		{"header", []Rule{{Filter: "a", Topic: "x", Headers: []Header{{"mqtt.qos", "1"}}}}, nil, `choose another`},
		{"headers without end", []Rule{{Filter: "a", Topic: "x", Headers: make([]Header, 65)}}, nil, "65 headers, and 64 are allowed"},
		{"header no string", []Rule{{Filter: "a", Topic: "x", Headers: []Header{{"a\x00", "1"}}}}, nil, `not a string`},
		{"all problems", []Rule{{Filter: "", Topic: "x"}, {Filter: "a", Topic: "x y"}}, []Reverse{{"", "", ""}}, "reverse route #1: topic is empty"},

		{"reverse twice", nil, []Reverse{{"", "a.{x}", "a/{x}"}, {"", "a.{x}.{y}", "b/{x}/{y}"}}, "reverse route #2: can never match: reverse route #1 before it names every record"},
		{"reverse after one that a key may fail", nil, []Reverse{{"", "a.{x}", "{kafka.key}"}, {"", "a.{x}", "b/{x}"}}, ""},
		{"reverse in its order", nil, []Reverse{{"", "a.{x}.{y}", "b/{x}/{y}"}, {"", "a.{x}", "a/{x}"}}, ""},
		{"reverse of no topic", nil, []Reverse{{"", "a/{x}", "a/{x}"}}, "can never match: topic \"a/{x}\" is not a name"},
		{"reverse of an internal topic", nil, []Reverse{{"", "__consumer_offsets", "a"}}, "can never match"},
		{"reverse to a $-topic", nil, []Reverse{{"", "a", "$SYS/{kafka.key}"}}, "server's own"},
		{"reverse to a wildcard", nil, []Reverse{{"", "{a}", "x/+/{a}"}}, "no topic name"},
		{"reverse with an unknown name", nil, []Reverse{{"", "{a}", "{b}"}}, "there are a, kafka.topic, kafka.key, kafka.partition"},
		{"reverse with a name twice", nil, []Reverse{{"", strings.Repeat("{a}.", 3), "x"}}, "uses {a}, which nothing defines; a capture has a plain name of its own"},
		{"reverse of two ends", nil, []Reverse{{"", "x.{a}{b}", "{a}"}}, "maps two ways"},

		{"there and back", []Rule{{Filter: "s/{site}/{kind}", Topic: "s.{kind}", Key: "{site}"}}, []Reverse{{"", "s.{kind}", "s/{kafka.key}/{kind}"}}, ""},
		{"back with another key", []Rule{{Filter: "s/{site}/{kind}", Topic: "s.{kind}"}}, []Reverse{{"", "s.{kind}", "s/{kafka.key}/{kind}"}}, `is seen as "s/any-key/any-kind", and what MQTT clients publish there goes there under another key, "s/any-key/any-kind" by route #1`},
		{"back from elsewhere", []Rule{{Filter: "s/{kind}", Topic: "t.{kind}"}}, []Reverse{{"", "s.{kind}", "s/{kind}"}}, `goes to "t.any-kind" by route #1`},
		{"back without what it came by", []Rule{{Filter: "s/{kind}", Topic: "a.{kind}"}}, []Reverse{{"", "{site}.{kind}", "s/{kind}"}}, "maps two ways"},
		{"back without the key", []Rule{{Filter: "s/{kind}", Topic: "s.{kind}"}}, []Reverse{{"", "s.{kind}", "s/{kind}"}}, ""},
		{"into no name", []Rule{{Filter: "s/{kind}", Topic: "{kind}"}}, []Reverse{{"", "x" + strings.Repeat("y", 200) + ".{kind}", "s/" + strings.Repeat("z", 250)}}, "to no topic at all"},
		{"a view", []Rule{{Filter: "s/#", Topic: "s"}}, []Reverse{{"", "orders", "orders/{kafka.key}"}}, ""},
		{"one that rules name", []Rule{{Filter: "s/alarm", Topic: "alarms"}, {Filter: "s/{kind}", Topic: "s.{kind}"}}, []Reverse{{"", "s.{kind}", "s/{kind}"}}, ""},
		{"the way out", []Rule{{Filter: "alarms/computed/{key}", Topic: "alarms.computed", Key: "{key}"}, {Filter: "alarms/#", Topic: "alarms"}}, []Reverse{{"", "alarms.computed", "alarms/computed/{kafka.key}"}}, ""},
		{"without it", []Rule{{Filter: "alarms/#", Topic: "alarms"}}, []Reverse{{"", "alarms.computed", "alarms/computed/{kafka.key}"}}, "put a route for what the reverse rule gives before it"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := New(tt.rules, tt.reverses)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if problems := Problems(nil); err != nil && !errors.As(err, &problems) {
				t.Errorf("%T", err)
			}
		})
	}
	var ps Problems
	if _, err := New([]Rule{{Filter: "", Topic: "x"}, {Filter: "b", Topic: "x"}, {Filter: "a", Topic: "/"}}, []Reverse{{"", "", ""}}); !errors.As(err, &ps) ||
		len(ps) != 3 || ps[1].Index != 2 || !ps[2].Reverse || ps[2].Index != 0 {
		t.Errorf("problems %v", err)
	}
}

func TestTooManyCaptures(t *testing.T) {
	topic := ""
	for i := range maxCaptures + 1 {
		topic += string(rune('a'+i)) + ".{" + string(rune('a'+i)) + "}."
	}
	if _, err := New(nil, []Reverse{{"", topic, "x"}}); err == nil || !strings.Contains(err.Error(), "17 captures, and 16 are allowed") {
		t.Error(err)
	}
}

// A rule is refused as one that can never match exactly when no topic is its own: all topics of the small alphabet, and
// one letter that no rule has, are tried.
func TestShadowedIsExact(t *testing.T) {
	names := []string{"a", "b", "", "$s", "z"}
	all := slices.Clone(names)
	for level := range 5 {
		for _, t := range all[len(all)-pow(len(names), level+1):] {
			for _, one := range names {
				all = append(all, t+"/"+one)
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		var rules []rule
		r := new(Router)
		for range rapid.IntRange(1, 4).Draw(t, "rules") {
			f, why := parseFilter(filters().Draw(t, "filter"))
			if f == nil {
				t.Fatal(why)
			}
			rules = append(rules, rule{name: f.text, filter: f})
		}
		last := rules[len(rules)-1]
		r.rules = rules[:len(rules)-1]
		own := slices.ContainsFunc(all, func(topic string) bool {
			return topic != "" && last.filter.match(topic) &&
				!slices.ContainsFunc(r.rules, func(c rule) bool { return c.filter.match(topic) })
		})
		if err := r.shadowed(last); (err == nil) != own {
			t.Fatalf("%v, of its own: %v", err, own)
		}
	})
}

func pow(b, n int) int {
	p := 1
	for range n {
		p *= b
	}
	return p
}

// What a rule routes under a key and a reverse rule names is one topic: publish, see it as if Kafka had made it, publish
// that: it goes to the same place.
func TestThereAndBackIsOnePlace(t *testing.T) {
	r := mustNew(t, []Rule{{Filter: "s/{site}/{kind}", Topic: "s.{kind}", Key: "{site}"}}, Reverse{"", "s.{kind}", "s/{kafka.key}/{kind}"})
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-z0-9._-]{1,8}`)
		var first, second Target
		if err := r.Route("s/"+name.Draw(t, "site")+"/"+name.Draw(t, "kind"), "c", &first); err != nil {
			t.Fatal(err)
		}
		seen, index, ok := r.ReverseBy(first.Topic, 0, first.Key)
		if !ok || index != 0 {
			t.Fatalf("%q %v", seen, ok)
		}
		if err := r.Route(seen, "c", &second); err != nil || second.Topic != first.Topic || string(second.Key) != string(first.Key) {
			t.Fatalf("%+v, then %+v", first, second)
		}
	})
}

func FuzzFilter(f *testing.F) {
	for _, s := range []string{"#", "a/{b}/+", "+/#", "{x}/#", "$SYS/#", "a/#/b", "{}", "//", "a/\xff", "{a}/{a}"} {
		f.Add(s, "a/b/c", "a/+")
	}
	f.Fuzz(func(t *testing.T, text, topic, other string) {
		c, why := parseFilter(text)
		if (c == nil) == (why == "") {
			t.Fatalf("filter %v, reason %q", c, why)
		}
		if c == nil || topic == "" {
			return
		}
		levels := strings.Split(text, "/")
		for i, l := range levels {
			if strings.HasPrefix(l, "{") {
				levels[i] = "+"
			}
		}
		got := c.match(topic)
		if want := matches(levels, strings.Split(topic, "/"), true); got != want {
			t.Errorf("%q matches %q: %v, want %v", text, topic, got, want)
		}
		for i, name := range c.names() {
			if v := c.capture(topic, name); got && strings.Contains(v, "/") {
				t.Errorf("capture %d of %q is %q", i, topic, v)
			}
		}
		for n := len(c.levels); n < len(c.levels)+3; n++ {
			if w := c.witness(n); c.match(w) != (n == len(c.levels) || c.multi) {
				t.Errorf("%q and its own witness %q", text, w)
			}
		}
		if d, _ := parseFilter(other); d != nil && got && d.match(topic) && (!c.overlaps(d) || !d.overlaps(c)) {
			t.Errorf("%q and %q share %q and are said not to overlap", text, other, topic)
		}
	})
}

func FuzzTemplate(f *testing.F) {
	f.Add("s.{a}.{b}", "s.x.y.z", "k")
	f.Add("{a}", "x", "")
	f.Add("{a}-{b}.log", "a--b.log", "\xff")
	f.Add("a{b}a", "aaa", "/")
	f.Add("}{", "", "")
	f.Fuzz(func(t *testing.T, pattern, topic, key string) {
		r, err := New([]Rule{{Filter: "a/{b}", Topic: pattern, Key: pattern}}, nil)
		var to Target
		if err == nil && r.Route("a/"+key, key, &to) == nil {
			if name, ok := TopicName(to.Topic); !ok || name != to.Topic {
				t.Errorf("%q gives the topic %q", pattern, to.Topic)
			}
		}
		c, err := compileReverse(Reverse{Topic: pattern, MQTT: "x"})
		if err != nil {
			return
		}
		var values [maxCaptures]string
		if c.topic.bind(topic, values[:]) {
			if again := string(c.topic.append(nil, func(name string) string { return values[slices.Index(c.vars, name)] })); again != topic {
				t.Errorf("%q takes %q for %q", pattern, again, topic)
			}
		}
		// What a template makes of values it takes apart again, if not into the same.
		made := string(c.topic.append(nil, func(string) string { return "v" }))
		if !c.topic.bind(made, values[:]) {
			t.Errorf("%q does not take %q", pattern, made)
		}
		r, err = New(nil, []Reverse{{"", pattern, "x/{kafka.key}/{kafka.topic}"}})
		if err != nil {
			return
		}
		if name, ok := r.Reverse(topic, 0, []byte(key)); ok && !validTopic(name) {
			t.Errorf("%q gives %q", pattern, name)
		}
	})
}
