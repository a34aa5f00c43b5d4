package quorum

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/tidwall/wal"

	"millrace/broker/catalog"
	"millrace/broker/disk"
)

// Every row of the table of traps in tidwall/wal that touches a raft log. Each test first shows that the bare library walks
// into the trap, and then that the log does not.

// trapped is a log of 40 entries of 5,000 bytes in three files, each entry a write of its own.
func trapped(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	s, err := openLog(disk.OS{}, dir, &scanned{cut: make(map[string]int64)}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(40) {
		if err := s.StoreLog(&raft.Log{Index: i + 1, Term: 1, Data: bytes.Repeat([]byte{0xAA}, 5000)}); err != nil {
			t.Fatal(err)
		}
	}
	var starts []uint64
	for _, g := range s.segments {
		starts = append(starts, g.first)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(starts, []uint64{1, 15, 29}) {
		t.Fatalf("files begin with %v", starts)
	}
	return dir
}

// entryBytes is the size of one frame of trapped.
const entryBytes = 2 + entryHeader + 5000

// bare opens a copy of dir with tidwall/wal itself, reads all it claims to have and says what is wrong with it when it
// should have entries 1 to want.
func bare(t *testing.T, dir string, want uint64) (fault string) {
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
	l, err := wal.Open(at, &wal.Options{NoSync: true, AllowEmpty: true, SegmentSize: segmentSize})
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
	if first != 1 || last != want {
		return fmt.Sprintf("has %d to %d", first, last)
	}
	for i := first; i <= last; i++ {
		p, err := l.Read(i)
		var e raft.Log
		if err == nil {
			err = decodeEntry(p, &e)
		}
		if err != nil || e.Index != i {
			return fmt.Sprintf("entry %d: %v", i, err)
		}
	}
	return ""
}

func TestDamagedDirectoriesAreRepairedBeforeTheWALSeesThem(t *testing.T) {
	span := func(from, to uint64) (out []uint64) {
		for i := from; i <= to; i++ {
			out = append(out, i)
		}
		return out
	}
	edit := func(first uint64, change func(b []byte) []byte) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			name := filepath.Join(dir, segmentName(first))
			b, err := os.ReadFile(name)
			if err == nil {
				err = os.WriteFile(name, change(b), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	cut := func(n int) func(b []byte) []byte { return func(b []byte) []byte { return b[:n] } }
	flip := func(at int) func(b []byte) []byte { return func(b []byte) []byte { b[at] ^= 0x40; return b } }
	zero := func(from, to int) func(b []byte) []byte { return func(b []byte) []byte { clear(b[from:to]); return b } }
	lose := func(first uint64) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, segmentName(first))); err != nil {
				t.Fatal(err)
			}
		}
	}
	leave := func(names ...string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			for _, name := range names {
				if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	const tail = 12 // entries in the last file
	for _, tt := range []struct {
		name   string
		damage func(t *testing.T, dir string)
		want   []uint64
		holed  bool // a confirmed entry is missing before others: damage
		silent bool // the bare library cannot know, or is right
	}{
		{"tail cut inside an entry", edit(29, cut(tail*entryBytes-500)), span(1, 39), false, false},
		{"tail cut inside a length", edit(29, cut((tail-1)*entryBytes+1)), span(1, 39), false, false},
		{"tail cut between entries", edit(29, cut((tail-1)*entryBytes)), span(1, 39), false, true},
		{"tail emptied", edit(29, cut(0)), span(1, 28), false, true},
		{"tail missing", lose(29), span(1, 28), false, true},
		{"byte flipped in the last entry", edit(29, flip((tail-1)*entryBytes+100)), span(1, 39), false, false},
		{"byte flipped in the tail", edit(29, flip(3*entryBytes+100)), append(span(1, 31), span(33, 40)...), true, false},
		{"byte flipped in the middle", edit(15, flip(3*entryBytes+100)), append(span(1, 17), span(19, 40)...), true, false},
		{"byte flipped in the first entry", edit(1, flip(100)), span(2, 40), true, false},
		{"length flipped in the tail", edit(29, flip(3*entryBytes)), append(span(1, 31), span(33, 40)...), true, false},
		{"length flipped in the middle", edit(15, flip(3*entryBytes)), append(span(1, 17), span(19, 40)...), true, false},
		{"index flipped", edit(15, flip(3*entryBytes+2+15)), append(span(1, 17), span(19, 40)...), true, false},
		{"4096 zeros behind the tail", edit(29, func(b []byte) []byte { return append(b, make([]byte, 4096)...) }), span(1, 40), false, false},
		{"last 1500 bytes zeroed", edit(29, zero(tail*entryBytes-1500, tail*entryBytes)), span(1, 39), false, false},
		{"whole tail zeroed", edit(29, zero(0, tail*entryBytes)), span(1, 28), false, false},
		{"random bytes behind the tail", edit(29, func(b []byte) []byte { return append(b, 0xff, 0x81, 0x7a, entryMagic) }), span(1, 40), false, false},
		{"middle file truncated", edit(15, cut(5*entryBytes+500)), append(span(1, 19), span(29, 40)...), true, false},
		{"middle file short by one entry", edit(15, cut(13*entryBytes)), append(span(1, 27), span(29, 40)...), true, false},
		{"middle file missing", lose(15), append(span(1, 14), span(29, 40)...), true, false},
		{"first file missing", lose(1), span(15, 40), true, false},
		{".START left", leave(segmentName(20) + ".START"), span(1, 40), false, false},
		{".END left", leave(segmentName(15) + ".END"), span(1, 40), false, false},
		{".START and .END left", leave(segmentName(15)+".START", segmentName(29)+".END"), span(1, 40), false, false},
		{".START.TEMP left", leave(segmentName(15) + ".START.TEMP"), span(1, 40), false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := trapped(t)
			if fault := bare(t, dir, 40); fault != "" {
				t.Fatalf("undamaged, the library says %s", fault)
			}
			tt.damage(t, dir)
			if fault := bare(t, dir, tt.want[len(tt.want)-1]); (fault == "") != tt.silent {
				t.Errorf("the library says %q, expected to be trapped: %v", fault, !tt.silent)
			}
			read := func() (sc *scanned, got []uint64) {
				sc, err := scanLog(disk.OS{}, dir, 0, func(l *raft.Log) error {
					got = append(got, l.Index)
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				return sc, got
			}
			sc, got := read()
			if !slices.Equal(got, tt.want) || (len(sc.damage) > 0) != tt.holed {
				t.Fatalf("entries %v, damage %q; want %v", got, sc.damage, tt.want)
			}
			if tt.holed {
				return // recoverStores makes a snapshot of it and sets the files aside
			}
			s, err := openLog(disk.OS{}, dir, sc, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			next := sc.last + 1
			if err := errors.Join(s.StoreLog(&raft.Log{Index: next, Data: make([]byte, 70_000)}), s.StoreLog(&raft.Log{Index: next + 1}), s.Close()); err != nil {
				t.Fatal(err)
			}
			if _, got = read(); !slices.Equal(got, append(tt.want, next, next+1)) {
				t.Errorf("after two more entries %v", got)
			}
			if fault := bare(t, dir, next+1); fault != "" {
				t.Errorf("what the repair left, the library calls %s", fault)
			}
		})
	}
}

// spoilWAL puts the device that is always full in the place of the wal's own descriptor of its tail.
func spoilWAL(t *testing.T, s *logStore) {
	t.Helper()
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	tail := s.path(s.segments[len(s.segments)-1].first)
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	for _, e := range fds {
		var fd int
		if _, err := fmt.Sscan(e.Name(), &fd); err != nil || fd == int(s.tail.Fd()) {
			continue
		}
		if name, _ := os.Readlink("/proc/self/fd/" + e.Name()); name == tail {
			if err := syscall.Dup3(int(full.Fd()), fd, syscall.O_CLOEXEC); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatal("the wal has no descriptor of its tail")
}

// TestAFailedWriteIsNeverReadBack: the library keeps in memory what it could not write, answers reads with it, and writes
// the next entry behind half of it.
func TestAFailedWriteIsNeverReadBack(t *testing.T) {
	dir := t.TempDir()
	s, err := openLog(disk.OS{}, dir, &scanned{cut: make(map[string]int64)}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var failures []error
	s.failed = func(err error) { failures = append(failures, err) }
	want := ""
	check := func(index uint64, data string) {
		t.Helper()
		var l raft.Log
		if err := s.GetLog(index, &l); err != nil || string(l.Data) != data {
			t.Fatalf("entry %d is %q, %v; want %q", index, l.Data, err, data)
		}
	}
	for i := range uint64(20) {
		if i > 0 {
			spoilWAL(t, s)
			if err := s.StoreLogs([]*raft.Log{{Index: i + 1, Data: []byte("lost")}, {Index: i + 2, Data: make([]byte, 70_000)}}); !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("store on a full disk: %v", err)
			}
			if last, err := s.LastIndex(); err != nil || last != i {
				t.Fatalf("last index %d, %v; want %d", last, err, i)
			}
			if err := s.GetLog(i+1, &raft.Log{}); !errors.Is(err, raft.ErrLogNotFound) {
				t.Fatalf("the entry that was not written: %v", err)
			}
			check(i, want)
		}
		want = fmt.Sprint("kept ", i+1)
		if err := s.StoreLog(&raft.Log{Index: i + 1, Data: []byte(want)}); err != nil {
			t.Fatalf("store when there is room again: %v", err)
		}
		check(i+1, want)
	}
	if len(failures) != 19 {
		t.Errorf("%d failures told of: %v", len(failures), failures)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	sc, err := scanLog(disk.OS{}, dir, 0, func(l *raft.Log) error {
		if data := fmt.Sprint("kept ", l.Index); string(l.Data) != data {
			return fmt.Errorf("entry %d is %q", l.Index, l.Data)
		}
		return nil
	})
	if err != nil || sc.last != 20 || sc.torn != 0 || len(sc.damage) > 0 {
		t.Errorf("reopened: %+v, %v", sc, err)
	}
}

// TestReadsBesideWrites: two reads at once of the library's older files end the process.
func TestReadsBesideWrites(t *testing.T) {
	s, err := openLog(disk.OS{}, t.TempDir(), &scanned{cut: make(map[string]int64)}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for i := range uint64(200) {
		if err := s.StoreLog(&raft.Log{Index: i + 1, Data: make([]byte, 2000)}); err != nil {
			t.Fatal(err)
		}
		if i%50 == 49 {
			group.Go(func() {
				for at := uint64(1); at <= i; at++ {
					if err := s.GetLog(at, &raft.Log{}); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	group.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestADirectoryInTheLogStopsNoRepair: lost+found and the like are somebody else's.
func TestADirectoryInTheLogStopsNoRepair(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "lost+found", "x"), 0o750); err != nil {
		t.Fatal(err)
	}
	_, sc, _ := scanBytes(t, nil, 0)
	s, err := openLog(disk.OS{}, dir, sc, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.StoreLog(&raft.Log{Index: 1}); err != nil {
		t.Fatal(err)
	}
	spoilWAL(t, s)
	if err := s.StoreLog(&raft.Log{Index: 2}); err == nil {
		t.Fatal("stored on a full disk")
	}
	if err := errors.Join(s.StoreLog(&raft.Log{Index: 2}), s.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestCommandsTheMachineRefused: a command that was damaged before it became an entry was refused by the machine that
// wrote it, so it stops no start; one of a newer version does, by name, and costs nothing.
func TestCommandsTheMachineRefused(t *testing.T) {
	cfg := Config{Dir: filepath.Join(t.TempDir(), "quorum"), NodeID: 1}
	command, err := catalog.Encode(catalog.RegisterBroker{ID: 1, Host: "h"})
	if err != nil {
		t.Fatal(err)
	}
	damaged := slices.Clone(command)
	damaged[5] ^= 1
	newer := slices.Clone(command[:len(command)-4])
	newer[2] = 99
	newer = appendCRC(newer)
	open := func() (*Quorum, error) { return Open(cfg) }
	add := func(data ...[]byte) {
		t.Helper()
		dir := filepath.Join(cfg.Dir, logDir)
		sc, err := scanLog(disk.OS{}, dir, 0, func(*raft.Log) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		s, err := openLog(disk.OS{}, dir, sc, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		for i, b := range data {
			if err := s.StoreLog(&raft.Log{Index: sc.last + 1 + uint64(i), Term: 1, Type: raft.LogCommand, Data: b}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	q, err := open()
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	add(damaged, command, damaged)
	if q, err = open(); err != nil {
		t.Fatal(err)
	}
	if r := q.Report(); q.Image().Version() != 1 || len(r.Damage) != 2 || r.Lost {
		t.Errorf("version %d, report %+v", q.Image().Version(), r)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if c, err := Check(disk.OS{}, cfg.Dir); err != nil || c.Image.Version() != 1 || len(c.Lost) > 0 || len(c.Spare) != 2 {
		t.Errorf("check: %+v, %v", c, err)
	}
	add(newer, command)
	before, err := os.ReadDir(filepath.Join(cfg.Dir, logDir))
	if err != nil {
		t.Fatal(err)
	}
	if q, err = open(); !errors.Is(err, catalog.ErrNewer) {
		t.Errorf("open with a newer command: %v, %v", q, err)
	}
	after, err := os.ReadDir(filepath.Join(cfg.Dir, logDir))
	if err != nil || len(after) != len(before) {
		t.Errorf("log files %v, before %v, %v", after, before, err)
	}
}

// appendCRC appends a CRC32C as catalog's encoding does.
func appendCRC(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}
