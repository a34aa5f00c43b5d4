package partition_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"millrace/broker/disk"
	"millrace/broker/partition/partitiontest"
)

// A producer whose last batch is damaged goes on: known by the one before, it would be refused for ever.
func TestAProducerWhoseLastBatchIsDamagedGoesOn(t *testing.T) {
	for _, tt := range []struct {
		name   string
		inline int // InlineMax of the journal
		damage func(t *testing.T, w *partitiontest.World, at int64)
	}{
		{"pointed", 300, func(t *testing.T, w *partitiontest.World, at int64) { flip(t, logFile(w, "a", 0), at+200) }},
		{"inline", 0, func(t *testing.T, w *partitiontest.World, at int64) {
			w.Frames.Damage(1)
			cutFile(t, logFile(w, "a", 0), at)
		}},
	} {
		for again := range 2 {
			t.Run(fmt.Sprintf("%s, %d restarts more", tt.name, again), func(t *testing.T) {
				w := partitiontest.New(t).Start()
				w.Journal.InlineMax = tt.inline
				p := w.Create("a")
				if _, err := partitiontest.AppendBatch(p, produced(42, 0, 0, "x")); err != nil {
					t.Fatal(err)
				}
				at := p.Size()
				if _, err := partitiontest.AppendBatch(p, produced(42, 1, 0, strings.Repeat("x", 400))); err != nil {
					t.Fatal(err)
				}
				partitiontest.Fill(t, p, 2)
				w.Kill()
				tt.damage(t, w, at)
				w.Start()
				if w.Report.Gaps == 0 {
					t.Error("nothing is lost")
				}
				for range again { // on what the first recovery has made of it
					w.Restart()
				}
				if base, err := partitiontest.AppendBatch(w.Partition("a"), produced(42, 1, 1, "next")); err != nil || base != 4 {
					t.Errorf("the next batch: offset %d, %v", base, err)
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
