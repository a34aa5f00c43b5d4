package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// hook puts a faultLog between a journal that is not started and its wal.
func hook(j *Journal, torn func() bool) {
	inner := j.c.tail.open
	j.c.tail.open = func(dir string, size int, next uint64) (walLog, error) {
		l, err := inner(dir, size, next)
		return &faultLog{l, dir, torn}, err
	}
}

// Every way a commit can fail: the group fails, the journal goes on by itself, and neither a kill at once nor a clean
// end brings the failed group back or costs an acknowledged one.
func TestFailedCommitIsCutAndTheJournalGoesOn(t *testing.T) {
	type rig struct {
		fs   *faultFS
		torn bool
		sync error
	}
	sync := func(op string) func(*rig) { return func(r *rig) { r.fs.setFail(failAt(op, 1)) } }
	for _, tt := range []struct {
		name  string
		fault func(r *rig)
		size  int // of the record that fails
	}{
		{"sync fails", sync("sync " + string(syncCommit)), 100},
		{"write of zeros ahead fails", sync("write"), 100},
		{"wal write is torn", func(r *rig) { r.torn = true }, 100},
		{"wal write is torn at a roll", func(r *rig) { r.torn = true }, 5000},
		{"directory sync after a roll fails", sync("sync " + string(syncRoll)), 5000},
		{"new file after a roll cannot be opened", sync("open"), 5000},
		{"pointed segment's sync fails", func(r *rig) { r.sync = errDisk }, 100},
		{"pointed segment's sync fails at a roll", func(r *rig) { r.sync = errDisk }, 5000},
	} {
		for _, before := range []int{0, 1, 3} { // at 0 the failed frame is the file's first
			t.Run(fmt.Sprintf("%s after %d frames", tt.name, before), func(t *testing.T) {
				r := &rig{fs: &faultFS{}}
				dir := filepath.Join(t.TempDir(), "journal")
				j := open(t, Options{Dir: dir, FS: r.fs, SegmentBytes: 4000, InlineMax: 6000}, Mark{})
				hook(j, func() bool { defer func() { r.torn = false }(); return r.torn })
				start(t, j)
				var want []string
				for i := range before {
					want = append(want, fmt.Sprintf("before %d", i))
				}
				put(t, j, want...)
				j.c.tail.zeroed = 0 // so that the next commit fills ahead again; the committer waits

				failing := make(chan error, 2)
				j.Defer(func() {
					tt.fault(r)
					group := []Entry{record(0, strings.Repeat("x", tt.size))}
					if r.sync != nil {
						e := record(0, strings.Repeat("y", 6000))
						e.Topic = topic(2)
						e.Sync = func() error { return r.sync }
						group = append(group, e)
					}
					j.Stage(group, func(err error) {
						failing <- err
						j.Stage([]Entry{record(1, "staged while it fails")}, func(err error) { failing <- err })
					})
				})
				for range 2 {
					if err := <-failing; !errors.Is(err, ErrWrite) || !errors.Is(err, errDisk) {
						t.Fatalf("answer %v", err)
					}
				}
				expect(t, kill(t, dir), Mark{}, want...)
				for i := range 5 {
					text := fmt.Sprintf("after %d", i)
					put(t, j, text)
					want = append(want, text)
				}
				if s := j.Stats(); s.Failures != 1 || s.Restarts != 1 {
					t.Errorf("stats %+v", s)
				}
				m := j.Mark()
				if m.Index != uint64(len(want)) {
					t.Errorf("mark %d after %d acknowledged frames", m.Index, len(want))
				}
				killed := kill(t, dir)
				shut(t, j)
				for _, at := range []string{killed, dir} {
					rep := expect(t, at, Mark{}, want...)
					if rep.Missing != 0 || rep.DamagedBytes != 0 {
						t.Errorf("report %+v", rep)
					}
				}
			})
		}
	}
}

// A write that failed may reach the disk all the same, after the cut's own bytes were lost in a power cut: the name of
// the next file voids it.
func TestFrameThatFailedAndReachedTheDiskIsVoid(t *testing.T) {
	fs := &faultFS{}
	dir := filepath.Join(t.TempDir(), "journal")
	j := run(t, Options{Dir: dir, FS: fs}, Mark{})
	put(t, j, "a", "b")
	fs.setFail(failAt("sync "+string(syncCommit), 1))
	if err := stage(j, record(2, "failed")); !errors.Is(err, ErrWrite) {
		t.Fatal(err)
	}
	shut(t, j)
	failed := encodeFrame(3, j.id, record(2, "failed"))
	edit(t, filepath.Join(dir, walName(1)), func(p []byte) []byte {
		return append(binary.AppendUvarint(p, uint64(len(failed))), failed...)
	})
	if r := expect(t, dir, Mark{}, "a", "b"); r.Missing != 0 {
		t.Errorf("report %+v", r)
	}
}

// A partition rolls back when its answer comes, so what it staged before that must not be taken; what it stages after
// the last of its answers must.
func TestEverythingStagedBeforeTheFallbackFails(t *testing.T) {
	fs := &faultFS{}
	j := run(t, Options{Dir: t.TempDir(), FS: fs}, Mark{})
	put(t, j, "a")
	fs.setFail(failAt("sync "+string(syncCommit), 1))
	const chain = 50
	answers := make(chan error, 2*chain)
	order := 0
	var next func(n int)
	next = func(n int) {
		j.Stage([]Entry{record(int64(n), "x")}, func(err error) {
			if n != order {
				t.Errorf("answer %d is for group %d", order, n)
			}
			order++
			if order < chain {
				next(n + 2) // two chains, so one group always waits while another is answered
			}
			answers <- err
		})
	}
	j.Defer(func() { next(0); next(1) })
	for i := range chain + 1 {
		if err := <-answers; !errors.Is(err, ErrWrite) {
			t.Fatalf("answer %d: %v", i, err)
		}
	}
	put(t, j, "b")
}

func TestJournalWithoutAFileFailsAppendsAndRecoversByItself(t *testing.T) {
	for _, op := range []string{"rename", "sync " + string(syncRestart), "sync " + string(syncCut), "truncate", "open"} {
		t.Run(op, func(t *testing.T) {
			fs := &faultFS{}
			dir := filepath.Join(t.TempDir(), "journal")
			waits, fire := make(chan time.Duration, 100), make(chan time.Time)
			j := run(t, Options{Dir: dir, FS: fs, After: func(d time.Duration) <-chan time.Time {
				waits <- d
				return fire
			}}, Mark{})
			put(t, j, "a")
			again := failAt(op, 0)
			first := failAt("sync "+string(syncCommit), 1)
			fs.setFail(func(o, name string) error { return errors.Join(first(o, name), again(o, name)) })
			if err := stage(j, record(1, "b")); !errors.Is(err, ErrUnavailable) {
				t.Fatalf("answer %v", err)
			}
			sealed := make(chan error, 1)
			j.Defer(func() { j.Stage([]Entry{record(1, "sealed")}, func(err error) { sealed <- err }) })
			if err := <-sealed; !errors.Is(err, ErrUnavailable) {
				t.Fatalf("a seal's group: %v", err)
			}
			var last time.Duration
			for range 10 { // the wait grows, and has an end
				d := <-waits
				if d < last || d > lastBackoff {
					t.Fatalf("waits %v after %v", d, last)
				}
				last = d
				fire <- time.Time{}
				if err := stage(j, record(1, "b")); !errors.Is(err, ErrUnavailable) {
					t.Fatalf("answer %v", err)
				}
			}
			if last != lastBackoff {
				t.Errorf("the longest wait is %v", last)
			}
			expect(t, kill(t, dir), Mark{}, "a")
			fs.setFail(nil)
			<-waits
			fire <- time.Time{}
			for { // it is back as soon as the committer gets there
				err := stage(j, record(1, "c"))
				if err == nil {
					break
				}
				if !errors.Is(err, ErrUnavailable) {
					t.Fatal(err)
				}
			}
			killed := kill(t, dir)
			shut(t, j)
			expect(t, killed, Mark{}, "a", "c")
			if r := expect(t, dir, Mark{}, "a", "c"); r.Missing != 0 {
				t.Errorf("report %+v", r)
			}
		})
	}
}

func TestCloseEndsAJournalThatHasNoFile(t *testing.T) {
	fs := &faultFS{}
	dir := filepath.Join(t.TempDir(), "journal")
	j := run(t, Options{Dir: dir, FS: fs, After: func(time.Duration) <-chan time.Time { return nil }}, Mark{})
	put(t, j, "a")
	fs.setFail(func(op, name string) error {
		return errors.Join(failAt("sync "+string(syncCommit), 0)(op, name), failAt("rename", 0)(op, name))
	})
	if err := stage(j, record(1, "b")); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("answer %v", err)
	}
	shut(t, j)
	if err := stage(j, record(1, "late")); !errors.Is(err, ErrClosed) {
		t.Errorf("staged after Close: %v", err)
	}
	// Its error answer was ErrUnavailable: the cut could not be made, so the group may be there, but nothing after it.
	j = open(t, Options{Dir: dir}, Mark{})
	defer shut(t, j)
	if got, _ := texts(t, j); !slices.Equal(got, []string{"a"}) && !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("replayed %q", got)
	}
}

// The space for zeros may be what failed: the file after a failure is not filled ahead, so a nearly full disk still
// takes small commits.
func TestFileAfterAFailureIsNotFilledAhead(t *testing.T) {
	fs := &faultFS{}
	j := run(t, Options{Dir: t.TempDir(), FS: fs, SegmentBytes: 2000}, Mark{})
	fs.setFail(failAt("write", 0))
	if err := stage(j, record(0, "x")); !errors.Is(err, ErrWrite) {
		t.Fatalf("answer %v", err)
	}
	for stage(j) != nil { // what comes while the failure is answered fails, too
		runtime.Gosched()
	}
	put(t, j, "a", "b", "c") // although zeros still cannot be written
	fs.setFail(nil)
	z := j.Stats().ZeroBytes
	put(t, j, strings.Repeat("x", 2000), "in the next file")
	if j.Stats().ZeroBytes == z {
		t.Error("the file after the next roll is not filled ahead either")
	}
}

func TestOpenAndStartTellEveryFailure(t *testing.T) {
	dir, want := fill(t, 20, 300, 2000)
	if err := os.WriteFile(filepath.Join(dir, walName(3)+".START"), nil, 0o640); err != nil {
		t.Fatal(err)
	}
	id := frames(t, dir)[0].ID
	for _, op := range []string{"sync " + string(syncParent), "open", "remove", "rename"} {
		fs := &faultFS{fail: failAt(op, 0)}
		if j, err := Open(Options{Dir: dir, FS: fs}, Mark{id, 8}); !errors.Is(err, errDisk) {
			t.Errorf("%s fails and Open answers %v, %v", op, j, err)
		}
	}
	var left []string
	for i, f := range frames(t, dir) {
		if f.Index > 8 {
			left = append(left, want[len(want)-len(frames(t, dir))+i])
		}
	}
	expect(t, dir, Mark{id, 8}, left...)
}
