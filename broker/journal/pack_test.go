package journal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/s2"
	"pgregory.net/rapid"
)

// packFrame is a frame with packed entries, however little that saves.
func packFrame(index, id uint64, entries ...Entry) []byte {
	raw := encodeFrame(index, id, entries...)
	p := append(make([]byte, headerSize), s2.Encode(nil, raw[headerSize:])...)
	seal(p, index, id, len(entries), true)
	return p
}

// Packed or not, a frame holds what was put in; and what is decoded next does not change what it is.
func TestPackedFramesComeBackAsTheyWere(t *testing.T) {
	var d decoder
	rapid.Check(t, func(t *rapid.T) {
		entries := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Entry {
			e := everyKind[rapid.IntRange(0, len(everyKind)-1).Draw(t, "kind")]
			e.Topic = topic(rapid.Byte().Draw(t, "topic"))
			e.Base = rapid.Int64().Draw(t, "base")
			if e.Kind == Append {
				e.Bytes = bytes.Repeat(rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(t, "bytes"), rapid.IntRange(0, 60).Draw(t, "times"))
				e.Length = int32(len(e.Bytes))
			}
			return e
		}), 1, 30).Draw(t, "entries")
		frame := encodeFrame(3, 9, entries...)
		want := [][]byte{frame, packFrame(3, 9, entries...)}
		if packed, ok := pack(nil, frame); ok {
			seal(packed, 3, 9, len(entries), true)
			want = append(want, packed)
			if len(packed) >= len(frame) {
				t.Fatalf("packed to %d bytes from %d", len(packed), len(frame))
			}
		}
		for _, p := range want {
			if !d.check(p) || !reflect.DeepEqual(d.entries, entries) {
				t.Fatalf("decoded %+v, want %+v", d.entries, entries)
			}
		}
	})
}

func TestEveryFlippedBitOfAPackedFrameIsNoticed(t *testing.T) {
	var d decoder
	p := packFrame(42, 7, everyKind...)
	for bit := range len(p) * 8 {
		p[bit/8] ^= 1 << (bit % 8)
		if d.check(p) {
			t.Fatalf("bit %d flipped and the frame still counts", bit)
		}
		p[bit/8] ^= 1 << (bit % 8)
	}
	if !d.check(p) {
		t.Fatal("the frame itself is refused")
	}
}

// A build that knows no packed frames must not take one for a frame of its own: the count is impossible to it.
func TestPackedFrameIsNoneToABuildBefore(t *testing.T) {
	p := packFrame(1, 1, everyKind...)
	if count := binary.LittleEndian.Uint32(p[24:]); count <= (MaxFrame-headerSize)/minEntrySize {
		t.Errorf("count %d is a possible one", count)
	}
}

// A few bytes may say that they are gigabytes.
func TestBombsAreNotUnpacked(t *testing.T) {
	seal2 := func(block []byte, count int) []byte {
		p := append(make([]byte, headerSize), block...)
		seal(p, 1, 1, count, true)
		return p
	}
	huge := s2.Encode(nil, make([]byte, MaxFrame))
	for name, p := range map[string][]byte{
		"claims 4 GiB":                    seal2(binary.AppendUvarint(nil, 1<<32-1), 1),
		"claims 2^63":                     seal2(binary.AppendUvarint(nil, 1<<63), 1),
		"claims more than a frame":        seal2(huge, 1),
		"claims a frame, holds nothing":   seal2(binary.AppendUvarint(nil, MaxFrame-headerSize), 1),
		"more entries than bytes":         seal2(s2.Encode(nil, make([]byte, 100)), 5),
		"an endless length":               seal2(bytes.Repeat([]byte{0xff}, 20), 1),
		"nothing at all":                  seal2(nil, 1),
		"nothing at all, and no entry":    seal2(nil, 0),
		"bytes after the entries":         seal2(s2.Encode(nil, append(encodeFrame(1, 1, everyKind...)[headerSize:], 0)), len(everyKind)),
		"fewer entries than are claimed":  seal2(s2.Encode(nil, encodeFrame(1, 1, everyKind[5:]...)[headerSize:]), 3),
		"a snappy stream instead":         seal2([]byte("\xff\x06\x00\x00sNaPpY\x01\x04\x00\x00abcd"), 1),
		"a block cut short":               seal2(huge[:len(huge)/2], 1),
		"an entry of more than the block": seal2(s2.Encode(nil, encodeFrame(1, 1, everyKind[0])[headerSize:][:24]), 1),
	} {
		var d decoder
		if d.check(p) {
			t.Errorf("%s: counts as a frame", name)
		}
		if cap(d.unpacked) > MaxFrame {
			t.Errorf("%s: %d bytes allocated", name, cap(d.unpacked))
		}
		if strings.HasPrefix(name, "claims more") || strings.HasPrefix(name, "claims 4") || strings.HasPrefix(name, "claims 2") {
			if cap(d.unpacked) > 0 {
				t.Errorf("%s: %d bytes allocated before the claim was checked", name, cap(d.unpacked))
			}
		}
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(s2.Encode(nil, encodeFrame(1, 1, everyKind...)[headerSize:]), uint32(len(everyKind)))
	f.Add(s2.Encode(nil, make([]byte, 100<<10)), uint32(1))
	f.Add(binary.AppendUvarint(nil, 1<<40), uint32(1))
	f.Fuzz(func(t *testing.T, block []byte, count uint32) {
		count %= packedBit
		if len(block) > MaxFrame-headerSize {
			return
		}
		p := append(make([]byte, headerSize), block...)
		seal(p, 1, 1, int(count), true)
		var d decoder
		ok := d.check(p)
		if cap(d.unpacked) > MaxFrame {
			t.Fatalf("%d bytes allocated for a block of %d", cap(d.unpacked), len(block))
		}
		if !ok {
			return
		}
		// What counts is what the entries would be without packing.
		plain := encodeFrame(1, 1, d.entries...)
		var again decoder
		if !again.check(plain) || len(again.entries) != int(count) {
			t.Fatalf("%d entries unpacked, %d written again", len(d.entries), len(again.entries))
		}
	})
}

// readings are appends as a board of sensors makes them: each batch alike in all but its few bytes of reading.
func readings(n, reading int, rng *rand.Rand) (group []Entry) {
	for i := range n {
		b := append(bytes.Repeat([]byte("the same header of every batch, and its keys; "), 3), make([]byte, reading)...)
		for k := len(b) - reading; k < len(b); k++ {
			b[k] = byte(rng.Uint32())
		}
		group = append(group, record(int64(i), string(b)))
	}
	return group
}

func TestReadingsOfOneCommitArePacked(t *testing.T) {
	const seed = 5
	rng := rand.New(rand.NewPCG(seed, 5))
	dir := filepath.Join(t.TempDir(), "journal")
	j := run(t, Options{Dir: dir, PackMin: 512}, Mark{})
	var want []string
	commit := func(group []Entry) (frame int64) {
		was := j.Stats().FrameBytes
		gather(t, j, group)
		for _, e := range group {
			want = append(want, string(e.Bytes))
		}
		return j.Stats().FrameBytes - was
	}
	if got := commit(readings(50, 100, rng)); got > 50*150 {
		t.Errorf("50 readings of 100 bytes in a frame of %d", got)
	}
	if got := commit(readings(1, 100, rng)); got < 138+100 {
		t.Errorf("one reading in a frame of %d bytes: packing it saves nothing", got)
	}
	noise := make([]byte, 4000)
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	if got := commit([]Entry{record(0, string(noise))}); got < 4000 || got > 4100 {
		t.Errorf("4,000 bytes that do not shrink in a frame of %d", got)
	}
	expect(t, kill(t, dir), Mark{}, want...)
	shut(t, j)
	expect(t, dir, Mark{}, want...)
	if s := j.Stats(); s.InlineBytes < 50*238 {
		t.Errorf("batch bytes are counted as packed: %+v", s)
	}
}

// A board that is brought forward has frames of both kinds, in one file even.
func TestFramesOfBothKindsAreReadFromOneFile(t *testing.T) {
	dir := t.TempDir()
	var file []byte
	var want []string
	for i := range 20 {
		text := fmt.Sprintf("%d %s", i, strings.Repeat("abc", 30))
		frame := encodeFrame(uint64(i)+1, 7, record(int64(i), text))
		if i%3 > 0 {
			frame = packFrame(uint64(i)+1, 7, record(int64(i), text))
		}
		file = append(binary.AppendUvarint(file, uint64(len(frame))), frame...)
		want = append(want, text)
	}
	writeFile(t, filepath.Join(dir, walName(1)), file)
	if r := expect(t, dir, Mark{}, want...); r.Frames != 20 || r.TornBytes != 0 || r.DamagedBytes != 0 {
		t.Errorf("report %+v", r)
	}
	// Start rewrites the tail as it is; a second life reads it again.
	j := run(t, Options{Dir: dir}, Mark{})
	put(t, j, "last")
	shut(t, j)
	want = append(want, "one more", "last") // expect has left the first
	expect(t, dir, Mark{}, want...)
	want = append(want, "one more")
	// One flipped bit costs its frame.
	all := frames(t, dir)
	for _, i := range []int{4, 12} {
		flip(i, headerSize+9)(t, dir, nil, all)
	}
	if r := expect(t, dir, Mark{}, slices.Concat(want[:4], want[5:12], want[13:])...); !slices.Equal(r.Gaps, []Gap{{5, 5}, {13, 13}}) {
		t.Errorf("report %+v", r)
	}
}
