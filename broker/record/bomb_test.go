package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// allocated is how many bytes fn takes from the heap, given back or not, with empty pools.
func allocated(fn func()) int64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.GC() // the second one empties what the first spared of the pools
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

// bomb is a batch of n records of size bytes, of which next to nothing is left compressed.
func bomb(t testing.TB, codec Codec, n, size int) Batch {
	records := make([]Record, n)
	for i := range records {
		records[i] = Record{Timestamp: 1, Key: []byte("k"), Value: make([]byte, size), Headers: []Header{{"h", []byte("v")}}}
	}
	return Batch(bytes.Clone(build(t, codec, records...)))
}

func TestABombIsCheckedInLittleMemory(t *testing.T) {
	const allowed = 1 << 20
	huge := 48 << 20
	if testing.Short() {
		huge = 8 << 20
	}
	for _, codec := range codecs[1:] {
		var b Batch
		for _, tt := range []struct {
			name    string
			n, size int // as the one before: 0
			o       ValidateOptions
			want    error
		}{
			{"one record", 1, huge, ValidateOptions{}, ErrTooLarge},
			{"one record, and the topic takes such", 0, 0, ValidateOptions{MaxRecord: 64 << 20}, nil},
			{"a record just over the limit", 1, MaxRecord, ValidateOptions{}, ErrTooLarge},
			{"many records", 100, 60 << 10, ValidateOptions{}, nil},
			{"records within it", 2, MaxRecord - 100, ValidateOptions{}, nil},
			{"more than a batch may hold", 0, 0, ValidateOptions{MaxBytes: 6 << 20}, ErrTooLarge},
		} {
			if tt.n > 0 {
				b = bomb(t, codec, tt.n, tt.size)
			}
			var err error
			n := allocated(func() { err = b.Validate(tt.o) })
			t.Logf("%v, %s: batch of %d bytes, %d allocated, %v", codec, tt.name, len(b), n, err)
			if !errors.Is(err, tt.want) || tt.want == nil && err != nil {
				t.Errorf("%v, %s: %v, want %v", codec, tt.name, err, tt.want)
			}
			if n > allowed {
				t.Errorf("%v, %s: %d bytes allocated for a batch of %d", codec, tt.name, n, len(b))
			}
			n = allocated(func() {
				for _, err = range b.Stamps(DefaultMaxBytes) {
				}
			})
			if n > allowed {
				t.Errorf("%v, %s: %d bytes allocated to look for a time", codec, tt.name, n)
			}
		}
	}
}

func TestWhatIsNeededWholeIsBounded(t *testing.T) {
	for _, codec := range codecs[1:] {
		b := bomb(t, codec, 2, MaxRecord)
		n := allocated(func() {
			got, err := 0, error(nil)
			for r, e := range b.Records(DefaultMaxBytes) {
				if err = e; err == nil {
					got++
					if !r.Large || r.Value != nil || r.Timestamp != 1 {
						t.Errorf("%v: a record that is too large has %d bytes, Large is %v", codec, len(r.Value), r.Large)
					}
				}
			}
			if got != 2 || err != nil {
				t.Errorf("%v: %d records, %v", codec, got, err)
			}
		})
		if n > 1<<20 {
			t.Errorf("%v: %d bytes for records that are left out", codec, n)
		}
		b = bomb(t, codec, 2, MaxRecord-100)
		n = allocated(func() {
			for r, err := range b.Records(DefaultMaxBytes) {
				if err != nil || len(r.Value) != MaxRecord-100 {
					t.Errorf("%v: %d bytes, %v", codec, len(r.Value), err)
				}
			}
		})
		if n > 2*MaxRecord+1<<20 { // 4 MiB, and the halves of it on the way there
			t.Errorf("%v: %d bytes for records of %d", codec, n, MaxRecord)
		}
	}
	// Headers are small in a batch and large in memory.
	many := make([]Header, 200_000)
	b := build(t, None, Record{Headers: many[:MaxHeaders]}, Record{Headers: many}, Record{Value: []byte("v")})
	var large []bool
	n := allocated(func() {
		for r, err := range b.Records(DefaultMaxBytes) {
			if large = append(large, r.Large); err != nil {
				t.Error(err)
			}
		}
	})
	if fmt.Sprint(large) != "[false true false]" || n > 1<<20 {
		t.Errorf("records with many headers: large %v, %d bytes", large, n)
	}
}

// frames are what clients and others may send: the same bytes in frames that ask for more or less memory.
func frames(t testing.TB, codec Codec, src []byte) map[string][]byte {
	own, err := codec.Compress(nil, src)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string][]byte{"ours": own}
	switch codec {
	case LZ4:
		for _, size := range []lz4.BlockSize{lz4.Block64Kb, lz4.Block4Mb} {
			for _, sums := range []bool{false, true} {
				var out bytes.Buffer
				w := lz4.NewWriter(&out)
				if err := w.Apply(lz4.BlockSizeOption(size), lz4.BlockChecksumOption(sums), lz4.ChecksumOption(sums), lz4.SizeOption(uint64(len(src)))); err != nil {
					t.Fatal(err)
				}
				if _, err := w.Write(src); err != nil {
					t.Fatal(err)
				}
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				m[fmt.Sprintf("%v, checksums %v", size, sums)] = out.Bytes()
			}
		}
	case Zstd:
		for _, window := range []int{1 << 20, 2 << 20, 8 << 20} {
			var out bytes.Buffer
			w, err := zstd.NewWriter(&out, zstd.WithWindowSize(window), zstd.WithSingleSegment(false), zstd.WithEncoderConcurrency(1))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(struct{ io.Writer }{w}, bytes.NewReader(src)); err != nil {
				t.Fatal(err)
			}
			if err := w.Flush(); err != nil { // so that the frame is begun before the size is known
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			m[fmt.Sprintf("window of %d", window)] = out.Bytes()
		}
	case Snappy:
		m["bare"] = own[len(xerialHeader)+4:]
		if len(src) > xerialBlock {
			delete(m, "bare")
		}
	}
	return m
}

func TestADecoderTakesWhatItAllocates(t *testing.T) {
	for _, size := range []int{100, 20_000, 3 << 20} {
		src := bytes.Repeat([]byte("a reading of 21.5 degrees, "), size/27+1)[:size]
		for _, codec := range codecs[1:] {
			for name, packed := range frames(t, codec, src) {
				var cost int64
				out := make([]byte, 0, size+1)
				n := allocated(func() {
					s, err := codec.open(packed)
					if err != nil {
						t.Errorf("%v, %s: %v", codec, name, err)
						return
					}
					defer s.close()
					cost = s.cost
					for len(out) < cap(out) {
						n, err := s.Read(out[len(out):cap(out)])
						if out = out[:len(out)+n]; err != nil {
							break
						}
					}
				})
				if !bytes.Equal(out, src) {
					t.Errorf("%v, %s: %d of %d bytes", codec, name, len(out), len(src))
				}
				t.Logf("%v, %s, %d bytes: cost %d, allocated %d", codec, name, size, cost, n)
				if n > cost+64<<10 {
					t.Errorf("%v, %s, %d bytes: takes %d of the room and allocates %d", codec, name, size, cost, n)
				}
			}
		}
	}
	if used := decoding.Used(); used != 0 {
		t.Errorf("%d bytes of the room are still taken", used)
	}
}

// TestManyBombsAtOnce is what a peer can make with a few hundred bytes: batches that each ask for the largest window.
func TestManyBombsAtOnce(t *testing.T) {
	packed := frames(t, Zstd, make([]byte, 1000))["window of 8388608"]
	raw := append(make(Batch, HeaderSize), packed...)
	raw.putHeader(Zstd, 0, 1, 0, 0)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range 3 {
				if err := raw.Validate(ValidateOptions{}); !errors.Is(err, ErrCorrupt) { // zeros are no record
					t.Errorf("%v", err)
				}
			}
		})
	}
	wg.Wait()
	if g := decoding.Gauge(); g.Used != 0 || g.Peak < zstdMost || g.Peak > DecodeRoom {
		t.Errorf("of the room %d bytes are taken, %d at the most", g.Used, g.Peak)
	}
}

// TestAZstdWindowIsWhatABatchNeeds: what a frame names beyond that is not believed.
func TestAZstdWindowIsWhatABatchNeeds(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long under the race detector, and has one goroutine")
	}
	src := make([]byte, 6<<20)
	if _, err := rand.NewChaCha8([32]byte{1}).Read(src); err != nil {
		t.Fatal(err)
	}
	encode := func(src []byte, single bool) []byte {
		w, err := zstd.NewWriter(nil, zstd.WithWindowSize(32<<20), zstd.WithSingleSegment(single), zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close() //nolint:errcheck // it has written nothing
		return w.EncodeAll(src, nil)
	}
	for _, single := range []bool{false, true} {
		near := append(bytes.Clone(src), src[3<<20:]...) // reaches back 3 MiB
		if out, err := Zstd.Decompress(nil, encode(near, single), 1<<30); err != nil || !bytes.Equal(out, near) {
			t.Errorf("single segment %v: %d bytes, %v", single, len(out), err)
		}
		far := append(bytes.Clone(src), src[:1<<20]...) // 6 MiB
		if out, err := Zstd.Decompress(nil, encode(far, single), 1<<30); !errors.Is(err, ErrTooLarge) {
			t.Errorf("single segment %v: %d bytes that reach back 6 MiB, %v", single, len(out), err)
		}
	}
}

// zstdMost is what the largest decoder takes.
const zstdMost = zstdWindowMax + zstdCost

func TestASnappyBlockIsBounded(t *testing.T) {
	claim := binary.AppendUvarint(nil, snappyBlockMax+1)
	claim = append(claim, make([]byte, snappyBlockMax/snappyRatio+100)...)
	if _, err := Snappy.open(claim); !errors.Is(err, ErrTooLarge) {
		t.Errorf("%v", err)
	}
}

func TestLZ4FramesThatAreNone(t *testing.T) {
	good := frames(t, LZ4, bytes.Repeat([]byte("abcd"), 30_000))["ours"]
	with := func(at int, v byte) []byte { p := bytes.Clone(good); p[at] = v; return p }
	for name, p := range map[string][]byte{
		"empty": {}, "magic": with(0, 1), "legacy": append([]byte{0x02, 0x21, 0x4C, 0x18}, good[4:]...), "version": with(4, good[4]&0x3F),
		"dictionary": with(4, good[4]|lz4HasDict), "reserved": with(4, good[4]|lz4Reserved), "block size": with(5, 0x30), "no size": good[:7],
		"block cut short": good[:len(good)-6], "no end": good[:len(good)-4], "header only": good[:5],
	} {
		if out, err := LZ4.Decompress(nil, p, 1<<20); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %d bytes, %v", name, len(out), err)
		}
	}
	// Blocks that refer to those before them: Apache's clients write none, others have.
	src := make([]byte, 300<<10)
	for i := range src {
		src[i] = byte(i*i>>8) ^ byte(i)
	}
	copy(src[150<<10:], src[100<<10:200<<10])
	var table lz4.Compressor
	p := append([]byte{0x04, 0x22, 0x4D, 0x18, lz4Version, 4 << 4, 0}, []byte{}...)
	for at := 0; at < len(src); at += 64 << 10 {
		block := make([]byte, lz4.CompressBlockBound(64<<10))
		n, err := table.CompressBlock(src[at:min(at+64<<10, len(src))], block)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 { // does not shrink
			block, n = src[at:min(at+64<<10, len(src))], len(src[at:min(at+64<<10, len(src))])
			p = binary.LittleEndian.AppendUint32(p, uint32(n)|1<<31)
		} else {
			p = binary.LittleEndian.AppendUint32(p, uint32(n))
		}
		p = append(p, block[:n]...)
	}
	p = append(p, 0, 0, 0, 0)
	if out, err := LZ4.Decompress(nil, p, 1<<20); err != nil || !bytes.Equal(out, src) {
		t.Errorf("linked blocks: %d bytes, %v", len(out), err)
	}
	// One literal, and a match that reaches 5 bytes back into the block before.
	p = []byte{0x04, 0x22, 0x4D, 0x18, lz4Version, 4 << 4, 0, 5, 0, 0, 0x80, 'h', 'e', 'l', 'l', 'o'}
	p = append(p, 11, 0, 0, 0, 0x10, ' ', 6, 0, 0x50, 'w', 'o', 'r', 'l', 'd', 0)
	p = append(p[:len(p)-1], 0, 0, 0, 0)
	binary.LittleEndian.PutUint32(p[16:], 10)
	if out, err := LZ4.Decompress(nil, p, 1<<20); err != nil || string(out) != "hello hellworld" {
		t.Errorf("a match into the block before: %q, %v", out, err)
	}
}
