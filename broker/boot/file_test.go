package boot

import (
	"encoding/binary"
	"errors"
	"math"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"millrace/broker/record"
)

func drawTable(t *rapid.T) *Table {
	n := rapid.Int64Range(0, math.MaxInt64/4)
	table := &Table{Boot: n.Draw(t, "boot"), Floor: n.Draw(t, "floor")}
	open := rapid.IntRange(-1, 3).Draw(t, "open")
	for i := range rapid.IntRange(0, 4).Draw(t, "eras") {
		floor := n.Draw(t, "floor")
		e := Era{
			Kind: Kind(rapid.IntRange(0, 2).Draw(t, "kind")), Boot: n.Draw(t, "boot"), Wall: rapid.Int64().Draw(t, "wall"),
			Floor: floor, From: rapid.Int64Range(floor, math.MaxInt64/4).Draw(t, "from"), Length: rapid.Int64Range(-1, math.MaxInt64/4).Draw(t, "length"),
			Correction: rapid.Int64().Draw(t, "correction"), Known: rapid.Bool().Draw(t, "known"), Ceiling: rapid.Int64().Draw(t, "ceiling"),
			Open: i == open, Ranges: []Range{},
		}
		for range rapid.IntRange(0, 3).Draw(t, "ranges") {
			first := n.Draw(t, "first")
			e.Ranges = append(e.Ranges, Range{place(byte(rapid.IntRange(0, 255).Draw(t, "place"))), first, first + 1})
		}
		table.Eras = append(table.Eras, e)
	}
	return table
}

func TestATableIsReadAsItWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want, sequence := drawTable(t), rapid.Uint64().Draw(t, "sequence")
		raw := encode(want, sequence)
		got, s, err := decode(append(raw, "left by a longer one"...))
		if err != nil || s != sequence || !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v, %d, %v; want %+v, %d", got, s, err, want, sequence)
		}
		at := rapid.IntRange(0, len(raw)-1).Draw(t, "at")
		if _, _, err := decode(raw[:at]); !errors.Is(err, errFile) {
			t.Fatalf("%d of %d bytes: %v", at, len(raw), err)
		}
		raw[at] ^= byte(1 << rapid.IntRange(0, 7).Draw(t, "bit"))
		if _, _, err := decode(raw); !errors.Is(err, errFile) {
			t.Fatalf("a bit of byte %d: %v", at, err)
		}
	})
}

// What has a right checksum and is nonsense all the same takes no memory and does no harm.
func TestANonsensicalTableIsRefused(t *testing.T) {
	good := &Table{Eras: []Era{{Floor: 5, From: 6, Length: -1, Ceiling: unknown, Ranges: []Range{{place(1), 0, 9}}}}}
	for name, spoil := range map[string]func(raw []byte) []byte{
		"eras": func(raw []byte) []byte { binary.BigEndian.PutUint32(raw[40:], 1<<31); return raw },
		"ranges": func(raw []byte) []byte {
			binary.BigEndian.PutUint32(raw[headerSize+eraSize-4:], math.MaxUint32)
			return raw
		},
		"kind":    func(raw []byte) []byte { raw[headerSize] = 9; return raw },
		"floor":   func(raw []byte) []byte { binary.BigEndian.PutUint64(raw[headerSize+26:], 7); return raw },
		"length":  func(raw []byte) []byte { binary.BigEndian.PutUint64(raw[headerSize+34:], 1<<63); return raw },
		"end":     func(raw []byte) []byte { binary.BigEndian.PutUint64(raw[len(raw)-8:], 0); return raw },
		"more":    func(raw []byte) []byte { return append(raw, 0) },
		"version": func(raw []byte) []byte { raw[7] = 2; return raw },
	} {
		raw := spoil(encode(good, 1))
		binary.BigEndian.PutUint32(raw[12:], uint32(len(raw)))
		binary.BigEndian.PutUint32(raw[8:], record.Castagnoli(raw[12:]))
		if got, _, err := decode(raw); !errors.Is(err, errFile) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if _, _, err := decode(encode(good, 1)); err != nil {
		t.Error(err)
	}
}
