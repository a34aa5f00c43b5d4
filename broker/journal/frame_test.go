package journal

import (
	"bytes"
	"math"
	"path/filepath"
	"reflect"
	"sync/atomic"
	"testing"

	"millrace/broker/disk"
)

var everyKind = []Entry{
	{Kind: Append, Topic: topic(1), Partition: 3, Segment: 1 << 40, Position: 77, Base: 1<<40 + 5, Length: 4, Bytes: []byte("data")},
	{Kind: Append, Topic: topic(2), Bytes: []byte{}},
	{Kind: Pointer, Topic: topic(3), Partition: math.MaxInt32, Segment: 9, Position: math.MaxInt64, Length: math.MaxInt32, CRC: 0xdeadbeef},
	{Kind: Truncate, Topic: topic(4), Segment: 5, Position: 6, Base: 7},
	{Kind: StartMoved, Topic: topic(5), Base: math.MinInt64},
	{Kind: TopicCreated, Topic: topic(6), Base: 12, Length: 4, Bytes: []byte("name")},
	{Kind: TopicDeleted, Topic: topic(7), Partition: -1},
}

func encodeFrame(index, id uint64, entries ...Entry) []byte {
	p := make([]byte, headerSize)
	for i := range entries {
		p = appendEntry(p, &entries[i])
	}
	seal(p, index, id, len(entries), false)
	return p
}

func TestFrameComesBackAsItWasWritten(t *testing.T) {
	p := encodeFrame(42, 7, everyKind...)
	var d decoder
	if !d.check(p) {
		t.Fatal("a whole frame is refused")
	}
	if !reflect.DeepEqual(d.entries, everyKind) {
		t.Errorf("decoded %+v\nwant    %+v", d.entries, everyKind)
	}
	for bit := range len(p) * 8 {
		p[bit/8] ^= 1 << (bit % 8)
		if d.check(p) {
			t.Fatalf("bit %d flipped and the frame still counts", bit)
		}
		p[bit/8] ^= 1 << (bit % 8)
	}
	for n := range len(p) {
		if d.check(p[:n]) {
			t.Fatalf("%d of %d bytes count as a frame", n, len(p))
		}
	}
}

// A count of two billion in a small frame must not be believed before it is allocated for.
func TestFrameWithAnImpossibleCountIsNotDecoded(t *testing.T) {
	p := encodeFrame(1, 1)
	for _, packed := range []bool{false, true} {
		var d decoder
		seal(p, 1, 1, math.MaxInt32, packed)
		if d.check(p) {
			t.Fatal("a frame without entries that claims two billion counts")
		}
		if n := testing.AllocsPerRun(10, func() { d.check(p) }); n > 0 {
			t.Errorf("%v allocations for a frame that is refused", n)
		}
	}
}

// What the caller knows of a pointer's bytes is not computed again, and not asked for when nobody wants it.
func TestCallerMayKnowTheChecksumOfAPointer(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	j := run(t, Options{Dir: dir, InlineMax: 1000}, Mark{})
	var syncs atomic.Int32
	asked := 0
	small, large := pointed(0, 0, 999, &syncs), pointed(1, 0, 1000, &syncs)
	small.Sum = func() uint32 { t.Error("asked for the checksum of an inline append"); return 0 }
	large.Sum = func() uint32 { asked++; return 0x1234 }
	gather(t, j, []Entry{small}, []Entry{large})
	shut(t, j)
	all := 0
	if _, err := Scan(disk.OS{}, dir, func(f FrameInfo) error {
		for _, e := range f.Entries {
			if all++; e.Kind == Pointer && e.CRC != 0x1234 {
				t.Errorf("CRC %08x", e.CRC)
			}
		}
		return nil
	}); err != nil || all != 2 || asked != 1 {
		t.Errorf("%d entries, asked %d times, %v", all, asked, err)
	}
}

func FuzzDecodeEntries(f *testing.F) {
	f.Add(encodeFrame(1, 1, everyKind...)[headerSize:], uint32(len(everyKind)))
	for i := range everyKind {
		f.Add(encodeFrame(1, 1, everyKind[i])[headerSize:], uint32(1))
	}
	f.Fuzz(func(t *testing.T, p []byte, count uint32) {
		if int64(count) > int64(len(p))/minEntrySize {
			return // sane refuses it before
		}
		entries, err := decodeEntries(nil, p, count)
		if err != nil {
			return
		}
		again := encodeFrame(1, 1, entries...)[headerSize:]
		back, err := decodeEntries(nil, again, count)
		if err != nil || !reflect.DeepEqual(back, entries) {
			t.Fatalf("%+v encodes to what decodes to %+v, %v", entries, back, err)
		}
		if len(again) > len(p) || len(again) == len(p) && !bytes.Equal(again, p) {
			t.Fatalf("encoding is not the shortest: %x from %x", again, p)
		}
	})
}
