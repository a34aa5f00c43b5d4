package drill

import (
	"strings"
	"testing"
)

// What a lane must fail on is found.
func TestFaultsAreFound(t *testing.T) {
	record := func(offset int64, value string) Record {
		return Record{Topic: "t", Offset: offset, Timestamp: 1, Value: []byte(value), Headers: []Header{{Key: "h", Value: []byte{}}}}
	}
	change := func(how func(*Record)) []Record {
		r := record(0, "a")
		how(&r)
		return []Record{r}
	}
	for name, tt := range map[string]struct {
		told []Record
		want string // empty: no fault
	}{
		"all":             {[]Record{record(0, "a"), record(1, "b"), record(2, "c")}, ""},
		"a byte":          {[]Record{record(0, "a"), record(1, "B")}, "offset 1: value"},
		"a gap":           {[]Record{record(0, "a"), record(2, "c")}, "offset 2: a gap or out of order, 1 is next"},
		"the first lost":  {[]Record{record(1, "b")}, "offset 1: a gap"},
		"a duplicate":     {[]Record{record(0, "a"), record(0, "a")}, "offset 0: a duplicate"},
		"from the start":  {[]Record{record(0, "a"), record(1, "b"), record(0, "a")}, "offset 0: a duplicate"},
		"past the end":    {[]Record{record(3, "d")}, "nobody wrote it"},
		"below the start": {[]Record{record(-1, "d")}, "nobody wrote it"},
		"another topic":   {change(func(r *Record) { r.Topic = "u" }), "nobody wrote it"},
		"a time":          {change(func(r *Record) { r.Timestamp++ }), "timestamp 2, want 1"},
		"empty for null":  {change(func(r *Record) { r.Key = []byte{} }), "key"},
		"null for empty":  {change(func(r *Record) { r.Headers[0].Value = nil }), "headers"},
		"a header more":   {change(func(r *Record) { r.Headers = append(r.Headers, Header{}) }), "headers"},
		"not the owner":   {[]Record{record(0, "a"), record(1, "b")}, "the partition is two's"},
	} {
		l := newLedger(nil)
		l.write(record(0, "a"), record(1, "b"), record(2, "c"))
		owner := "one"
		if name == "not the owner" {
			owner = "two"
		}
		l.own(map[place]string{{"t", 0}: owner})
		for _, r := range tt.told {
			l.tell("one", r)
		}
		if got := strings.Join(l.bad, "\n"); tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
		if tt.want == "" {
			if missing := l.check(t); missing != 0 {
				t.Errorf("%s: %d are missing", name, missing)
			}
		}
	}
	l := newLedger(nil)
	l.write(record(0, "a"), record(1, "b"))
	l.tell("one", record(0, "a"))
	if missing := l.check(t); missing != 1 {
		t.Errorf("%d are missing, want 1", missing)
	}
}
