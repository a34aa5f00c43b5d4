package quorum_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"millrace/broker/catalog"
	"millrace/broker/disk"
	"millrace/broker/quorum"
)

// TestDamage flips a bit, cuts, zeroes or appends anywhere in any file of a stopped quorum, or takes the file away. It always
// opens. What is not touched is there: of the topics at most those are missing whose commands lay in the damaged place, and a loss behind
// which something whole lies is reported.
func TestDamage(t *testing.T) {
	rng := random(t)
	origin := filepath.Join(t.TempDir(), "origin")
	q := open(t, quorum.Config{Dir: origin})
	propose(t, q, register())
	for i := range 300 { // several log files; snapshots too, with the settings below
		propose(t, q, topic(i))
	}
	for i := range 60 {
		propose(t, q, bulk(topic(i).ID, 4000))
	}
	for i := range 40 {
		propose(t, q, topic(300+i))
	}
	live := q.Image()
	shut(t, q)
	var files []string
	newest := "" // of the log's
	err := filepath.WalkDir(origin, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, strings.TrimPrefix(path, origin))
			if strings.HasPrefix(files[len(files)-1], "/log/") {
				newest = files[len(files)-1]
			}
		}
		return err
	})
	if err != nil || len(files) < 4 {
		t.Fatalf("files %v, %v", files, err)
	}
	silent, rounds := 0, 150
	if testing.Short() {
		rounds = 50
	}
	for i := range rounds {
		dir := filepath.Join(t.TempDir(), fmt.Sprint(i))
		if err := os.CopyFS(dir, os.DirFS(origin)); err != nil {
			t.Fatal(err)
		}
		name := files[rng.IntN(len(files))]
		b, err := os.ReadFile(dir + name)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) == 0 {
			continue
		}
		at := rng.IntN(len(b))
		what := fmt.Sprintf("%s: bit flipped at %d of %d", name, at, len(b))
		// cut: the end of the file is missing. wide: more than one command may be damaged.
		cut, wide := false, false
		switch rng.IntN(8) {
		case 0, 1:
			what = fmt.Sprintf("%s: cut at %d of %d", name, at, len(b))
			b, cut = b[:at], true
		case 2:
			what = fmt.Sprintf("%s: zeros from %d of %d on", name, at, len(b))
			clear(b[at:])
			wide = true
		case 3:
			what = fmt.Sprintf("%s: a block of zeros at %d of %d", name, at, len(b))
			clear(b[at:min(at+4096, len(b))])
			wide = true
		case 4:
			what = fmt.Sprintf("%s: garbage behind %d", name, len(b))
			for range at + 1 {
				b = append(b, byte(rng.Uint32()))
			}
		case 5:
			what, cut = name+": missing", true
		default:
			b[at] ^= 1 << rng.IntN(8)
		}
		err = os.Remove(dir + name)
		if err == nil && !strings.HasSuffix(what, "missing") {
			err = os.WriteFile(dir+name, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		q, err := quorum.Open(quorum.Config{Dir: dir, NodeID: 1})
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		got, r := q.Image(), q.Report()
		missing := 0
		for topic := range live.Topics() {
			if got.Topic(topic.Name) == nil {
				missing++
			}
		}
		reported := len(r.Damage) > 0 || r.Torn > 0
		switch {
		case r.Lost:
			t.Errorf("%s: everything is lost: %+v", what, r)
		case missing > 1 && !cut && !wide:
			t.Errorf("%s: %d topics are missing: %+v", what, missing, r)
		case !got.Equal(live) && !reported:
			silent++
			if !cut || name != newest { // cut between two entries it looks as if nothing had been written behind them
				t.Errorf("%s: version %d of %d and nothing reported", what, got.Version(), live.Version())
			}
		}
		// It goes on as if nothing had happened, and comes back.
		propose(t, q, catalog.CreateTopic{Name: "after", ID: catalog.TopicID{0xff}, Partitions: topic(0).Partitions})
		after := q.Image()
		shut(t, q)
		if q, err = quorum.Open(quorum.Config{Dir: dir, NodeID: 1}); err != nil {
			t.Errorf("%s: second start: %v", what, err)
			continue
		}
		if !q.Image().Equal(after) {
			t.Errorf("%s: second start has another image", what)
		}
		if r := q.Report(); len(r.Damage) > 0 && !strings.HasPrefix(name, "/vote") {
			t.Errorf("%s: second start reports again %+v", what, r)
		}
		shut(t, q)
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d of %d could not be told from an older state", silent, rounds)
}

// badBlock is a disk with a block of 4 KiB that cannot be read, in the file whose name ends so.
type badBlock struct {
	disk.FS
	suffix string
	at     int64
}

func (b badBlock) OpenFile(name string, flag int, perm os.FileMode) (disk.File, error) {
	f, err := b.FS.OpenFile(name, flag, perm)
	if err == nil && strings.HasSuffix(name, b.suffix) {
		return badFile{f, b.at}, nil
	}
	return f, err
}

type badFile struct {
	disk.File
	at int64
}

func (f badFile) ReadAt(p []byte, off int64) (int, error) {
	if off < f.at+4096 && f.at < off+int64(len(p)) {
		return 0, syscall.EIO
	}
	return f.File.ReadAt(p, off)
}

// TestBadBlocks: a block that cannot be read costs what lies in it, and stops no start.
func TestBadBlocks(t *testing.T) {
	origin := filepath.Join(t.TempDir(), "origin")
	live := withSnapshots(t, origin)
	logs, err := filepath.Glob(filepath.Join(origin, "log", "*"))
	if err != nil || len(logs) < 3 {
		t.Fatalf("log %v, %v", logs, err)
	}
	for _, bad := range []badBlock{
		{suffix: "/vote", at: 0},
		{suffix: "/vote", at: 4096},
		{suffix: snapshots(t, origin)[0], at: 0},
		{suffix: snapshots(t, origin)[1], at: 0},
		{suffix: logs[0], at: 8192},
		{suffix: logs[len(logs)-1], at: 0},
	} {
		bad.FS, bad.suffix = disk.OS{}, strings.TrimPrefix(bad.suffix, origin)
		dir := filepath.Join(t.TempDir(), "quorum")
		if err := os.CopyFS(dir, os.DirFS(origin)); err != nil {
			t.Fatal(err)
		}
		q := open(t, quorum.Config{Dir: dir, FS: bad})
		r := q.Report()
		if same, newest := q.Image().Equal(live), bad.suffix == strings.TrimPrefix(logs[len(logs)-1], origin); same == newest || r.Lost {
			t.Errorf("block %d of %s: version %d of %d, %+v", bad.at, bad.suffix, q.Image().Version(), live.Version(), r)
		}
		propose(t, q, register())
		shut(t, q)
	}
}

// TestEverythingGone: a directory that held a catalog and holds none now is reported as a loss, and works.
func TestEverythingGone(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		q := open(t, quorum.Config{Dir: dir})
		shut(t, q)
	}
	if err := os.RemoveAll(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	q := open(t, quorum.Config{Dir: dir})
	if r := q.Report(); !r.Lost || r.Fresh {
		t.Errorf("report %+v, want a loss", r)
	}
	propose(t, q, register())
}

// TestForeignFilesOfTheWAL: what the wal's own truncation leaves would make it drop entries or fail; we never call it.
func TestForeignFilesOfTheWAL(t *testing.T) {
	for _, name := range []string{"00000000000000000003.START", "00000000000000000001.END", "00000000000000000002.START.TEMP"} {
		dir := t.TempDir()
		q := open(t, quorum.Config{Dir: dir})
		propose(t, q, register())
		propose(t, q, topic(1))
		live := q.Image()
		shut(t, q)
		if err := os.WriteFile(filepath.Join(dir, "log", name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		q = open(t, quorum.Config{Dir: dir})
		if !q.Image().Equal(live) {
			t.Errorf("with %s: version %d, want %d", name, q.Image().Version(), live.Version())
		}
	}
}

// TestZerosBehindTheLog: the wal takes them for entries without content.
func TestZerosBehindTheLog(t *testing.T) {
	dir := t.TempDir()
	q := open(t, quorum.Config{Dir: dir})
	propose(t, q, register())
	live := q.Image()
	shut(t, q)
	name := filepath.Join(dir, "log", "00000000000000000001")
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, append(b, make([]byte, 4096)...), 0o600); err != nil {
		t.Fatal(err)
	}
	q = open(t, quorum.Config{Dir: dir})
	if !q.Image().Equal(live) || q.Report().Torn != 4096 {
		t.Errorf("version %d, want %d; report %+v", q.Image().Version(), live.Version(), q.Report())
	}
	propose(t, q, topic(1))
}
