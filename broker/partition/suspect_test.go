package partition

import (
	"math"
	"testing"

	"millrace/broker/record"
)

// A snapshot may know of more than the place where something is lost: what is noted from there on comes once more.
func TestSuspectForgetsWhatComesAgain(t *testing.T) {
	batch := func(producer, offset int64, seq int32) record.Batch {
		builder := record.NewBuilder(record.None)
		builder.Add(0, nil, []byte("v"), nil)
		b, err := builder.Build()
		if err != nil {
			t.Fatal(err)
		}
		b.SetProducer(producer, 0, seq, false)
		b.Stamp(offset, 0)
		return b
	}
	var s producers
	s.add(batch(1, 5, 0), 0, 0, math.MaxInt64)
	s.add(batch(2, 9, 0), 0, 0, math.MaxInt64)
	if gone := s.suspect(7); gone != 1 || s.byID[2] != nil || !s.dirty {
		t.Errorf("%d producers gone of %v, dirty %t", gone, s.byID, s.dirty)
	}
	if _, dup, err := s.admit(batch(1, 10, 4), 0, 0); dup || err != nil {
		t.Errorf("known by an older batch than was lost: duplicate %t, %v", dup, err)
	}
	s.rollback(6)
	s.add(batch(2, 6, 0), 0, 0, math.MaxInt64)
	if _, _, err := s.admit(batch(2, 10, 4), 0, 0); err == nil {
		t.Error("what was lost is cut off, and a producer of the new end is doubted")
	}
	if states := s.snapshot(10); len(states) != 1 || states[0].ID != 2 {
		t.Errorf("written down: %v", states)
	}
}
