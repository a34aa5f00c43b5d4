package cleaner

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"millrace/broker/catalog"
	"millrace/broker/partition"
)

// kept is one segment of a hoard.
type kept struct {
	of            string
	base, next    int64
	arrival, size int64
	class         int
}

// hoard is a partition of segments that somebody may need.
type hoard struct {
	fake
	name     string
	segments []kept
	from     int64 // needed from here on
	class    int
	asked    int
	gone     func(kept)
}

func (h *hoard) String() string { return h.name }

func (h *hoard) classOf(s kept) int {
	if s.next <= h.from {
		return partition.Delivered
	}
	return h.class
}

func (h *hoard) Offer() (partition.Offer, bool) {
	h.asked++
	if len(h.segments) == 0 {
		return partition.Offer{}, false
	}
	s := h.segments[0]
	return partition.Offer{Class: h.classOf(s), Arrival: s.arrival}, true
}

func (h *hoard) DropOldest(class int) (partition.Retained, error) {
	s := h.segments[0]
	if s.class = h.classOf(s); s.class < class {
		return partition.Retained{}, nil
	}
	h.segments = h.segments[1:]
	r := partition.Retained{Segments: 1, Bytes: s.size, From: s.base, To: s.next, Needed: s.next}
	if s.class != partition.Delivered {
		r.Needed = max(s.base, h.from)
		r.NeededBytes = s.size * (r.To - r.Needed) / (s.next - s.base)
	}
	h.gone(s)
	return r, nil
}

// meter is a disk of which so much is to be freed.
type meter struct{ need int64 }

func (*meter) Refresh(int64)   {}
func (*meter) Room(int64) bool { return true }

func (m *meter) Low(int64) bool { return m.need > 0 }

func hoarders(m Space, log *slog.Logger, hoards []*hoard) *Cleaner {
	return New(Config{
		Partitions: func() iter.Seq[Partition] {
			return func(yield func(Partition) bool) {
				for _, h := range hoards {
					if !yield(h) {
						return
					}
				}
			}
		},
		Space: m, Now: func() time.Time { return time.UnixMilli(0) }, Elapsed: func() time.Duration { return 0 }, Logger: log,
	})
}

// A full disk takes what links have delivered, oldest first across all partitions, then what the lowest class still needs,
// oldest first, up to class 0; never a segment more than it must, and nothing of a topic that says reject. Each partition
// is asked once, and again for each segment it gives and each class that is begun.
func TestTheOrderOfSacrifice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		arrivals := rapid.Permutation(slices.Collect(func(yield func(int64) bool) {
			for i := range int64(200) {
				if !yield(i) {
					return
				}
			}
		})).Draw(t, "arrivals")
		m := &meter{need: rapid.Int64Range(0, 1500).Draw(t, "need")}
		var got, order []kept
		var hoards []*hoard
		drop := 0
		for i := range rapid.IntRange(1, 20).Draw(t, "partitions") {
			h := &hoard{
				name: fmt.Sprintf("p%d-0", i), class: rapid.SampledFrom([]int{0, 1, 2, 9, partition.Delivered}).Draw(t, "class"),
				from: rapid.Int64Range(0, 60).Draw(t, "from"),
				gone: func(s kept) { got, m.need = append(got, s), m.need-s.size },
			}
			h.config = catalog.TopicConfig{DropOldest: rapid.IntRange(0, 3).Draw(t, "full") > 0}
			n := rapid.IntRange(0, 10).Draw(t, "segments")
			mine := slices.Clone(arrivals[:n])
			arrivals = arrivals[n:]
			slices.Sort(mine)
			base := int64(0)
			for _, at := range mine {
				next := base + rapid.Int64Range(1, 10).Draw(t, "records")
				s := kept{h.name, base, next, at, rapid.Int64Range(1, 100).Draw(t, "size"), 0}
				s.class = h.classOf(s)
				h.segments, base = append(h.segments, s), next
				if h.config.DropOldest {
					order = append(order, s)
				}
			}
			if hoards = append(hoards, h); h.config.DropOldest {
				drop++
			}
		}
		slices.SortFunc(order, func(a, b kept) int {
			return cmp.Or(cmp.Compare(b.class, a.class), cmp.Compare(a.arrival, b.arrival))
		})
		left, n := m.need, 0
		var records, classes int64
		last := -1
		for ; n < len(order) && left > 0; n++ {
			left -= order[n].size
			if s := order[n]; s.class != partition.Delivered {
				h := hoards[slices.IndexFunc(hoards, func(h *hoard) bool { return h.name == s.of })]
				records += s.next - max(s.base, h.from)
			}
			if order[n].class != last {
				classes, last = classes+1, order[n].class
			}
		}
		var text bytes.Buffer
		c := hoarders(m, slog.New(slog.NewTextHandler(&text, nil)), hoards)
		if err := c.Pass(context.Background()); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, order[:n]) {
			t.Fatalf("went %v\nwant %v", got, order[:n])
		}
		asked := 0
		for _, h := range hoards {
			asked += h.asked
		}
		if most := drop*(1+int(classes)) + n; asked > most {
			t.Fatalf("%d partitions were asked %d times for %d segments of %d classes, want %d at most", drop, asked, n, classes, most)
		}
		if r, b := c.Sacrificed(); r != records || (b > 0) != (r > 0 && b > 0) {
			t.Fatalf("%d records, %d bytes were sacrificed, want %d", r, b, records)
		}
		for _, h := range hoards {
			first, last := int64(-1), int64(-1)
			for _, s := range got {
				if s.of == h.name && s.class != partition.Delivered {
					if last = s.next - 1; first < 0 {
						first = max(s.base, h.from)
					}
				}
			}
			line := fmt.Sprintf("given up\" partition=%s class=%d first=%d last=%d records=%d ", h.name, h.class, first, last, last-first+1)
			want := 0
			if first >= 0 {
				want = 1
			}
			if n := strings.Count(text.String(), line); n != want || strings.Count(text.String(), "given up\" partition="+h.name+" ") != want {
				t.Fatalf("logged %q %d times, want %d:\n%s", line, n, want, &text)
			}
		}
	})
}

// Links deliver while room is made: before something of a class goes, what was delivered meanwhile does.
func TestWhatIsDeliveredMeanwhileGoesFirst(t *testing.T) {
	m := &meter{need: 3}
	var got []string
	a := &hoard{name: "a", from: 10, class: 1, segments: []kept{{"a", 0, 10, 5, 1, 0}, {"a", 10, 20, 6, 1, 0}}}
	b := &hoard{name: "b", class: 0, segments: []kept{{"b", 0, 10, 1, 1, 0}, {"b", 10, 20, 2, 1, 0}}}
	for _, h := range []*hoard{a, b} {
		h.config.DropOldest = true
		h.gone = func(s kept) {
			got, m.need = append(got, fmt.Sprintf("%s%d", s.of, s.base)), m.need-s.size
			b.from = 10 // as soon as the first has gone
		}
	}
	c := hoarders(m, nil, []*hoard{a, b})
	if err := c.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := []string{"a0", "b0", "a10"}; !slices.Equal(got, want) {
		t.Errorf("went %v, want %v", got, want)
	}
}

// Five hundred partitions are not looked at for every segment that goes.
func TestRoomIsMadeInOneLook(t *testing.T) {
	m := &meter{need: 2000}
	hoards := make([]*hoard, 500)
	for i := range hoards {
		h := &hoard{name: fmt.Sprintf("p%d", i), class: partition.Delivered, gone: func(s kept) { m.need -= s.size }}
		h.config.DropOldest = true
		for n := range int64(10) {
			h.segments = append(h.segments, kept{h.name, n, n + 1, n*1000 + int64(i), 1, 0})
		}
		hoards[i] = h
	}
	c := hoarders(m, nil, hoards)
	if err := c.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	asked := 0
	for _, h := range hoards {
		asked += h.asked
		if len(h.segments) != 6 {
			t.Fatalf("%s has %d segments left, want 6", h.name, len(h.segments))
		}
	}
	if asked != 500+2000 {
		t.Errorf("asked %d times for 2,000 segments", asked)
	}
}
