package partition

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"millrace/broker/journal"
	"millrace/broker/record"
)

// FuzzDecodeSlot: whatever bytes stand in a checkpoint slot, it is refused, or is what was written, bytes after it
// aside. A checksum that fits is given to each, since most bytes would end there.
func FuzzDecodeSlot(f *testing.F) {
	f.Add((Slot{}).Encode())
	f.Add((Slot{Sequence: 3, Mark: journal.Mark{ID: 7, Index: 9}, Partitions: []SlotEntry{{Partition: 1, Position: 1 << 40, Snapshot: -1}, {}}}).Encode())
	f.Fuzz(func(t *testing.T, p []byte) {
		p = slices.Clone(p)
		if len(p) >= slotHeaderSize {
			if size := int64(binary.BigEndian.Uint32(p[12:])); size >= 12 && size <= int64(len(p)) {
				binary.BigEndian.PutUint32(p[8:], record.Castagnoli(p[12:size]))
			}
		}
		s, err := DecodeSlot(p)
		if err != nil {
			if !errors.Is(err, ErrSlot) || s.Partitions != nil {
				t.Fatalf("%d partitions, %v", len(s.Partitions), err)
			}
			return
		}
		if again := s.Encode(); !slices.Equal(again, p[:len(again)]) {
			t.Fatalf("% x is read, and written as % x", p, again)
		}
	})
}
