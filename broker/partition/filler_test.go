package partition

import (
	"testing"

	"millrace/broker/record"
)

func TestFillerComesInEverySize(t *testing.T) {
	const least = record.HeaderSize + 7 // the smallest batch with a record
	for n := least; n < least+20_000; n++ {
		b, err := filler(n, 5, 9, 3)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) != n || b.Check() != nil || b.BaseOffset() != 5 || b.NextOffset() != 10 || b.LeaderEpoch() != 3 || !b.Control() {
			t.Fatalf("size %d: %d bytes, %v, offsets %d to %d, epoch %d", n, len(b), b.Check(), b.BaseOffset(), b.LastOffset(), b.LeaderEpoch())
		}
		records := 0
		for _, err := range b.Records(1 << 20) {
			if err != nil {
				t.Fatalf("size %d: %v", n, err)
			}
			records++
		}
		if records != 1 {
			t.Fatalf("size %d: %d records", n, records)
		}
	}
}
