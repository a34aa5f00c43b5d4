package partition_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
	"millrace/broker/journal"
	"millrace/broker/partition"
	"millrace/broker/partition/partitiontest"
	"millrace/broker/record"
)

// A process may end between the journal's sync and that of the segment it points into. The next one finds the bytes in
// the page cache, serves them, and must not have believed that they are on the disk.
func TestWhatIsServedAfterARestartSurvivesAPowerCut(t *testing.T) {
	for _, failed := range []bool{false, true} {
		t.Run(fmt.Sprintf("sync failed %v", failed), func(t *testing.T) {
			fs := disktest.New(disk.OS{})
			w := partitiontest.New(t)
			w.FS = fs
			if err := fs.Record(w.Dir); err != nil {
				t.Fatal(err)
			}
			w.Start()
			p := w.Create("a")
			partitiontest.Fill(t, p, 3)
			if err := w.Store.Checkpoint(); err != nil {
				t.Fatal(err)
			}
			at := p.Size()
			w.Journal.Hold()
			p.Append(partitiontest.Batch("3"), partition.AppendOptions{Epoch: -1}, func(partition.AppendResult) {})
			raw, err := os.ReadFile(logFile(w, "a", 0))
			if err != nil {
				t.Fatal(err)
			}
			if failed { // the kernel takes the pages for clean from now on
				f, err := fs.OpenFile(logFile(w, "a", 0), os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				fs.FailSync("test", io.ErrShortWrite, 1)
				if f.Sync("test") == nil {
					t.Fatal("the sync did not fail")
				}
				if err := f.Close(); err != nil {
					t.Fatal(err)
				}
			}
			w.Kill()
			w.Frames.Add(journal.Entry{
				Kind: journal.Pointer, Topic: partitiontest.ID("a"), Position: at, Base: 3,
				Length: int32(len(raw)) - int32(at), CRC: record.Castagnoli(raw[at:]),
			})
			w.Start()
			if got := values(t, w.Partition("a")); !slices.Equal(got, want(0, 4)) {
				t.Fatalf("served after the restart: %v", got)
			}
			w.Kill()
			for seed := range uint64(20) {
				w.Dir, w.FS = filepath.Join(t.TempDir(), "cut"), disk.OS{}
				if err := fs.Cut(rand.New(rand.NewPCG(seed, 0)), w.Dir); err != nil {
					t.Fatal(err)
				}
				w.Start()
				if got := values(t, w.Partition("a")); !slices.Equal(got, want(0, 4)) {
					t.Fatalf("seed %d: %v were served before the power cut, %v after it: %v", seed, want(0, 4), got, w.Report.Lost)
				}
				w.Kill()
			}
			w.Start()
		})
	}
}

// afterAFailedSync is a partition of five records whose segment failed to sync: the journal alone has them for certain.
func afterAFailedSync(t *testing.T) (*disktest.FS, *partitiontest.World, *partition.Partition) {
	t.Helper()
	fs := disktest.New(disk.OS{})
	w := partitiontest.New(t)
	w.FS = fs
	w.Start()
	p := w.Create("a")
	partitiontest.Fill(t, p, 5)
	fs.FailSync("segment.log", io.ErrShortWrite, 1)
	if err := w.Store.Checkpoint(); !errors.Is(err, io.ErrShortWrite) {
		t.Fatalf("the failed sync was answered with %v", err)
	}
	return fs, w, p
}

func TestAFailedRewriteLosesNothing(t *testing.T) {
	fs, w, p := afterAFailedSync(t)
	writes, full := 0, true
	fs.FailWrite(func(name string) bool {
		if filepath.Ext(name) == ".log" {
			writes++
		}
		return full && writes > 2
	}, io.ErrNoProgress, -1)
	for range 5 { // the last of them at the latest meets the fault, whatever is written at a time
		if err := w.Store.Checkpoint(); err == nil {
			break
		}
		fs.FailSync("segment.log", io.ErrShortWrite, 1)
	}
	full = false
	fs.FailSync("segment.log", nil, 0)
	if got := values(t, p); !slices.Equal(got, want(0, 5)) {
		t.Errorf("served after the failed rewrite: %v", got)
	}
	partitiontest.Fill(t, p, 2)
	if err := w.Store.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	w.Restart()
	if got := values(t, w.Partition("a")); !slices.Equal(got, want(0, 7)) {
		t.Errorf("after restart: %v, %v", got, w.Report.Lost)
	}
}

// A pointed commit cannot wait for the next checkpoint to mend what a failed sync has left in doubt.
func TestAPointedCommitMendsAFailedSync(t *testing.T) {
	_, w, p := afterAFailedSync(t)
	w.Journal.InlineMax = 1
	partitiontest.Fill(t, p, 2)
	if err := w.Store.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	w.Restart()
	if got := values(t, w.Partition("a")); !slices.Equal(got, want(0, 7)) {
		t.Errorf("after restart: %v, %v", got, w.Report.Lost)
	}
}
