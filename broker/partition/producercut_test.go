package partition_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
	"millrace/broker/partition"
	"millrace/broker/partition/partitiontest"
	"millrace/broker/record"
)

// The last batch of producer 42, at epoch 1, lies in a segment that goes as a whole. The power is cut then, and again in
// any one operation of the recovery. A partition may have forgotten the producer, where the batch itself is gone: then it
// goes on as it likes (KIP-360). What came before that batch must not pass for the last of it: it would be refused for
// ever. And none of what went is told as lost.
func TestProducersOutliveTheirSegmentsAndACutOfTheRecovery(t *testing.T) {
	const pointed = 400 // bytes, from here on
	small, large := "x", strings.Repeat("x", pointed)
	send := func(t *testing.T, p *partition.Partition, batches ...record.Batch) {
		t.Helper()
		for _, b := range batches {
			if _, err := partitiontest.AppendBatch(p, b); err != nil {
				t.Fatal(err)
			}
		}
	}
	drop := func(t *testing.T, _ *partitiontest.World, p *partition.Partition) {
		t.Helper()
		if r, err := p.DropOldest(0); err != nil || r.To != p.End() {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	checkpoint := func(t *testing.T, w *partitiontest.World, _ *partition.Partition) {
		t.Helper()
		if err := w.Store.Checkpoint(); err != nil {
			t.Fatal(err)
		}
	}
	delete := func(t *testing.T, w *partitiontest.World, p *partition.Partition) {
		t.Helper()
		done := make(chan error, 1)
		p.DeleteRecords(-1, func(_ int64, err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		w.Clock = w.Clock.Add(8 * 24 * time.Hour) // the active segment is due
		if r, err := p.Retain(w.Clock.UnixMilli()); err != nil || r.Segments == 0 {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	for _, before := range []struct {
		name string
		do   func(t *testing.T, w *partitiontest.World, p *partition.Partition)
	}{
		{"a log that no checkpoint knows", func(*testing.T, *partitiontest.World, *partition.Partition) {}},
		{"a checkpoint of the empty log", checkpoint},
		{"a checkpoint in the segment", func(t *testing.T, w *partitiontest.World, p *partition.Partition) {
			partitiontest.Fill(t, p, 1)
			checkpoint(t, w, p)
		}},
		{"a checkpoint of the segment while it was empty", func(t *testing.T, w *partitiontest.World, p *partition.Partition) {
			partitiontest.Fill(t, p, 1)
			drop(t, w, p)
			checkpoint(t, w, p)
		}},
		{"a checkpoint before the segment", func(t *testing.T, w *partitiontest.World, p *partition.Partition) {
			partitiontest.Fill(t, p, 1)
			checkpoint(t, w, p)
			partitiontest.Fill(t, p, 1)
			drop(t, w, p)
		}},
	} {
		for _, last := range []struct {
			name   string
			behind []string
		}{
			{"alone", nil},
			{"with others behind it", []string{small, large, small}},
		} {
			t.Run(before.name+", "+last.name, func(t *testing.T) {
				for cut, whole := int64(1), false; !whole; cut++ {
					whole = true
					for seed := range uint64(4) {
						c := producerCut{rng: rand.New(rand.NewPCG(seed, uint64(cut))), root: t.TempDir(), w: partitiontest.New(t)}
						c.boot(t, 0)
						c.w.Start()
						c.w.Journal.InlineMax = pointed
						p := c.w.Create("a")
						before.do(t, c.w, p)
						send(t, p, produced(42, 0, 0, small), produced(42, 1, 0, large, small))
						for _, value := range last.behind {
							send(t, p, partitiontest.Batch(value))
						}
						end, after := p.End(), int(seed/3)
						if seed%2 == 0 {
							drop(t, c.w, p)
						} else {
							delete(t, c.w, p)
						}
						partitiontest.Fill(t, p, after)
						c.boot(t, cut)
						whole = c.w.TryStart() == nil && whole
						c.boot(t, 0)
						c.w.Start()
						c.check(t, cut, end, after)
					}
				}
			})
		}
	}
}

// producerCut is a board whose power goes twice.
type producerCut struct {
	rng  *rand.Rand
	root string
	w    *partitiontest.World
	fs   *disktest.FS
	life int
}

// boot cuts the power, if it is on, and puts what is left under the next life; at is the operation in which that is cut, 0
// for none.
func (c *producerCut) boot(t *testing.T, at int64) {
	t.Helper()
	left := filepath.Join(c.root, fmt.Sprint("disk-", c.life))
	if c.life++; c.fs == nil {
		if err := os.MkdirAll(filepath.Join(left, "data"), 0o755); err != nil {
			t.Fatal(err)
		}
	} else {
		c.fs.Stop()
		if c.w.Store != nil {
			c.w.Kill()
		} else {
			c.w.Journal.Crash()
		}
		if err := c.fs.Cut(c.rng, left); err != nil {
			t.Fatal(err)
		}
	}
	c.fs = disktest.New(disk.OS{})
	if err := c.fs.Record(left); err != nil {
		t.Fatal(err)
	}
	if at > 0 {
		c.fs.StopAt(at)
	}
	c.w.FS, c.w.Dir = c.fs, filepath.Join(left, "data")
}

func (c *producerCut) check(t *testing.T, cut, end int64, after int) {
	t.Helper()
	p := c.w.Partition("a")
	if len(c.w.Report.Lost) > 0 || p.Start() != end || p.End() != end+int64(after) {
		t.Errorf("cut in operation %d: log %d to %d, want %d to %d; lost %q", cut, p.Start(), p.End(), end, end+int64(after), c.w.Report.Lost)
	}
	for _, s := range p.Producers() {
		if s.ID == 42 && (s.Epoch != 1 || s.LastSequence != 1) {
			t.Errorf("cut in operation %d: remembered is %+v", cut, s)
		}
	}
	if base, err := partitiontest.AppendBatch(p, produced(42, 1, 2, "next")); err != nil || base != end+int64(after) {
		t.Errorf("cut in operation %d: the next batch: %d, %v", cut, base, err)
	}
}
