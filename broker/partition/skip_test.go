package partition_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"millrace/broker/partition"
	"millrace/broker/partition/partitiontest"
	"millrace/broker/record"
	"millrace/broker/segment"
)

// topicBatch is a batch of n records of the MQTT door, most of them of busy topics.
func topicBatch(tb testing.TB, rng *rand.Rand) (record.Batch, []string) {
	tb.Helper()
	b := record.NewBuilder(record.None)
	var topics []string
	for range 1 + rng.IntN(20) {
		topic := fmt.Sprintf("busy/%d", rng.IntN(20))
		if rng.IntN(60) == 0 {
			topic = []string{"quiet/a", "quiet/b", "still"}[rng.IntN(3)]
		}
		topics = append(topics, topic)
		b.Add(1_790_000_000_000, []byte(topic), make([]byte, 1+rng.IntN(5000)), []record.Header{{Key: "mqtt.topic", Value: []byte(topic)}})
	}
	built, err := b.Build()
	if err != nil {
		tb.Fatal(err)
	}
	return slices.Clone(built), topics
}

// Over rolls, cuts, retention and every kind of stop, nothing that is wanted is passed by, and much of the rest is.
func TestSkipHidesNothing(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var passed, all int64
	for n := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, n))
		w := partitiontest.New(t)
		w.Topic.SegmentBytes = 400_000
		w.Topic.RetentionBytes = 3_000_000
		w.Start()
		w.Journal.InlineMax = []int{0, 1, 60_000}[rng.IntN(3)]
		p := w.Create("a")
		var topics []string // by offset
		for range 120 {
			switch rng.IntN(14) {
			case 0:
				done := make(chan error, 1)
				p.DeleteRecords(p.Start()+rng.Int64N(p.High()-p.Start()+1), func(_ int64, err error) { done <- err })
				if err := <-done; err != nil {
					t.Fatal(err)
				}
			case 1:
				if _, err := p.Retain(w.Clock.UnixMilli()); err != nil {
					t.Fatal(err)
				}
			case 2:
				end, err := p.Truncate(p.High() - rng.Int64N(min(p.High()-p.Start(), 40)+1))
				if err != nil {
					t.Fatal(err)
				}
				topics = topics[:end]
			case 3:
				if err := w.Store.Checkpoint(); err != nil {
					t.Fatal(err)
				}
			case 4:
				if rng.IntN(2) == 0 {
					w.Kill()
				}
				if w.Store != nil {
					w.Stop()
				}
				if err := w.TryStart(); err != nil {
					t.Fatal(err)
				}
				p = w.Partition("a")
			default:
				for range 4 {
					b, names := topicBatch(t, rng)
					if _, err := partitiontest.AppendBatch(p, b); err != nil {
						t.Fatal(err)
					}
					topics = append(topics, names...)
				}
			}
		}
		for filter, want := range map[string]func(string) bool{
			"quiet/#": func(s string) bool { return s == "quiet/a" || s == "quiet/b" },
			"quiet/a": func(s string) bool { return s == "quiet/a" },
			"still":   func(s string) bool { return s == "still" },
			"none":    func(string) bool { return false },
		} {
			got, by := follow(t, p, filter)
			passed, all = passed+by, all+p.High()-p.Start()
			for offset := p.Start(); offset < p.High(); offset++ {
				if want(topics[offset]) && !got[offset] {
					t.Fatalf("world %d: %s: offset %d of %d to %d, %s, is passed by", n, filter, offset, p.Start(), p.High(), topics[offset])
				}
			}
		}
		w.Stop()
	}
	t.Logf("%d of %d records passed by", passed, all)
	if passed*4 < all {
		t.Errorf("only %d of %d records are passed by", passed, all)
	}
}

// follow reads a partition as somebody who wants a filter, and says what offsets were read and how many passed by.
func follow(t *testing.T, p *partition.Partition, filter string) (got map[int64]bool, by int64) {
	t.Helper()
	w := new(segment.Wanted)
	if w.Add(filter); !w.Done() {
		t.Fatalf("%s wants all", filter)
	}
	got = make(map[int64]bool)
	for offset := p.Start(); offset < p.High(); {
		next, more := p.Skip(offset, w)
		if next < offset || next > p.High() {
			t.Fatalf("Skip(%d) = %d of %d", offset, next, p.High())
		}
		by += next - offset
		if offset = next; more || offset == p.High() {
			continue
		}
		span, err := p.Read(offset, 1)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := span.Append(nil)
		span.Release()
		if err != nil || len(raw) == 0 {
			t.Fatalf("Read(%d): %d bytes, %v", offset, len(raw), err)
		}
		for ; offset < record.Batch(raw).NextOffset(); offset++ {
			got[offset] = true
		}
	}
	return got, by
}
