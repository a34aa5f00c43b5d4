package broker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"millrace/broker/disk"
	"millrace/broker/partition"
	"millrace/broker/record"
	"millrace/broker/segment"
)

// stopped is a data directory with one partition of 20 batches in one sealed segment, as a clean stop leaves it.
func stopped(t *testing.T) (dir string, s *segment.Segment) {
	t.Helper()
	dir = t.TempDir()
	if _, err := Format(disk.OS{}, dir, "", 1); err != nil {
		t.Fatal(err)
	}
	topic := filepath.Join(dir, "topics", "a-0")
	if err := os.MkdirAll(topic, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := segment.WriteMetadata(disk.OS{}, topic, [16]byte{1}); err != nil {
		t.Fatal(err)
	}
	s, err := segment.Create(disk.OS{}, topic, 0, segment.Config{IndexIntervalBytes: 256})
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(20) {
		b := record.NewBuilder(record.None)
		b.Add(1000+i, []byte("key"), []byte(strings.Repeat("v", 100)), nil)
		batch, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		batch.Stamp(i, 0)
		if _, err := s.Append(batch); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(s.Sync(), s.Seal(), s.Close()); err != nil {
		t.Fatal(err)
	}
	return dir, s
}

func checked(t *testing.T, dir string) *FsckReport {
	t.Helper()
	before := everything(t, dir)
	r, err := Fsck(disk.OS{}, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if after := everything(t, dir); !slices.Equal(before, after) {
		t.Errorf("fsck changed the directory: %v, then %v", before, after)
	}
	return r
}

// everything is each file with its bytes.
func everything(t *testing.T, dir string) (list []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		list = append(list, path+"\n"+string(raw))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func flip(t *testing.T, path string, at int64) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw[at] ^= 0x10
	if err := os.WriteFile(path, raw, 0o640); err != nil {
		t.Fatal(err)
	}
}

func TestFsckOfAGoodDirectory(t *testing.T) {
	dir, s := stopped(t)
	if r := checked(t, dir); len(r.Findings) != 0 || r.Batches != 20 || r.Segments != 1 || r.Partitions != 1 || r.Bytes != s.Size() {
		t.Errorf("%+v", r)
	}
	if _, err := Fsck(disk.OS{}, t.TempDir(), nil); !errors.Is(err, ErrNotFormatted) {
		t.Errorf("an empty directory: %v", err)
	}
}

func TestFsckNamesALogsDamage(t *testing.T) {
	dir, s := stopped(t)
	flip(t, s.Path(), s.Size()/2)
	r := checked(t, dir)
	if len(r.Findings) == 0 || !strings.Contains(r.Findings[0].Text, "damaged from byte") || r.Findings[0].Path != s.Path() {
		t.Fatalf("%+v", r)
	}
	// What follows the damage is checked too. Index entries of the lost batch may no longer fit.
	if r.Batches != 19 {
		t.Errorf("%d batches", r.Batches)
	}
}

// A recovery makes the segment anew that the checkpoint names, and may be cut before it removes it again.
func TestFsckMissesNothingOfASegmentBelowTheStart(t *testing.T) {
	for start := int64(19); start <= 20; start++ {
		dir, s := stopped(t)
		for n := range 2 {
			slot := partition.Slot{Sequence: uint64(n + 1), Partitions: []partition.SlotEntry{{
				Topic: [16]byte{1}, Position: s.Size(), Next: 20, Start: start, Snapshot: -1,
			}}}
			if err := os.WriteFile(partition.SlotPath(dir, n), slot.Encode(), 0o640); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Truncate(s.Path(), 0); err != nil {
			t.Fatal(err)
		}
		if r := checked(t, dir); r.Damaged() != (start < 20) {
			t.Errorf("start %d: %+v", start, r.Findings)
		}
	}
}

func TestFsckRepairsAnIndexThatLies(t *testing.T) {
	dir, s := stopped(t)
	index := strings.TrimSuffix(s.Path(), segment.LogSuffix) + segment.IndexSuffix
	flip(t, index, 7)
	r := checked(t, dir)
	if len(r.Findings) != 1 || r.Findings[0].Damage || r.Findings[0].Repair == "" || r.Findings[0].Path != index {
		t.Fatalf("%+v", r)
	}
	if err := r.Repair(disk.OS{}); err != nil || len(r.Findings) != 0 {
		t.Fatalf("%v, left %+v", err, r.Findings)
	}
	if r := checked(t, dir); len(r.Findings) != 0 {
		t.Errorf("after the repair: %+v", r)
	}
}

func TestFsckRepairsMetaFromItsCopy(t *testing.T) {
	dir, _ := stopped(t)
	flip(t, filepath.Join(dir, metaName), 10)
	r := checked(t, dir)
	if len(r.Findings) != 1 || r.Damaged() {
		t.Fatalf("%+v", r)
	}
	if err := r.Repair(disk.OS{}); err != nil {
		t.Fatal(err)
	}
	if r := checked(t, dir); len(r.Findings) != 0 {
		t.Errorf("after the repair: %+v", r)
	}
}

func TestFsckLeavesADirectoryInUseAlone(t *testing.T) {
	dir, _ := stopped(t)
	l, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Fsck(disk.OS{}, dir, nil); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("got %v", err)
	}
	if err := l.release(); err != nil {
		t.Fatal(err)
	}
	checked(t, dir)
}

func TestDumpSaysWhatIsThereAndWhereItEnds(t *testing.T) {
	_, s := stopped(t)
	count := func(path string, records bool) (lines int, last string, err error) {
		err = Dump(disk.OS{}, path, records, func(l Line) error {
			lines++
			last = l.String()
			return nil
		})
		return lines, last, err
	}
	if n, last, err := count(s.Path(), true); n != 40 || err != nil || !strings.Contains(last, `offset=19 timestamp=1019 key="key"`) {
		t.Errorf("%d lines, %v, last %s", n, err, last)
	}
	index := strings.TrimSuffix(s.Path(), segment.LogSuffix) + segment.IndexSuffix
	if n, _, err := count(index, false); n == 0 || err != nil {
		t.Errorf("index: %d lines, %v", n, err)
	}
	flip(t, s.Path(), s.Size()/2)
	if n, _, err := count(s.Path(), false); n != 10 || !errors.Is(err, ErrDamage) {
		t.Errorf("damaged: %d lines, %v", n, err)
	}
	dir := filepath.Dir(s.Path())
	for _, name := range []string{filepath.Join(dir, segment.MetadataName), filepath.Join(dir, "..", "..", metaName), filepath.Join(dir, "..", "..", metaCopy)} {
		if n, _, err := count(name, false); n == 0 || err != nil {
			t.Errorf("%s: %d lines, %v", name, n, err)
		}
		flip(t, name, 9)
		if n, _, err := count(name, false); n == 0 || !errors.Is(err, ErrDamage) {
			t.Errorf("%s, damaged: %d lines, %v", name, n, err)
		}
	}
	epochs := filepath.Join(dir, segment.EpochsName)
	for text, want := range map[string]error{"0\n1\n0 0\n": nil, "0\n2\n0 0\n": ErrDamage} {
		if err := os.WriteFile(epochs, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if n, _, err := count(epochs, false); n != 3 || !errors.Is(err, want) {
			t.Errorf("leader epochs %q: %d lines, %v, want %v", text, n, err, want)
		}
	}
	causes := filepath.Join(dir, segment.CausesName)
	if err := segment.WriteCauses(disk.OS{}, dir, []segment.CauseStart{{Start: 3, Cause: segment.DiskFull}}); err != nil {
		t.Fatal(err)
	}
	if n, _, err := count(causes, false); n != 4 || err != nil {
		t.Errorf("start causes: %d lines, %v", n, err)
	}
	flip(t, causes, 5)
	if n, _, err := count(causes, false); n != 4 || !errors.Is(err, ErrDamage) {
		t.Errorf("start causes, damaged: %d lines, %v", n, err)
	}
	odd := filepath.Join(t.TempDir(), "notes.txt")
	if err := os.WriteFile(odd, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := count(odd, false); !errors.Is(err, ErrNoDump) {
		t.Errorf("a stranger's file: %v", err)
	}
}

// A broker may have started while somebody read what a repair would do.
func TestNothingIsRepairedUnderARunningBroker(t *testing.T) {
	dir, s := stopped(t)
	index := strings.TrimSuffix(s.Path(), segment.LogSuffix) + segment.IndexSuffix
	if err := os.WriteFile(index, []byte("12345678"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := checked(t, dir)
	held, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	before := everything(t, dir)
	if err := r.Repair(disk.OS{}); err == nil || !strings.Contains(err.Error(), "running") {
		t.Errorf("Repair = %v, want a refusal", err)
	}
	if after := everything(t, dir); !slices.Equal(before, after) {
		t.Errorf("it changed the directory: %v, then %v", before, after)
	}
	if err := held.release(); err != nil {
		t.Fatal(err)
	}
	if err := r.Repair(disk.OS{}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(index); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the index that does not fit is still there: %v", err)
	}
}

func TestFsckRepairsATopicIndexThatLies(t *testing.T) {
	dir, s := stopped(t)
	s, err := segment.Create(disk.OS{}, filepath.Dir(s.Path()), 20, segment.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(5) {
		b := record.NewBuilder(record.None)
		for _, topic := range []string{"a/b", fmt.Sprint("c/", i)} {
			b.Add(1000+i, nil, make([]byte, 30_000), []record.Header{{Key: "mqtt.topic", Value: []byte(topic)}})
		}
		batch, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		batch.Stamp(20+2*i, 0)
		if _, err := s.Append(batch); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(s.Sync(), s.Seal(), s.Close()); err != nil {
		t.Fatal(err)
	}
	index := strings.TrimSuffix(s.Path(), segment.LogSuffix) + segment.TopicIndexSuffix
	good, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	if r := checked(t, dir); len(r.Findings) != 0 {
		t.Fatalf("%+v", r)
	}
	last := ""
	if err := Dump(disk.OS{}, index, false, func(l Line) error { last = l.String(); return nil }); err != nil || !strings.HasPrefix(last, "offset=28 next=30 position=") || !strings.HasSuffix(last, " topics=2 beginnings=2") {
		t.Errorf("the dump ends in %q, %v", last, err)
	}
	other := slices.Clone(good) // of the same log, if that had other topics
	other[8+28] ^= 1
	binary.BigEndian.PutUint32(other, record.Castagnoli(other[4:]))
	for what, raw := range map[string][]byte{"flipped": append([]byte{good[0] ^ 1}, good[1:]...), "other": other} {
		if err := os.WriteFile(index, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Dump(disk.OS{}, index, false, func(Line) error { return nil }); errors.Is(err, ErrDamage) != (what == "flipped") {
			t.Errorf("%s: the dump says %v", what, err)
		}
		r := checked(t, dir)
		if len(r.Findings) != 1 || r.Findings[0].Damage || r.Findings[0].Repair == "" || r.Findings[0].Path != index {
			t.Fatalf("%s: %+v", what, r)
		}
		if err := r.Repair(disk.OS{}); err != nil || len(r.Findings) != 0 {
			t.Fatalf("%s: %v, left %+v", what, err, r.Findings)
		}
	}
	if r := checked(t, dir); len(r.Findings) != 0 {
		t.Errorf("after the repair: %+v", r)
	}
}
