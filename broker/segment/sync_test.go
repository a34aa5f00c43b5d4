package segment

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"

	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
	"millrace/broker/record"
)

var errDisk = errors.New("medium error")

// survives writes what every sync point of the package is for, cuts the power 40 ways, and says whether all of it was
// on every disk.
func survives(t *testing.T, skip disk.Point) bool {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "t-0")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	fs := disktest.New(disk.OS{})
	if err := fs.Record(root); err != nil {
		t.Fatal(err)
	}
	if skip != "" {
		fs.Skip(skip)
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	log, _ := logOf(t, 0, 30)
	states := []ProducerState{{ID: 1, LastSequence: 5, LastOffset: 9, CoordinatorEpoch: -1, TxnFirstOffset: -1}}
	epochs := []EpochStart{{0, 0}, {3, 17}}
	causes := []CauseStart{{3, DiskFull}, {9, ByClient}}
	topic := [16]byte{1, 2, 3}

	// In order: the log last, as nothing after a skipped directory sync may make the entry durable by chance. Each
	// kind has a directory of its own.
	check(fs.MkdirAll(filepath.Join(dir, "s"), 0o755))
	check(fs.MkdirAll(filepath.Join(dir, "e"), 0o755))
	check(fs.MkdirAll(filepath.Join(dir, "m"), 0o755))
	check(fs.MkdirAll(filepath.Join(dir, "c"), 0o755))
	check(fs.SyncDir(dir, "test"))
	check(fs.SyncDir(root, "test"))
	check(WriteSnapshot(fs, filepath.Join(dir, "s"), 30, states))
	check(WriteEpochs(fs, filepath.Join(dir, "e"), epochs))
	check(WriteMetadata(fs, filepath.Join(dir, "m"), topic))
	check(WriteCauses(fs, filepath.Join(dir, "c"), causes))
	s, err := Create(fs, dir, 0, Config{})
	check(err)
	_, err = s.Append(log)
	check(err)
	check(s.Sync())

	for seed := range uint64(40) {
		after := filepath.Join(t.TempDir(), "disk")
		check(fs.Cut(rand.New(rand.NewPCG(seed, 7)), after))
		dir := filepath.Join(after, "t-0")
		held, err := os.ReadFile(filepath.Join(dir, fileName(0, LogSuffix)))
		if err != nil || !bytes.Equal(held, log) {
			return false
		}
		if got, err := ReadSnapshot(disk.OS{}, filepath.Join(dir, "s"), 30); err != nil || !reflect.DeepEqual(got, states) {
			return false
		}
		if got, err := ReadEpochs(disk.OS{}, filepath.Join(dir, "e")); err != nil || !reflect.DeepEqual(got, epochs) {
			return false
		}
		if got, err := ReadMetadata(disk.OS{}, filepath.Join(dir, "m")); err != nil || got != topic {
			return false
		}
		if got, err := ReadCauses(disk.OS{}, filepath.Join(dir, "c")); err != nil || !reflect.DeepEqual(got, causes) {
			return false
		}
	}
	return true
}

func TestEverySyncIsNeededAndEnough(t *testing.T) {
	if !survives(t, "") {
		t.Error("something synced was lost")
	}
	for _, point := range []disk.Point{
		syncLog, syncDir, syncSnapshot, syncSnapshotDir, syncEpochs, syncEpochsDir, syncMetadata, syncMetadataDir, syncCauses, syncCausesDir,
	} {
		t.Run(string(point), func(t *testing.T) {
			if survives(t, point) {
				t.Error("nobody misses this sync")
			}
		})
	}
}

// After a failed sync the page cache shows bytes that the disk may not have. Only writing them again helps.
func TestFailedSyncIsNotForgotten(t *testing.T) {
	fs := disktest.New(disk.OS{})
	s, err := Create(fs, t.TempDir(), 0, Config{})
	if err != nil {
		t.Fatal(err)
	}
	log, batches := logOf(t, 0, 20)
	first := len(batches[0])
	if _, err := s.Append(log[:first]); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Append(log[first:]); err != nil {
		t.Fatal(err)
	}
	fs.FailSync(syncLog, errDisk, 1)
	if err := s.Sync(); !errors.Is(err, errDisk) {
		t.Fatalf("Sync = %v, want %v", err, errDisk)
	}
	if err := s.Sync(); !errors.Is(err, ErrUnsynced) {
		t.Fatalf("second Sync = %v, want ErrUnsynced", err)
	}
	// Only a part of them again, then the rest. Each must reach the file, though it shows the same bytes already.
	for _, p := range [][]byte{log[first : first+len(batches[1])], log[first+len(batches[1]):]} {
		fs.FailWrite(func(name string) bool { return filepath.Ext(name) == LogSuffix }, errDisk, 1)
		if err := s.Put(int64(first), p); !errors.Is(err, errDisk) {
			t.Fatalf("Put = %v: bytes in doubt were not written", err)
		}
		if err := s.Put(int64(first), p); err != nil {
			t.Fatal(err)
		}
		first += len(p)
		if first < len(log) {
			continue
		}
		if err := s.Sync(); err != nil {
			t.Fatalf("Sync of rewritten bytes: %v", err)
		}
	}
}

func TestTruncateForgivesAFailedSync(t *testing.T) {
	fs := disktest.New(disk.OS{})
	s, err := Create(fs, t.TempDir(), 0, Config{})
	if err != nil {
		t.Fatal(err)
	}
	log, _ := logOf(t, 0, 3)
	if _, err := s.Append(log); err != nil {
		t.Fatal(err)
	}
	fs.FailSync(syncLog, errDisk, 1)
	if err := s.Sync(); !errors.Is(err, errDisk) {
		t.Fatal(err)
	}
	if err := s.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Append(log); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(); err != nil {
		t.Error(err)
	}
}

// A cut leaves no byte in doubt that could be written again; its sync is tried again all the same.
func TestFailedSyncOfACutIsTriedAgain(t *testing.T) {
	fs := disktest.New(disk.OS{})
	s, err := Create(fs, t.TempDir(), 0, Config{})
	if err != nil {
		t.Fatal(err)
	}
	log, _ := logOf(t, 0, 3)
	if _, err := s.Append(log); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := s.Truncate(0); err != nil {
		t.Fatal(err)
	}
	fs.FailSync(syncLog, errDisk, 1)
	if err := s.Sync(); !errors.Is(err, errDisk) {
		t.Fatal(err)
	}
	before := fs.Synced()[syncLog]
	if err := s.Sync(); err != nil || fs.Synced()[syncLog] != before+1 {
		t.Errorf("%d syncs after the failed one, %v", fs.Synced()[syncLog]-before, err)
	}
}

// An append that fails half way leaves the log as it was.
func TestFailedAppendLeavesNoTrace(t *testing.T) {
	for _, suffix := range suffixes[:kindTopic] {
		fs := disktest.New(disk.OS{})
		s, err := Create(fs, t.TempDir(), 0, Config{IndexIntervalBytes: 200})
		if err != nil {
			t.Fatal(err)
		}
		log, batches := logOf(t, 0, 20)
		half := len((&model{batches: batches[:10]}).log())
		if _, err := s.Append(log[:half]); err != nil {
			t.Fatal(err)
		}
		fs.FailWrite(func(name string) bool { return filepath.Ext(name) == suffix }, errDisk, 1)
		if _, err := s.Append(log[half:]); !errors.Is(err, errDisk) {
			t.Fatalf("%s: Append = %v, want %v", suffix, err, errDisk)
		}
		if s.Size() != int64(half) {
			t.Fatalf("%s: size %d, want %d", suffix, s.Size(), half)
		}
		// The partition may go on in another segment: then nobody appends here again.
		if err := s.Truncate(int64(half)); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(s.Path()); err != nil || info.Size() != int64(half) {
			t.Fatalf("%s: the file has %d bytes after it was cut, want %d: %v", suffix, info.Size(), half, err)
		}
		if _, err := s.Append(log[half:]); err != nil {
			t.Fatal(err)
		}
		served, lost := consume(t, s, batches[19].NextOffset(), s.Size(), 900)
		if lost != 0 || len(served) != len(batches) {
			t.Errorf("%s: served %d of %d, lost %d", suffix, len(served), len(batches), lost)
		}
	}
}

// Identical bytes are not written again by replay, but they must still be synced: the life before may not have done it.
func TestReplayReadsWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	s, err := Create(disk.OS{}, dir, 0, Config{})
	if err != nil {
		t.Fatal(err)
	}
	log, batches := logOf(t, 0, 20)
	if _, err := s.Append(log); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	fs := disktest.New(disk.OS{})
	fs.FailWrite(func(name string) bool { return filepath.Ext(name) == LogSuffix }, errDisk, -1)
	if s, err = Open(fs, dir, 0, Config{}); err != nil {
		t.Fatal(err)
	}
	pos := int64(0)
	for _, b := range batches {
		if err := s.Adopt(pos, b); err != nil {
			t.Fatal(err)
		}
		if pos += int64(len(b)); s.Size() != pos {
			t.Fatalf("size %d, want %d", s.Size(), pos)
		}
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	if n := fs.Synced()[syncLog]; n != 1 {
		t.Errorf("%d syncs of the log, want 1", n)
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	if n := fs.Synced()[syncLog]; n != 1 {
		t.Errorf("a clean segment was synced again")
	}
}

// Far more segments than open files: the dirty ones are synced before they are closed, and everything is still there.
func TestHandlesStayInTheirLimit(t *testing.T) {
	dir := t.TempDir()
	fs := disktest.New(disk.OS{})
	handles := NewHandles(fs, 8)
	if handles.dirtyLimit != 64 {
		t.Errorf("%d logs may wait for a sync, want eight times 8", handles.dirtyLimit)
	}
	handles.dirtyLimit = 8
	log, _ := logOf(t, 0, 40)
	var segments []*Segment
	for i := range 50 {
		sub := filepath.Join(dir, fmt.Sprint(i))
		if err := os.Mkdir(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		s, err := Create(fs, sub, 0, Config{Handles: handles, IndexIntervalBytes: 500})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Append(log); err != nil {
			t.Fatal(err)
		}
		if handles.Open() > 8+8+1 { // the last log became dirty when it was open already
			t.Fatalf("%d files open", handles.Open())
		}
		if n := fs.Synced()[syncLog]; i < 8 && n > 0 {
			t.Fatalf("%d syncs for the sake of %d dirty logs", n, i+1)
		}
		segments = append(segments, s)
	}
	early := fs.Synced()[syncLog]
	if early < 40 {
		t.Errorf("%d dirty logs were synced to be closed, want at least 40", early)
	}
	for _, s := range segments {
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	if n := fs.Synced()[syncLog]; n != len(segments) {
		t.Errorf("%d syncs for %d segments", n, len(segments))
	}
	// One whose early sync fails says so itself, later, and only that one.
	fs.FailSync(syncLog, errDisk, 1)
	b := batch(t, record.None, segments[0].next, 1, 1, 10)
	for _, s := range segments {
		if _, err := s.Append(b); err != nil {
			t.Fatal(err)
		}
	}
	failed := 0
	for _, s := range segments {
		if err := s.Sync(); errors.Is(err, ErrUnsynced) {
			failed++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if failed != 1 {
		t.Errorf("%d segments report the failed sync, want 1", failed)
	}
	if err := handles.Close(); err != nil || handles.Open() != 0 {
		t.Errorf("Close: %v, %d files open", err, handles.Open())
	}
}

func TestReadersBesideAnAppender(t *testing.T) {
	handles := NewHandles(disk.OS{}, 3)
	s, _ := create(t, 0, Config{IndexIntervalBytes: 300, Handles: handles})
	_, batches := logOf(t, 0, 400)
	end := batches[len(batches)-1].NextOffset()
	grown := make([]chan int64, 3)
	var wg sync.WaitGroup
	for i := range grown {
		grown[i] = make(chan int64, len(batches))
		wg.Go(func() {
			offset := int64(0)
			for limit := range grown[i] {
				for {
					span, err := s.Read(offset, limit, 2000)
					if err != nil {
						t.Errorf("Read(%d): %v", offset, err)
						return
					}
					p, err := span.Append(nil)
					span.Release()
					if err != nil {
						t.Error(err)
						return
					}
					if len(p) == 0 {
						break
					}
					for len(p) > 0 {
						b, rest, err := record.Next(p)
						if err != nil || b.BaseOffset() != offset {
							t.Errorf("batch %d, %v; want %d", b.BaseOffset(), err, offset)
							return
						}
						offset, p = b.NextOffset(), rest
					}
				}
			}
			if offset != end {
				t.Errorf("reader %d ended at %d of %d", i, offset, end)
			}
		})
	}
	for i, b := range batches {
		if _, err := s.Append(b); err != nil {
			t.Error(err)
		}
		if i%50 == 0 {
			if err := s.Sync(); err != nil {
				t.Error(err)
			}
		}
		for _, c := range grown {
			c <- s.Size()
		}
	}
	for _, c := range grown {
		close(c)
	}
	wg.Wait()
}

func TestCheckpointFilesRefuseNonsense(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, text := range []string{"", "0\n", "1\n0\n", "0\n2\n0 0\n", "0\n1\n0\n", "0\n1\n0 x\n", "0\n1\n-1 0\n", "0\n2\n1 0\n1 5\n", "0\n2\n0 5\n1 5\n", "0\n1\n0 0\n1 1\n"} {
		put(EpochsName, text)
		if _, err := ReadEpochs(disk.OS{}, dir); !errors.Is(err, ErrCheckpoint) {
			t.Errorf("epochs %q: %v", text, err)
		}
	}
	for _, text := range []string{"", "version: 0\n", "version: 1\ntopic_id: AAAAAAAAAAAAAAAAAAAAAA", "version: 0\ntopic_id: AAAA", "version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAA!"} {
		put(MetadataName, text)
		if _, err := ReadMetadata(disk.OS{}, dir); !errors.Is(err, ErrCheckpoint) {
			t.Errorf("metadata %q: %v", text, err)
		}
	}
	good := AppendSnapshot(nil, []ProducerState{{ID: 7}, {ID: 8, Epoch: 3}})
	for bit := range len(good) * 8 {
		good[bit/8] ^= 1 << (bit % 8)
		if _, err := ParseSnapshot(good); !errors.Is(err, ErrSnapshot) {
			t.Fatalf("snapshot with bit %d flipped: %v", bit, err)
		}
		good[bit/8] ^= 1 << (bit % 8)
	}
	for n := range good {
		if _, err := ParseSnapshot(good[:n]); !errors.Is(err, ErrSnapshot) {
			t.Fatalf("snapshot of %d bytes: %v", n, err)
		}
	}
}

func TestRewriteMakesASyncPossibleAgain(t *testing.T) {
	fs := disktest.New(disk.OS{})
	s, err := Create(fs, t.TempDir(), 0, Config{})
	if err != nil {
		t.Fatal(err)
	}
	log, batches := logOf(t, 0, 600)
	if _, err := s.Append(log); err != nil {
		t.Fatal(err)
	}
	fs.FailSync(syncLog, errDisk, 1)
	if err := s.Sync(); !errors.Is(err, errDisk) {
		t.Fatal(err)
	}
	if err := s.Truncate(int64(len(log) - len(batches[599]))); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(); !errors.Is(err, ErrUnsynced) {
		t.Fatalf("Sync = %v, want ErrUnsynced", err)
	}
	fs.FailWrite(func(name string) bool { return filepath.Ext(name) == LogSuffix }, errDisk, 1)
	if err := s.Rewrite(); !errors.Is(err, errDisk) {
		t.Fatalf("Rewrite = %v: nothing was written", err)
	}
	if err := s.Sync(); !errors.Is(err, ErrUnsynced) {
		t.Fatalf("Sync after half a rewrite = %v, want ErrUnsynced", err)
	}
	if err := s.Rewrite(); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	served, lost := consume(t, s, batches[599].BaseOffset(), s.Size(), 1<<20)
	if lost != 0 || len(served) != 599 {
		t.Errorf("served %d, lost %d", len(served), lost)
	}
}
