package auth

import (
	"errors"
	"strings"
	"testing"
)

func filterEntry(p Principal, op Operation, filter string) ACL {
	return ACL{Topic, Literal, FilterMark + filter, p, Wildcard, op, Allow}
}

func TestTopicFilters(t *testing.T) {
	const ann, bob = Principal("User:ann"), Principal("User:bob")
	set := NewACLs(
		filterEntry(anyone, Write, "devices/%c/#"), filterEntry(anyone, Read, "users/%u/+"), filterEntry(anyone, All, "p-%u-%c/x"),
		filterEntry(ann, All, "plant/+/temp"), deny(filterEntry(ann, Write, "plant/safe/#")),
		filterEntry(bob, Read, "#"), deny(filterEntry(bob, All, "secret/#")), deny(from(filterEntry(bob, Read, "plant/a/temp"), "192.0.2.9")),
		allow(All, Literal, "open", ann), deny(allow(Write, Literal, "locked", ann)), deny(filterEntry(ann, Read, "in/open")),
		filterEntry(ann, Write, "to/locked"),
	)
	z := &Authorizer{Super: []Principal{"User:root"}, ACLs: func() *ACLs { return set }}
	for _, tt := range []struct {
		who    Principal
		host   string
		client string
		op     Operation
		kafka  string
		topic  string
		want   bool
	}{
		{ann, "h", "d1", Write, "mqtt", "devices/d1/state", true},
		{ann, "h", "d1", Write, "mqtt", "devices/d1", true},
		{ann, "h", "d1", Write, "mqtt", "devices/d2/state", false},
		{ann, "h", "d1", Read, "mqtt", "devices/d1/state", false},
		{ann, "h", "+", Write, "mqtt", "devices/d2/state", false},
		{ann, "h", "#", Write, "mqtt", "devices/#", false},
		{ann, "h", "d1/x", Write, "mqtt", "devices/d1/x", false},
		{ann, "h", "", Write, "mqtt", "devices//x", false},
		{ann, "h", "d1", Read, "mqtt", "users/ann/a", true},
		{ann, "h", "d1", Read, "mqtt", "users/bobo/a", false},
		{Anonymous, "h", "d1", Read, "mqtt", "users/ANONYMOUS/a", false},
		{ann, "h", "d1", Write, "mqtt", "p-ann-d1/x", true},
		{ann, "h", "%u", Write, "mqtt", "p-ann-ann/x", false},
		{ann, "h", "d1", Write, "mqtt", "plant/a/temp", true},
		{ann, "h", "d1", Write, "mqtt", "plant/safe/temp", false},
		{ann, "h", "d1", Read, "mqtt", "plant/safe/temp", true},
		{ann, "h", "d1", Read, "open", "anything/at/all", true},
		{ann, "h", "d1", Read, "open", "in/open", false},
		{ann, "h", "d1", Write, "locked", "to/locked", false},
		{ann, "h", "d1", Write, "mqtt", "to/locked", true},
		{bob, "h", "d1", Read, "mqtt", "plant/a/temp", true},
		{bob, "192.0.2.9", "d1", Read, "mqtt", "plant/a/temp", false},
		{bob, "h", "d1", Read, "mqtt", "secret/x", false},
		{bob, "h", "d1", Read, "mqtt", "$SYS/x", false},
		{bob, "h", "d1", Write, "mqtt", "plant/a/temp", false},
		{"User:root", "h", "d1", Write, "mqtt", "secret/x", true},
		{"", "h", "d1", Write, "mqtt", "devices/d1/x", false},
	} {
		s := &Session{Principal: tt.who, Host: tt.host}
		if got := z.AllowedTopic(s, tt.op, Publication{tt.kafka, tt.topic, tt.client}); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
	// Not one of them is an entry about a topic of Kafka's.
	if set.Allows(ann, "h", Write, TopicNamed("devices")) || NewACLs(filterEntry(ann, Write, "#")).AllowsAny(ann, "h", Write, Topic) {
		t.Error("a topic filter allows writing a Kafka topic")
	}
	if !(*Authorizer)(nil).AllowedTopic(&Session{}, Write, Publication{}) {
		t.Error("without an authorizer something is refused")
	}
}

func TestWhatASubscriptionMayMatch(t *testing.T) {
	const ann = Principal("User:ann")
	set := NewACLs(
		filterEntry(ann, Read, "a/+/c"), deny(filterEntry(ann, Read, "x/#")), filterEntry(ann, Read, "x/y"), filterEntry(ann, Write, "w/#"),
		allow(Read, Literal, "open", ann), deny(allow(Read, Literal, "shut", ann)),
		allow(Read, Prefixed, "sensors.", "User:bob"),
	)
	z := &Authorizer{Super: []Principal{"User:root"}, ACLs: func() *ACLs { return set }}
	reaches := func(filter string) func(string) bool {
		return func(topic string) bool { // every Kafka topic under its own name
			return meet(filter, topic, person{}) == covers
		}
	}
	for _, tt := range []struct {
		who    Principal
		topics []string
		filter string
		want   bool
	}{
		{ann, nil, "#", true},
		{ann, nil, "a/#", true},
		{ann, nil, "a/b/c", true},
		{ann, nil, "a/b/d", false},
		{ann, nil, "+/+/+", true},
		{ann, nil, "x/#", false},
		{ann, nil, "x/y", false},
		{ann, nil, "w/#", false},
		{ann, nil, "open", true},
		{ann, nil, "shut", false},
		{ann, nil, "other", false},
		{"User:bob", []string{"sensors.a"}, "sensors.a", true},
		{"User:bob", []string{"sensors.a", "other"}, "+", true},
		{"User:bob", []string{"other"}, "other", true}, // sensors.b may come, and under any name
	} {
		s := &Session{Principal: tt.who, Host: "h"}
		if got := z.MayMatch(s, Publication{Topic: tt.filter}, tt.topics, reaches(tt.filter)); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
	if z.MayMatch(&Session{}, Publication{Topic: "a/b/c"}, nil, reaches("a/b/c")) || !z.MayMatch(&Session{Principal: "User:root"}, Publication{Topic: "x/y"}, nil, nil) {
		t.Error("nobody may, or a super user may not")
	}
}

func TestWhatIsNoTopicFilter(t *testing.T) {
	for _, good := range []string{"#", "+", "a/+/b/#", "/", "%c", "a b/ü", "$x/#"} {
		if err := filterEntry("User:a", Read, good).Check(); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "a/#/b", "a+", "#/a", "a/b#", "+a/b", "$share/g/a", "a\x00b"} {
		if err := filterEntry("User:a", Read, bad).Check(); !errors.Is(err, ErrACL) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	prefixed, create := filterEntry("User:a", Read, "a"), filterEntry("User:a", Create, "a")
	prefixed.Pattern = Prefixed
	if prefixed.Check() == nil || create.Check() == nil {
		t.Error("a prefix, or creating, is taken")
	}
}

// FuzzMeet holds the comparison of filters against every short topic there is.
func FuzzMeet(f *testing.F) {
	for _, s := range []string{"a/+ +/b", "# a", "a/# a/+", "+/b/# a/#", "a a/#", "a/b/c a/+/c", "+ #", "a/# a", "%c/b a/b"} {
		f.Add(s)
	}
	var topics []string
	levels := []string{"a", "b", "c", ""}
	for _, x := range levels {
		topics = append(topics, x)
		for _, y := range levels {
			topics = append(topics, x+"/"+y)
			for _, z := range levels {
				topics = append(topics, x+"/"+y+"/"+z)
			}
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		entry, wanted, _ := strings.Cut(s, " ")
		for _, filter := range []string{entry, wanted} {
			if filterEntry("User:a", Read, filter).Check() != nil || strings.Count(filter, "/") > 2 || strings.Trim(filter, "abc/+#") != "" {
				return
			}
			for level := range strings.SplitSeq(filter, "/") {
				if len(level) > 1 {
					return // no topic of ours has it
				}
			}
		}
		how, both, only := meet(entry, wanted, person{}), false, false
		for _, topic := range topics {
			if meet(wanted, topic, person{}) == covers {
				if meet(entry, topic, person{}) == covers {
					both = true
				} else {
					only = true
				}
			}
		}
		if (how != apart) != both || how == covers && only {
			t.Fatalf("%q and %q are %d; a topic both match: %v, only the second: %v", entry, wanted, how, both, only)
		}
	})
}
