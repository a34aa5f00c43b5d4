package quorum_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"millrace/broker/catalog"
	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
	"millrace/broker/quorum"
)

// withSnapshots makes a catalog with two snapshots and entries behind them, and stops it.
func withSnapshots(t *testing.T, dir string) *catalog.Image {
	t.Helper()
	q := open(t, quorum.Config{Dir: dir})
	propose(t, q, register())
	first := filepath.Join(dir, "log", fmt.Sprintf("%020d", 1))
	for i := range 1000 {
		if i < 20 {
			propose(t, q, topic(i))
		}
		propose(t, q, bulk(topic(0).ID, 1000))
		if _, err := os.Stat(first); errors.Is(err, os.ErrNotExist) {
			break // the older of two has let it go
		}
	}
	for i := range 20 {
		propose(t, q, topic(20+i))
	}
	shut(t, q)
	if found := snapshots(t, dir); len(found) != 2 {
		t.Fatalf("snapshots %v", found)
	}
	return q.Image()
}

// snapshots lists the snapshot files in dir, oldest first.
func snapshots(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*.snapshot"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestDamagedSnapshots: one of the two costs nothing, whatever is wrong with it.
func TestDamagedSnapshots(t *testing.T) {
	origin := filepath.Join(t.TempDir(), "origin")
	live := withSnapshots(t, origin)
	edits := map[string]func(b []byte) []byte{
		"a bit flipped":    func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"truncated":        func(b []byte) []byte { return b[:len(b)/3] },
		"emptied":          func(b []byte) []byte { return nil },
		"zeroed":           func(b []byte) []byte { clear(b); return b },
		"its end zeroed":   func(b []byte) []byte { clear(b[len(b)/2:]); return b },
		"garbage appended": func(b []byte) []byte { return append(b, 1, 2, 3) },
		"missing":          nil,
	}
	for name, edit := range edits {
		for which := range 3 { // the older, the newer, both
			dir := filepath.Join(t.TempDir(), "quorum")
			if err := os.CopyFS(dir, os.DirFS(origin)); err != nil {
				t.Fatal(err)
			}
			for i, file := range snapshots(t, dir) {
				if which != 2 && i != which {
					continue
				}
				err := os.Remove(file)
				if edit != nil && err == nil {
					var b []byte
					if b, err = os.ReadFile(filepath.Join(origin, filepath.Base(file))); err == nil {
						err = os.WriteFile(file, edit(b), 0o600)
					}
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			q := open(t, quorum.Config{Dir: dir})
			r := q.Report()
			what := fmt.Sprintf("%s, snapshot %d: %+v", name, which, r)
			switch {
			case which == 2 && (len(r.Damage) == 0 || q.Image().Equal(live)):
				t.Errorf("%s: the log begins behind the older snapshot, and nothing is missed", what)
			case which < 2 && !q.Image().Equal(live):
				t.Errorf("%s: version %d, want %d", what, q.Image().Version(), live.Version())
			case which < 2 && (len(r.Damage) == 0) != (edit == nil):
				t.Errorf("%s: damage", what)
			}
			// Whatever it was, it goes on and comes back.
			propose(t, q, register())
			after := q.Image()
			shut(t, q)
			if q = open(t, quorum.Config{Dir: dir}); !q.Image().Equal(after) || len(q.Report().Damage) > 0 {
				t.Errorf("%s: second start has version %d, want %d, and reports %+v", what, q.Image().Version(), after.Version(), q.Report())
			}
			shut(t, q)
		}
	}
}

// TestDamagedSnapshotsDoNotGather: those of the last start that found any are kept.
func TestDamagedSnapshotsDoNotGather(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "quorum")
	withSnapshots(t, dir)
	for range 4 {
		for _, name := range snapshots(t, dir) {
			if err := os.Truncate(name, 10); err != nil {
				t.Fatal(err)
			}
		}
		q := open(t, quorum.Config{Dir: dir})
		propose(t, q, register())
		propose(t, q, topic(900))
		for range 40 {
			propose(t, q, bulk(topic(900).ID, 4000))
		}
		propose(t, q, catalog.DeleteTopic{Topic: topic(900).ID})
		shut(t, q)
		if aside, err := filepath.Glob(filepath.Join(dir, "*.snapshot.damaged")); err != nil || len(aside) == 0 || len(aside) > 2 {
			t.Errorf("set aside are %v, %v", aside, err)
		}
	}
}

// TestALogThatEndsBeforeItsSnapshot: the snapshot holds, and what may have been behind it is called lost.
func TestALogThatEndsBeforeItsSnapshot(t *testing.T) {
	origin := filepath.Join(t.TempDir(), "origin")
	live := withSnapshots(t, origin)
	for name, damage := range map[string]func(log string) error{
		"missing": os.RemoveAll,
		"emptied": func(log string) error { return errors.Join(os.RemoveAll(log), os.Mkdir(log, 0o750)) },
		"only its first file left": func(log string) error {
			files, err := os.ReadDir(log)
			if err != nil {
				return err
			}
			for _, f := range files[1:] {
				err = errors.Join(err, os.Remove(filepath.Join(log, f.Name())))
			}
			return err
		},
	} {
		dir := filepath.Join(t.TempDir(), "quorum")
		if err := os.CopyFS(dir, os.DirFS(origin)); err != nil {
			t.Fatal(err)
		}
		if err := damage(filepath.Join(dir, "log")); err != nil {
			t.Fatal(err)
		}
		c, err := quorum.Check(disk.OS{}, dir)
		if err != nil || len(c.Lost) != 1 {
			t.Errorf("%s: check finds %+v, %v", name, c, err)
		}
		q := open(t, quorum.Config{Dir: dir})
		r := q.Report()
		if r.Lost || len(r.Damage) != 1 || !strings.Contains(r.Damage[0], "before the snapshot") {
			t.Errorf("%s: %+v", name, r)
		}
		if v := q.Image().Version(); v == 0 || v >= live.Version() || !q.Image().Equal(c.Image) {
			t.Errorf("%s: version %d of %d, check says %d", name, v, live.Version(), c.Image.Version())
		}
		propose(t, q, topic(999))
		after := q.Image()
		shut(t, q)
		if q = open(t, quorum.Config{Dir: dir}); !q.Image().Equal(after) || len(q.Report().Damage) > 0 {
			t.Errorf("%s: second start has version %d, want %d, and reports %+v", name, q.Image().Version(), after.Version(), q.Report())
		}
		shut(t, q)
	}
}

// TestAFailingSnapshot is tried again, not with every command, leaves nothing behind, and ends as soon as the disk takes it.
func TestAFailingSnapshot(t *testing.T) {
	for name, fail := range map[string]func(*disktest.FS, *bool) disk.FS{
		"sync": func(fs *disktest.FS, failing *bool) disk.FS {
			fs.FailSync("quorum.snapshot", syscall.EIO, -1)
			return fs
		},
		"write": func(fs *disktest.FS, failing *bool) disk.FS {
			fs.FailWrite(func(name string) bool { return *failing && strings.Contains(name, ".snapshot") }, syscall.ENOSPC, -1)
			return fs
		},
		"rename": func(fs *disktest.FS, failing *bool) disk.FS { return renameless{fs, failing} },
	} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			base, failing := disktest.New(disk.OS{}), true
			q, err := quorum.Open(quorum.Config{Dir: dir, FS: fail(base, &failing), NodeID: 1})
			if err != nil {
				t.Fatal(err)
			}
			propose(t, q, register())
			propose(t, q, topic(0))
			for range 34 {
				propose(t, q, bulk(topic(0).ID, 4000))
			}
			synctest.Wait()
			for range 200 {
				propose(t, q, register())
				synctest.Wait() // a try that is due is made
			}
			if n := base.Synced()["quorum.snapshot"]; name != "write" && (n < 1 || n > 3) {
				t.Errorf("%s: tried %d times in 150 KB of commands", name, n)
			}
			if left, err := filepath.Glob(filepath.Join(dir, "*.snapshot*")); err != nil || len(left) > 0 {
				t.Errorf("%s: left %v, %v", name, left, err)
			}
			failing = false
			base.FailSync("quorum.snapshot", nil, 0)
			for range 5 {
				propose(t, q, bulk(topic(0).ID, 4000))
			}
			synctest.Wait()
			if found := snapshots(t, dir); len(found) != 1 {
				t.Errorf("%s: snapshots %v", name, found)
			}
			shut(t, q)
		})
	}
}

// renameless is a disk on which a rename fails while failing is set.
type renameless struct {
	disk.FS
	failing *bool
}

func (r renameless) Rename(from, to string) error {
	if *r.failing {
		return syscall.EIO
	}
	return r.FS.Rename(from, to)
}

// TestASnapshotThatIsGone: somebody removed the older one of a running board, which goes on dropping its log.
func TestASnapshotThatIsGone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "quorum")
	withSnapshots(t, dir)
	q := open(t, quorum.Config{Dir: dir})
	before := snapshots(t, dir)
	if err := os.Remove(before[0]); err != nil {
		t.Fatal(err)
	}
	for range 400 {
		propose(t, q, bulk(topic(0).ID, 4000))
	}
	live := q.Image()
	shut(t, q)
	if after := snapshots(t, dir); len(after) != 2 || slices.Contains(before, after[0]) {
		t.Errorf("snapshots %v, before %v", after, before)
	}
	if size := logSize(t, dir); size > 500<<10 {
		t.Errorf("1.6 MB of commands left a log of %d bytes", size)
	}
	if q = open(t, quorum.Config{Dir: dir}); !q.Image().Equal(live) {
		t.Errorf("version %d, want %d", q.Image().Version(), live.Version())
	}
}

var commands = flag.Int("quorum.commands", 10_000, "commands of TestTheLogStaysBounded")

// TestTheLogStaysBounded: neither the log nor the heap nor the goroutines grow with the number of commands.
func TestTheLogStaysBounded(t *testing.T) {
	dir := t.TempDir()
	fs := disktest.New(disk.OS{})
	fs.Skip("quorum.log")
	q := open(t, quorum.Config{Dir: dir, FS: fs})
	propose(t, q, register())
	for i := range 200 {
		propose(t, q, topic(i))
	}
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before, goroutines, most := heap(), runtime.NumGoroutine(), int64(0)
	for i := range *commands {
		id := topic(i % 200).ID
		propose(t, q, []catalog.Command{
			catalog.AllocateProducerIDs{Broker: 1, Epoch: -1},
			catalog.AlterTopicConfig{Topic: id, Ops: []catalog.ConfigOp{{Name: "retention.ms", Value: fmt.Sprint(i)}}},
			bulk(id, 100),
		}[i%3])
		if i%100 == 0 {
			most = max(most, logSize(t, dir))
		}
	}
	grown := heap() - before
	t.Logf("%d commands: log at most %d bytes, heap %d and then %+d bytes, %d snapshots", *commands, most, before, grown, fs.Synced()["quorum.snapshot"])
	if most > 512<<10 || grown > 1<<20 || runtime.NumGoroutine() > goroutines+2 {
		t.Errorf("%d goroutines, before %d", runtime.NumGoroutine(), goroutines)
	}
	live := q.Image()
	shut(t, q)
	if q = open(t, quorum.Config{Dir: dir}); !q.Image().Equal(live) {
		t.Errorf("version %d, want %d", q.Image().Version(), live.Version())
	}
}

// TestOneSnapshotAtATime: what is applied while one is written asks for no other.
func TestOneSnapshotAtATime(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		base, written := disktest.New(disk.OS{}), make(chan struct{})
		fs := &watched{base, func(point disk.Point) error {
			if point == "quorum.snapshot" {
				<-written
			}
			return nil
		}}
		q, err := quorum.Open(quorum.Config{Dir: dir, FS: fs, NodeID: 1})
		if err != nil {
			t.Fatal(err)
		}
		propose(t, q, register())
		propose(t, q, topic(0))
		for range 34 {
			propose(t, q, bulk(topic(0).ID, 4000))
		}
		synctest.Wait()
		propose(t, q, topic(1))
		close(written)
		synctest.Wait()
		if n := base.Synced()["quorum.snapshot"]; n != 1 {
			t.Errorf("%d snapshots of 140 KB of commands", n)
		}
		shut(t, q)
	})
}
