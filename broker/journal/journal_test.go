package journal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestRecordsComeBackInOrderAfterReopen(t *testing.T) {
	dir, want := fill(t, 50, 100, 1<<20)
	r := expect(t, dir, Mark{}, want...)
	if r.Frames != 50 || r.Missing != 0 || r.TornBytes != 0 || r.DamagedBytes != 0 {
		t.Errorf("report %+v", r)
	}
}

func TestIndexesGoOnAcrossReopens(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	for i := range 5 {
		j := run(t, Options{Dir: dir}, Mark{})
		put(t, j, "a", "b")
		if got := j.Mark().Index; got != uint64(2*i+2) {
			t.Fatalf("run %d ends at frame %d", i, got)
		}
		shut(t, j)
	}
	all := frames(t, dir)
	for i, f := range all {
		if f.Index != uint64(i+1) || f.Last != (i == 9) {
			t.Errorf("frame %d: index %d, last %v", i, f.Index, f.Last)
		}
	}
	if len(all) != 10 {
		t.Errorf("%d frames", len(all))
	}
}

func TestEveryGroupIsAnsweredOnceInStagingOrder(t *testing.T) {
	j := run(t, Options{Dir: t.TempDir()}, Mark{})
	var got []int
	var all sync.WaitGroup
	for i := range 2000 {
		all.Add(1)
		j.Stage([]Entry{record(int64(i), "x")}, func(err error) {
			if err != nil {
				t.Errorf("group %d: %v", i, err)
			}
			got = append(got, i)
			all.Done()
		})
	}
	all.Wait()
	if !slices.IsSorted(got) || len(got) != 2000 {
		t.Errorf("%d answers, sorted %v", len(got), slices.IsSorted(got))
	}
	if s := j.Stats(); s.Commits > 1000 || s.Groups != 2000 {
		t.Errorf("%d commits for %d groups: nothing was grouped", s.Commits, s.Groups)
	}
}

func TestSyncsAreCountedByTheirTime(t *testing.T) {
	var c counters
	for _, took := range []time.Duration{0, time.Millisecond, time.Millisecond + 1, 7 * time.Millisecond, 5 * time.Second, time.Minute} {
		c.synced(took)
	}
	s := c.stats()
	if want := [len(SyncBounds) + 1]int64{0: 2, 1: 1, 3: 1, 9: 1, 10: 1}; s.SyncTimes != want || s.Syncs != 6 || s.SyncTime != 65*time.Second+9*time.Millisecond+1 {
		t.Errorf("%v, %d syncs of %v", s.SyncTimes, s.Syncs, s.SyncTime)
	}
	if !slices.IsSorted(SyncBounds[:]) {
		t.Errorf("bounds %v", SyncBounds)
	}
}

func TestManyStagersKeepTheirOrder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	j := run(t, Options{Dir: dir, SegmentBytes: 64 << 10}, Mark{})
	const stagers, each = 8, 300
	var all sync.WaitGroup
	for s := range stagers {
		all.Go(func() {
			var answered atomic.Int64
			var wait sync.WaitGroup
			for i := range each {
				e := record(int64(i), fmt.Sprintf("%d:%04d", s, i))
				e.Topic = topic(byte(s))
				wait.Add(1)
				j.Stage([]Entry{e}, func(err error) {
					if n := answered.Add(1); err != nil || n != int64(i+1) {
						t.Errorf("stager %d: answer %d is for group %d: %v", s, n, i+1, err)
					}
					wait.Done()
				})
				if i%7 == 0 {
					wait.Wait()
				}
			}
			wait.Wait()
		})
	}
	all.Wait()
	shut(t, j)
	j = open(t, Options{Dir: dir}, Mark{})
	got, _ := texts(t, j)
	shut(t, j)
	seen := map[string]int{}
	for _, text := range got {
		s, _, _ := strings.Cut(text, ":")
		if want := fmt.Sprintf("%s:%04d", s, seen[s]); text != want {
			t.Fatalf("replayed %q where %q belongs", text, want)
		}
		seen[s]++
	}
	for s, n := range seen {
		if n != each {
			t.Errorf("stager %s: %d of %d", s, n, each)
		}
	}
	if len(seen) != stagers {
		t.Errorf("%d stagers replayed", len(seen))
	}
}

// pointed is an append of size bytes that may travel as a pointer; syncs counts its segment's syncs.
func pointed(partition int32, segment int64, size int, syncs *atomic.Int32) Entry {
	return Entry{
		Kind: Append, Topic: topic(9), Partition: partition, Segment: segment, Length: int32(size),
		Bytes: bytes.Repeat([]byte{byte(partition + 1)}, size),
		Sync:  func() error { syncs.Add(1); return nil },
	}
}

// gather stages groups so that all of them meet in one commit.
func gather(t *testing.T, j *Journal, groups ...[]Entry) {
	t.Helper()
	done := make(chan error, len(groups))
	j.Defer(func() {
		for _, g := range groups {
			j.Stage(g, func(err error) { done <- err })
		}
	})
	for range groups {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

func TestLargeSharesTravelAsPointersAndSmallOnesInline(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	j := run(t, Options{Dir: dir, InlineMax: 1000}, Mark{})
	var small, large, two atomic.Int32
	gather(
		t, j,
		[]Entry{pointed(0, 0, 999, &small)},
		[]Entry{pointed(1, 0, 500, &large)},                          // a share of two groups, together too large
		[]Entry{pointed(1, 0, 500, &large)},                          // the same segment
		[]Entry{pointed(2, 0, 800, &two), pointed(2, 64, 800, &two)}, // two segments of one partition
	)
	if s := j.Stats(); s.Commits != 1 || s.InlineBytes != 999 || s.PointedBytes != 2600 {
		t.Errorf("stats %+v", s)
	}
	if small.Load() != 0 || large.Load() != 1 || two.Load() != 2 {
		t.Errorf("syncs: small %d, large %d, two %d; want 0, 1, 2", small.Load(), large.Load(), two.Load())
	}
	shut(t, j)
	j = open(t, Options{Dir: dir}, Mark{})
	var got []Entry
	if _, err := j.Replay(func(f Frame) error {
		if !f.Last {
			t.Error("the only frame is not the last")
		}
		got = slices.Clone(f.Entries)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	shut(t, j)
	if len(got) != 5 || got[0].Kind != Append {
		t.Fatalf("entries %+v", got)
	}
	for _, e := range got[1:] {
		if want := checksum(bytes.Repeat([]byte{byte(e.Partition + 1)}, int(e.Length))); e.Kind != Pointer || e.CRC != want || e.Bytes != nil {
			t.Errorf("%v of partition %d has CRC %08x, want %08x", e.Kind, e.Partition, e.CRC, want)
		}
	}
}

func TestCommitIsOverOnlyWhenThePointedSegmentIsSynced(t *testing.T) {
	fs := &faultFS{}
	j := run(t, Options{Dir: t.TempDir(), FS: fs, InlineMax: 1}, Mark{})
	before := fs.synced(syncCommit)
	entered, release := make(chan struct{}), make(chan struct{})
	e := record(0, "large")
	e.Sync = func() error { close(entered); <-release; return nil }
	answer := make(chan error, 1)
	j.Stage([]Entry{e}, func(err error) { answer <- err })
	<-entered
	for fs.synced(syncCommit) == before { // side by side: the journal's own sync does not wait for the segment's
		select {
		case <-answer:
			t.Fatal("answered before the segment was synced")
		default:
		}
	}
	close(release)
	if err := <-answer; err != nil {
		t.Fatal(err)
	}
}

func TestFrameHoldsAtMostItsMaximumOrOneGroup(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	j := run(t, Options{Dir: dir, FrameMax: 4000}, Mark{})
	var groups [][]Entry
	for i := range 20 {
		groups = append(groups, []Entry{record(int64(i), strings.Repeat("x", 700))})
	}
	var syncs atomic.Int32
	var wide []Entry // one group of many small shares, together more than a frame: all of them are pointed at
	for p := range 20 {
		wide = append(wide, pointed(int32(p), 0, 700, &syncs))
	}
	groups = append(groups, wide, []Entry{record(20, "last")})
	gather(t, j, groups...)
	if syncs.Load() != 20 {
		t.Errorf("%d segment syncs of the wide group", syncs.Load())
	}
	shut(t, j)
	all := frames(t, dir)
	if len(all) < 6 {
		t.Errorf("%d frames", len(all))
	}
	for _, f := range all {
		if f.Size > 4000 {
			t.Errorf("frame %d has %d bytes", f.Index, f.Size)
		}
	}
	j = open(t, Options{Dir: dir}, Mark{})
	defer shut(t, j)
	entries := 0
	if _, err := j.Replay(func(f Frame) error { entries += len(f.Entries); return nil }); err != nil || entries != 41 {
		t.Errorf("%d entries, %v", entries, err)
	}
}

func TestGroupThatCannotBeAFrameIsRefusedWithWhatFollowsIt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	j := run(t, Options{Dir: dir, FrameMax: 4000}, Mark{})
	done := make(chan error, 4)
	j.Defer(func() {
		for _, g := range [][]Entry{
			{record(0, "before")},
			{record(1, strings.Repeat("x", 5000))}, // no Sync: it cannot be pointed at
			{record(2, "behind")},                  // its partition has counted the one before
			{{Kind: Pointer}},
		} {
			j.Stage(g, func(err error) { done <- err })
		}
	})
	if err := <-done; err != nil {
		t.Errorf("the group before: %v", err)
	}
	for range 3 {
		if err := <-done; !errors.Is(err, ErrInvalid) {
			t.Errorf("answer %v, want ErrInvalid", err)
		}
	}
	putAgain(t, j, "after") // the last answer is out before the queue has drained
	shut(t, j)
	expect(t, dir, Mark{}, "before", "after")
}

func TestQueueIsBounded(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir()}, Mark{})
	done := make(chan error, 100)
	big := make([]byte, 1<<20)
	for range 80 {
		j.Stage([]Entry{{Kind: Append, Bytes: big, Sync: func() error { return nil }}}, func(err error) { done <- err })
	}
	if q := j.Stats().Queued; q > MaxQueue {
		t.Errorf("%d bytes wait", q)
	}
	start(t, j)
	full := 0
	for i := range 80 {
		if err := <-done; errors.Is(err, ErrFull) {
			full++
		} else if err != nil || full > 0 {
			t.Fatalf("group %d: %v after %d refusals", i, err, full)
		}
	}
	if full == 0 {
		t.Error("80 MiB were taken")
	}
	put(t, j, "again")
	if q := j.Stats().Queued; q != 0 {
		t.Errorf("%d bytes wait in an empty queue", q)
	}
}

func TestSealsRunOnceAtTheStartOfTheCommitTheyAreStagedIn(t *testing.T) {
	j := run(t, Options{Dir: t.TempDir()}, Mark{})
	ran := 0
	done := make(chan error, 2)
	j.Defer(func() {
		ran++
		j.Stage([]Entry{record(0, "sealed")}, func(err error) { done <- err })
		j.Defer(func() { j.Stage(nil, func(err error) { done <- err }) }) // belongs to the next commit
	})
	for range 2 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if s := j.Stats(); ran != 1 || s.Commits != 1 || s.Groups != 2 {
		t.Errorf("ran %d times; %d commits of %d groups (the barrier needs no frame)", ran, s.Commits, s.Groups)
	}
}

func TestCommitIntervalGathersCompany(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		j := open(t, Options{Dir: dir, CommitInterval: time.Second}, Mark{})
		if err := j.Start(); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		put(t, j, "first") // nothing was committed for a second: at once
		if d := time.Since(begin); d != 0 {
			t.Errorf("the first commit waited %v", d)
		}
		done := make(chan error, 10)
		for i := range 10 {
			j.Stage([]Entry{record(int64(i), "x")}, func(err error) { done <- err })
			time.Sleep(50 * time.Millisecond)
		}
		for range 10 {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(begin); d != time.Second {
			t.Errorf("the second commit came after %v", d)
		}
		if n := j.Stats().Commits; n != 2 {
			t.Errorf("%d commits", n)
		}
		// A full frame does not wait, a shorter interval counts at once, and Close commits what is there.
		big := []Entry{record(0, strings.Repeat("x", 1<<19))}
		j.Stage(big, func(err error) { done <- err })
		j.Stage(big, func(err error) { done <- err })
		<-done
		if d := time.Since(begin); d != time.Second {
			t.Errorf("a full frame waited until %v", d)
		}
		<-done // the second group is the next commit's
		j.Stage(big[:1], func(err error) { done <- err })
		time.Sleep(100 * time.Millisecond)
		j.SetInterval(0)
		<-done
		if d := time.Since(begin); d != 2*time.Second+100*time.Millisecond {
			t.Errorf("the interval was set to 0 and the commit came after %v", d)
		}
		j.SetInterval(time.Hour)
		j.Stage(big, func(err error) { done <- err })
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Errorf("staged before Close: %v", err)
		}
	})
}

func TestEmptyJournalAfterACheckpointGoesOnAfterTheMark(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	after := Mark{ID: 77, Index: 999}
	j := run(t, Options{Dir: dir}, after)
	put(t, j, "a")
	if m := j.Mark(); m != (Mark{77, 1000}) {
		t.Errorf("mark %+v", m)
	}
	shut(t, j)
	expect(t, dir, after, "a")
}

func TestJournalShorterThanItsCheckpointDoesNotReuseIndexes(t *testing.T) {
	dir, _ := fill(t, 5, 50, 1<<20)
	id := frames(t, dir)[0].ID
	j := run(t, Options{Dir: dir}, Mark{id, 20})
	put(t, j, "a")
	if m := j.Mark(); m.Index != 21 {
		t.Errorf("mark %+v", m)
	}
	shut(t, j)
	r := expect(t, dir, Mark{id, 20}, "a")
	if r.Missing != 0 {
		t.Errorf("frames the checkpoint covers are reported missing: %+v", r)
	}
}

func TestSwappedJournalIsRefused(t *testing.T) {
	dir, _ := fill(t, 3, 50, 1<<20)
	before := frames(t, dir)
	if _, err := Open(Options{Dir: dir}, Mark{ID: before[0].ID + 1, Index: 2}); !errors.Is(err, ErrForeign) {
		t.Fatalf("Open: %v, want ErrForeign", err)
	}
	if _, err := Open(Options{Dir: dir}, Mark{ID: before[0].ID + 1, Index: 1000}); !errors.Is(err, ErrForeign) {
		t.Fatalf("Open: %v, want ErrForeign", err)
	}
	if after := frames(t, dir); !slices.EqualFunc(before, after, func(a, b FrameInfo) bool { return a.Index == b.Index && a.Offset == b.Offset }) {
		t.Error("the refused journal was changed")
	}
}

func TestCallsOutOfTurnAreRefused(t *testing.T) {
	j := run(t, Options{Dir: t.TempDir()}, Mark{})
	if _, err := j.Replay(func(Frame) error { return nil }); !errors.Is(err, ErrState) {
		t.Errorf("Replay after Start: %v", err)
	}
	if err := j.Start(); !errors.Is(err, ErrState) {
		t.Errorf("second Start: %v", err)
	}
	shut(t, j)
	if err := j.Close(); !errors.Is(err, ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
	if err := stage(j, record(0, "late")); !errors.Is(err, ErrClosed) {
		t.Errorf("Stage after Close: %v", err)
	}
	ran := make(chan struct{})
	j.Defer(func() { close(ran) })
	<-ran
	if _, err := Open(Options{Dir: t.TempDir(), FrameMax: MaxFrame + 1}, Mark{}); !errors.Is(err, ErrInvalid) {
		t.Errorf("Open with a frame over MaxFrame: %v", err)
	}
}

func TestCloseBeforeStartAnswersWhatWasStaged(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir()}, Mark{})
	var got error
	j.Stage([]Entry{record(0, "x")}, func(err error) { got = err })
	shut(t, j)
	if !errors.Is(got, ErrClosed) {
		t.Errorf("answered %v", got)
	}
}

func TestScanChangesNothing(t *testing.T) {
	dir, want := fill(t, 10, 100, 400)
	edit(t, filepath.Join(dir, segments(t, dir)[0].name), func(p []byte) []byte { return append(p, 1, 2, 3) })
	if err := os.WriteFile(filepath.Join(dir, walName(3)+".START"), nil, 0o640); err != nil {
		t.Fatal(err)
	}
	snapshot := func() (s []string) {
		names, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			p, err := os.ReadFile(filepath.Join(dir, n.Name()))
			if err != nil {
				t.Fatal(err)
			}
			s = append(s, n.Name()+string(p))
		}
		return s
	}
	before := snapshot()
	if n := len(frames(t, dir)); n != len(want) {
		t.Errorf("%d frames", n)
	}
	if !slices.Equal(before, snapshot()) {
		t.Error("Scan changed the directory")
	}
	if _, err := Scan(&faultFS{}, filepath.Join(dir, "nowhere"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Scan of no directory: %v", err)
	}
}
