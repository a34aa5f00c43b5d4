package partition_test

import (
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/broker/disk"
	"millrace/broker/partition"
	"millrace/broker/partition/partitiontest"
	"millrace/broker/record"
	"millrace/broker/segment"
)

func TestDropOldestGivesUpTheOnlySegment(t *testing.T) {
	w := partitiontest.New(t).Start()
	p := w.Create("a")
	if _, ok := p.Offer(); ok {
		t.Error("an empty partition has an oldest segment")
	}
	partitiontest.Fill(t, p, 20)
	if _, ok := p.Offer(); !ok {
		t.Error("the only segment is not the oldest")
	}
	r, err := p.DropOldest(partition.Delivered)
	if err != nil || r.Segments != 1 || r.To != 20 || p.Start() != 20 {
		t.Fatalf("dropped %+v, start %d, %v", r, p.Start(), err)
	}
	if r, err := p.DropOldest(partition.Delivered); err != nil || r.Segments != 0 {
		t.Errorf("dropped of an empty partition: %+v, %v", r, err)
	}
	partitiontest.Fill(t, p, 2)
	w.Restart()
	if p = w.Partition("a"); p.Start() != 20 || p.High() != 22 {
		t.Errorf("after restart %d to %d", p.Start(), p.High())
	}
}

// slow is a disk on which something happens while a partition's directory is made durable.
type slow struct {
	disk.OS
	during func()
}

func (s *slow) SyncDir(name string, point disk.Point) error {
	if point == "segment.metadata.dir" && s.during != nil {
		s.during()
	}
	return s.OS.SyncDir(name, point)
}

func TestAPartitionInTheMakingHoldsUpNobody(t *testing.T) {
	fs := &slow{}
	w := partitiontest.New(t)
	w.FS = fs
	w.Start()
	p := w.Create("a")
	fs.during = func() {
		got := make(chan *partition.Partition, 1)
		go func() { got <- w.Store.Get(partitiontest.ID("a"), 0) }()
		select {
		case q := <-got:
			if q != p {
				t.Errorf("got %v", q)
			}
		case <-time.After(10 * time.Second):
			t.Error("no partition can be looked up while another is made")
		}
	}
	w.Create("b")
}

// What covers a loss is no larger than what clients send: nobody has to hold a lost segment in memory.
func TestALostSegmentIsCoveredInPieces(t *testing.T) {
	w := partitiontest.New(t).Start()
	p := w.Create("a")
	for range 6 {
		if _, err := partitiontest.Append(p, string(make([]byte, 700<<10))); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Store.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	size := p.Size()
	w.Kill()
	cutFile(t, logFile(w, "a", 0), 0)
	w.Start()
	if p = w.Partition("a"); p.High() != 6 || p.Size() != size {
		t.Fatalf("high watermark %d, %d bytes, want 6 and %d", p.High(), p.Size(), size)
	}
	raw, err := os.ReadFile(logFile(w, "a", 0))
	if err != nil {
		t.Fatal(err)
	}
	for len(raw) > 0 {
		b, rest, err := record.Next(raw)
		if err != nil || len(b) > 1<<20+100 || !b.Control() {
			t.Fatalf("filler of %d bytes, control %v, %v", len(b), b.Control(), err)
		}
		raw = rest
	}
}

func TestAScrubFindsWhatHasRottedBeforeAnybodyReadsIt(t *testing.T) {
	w := partitiontest.New(t)
	w.Topic.SegmentBytes = 300
	w.Start()
	p := w.Create("a")
	partitiontest.Fill(t, p, 20)
	round := func() (total int64) {
		for {
			n, err := p.Scrub(100)
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				return total
			}
			total += n
		}
	}
	if n := round(); n < p.Size()-600 || n >= p.Size() || p.Gaps() != 0 {
		t.Errorf("%d of %d bytes checked, %d gaps", n, p.Size(), p.Gaps())
	}
	flip(t, logFile(w, "a", 0), 69+65)
	round()
	if p.Gaps() != 1 {
		t.Errorf("%d gaps after a bit has flipped, want 1", p.Gaps())
	}
	if got := values(t, p); len(got) != 19 {
		t.Errorf("served %v", got)
	}
}

func TestOffsetsAreFoundByTimeBesideDamage(t *testing.T) {
	w := partitiontest.New(t).Start()
	p := w.Create("a")
	partitiontest.Fill(t, p, 10)
	if err := w.Store.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	size := p.Size()
	w.Kill()
	flip(t, logFile(w, "a", 0), size-3)
	flip(t, logFile(w, "a", 0), size/2)
	if err := w.TryStart(); err != nil {
		t.Fatal(err)
	}
	p = w.Partition("a")
	offset, ts, _, err := p.ListOffset(1)
	if err != nil || offset != 0 || ts != 1_790_000_000_000 {
		t.Errorf("first by time: offset %d, %d, %v", offset, ts, err)
	}
	if offset, _, _, err := p.ListOffset(partition.MaxTime); err != nil || offset != 0 {
		t.Errorf("largest time: offset %d, %v", offset, err)
	}
}

// A reader that was given the last batch as good, and finds that it has rotted since, is not given it again.
func TestARottenTailIsGivenOutOnce(t *testing.T) {
	w := partitiontest.New(t).Start()
	p := w.Create("a")
	partitiontest.Fill(t, p, 10)
	if got := values(t, p); len(got) != 10 {
		t.Fatalf("served %v", got)
	}
	flip(t, logFile(w, "a", 0), p.Size()-3)
	if _, err := partitiontest.Values(p); !errors.Is(err, segment.ErrDamaged) {
		t.Fatalf("read what has rotted: %v", err)
	}
	if got := values(t, p); len(got) != 9 || p.Gaps() != 1 {
		t.Errorf("served %v, %d gaps", got, p.Gaps())
	}
}

// during is a disk on which something happens while a checkpoint's slot is made durable. It counts the slots.
type during struct {
	disk.OS
	slots atomic.Int32
	do    func()
}

func (d *during) OpenFile(name string, flag int, perm os.FileMode) (disk.File, error) {
	f, err := d.OS.OpenFile(name, flag, perm)
	return &slotFile{f, d}, err
}

type slotFile struct {
	disk.File
	d *during
}

func (f *slotFile) Sync(point disk.Point) error {
	if point == "checkpoint.slot" {
		f.d.slots.Add(1)
		if f.d.do != nil {
			f.d.do()
		}
	}
	return f.File.Sync(point)
}

// A checkpoint takes a while, and until it is over every commit asks for it: one is made, not two, each of which would
// write the last block of every segment again.
func TestCommitsDuringACheckpointAskForNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := &during{}
		w := partitiontest.New(t)
		w.FS, w.Real = fs, true
		w.Config.JournalBytesMax = 2 << 20 // far above the step the journal counts in
		w.Start()
		p := w.Create("a")
		synctest.Wait()
		begun := fs.slots.Load()
		fs.do = func() {
			fs.do = nil
			for range 5 {
				if _, err := partitiontest.Append(p, "meanwhile"); err != nil {
					t.Error(err)
				}
			}
		}
		lap := func() int32 {
			for range 50 {
				if _, err := partitiontest.Append(p, strings.Repeat("x", 50_000)); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
			}
			return fs.slots.Load() - begun
		}
		if n := lap(); n != 1 {
			t.Errorf("%d checkpoints of one lap, want 1", n)
		}
		if n := lap(); n != 2 {
			t.Errorf("%d checkpoints of two laps, want 2", n)
		}
	})
}

// What was committed is checkpointed by a slow timer, however little it was; a board to which nothing happens writes
// nothing.
func TestASlowTimerMakesACheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := &during{}
		w := partitiontest.New(t)
		w.FS, w.Real = fs, true
		w.Config.CheckpointIntervalMS = 60_000
		w.Start()
		p := w.Create("a")
		synctest.Wait()
		begun, now := fs.slots.Load(), w.Clock.UnixMilli()
		for _, step := range []struct {
			appends int
			after   int64 // ms
			want    int32
		}{{1, 59_999, 0}, {0, 60_000, 1}, {0, 600_000, 1}, {1, 600_000, 2}, {0, 700_000, 2}} {
			partitiontest.Fill(t, p, step.appends)
			synctest.Wait()
			w.Store.Tick(now + step.after)
			synctest.Wait()
			if n := fs.slots.Load() - begun; n != step.want {
				t.Errorf("%d checkpoints after %d ms, want %d", n, step.after, step.want)
			}
		}
	})
}
