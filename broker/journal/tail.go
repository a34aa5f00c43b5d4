package journal

import (
	"errors"
	"fmt"
	"os"

	"github.com/tidwall/wal"

	"millrace/broker/disk"
)

// The syncs of commits and of failures. Those of opening are in files.go.
var (
	syncCommit  = disk.NewPoint("journal.commit")  // the frame, before it is acknowledged
	syncRoll    = disk.NewPoint("journal.roll")    // the new segment's directory entry, before the roll's frame is acknowledged
	syncCut     = disk.NewPoint("journal.cut")     // the cut file, whose last block a failed write may have torn
	syncRestart = disk.NewPoint("journal.restart") // the directory entry of the file made after a failure
)

const (
	reopenAfter = 1000 // unlinked segments, 138 bytes each, that the wal is left to remember
	// largeCommit is the mean frame size from which filling ahead costs more than it saves: the zeros are as long as
	// the frames, and a commit of a file that grows makes ext4 journal the inode blocks of all files written meanwhile,
	// 24 KiB for the journal alone and 40 KiB with 50 segments behind it.
	largeCommit = 48 << 10
	fillStep    = 256 << 10 // zeros written at a time: each time costs ext4 a commit of tens of KiB, and one client a delay
	keepBuffer  = 256 << 10 // buffers above this are let go at a roll
)

var zeros [32 << 10]byte

// walLog is what is used of *wal.Log. Reads are not: they are unsafe beside writes and panic on damage.
type walLog interface {
	WriteBatch(*wal.Batch) error
	ClearCache() error
	Close() error
	// redirect has what is written from now on go to the beginning of file. errors.ErrUnsupported: that cannot be done.
	redirect(file disk.File) error
}

// openWAL opens the directory, whose tail must be empty and named by the next index.
func openWAL(dir string, segmentBytes int, next uint64) (log walLog, err error) {
	defer func() {
		if p := recover(); p != nil { // it indexes by what it reads; the directory was repaired, but it is not ours alone
			log, err = nil, fmt.Errorf("tidwall/wal panicked: %v", p)
		}
	}()
	l, err := wal.Open(dir, &wal.Options{ // fresh: Open writes into it
		NoSync:           true,
		SegmentSize:      segmentBytes,
		SegmentCacheSize: 1,
		NoCopy:           true,
		AllowEmpty:       true,
		DirPerms:         dirPerm,
		FilePerms:        filePerm,
	})
	if err != nil {
		return nil, err
	}
	last, err := l.LastIndex()
	if err == nil && last != next-1 {
		err = fmt.Errorf("tidwall/wal ends at %d, want %d", last, next-1)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return library{l}, nil
}

// tail is the wal and a descriptor of our own on its last file: the wal writes through its handle's offset, so zeros
// may lie ahead of it, and a sync of overwritten zeros has no metadata to commit. Owned by the committer.
type tail struct {
	files *files
	stats *counters
	open  func(dir string, segmentBytes int, next uint64) (walLog, error)

	log      walLog
	file     disk.File
	base     uint64 // index of the file's first frame
	index    uint64 // last acknowledged frame of the wal
	writing  int    // frames being written
	size     int64  // acknowledged bytes in the file
	end      int64  // size when the frames being written are acknowledged
	zeroed   int64  // bytes allocated, by zeros or by what the file held before; zeros never pass the wal's segment size
	mean     int    // of the last writes' sizes
	noAhead  bool   // after a failure, until the next roll: filling ahead may have been what failed
	reused   int64  // bytes of a file used again that the wal goes on in after the roll under way
	unlinked int64  // stats.dropped when the wal was opened
	batch    *wal.Batch
}

// attach opens the wal and our descriptor on the empty tail.
func (t *tail) attach() error {
	t.base, t.index = t.files.tail().base, t.files.tail().base-1
	t.size, t.end, t.zeroed = 0, 0, 0
	t.unlinked = t.stats.dropped.Load()
	if t.batch == nil {
		t.batch = new(wal.Batch)
	}
	log, err := t.open(t.files.o.Dir, t.files.o.SegmentBytes, t.base)
	if err != nil {
		return fmt.Errorf("open wal: %w", err)
	}
	t.log = log
	t.file, err = t.files.o.FS.OpenFile(t.files.path(walName(t.base)), os.O_RDWR, 0)
	return err
}

// writeAll puts frames into the wal and makes them durable, with one write and one sync where no segment ends in between;
// accept makes the last of those writes the last acknowledged one. After an error of either nothing on this handle is
// trusted: restart.
func (t *tail) writeAll(frames [][]byte) error {
	for {
		n, end := 0, t.size
		for n < len(frames) && (n == 0 || end < int64(t.files.o.SegmentBytes)) { // only the last one may make the wal roll
			end += uvarintLen(uint64(len(frames[n]))) + int64(len(frames[n]))
			n++
		}
		if err := t.write(frames[:n], end-t.size); err != nil {
			return err
		}
		if frames = frames[n:]; len(frames) == 0 {
			return nil
		}
		if err := t.accept(); err != nil {
			return err
		}
	}
}

// write is one write of frames that take size bytes.
func (t *tail) write(frames [][]byte, size int64) error {
	t.writing = len(frames)
	t.end = t.size + size
	t.mean += (int(size) - t.mean) / 8
	if !t.rolls() {
		if err := t.ahead(t.end); err != nil {
			return fmt.Errorf("fill ahead: %w", err)
		}
	}
	t.batch.Clear()
	for i, frame := range frames {
		t.batch.Write(t.index+1+uint64(i), frame)
	}
	if err := t.log.WriteBatch(t.batch); err != nil {
		return err
	}
	if t.rolls() {
		// The wal has synced and closed the file and made the next, whose name must be durable before anything in it is
		// acknowledged.
		var err error
		if t.reused, err = t.reuse(t.following()); err != nil {
			return err
		}
		if err := t.files.o.FS.SyncDir(t.files.o.Dir, syncRoll); err != nil {
			return err
		}
		return t.log.ClearCache() // else the closed segment stays in the heap
	}
	begin := t.files.o.Now()
	if err := t.file.Sync(syncCommit); err != nil {
		return err
	}
	t.stats.synced(t.files.o.Now().Sub(begin))
	return nil
}

// following is the index after the frames being written.
func (t *tail) following() uint64 { return t.index + uint64(t.writing) + 1 }

// rolls tells whether the frame that ends at t.end makes the wal go on in its next file.
func (t *tail) rolls() bool { return t.end >= int64(t.files.o.SegmentBytes) }

// accept counts the written frames as acknowledged. Only opening the file after a roll can fail.
func (t *tail) accept() error {
	size := t.end - t.size
	if t.rolls() {
		next := t.following()
		file, err := t.files.o.FS.OpenFile(t.files.path(walName(next)), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		if err := t.file.Close(); err != nil {
			t.file = nil
			return errors.Join(err, file.Close())
		}
		t.files.roll(next, t.end)
		t.file, t.base, t.end = file, next, 0
		t.zeroed, t.noAhead = t.reused, false
		t.stats.rolls.Add(1)
		if t.mean < keepBuffer/4 {
			t.batch = new(wal.Batch)
		}
	}
	t.size = t.end
	t.index += uint64(t.writing)
	t.stats.frame.Add(size)
	return nil
}

// ahead writes zeros past end when the frame that ends there leaves the zeros written before.
func (t *tail) ahead(end int64) error {
	if end <= t.zeroed || t.noAhead || t.mean > largeCommit {
		return nil
	}
	to := min((end+fillStep)&^(blockSize-1), int64(t.files.o.SegmentBytes))
	for at := max(end, t.zeroed); at < to; {
		n, err := t.file.WriteAt(zeros[:min(int64(len(zeros)), to-at)], at)
		if err != nil {
			return err
		}
		at += int64(n)
		t.stats.zero.Add(int64(n))
	}
	t.zeroed = to
	return nil
}

// refresh reopens the wal when it has outlived many unlinked segments. Only an empty tail may be reopened: the wal
// would read zeros as endless empty entries.
func (t *tail) refresh() error {
	if t.size != 0 || t.stats.dropped.Load()-t.unlinked < reopenAfter {
		return nil
	}
	if err := t.close(); err != nil {
		return err
	}
	t.stats.reopened.Add(1)
	return t.attach()
}

// restart is the answer to every failure: drop the handles, cut to the last acknowledged frame (not the last valid one:
// the page cache lies), and go on in a new file. It may be called again until it succeeds.
//
// The new file's name is what voids the frames that were not acknowledged: a reader takes nothing from a file that the
// next file's name says begins there.
func (t *tail) restart() error {
	if t.rolls() {
		// No truncation yet: should it reach the disk before the new file's name does, the file that the failed roll left
		// would stay behind a missing frame. cut comes after the name.
		t.zeroed = 0
	}
	closeErr := t.close() // of handles nobody trusts; what they could not write is cut away
	fs, o, next := t.files.o.FS, t.files.o, t.index+1
	if closeErr != nil {
		o.Logger.Warn("journal: closing after a failure", "err", closeErr)
	}
	if err := t.place(next); err != nil {
		return fmt.Errorf("new file: %w", err)
	}
	if err := fs.SyncDir(o.Dir, syncRestart); err != nil {
		return err
	}
	if t.base != next {
		if err := t.cut(); err != nil {
			return fmt.Errorf("cut %s: %w", walName(t.base), err)
		}
	}
	t.files.push(next)
	if err := t.attach(); err != nil {
		return errors.Join(err, t.close())
	}
	t.noAhead = true
	t.stats.restarts.Add(1)
	return nil
}

// cut takes everything after the last acknowledged frame off the file, and writes what is left of the block the cut is in
// again: acknowledged bytes whose block was part of a failed write. The truncation alone dirties that block only where it
// shortens the file, and a cut whose own sync failed has done so before.
func (t *tail) cut() (err error) {
	file, err := t.files.o.FS.OpenFile(t.files.path(walName(t.base)), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := file.Truncate(t.size); err != nil {
		return err
	}
	at := t.size &^ (blockSize - 1)
	left := make([]byte, t.size-at)
	if _, err := file.ReadAt(left, at); err != nil {
		return err
	}
	if _, err := file.WriteAt(left, at); err != nil {
		return err
	}
	return file.Sync(syncCut)
}

// place puts an empty file of a fresh inode at the name next. What a failed roll has left behind its frame goes first,
// and durably: a file that stayed there while its frame is void would say that the frame was lost.
func (t *tail) place(next uint64) error {
	o := t.files.o
	list, _, err := listWAL(o.FS, o.Dir)
	if err != nil {
		return err
	}
	removed := false
	for _, f := range list {
		if f.base <= next {
			continue
		}
		if err := o.FS.Remove(t.files.path(f.name)); err != nil {
			return err
		}
		removed = true
	}
	if removed {
		if err := o.FS.SyncDir(o.Dir, syncRestart); err != nil {
			return err
		}
	}
	return t.files.fresh(next)
}

// close lets go of both handles and takes the zeros ahead off the file, for tidiness only.
func (t *tail) close() error {
	var errs []error
	if t.file != nil {
		if t.zeroed > t.size {
			errs = append(errs, t.file.Truncate(t.size))
		}
		errs = append(errs, t.file.Close())
		t.file = nil
	}
	if t.log != nil {
		err := t.log.Close()
		if err != nil && !errors.Is(err, wal.ErrClosed) {
			errs = append(errs, err)
			// The wal does not close its file when the sync in Close fails; the kernel tells an error once, so a second
			// call closes it. What it says no longer matters.
			if err := t.log.Close(); err != nil && !errors.Is(err, wal.ErrClosed) {
				errs = append(errs, err)
			}
		}
		t.log = nil
	}
	return errors.Join(errs...)
}

func uvarintLen(x uint64) (n int64) {
	for n = 1; x >= 0x80; n++ {
		x >>= 7
	}
	return n
}
