package segment

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"pgregory.net/rapid"

	"millrace/broker/disk"
	"millrace/broker/record"
)

// batch builds a stamped batch of n records.
func batch(tb testing.TB, codec record.Codec, base int64, n int, ts int64, size int) record.Batch {
	tb.Helper()
	b := record.NewBuilder(codec)
	for i := range n {
		value := bytes.Repeat([]byte{byte(base), byte(i), 'x'}, size/3+1)[:size]
		b.Add(ts+int64(i), fmt.Appendf(nil, "k%d", i), value, nil)
	}
	built, err := b.Build()
	if err != nil {
		tb.Fatal(err)
	}
	built.Stamp(base, 3)
	return built
}

// logOf is a log of batches from offset base on, and where each starts.
func logOf(tb testing.TB, base int64, count int) (log []byte, batches []record.Batch) {
	tb.Helper()
	r := rand.New(rand.NewPCG(uint64(base), uint64(count)))
	ts := int64(1_000_000)
	for range count {
		b := batch(tb, record.None, base, 1+r.IntN(5), ts, 1+r.IntN(300))
		ts += int64(r.IntN(2000)) - 500
		log = append(log, b...)
		batches = append(batches, b)
		base = b.NextOffset()
	}
	return log, batches
}

func create(tb testing.TB, base int64, cfg Config) (*Segment, string) {
	tb.Helper()
	dir := tb.TempDir()
	s, err := Create(disk.OS{}, dir, base, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return s, dir
}

func reopen(tb testing.TB, dir string, base int64, cfg Config) *Segment {
	tb.Helper()
	s, err := Open(disk.OS{}, dir, base, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// bytesOf reads a span through Append and through its file, which must agree.
func bytesOf(tb testing.TB, p Span) []byte {
	tb.Helper()
	defer p.Release()
	out, err := p.Append(nil)
	if err != nil {
		tb.Fatal(err)
	}
	if fd, pos, ok := p.File(); ok != (p.Len() > 0) || ok && fd != p.file.file.Fd() || pos < 0 {
		tb.Fatalf("File() = %d, %d, %v for %d bytes", fd, pos, ok, p.Len())
	}
	if len(out) != p.Len() {
		tb.Fatalf("%d bytes, Len says %d", len(out), p.Len())
	}
	return out
}

// model is what a segment must look like: its batches in order.
type model struct {
	base    int64
	batches []record.Batch
}

func (m *model) log() []byte {
	var p []byte
	for _, b := range m.batches {
		p = append(p, b...)
	}
	return p
}

func (m *model) next() int64 {
	if n := len(m.batches); n > 0 {
		return m.batches[n-1].NextOffset()
	}
	return m.base
}

// read is what Read must give.
func (m *model) read(offset, limit int64, maxBytes int) []byte {
	var out []byte
	pos := int64(0)
	for _, b := range m.batches {
		end := pos + int64(len(b))
		if end > limit {
			break
		}
		if b.NextOffset() > offset {
			if len(out) > 0 && len(out)+len(b) > maxBytes {
				break
			}
			out = append(out, b...)
		}
		pos = end
	}
	return out
}

func (m *model) position(offset int64) int64 {
	pos := int64(0)
	for _, b := range m.batches {
		if b.NextOffset() > offset {
			return pos
		}
		pos += int64(len(b))
	}
	return pos
}

func (m *model) offsetForTime(ms int64) (int64, int64, bool) {
	for _, b := range m.batches {
		for r := range b.Records(1 << 20) {
			if r.Timestamp >= ms {
				return r.Offset, r.Timestamp, true
			}
		}
	}
	return 0, 0, false
}

func TestSegmentAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		base := rapid.Int64Range(0, 1<<40).Draw(rt, "base")
		handles := NewHandles(disk.OS{}, 3)
		cfg := Config{IndexIntervalBytes: rapid.SampledFrom([]int{100, 1000, 4096}).Draw(rt, "interval"), Handles: handles}
		s, err := Create(disk.OS{}, dir, base, cfg)
		if err != nil {
			rt.Fatal(err)
		}
		m := &model{base: base}
		boundary := func(label string) (int, int64) {
			n := rapid.IntRange(0, len(m.batches)).Draw(rt, label)
			return n, int64(len((&model{batches: m.batches[:n]}).log()))
		}
		grow := func(from int64) []record.Batch {
			var group []record.Batch
			for range rapid.IntRange(1, 20).Draw(rt, "batches") {
				codec := rapid.SampledFrom([]record.Codec{record.None, record.LZ4}).Draw(rt, "codec")
				b := batch(t, codec, from, rapid.IntRange(1, 4).Draw(rt, "records"), rapid.Int64Range(0, 5000).Draw(rt, "ts"),
					rapid.IntRange(0, 400).Draw(rt, "size"))
				group, from = append(group, bytes.Clone(b)), b.NextOffset()
			}
			return group
		}
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				group := grow(m.next())
				pos, err := s.Append((&model{batches: group}).log())
				if err != nil || pos != int64(len(m.log())) {
					rt.Fatalf("Append = %d, %v; want %d", pos, err, len(m.log()))
				}
				m.batches = append(m.batches, group...)
			},
			"replay": func(rt *rapid.T) {
				n, pos := boundary("from")
				group := m.batches[n:min(n+rapid.IntRange(0, 5).Draw(rt, "same"), len(m.batches))]
				if rapid.Bool().Draw(rt, "other") || len(group) == 0 {
					group = grow((&model{base: base, batches: m.batches[:n]}).next())
				}
				group = append([]record.Batch(nil), group...)
				if err := s.Put(pos, (&model{batches: group}).log()); err != nil {
					rt.Fatal(err)
				}
				m.batches = append(m.batches[:n:n], group...)
			},
			"truncate": func(rt *rapid.T) {
				n, pos := boundary("at")
				if err := s.Truncate(pos); err != nil {
					rt.Fatal(err)
				}
				m.batches = m.batches[:n:n]
			},
			"sync": func(rt *rapid.T) {
				if err := s.Sync(); err != nil {
					rt.Fatal(err)
				}
			},
			"reopen": func(rt *rapid.T) {
				if rapid.Bool().Draw(rt, "seal") {
					if err := s.Seal(); err != nil {
						rt.Fatal(err)
					}
				}
				if err := s.Truncate(s.Size()); err != nil {
					rt.Fatal(err)
				}
				if err := s.Close(); err != nil {
					rt.Fatal(err)
				}
				for _, suffix := range []string{IndexSuffix, TimeIndexSuffix} {
					path := filepath.Join(dir, fileName(base, suffix))
					switch rapid.IntRange(0, 4).Draw(rt, "index") {
					case 0:
						os.Remove(path)
					case 1:
						if p, err := os.ReadFile(path); err == nil && len(p) > 0 {
							at := rapid.IntRange(0, len(p)-1).Draw(rt, "byte")
							p[at] ^= 1 << rapid.IntRange(0, 7).Draw(rt, "bit")
							if err := os.WriteFile(path, p, 0o644); err != nil {
								rt.Fatal(err)
							}
						}
					case 2:
						if info, err := os.Stat(path); err == nil {
							if err := os.Truncate(path, rapid.Int64Range(0, info.Size()+30).Draw(rt, "cut")); err != nil {
								rt.Fatal(err)
							}
						}
					}
				}
				s = reopen(t, dir, base, cfg)
			},
			"read": func(rt *rapid.T) {
				offset := rapid.Int64Range(base, m.next()+1).Draw(rt, "offset")
				_, limit := boundary("limit")
				maxBytes := rapid.IntRange(0, 8000).Draw(rt, "max")
				span, err := s.Read(offset, limit, maxBytes)
				if err != nil {
					rt.Fatal(err)
				}
				got, want := bytesOf(t, span), m.read(offset, limit, maxBytes)
				// A span may end early, where the verified part of the log does, but never without a batch.
				if !bytes.HasPrefix(want, got) || len(got) == 0 && len(want) > 0 {
					rt.Fatalf("Read(%d, %d, %d): %d bytes, want %d", offset, limit, maxBytes, len(got), len(want))
				}
			},
			"find": func(rt *rapid.T) {
				offset := rapid.Int64Range(base, m.next()+1).Draw(rt, "offset")
				if got, err := s.Position(offset); err != nil || got != m.position(offset) {
					rt.Fatalf("Position(%d) = %d, %v; want %d", offset, got, err, m.position(offset))
				}
				ms := rapid.Int64Range(0, 5010).Draw(rt, "ms")
				offset, ts, ok, err := s.OffsetForTime(ms, s.Size())
				wantOffset, wantTS, wantOK := m.offsetForTime(ms)
				if err != nil || ok != wantOK || offset != wantOffset || ts != wantTS {
					rt.Fatalf("OffsetForTime(%d) = %d, %d, %v, %v; want %d, %d, %v", ms, offset, ts, ok, err, wantOffset, wantTS, wantOK)
				}
			},
			"": func(rt *rapid.T) {
				if s.Size() != int64(len(m.log())) {
					rt.Fatalf("size %d, want %d", s.Size(), len(m.log()))
				}
				if handles.Open() > 3 {
					rt.Fatalf("%d files open", handles.Open())
				}
				var got []byte
				valid, err := s.Scan(0, func(b record.Batch, pos int64) error {
					if pos != int64(len(got)) {
						rt.Fatalf("batch at %d, want %d", pos, len(got))
					}
					got = append(got, b...)
					return nil
				})
				if err != nil || valid != s.Size() || !bytes.Equal(got, m.log()) {
					rt.Fatalf("Scan = %d, %v: %d bytes, want %d", valid, err, len(got), len(m.log()))
				}
			},
		})
		if err := s.Remove(); err != nil {
			rt.Fatal(err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			rt.Fatalf("left behind: %v, %v", left, err)
		}
		if handles.Open() != 0 {
			rt.Fatalf("%d files left open", handles.Open())
		}
		if err := handles.Close(); err != nil {
			rt.Fatal(err)
		}
	})
}

func TestIdleSegmentIsSmall(t *testing.T) {
	if size := unsafe.Sizeof(Segment{}); size > 768 {
		t.Errorf("a Segment takes %d bytes", size)
	}
}

func TestAppendRefuses(t *testing.T) {
	s, _ := create(t, 100, Config{})
	if _, err := s.Append(batch(t, record.None, 100, 2, 1, 10)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		b    []byte
		want error
	}{
		{"hole", batch(t, record.None, 103, 1, 1, 10), ErrOrder},
		{"overlap", batch(t, record.None, 101, 1, 1, 10), ErrOrder},
		{"below the base", batch(t, record.None, 99, 1, 1, 10), ErrOrder},
		{"half a batch", batch(t, record.None, 102, 1, 1, 10)[:70], record.ErrShort},
		{"too far from the base", append(batch(t, record.None, 102, 1, 1, 10), record.Filler(103, 103+1<<31-1, 3, 1)...), ErrFull},
	} {
		if _, err := s.Append(tt.b); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	size := s.Size()
	if _, err := s.Append(batch(t, record.None, 102, 1, 1, 10)); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(s.Size()+1, nil); !errors.Is(err, ErrPosition) {
		t.Errorf("WriteAt behind the end: %v", err)
	}
	if err := s.Truncate(s.Size() + 1); !errors.Is(err, ErrPosition) {
		t.Errorf("Truncate behind the end: %v", err)
	}
	if size == s.Size() {
		t.Error("nothing was appended")
	}
}

func TestSpanOutlivesRemoval(t *testing.T) {
	s, _ := create(t, 0, Config{})
	log, _ := logOf(t, 0, 50)
	if _, err := s.Append(log); err != nil {
		t.Fatal(err)
	}
	span, err := s.Read(0, s.Size(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(); err != nil {
		t.Fatal(err)
	}
	if got := bytesOf(t, span); !bytes.Equal(got, log) {
		t.Error("the span changed")
	}
	if _, err := s.Read(0, s.Size(), 1<<20); err == nil {
		t.Error("a removed segment was read")
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{200, 16 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s, _ := create(b, 0, Config{})
			one := batch(b, record.None, 0, 1, 1, size)
			b.SetBytes(int64(len(one)))
			b.ReportAllocs()
			for i := int64(0); b.Loop(); i++ {
				if s.Size() > 1<<28 {
					b.StopTimer()
					if err := s.Truncate(0); err != nil {
						b.Fatal(err)
					}
					i = 0
					b.StartTimer()
				}
				one.Stamp(i, 0)
				if _, err := s.Append(one); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRead(b *testing.B) {
	s, _ := create(b, 0, Config{})
	log, batches := logOf(b, 0, 20_000)
	if _, err := s.Append(log); err != nil {
		b.Fatal(err)
	}
	end := batches[len(batches)-1].NextOffset()
	b.ReportAllocs()
	for offset := int64(0); b.Loop(); {
		span, err := s.Read(offset, s.Size(), 64<<10)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(span.Len()))
		span.Release()
		if offset += 300; offset >= end {
			offset = 0
		}
	}
}
