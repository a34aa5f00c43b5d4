package upstream

import (
	"testing"

	"pgregory.net/rapid"

	"millrace/broker/record"
)

// What is compared of a record: null and empty are two things, and headers of ours are none.
func TestContent(t *testing.T) {
	h := func(list ...record.Header) []record.Header { return list }
	all := []record.Record{
		{},
		{Key: []byte{}},
		{Value: []byte{}},
		{Key: []byte{}, Value: []byte{}},
		{Key: []byte("a")},
		{Value: []byte("a")},
		{Headers: h(record.Header{Key: "a"})},
		{Headers: h(record.Header{Key: "a", Value: []byte{}})},
		{Headers: h(record.Header{Key: "a"}, record.Header{Key: "b"})},
		{Headers: h(record.Header{Key: "b"}, record.Header{Key: "a"})},
		{Headers: h(record.Header{Key: "ab"})},
		{Headers: h(record.Header{Key: "", Value: []byte("ab")})},
	}
	for i := range all {
		for j := range all {
			if same := contentOf(&all[i]) == contentOf(&all[j]); same != (i == j) {
				t.Errorf("%+v and %+v are the same: %v", all[i], all[j], same)
			}
		}
		ours := all[i]
		ours.Headers = append([]record.Header{{Key: HeaderLane, Value: []byte("live")}}, ours.Headers...)
		if contentOf(&ours) != contentOf(&all[i]) {
			t.Errorf("a header of ours makes another of %+v", all[i])
		}
	}
}

func TestSpans(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s spans
		in := map[int64]bool{}
		for range rapid.IntRange(0, 30).Draw(t, "ranges") {
			first := rapid.Int64Range(0, 60).Draw(t, "first")
			r := Range{first, first + rapid.Int64Range(1, 8).Draw(t, "length")}
			s.add(r)
			for o := r.First; o < r.End; o++ {
				in[o] = true
			}
		}
		for i, r := range s {
			if r.First >= r.End || i > 0 && s[i-1].End >= r.First {
				t.Fatalf("%v are not ascending and apart", s)
			}
		}
		whole := Range{rapid.Int64Range(0, 40).Draw(t, "from"), rapid.Int64Range(40, 80).Draw(t, "to")}
		out := map[int64]bool{}
		for _, r := range s.without(whole) {
			for o := r.First; o < r.End; o++ {
				out[o] = true
			}
		}
		for o := range int64(80) {
			if s.has(o) != in[o] || out[o] != (o >= whole.First && o < whole.End && !in[o]) {
				t.Fatalf("offset %d of %v", o, s)
			}
		}
	})
}
