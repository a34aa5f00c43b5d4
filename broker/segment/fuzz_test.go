package segment

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"millrace/broker/record"
)

// FuzzParseSnapshot: whatever bytes stand in a .snapshot file, it is refused, or is what AppendSnapshot makes of its
// producers. A checksum that fits is given to each, since most bytes would end there.
func FuzzParseSnapshot(f *testing.F) {
	f.Add(AppendSnapshot(nil, nil))
	f.Add(AppendSnapshot(nil, []ProducerState{{ID: 7, TxnFirstOffset: -1}, {ID: 8, Epoch: 3, LastSequence: 1 << 30, LastOffset: 1 << 40}}))
	f.Add([]byte{0, 1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, p []byte) {
		p = slices.Clone(p)
		if len(p) >= afterCRC {
			binary.BigEndian.PutUint32(p[atSnapshotCRC:], record.Castagnoli(p[afterCRC:]))
		}
		states, err := ParseSnapshot(p)
		if err != nil {
			if !errors.Is(err, ErrSnapshot) || states != nil {
				t.Fatalf("%d producers, %v", len(states), err)
			}
			return
		}
		if again := AppendSnapshot(nil, states); !slices.Equal(again, p) {
			t.Fatalf("% x is read, and written as % x", p, again)
		}
	})
}
