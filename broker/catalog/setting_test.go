package catalog

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestSettingTables(t *testing.T) {
	for what, table := range map[string][]Setting{"topic": TopicSettings(), "broker": BrokerSettings()} {
		if !slices.IsSortedFunc(table, func(a, b Setting) int { return strings.Compare(a.Name, b.Name) }) {
			t.Errorf("%s settings are not sorted, so not all are found", what)
		}
		for _, s := range table {
			if s.Doc == "" || s.Range() == "" {
				t.Errorf("%s has no documentation", s.Name)
			}
			if err := s.Check(s.Default); s.Default != "" && err != nil {
				t.Errorf("default of %s: %v", s.Name, err)
			}
			if (s.field != nil) != (what == "topic") {
				t.Errorf("%s setting %s has the wrong kind of place", what, s.Name)
			}
		}
	}
	if _, ok := TopicSetting("retention.ms"); !ok {
		t.Error("retention.ms is not found")
	}
	if _, ok := BrokerSetting("no.such"); ok {
		t.Error("no.such is found")
	}
}

// TestEverySettingHasItsField sets each setting to another value and expects that exactly its own value changes.
func TestEverySettingHasItsField(t *testing.T) {
	other := map[Type]string{TypeBoolean: "true", TypeInt: "70001", TypeLong: "70001", TypeDouble: "0.25"}
	for _, s := range TopicSettings() {
		value := other[s.Type]
		if len(s.OneOf) > 0 {
			value = s.OneOf[0]
			if value == s.Default {
				value = s.OneOf[1]
			}
		}
		c, err := ParseTopicConfig(map[string]string{s.Name: value}, DefaultTopicConfig())
		if err != nil {
			t.Errorf("%s = %s: %v", s.Name, value, err)
			continue
		}
		for _, o := range TopicSettings() {
			want := o.Default
			if o.Name == s.Name {
				want = value
			}
			if got := c.Value(o.Name); got != want {
				t.Errorf("with %s = %s, %s is %s, want %s", s.Name, value, o.Name, got, want)
			}
		}
	}
}

func TestDefaultsAreTheDocumentedOnes(t *testing.T) {
	c := DefaultTopicConfig()
	if !c.CleanupDelete || c.CleanupCompact || c.FlushMessages != 1 || c.RetentionMS != 7*24*3600*1000 || c.RetentionBytes != 1<<30 ||
		c.SegmentBytes != 16<<20 || c.Compression != "producer" || c.DropOldest || c.MinInSyncReplicas != 1 || c.MaxMessageBytes != 1048588 {
		t.Errorf("%+v", c)
	}
}

func TestBadValuesNameKeyAndValueAndKeepTheDefault(t *testing.T) {
	for name, values := range map[string][]string{
		"retention.ms":              {"-2", "x", "", "1.5", "9223372036854775808"},
		"segment.bytes":             {"0", "65535", "2147483648"},
		"min.cleanable.dirty.ratio": {"-0.1", "1.1", "NaN", "half"},
		"preallocate":               {"1", "yes"},
		"cleanup.policy":            {"", "delete,shred", "none"},
		"compression.type":          {"none", "GZIP"},
		"full":                      {"panic"},
		"message.timestamp.type":    {"createtime"},
		"min.insync.replicas":       {"0"},
	} {
		for _, value := range values {
			c, err := ParseTopicConfig(map[string]string{name: value, "flush.ms": "9"}, DefaultTopicConfig())
			if !errors.Is(err, ErrInvalidConfig) || !strings.Contains(err.Error(), name) {
				t.Errorf("%s = %q: %v", name, value, err)
			}
			s, _ := TopicSetting(name)
			if c.Value(name) != s.Default || c.FlushMS != 9 {
				t.Errorf("%s = %q: the rest is not kept", name, value)
			}
		}
	}
	if _, err := ParseTopicConfig(map[string]string{"no.such": "1"}, TopicConfig{}); !errors.Is(err, ErrInvalidConfig) {
		t.Errorf("unknown name: %v", err)
	}
}

func TestPatterns(t *testing.T) {
	d, err := NewDefaults([]Pattern{
		{"*", map[string]string{"retention.ms": "1", "flush.messages": "2"}},
		{"sensors.*", map[string]string{"retention.ms": "10"}},
		{"sensors.a*z", map[string]string{"retention.ms": "11"}},
		{"a*b*c", map[string]string{"retention.ms": "12"}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for topic, want := range map[string]int64{
		"sensors.x": 10, "sensors.a-z": 10, "sensors": 1, "other": 1, "abc": 12, "axbxc": 12, "acb": 1, "aXc": 1, "ab-c-bc": 12,
	} {
		c, err := d.Resolve(topic, nil)
		if err != nil || c.RetentionMS != want || c.FlushMessages != 2 {
			t.Errorf("%s: retention %d, flush %d, %v; want %d", topic, c.RetentionMS, c.FlushMessages, err, want)
		}
	}
	c, err := d.Resolve("sensors.x", map[string]string{"retention.ms": "99"})
	if err != nil || c.RetentionMS != 99 {
		t.Errorf("own setting: %d, %v", c.RetentionMS, err)
	}
	if _, err := NewDefaults([]Pattern{{"x", map[string]string{"retention.ms": "soon"}}}, nil); !errors.Is(err, ErrInvalidConfig) {
		t.Errorf("bad pattern: %v", err)
	}
	var none *Defaults
	if c, err := none.Resolve("t", nil); err != nil || c != DefaultTopicConfig() {
		t.Errorf("no defaults: %+v, %v", c, err)
	}
}

// What a link takes away makes room on a full disk, whatever "*" says of all topics; who names the topic more closely has
// the last word.
func TestTopicsOfALinkDropTheirOldest(t *testing.T) {
	for _, every := range []map[string]string{nil, {"full": "reject", "retention.ms": "1"}} {
		d, err := NewDefaults([]Pattern{
			{"*", every},
			{"plant.safe.*", map[string]string{"full": "reject"}},
			{"plant.short.*", map[string]string{"retention.ms": "10"}},
		}, []string{"plant.*", "one", "__named"})
		if err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			topic, own string
			drops      bool
		}{
			{"plant.a", "", true},
			{"plant.short.a", "", true},
			{"plant.safe.a", "", false},
			{"plant.safe.a", "drop-oldest", true},
			{"plant.a", "reject", false},
			{"one", "", true},
			{"other", "", false},
			{"__named", "", true},
			{"__plant.a", "", false},
		} {
			own := map[string]string{}
			if tt.own != "" {
				own["full"] = tt.own
			}
			if c, err := d.Resolve(tt.topic, own); err != nil || c.DropOldest != tt.drops {
				t.Errorf("%s with %q over %v: drops %v, %v", tt.topic, tt.own, every, c.DropOldest, err)
			}
		}
		if c, err := d.Resolve("plant.short.a", nil); err != nil || c.RetentionMS != 10 {
			t.Errorf("its pattern does not count: %+v, %v", c, err)
		}
		for _, e := range d.Describe("plant.a", nil) {
			if e.Setting.Name == "full" && (e.Value != "drop-oldest" || e.Source != SourceStatic) {
				t.Errorf("described as %+v", e)
			}
		}
	}
}

func TestChosen(t *testing.T) {
	patterns := []string{"sensors.*", "*.log", "__named"}
	for topic, want := range map[string]bool{
		"sensors.": true, "sensors.a": true, "sensors": false, "a.log": true, ".log": true, "__named": true, "__other": false, "__a.log": false, "__sensors.a": false,
	} {
		if Chosen(patterns, topic) != want {
			t.Errorf("%s: chosen %v", topic, !want)
		}
	}
	if Chosen([]string{"*"}, "__consumer_offsets") || !Chosen([]string{"*"}, "a") || Chosen(nil, "a") {
		t.Error("* is every topic that is not a broker's own")
	}
}

func TestDescribeNamesTheSource(t *testing.T) {
	d, err := NewDefaults([]Pattern{{"*", map[string]string{"retention.ms": "1"}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	byName := func(entries []Entry, name string) Entry {
		for _, e := range entries {
			if e.Setting.Name == name {
				return e
			}
		}
		t.Fatalf("%s is not described", name)
		return Entry{}
	}
	entries := d.Describe("t", map[string]string{"retention.ms": "5"})
	if len(entries) != len(TopicSettings()) {
		t.Errorf("%d entries", len(entries))
	}
	e := byName(entries, "retention.ms")
	if e.Value != "5" || e.Source != SourceTopic || len(e.Synonyms) != 3 || e.Synonyms[1] != (Synonym{"log.retention.ms", "1", SourceStatic}) ||
		e.Synonyms[2] != (Synonym{"log.retention.ms", "604800000", SourceDefault}) {
		t.Errorf("%+v", e)
	}
	if e := byName(d.Describe("t", nil), "retention.ms"); e.Value != "1" || e.Source != SourceStatic {
		t.Errorf("%+v", e)
	}
	if e := byName(entries, "flush.ms"); e.Source != SourceDefault || len(e.Synonyms) != 1 {
		t.Errorf("%+v", e)
	}
	own := DescribeBroker(map[string]string{"num.partitions": "3"}, map[string]string{"num.partitions": "4"}, map[string]string{"num.partitions": "5", "node.id": "7"})
	if e := byName(own, "num.partitions"); e.Value != "3" || e.Source != SourceBroker || len(e.Synonyms) != 4 {
		t.Errorf("%+v", e)
	}
	if e := byName(own, "node.id"); e.Value != "7" || e.Source != SourceStatic || !e.Setting.ReadOnly {
		t.Errorf("%+v", e)
	}
}
