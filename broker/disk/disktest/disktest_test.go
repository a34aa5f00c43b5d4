package disktest

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"millrace/broker/disk"
)

const (
	point  = disk.Point("test.file")
	points = disk.Point("test.dir")
)

// world is a recorded directory.
type world struct {
	*FS
	t    *testing.T
	root string
}

// record starts recording a directory that holds these files durably: name, content, name, content.
func record(t *testing.T, files ...string) world {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	must(t, os.Mkdir(root, 0o755))
	for i := 0; i < len(files); i += 2 {
		path := filepath.Join(root, files[i])
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(files[i+1]), 0o644))
	}
	w := world{New(disk.OS{}), t, root}
	must(t, w.Record(root))
	return w
}

func (w world) path(name string) string { return filepath.Join(w.root, name) }

func (w world) open(name string, flag int) disk.File {
	w.t.Helper()
	f, err := w.OpenFile(w.path(name), flag, 0o644)
	must(w.t, err)
	w.t.Cleanup(func() { must(w.t, f.Close()) })
	return f
}

// write puts content at an offset, without a sync.
func (w world) write(name string, off int64, content string) disk.File {
	w.t.Helper()
	f := w.open(name, os.O_RDWR|os.O_CREATE)
	_, err := f.WriteAt([]byte(content), off)
	must(w.t, err)
	return f
}

// disks cuts the power and returns what is found over many disks: every variant of "name=content name=content" once.
func (w world) disks(n int) []string {
	w.t.Helper()
	seen := make(map[string]bool)
	for seed := range n {
		dst := filepath.Join(w.t.TempDir(), "disk")
		must(w.t, w.Cut(rand.New(rand.NewPCG(1, uint64(seed))), dst))
		seen[tree(w.t, dst)] = true
	}
	all := make([]string, 0, len(seen))
	for s := range seen {
		all = append(all, s)
	}
	slices.Sort(all)
	return all
}

// tree renders a directory in one line.
func tree(t *testing.T, root string) string {
	t.Helper()
	var parts []string
	must(t, filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		name, err := filepath.Rel(root, path)
		if d.IsDir() || err != nil {
			parts = append(parts, name+"/")
			return err
		}
		b, err := os.ReadFile(path)
		parts = append(parts, name+"="+string(b))
		return err
	}))
	return strings.Join(parts, " ")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestDirectoryEntriesLiveByTheirDirectorysSync(t *testing.T) {
	for _, tt := range []struct {
		name  string
		start []string
		do    func(w world)
		disks []string
	}{
		{"created and its bytes synced, not its entry", nil, func(w world) {
			must(w.t, w.write("a", 0, "1").Sync(point))
		}, []string{"", "a=1"}},
		{"created, entry synced", nil, func(w world) {
			must(w.t, w.write("a", 0, "1").Sync(point))
			must(w.t, w.SyncDir(w.root, points))
		}, []string{"a=1"}},
		{"removed", []string{"a", "1", "b", "2"}, func(w world) {
			must(w.t, w.Remove(w.path("a")))
		}, []string{"a=1 b=2", "b=2"}},
		{"removed, entry synced", []string{"a", "1"}, func(w world) {
			must(w.t, w.Remove(w.path("a")))
			must(w.t, w.SyncDir(w.root, points))
		}, []string{""}},
		{"removed after bytes that were never synced: back without them", []string{"a", "1"}, func(w world) {
			w.write("a", 1, "2")
			must(w.t, w.Remove(w.path("a")))
		}, []string{"", "a=1"}},
		{"created again under the name", []string{"a", "1"}, func(w world) {
			must(w.t, w.Remove(w.path("a")))
			must(w.t, w.write("a", 0, "2").Sync(point))
		}, []string{"a=1", "a=2"}},
		{"renamed: never lost, never there twice", []string{"a", "1"}, func(w world) {
			must(w.t, w.Rename(w.path("a"), w.path("b")))
		}, []string{"a=1", "b=1"}},
		{"replaced by a rename: one of both", []string{"a", "1", "a.tmp", "2"}, func(w world) {
			must(w.t, w.Rename(w.path("a.tmp"), w.path("a")))
		}, []string{"a=1 a.tmp=2", "a=2"}},
		{"a chain of renames", []string{"a", "1", "b", "2"}, func(w world) {
			must(w.t, w.Rename(w.path("b"), w.path("c")))
			must(w.t, w.Rename(w.path("a"), w.path("b")))
		}, []string{"a=1 b=2", "a=1 c=2", "b=1 c=2"}},
		{"renamed and synced", []string{"a", "1"}, func(w world) {
			must(w.t, w.Rename(w.path("a"), w.path("b")))
			must(w.t, w.SyncDir(w.root, points))
		}, []string{"b=1"}},
		{"a directory of which only the inside was synced", nil, func(w world) {
			must(w.t, w.MkdirAll(w.path("d"), 0o755))
			must(w.t, w.write("d/a", 0, "1").Sync(point))
			must(w.t, w.SyncDir(w.path("d"), points))
		}, []string{"", "d/ d/a=1"}},
		{"a directory renamed with what is in it", []string{"d/a", "1"}, func(w world) {
			must(w.t, w.Rename(w.path("d"), w.path("e")))
		}, []string{"d/ d/a=1", "e/ e/a=1"}},
		{"a file made behind our back, as tidwall/wal does", nil, func(w world) {
			must(w.t, os.WriteFile(w.path("a"), []byte("1"), 0o644))
			must(w.t, w.open("a", os.O_RDONLY).Sync(point))
			must(w.t, w.SyncDir(w.root, points))
		}, []string{"a=1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := record(t, tt.start...)
			tt.do(w)
			if got := w.disks(64); !slices.Equal(got, tt.disks) {
				t.Errorf("disks: %q, want %q", got, tt.disks)
			}
		})
	}
}

func TestSyncedBytesSurviveAndOthersMayNot(t *testing.T) {
	old := strings.Repeat("synced..", 1500) // ends inside a block
	w := record(t)
	must(t, w.write("a", 0, old).Sync(point))
	must(t, w.SyncDir(w.root, points))
	added := strings.Repeat("NOTSYNCED", 2000)
	w.write("a", int64(len(old)), added)

	var lost, kept, zeroed, garbage, reordered, cut int
	for _, disk := range w.disks(600) {
		got := strings.TrimPrefix(disk, "a=")
		if !strings.HasPrefix(got, old) {
			t.Fatal("synced bytes changed")
		}
		tail := got[len(old):]
		first := strings.HasPrefix(tail, "NOTSYNCED")
		switch {
		case tail == "":
			lost++
		case tail == added:
			kept++
		case strings.HasPrefix(added, tail):
			cut++
		case !first && strings.Contains(tail, "NOTSYNCED"):
			reordered++
		case strings.Trim(tail, "\x00") == "":
			zeroed++
		case strings.Trim(tail, "\x00NOTSYECD") != "":
			garbage++
		}
	}
	if lost == 0 || kept == 0 || zeroed == 0 || garbage == 0 || reordered == 0 || cut == 0 {
		t.Errorf("lost %d, kept %d, zeroed %d, garbage %d, reordered %d, cut %d: want some of each",
			lost, kept, zeroed, garbage, reordered, cut)
	}
}

func TestUnsyncedTruncationIsOldOrNew(t *testing.T) {
	w := record(t, "a", "0123456789")
	must(t, w.open("a", os.O_RDWR).Truncate(4))
	for _, disk := range w.disks(100) {
		if got := strings.TrimPrefix(disk, "a="); len(got) < 4 || !strings.HasPrefix("0123456789", got) {
			t.Errorf("disk %q", disk)
		}
	}
}

func TestAFailedSyncLosesWhatALaterOneClaims(t *testing.T) {
	w := record(t, "a", "0")
	f := w.write("a", 1, "1")
	fault := errors.New("write-back error")
	w.FailSync(point, fault, 1)
	if err := f.Sync(point); !errors.Is(err, fault) {
		t.Fatalf("Sync = %v", err)
	}
	must(t, f.Sync(point))
	if got := w.disks(300); !slices.Contains(got, "a=0\x00") {
		t.Errorf("disks %q: none without the bytes of the failed sync", got)
	}

	// Written again after the failure, they are dirty again.
	w = record(t, "a", "0")
	f = w.write("a", 1, "1")
	w.FailSync(point, fault, 1)
	if err := f.Sync(point); !errors.Is(err, fault) {
		t.Fatalf("Sync = %v", err)
	}
	w.write("a", 1, "2")
	must(t, f.Sync(point))
	if got := w.disks(64); !slices.Equal(got, []string{"a=02"}) {
		t.Errorf("disks %q", got)
	}
}

func TestAFailedSyncSpoilsTheBlockUntilItIsWrittenAgain(t *testing.T) {
	fault := errors.New("write-back error")
	spoilt := func(then func(f disk.File)) []string {
		w := record(t, "a", "0")
		w.Spoil(w.root)
		f := w.write("a", 1, "1")
		w.FailSync(point, fault, 1)
		if err := f.Sync(point); !errors.Is(err, fault) {
			t.Fatalf("Sync = %v", err)
		}
		then(f)
		must(t, f.Sync(point))
		return w.disks(64)
	}
	garbage := func(got string) bool { return got != "a=0" && got != "a=01" && got != "a=0\x00" }
	if got := spoilt(func(disk.File) {}); !slices.ContainsFunc(got, garbage) {
		t.Errorf("disks %q: none with garbage where a synced byte shares the block", got)
	}
	if got := spoilt(func(f disk.File) { must(t, f.Truncate(1)) }); !slices.Equal(got, []string{"a=0"}) {
		t.Errorf("disks %q after a truncation in the block", got)
	}
	if got := spoilt(func(f disk.File) { must(t, f.Truncate(0)) }); !slices.Equal(got, []string{"a="}) {
		t.Errorf("disks %q after the block went", got)
	}
	if got := spoilt(func(f disk.File) {
		_, err := f.WriteAt([]byte("1"), 1)
		must(t, err)
	}); !slices.Equal(got, []string{"a=01"}) {
		t.Errorf("disks %q after the same bytes were written again", got)
	}
}

func TestSkippedSyncLies(t *testing.T) {
	w := record(t, "a", "")
	w.Skip(point)
	must(t, w.write("a", 0, "1").Sync(point))
	if got := w.disks(300); !slices.Contains(got, "a=") || w.Synced()[point] != 1 {
		t.Errorf("disks %q after %d syncs: none lost the bytes", got, w.Synced()[point])
	}
}

func TestStopAtCutsInsideAnOperation(t *testing.T) {
	w := record(t, "a", "")
	f := w.open("a", os.O_RDWR)
	w.StopAt(3)
	_, err := f.WriteAt([]byte("1"), 0)
	must(t, err)
	must(t, f.Sync(point))
	if _, err = f.WriteAt([]byte("2"), 1); !errors.Is(err, ErrCut) {
		t.Fatalf("third operation: %v", err)
	}
	<-w.Stopped()
	if err := f.Sync(point); !errors.Is(err, ErrCut) {
		t.Errorf("Sync after the cut: %v", err)
	}
	if _, err := f.ReadAt(make([]byte, 1), 0); !errors.Is(err, ErrCut) {
		t.Errorf("ReadAt after the cut: %v", err)
	}
	if err := w.Remove(w.path("a")); !errors.Is(err, ErrCut) {
		t.Errorf("Remove after the cut: %v", err)
	}
	disks := w.disks(300)
	for _, d := range disks {
		if !strings.HasPrefix(d, "a=1") || len(d) > len("a=12") {
			t.Errorf("disk %q", d)
		}
	}
	if !slices.Contains(disks, "a=1") || !slices.Contains(disks, "a=12") {
		t.Errorf("disks %q: want the cut write both lost and kept", disks)
	}
}

func TestTheSameSeedMakesTheSameDisk(t *testing.T) {
	w := record(t, "a", "1", "b", "2")
	w.write("a", 0, strings.Repeat("x", 9000))
	must(t, w.Rename(w.path("b"), w.path("c")))
	w.write("d", 0, "4")
	var first string
	for i := range 5 {
		dst := filepath.Join(t.TempDir(), "disk")
		must(t, w.Cut(rand.New(rand.NewPCG(7, 7)), dst))
		if i == 0 {
			first = tree(t, dst)
		} else if got := tree(t, dst); got != first {
			t.Fatalf("disk %q, then %q", first, got)
		}
	}
}

func TestFaultsWithoutRecording(t *testing.T) {
	f := New(disk.OS{})
	f.FailWrite(func(name string) bool { return strings.HasSuffix(name, ".log") }, syscall.ENOSPC, 1)
	f.SetUsage(disk.Usage{Total: 10, Free: 3})
	name := filepath.Join(t.TempDir(), "a.log")
	h, err := f.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	must(t, err)
	if n, err := h.WriteAt([]byte("1234"), 0); n != 2 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("WriteAt = %d, %v: want half of it and ENOSPC", n, err)
	}
	if n, err := h.WriteAt([]byte("1234"), 0); n != 4 || err != nil {
		t.Errorf("second WriteAt = %d, %v", n, err)
	}
	must(t, h.Sync(point))
	must(t, f.SyncDir(filepath.Dir(name), points))
	must(t, h.Close())
	if b, err := os.ReadFile(name); err != nil || !bytes.Equal(b, []byte("1234")) {
		t.Errorf("file holds %q, %v", b, err)
	}
	if u, err := f.Usage(name); u.Free != 3 || err != nil {
		t.Errorf("Usage = %+v, %v", u, err)
	}
}

func TestTheNextFileOfAWALMeansTheOneBeforeIsSynced(t *testing.T) {
	w := record(t, "1", "")
	w.WAL(w.root)
	must(t, os.WriteFile(w.path("1"), []byte("full"), 0o644))
	must(t, os.WriteFile(w.path("2"), nil, 0o644))
	if got := w.disks(64); !slices.Equal(got, []string{"1=full", "1=full 2="}) {
		t.Errorf("disks %q", got)
	}
}
