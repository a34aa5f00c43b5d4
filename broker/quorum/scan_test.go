package quorum

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"

	"millrace/broker/disk"
)

// logFile is a log file with n entries in writes of two.
func logFile(n int) []byte {
	var b []byte
	for i := range n {
		e := appendEntry(nil, &raft.Log{Index: uint64(i + 1), Term: 1, Data: make([]byte, i%7)}, i%2)
		b = append(b, byte(len(e)))
		b = append(b, e...)
	}
	return b
}

func scanBytes(t testing.TB, files map[string][]byte, covered uint64) (string, *scanned, []uint64) {
	t.Helper()
	dir := t.TempDir()
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var indexes []uint64
	sc, err := scanLog(disk.OS{}, dir, covered, func(l *raft.Log) error {
		indexes = append(indexes, l.Index)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir, sc, indexes
}

// TestScan: what is torn, what is damage, and what was merely left over.
func TestScan(t *testing.T) {
	whole := logFile(6)
	size := len(whole)
	ends := []int{0}
	for at := 0; at < size; {
		at += 1 + int(whole[at])
		ends = append(ends, at)
	}
	flip := func(entry int) []byte {
		b := append([]byte(nil), whole...)
		b[ends[entry]-1] ^= 1
		b[ends[entry]-20] ^= 1
		return b
	}
	first, later := segmentName(1), func(n int) map[string][]byte {
		return map[string][]byte{segmentName(1): whole[:ends[n]], segmentName(5): whole[ends[4]:]}
	}
	for _, tt := range []struct {
		name    string
		files   map[string][]byte
		covered uint64
		last    uint64
		entries int
		damage  int
	}{
		{"whole", map[string][]byte{first: whole}, 0, 6, 6, 0},
		{"torn in the last entry", map[string][]byte{first: whole[:size-1]}, 0, 5, 5, 0},
		{"zeros behind", map[string][]byte{first: append(whole[:size:size], make([]byte, 5000)...)}, 0, 6, 6, 0},
		{"first of the last write is torn, the second whole", map[string][]byte{first: flip(5)}, 0, 4, 4, 0},
		{"a confirmed entry is damaged", map[string][]byte{first: flip(3)}, 0, 6, 5, 2},
		{"the next file follows", later(4), 0, 6, 6, 0},
		{"entries given anew in the next file", later(6), 0, 6, 6, 0},
		{"a confirmed entry is missing between files", later(3), 0, 6, 5, 1},
		{"the front is half removed", later(3), 4, 6, 5, 0},
		{"nothing but the next, empty file", map[string][]byte{first: whole[:ends[3]], segmentName(5): nil}, 0, 3, 3, 0},
		{"the front is missing", map[string][]byte{segmentName(5): whole[ends[4]:]}, 2, 6, 2, 1},
		{"the wal's own leftovers", map[string][]byte{first: whole, segmentName(3) + ".START": nil}, 0, 6, 6, 0},
	} {
		dir, sc, got := scanBytes(t, tt.files, tt.covered)
		if sc.last != tt.last || len(got) != tt.entries || len(sc.damage) != tt.damage {
			t.Errorf("%s: last %d, entries %v, damage %q; want last %d, %d entries, %d damaged", tt.name, sc.last, got, sc.damage, tt.last, tt.entries, tt.damage)
			continue
		}
		if tt.damage > 0 {
			continue
		}
		s, err := openLog(disk.OS{}, dir, sc, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		var l raft.Log
		if err := s.StoreLog(&raft.Log{Index: tt.last + 1, Data: []byte("next")}); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if err := s.GetLog(tt.last+1, &l); err != nil || string(l.Data) != "next" {
			t.Errorf("%s: read back %q, %v", tt.name, l.Data, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestLogRanges deletes the ways raft does: the front, a conflict at the back, everything.
func TestLogRanges(t *testing.T) {
	dir := t.TempDir()
	s, err := openLog(disk.OS{}, dir, &scanned{cut: make(map[string]int64)}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	store := func(from, to uint64) {
		t.Helper()
		var logs []*raft.Log
		for i := from; i <= to; i++ {
			logs = append(logs, &raft.Log{Index: i, Term: from, Data: make([]byte, 9000)})
		}
		if err := s.StoreLogs(logs); err != nil {
			t.Fatal(err)
		}
	}
	bounds := func(first, last uint64) {
		t.Helper()
		gotFirst, err := s.FirstIndex()
		if err != nil {
			t.Fatal(err)
		}
		gotLast, err := s.LastIndex()
		if err != nil || gotFirst != first || gotLast != last {
			t.Fatalf("log from %d to %d, %v; want %d to %d", gotFirst, gotLast, err, first, last)
		}
		for i := first; i <= last && first > 0; i++ {
			var l raft.Log
			if err := s.GetLog(i, &l); err != nil || l.Index != i {
				t.Fatalf("entry %d: %+v, %v", i, l.Index, err)
			}
		}
		if err := s.GetLog(last+1, &raft.Log{}); !errors.Is(err, raft.ErrLogNotFound) {
			t.Fatalf("entry %d: %v", last+1, err)
		}
	}
	remove := func(from, to uint64) {
		t.Helper()
		if err := s.DeleteRange(from, to); err != nil {
			t.Fatal(err)
		}
	}
	bounds(0, 0)
	store(51, 90) // a log may begin behind a snapshot
	bounds(51, 90)
	if err := s.StoreLog(&raft.Log{Index: 92}); err == nil {
		t.Error("a gap was stored")
	}
	remove(51, 80) // the older snapshot still needs it all
	bounds(51, 90)
	s.Keep(70)
	remove(51, 80) // whole files up to 70: eight entries each
	bounds(67, 90)
	remove(85, 90)
	bounds(67, 84)
	store(85, 88)
	bounds(67, 88)
	remove(67, 88)
	bounds(0, 0)
	store(200, 210)
	bounds(200, 210)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.StoreLog(&raft.Log{Index: 211}); !errors.Is(err, errLogClosed) {
		t.Errorf("store after close: %v", err)
	}
}

// FuzzScan: no bytes in a log file make the scan fail, and what it calls whole opens and goes on.
func FuzzScan(f *testing.F) {
	f.Add(logFile(4), uint8(0))
	f.Add(logFile(4)[:60], uint8(2))
	f.Add(make([]byte, 100), uint8(9))
	f.Fuzz(func(t *testing.T, b []byte, at uint8) {
		whole := logFile(4)
		cut := int(at) % len(whole)
		dir, sc, _ := scanBytes(t, map[string][]byte{segmentName(1): append(whole[:cut:cut], b...)}, 0)
		if len(sc.damage) > 0 {
			return
		}
		s, err := openLog(disk.OS{}, dir, sc, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.StoreLog(&raft.Log{Index: sc.last + 1}); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzVote: no bytes in the vote file make it fail to open, and what is set is there after a restart.
func FuzzVote(f *testing.F) {
	f.Add(make([]byte, 9000))
	f.Add([]byte("MRVT"))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, voteName), b, 0o600); err != nil {
			t.Fatal(err)
		}
		for term := range uint64(3) {
			s, _, _, err := openVote(disk.OS{}, dir)
			if err != nil {
				t.Fatal(err)
			}
			if have, err := s.GetUint64([]byte(keyTerm)); err != nil || term > 0 && have != term {
				t.Fatalf("term %d, %v; want %d", have, err, term)
			}
			if err := s.SetUint64([]byte(keyTerm), term+1); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
