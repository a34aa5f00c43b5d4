package cleaner

import (
	"iter"
	"math"
	"testing"
	"time"

	"millrace/broker/catalog"
	"millrace/broker/partition"
)

type fake struct {
	Log
	arrival  int64
	kept     int
	scrubbed int64
	config   catalog.TopicConfig
}

func (f *fake) String() string                           { return "fake-0" }
func (f *fake) Config() *catalog.TopicConfig             { return &f.config }
func (f *fake) Needed() (int64, int)                     { return math.MaxInt64, partition.Delivered }
func (f *fake) Retain(int64) (partition.Retained, error) { return partition.Retained{}, nil }

func (f *fake) Scrub(n int) (int64, error) {
	f.scrubbed += int64(n)
	return int64(n), nil
}

func (f *fake) Offer() (partition.Offer, bool) {
	return partition.Offer{Class: partition.Delivered, Arrival: f.arrival}, f.kept > 1
}

func (f *fake) DropOldest(int) (partition.Retained, error) {
	f.kept--
	f.arrival += 100
	return partition.Retained{Segments: 1, Bytes: 10, From: 0, To: 5, Needed: 5}, nil
}

type room struct{ needed int }

func (r *room) Refresh(int64) {}

func (r *room) Room(int64) bool { return true }

func (r *room) Low(int64) bool {
	r.needed--
	return r.needed >= 0
}

func clean(space Space, now *time.Time, elapsed *time.Duration, fakes ...*fake) *Cleaner {
	return New(Config{
		Partitions: func() iter.Seq[Partition] {
			return func(yield func(Partition) bool) {
				for _, f := range fakes {
					if !yield(f) {
						return
					}
				}
			}
		},
		Space: space, Now: func() time.Time { return *now }, Elapsed: func() time.Duration { return *elapsed },
	})
}

func TestAFullDiskDropsTheOldestOfThoseThatAllowIt(t *testing.T) {
	now, elapsed := time.UnixMilli(1000), time.Duration(0)
	old := &fake{arrival: 10, kept: 9}
	a := &fake{arrival: 50, kept: 3, config: catalog.TopicConfig{DropOldest: true}}
	b := &fake{arrival: 90, kept: 3, config: catalog.TopicConfig{DropOldest: true}}
	c := clean(&room{needed: 3}, &now, &elapsed, old, a, b)
	if err := c.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	if old.kept != 9 || a.kept != 1 || b.kept != 2 || c.Dropped() != 15 || c.Removed() != 3 || c.Freed() != 30 {
		t.Errorf("kept %d, %d, %d; dropped %d, removed %d, freed %d", old.kept, a.kept, b.kept, c.Dropped(), c.Removed(), c.Freed())
	}
}

func TestAScrubIsSlow(t *testing.T) {
	now, elapsed := time.UnixMilli(1000), time.Duration(0)
	fakes := make([]*fake, 20)
	for i := range fakes {
		fakes[i] = &fake{}
	}
	c := clean(nil, &now, &elapsed, fakes...)
	for pass, want := range []int64{0, scrubBytes, scrubBytes, 2 * scrubBytes} {
		if err := c.Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
		total := int64(0)
		for _, f := range fakes {
			total += f.scrubbed
		}
		if total != want {
			t.Errorf("pass %d: %d bytes checked, want %d", pass, total, want)
		}
		if pass != 1 {
			now, elapsed = now.Add(scrubEvery), elapsed+scrubEvery
		}
	}
}
