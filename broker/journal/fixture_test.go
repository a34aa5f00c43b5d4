package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tidwall/wal"

	"millrace/broker/disk"
)

// faultFS is the real filesystem with failures on demand.
type faultFS struct {
	disk.OS
	mu    sync.Mutex
	fail  func(op, name string) error // nil: nothing fails
	trace []string                    // syncs, in order
}

func (f *faultFS) check(op, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if strings.HasPrefix(op, "sync ") {
		f.trace = append(f.trace, op)
	}
	if f.fail == nil {
		return nil
	}
	return f.fail(op, name)
}

func (f *faultFS) setFail(fn func(op, name string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fn
}

func (f *faultFS) synced(point disk.Point) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, s := range f.trace {
		if s == "sync "+string(point) {
			n++
		}
	}
	return n
}

func (f *faultFS) OpenFile(name string, flag int, perm os.FileMode) (disk.File, error) {
	if err := f.check("open", name); err != nil {
		return nil, err
	}
	file, err := f.OS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &faultFile{file, f}, nil
}

func (f *faultFS) Rename(from, to string) error {
	if err := f.check("rename", from); err != nil {
		return err
	}
	return f.OS.Rename(from, to)
}

func (f *faultFS) Remove(name string) error {
	if err := f.check("remove", name); err != nil {
		return err
	}
	return f.OS.Remove(name)
}

func (f *faultFS) SyncDir(name string, p disk.Point) error {
	if err := f.check("sync "+string(p), name); err != nil {
		return err
	}
	return f.OS.SyncDir(name, p)
}

type faultFile struct {
	disk.File
	fs *faultFS
}

func (f *faultFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fs.check("write", f.Name()); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f *faultFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.fs.check(fmt.Sprintf("read %d %d", off, len(p)), f.Name()); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (f *faultFile) Truncate(size int64) error {
	if err := f.fs.check("truncate", f.Name()); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *faultFile) Sync(p disk.Point) error {
	if err := f.fs.check("sync "+string(p), f.Name()); err != nil {
		return err
	}
	return f.File.Sync(p)
}

var errDisk = errors.New("disk says no")

// failAt fails the op whenever it is seen, until times have passed (0: for good).
func failAt(op string, times int) func(string, string) error {
	n := 0
	return func(o, _ string) error {
		if o != op {
			return nil
		}
		if n++; times > 0 && n > times {
			return nil
		}
		return errDisk
	}
}

// faultLog is the wal with a write that fails half way on demand: what ENOSPC does.
type faultLog struct {
	walLog
	dir  string
	torn func() bool
}

func (l *faultLog) WriteBatch(b *wal.Batch) error {
	if l.torn() {
		err := l.walLog.WriteBatch(b)
		names, _ := os.ReadDir(l.dir)
		last := filepath.Join(l.dir, names[len(names)-1].Name())
		if info, statErr := os.Stat(last); statErr == nil && info.Size() > 40 {
			err = errors.Join(err, os.Truncate(last, info.Size()-20))
		}
		return errors.Join(errDisk, err)
	}
	return l.walLog.WriteBatch(b)
}

func topic(n byte) (id [16]byte) { id[0] = n; return id }

// record is an append that always travels inline.
func record(base int64, text string) Entry {
	return Entry{Kind: Append, Topic: topic(1), Base: base, Position: base * 10, Length: int32(len(text)), Bytes: []byte(text)}
}

// open opens a journal in dir without starting it.
func open(t testing.TB, o Options, after Mark) *Journal {
	t.Helper()
	if o.PackMin == 0 { // else most texts here would shrink to nothing, and so would the files that tests count on
		o.PackMin = MaxFrame
	}
	j, err := Open(o, after)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return j
}

// run opens and starts a journal and closes it with the test, when the test has not.
func run(t testing.TB, o Options, after Mark) *Journal {
	t.Helper()
	j := open(t, o, after)
	start(t, j)
	return j
}

func start(t testing.TB, j *Journal) {
	t.Helper()
	if err := j.Start(); err != nil {
		t.Fatalf("Start: %v", err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil && !errors.Is(err, ErrClosed) {
			t.Errorf("Close: %v", err)
		}
	})
}

func shut(t testing.TB, j *Journal) {
	t.Helper()
	if err := j.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
}

// stage stages one group and waits for its answer.
func stage(j *Journal, group ...Entry) error {
	answer := make(chan error, 1)
	j.Stage(group, func(err error) { answer <- err })
	return <-answer
}

// put stages one inline record per text, each in a commit of its own.
func put(t testing.TB, j *Journal, texts ...string) {
	t.Helper()
	for i, text := range texts {
		if err := stage(j, record(int64(i), text)); err != nil {
			t.Fatalf("stage %q: %v", text, err)
		}
	}
}

// texts replays an opened journal and returns the inline bytes.
func texts(t testing.TB, j *Journal) ([]string, Report) {
	t.Helper()
	var got []string
	r, err := j.Replay(func(f Frame) error {
		for _, e := range f.Entries {
			got = append(got, string(e.Bytes))
		}
		return nil
	})
	if err != nil {
		t.Fatalf("Replay: %v", err)
	}
	return got, r
}

// expect opens dir, demands exactly these texts and that the journal still takes and keeps a record, and returns what
// the replay reported.
func expect(t testing.TB, dir string, after Mark, want ...string) Report {
	t.Helper()
	j := open(t, Options{Dir: dir}, after)
	got, r := texts(t, j)
	if !slices.Equal(got, want) {
		t.Errorf("replayed %q\nwant     %q", short(got), short(want))
	}
	start(t, j)
	put(t, j, "one more")
	shut(t, j)
	j = open(t, Options{Dir: dir}, after)
	if got, _ := texts(t, j); !slices.Equal(got, append(slices.Clone(want), "one more")) {
		t.Errorf("after one more append replayed %q", short(got))
	}
	shut(t, j)
	return r
}

func short(all []string) []string {
	out := make([]string, len(all))
	for i, s := range all {
		out[i] = s[:min(len(s), 12)]
	}
	return out
}

// segments lists the wal's files in dir.
func segments(t testing.TB, dir string) []walFile {
	t.Helper()
	list, _, err := listWAL(disk.OS{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// fill makes a journal in a fresh directory with n records of size bytes, segments of segment bytes, and closes it.
func fill(t testing.TB, n, size, segment int) (dir string, want []string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "journal")
	j := run(t, Options{Dir: dir, SegmentBytes: segment}, Mark{})
	for i := range n {
		want = append(want, fmt.Sprintf("%0*d", size, i))
	}
	put(t, j, want...)
	shut(t, j)
	return dir, want
}

// frames scans dir.
func frames(t testing.TB, dir string) (all []FrameInfo) {
	t.Helper()
	if _, err := Scan(disk.OS{}, dir, func(f FrameInfo) error {
		f.Entries = nil
		all = append(all, f)
		return nil
	}); err != nil {
		t.Fatalf("Scan: %v", err)
	}
	return all
}

// edit changes a file in place.
func edit(t testing.TB, path string, fn func([]byte) []byte) {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, fn(p), 0o640); err != nil {
		t.Fatal(err)
	}
}

func writeFile(t testing.TB, path string, p []byte) {
	t.Helper()
	if err := os.WriteFile(path, p, 0o640); err != nil {
		t.Fatal(err)
	}
}
