package journal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/tidwall/wal"
)

// Every row of the table of traps in tidwall/wal that touches a journal. Each test first shows, where that is possible,
// that the bare library walks into the trap, and then that the journal does not.

// bare opens dir, a copy, with tidwall/wal itself, reads everything it claims to have and says what is wrong.
func bare(t *testing.T, dir string, want []string) (fault string) {
	t.Helper()
	at := t.TempDir()
	if err := os.CopyFS(at, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if p := recover(); p != nil {
			fault = fmt.Sprint("panics: ", p)
		}
	}()
	l, err := wal.Open(at, &wal.Options{NoSync: true, AllowEmpty: true, SegmentSize: 10_000})
	if err != nil {
		return err.Error()
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	first, _ := l.FirstIndex()
	last, _ := l.LastIndex()
	if last-first+1 != uint64(len(want)) {
		return fmt.Sprintf("claims %d to %d", first, last)
	}
	for i := range want {
		p, err := l.Read(first + uint64(i))
		if err != nil {
			return err.Error()
		}
		if !strings.Contains(string(p), want[i]) {
			return fmt.Sprintf("wrong entry %d", first+uint64(i))
		}
	}
	return ""
}

func TestDamagedDirectoriesAreRepairedBeforeTheWALSeesThem(t *testing.T) {
	// 35 frames of about 1,000 bytes in 4 segments of 10,000, as in the table.
	const last = 34
	keep := func(from, to int) func([]string) []string {
		return func(all []string) []string { return append(slices.Clone(all[:from]), all[to:]...) }
	}
	all := keep(0, 0)
	for _, tt := range []struct {
		name   string
		damage func(t *testing.T, dir string, files []walFile, fr []FrameInfo)
		want   func(all []string) []string
		gaps   []Gap
		torn   bool
		silent bool // the bare library cannot know: nothing it reads is wrong
	}{
		{"tail cut inside an entry", onTail(func(p []byte) []byte { return p[:len(p)-500] }), keep(last, 35), nil, true, false},
		{"tail cut inside a length", func(t *testing.T, dir string, files []walFile, fr []FrameInfo) {
			truncate(t, dir, fr[last].File, fr[last].Offset-1)
		}, keep(last, 35), nil, true, false},
		{"tail cut between entries", func(t *testing.T, dir string, files []walFile, fr []FrameInfo) {
			truncate(t, dir, fr[last].File, fr[last].Offset-2)
		}, keep(last, 35), nil, false, true},
		{"tail emptied", onTail(func(p []byte) []byte { return nil }), keep(30, 35), nil, false, true},
		{"tail missing", func(t *testing.T, dir string, files []walFile, fr []FrameInfo) {
			remove(t, dir, files[3].name)
		}, keep(30, 35), nil, false, true},
		{"payload byte flipped in the last entry", flip(last, 100), keep(last, 35), nil, true, false},
		{"payload byte flipped in the tail", flip(32, 100), keep(32, 33), []Gap{{33, 33}}, false, false},
		{"payload byte flipped in the middle", flip(15, 100), keep(15, 16), []Gap{{16, 16}}, false, false},
		{"payload byte flipped in the first entry", flip(0, 100), keep(0, 1), []Gap{{1, 1}}, false, false},
		{"length byte flipped in the tail", flip(32, -2), all, nil, false, false},
		{"length byte flipped in the middle", flip(15, -2), all, nil, false, false},
		{"frame length flipped", flip(15, 5), keep(15, 16), []Gap{{16, 16}}, false, false},
		{"index flipped", flip(15, 9), keep(15, 16), []Gap{{16, 16}}, false, false},
		{"4096 zeros after the tail", onTail(func(p []byte) []byte { return append(p, make([]byte, 4096)...) }), all, nil, false, false},
		{"last 1500 bytes zeroed", onTail(func(p []byte) []byte { clear(p[len(p)-1500:]); return p }), keep(33, 35), nil, true, false},
		{"whole tail zeroed", onTail(func(p []byte) []byte { clear(p); return p }), keep(30, 35), nil, false, false},
		{"random bytes after the tail", onTail(func(p []byte) []byte {
			return append(p, bytes.Repeat([]byte{0xff, 0x81, 0x7a}, 2000)...)
		}), all, nil, true, false},
		{"middle segment truncated", func(t *testing.T, dir string, files []walFile, fr []FrameInfo) {
			truncate(t, dir, files[1].name, 5_500)
		}, keep(15, 20), []Gap{{16, 20}}, false, false},
		{"middle segment short by one entry", func(t *testing.T, dir string, files []walFile, fr []FrameInfo) {
			truncate(t, dir, files[1].name, fr[19].Offset-2)
		}, keep(19, 20), []Gap{{20, 20}}, false, false},
		{"middle segment missing", func(t *testing.T, dir string, files []walFile, fr []FrameInfo) {
			remove(t, dir, files[1].name)
		}, keep(10, 20), []Gap{{11, 20}}, false, false},
		{"two segments damaged", func(t *testing.T, dir string, files []walFile, fr []FrameInfo) {
			flip(5, 200)(t, dir, files, fr)
			flip(31, 200)(t, dir, files, fr)
		}, func(a []string) []string { return append(append(slices.Clone(a[:5]), a[6:31]...), a[32:]...) }, []Gap{{6, 6}, {32, 32}}, false, false},
		{".START left", leave("00000000000000000015.START", "copy"), all, nil, false, false},
		{".START left empty", leave("00000000000000000015.START", ""), all, nil, false, false},
		{".END left", leave("00000000000000000011.END", "copy"), all, nil, false, false},
		{".START and .END left", func(t *testing.T, dir string, files []walFile, fr []FrameInfo) {
			leave("00000000000000000015.START", "copy")(t, dir, files, fr)
			leave("00000000000000000021.END", "copy")(t, dir, files, fr)
		}, all, nil, false, false},
		{".START.TEMP left", leave("00000000000000000015.START.TEMP", "x"), all, nil, false, true},
		{"a file of ours from a killed restart left", leave(tempName, "x"), all, nil, false, true},
		{"a directory in the place of a segment", func(t *testing.T, dir string, files []walFile, fr []FrameInfo) {
			if err := os.Mkdir(filepath.Join(dir, walName(36)), 0o750); err != nil {
				t.Fatal(err)
			}
		}, all, nil, false, true},
		{"a segment named by an impossible index", leave("18446744073709551615", "x"), all, nil, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, all := fill(t, 35, 950, 10_000)
			files, fr := segments(t, dir), frames(t, dir)
			if len(files) != 4 || len(fr) != 35 || files[3].base != 31 {
				t.Fatalf("%d frames in %v", len(fr), files)
			}
			if fault := bare(t, dir, all); fault != "" {
				t.Fatalf("the bare library fails before any damage: %s", fault)
			}
			tt.damage(t, dir, files, fr)
			want := tt.want(all)
			if fault := bare(t, dir, want); (fault == "") != tt.silent {
				t.Errorf("the bare library: %q", fault)
			}
			r := expect(t, dir, Mark{}, want...)
			if !slices.Equal(r.Gaps, tt.gaps) || (r.TornBytes > 0) != tt.torn {
				t.Errorf("gaps %v, want %v; %d torn, want %v; %d damaged", r.Gaps, tt.gaps, r.TornBytes, tt.torn, r.DamagedBytes)
			}
			missing := uint64(0)
			for _, g := range tt.gaps {
				missing += g.To - g.From + 1
			}
			if r.Missing != missing {
				t.Errorf("%d frames missing, want %d", r.Missing, missing)
			}
		})
	}
}

type damage = func(t *testing.T, dir string, files []walFile, fr []FrameInfo)

func onTail(fn func([]byte) []byte) damage {
	return func(t *testing.T, dir string, files []walFile, _ []FrameInfo) {
		edit(t, filepath.Join(dir, files[len(files)-1].name), fn)
	}
}

// flip flips a bit at offset at of frame i; -2 and -1 are the wal's length prefix.
func flip(i, at int) damage {
	return func(t *testing.T, dir string, _ []walFile, fr []FrameInfo) {
		edit(t, filepath.Join(dir, fr[i].File), func(p []byte) []byte { p[fr[i].Offset+int64(at)] ^= 0x10; return p })
	}
}

// leave leaves a file; "copy" fills it with some segment's bytes.
func leave(name, content string) damage {
	return func(t *testing.T, dir string, files []walFile, _ []FrameInfo) {
		p := []byte(content)
		if content == "copy" {
			var err error
			if p, err = os.ReadFile(filepath.Join(dir, files[1].name)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, name), p, 0o640); err != nil {
			t.Fatal(err)
		}
	}
}

func truncate(t *testing.T, dir, name string, size int64) {
	t.Helper()
	if err := os.Truncate(filepath.Join(dir, name), size); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

// kill returns what a killed process leaves: the page cache's view of the directory, beside the running journal.
func kill(t *testing.T, dir string) string {
	t.Helper()
	at := filepath.Join(t.TempDir(), "killed")
	if err := os.CopyFS(at, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return at
}

func TestZerosAheadAreThereAfterAKillAndDoNotMatter(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	j := run(t, Options{Dir: dir}, Mark{})
	put(t, j, "a", "b", "c")
	killed := kill(t, dir)
	if fault := bare(t, killed, []string{"a", "b", "c"}); fault == "" {
		t.Error("the bare library reads a tail of zeros")
	}
	r := expect(t, killed, Mark{}, "a", "b", "c")
	if r.ZeroBytes < fillStep/2 || r.TornBytes != 0 {
		t.Errorf("report %+v", r)
	}
}

func TestZerosNeverPassTheSegmentSize(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	const segment = 100_000 // not a multiple of a block, nor of the frames
	j := run(t, Options{Dir: dir, SegmentBytes: segment}, Mark{})
	for i := range 700 {
		put(t, j, fmt.Sprintf("%0*d", 200+i%300, i))
		if i%10 == 0 {
			for _, f := range segments(t, dir) {
				info, err := os.Stat(filepath.Join(dir, f.name))
				if err != nil {
					t.Fatal(err)
				}
				if info.Size() > segment+700 {
					t.Fatalf("%s has %d bytes", f.name, info.Size())
				}
			}
		}
	}
	if s := j.Stats(); s.ZeroBytes == 0 || s.Rolls < 2 {
		t.Fatalf("stats %+v", s)
	}
	r, err := Scan(j.o.FS, dir, nil)
	if err != nil || r.Missing != 0 || r.Frames != 700 {
		t.Fatalf("%+v, %v", r, err)
	}
	list := segments(t, dir)
	for _, f := range list[:len(list)-1] {
		p, err := os.ReadFile(filepath.Join(dir, f.name))
		if err != nil {
			t.Fatal(err)
		}
		for len(p) > 0 { // a rolled file is whole entries to its last byte
			size, n := binary.Uvarint(p)
			if size < headerSize || int(size) > len(p)-n {
				t.Fatalf("%s has an entry of %d bytes with %d left", f.name, size, len(p))
			}
			p = p[n+int(size):]
		}
	}
}

func TestLargeCommitsAreNotFilledAhead(t *testing.T) {
	j := run(t, Options{Dir: t.TempDir()}, Mark{})
	for range 30 {
		put(t, j, strings.Repeat("x", 60<<10))
	}
	z := j.Stats().ZeroBytes
	for range 30 {
		put(t, j, strings.Repeat("x", 60<<10))
	}
	if got := j.Stats().ZeroBytes; got != z {
		t.Errorf("%d zeros were written for large commits", got-z)
	}
}

func TestDirectoryIsSyncedAfterARollBeforeTheAnswer(t *testing.T) {
	fs := &faultFS{}
	dir := t.TempDir()
	j := run(t, Options{Dir: dir, FS: fs, SegmentBytes: 1000}, Mark{})
	for i := range 20 {
		put(t, j, strings.Repeat("x", 300))
		if rolls := len(segments(t, dir)) - 1; fs.synced(syncRoll) != rolls {
			t.Fatalf("after record %d: %d rolls, %d directory syncs", i, rolls, fs.synced(syncRoll))
		}
	}
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

// A failed sync marks pages clean: frames may be readable and on no disk. Start writes them to a new file and syncs it,
// and cannot lose the old one by being cut itself.
func TestStartRewritesAndSyncsTheTailBeforeAnythingIsServed(t *testing.T) {
	dir, want := fill(t, 25, 950, 10_000)
	list := segments(t, dir)
	inodes := []uint64{inode(t, filepath.Join(dir, list[0].name)), inode(t, filepath.Join(dir, list[1].name)), inode(t, filepath.Join(dir, list[2].name))}
	if err := os.Link(filepath.Join(dir, list[2].name), filepath.Join(t.TempDir(), "keeps the inode")); err != nil {
		t.Fatal(err)
	}
	fs := &faultFS{}
	j := open(t, Options{Dir: dir, FS: fs}, Mark{})
	if got, _ := texts(t, j); !slices.Equal(got, want) {
		t.Fatal("replay differs")
	}
	for _, op := range []string{"write", "sync " + string(syncStart), "rename", "sync " + string(syncStartDir)} {
		fs.setFail(failAt(op, 0))
		if err := j.Start(); err == nil {
			t.Fatalf("Start returned although %s fails", op)
		}
	}
	fs.setFail(nil)
	start(t, j)
	shut(t, j)
	if n := fs.synced(syncStart); n == 0 {
		t.Error("the tail was not synced")
	}
	for i, f := range list {
		if same := inode(t, filepath.Join(dir, f.name)) == inodes[i]; same != (i < 2) {
			t.Errorf("%s: same inode %v", f.name, same)
		}
	}
	expect(t, dir, Mark{}, want...)
}

func TestDamagedTailIsKeptForInspectionAFewTimes(t *testing.T) {
	dir, want := fill(t, 5, 100, 1<<20)
	for i := range 7 {
		fr := frames(t, dir)
		flip(len(fr)-3, 30)(t, dir, nil, fr) // the tail is the last file with frames
		n := len(fr) - 3
		want = append(slices.Clone(want[:n]), want[n+1:]...)
		j := run(t, Options{Dir: dir}, Mark{})
		more := []string{fmt.Sprintf("a%d", i), fmt.Sprintf("b%d", i), fmt.Sprintf("c%d", i)}
		put(t, j, more...)
		want = append(want, more...)
		shut(t, j)
	}
	expect(t, dir, Mark{}, want...)
	copies, err := filepath.Glob(filepath.Join(dir, damagedPrefix+"*"))
	if err != nil || len(copies) == 0 || len(copies) > maxDamaged {
		t.Errorf("copies %v, %v", copies, err)
	}
}

// The library keeps 138 bytes for each unlinked segment for ever.
func TestWALIsReopenedAfterManyUnlinkedSegments(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	j := run(t, Options{Dir: dir, SegmentBytes: 200}, Mark{})
	for i := range reopenAfter + 50 {
		put(t, j, strings.Repeat("x", 200))
		if i%100 == 99 {
			if err := j.Drop(j.Mark()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if s := j.Stats(); s.Reopened != 1 || s.Failures != 0 || s.Segments > 100 {
		t.Errorf("stats %+v", s)
	}
	m := j.Mark()
	put(t, j, "a")
	shut(t, j)
	expect(t, dir, m, "a")
}

type clearCounter struct {
	walLog
	cleared *int
}

func (l clearCounter) ClearCache() error { *l.cleared++; return l.walLog.ClearCache() }

func TestClosedSegmentIsNotKeptInTheHeap(t *testing.T) {
	j := open(t, Options{Dir: t.TempDir(), SegmentBytes: 1000}, Mark{})
	cleared := 0
	inner := j.c.tail.open
	j.c.tail.open = func(dir string, size int, next uint64) (walLog, error) {
		l, err := inner(dir, size, next)
		return clearCounter{l, &cleared}, err
	}
	start(t, j)
	for range 20 {
		put(t, j, strings.Repeat("x", 300))
	}
	if rolls := int(j.Stats().Rolls); rolls < 5 || cleared != rolls {
		t.Errorf("%d rolls, cache cleared %d times", rolls, cleared)
	}
}

// TruncateFront would rewrite the boundary segment; unlinking leaves every other file alone.
func TestDropRewritesNothing(t *testing.T) {
	dir := t.TempDir()
	j := run(t, Options{Dir: dir, SegmentBytes: 1000}, Mark{})
	for range 20 {
		put(t, j, strings.Repeat("x", 300))
	}
	was := map[string]uint64{}
	for _, f := range segments(t, dir) {
		was[f.name] = inode(t, filepath.Join(dir, f.name))
	}
	if err := j.Drop(Mark{j.Mark().ID, 10}); err != nil {
		t.Fatal(err)
	}
	for _, f := range segments(t, dir) {
		if inode(t, filepath.Join(dir, f.name)) != was[f.name] {
			t.Errorf("%s was rewritten", f.name)
		}
	}
}

// A record may hold a copy of the journal itself; a torn frame with such a record must not be cut into old frames.
func TestFramesInsideARecordAreNotFrames(t *testing.T) {
	dir, want := fill(t, 3, 100, 1<<20)
	var inner []byte
	for _, f := range segments(t, dir) {
		p, err := os.ReadFile(filepath.Join(dir, f.name))
		if err != nil {
			t.Fatal(err)
		}
		inner = append(inner, p...)
	}
	j := run(t, Options{Dir: dir}, Mark{})
	put(t, j, string(inner))
	torn := kill(t, dir)
	put(t, j, "last")
	shut(t, j)

	flip(3, headerSize+1)(t, torn, nil, frames(t, torn))
	if r := expect(t, torn, Mark{}, want...); r.TornBytes == 0 || r.Missing != 0 {
		t.Errorf("torn: %+v", r)
	}
	flip(3, headerSize+1)(t, dir, nil, frames(t, dir))
	if r := expect(t, dir, Mark{}, append(want, "last")...); !slices.Equal(r.Gaps, []Gap{{4, 4}}) {
		t.Errorf("rotten: %+v", r)
	}
}

func TestUnreadableSectorCostsItsFramesOnly(t *testing.T) {
	dir, want := fill(t, 40, 918, 1<<20)
	fs := &faultFS{fail: func(op, _ string) error {
		var off, n int64
		if _, err := fmt.Sscanf(op, "read %d %d", &off, &n); err == nil && off < 12_288 && off+n > 8_192 {
			return io.ErrUnexpectedEOF
		}
		return nil
	}}
	j := open(t, Options{Dir: dir, FS: fs}, Mark{})
	got, r := texts(t, j)
	shut(t, j)
	if len(got) < 34 || len(got)+int(r.Missing) != 40 || r.DamagedBytes == 0 || !slices.Equal(got, append(slices.Clone(want[:8]), want[40-len(got)+8:]...)) {
		t.Errorf("%d of 40 frames, report %+v", len(got), r)
	}
	fs.setFail(func(op, _ string) error {
		if strings.HasPrefix(op, "read") {
			return errDisk
		}
		return nil
	})
	edit(t, filepath.Join(dir, segments(t, dir)[0].name), func(p []byte) []byte { return append(p, make([]byte, maxDead*blockSize)...) })
	if _, err := Open(Options{Dir: dir, FS: fs}, Mark{}); err == nil {
		t.Error("a device that reads nothing opened as an empty journal")
	}
}
