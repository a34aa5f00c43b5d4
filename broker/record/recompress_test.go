package record

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

func TestRecompressKeepsEverythingButTheCodec(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		from, to := rapid.SampledFrom(codecs).Draw(rt, "from"), rapid.SampledFrom(codecs).Draw(rt, "to")
		var records []Record
		for range rapid.IntRange(1, 20).Draw(rt, "records") {
			records = append(records, drawRecord(rt))
		}
		records = append(records, Record{Timestamp: 1, Value: bytes.Repeat([]byte("compressible "), rapid.IntRange(0, 8000).Draw(rt, "repeats"))})
		b := Batch(bytes.Clone(build(t, from, records...)))
		b.SetProducer(rapid.Int64Range(0, 1000).Draw(rt, "producer"), rapid.Int16Range(0, 100).Draw(rt, "epoch"),
			rapid.Int32Range(0, 1000).Draw(rt, "sequence"), rapid.Bool().Draw(rt, "transactional"))
		if rapid.Bool().Draw(rt, "append time") {
			b.StampAppendTime(12345)
		}
		b.Stamp(rapid.Int64Range(0, 1<<40).Draw(rt, "base"), 3)
		before := bytes.Clone(b)
		size, err := b.Measure(ValidateOptions{Internal: true})
		if err != nil {
			rt.Fatal(err)
		}
		prefix := []byte("before")
		out, err := b.Recompress(prefix, to, RecompressedMax(size))
		if err != nil || !bytes.HasPrefix(out, prefix) || !bytes.Equal(b, before) {
			rt.Fatalf("%v to %v: %v, or what must stay was changed", from, to, err)
		}
		got := Batch(out[len(prefix):])
		if err := got.Check(); err != nil {
			rt.Fatal(err)
		}
		if err := got.Validate(ValidateOptions{Internal: true}); err != nil {
			rt.Fatal(err)
		}
		if got.Codec() != to || got.Attributes()&^codecMask != b.Attributes()&^codecMask {
			rt.Errorf("attributes %#x of %#x", got.Attributes(), b.Attributes())
		}
		// Of the header the length, the CRC and the codec may differ, and nothing else.
		for _, part := range [][2]int{{atBaseOffset, atLength}, {atLeaderEpoch, atCRC}, {atLastOffsetDelta, HeaderSize}} {
			if !bytes.Equal(got[part[0]:part[1]], b[part[0]:part[1]]) {
				rt.Errorf("header bytes %d to %d differ", part[0], part[1])
			}
		}
		want, err := collect(b, DefaultMaxBytes)
		if err != nil {
			rt.Fatal(err)
		}
		have, err := collect(got, DefaultMaxBytes)
		if err != nil || !reflect.DeepEqual(have, want) {
			rt.Errorf("%v to %v: other records, %v", from, to, err)
		}
		plain, err := got.Recompress(nil, None, RecompressedMax(size))
		if err != nil || int64(len(plain)-HeaderSize) != size {
			rt.Errorf("%d bytes decompressed, %d measured, %v", len(plain)-HeaderSize, size, err)
		}
	})
}

func TestRecompressIsBounded(t *testing.T) {
	size := 3 << 20
	if testing.Short() {
		size = 1 << 20
	}
	for _, from := range codecs[1:] {
		b := bomb(t, from, 8, size)
		for _, to := range codecs {
			if to == from {
				continue
			}
			const most = 1 << 20
			var out []byte
			var err error
			n := allocated(func() { out, err = b.Recompress(nil, to, most) })
			if to == None && !errors.Is(err, ErrTooLarge) {
				t.Errorf("%v to %v: %d bytes, %v", from, to, len(out), err)
			}
			if err == nil && len(out) > most {
				t.Errorf("%v to %v: %d bytes", from, to, len(out))
			}
			// The libraries of LZ4 and Snappy get what they work in from a pool for every block. Under the race detector a pool
			// drops a quarter of what it is given, so that there the sum of it says nothing of what is held at once.
			if n > 6<<20 && !raced {
				t.Errorf("%v to %v: %d bytes allocated", from, to, n)
			}
			t.Logf("%v to %v: %d bytes, %d allocated, %v", from, to, len(out), n, err)
		}
	}
}
