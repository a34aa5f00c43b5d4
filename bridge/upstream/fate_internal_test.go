package upstream

import (
	"encoding/binary"
	"testing"

	"millrace/broker/record"
)

// A cursor that says it was told of what is behind it is of a partition that was cut since (an unclean election between two transactions of
// one connection, a cursor topic made anew): it proves nothing.
func TestNobodyWasToldOfWhatIsLater(t *testing.T) {
	f := telling{own: func(*CursorKey) bool { return true }, open: map[int64]int64{}}
	k := CursorKey{Board: "b", Link: "hq", Lane: "backfill", Topic: "s.a"}
	key, _ := k.Append(nil)
	c := Cursor{Upstream: "s.a", Next: 5, Last: 4, Told: 100}
	value, _ := c.Append(nil)
	at := func(offset int64, key, value []byte, control bool) record.Batch {
		b := record.NewBuilder(record.None)
		b.Add(0, key, value, nil)
		raw, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		binary.BigEndian.PutUint64(raw, uint64(offset))
		raw.SetProducer(2, 3, 0, true)
		if control {
			raw[22] |= 0x20
		}
		return raw
	}
	for _, b := range []record.Batch{at(55, key, value, false), at(56, []byte{0, 0, 0, 1}, nil, true)} {
		if err := f.batch(b); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.before(nil); got > 55 {
		t.Errorf("a cursor at 55 says that all before %d was acknowledged", got)
	}
}
