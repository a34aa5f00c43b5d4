package quorum_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"millrace/broker/catalog"
	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
	"millrace/broker/quorum"
)

// watched asks before every operation that changes the disk whether it may happen.
type watched struct {
	disk.FS
	// before is told the sync point, "" for what is no sync. An error is the operation's, which then does not happen.
	before func(point disk.Point) error
}

func (w *watched) OpenFile(name string, flag int, perm os.FileMode) (disk.File, error) {
	if flag&(os.O_CREATE|os.O_TRUNC) != 0 {
		if err := w.before(""); err != nil {
			return nil, err
		}
	}
	f, err := w.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &watchedFile{f, w}, nil
}

func (w *watched) MkdirAll(name string, perm os.FileMode) error {
	if err := w.before(""); err != nil {
		return err
	}
	return w.FS.MkdirAll(name, perm)
}

func (w *watched) Rename(from, to string) error {
	if err := w.before(""); err != nil {
		return err
	}
	return w.FS.Rename(from, to)
}

func (w *watched) Remove(name string) error {
	if err := w.before(""); err != nil {
		return err
	}
	return w.FS.Remove(name)
}

func (w *watched) SyncDir(name string, point disk.Point) error {
	if err := w.before(point); err != nil {
		return err
	}
	return w.FS.SyncDir(name, point)
}

type watchedFile struct {
	disk.File
	w *watched
}

func (f *watchedFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.w.before(""); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f *watchedFile) Truncate(size int64) error {
	if err := f.w.before(""); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *watchedFile) Sync(point disk.Point) error {
	if err := f.w.before(point); err != nil {
		return err
	}
	return f.File.Sync(point)
}

var errKilled = errors.New("the process is killed")

// mortal is a process on a disk: after n operations it does nothing any more.
func mortal(fs disk.FS, n int64) *watched {
	var done atomic.Int64
	return &watched{fs, func(disk.Point) error {
		if done.Add(1) > n {
			return errKilled
		}
		return nil
	}}
}

// TestKilledThenCut kills the process at a random operation and starts another, which finds what the page cache holds,
// and cuts the power some operations later: what the second process has shown must be on the disk by then.
func TestKilledThenCut(t *testing.T) {
	rng := random(t)
	worlds := *cuts / 4
	if testing.Short() {
		worlds /= 2
	}
	for range worlds {
		b := newBoard(t, rng, "")
		for range 4 {
			for range 1 + rng.IntN(2) {
				n := int64(1 + rng.IntN(30))
				if rng.IntN(3) == 0 {
					n += int64(rng.IntN(400))
				}
				if err := b.work(mortal(b.fs, n)); err != nil {
					t.Fatalf("cut %d, killed after %d: %v", b.cuts, n, err)
				}
			}
			if err := b.run(int64(1 + rng.IntN(12))); err != nil {
				t.Fatalf("cut %d: %v", b.cuts, err)
			}
			if err := b.cut(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestEveryTwelfthSyncFails: a board whose card fails now and then goes on by itself, and what it confirmed is there
// after the power was cut.
func TestEveryTwelfthSyncFails(t *testing.T) {
	rng := random(t)
	b := newBoard(t, rng, "")
	for range 6 {
		var syncs atomic.Int64
		fs := &watched{b.fs, func(point disk.Point) error {
			if point != "" && syncs.Add(1)%12 == 0 {
				b.fs.FailSync(point, syscall.EIO, 1)
			}
			return nil
		}}
		b.fs.StopAt(int64(800 + rng.IntN(400)))
		before, starts := b.confirmed.Version(), 0
		for stopped := false; !stopped; starts++ {
			if err := b.work(fs); err != nil {
				t.Fatalf("cut %d: %v", b.cuts, err)
			}
			select {
			case <-b.fs.Stopped():
				stopped = true
			default:
			}
		}
		if b.confirmed.Version() < before+50 {
			t.Errorf("%d commands confirmed in %d syncs", b.confirmed.Version()-before, syncs.Load())
		}
		if starts > 3 { // a start that meets a failing sync is the service manager's to try again; a running board needs none
			t.Errorf("%d starts", starts)
		}
		if err := b.cut(); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.check(open(t, quorum.Config{Dir: filepath.Join(b.dir, "quorum")})); err != nil {
		t.Fatal(err)
	}
}

// TestCloseUnderProposals: proposals in flight get an answer, and Close comes back.
func TestCloseUnderProposals(t *testing.T) {
	for i := range int64(40) {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) { // which sees a wait without end
			q, err := quorum.Open(quorum.Config{Dir: dir, NodeID: 1})
			if err != nil {
				t.Fatal(err)
			}
			propose(t, q, register())
			var group sync.WaitGroup
			var done atomic.Int64
			enough := make(chan struct{})
			for range 8 {
				group.Go(func() {
					for {
						if _, err := q.Propose(t.Context(), catalog.AllocateProducerIDs{Broker: 1, Epoch: -1}); err != nil {
							if !errors.Is(err, quorum.ErrClosed) {
								t.Error(err)
							}
							return
						}
						if done.Add(1) == 1+i%8 {
							close(enough)
						}
					}
				})
			}
			<-enough
			shut(t, q)
			group.Wait()
			if got := q.Image().ProducerIDNext(); got != done.Load()*catalog.ProducerIDBlock {
				t.Errorf("%d blocks confirmed, the image ends at %d", done.Load(), got)
			}
		})
	}
}

// TestLimitsHoldForProposalsAtOnce: each would fit, together they do not.
func TestLimitsHoldForProposalsAtOnce(t *testing.T) {
	q := open(t, quorum.Config{Dir: t.TempDir()})
	propose(t, q, register())
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() {
			c, err := catalog.NewTopic(&catalog.Image{}, fmt.Sprint("t", i), catalog.TopicID{byte(i), 1}, 0, 0, nil)
			if err == nil {
				t.Errorf("%+v", c)
			}
			c, err = catalog.NewTopic(q.Image(), fmt.Sprint("t", i), catalog.TopicID{byte(i), 1}, 4000, 1, nil)
			if err == nil {
				_, err = q.Propose(t.Context(), c)
			}
			if err != nil && !errors.Is(err, catalog.ErrTooMany) {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if n := q.Image().Partitions(); n != catalog.MaxPartitions {
		t.Errorf("%d partitions, the limit is %d", n, catalog.MaxPartitions)
	}
}

// TestAFailedVoteCostsNoTimeout: the voter whose vote could not be saved once does not wait for raft's timeouts.
func TestAFailedVoteCostsNoTimeout(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		fs := disktest.New(disk.OS{})
		q, err := quorum.Open(quorum.Config{Dir: dir, FS: fs, NodeID: 1})
		if err != nil {
			t.Fatal(err)
		}
		propose(t, q, register())
		for failing := range 8 {
			began := time.Now()
			fs.FailSync("quorum.log", syscall.EIO, 1)
			fs.FailSync("quorum.vote", syscall.EIO, failing)
			refused := 0
			for {
				_, err := q.Propose(t.Context(), topic(failing))
				if err == nil {
					break
				}
				if refused++; !errors.Is(err, syscall.EIO) || refused > failing+1 {
					t.Fatalf("refused %d times with %d failing votes: %v", refused, failing, err)
				}
			}
			if took := time.Since(began); took != 0 {
				t.Errorf("%d failing votes cost %v", failing, took)
			}
		}
		shut(t, q)
	})
}
