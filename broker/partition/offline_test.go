package partition_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
	"millrace/broker/partition"
	"millrace/broker/partition/partitiontest"
)

// faults fails operations on the files of partition a-0.
type faults struct {
	seen atomic.Int64 // operations so far
	from atomic.Int64 // the first that fails, from 1; 0 for none
	upto atomic.Int64 // the last
}

func (f *faults) fault(op, name string) error {
	if !strings.Contains(name, string(os.PathSeparator)+"a-0") {
		return nil
	}
	if n := f.seen.Add(1); f.from.Load() > 0 && n >= f.from.Load() && n <= f.upto.Load() {
		return fmt.Errorf("%s %s: %w", op, filepath.Base(name), syscall.EIO)
	}
	return nil
}

// fail has operations fail, from the n-th from now on.
func (f *faults) fail(n, times int64) {
	f.seen.Store(0)
	f.upto.Store(n + times - 1)
	f.from.Store(n)
}

func (f *faults) heal() { f.from.Store(0) }

// stopped is a board that was killed: topic a has everything that recovery has to look at, b is another topic.
func stopped(t *testing.T) (w *partitiontest.World, f *faults, back chan *partition.Partition, wantA, wantB []string) {
	t.Helper()
	w, f, back = partitiontest.New(t), &faults{}, make(chan *partition.Partition, 8)
	w.FS = &disktest.Failing{FS: disk.OS{}, Fault: f.fault}
	w.Config.OnOnline = func(p *partition.Partition) { back <- p }
	w.Topic.SegmentBytes = 2000
	w.Start()
	w.Journal.InlineMax = 120
	a, b := w.Create("a"), w.Create("b")
	produce := func(sequence int32) {
		raw := partitiontest.Batch(fmt.Sprint(a.End()))
		raw.SetProducer(7, 0, sequence, false)
		if _, err := partitiontest.AppendBatch(a, raw); err != nil {
			t.Fatal(err)
		}
	}
	partitiontest.Fill(t, a, 60)
	produce(0)
	partitiontest.Fill(t, b, 5)
	if err := w.Store.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	low := make(chan error, 1)
	a.DeleteRecords(10, func(_ int64, err error) { low <- err })
	if err := <-low; err != nil {
		t.Fatal(err)
	}
	partitiontest.Fill(t, a, 9)
	if _, err := a.Truncate(65); err != nil {
		t.Fatal(err)
	}
	for range 3 { // pointed
		raw := partitiontest.Batch(fmt.Sprint(a.End()), strings.Repeat("x", 200))
		if _, err := partitiontest.AppendBatch(a, raw); err != nil {
			t.Fatal(err)
		}
	}
	partitiontest.Fill(t, a, 12)
	produce(1)
	partitiontest.Fill(t, b, 5)
	wantA, wantB = values(t, a), values(t, b)
	w.Kill()
	return w, f, back, wantA, wantB
}

// whole fails the test unless both topics have what they had, and a can be appended to and knows its producer.
func whole(t *testing.T, w *partitiontest.World, wantA, wantB []string) (nowA []string) {
	t.Helper()
	a, b := w.Partition("a"), w.Partition("b")
	if got := values(t, a); !slices.Equal(got, wantA) {
		t.Fatalf("a has\n%v, want\n%v\nlost: %v", got, wantA, w.Report.Lost)
	}
	if got := values(t, b); !slices.Equal(got, wantB) {
		t.Fatalf("b has\n%v, want\n%v", got, wantB)
	}
	if len(w.Report.Lost) > 0 {
		t.Fatalf("said to be lost: %v", w.Report.Lost)
	}
	raw := partitiontest.Batch("again")
	raw.SetProducer(7, 0, 1, false)
	if _, err := partitiontest.AppendBatch(a, raw); err != nil || a.End() != a.High() {
		t.Fatalf("a duplicate: %v", err)
	}
	if got := values(t, a); !slices.Equal(got, wantA) {
		t.Fatalf("a duplicate was appended: %v", got[len(wantA):])
	}
	partitiontest.Fill(t, a, 2)
	if err := w.Store.Check(); err != nil {
		t.Fatal(err)
	}
	return values(t, a)
}

// tryStart starts the board; a failure in what all partitions share ends a start, and the next one comes.
func tryStart(t *testing.T, w *partitiontest.World, f *faults) {
	t.Helper()
	if err := w.TryStart(); err != nil {
		if !errors.Is(err, syscall.EIO) {
			t.Fatalf("open: %v", err)
		}
		w.Journal.Crash()
		f.heal()
		w.Start()
	}
}

func TestOneFailureInRecoveryLosesNothing(t *testing.T) {
	fired := int64(0)
	for n := int64(1); ; n++ {
		w, f, _, wantA, wantB := stopped(t)
		f.fail(n, 1)
		tryStart(t, w, f)
		if f.seen.Load() < n {
			w.Kill()
			break
		}
		fired++
		if len(w.Report.Offline) > 0 {
			t.Fatalf("operation %d failed once: %v", n, w.Report.Offline)
		}
		now := whole(t, w, wantA, wantB)
		w.Restart()
		if got := values(t, w.Partition("a")); !slices.Equal(got, now) {
			t.Fatalf("operation %d failed once, after another start a has\n%v, want\n%v", n, got, now)
		}
		w.Stop()
	}
	if fired < 20 {
		t.Errorf("%d operations on the files of a partition in a recovery", fired)
	}
}

func TestAPartitionThatCannotBeOpenedComesBackWhole(t *testing.T) {
	offline := 0
	for n := int64(1); ; n++ {
		w, f, back, wantA, wantB := stopped(t)
		f.fail(n, 1<<40)
		tryStart(t, w, f)
		if f.seen.Load() < n {
			w.Kill()
			break
		}
		for range 3 { // lives with the failing disk
			f.fail(1, 1<<40)
			if w.Store.Get(partitiontest.ID("a"), 0) != nil {
				break // the disk failed too late to keep it from opening
			}
			err := w.Store.Offline(partitiontest.ID("a"), 0)
			if !errors.Is(err, partition.ErrOffline) || !errors.Is(err, syscall.EIO) {
				t.Fatalf("operation %d on fails: Offline = %v", n, err)
			}
			if _, err := w.Store.Create(partition.Topic{ID: partitiontest.ID("a"), Name: "a"}, 0, w.Topic); !errors.Is(err, partition.ErrOffline) {
				t.Fatalf("Create of a partition that is offline: %v", err)
			}
			offline++
			partitiontest.Fill(t, w.Partition("b"), 3)
			for range 2 {
				if err := w.Store.Checkpoint(); err != nil {
					t.Fatal(err)
				}
			}
			if n := w.Frames.Len(); n != 0 {
				t.Fatalf("the journal keeps %d frames for a partition that is offline", n)
			}
			wantB = values(t, w.Partition("b"))
			w.Kill()
			if err := w.TryStart(); err != nil {
				t.Fatal(err)
			}
		}
		f.heal()
		if w.Store.Get(partitiontest.ID("a"), 0) == nil {
			w.Clock = w.Clock.Add(time.Hour)
			w.Store.Tick(w.Clock.UnixMilli())
			if p := <-back; p.Topic() != "a" {
				t.Fatalf("%s came back", p)
			}
		}
		now := whole(t, w, wantA, wantB)
		if left, err := filepath.Glob(filepath.Join(w.Dir, "offline", "*")); err != nil || len(left) > 0 && offline == 0 {
			t.Fatalf("left: %v, %v", left, err)
		}
		w.Restart()
		if got := values(t, w.Partition("a")); !slices.Equal(got, now) {
			t.Fatalf("operation %d on fails; after it came back and another start a has\n%v, want\n%v", n, got, now)
		}
		w.Stop()
	}
	if offline < 20 {
		t.Errorf("offline in %d lives", offline)
	}
}

func TestATopicThatIsOfflineCanBeDeleted(t *testing.T) {
	w, f, _, _, wantB := stopped(t)
	f.fail(1, 1<<40)
	if err := w.TryStart(); err != nil {
		t.Fatal(err)
	}
	if got := w.Store.OfflinePartitions(); len(got) != 1 || got[0].Topic.ID != partitiontest.ID("a") {
		t.Fatalf("offline: %v", got)
	}
	f.heal()
	if err := w.Store.DeleteTopic(partitiontest.ID("a")); err != nil {
		t.Fatal(err)
	}
	delete(w.Catalog, partitiontest.ID("a"))
	for range 2 {
		if err := w.Store.Offline(partitiontest.ID("a"), 0); err != nil {
			t.Fatal(err)
		}
		if left, err := filepath.Glob(filepath.Join(w.Dir, "*", "*a-0*")); err != nil || len(left) > 0 {
			t.Fatalf("left: %v, %v", left, err)
		}
		if left, err := filepath.Glob(filepath.Join(w.Dir, "offline", "*")); err != nil || len(left) > 0 {
			t.Fatalf("left: %v, %v", left, err)
		}
		if got := values(t, w.Partition("b")); !slices.Equal(got, wantB) {
			t.Fatalf("b has %v, want %v", got, wantB)
		}
		w.Restart()
	}
}

// What was kept outside the journal is damaged: that costs what it held and nothing else.
func TestDamagedEntriesOfAnOfflinePartitionAreNamed(t *testing.T) {
	for _, heads := range []int64{0, 1, 2} { // one of the two heads, both, an entry
		t.Run(fmt.Sprint(heads, " heads"), func(t *testing.T) {
			w, f, back, wantA, wantB := stopped(t)
			f.fail(1, 1<<40)
			if err := w.TryStart(); err != nil {
				t.Fatal(err)
			}
			if err := w.Store.Checkpoint(); err != nil {
				t.Fatal(err)
			}
			w.Kill()
			kept, err := filepath.Glob(filepath.Join(w.Dir, "offline", "*.entries"))
			if err != nil || len(kept) != 1 {
				t.Fatal(kept, err)
			}
			info, err := os.Stat(kept[0])
			if err != nil {
				t.Fatal(err)
			}
			if heads == 0 {
				flip(t, kept[0], info.Size()-10)
			}
			for i := range heads {
				flip(t, kept[0], 30+i*89)
			}
			f.heal()
			if err := w.TryStart(); err != nil {
				t.Fatal(err)
			}
			close(back)
			if (len(w.Report.Lost) > 0) != (heads != 1) {
				t.Errorf("said to be lost: %v", w.Report.Lost)
			}
			got := values(t, w.Partition("a"))
			if heads == 2 { // with the entries it is forgotten that records were deleted, and where it was cut
				got = got[10:]
			}
			if len(got) < 50 || len(got) > len(wantA) || !slices.Equal(got, wantA[:len(got)]) {
				t.Errorf("a has\n%v, not a beginning of\n%v", got, wantA)
			}
			if heads < 2 && len(got) < len(wantA)-1 || heads == 1 && len(got) < len(wantA) {
				t.Errorf("a has\n%v, of\n%v", got, wantA)
			}
			if got := values(t, w.Partition("b")); !slices.Equal(got, wantB) {
				t.Errorf("b has %v, want %v", got, wantB)
			}
		})
	}
}
