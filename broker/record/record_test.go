package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

var codecs = []Codec{None, Gzip, Snappy, LZ4, Zstd}

func build(tb testing.TB, codec Codec, records ...Record) Batch {
	tb.Helper()
	b := NewBuilder(codec)
	for _, r := range records {
		b.Add(r.Timestamp, r.Key, r.Value, r.Headers)
	}
	batch, err := b.Build()
	if err != nil {
		tb.Fatal(err)
	}
	return batch
}

// collect copies the records out.
func collect(b Batch, limit int) (records []Record, err error) {
	for r, err := range b.Records(limit) {
		if err != nil {
			return records, err
		}
		r.Key, r.Value = bytes.Clone(r.Key), bytes.Clone(r.Value)
		headers := r.Headers
		r.Headers = nil
		for _, h := range headers {
			r.Headers = append(r.Headers, Header{Key: h.Key, Value: bytes.Clone(h.Value)})
		}
		records = append(records, r)
	}
	return records, nil
}

func drawRecord(rt *rapid.T) Record {
	nullable := func(label string) []byte {
		if rapid.Bool().Draw(rt, label+" null") {
			return nil
		}
		return append([]byte{}, rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(rt, label)...)
	}
	r := Record{Timestamp: rapid.Int64Range(0, math.MaxInt64/2).Draw(rt, "ts"), Key: nullable("key"), Value: nullable("value")}
	for range rapid.IntRange(0, 3).Draw(rt, "headers") {
		r.Headers = append(r.Headers, Header{Key: rapid.String().Draw(rt, "name"), Value: nullable("header")})
	}
	return r
}

func same(a, b Record) bool {
	if a.Offset != b.Offset || a.Timestamp != b.Timestamp || !bytes.Equal(a.Key, b.Key) || (a.Key == nil) != (b.Key == nil) ||
		!bytes.Equal(a.Value, b.Value) || (a.Value == nil) != (b.Value == nil) || len(a.Headers) != len(b.Headers) {
		return false
	}
	for i := range a.Headers {
		if a.Headers[i].Key != b.Headers[i].Key || !bytes.Equal(a.Headers[i].Value, b.Headers[i].Value) ||
			(a.Headers[i].Value == nil) != (b.Headers[i].Value == nil) {
			return false
		}
	}
	return true
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		records := rapid.SliceOfN(rapid.Custom(drawRecord), 1, 20).Draw(rt, "records")
		b := bytes.Clone(build(t, rapid.SampledFrom(codecs).Draw(rt, "codec"), records...))
		base := rapid.Int64Range(0, math.MaxInt64/2).Draw(rt, "base")
		batch := Batch(b)
		batch.Stamp(base, 7)
		if err := batch.Check(); err != nil {
			rt.Fatal(err)
		}
		crc := batch.CRC()
		if err := batch.Validate(ValidateOptions{}); err != nil {
			rt.Fatal(err)
		}
		if batch.CRC() != crc {
			rt.Fatal("Validate changed a batch with the right max timestamp")
		}
		got, err := collect(batch, 1<<20)
		if err != nil || len(got) != len(records) {
			rt.Fatalf("%d records, %v; want %d", len(got), err, len(records))
		}
		for i, want := range records {
			want.Offset = base + int64(i)
			if !same(got[i], want) {
				rt.Fatalf("record %d: %+v, want %+v", i, got[i], want)
			}
		}
		if batch.NextOffset() != base+int64(len(records)) || batch.LeaderEpoch() != 7 {
			rt.Fatalf("next %d, epoch %d", batch.NextOffset(), batch.LeaderEpoch())
		}
	})
}

// kmsg is franz-go's generated reading of Kafka's schema: it must see what we wrote, and we what it wrote.
func TestAgainstKmsg(t *testing.T) {
	ours := build(t, None,
		Record{Timestamp: 1000, Key: []byte("k"), Value: []byte("v"), Headers: []Header{{"h", []byte("x")}, {"n", nil}}},
		Record{Timestamp: 900, Value: nil, Key: []byte{}})
	ours.SetProducer(5, 6, 7, true)
	ours.Stamp(40, 3)
	var theirs kmsg.RecordBatch
	if err := theirs.ReadFrom(ours); err != nil {
		t.Fatal(err)
	}
	if theirs.FirstOffset != 40 || theirs.PartitionLeaderEpoch != 3 || theirs.LastOffsetDelta != 1 || theirs.FirstTimestamp != 1000 ||
		theirs.MaxTimestamp != 1000 || theirs.ProducerID != 5 || theirs.ProducerEpoch != 6 || theirs.FirstSequence != 7 ||
		theirs.NumRecords != 2 || theirs.Attributes != transactionalBit || uint32(theirs.CRC) != ours.CRC() {
		t.Errorf("kmsg reads %+v", theirs)
	}
	if again := theirs.AppendTo(nil); !bytes.Equal(again, ours) {
		t.Errorf("kmsg writes\n%x, we wrote\n%x", again, []byte(ours))
	}

	// A batch made field by field from the schema.
	record := kmsg.NewRecord()
	record.TimestampDelta64, record.Key, record.Value = 3, []byte("key"), []byte("value")
	record.Headers = []kmsg.Header{{Key: "a", Value: []byte("b")}}
	body := record.AppendTo(nil)[1:] // the length is zero so far, one byte
	body = append(binary.AppendVarint(nil, int64(len(body))), body...)
	batch := kmsg.NewRecordBatch()
	batch.Magic, batch.NumRecords, batch.Records = 2, 1, body
	batch.FirstTimestamp, batch.MaxTimestamp, batch.ProducerID, batch.ProducerEpoch, batch.FirstSequence = 10, 13, -1, -1, -1
	batch.Length = int32(HeaderSize - prefixSize + len(body))
	raw := batch.AppendTo(nil)
	binary.BigEndian.PutUint32(raw[atCRC:], Castagnoli(raw[atAttributes:]))
	if err := Batch(raw).Check(); err != nil {
		t.Fatal(err)
	}
	if err := Batch(raw).Validate(ValidateOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err := collect(raw, 1<<10)
	want := Record{Timestamp: 13, Key: []byte("key"), Value: []byte("value"), Headers: []Header{{"a", []byte("b")}}}
	if err != nil || len(got) != 1 || !same(got[0], want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
}

// The files were written by Apache Kafka (testdata/Golden.java): what it wrote we read, and, uncompressed, write to
// the byte.
func TestGoldenFromKafka(t *testing.T) {
	var want []Record
	for i := range 50 {
		r := Record{Offset: 1000 + int64(i), Timestamp: 1_700_000_000_000 + int64(i)*3}
		if i%5 != 0 {
			r.Key = fmt.Appendf(nil, "key %d", i)
		}
		if i%7 != 0 {
			r.Value = fmt.Appendf(nil, "value %d %s", i, strings.Repeat("abc", i))
		}
		if i%3 == 0 {
			r.Headers = []Header{{"name", fmt.Appendf(nil, "h%d", i)}, {"null", nil}}
		}
		want = append(want, r)
	}
	for _, codec := range codecs {
		raw, err := os.ReadFile("testdata/" + codec.String() + ".batch")
		if err != nil {
			t.Fatal(err)
		}
		b, rest, err := Next(raw)
		if err != nil || len(rest) > 0 {
			t.Fatalf("%v: %d bytes left, %v", codec, len(rest), err)
		}
		if err := b.Check(); err != nil {
			t.Fatalf("%v: %v", codec, err)
		}
		if err := b.Validate(ValidateOptions{}); err != nil {
			t.Errorf("%v: %v", codec, err)
		}
		if b.Codec() != codec || b.BaseOffset() != 1000 || b.LastOffset() != 1049 || b.LeaderEpoch() != 9 || b.ProducerID() != 4711 ||
			b.ProducerEpoch() != 3 || b.BaseSequence() != 17 || b.Count() != 50 || b.MaxTimestamp() != want[49].Timestamp {
			t.Errorf("%v: header %x", codec, []byte(b[:HeaderSize]))
		}
		got, err := collect(b, 1<<20)
		if err != nil || len(got) != len(want) {
			t.Fatalf("%v: %d records, %v", codec, len(got), err)
		}
		for i := range want {
			if !same(got[i], want[i]) {
				t.Errorf("%v: record %d is %+v, want %+v", codec, i, got[i], want[i])
			}
		}
		if codec == None {
			ours := build(t, None, want...)
			ours.SetProducer(4711, 3, 17, false)
			ours.Stamp(1000, 9)
			if !bytes.Equal(ours, raw) {
				t.Errorf("we write\n%x, Kafka\n%x", []byte(ours), raw)
			}
		}
	}
}

func TestPartitionForKey(t *testing.T) {
	// Vectors of org.apache.kafka.common.utils.UtilsTest.testMurmur2.
	for key, want := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		if got := int32(murmur2([]byte(key))); got != want {
			t.Errorf("murmur2(%q) = %d, want %d", key, got, want)
		}
		if got, want := PartitionForKey([]byte(key), 7), (want&0x7fffffff)%7; got != want {
			t.Errorf("PartitionForKey(%q, 7) = %d, want %d", key, got, want)
		}
	}
}

func TestCheckFindsEveryBitFlip(t *testing.T) {
	b := build(t, None, Record{Timestamp: 1, Key: []byte("k"), Value: []byte("v")})
	for bit := range len(b) * 8 {
		at := bit / 8
		if at < atLength || at >= atLeaderEpoch && at < atMagic {
			continue // base offset and leader epoch: the segment's neighbours prove those
		}
		b[at] ^= 1 << (bit % 8)
		if b.Check() == nil {
			t.Errorf("bit %d of byte %d flipped, and Check is content", bit%8, at)
		}
		b[at] ^= 1 << (bit % 8)
	}
	for n := range len(b) {
		if _, _, err := Next(b[:n]); !errors.Is(err, ErrShort) {
			t.Errorf("Next of %d bytes: %v, want ErrShort", n, err)
		}
	}
}

// reseal computes the CRC after a test has changed the batch.
func reseal(b Batch) Batch {
	binary.BigEndian.PutUint32(b[atCRC:], Castagnoli(b[atAttributes:]))
	return b
}

func TestValidate(t *testing.T) {
	two := func() Batch {
		return bytes.Clone(build(t, None, Record{Timestamp: 100, Key: []byte("k"), Value: []byte("v")}, Record{Timestamp: 200, Value: []byte("w")}))
	}
	put32 := func(b Batch, at int, v int32) Batch {
		binary.BigEndian.PutUint32(b[at:], uint32(v))
		return reseal(b)
	}
	for _, tt := range []struct {
		name string
		b    Batch
		o    ValidateOptions
		want error
	}{
		{"good", two(), ValidateOptions{}, nil},
		{"no key in a compacted topic", two(), ValidateOptions{Compacted: true}, ErrInvalid},
		{"too early", two(), ValidateOptions{Earliest: 101}, ErrTimestamp},
		{"too late", two(), ValidateOptions{Latest: 199}, ErrTimestamp},
		{"in time", two(), ValidateOptions{Earliest: 100, Latest: 200}, nil},
		{"count over the records", put32(put32(two(), atCount, 3), atLastOffsetDelta, 2), ValidateOptions{}, ErrCorrupt},
		{"count under the records", put32(put32(two(), atCount, 1), atLastOffsetDelta, 0), ValidateOptions{}, ErrCorrupt},
		{"count of two billion", put32(put32(two(), atCount, math.MaxInt32), atLastOffsetDelta, math.MaxInt32-1), ValidateOptions{}, ErrCorrupt},
		{"count and last delta disagree", put32(two(), atLastOffsetDelta, 5), ValidateOptions{}, ErrInvalid},
		{"empty", Filler(0, 3, 1, 1), ValidateOptions{}, ErrInvalid},
		{"unknown codec", func() Batch { b := two(); b[atAttributes+1] |= 5; return reseal(b) }(), ValidateOptions{}, ErrCodec},
		{"control batch", func() Batch { b := two(); b[atAttributes+1] |= controlBit; return reseal(b) }(), ValidateOptions{}, ErrInvalid},
		{"append time", func() Batch { b := two(); b.StampAppendTime(5); return b }(), ValidateOptions{}, ErrTimestamp},
		{"sequence missing", func() Batch { b := two(); b.SetProducer(1, 0, -1, false); return b }(), ValidateOptions{}, ErrInvalid},
		{"transaction without producer", func() Batch { b := two(); b.SetProducer(-1, -1, -1, true); return b }(), ValidateOptions{}, ErrInvalid},
	} {
		if err := tt.b.Validate(tt.o); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	b := two()
	binary.BigEndian.PutUint64(b[atMaxTimestamp:], 5)
	if err := reseal(b).Validate(ValidateOptions{}); err != nil || b.MaxTimestamp() != 200 || b.Check() != nil {
		t.Errorf("a wrong max timestamp is not put right: %d, %v, %v", b.MaxTimestamp(), err, b.Check())
	}
}

func TestDecompressionIsBounded(t *testing.T) {
	bomb := make([]byte, 8<<20)
	if testing.Short() {
		bomb = bomb[:2<<20]
	}
	for _, codec := range codecs[1:] {
		packed, err := codec.Compress(nil, bomb)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := codec.Decompress(nil, packed, len(bomb)); err != nil || !bytes.Equal(out, bomb) {
			t.Errorf("%v: exactly the limit: %d bytes, %v", codec, len(out), err)
		}
		if _, err := codec.Decompress(nil, packed, len(bomb)-1); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%v: a byte over the limit: %v", codec, err)
		}
		b := bytes.Clone(build(t, codec, Record{Timestamp: 1, Value: bomb}))
		if _, err := collect(b, 1<<20); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%v: records over the limit: %v", codec, err)
		}
		if err := Batch(b).Validate(ValidateOptions{MaxBytes: 1 << 20}); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%v: Validate over the limit: %v", codec, err)
		}
		if _, err := codec.Decompress(nil, []byte("garbage"), 1000); err == nil {
			t.Errorf("%v: garbage was decompressed", codec)
		}
	}
}

func TestSnappyWithoutFraming(t *testing.T) {
	src := bytes.Repeat([]byte("abc"), 1000)
	framed := compressSnappy(nil, src)
	bare := framed[len(xerialHeader)+4:]
	if out, err := Snappy.Decompress(nil, bare, 1<<20); err != nil || !bytes.Equal(out, src) {
		t.Errorf("%d bytes, %v", len(out), err)
	}
	claim := binary.AppendUvarint(nil, 1<<30) // a gigabyte in five bytes
	if _, err := Snappy.Decompress(nil, claim, 1<<31-1); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a lying length: %v", err)
	}
}

func TestBuilderReusesItsMemory(t *testing.T) {
	for _, codec := range []Codec{None, Zstd, LZ4, Snappy} {
		b := NewBuilder(codec)
		value := bytes.Repeat([]byte("reading "), 40)
		batch := func() {
			b.Reset()
			for i := range int64(10) {
				b.Add(i, value[:8], value, nil)
			}
			if _, err := b.Build(); err != nil {
				t.Fatal(err)
			}
		}
		// The median, not the mean: the collector empties the pool of encoders now and then, and under the race detector a
		// pool drops a quarter of what it is given. Most batches find theirs all the same.
		allocs := make([]float64, 201)
		for i := range allocs {
			allocs[i] = testing.AllocsPerRun(1, batch)
		}
		slices.Sort(allocs)
		if most := allocs[len(allocs)/2]; most > 4 {
			t.Errorf("%v: %v allocations a batch", codec, most)
		}
	}
}

func FuzzBatch(f *testing.F) {
	for _, codec := range codecs {
		f.Add([]byte(build(f, codec, Record{Timestamp: 1, Key: []byte("k"), Value: bytes.Repeat([]byte("v"), 100), Headers: []Header{{"h", nil}}})))
	}
	f.Add([]byte(Filler(1, 5, 1, 1)))
	f.Fuzz(func(t *testing.T, p []byte) {
		for rest := p; ; {
			b, after, err := Next(rest)
			if err != nil {
				break
			}
			if len(after) >= len(rest) {
				t.Fatal("Next does not move on")
			}
			rest = after
			if b.Check() != nil {
				reseal(b) // most mutations stop at the CRC: look behind it as well
			}
			const limit = 1 << 16
			total := 0
			for r, err := range b.Records(limit) {
				if err == nil {
					if total += len(r.Key) + len(r.Value); total > limit && b.Codec() != None {
						t.Fatalf("%d bytes came out of a batch bounded to %d", total, limit)
					}
				}
			}
			if b.Validate(ValidateOptions{MaxBytes: limit}) == nil {
				if got, err := collect(b, limit); err != nil || len(got) != int(b.Count()) {
					t.Fatalf("valid, but %d of %d records: %v", len(got), b.Count(), err)
				}
				for _, codec := range []Codec{None, LZ4} {
					again, err := b.Recompress(nil, codec, RecompressedMax(limit))
					if err != nil {
						t.Fatalf("%v to %v: %v", b.Codec(), codec, err)
					}
					if n := len(again); Batch(again).Check() != nil || Batch(again).Validate(ValidateOptions{MaxBytes: limit}) != nil {
						t.Fatalf("%v to %v: %d bytes that are not valid", b.Codec(), codec, n)
					}
				}
			}
		}
	})
}

func BenchmarkValidate(b *testing.B) {
	for _, codec := range codecs {
		b.Run(codec.String(), func(b *testing.B) {
			records := make([]Record, 64)
			for i := range records {
				records[i] = Record{Timestamp: int64(i), Key: fmt.Appendf(nil, "key %d", i), Value: bytes.Repeat(fmt.Appendf(nil, "%d ", i), 300)}
			}
			batch := build(b, codec, records...)
			b.ReportAllocs()
			b.SetBytes(64 * 1024)
			for b.Loop() {
				if err := batch.Validate(ValidateOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkBuild(b *testing.B) {
	for _, codec := range codecs {
		b.Run(codec.String(), func(b *testing.B) {
			builder := NewBuilder(codec)
			value := bytes.Repeat([]byte(`{"t":21.5,"u":"C"} `), 10)
			b.ReportAllocs()
			for b.Loop() {
				builder.Reset()
				for i := range int64(20) {
					builder.Add(i, value[:8], value, nil)
				}
				if _, err := builder.Build(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCheck(b *testing.B) {
	batch := build(b, None, Record{Value: make([]byte, 16<<10)})
	b.SetBytes(int64(len(batch)))
	b.ReportAllocs()
	for b.Loop() {
		if err := batch.Check(); err != nil {
			b.Fatal(err)
		}
	}
}

func TestRecordsGoOnFromAPlace(t *testing.T) {
	for _, codec := range []Codec{None, Zstd} {
		builder := NewBuilder(codec)
		for i := range 100 {
			builder.Add(int64(i), []byte{byte(i)}, make([]byte, 50), nil)
		}
		b, err := builder.Build()
		if err != nil {
			t.Fatal(err)
		}
		if b.Codec() != codec {
			t.Fatalf("codec %d, want %d", b.Codec(), codec)
		}
		var place Place
		for stop := range int64(100) {
			for r, err := range b.RecordsFrom(&place, 1<<20) {
				if err != nil {
					t.Fatal(err)
				}
				if codec == None && r.Offset != max(stop-1, 0) && r.Offset != stop {
					t.Fatalf("went on at %d, stopped at %d", r.Offset, stop-1)
				}
				if r.Offset == stop {
					if r.Key[0] != byte(stop) || r.Timestamp != stop {
						t.Fatalf("record %d is %+v", stop, r)
					}
					break
				}
			}
		}
		n := 0
		for _, err := range b.RecordsFrom(&place, 1<<20) {
			if n++; err != nil {
				t.Fatal(err)
			}
		}
		if want := map[Codec]int{None: 1, Zstd: 100}[codec]; n != want {
			t.Errorf("codec %d: %d records from the last place, want %d", codec, n, want)
		}
	}
}
