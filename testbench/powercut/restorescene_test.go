package powercut

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"millrace/broker"
	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
	"millrace/broker/partition"
	"millrace/broker/record"
	"millrace/platform/config"
)

// backedUp is a backup of a board with one record, and who that board was.
func backedUp(dir string) (archive broker.Archive, was broker.Meta, err error) {
	b, err := broker.Open(context.Background(), broker.Config{Settings: alone(dir)})
	if err != nil {
		return nil, was, err
	}
	was = b.Meta()
	list, err := b.Ensure(context.Background(), "kept")
	if err == nil {
		done := make(chan error, 1)
		list[0].AppendRecords([]record.Record{{Value: []byte("kept")}}, partition.AppendOptions{Epoch: -1}, func(r partition.AppendResult) { done <- r.Err })
		err = <-done
	}
	if err := errors.Join(err, b.Close()); err != nil {
		return nil, was, err
	}
	var file bytes.Buffer
	w := tar.NewWriter(&file)
	_, err = broker.Backup(context.Background(), broker.Config{Settings: alone(dir)}, broker.BackupOptions{All: true}, w)
	return func() (*tar.Reader, io.Closer, error) {
		return tar.NewReader(bytes.NewReader(file.Bytes())), io.NopCloser(nil), nil
	}, was, errors.Join(err, w.Close())
}

func alone(dir string) *config.Config {
	s := config.Default()
	s.Broker.LogDirs, s.HTTP.Listener = dir, ""
	s.Broker.Listeners, s.MQTT.Listeners = []string{"PLAINTEXT://127.0.0.1:0"}, nil
	return s
}

// restored: a backup was restored, in every other world where a restore had been cut short before. Wherever the power goes
// there is nothing, or what no board starts on and the next restore makes whole, or the whole board; and the latter once the
// restore has said so.
func restored(dir string, seed uint64, skip disk.Point) (cuts int, err error) {
	return restoredUpTo(dir, seed, skip, 0)
}

// A restore that was moving things into place is cut short, and so is the next, at each of the changes by which it does away
// with them: what is left must not be taken for somebody else's.
func TestARestoreAfterOneThatWasCutShort(t *testing.T) {
	for stop := int64(1); stop <= 30; stop++ {
		if _, err := restoredUpTo(scratch(t), overAnother, "", stop); err != nil {
			t.Errorf("cut after %d changes: %v", stop, err)
		}
	}
}

// overAnother is a seed with which a restore that was cut short had come as far as to move things into place.
const overAnother = 101

// restoredUpTo is restored with a power cut in the stop-th change of the disk, 0: drawn.
func restoredUpTo(dir string, seed uint64, skip disk.Point, stop int64) (cuts int, err error) {
	archive, was, err := backedUp(filepath.Join(dir, "origin"))
	if err != nil {
		return 0, err
	}
	ctx, data := context.Background(), filepath.Join(dir, "disk", dataName)
	// upTo restores, and has the disk take so many changes; it returns how many it was asked for.
	upTo := func(most int64, data string) (asked int64, err error) {
		var n atomic.Int64
		_, _, err = broker.Restore(ctx, &disktest.Failing{FS: disk.OS{}, Fault: func(op, _ string) error {
			if op != "open" && op != "read" && op != "stat" && n.Add(1) > most {
				return disktest.ErrCut
			}
			return nil
		}}, archive, data)
		return n.Load(), err
	}
	all, err := upTo(math.MaxInt64, filepath.Join(dir, "counted"))
	if err != nil {
		return 0, err
	}
	rng := rand.New(rand.NewPCG(seed, 25))
	if seed%2 == 1 {
		left := rng.Int64N(all - 10)
		if seed == overAnother {
			left = all - 12
		}
		if _, err := upTo(left, data); !errors.Is(err, disktest.ErrCut) {
			return 0, fmt.Errorf("the first restore was not cut short after %d of %d changes: %w", left, all, err)
		}
	}
	s, err := newScene(dir, seed, skip)
	if err != nil {
		return 0, err
	}
	place := "" // in the scene's directory
	if seed%2 == 0 {
		place = "new" // it is not there yet
	}
	switch {
	case seed%4 == 0:
		stop = all + all/2 // it comes to its end
	case stop == 0:
		stop = 1 + rng.Int64N(all+all/4)
	}
	s.fs.StopAt(stop)
	_, _, err = broker.Restore(ctx, readable{s.fs}, archive, filepath.Join(s.data, place))
	if err != nil && !errors.Is(err, disktest.ErrCut) {
		return 0, err
	}
	done := err == nil
	err = s.cut(func(data string) error {
		data = filepath.Join(data, place)
		_, err := broker.ReadMeta(disk.OS{}, data)
		switch {
		case err == nil:
			return wholeAgain(data, was)
		case done:
			return fmt.Errorf("LOST: what was restored: %w", err)
		}
		entries, err := os.ReadDir(data)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if len(entries) > 1 || len(entries) == 1 && entries[0].Name() != ".lock" {
			if b, err := broker.Open(ctx, broker.Config{Settings: alone(data)}); !errors.Is(err, broker.ErrOccupied) {
				if b != nil {
					err = b.Close()
				}
				return fmt.Errorf("LOST: a board starts on half a restore: %w", err)
			}
		}
		if _, _, err := broker.Restore(ctx, disk.OS{}, archive, data); err != nil {
			return fmt.Errorf("LOST: it cannot be done again: %w", err)
		}
		return wholeAgain(data, was)
	})
	return s.cuts, err
}

// readable is a disk that can be read when its power is gone, as its pages can for an instant: raft panics, in a goroutine of
// its own, when it cannot read what it has written.
type readable struct{ disk.FS }

// OpenFile implements disk.FS.
func (r readable) OpenFile(name string, flag int, perm os.FileMode) (disk.File, error) {
	f, err := r.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return readableFile{f}, nil
}

type readableFile struct{ disk.File }

// ReadAt implements disk.File.
func (f readableFile) ReadAt(p []byte, at int64) (n int, err error) {
	if n, err = f.File.ReadAt(p, at); !errors.Is(err, disktest.ErrCut) {
		return n, err
	}
	pages, err := os.Open(f.Name())
	if err != nil {
		return 0, err
	}
	defer pages.Close() // it was only read
	return pages.ReadAt(p, at)
}

// wholeAgain looks at a board that was restored.
func wholeAgain(data string, was broker.Meta) error {
	if r, err := broker.Fsck(disk.OS{}, data, nil); err != nil || r.Damaged() {
		return fmt.Errorf("LOST: what was restored is damaged: %+v, %w", r, err)
	}
	b, err := broker.Open(context.Background(), broker.Config{Settings: alone(data)})
	if err != nil {
		return fmt.Errorf("LOST: what was restored does not start: %w", err)
	}
	is := b.Meta()
	if is.ClusterID != was.ClusterID || is.NodeID != was.NodeID || is.DirectoryID == was.DirectoryID {
		err = fmt.Errorf("restored as %+v, it was %+v", is, was)
	}
	list, missing := b.Ensure(context.Background(), "kept")
	if missing == nil && list[0].High() != 1 {
		missing = fmt.Errorf("LOST: the record: the topic ends at %d", list[0].High())
	}
	return errors.Join(err, missing, b.Close())
}
