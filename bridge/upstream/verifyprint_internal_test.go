package upstream

import (
	"runtime"
	"testing"
	"unsafe"

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

// However many partitions come together in one upstream, what is held of them stays below what a lane has room for, or they are too many.
func TestWindowsFitInWhatIsBooked(t *testing.T) {
	if size := unsafe.Sizeof(print{}); size > 56 {
		t.Errorf("a record takes %d bytes", size)
	}
	for _, bytes := range []int{1, leastTransactionBytes, defaultTransactionBytes, 16 << 20} {
		cfg := Config{TransactionBytes: bytes}
		if cfg.window(1) < windowLeast {
			t.Errorf("with transactions of %d bytes nothing is compared", bytes)
		}
		for n := 1; n <= 2*defaultPartitions; n++ {
			size := cfg.window(n)
			if took := int(lanes) * n * size * int(unsafe.Sizeof(print{})); took > laneCost*max(bytes, leastTransactionBytes)/2 || size != 0 && size < windowLeast {
				t.Fatalf("with transactions of %d bytes, of %d partitions %d records are held: %d bytes", bytes, n, size, took)
			}
		}
	}
	if cfg := (Config{TransactionBytes: defaultTransactionBytes}); cfg.window(512) == 0 || cfg.window(513) != 0 {
		t.Errorf("%d and %d", cfg.window(512), cfg.window(513))
	}
}

// As many as there may be, in two lanes, take no more than is booked.
func TestManyStrandsTakeNoMoreThanIsBooked(t *testing.T) {
	const n = 512
	cfg := Config{TransactionBytes: defaultTransactionBytes}
	c := &comparison{size: cfg.window(n), told: func(*strand) (spans, error) { return nil, nil }}
	for i := range int32(n) {
		c.strands = append(c.strands, newStrand(i, 0, 1<<20, 0, 1<<20))
	}
	c.walk = func(s *strand, from, end int64, fn func(*print) bool) error {
		for i := from; i < end; i++ {
			if !fn(&print{content: content{1, uint64(s.index), uint64(i)}, offset: i, after: i, at: i}) {
				break
			}
		}
		return nil
	}
	before := heapNow()
	for i := range int64(40) {
		for p := range uint64(n) {
			for lane, offset := range []int64{i + 1000, i} {
				one := arrival{content: content{1, p, uint64(offset)}, at: offset, lane: Lane(lane), part: int32(p), offset: offset}
				if err := c.take(&one); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	took := heapNow() - before
	t.Logf("%d KiB", took>>10)
	if found := c.strands[n-1].found; took > laneCost*defaultTransactionBytes || found != 80 {
		t.Errorf("%d KiB, %d were found", took>>10, found)
	}
	runtime.KeepAlive(c)
}
