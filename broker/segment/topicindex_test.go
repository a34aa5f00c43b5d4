package segment

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"millrace/broker/record"
)

// matches is MQTT's rule (4.7), written down once more and not the door's.
func matches(filter, topic string) bool {
	f, t := strings.Split(filter, "/"), strings.Split(topic, "/")
	for i, level := range f {
		switch {
		case level == "#":
			return true
		case i >= len(t) || level != "+" && level != t[i]:
			return false
		}
	}
	return len(f) == len(t)
}

func wanted(filters ...string) (w *Wanted, selective bool) {
	w = new(Wanted)
	for _, f := range filters {
		w.Add(f)
	}
	return w, w.Done()
}

// named is a record of the MQTT door.
func named(topic string, size int) (key, value []byte, headers []record.Header) {
	return []byte(topic), bytes.Repeat([]byte{'v'}, size), []record.Header{
		{Key: "mqtt.topic", Value: []byte(topic)}, {Key: "mqtt.client", Value: []byte("c")},
	}
}

// topicsOf is a batch with a record of each topic; "" is for a record that does not say what it is called.
func topicsOf(tb testing.TB, codec record.Codec, base int64, size int, topics ...string) record.Batch {
	tb.Helper()
	b := record.NewBuilder(codec)
	for _, topic := range topics {
		key, value, headers := named(topic, size)
		if topic == "" {
			headers = nil
		}
		b.Add(1, key, value, headers)
	}
	built, err := b.Build()
	if err != nil {
		tb.Fatal(err)
	}
	built = slices.Clone(built)
	built.Stamp(base, 3)
	return built
}

// Whatever a filter matches it wants, and whatever is in a set is found in it.
func TestWantedMissesNothing(t *testing.T) {
	level := rapid.SampledFrom([]string{"a", "b", "", "ab", "$x", "a longer one"})
	topics := rapid.Custom(func(t *rapid.T) string {
		return "t" + strings.Join(rapid.SliceOfN(level, 1, 6).Draw(t, "levels"), "/")
	})
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfN(topics, 1, 700).Draw(t, "topics")
		var h topicHashes
		b := record.NewBuilder(record.None)
		for _, n := range names {
			key, value, headers := named(n, 1)
			b.Add(1, key, value, headers)
		}
		built, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		if !h.add(built) {
			t.Fatal("the door's own records are not known")
		}
		e := (&topicIndex{next: 1, hashes: h}).entry(0)
		entry, rest, err := nextEntry(e)
		if err != nil || len(rest) > 0 {
			t.Fatalf("%v, %d bytes left", err, len(rest))
		}
		// A filter made of a topic that is there, with some of its levels put away.
		of := strings.Split(rapid.SampledFrom(names).Draw(t, "of"), "/")
		for i := range of {
			if rapid.IntRange(0, 3).Draw(t, "plus") == 0 {
				of[i] = "+"
			}
		}
		if n := rapid.IntRange(0, len(of)).Draw(t, "hash"); rapid.Bool().Draw(t, "multi") {
			of = append(of[:n], "#")
		}
		filter := strings.Join(of, "/")
		if w, selective := wanted(filter); selective && (!entry.may(w) || !w.In(built)) {
			t.Fatalf("%q is not wanted by %q", names, filter)
		}
	})
}

// What is not there is passed by, most of the time: the figures of the README.
func TestFewSpansAreReadInVain(t *testing.T) {
	for _, tt := range []struct{ topics, vain int }{{50, 2}, {300, 40}} {
		var h topicHashes
		names := make([]string, tt.topics)
		for i := range names {
			names[i] = fmt.Sprintf("plant/device-%d/temperature", i)
		}
		if !h.add(topicsOf(t, record.None, 0, 1, names...)) {
			t.Fatal("not known")
		}
		entry, _, err := nextEntry((&topicIndex{next: 1, hashes: h}).entry(0))
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for i := range 100_000 {
			if w, _ := wanted(fmt.Sprintf("quiet/%d", i)); entry.may(w) {
				n++
			}
		}
		t.Logf("%d topics: %d bytes, %d of 100,000 in vain", tt.topics, entryHeader+len(entry.sets[0])+len(entry.sets[1]), n)
		if n > tt.vain {
			t.Errorf("%d topics: %d of 100,000 others seem to be there, want %d at most", tt.topics, n, tt.vain)
		}
	}
}

// topicLog is a log with a topic index, and what is in it.
type topicLog struct {
	tb      testing.TB
	rng     *rand.Rand
	dir     string
	s       *Segment
	batches []record.Batch
	topics  [][]string // of each
	pos     []int64
}

func (l *topicLog) end() (offset, position int64) {
	if n := len(l.batches); n > 0 {
		return l.batches[n-1].NextOffset(), l.pos[n-1] + int64(len(l.batches[n-1]))
	}
	return 100, 0
}

func (l *topicLog) topic() string {
	if l.rng.IntN(200) > 0 {
		return fmt.Sprintf("n/%d/t", l.rng.IntN(60))
	}
	return [...]string{"a", "a/b", "a/b/c", "a/b/c/d", "a/b/x/d", "/a", "x/y"}[l.rng.IntN(7)]
}

// next is a batch as it may come to the log's end.
func (l *topicLog) next() (record.Batch, []string) {
	base, _ := l.end()
	topics := make([]string, 1+l.rng.IntN(40))
	for i := range topics {
		topics[i] = l.topic()
	}
	codec := record.None
	size := 1 + l.rng.IntN(2000)
	switch l.rng.IntN(40) {
	case 0:
		topics[l.rng.IntN(len(topics))] = ""
	case 1:
		codec = record.LZ4
	case 2:
		return record.Filler(base, base+3, 3, 1), nil
	}
	return topicsOf(l.tb, codec, base, size, topics...), topics
}

func (l *topicLog) keep(b record.Batch, topics []string) {
	_, pos := l.end()
	l.batches, l.topics, l.pos = append(l.batches, b), append(l.topics, topics), append(l.pos, pos)
}

// cut forgets the batches from the n-th on.
func (l *topicLog) cut(n int) {
	l.batches, l.topics, l.pos = l.batches[:n], l.topics[:n], l.pos[:n]
}

// judge looks for filters and demands that nothing is passed by that a plain reading would give.
func (l *topicLog) judge() (passed int64) {
	l.tb.Helper()
	for _, filter := range []string{"a", "a/b", "a/b/c/d", "a/#", "a/+", "a/+/c", "+/b", "x/y", "x/#", "none", "none/#", "n/7/t", "/#", "#"} {
		w, selective := wanted(filter)
		if !selective {
			continue
		}
		offset := int64(100)
		for i, b := range l.batches {
			for more := true; more; { // until it says that this has to be read
				before := offset
				if offset, more = l.s.Skip(offset, w); offset < before {
					l.tb.Fatalf("%s: Skip goes back from %d to %d", filter, before, offset)
				}
				passed += offset - before
			}
			if offset >= b.NextOffset() {
				for _, topic := range l.topics[i] {
					if topic == "" || matches(filter, topic) {
						l.tb.Fatalf("%s: batch %d to %d is passed by, and has %q", filter, b.BaseOffset(), b.LastOffset(), topic)
					}
				}
			}
			if offset < b.NextOffset() { // whoever reads on here reads this batch
				span, err := l.s.Read(offset, l.s.Size(), 1)
				if err != nil || span.Len() == 0 {
					l.tb.Fatalf("%s: Read(%d): %d bytes, %v", filter, offset, span.Len(), err)
				}
				if got := bytesOf(l.tb, span); !bytes.Equal(got, b) {
					l.tb.Fatalf("%s: Read(%d) is of offset %d, want %d", filter, offset, record.Batch(got).BaseOffset(), b.BaseOffset())
				}
			}
			offset = max(offset, b.NextOffset())
		}
	}
	return passed
}

// Whatever happens to a log and to its topic index, nothing is passed by that is there.
func TestTopicIndexHidesNothing(t *testing.T) {
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("-seed=%d", *seed)
	worlds := uint64(4)
	if testing.Short() {
		worlds = 1
	}
	var passed int64
	for n := range worlds {
		l := &topicLog{tb: t, rng: rand.New(rand.NewPCG(*seed, n))}
		l.s, l.dir = create(t, 100, Config{})
		path := filepath.Join(l.dir, fileName(100, TopicIndexSuffix))
		var old []byte // the file at some time
		for step := range 80 {
			passed += l.step(path, &old)
			if t.Failed() {
				t.Fatalf("world %d, step %d", n, step)
			}
		}
		if err := l.s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if passed == 0 {
		t.Error("nothing was ever passed by: nothing is proven")
	}
}

func (l *topicLog) step(path string, old *[]byte) (passed int64) {
	must := func(err error) {
		l.tb.Helper()
		if err != nil {
			l.tb.Fatal(err)
		}
	}
	switch l.rng.IntN(12) {
	case 0: // a failed commit, or a follower that was wrong
		n := l.rng.IntN(len(l.batches) + 1)
		if l.rng.IntN(4) > 0 {
			n = max(n, len(l.batches)-10)
		}
		l.cut(n)
		_, pos := l.end()
		must(l.s.Truncate(pos))
	case 1: // a start: what was not saved is lost, and the journal repeats some of the log, or says otherwise
		must(l.s.Close())
		l.tear(path, *old)
		l.s = reopen(l.tb, l.dir, 100, Config{})
		if l.rng.IntN(2) == 0 {
			from := max(len(l.batches)-l.rng.IntN(20), 0)
			again, topics := slices.Clone(l.batches[from:]), slices.Clone(l.topics[from:])
			l.cut(from)
			differ := l.rng.IntN(3) == 0
			for i := range again {
				b, names := again[i], topics[i]
				if differ {
					b, names = l.next()
				}
				_, pos := l.end()
				must(l.s.Put(pos, b))
				l.keep(b, names)
			}
			_, pos := l.end()
			must(l.s.Truncate(pos))
		}
	case 2: // a checkpoint
		l.s.SaveTopics()
		*old, _ = os.ReadFile(path)
	case 3:
		must(l.s.Seal()) // and it goes on all the same, as after a roll that failed
		passed = l.judge()
	default:
		for range 1 + l.rng.IntN(20) {
			b, topics := l.next()
			if l.rng.IntN(8) == 0 { // two in one append
				_, err := l.s.Append(b)
				must(err)
				l.keep(b, topics)
				b, topics = l.next()
			}
			_, err := l.s.Append(b)
			must(err)
			l.keep(b, topics)
		}
		if l.rng.IntN(4) == 0 {
			passed = l.judge()
		}
	}
	return passed
}

// tear does to the file what a stop may: it is gone, an older one, cut, or a bit of it has flipped.
func (l *topicLog) tear(path string, old []byte) {
	raw, err := os.ReadFile(path)
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			l.tb.Fatal(err)
		}
		raw = nil
	}
	switch l.rng.IntN(8) {
	case 0:
		raw = nil
	case 1, 2:
		raw = old
	case 3:
		raw = raw[:l.rng.IntN(len(raw)+1)]
	case 4:
		if len(raw) > 0 {
			raw[l.rng.IntN(len(raw))] ^= 1 << l.rng.IntN(8)
		}
	case 5: // the pages reached the disk in another order
		if n := len(raw) / topicPage; n > 0 {
			clear(raw[l.rng.IntN(n)*topicPage:][:topicPage])
		}
	default:
		return
	}
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		l.tb.Fatal(err)
	}
}
