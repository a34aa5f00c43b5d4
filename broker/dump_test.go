package broker

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"millrace/broker/catalog"
	"millrace/broker/disk"
	"millrace/broker/journal"
	"millrace/broker/partition"
	"millrace/broker/segment"
)

// The small files, whose whole meaning is in a few numbers: each dump's last line, and that damage is said.
func TestDumpOfIndexesSnapshotsAndSlots(t *testing.T) {
	dir, s := stopped(t)
	topic := filepath.Dir(s.Path())
	if err := segment.WriteSnapshot(disk.OS{}, topic, 20, []segment.ProducerState{
		{ID: 7}, {ID: 8, Epoch: 3, LastSequence: 4, LastOffset: 19, OffsetDelta: 2, LastTime: 1000},
	}); err != nil {
		t.Fatal(err)
	}
	slot := partition.Slot{Sequence: 5, Mark: journal.Mark{ID: 0xabc, Index: 6}, Partitions: []partition.SlotEntry{
		{Topic: catalog.TopicID{1}, Partition: 2, Segment: 10, Position: 11, Next: 20, Start: 3, Snapshot: -1},
	}}
	if err := os.WriteFile(partition.SlotPath(dir, 0), slot.Encode(), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		strings.TrimSuffix(s.Path(), segment.LogSuffix) + segment.TimeIndexSuffix: "timestamp=1019 offset=19",
		filepath.Join(topic, segment.SnapshotName(20)):                            "producer=8 epoch=3 lastSequence=4 lastOffset=19 offsetDelta=2 lastTime=1970-01-01T00:00:01Z",
		partition.SlotPath(dir, 0):                                                "topic=AQAAAAAAAAAAAAAAAAAAAA partition=2 segment=10 position=11 next=20 start=3 snapshot=-1",
	} {
		last := ""
		if err := Dump(disk.OS{}, path, false, func(l Line) error { last = l.String(); return nil }); err != nil || last != want {
			t.Errorf("%s ends in %q, %v; want %q", path, last, err, want)
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, raw[:len(raw)-1], 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Dump(disk.OS{}, path, false, func(Line) error { return nil }); !errors.Is(err, ErrDamage) {
			t.Errorf("%s, a byte less: %v", path, err)
		}
	}
}
