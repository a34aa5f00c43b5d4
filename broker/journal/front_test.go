package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSmallCommitsAreInTheFrontWithoutASync(t *testing.T) {
	dir, m := filepath.Join(t.TempDir(), "journal"), newMemory(8<<10)
	j := run(t, fronted(dir, m), Mark{})
	put(t, j, "a", "b", "c")
	if s := j.Stats(); s.Syncs != 0 || s.Fronted != 3 || s.Commits != 3 || s.FrameBytes != 0 || s.Drains != 0 {
		t.Errorf("%+v", s)
	}
	if j.Mark().Index != 3 {
		t.Errorf("mark %+v", j.Mark())
	}
	cut, kept := crash(t, dir, m)
	if r := expectFront(t, fronted(cut, kept), Mark{}, "a", "b", "c"); r.Fronted != 3 || r.Frames != 3 || r.Last != 3 || r.Missing != 0 {
		t.Errorf("%+v", r)
	}
}

func TestWhatDoesNotFitTakesTheFrontAlongInOneWrite(t *testing.T) {
	dir, m := filepath.Join(t.TempDir(), "journal"), newMemory(2<<10)
	j := run(t, fronted(dir, m), Mark{})
	large := strings.Repeat("x", 3<<10)
	put(t, j, "a", "b", large)
	if s := j.Stats(); s.Syncs != 1 || s.Fronted != 2 || s.Drains != 1 || s.FrontBytes != 0 {
		t.Errorf("%+v", s)
	}
	put(t, j, "c")
	pointed := record(9, strings.Repeat("y", 70<<10))
	pointed.Sync = func() error { return nil }
	if err := stage(j, pointed); err != nil { // its frame is small, but it points
		t.Fatal(err)
	}
	if s := j.Stats(); s.Syncs != 2 || s.Fronted != 3 || s.Drains != 2 {
		t.Errorf("%+v", s)
	}
	put(t, j, "d")
	cut, kept := crash(t, dir, m)
	r := expectFront(t, fronted(cut, kept), Mark{}, "a", "b", large, "c", "", "d")
	if r.Fronted != 1 {
		t.Errorf("%+v", r)
	}
}

func TestTheFrontIsDrained(t *testing.T) {
	for _, tt := range []struct {
		name string
		call func(t *testing.T, j *Journal, tick chan time.Time)
	}{
		{"after the interval", func(t *testing.T, j *Journal, tick chan time.Time) {
			tick <- time.Time{}
			put(t, j, "behind the drain") // a commit of its own: the drain is over
		}},
		{"when it is half full", func(t *testing.T, j *Journal, _ chan time.Time) {
			put(t, j, strings.Repeat("x", 1000), "behind the drain")
		}},
		{"before files are dropped", func(t *testing.T, j *Journal, _ chan time.Time) {
			if err := j.Drop(j.Mark()); err != nil {
				t.Fatal(err)
			}
		}},
		{"when the journal is closed", func(t *testing.T, j *Journal, _ chan time.Time) { shut(t, j) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, m := filepath.Join(t.TempDir(), "journal"), newMemory(2<<10)
			o := fronted(dir, m)
			tick := make(chan time.Time)
			o.After = func(time.Duration) <-chan time.Time { return tick }
			j := run(t, o, Mark{})
			put(t, j, "a", "b")
			if got := scanned(t, dir, Mark{}); len(got) != 0 {
				t.Errorf("in the wal already: %q", got)
			}
			tt.call(t, j, tick)
			if got := scanned(t, dir, Mark{}); len(got) < 2 || got[0] != "a" || got[1] != "b" {
				t.Errorf("in the wal: %q", short(got))
			}
			if s := j.Stats(); s.Drains != 1 || s.Rolls == 0 && s.Syncs != 1 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// A drain over a segment's end is one write on either side of it, and a cut between them loses nothing.
func TestADrainOverTheEndsOfSegments(t *testing.T) {
	dir, m := filepath.Join(t.TempDir(), "journal"), newMemory(64<<10)
	o := fronted(dir, m)
	o.SegmentBytes = 2000
	j := run(t, o, Mark{})
	var want []string
	for i := range 30 {
		want = append(want, fmt.Sprintf("%0300d", i))
	}
	put(t, j, want...)
	before, kept := crash(t, dir, m)
	if err := j.Drop(Mark{j.id, 1}); err != nil {
		t.Fatal(err)
	}
	if s := j.Stats(); s.Rolls < 5 || s.Drains != 1 || s.FrontBytes != 0 {
		t.Errorf("%+v", s)
	}
	_, drained := crash(t, dir, m)
	put(t, j, "last")
	cut, now := crash(t, dir, m)
	expectFront(t, Options{Dir: cut, Front: now, After: never, SegmentBytes: 2000}, Mark{}, append(slices.Clone(want), "last")...)
	// The wal as it was, and the front after: what it says was drained is missing, and is told.
	j = open(t, Options{Dir: before, Front: m.clone(), After: never}, Mark{})
	if _, r := texts(t, j); r.Missing != 30 || r.Fronted != 1 || r.First != 31 {
		t.Errorf("%+v", r)
	}
	shut(t, j)
	other := filepath.Join(t.TempDir(), "journal")
	if err := os.CopyFS(other, os.DirFS(before)); err != nil {
		t.Fatal(err)
	}
	j = run(t, Options{Dir: other, Front: drained, After: never}, Mark{})
	put(t, j, "first of the new ones") // it must count in the front, whose header says that 30 are drained
	if m := j.Mark(); m.Index != 31 {
		t.Errorf("goes on at %d", m.Index)
	}
	again, fronted := crash(t, other, drained)
	j = open(t, Options{Dir: again, Front: fronted, After: never}, Mark{})
	if got, r := texts(t, j); !slices.Equal(got, []string{"first of the new ones"}) || r.Missing != 30 {
		t.Errorf("%q, %+v", short(got), r)
	}
	shut(t, j)
	expectFront(t, Options{Dir: before, Front: kept, After: never}, Mark{}, want...)
}

func TestFramesThatTheWalHasAreNotTakenTwice(t *testing.T) {
	dir, m := filepath.Join(t.TempDir(), "journal"), newMemory(8<<10)
	j := run(t, fronted(dir, m), Mark{})
	put(t, j, "a", "b")
	undrained := m.clone() // as if the power had gone between the wal's sync and the header
	put(t, j, strings.Repeat("x", 9<<10))
	cut, _ := crash(t, dir, m)
	if r := expectFront(t, fronted(cut, undrained), Mark{}, "a", "b", strings.Repeat("x", 9<<10)); r.Fronted != 0 {
		t.Errorf("%+v", r)
	}
}

func TestACheckpointCoversFramesInTheFront(t *testing.T) {
	dir, m := filepath.Join(t.TempDir(), "journal"), newMemory(8<<10)
	j := run(t, fronted(dir, m), Mark{})
	put(t, j, "a", "b")
	mark := j.Mark()
	put(t, j, "c")
	cut, kept := crash(t, dir, m) // the checkpoint's slot is durable, nothing was dropped
	if r := expectFront(t, fronted(cut, kept), mark, "c"); r.Fronted != 1 || r.First != 3 || r.Missing != 0 {
		t.Errorf("%+v", r)
	}
}

func TestATornFrameInTheFrontNeverWasAcknowledged(t *testing.T) {
	dir, m := filepath.Join(t.TempDir(), "journal"), newMemory(8<<10)
	j := run(t, fronted(dir, m), Mark{})
	put(t, j, "a", "b")
	whole := m.clone()
	put(t, j, "torn")
	size := len(m.bytes)
	first := 0
	for first < size && whole.bytes[first] == m.bytes[first] {
		first++
	}
	cut, after := crash(t, dir, m)
	for n := range 90 { // every length of it
		torn := whole.clone()
		copy(torn.bytes[first:first+n], after.bytes[first:])
		if whole := string(torn.bytes) == string(after.bytes); whole {
			break
		}
		j := open(t, fronted(cut, torn), Mark{})
		if got, r := texts(t, j); !slices.Equal(got, []string{"a", "b"}) || r.Missing != 0 {
			t.Errorf("with %d bytes of it: %q, %+v", n, got, r)
		}
		shut(t, j)
	}
}

func TestDamageInTheFrontIsAGap(t *testing.T) {
	dir, m := filepath.Join(t.TempDir(), "journal"), newMemory(8<<10)
	j := run(t, fronted(dir, m), Mark{})
	put(t, j, "a", "bad", "c", "d")
	cut, kept := crash(t, dir, m)
	at := strings.Index(string(kept.bytes), "bad")
	kept.bytes[at] ^= 1
	o := fronted(cut, kept)
	j = open(t, o, Mark{})
	got, r := texts(t, j)
	if !slices.Equal(got, []string{"a", "c", "d"}) || !slices.Equal(r.Gaps, []Gap{{2, 2}}) {
		t.Errorf("%q, %+v", got, r)
	}
	start(t, j)
	put(t, j, "e")
	shut(t, j)
	j = open(t, Options{Dir: cut}, Mark{})
	if got, r := texts(t, j); !slices.Equal(got, []string{"a", "c", "d", "e"}) || !slices.Equal(r.Gaps, []Gap{{2, 2}}) {
		t.Errorf("from the wal: %q, %+v", got, r)
	}
	shut(t, j)
}

func TestAFrontThatDoesNotFitIsRefused(t *testing.T) {
	dir, m := filepath.Join(t.TempDir(), "journal"), newMemory(8<<10)
	j := run(t, fronted(dir, m), Mark{})
	put(t, j, "a", "b")
	cut, kept := crash(t, dir, m)

	other := newMemory(8 << 10)
	j = run(t, fronted(filepath.Join(t.TempDir(), "journal"), other), Mark{})
	put(t, j, "theirs")
	dead, newer := kept.clone(), kept.clone()
	dead.dead = errBus
	for i := range 2 {
		h := newer.bytes[i*frontHeaderStep:][:frontHeaderSize]
		h[8]++ // the version
		binary.LittleEndian.PutUint32(h[4:], checksum(h[8:]))
	}

	for _, tt := range []struct {
		name string
		o    Options
		is   []error
	}{
		{"none", Options{Dir: cut}, []error{ErrFront}},
		{"one that could not be opened", Options{Dir: cut, FrontError: errBus}, []error{ErrFront, errBus}},
		{"one that cannot be read", fronted(cut, dead), []error{ErrFront, errBus}},
		{"an empty one", fronted(cut, newMemory(8<<10)), []error{ErrFront}},
		{"another journal's", fronted(cut, other.clone()), []error{ErrFront, ErrForeign}},
		{"one of a newer build", fronted(cut, newer), []error{ErrFront}},
		{"a new directory, and a front with frames", fronted(filepath.Join(t.TempDir(), "new"), kept.clone()), []error{ErrFront, ErrForeign}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.o.PackMin = MaxFrame; tt.o.Dir == cut {
				tt.o.Dir = filepath.Join(t.TempDir(), "journal")
				if err := os.CopyFS(tt.o.Dir, os.DirFS(cut)); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 { // and nothing is touched by it
				_, err := Open(tt.o, Mark{})
				for _, want := range tt.is {
					if !errors.Is(err, want) {
						t.Fatalf("got %v, want %v", err, want)
					}
				}
			}
			tt.o.ForgetFront = true
			expectFront(t, tt.o, Mark{})
		})
	}
	expectFront(t, fronted(cut, kept), Mark{}, "a", "b")
}

// Where nothing can be lost a front that is new, silent or half set up keeps no journal from starting.
func TestAFrontWithNothingInItIsNoObstacle(t *testing.T) {
	dead := newMemory(8 << 10)
	dead.dead = errBus
	dir, _ := fill(t, 2, 10, 1<<20)
	for name, o := range map[string]Options{
		"could not be opened": {FrontError: errBus},
		"cannot be read":      {Front: dead, After: never},
		"new":                 {Front: newMemory(8 << 10), After: never},
	} {
		t.Run(name, func(t *testing.T) {
			o.Dir = filepath.Join(t.TempDir(), "journal")
			if err := os.CopyFS(o.Dir, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			expectFront(t, o, Mark{}, "0000000000", "0000000001")
		})
	}
	t.Run("half set up", func(t *testing.T) {
		m := newMemory(8 << 10)
		f := front{mem: m, id: 7, size: 1000, blank: true}
		if err := f.begin(0); err != nil {
			t.Fatal(err)
		}
		expectFront(t, fronted(filepath.Join(t.TempDir(), "journal"), m), Mark{})
	})
}

func TestAFrontThatFailsAtRunTime(t *testing.T) {
	dir, m := filepath.Join(t.TempDir(), "journal"), newMemory(8<<10)
	j := run(t, fronted(dir, m), Mark{})
	put(t, j, "a", "b")
	m.setFail(func() (int, error) { return 20, errBus })
	put(t, j, "c")
	if s := j.Stats(); s.Syncs != 1 || s.Fronted != 2 || s.FrontFailed != 1 || s.FrontBytes != 0 || s.Drains != 1 {
		t.Errorf("%+v", s)
	}
	m.setFail(nil) // it has come back: nobody believes it
	writes := m.writes
	put(t, j, "d")
	if s := j.Stats(); s.Syncs != 2 || s.Fronted != 2 || m.writes != writes {
		t.Errorf("%+v", s)
	}
	cut, kept := crash(t, dir, m)
	again := filepath.Join(t.TempDir(), "journal")
	if err := os.CopyFS(again, os.DirFS(cut)); err != nil {
		t.Fatal(err)
	}
	expectFront(t, fronted(cut, kept), Mark{}, "a", "b", "c", "d") // it is asked again at the next start
	expect(t, again, Mark{}, "a", "b", "c", "d")                   // and not needed for it
}

// Whether the front has a frame that it failed on nobody can tell; when the disk fails too, the answer says so.
func TestACommitThatFailsInBothIsInDoubt(t *testing.T) {
	fs := &faultFS{}
	dir, m := filepath.Join(t.TempDir(), "journal"), newMemory(8<<10)
	o := fronted(dir, m)
	o.FS = fs
	j := run(t, o, Mark{})
	put(t, j, "a")
	m.setFail(func() (int, error) { return 1 << 20, errBus }) // all of it was written
	fs.setFail(failAt("sync "+string(syncCommit), 1))
	var cut string
	var kept *memory
	answer := make(chan error, 1)
	j.Stage([]Entry{record(1, "doubtful")}, func(err error) {
		cut, kept = crash(t, dir, m) // here: what is held is drained right after
		answer <- err
	})
	if err := <-answer; !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrWrite) {
		t.Errorf("got %v", err)
	}
	putAgain(t, j, "b")
	cut2, kept2 := crash(t, dir, m)
	expectFront(t, fronted(cut, kept), Mark{}, "a", "doubtful")
	expectFront(t, fronted(cut2, kept2), Mark{}, "a", "b")
}

func TestADrainThatFailsIsNobodysFailure(t *testing.T) {
	fs := &faultFS{}
	dir, m := filepath.Join(t.TempDir(), "journal"), newMemory(8<<10)
	o := fronted(dir, m)
	o.FS = fs
	j := run(t, o, Mark{})
	put(t, j, "a", "b")
	fs.setFail(failAt("sync "+string(syncCommit), 1))
	if err := j.Drop(j.Mark()); !errors.Is(err, errDisk) {
		t.Errorf("Drop: %v", err)
	}
	put(t, j, "c")
	cut, kept := crash(t, dir, m)
	if err := j.Drop(Mark{j.id, 2}); err != nil {
		t.Errorf("Drop again: %v", err)
	}
	if s := j.Stats(); s.Failures != 1 || s.Fronted != 3 || s.Drains != 1 {
		t.Errorf("%+v", s)
	}
	put(t, j, "d")
	expectFront(t, fronted(cut, kept), Mark{}, "a", "b", "c")
	cut, kept = crash(t, dir, m)
	expectFront(t, fronted(cut, kept), Mark{}, "a", "b", "c", "d")
}

// A commit that fails in the wal takes nothing with it that was acknowledged from the front, and does not come back.
func TestALargeCommitThatFailsLeavesTheFront(t *testing.T) {
	fs := &faultFS{}
	dir, m := filepath.Join(t.TempDir(), "journal"), newMemory(2<<10)
	o := fronted(dir, m)
	o.FS = fs
	j := run(t, o, Mark{})
	put(t, j, "a", "b")
	fs.setFail(failAt("sync "+string(syncCommit), 1))
	if err := stage(j, record(1, strings.Repeat("x", 3<<10))); !errors.Is(err, ErrWrite) {
		t.Errorf("got %v", err)
	}
	putAgain(t, j, "c")
	cut, kept := crash(t, dir, m)
	expectFront(t, fronted(cut, kept), Mark{}, "a", "b", "c")
}

func TestAJournalIsClosedWhileItsDiskFails(t *testing.T) {
	fs := &faultFS{}
	dir, m := filepath.Join(t.TempDir(), "journal"), newMemory(8<<10)
	o := fronted(dir, m)
	o.FS = fs
	j := open(t, o, Mark{})
	if err := j.Start(); err != nil {
		t.Fatal(err)
	}
	put(t, j, "a", "b")
	fs.setFail(failAt("sync "+string(syncCommit), 0))
	shut(t, j)
	if s := j.Stats(); s.Drains != 0 || s.Failures != 1 {
		t.Errorf("%+v", s)
	}
	expectFront(t, fronted(dir, m), Mark{}, "a", "b")
}

func TestNonsenseInAFrontIsNoFrame(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 3))
	dir, m := filepath.Join(t.TempDir(), "journal"), newMemory(4<<10)
	j := run(t, fronted(dir, m), Mark{})
	put(t, j, "a", strings.Repeat("b", 500), "c")
	cut, kept := crash(t, dir, m)
	want := []string{"a", strings.Repeat("b", 500), "c"}
	for range 500 {
		bad := kept.clone()
		for range 1 + rng.IntN(4) {
			at := frontFrames + rng.IntN(700)
			for i := range 1 + rng.IntN(40) {
				bad.bytes[at+i] = byte(rng.Uint32())
			}
		}
		j, err := Open(fronted(cut, bad), Mark{})
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if _, err := j.Replay(func(f Frame) error {
			for _, e := range f.Entries {
				if e.Kind != Append || string(e.Bytes) != want[f.Index-1] {
					return fmt.Errorf("frame %d is %q", f.Index, e.Bytes)
				}
			}
			return nil
		}); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		shut(t, j)
	}
	for range 500 { // the headers too
		bad := kept.clone()
		bad.bytes[rng.IntN(frontFrames)] ^= byte(1 + rng.IntN(255))
		j, err := Open(fronted(cut, bad), Mark{})
		if err != nil {
			if !errors.Is(err, ErrFront) {
				t.Fatalf("seed %d: %v", seed, err)
			}
			continue
		}
		if got, _ := texts(t, j); !slices.Equal(got, want) {
			t.Fatalf("seed %d: %q", seed, short(got))
		}
		shut(t, j)
	}
}

func TestCommitsFromTheFrontAllocateNothing(t *testing.T) {
	m := newMemory(256 << 10)
	j := run(t, fronted(filepath.Join(t.TempDir(), "journal"), m), Mark{})
	group := []Entry{record(0, strings.Repeat("x", 300))}
	answer := make(chan error, 1)
	done := func(err error) { answer <- err }
	one := func() {
		j.Stage(group, done)
		if err := <-answer; err != nil {
			t.Error(err)
		}
	}
	for range 400 {
		one()
	}
	if n := testing.AllocsPerRun(300, one); n > 0 {
		t.Errorf("%v allocations a commit", n)
	}
}
