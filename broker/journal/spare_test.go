package journal

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A build against another tidwall/wal must not lose this quietly: the journal would only wear the flash more.
func TestTheLibraryGoesOnInAnotherFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, walName(1)), nil, 0o640); err != nil {
		t.Fatal(err)
	}
	w, err := openWAL(dir, 1<<20, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}()
	if _, ok := w.(library).file(); !ok {
		t.Fatal("this tidwall/wal has no sfile: files are not used again")
	}
}

// lap fills the journal's first files, lets a checkpoint go over them and returns the texts after its mark.
func lap(t *testing.T, j *Journal, n int) (m Mark, after []string) {
	t.Helper()
	for i := range 60 {
		put(t, j, fmt.Sprintf("old %d %s", i, strings.Repeat("x", 300+i)))
	}
	m = j.Mark()
	if err := j.Drop(m); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		after = append(after, fmt.Sprintf("new %d %s", i, strings.Repeat("y", 300+i)))
	}
	put(t, j, after...)
	return m, after
}

func TestFilesLetGoAreUsedAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	j := run(t, Options{Dir: dir, SegmentBytes: 4000}, Mark{})
	lap(t, j, 0)
	spares, err := filepath.Glob(filepath.Join(dir, sparePrefix+"*"))
	if err != nil || len(spares) < 3 {
		t.Fatalf("%d spare files, %v", len(spares), err)
	}
	kept := map[uint64]bool{}
	for _, s := range spares {
		kept[inode(t, s)] = true
	}
	zeros := j.Stats().ZeroBytes
	m := j.Mark()
	var want []string
	for i := range 20 * len(spares) {
		want = append(want, fmt.Sprintf("new %d %s", i, strings.Repeat("y", 200+i)))
	}
	put(t, j, want...)
	s := j.Stats()
	if s.Reused < int64(len(spares)) || s.Failures != 0 {
		t.Errorf("%d spare files, stats %+v", len(spares), s)
	}
	again, frames := 0, int64(0)
	for _, f := range segments(t, dir) {
		info, err := os.Stat(filepath.Join(dir, f.name))
		if err != nil {
			t.Fatal(err)
		}
		if kept[inode(t, filepath.Join(dir, f.name))] {
			again++
			continue
		}
		frames += info.Size()
	}
	if again != len(spares) || s.ZeroBytes-zeros > frames {
		t.Errorf("%d of %d files used again; %d zeros beside %d bytes in new files", again, len(spares), s.ZeroBytes-zeros, frames)
	}
	// A killed process, then one that closed; both leave nothing to use again to the next.
	for _, at := range []string{kill(t, dir), dir} {
		if at == dir {
			shut(t, j)
		}
		if r := expect(t, at, m, want...); r.TornBytes != 0 || r.DamagedBytes != 0 || r.Missing != 0 {
			t.Errorf("report %+v", r)
		}
		if left, err := filepath.Glob(filepath.Join(at, sparePrefix+"*")); err != nil || len(left) != 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
}

func TestSpareFilesAreNoMoreThanOneCheckpointLetGo(t *testing.T) {
	dir := t.TempDir()
	j := run(t, Options{Dir: dir, SegmentBytes: 1000}, Mark{})
	count := func() int {
		spares, err := filepath.Glob(filepath.Join(dir, sparePrefix+"*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(spares)
	}
	for range 40 {
		put(t, j, strings.Repeat("x", 400))
	}
	if err := j.Drop(j.Mark()); err != nil || count() < 10 {
		t.Fatalf("%d spares, %v", count(), err)
	}
	for range 6 {
		put(t, j, strings.Repeat("x", 400))
	}
	if err := j.Drop(j.Mark()); err != nil || count() > 3 {
		t.Errorf("%d spares after a small lap, %v", count(), err)
	}
	j.files.mu.Lock()
	sum := int64(0)
	for _, s := range j.files.spares {
		sum += s.size
	}
	if sum != j.files.spareBytes || len(j.files.spares) != count() {
		t.Errorf("%d bytes in %d spares, counted %d", sum, count(), j.files.spareBytes)
	}
	j.files.spareBytes = spareMax // as if more were kept than may be
	j.files.mu.Unlock()
	was := count()
	for range 12 {
		put(t, j, strings.Repeat("x", 400))
	}
	if err := j.Drop(j.Mark()); err != nil || count() > was {
		t.Errorf("%d spares over the limit, had %d, %v", count(), was, err)
	}
}

// usedAgain leaves a directory whose tail is a file used again that ends in old frames, and the journal's mark and texts.
func usedAgain(t *testing.T) (dir string, m Mark, want []string) {
	t.Helper()
	live := filepath.Join(t.TempDir(), "journal")
	j := run(t, Options{Dir: live, SegmentBytes: 8000}, Mark{})
	m, want = lap(t, j, 11)
	if j.Stats().Reused == 0 {
		t.Fatal("nothing was used again")
	}
	dir = kill(t, live)
	r, err := Scan(j.o.FS, dir, nil)
	if err != nil || r.OldBytes < 1000 || r.TornBytes != 0 || r.DamagedBytes != 0 || r.Missing != 0 {
		t.Fatalf("the tail has no old frames behind it: %+v, %v", r, err)
	}
	return dir, m, want
}

func TestOldFramesBehindTheTailAreNotFrames(t *testing.T) {
	dir, m, want := usedAgain(t)
	r := expect(t, dir, m, want...)
	if r.OldBytes == 0 || r.TornBytes != 0 || r.DamagedBytes != 0 {
		t.Errorf("report %+v", r)
	}
}

// Whatever bit of the last frame rots, it is told as what it is: bytes that are no whole frame. Old frames behind it do
// not hide it, and none of them comes back.
func TestATornFrameBeforeOldOnesIsTorn(t *testing.T) {
	dir, m, want := usedAgain(t)
	all := frames(t, dir)
	last := all[len(all)-1]
	for at := -2; at < last.Size; at++ {
		p, err := os.ReadFile(filepath.Join(dir, last.File))
		if err != nil {
			t.Fatal(err)
		}
		if at < 0 { // the library's own length is not needed
			continue
		}
		copyOf := kill(t, dir)
		p[last.Offset+int64(at)] ^= 1 << (at % 8)
		if err := os.WriteFile(filepath.Join(copyOf, last.File), p, 0o640); err != nil {
			t.Fatal(err)
		}
		j := open(t, Options{Dir: copyOf}, m)
		got, r := texts(t, j)
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want[:len(want)-1]) || r.TornBytes == 0 || r.OldBytes == 0 {
			t.Fatalf("bit of byte %d: %d of %d texts, report %+v", at, len(got), len(want), r)
		}
	}
}

// A device that writes sectors in any order leaves new ones between old ones: only whole new frames count.
func TestSectorsOfOldFramesBetweenNewOnes(t *testing.T) {
	dir, m, want := usedAgain(t)
	all := frames(t, dir)
	last := all[len(all)-1]
	path := filepath.Join(dir, last.File)
	now, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	base := all[slices.IndexFunc(all, func(f FrameInfo) bool { return f.File == last.File })]
	old := now[last.Offset+int64(last.Size):]
	for at := base.Offset; at < last.Offset+int64(last.Size); at += 37 {
		p := slices.Clone(now)
		copy(p[at:last.Offset+int64(last.Size)], old)
		if err := os.WriteFile(path, p, 0o640); err != nil {
			t.Fatal(err)
		}
		j := open(t, Options{Dir: dir}, m)
		got, r := texts(t, j)
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		keep := slices.IndexFunc(all, func(f FrameInfo) bool { return f.File == last.File && f.Offset+int64(f.Size) > at })
		if wantNow := want[:len(want)-(len(all)-keep)]; !slices.Equal(got, wantNow) || r.Missing != 0 {
			t.Fatalf("old bytes from %d on: %d texts, want %d; report %+v", at, len(got), len(wantNow), r)
		}
	}
}

// Searching the old frames behind a tail takes time in proportion to them: a window is not read again for each.
func TestOldFramesAreSearchedOnce(t *testing.T) {
	dir := t.TempDir()
	const id, n = 7, 20_000
	file := binary.AppendUvarint(nil, uint64(headerSize))
	frame := encodeFrame(n+1, id)
	file = append(file[:0], append(binary.AppendUvarint(nil, uint64(len(frame))), frame...)...)
	for i := range n {
		frame := encodeFrame(uint64(i)+1, id)
		file = append(append(file, byte(len(frame))), frame...)
	}
	if err := os.WriteFile(filepath.Join(dir, walName(n+1)), file, 0o640); err != nil {
		t.Fatal(err)
	}
	read := int64(0)
	fs := &faultFS{fail: func(op, _ string) error {
		var off, n int64
		if _, err := fmt.Sscanf(op, "read %d %d", &off, &n); err == nil {
			read += n
		}
		return nil
	}}
	r, err := Scan(fs, dir, nil)
	if err != nil || r.Frames != 1 || r.OldBytes == 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if limit := 8 * int64(len(file)); read > limit {
		t.Errorf("%d bytes read of a file of %d", read, len(file))
	}
}
