package partition_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"millrace/broker/disk"
	"millrace/broker/partition"
	"millrace/broker/partition/partitiontest"
)

// A producer whose last batch is damaged goes on: known by the one before, it would be refused for ever. What is there of
// it and of others is still found when it is sent again.
func TestAProducerWhoseLastBatchIsDamagedGoesOn(t *testing.T) {
	for _, tt := range []struct {
		name   string
		inline int // InlineMax of the journal
		after  int // records behind the damage
		damage func(t *testing.T, w *partitiontest.World, at int64, batch int)
	}{
		{"pointed", 300, 2, func(t *testing.T, w *partitiontest.World, at int64, _ int) { flip(t, logFile(w, "a", 0), at+200) }},
		{"inline", 0, 2, func(t *testing.T, w *partitiontest.World, at int64, batch int) {
			w.Frames.Damage(batch)
			cutFile(t, logFile(w, "a", 0), at)
		}},
		{"pointed, the last", 300, 0, func(t *testing.T, w *partitiontest.World, at int64, _ int) { flip(t, logFile(w, "a", 0), at+200) }},
		{"inline, the last of its partition", 0, 0, func(t *testing.T, w *partitiontest.World, at int64, batch int) {
			w.Frames.Damage(batch)
			cutFile(t, logFile(w, "a", 0), at)
		}},
	} {
		for way := range 6 {
			again, known := []string{"", "killed", "stopped"}[way%3], way/3 == 1
			t.Run(fmt.Sprintf("%s, and once more %q, a checkpoint knows of them %t", tt.name, again, known), func(t *testing.T) {
				w := partitiontest.New(t).Start()
				w.Journal.InlineMax = tt.inline
				p, other := w.Create("a"), w.Create("b")
				for i, producer := range []int64{42, 7} {
					if base, err := partitiontest.AppendBatch(p, produced(producer, 0, 0, "x")); err != nil || base != int64(i) {
						t.Fatal(base, err)
					}
				}
				batch := 2
				if known {
					if err := w.Store.Checkpoint(); err != nil {
						t.Fatal(err)
					}
					batch = 0
				}
				at := p.Size()
				if _, err := partitiontest.AppendBatch(p, produced(42, 0, 1, strings.Repeat("x", 400))); err != nil {
					t.Fatal(err)
				}
				partitiontest.Fill(t, p, tt.after)
				partitiontest.Fill(t, other, 1)
				w.Kill()
				tt.damage(t, w, at, batch)
				w.Start()
				if w.Report.Gaps == 0 && tt.after > 0 {
					t.Error("nothing is lost")
				}
				switch again { // on what the first recovery has made of it
				case "killed":
					w.Restart()
				case "stopped":
					w.Stop()
					w.Start()
				}
				p = w.Partition("a")
				end := p.End()
				if want := int64(3 + tt.after); tt.after > 0 && end != want || tt.after == 0 && end != 2 {
					t.Fatalf("the log ends at %d", end)
				}
				for _, b := range []struct {
					name     string
					producer int64
					epoch    int16
					seq      int32
					base     int64
				}{
					{"the last whole one again", 42, 0, 0, 0},
					{"a neighbour's last again", 7, 0, 0, 1},
					{"the next", 42, 0, 2, end},
					{"the next once more", 42, 0, 2, end},
					{"the one after that", 42, 0, 3, end + 1},
					{"a neighbour's, of a new epoch", 7, 1, 5, end + 2},
				} {
					if again == "stopped" && b.base < end {
						continue // a snapshot has no room for the doubt
					}
					if base, err := partitiontest.AppendBatch(p, produced(b.producer, b.epoch, b.seq, b.name)); err != nil || base != b.base {
						t.Errorf("%s: offset %d, %v; want %d", b.name, base, err, b.base)
					}
				}
				if _, err := partitiontest.AppendBatch(p, produced(42, 0, 9, "a gap")); !errors.Is(err, partition.ErrOutOfOrderSequence) {
					t.Errorf("nobody doubts the producer any more, and a gap: %v", err)
				}
			})
		}
	}
}

// Where nothing follows a damaged batch that the start lies in, its own entry is all that tells of the loss.
func TestDamageOfTheBatchThatHoldsTheStartIsTold(t *testing.T) {
	w := partitiontest.New(t).Start()
	w.Journal.InlineMax = 1
	p := w.Create("a")
	if _, err := partitiontest.Append(p, "deleted", "kept"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	p.DeleteRecords(1, func(_ int64, err error) { done <- err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	w.Kill()
	flip(t, logFile(w, "a", 0), 65)
	w.Start()
	if w.Report.Gaps == 0 {
		t.Errorf("nothing is lost, log %d to %d", w.Partition("a").Start(), w.Partition("a").End())
	}
}

// starting is a disk on which something happens once, when a checkpoint has taken its mark and begins to flush.
type starting struct {
	disk.OS
	do func()
}

func (s *starting) OpenFile(name string, flag int, perm os.FileMode) (disk.File, error) {
	f, err := s.OS.OpenFile(name, flag, perm)
	if err != nil || filepath.Ext(name) != ".log" {
		return f, err
	}
	return &startedFile{f, s}, nil
}

type startedFile struct {
	disk.File
	s *starting
}

func (f *startedFile) StartSync() {
	if do := f.s.do; do != nil {
		f.s.do = nil
		do()
	}
}

// The journal still has the truncation, the checkpoint has seen what was written in its place, and both went.
func TestProducersBehindATruncationOutliveTheirSegment(t *testing.T) {
	fs := &starting{}
	w := partitiontest.New(t)
	w.FS = fs
	w.Start()
	p := w.Create("a")
	if _, err := partitiontest.AppendBatch(p, produced(42, 0, 0, "x")); err != nil {
		t.Fatal(err)
	}
	partitiontest.Fill(t, p, 3)
	fs.do = func() {
		if end, err := p.Truncate(1); err != nil || end != 1 {
			t.Errorf("truncate: %d, %v", end, err)
		}
		if base, err := partitiontest.AppendBatch(p, produced(42, 0, 1, "y")); err != nil || base != 1 {
			t.Errorf("append: %d, %v", base, err)
		}
		partitiontest.Fill(t, p, 1)
	}
	if err := w.Store.Checkpoint(); err != nil || fs.do != nil {
		t.Fatal(err)
	}
	if r, err := p.DropOldest(0); err != nil || r.To != 3 {
		t.Fatalf("%+v, %v", r, err)
	}
	w.Restart()
	if base, err := partitiontest.AppendBatch(w.Partition("a"), produced(42, 0, 1, "y")); err != nil || base != 1 {
		t.Errorf("the last batch again: offset %d, %v; want 1", base, err)
	}
}
