package record

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"weak"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Codec is a compression type, with Kafka's number.
type Codec int8

// The compression types of Kafka's batches.
const (
	None Codec = iota
	Gzip
	Snappy
	LZ4
	Zstd
)

var codecNames = [...]string{None: "none", Gzip: "gzip", Snappy: "snappy", LZ4: "lz4", Zstd: "zstd"}

// String is Kafka's name of the codec, as in compression.type.
func (c Codec) String() string {
	if c < 0 || int(c) >= len(codecNames) {
		return fmt.Sprintf("codec %d", int8(c))
	}
	return codecNames[c]
}

// ParseCodec is the codec of Kafka's name; "uncompressed" is another one for "none". It returns ErrCodec for others.
func ParseCodec(name string) (Codec, error) {
	for c, n := range codecNames {
		if n == name {
			return Codec(c), nil
		}
	}
	if name == "uncompressed" {
		return None, nil
	}
	return None, fmt.Errorf("%w: %q", ErrCodec, name)
}

// Compressors and decompressors live in pools: as many exist as are in use at once, and the collector takes idle
// ones back. Their windows are the smallest that compress a batch well, because a board has 64 MiB in all.
const (
	zstdEncoderWindow = 128 << 10
	// gzipCost is about what a gzip decoder holds, in bytes: its window and tables; zstdCost what a zstd decoder holds
	// beside its window.
	gzipCost, zstdCost = 48 << 10, 440 << 10
)

// zstdWindows are the sizes of window a decoder is made for. A frame says which it needs before its first block, and
// gets all of it at once. Small ones are what most clients send, 2 MiB Java's default. The high levels name up to 128 MiB
// whatever is in the frame: they get 4 MiB, and fail only where a batch of more really reaches back further.
var zstdWindows = [...]uint64{512 << 10, 2 << 20, zstdWindowMax}

const zstdWindowMax = 4 << 20

var (
	gzipWriters = sync.Pool{New: func() any {
		w, err := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed)
		if err != nil {
			panic(err) // the level is a constant
		}
		return w
	}}
	gzipReaders = sync.Pool{New: func() any { return new(gzip.Reader) }}
	lz4Writers  = sync.Pool{New: func() any {
		w := lz4.NewWriter(io.Discard)
		if err := w.Apply(lz4.BlockSizeOption(lz4.Block64Kb), lz4.ConcurrencyOption(1), lz4.ChecksumOption(false)); err != nil {
			panic(err) // the options are constants
		}
		return w
	}}
	zstdEncoders = sync.Pool{New: func() any {
		// One at a time means no goroutines, so the collector may take an encoder that was not closed.
		e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest),
			zstd.WithWindowSize(zstdEncoderWindow), zstd.WithLowerEncoderMem(true))
		if err != nil {
			panic(err) // the options are constants
		}
		return e
	}}
	// zstdDecoders have one pool for each window in zstdWindows but the largest.
	zstdDecoders [len(zstdWindows) - 1]sync.Pool
	// zstdLargest is the one decoder with the largest window, until the collector takes it. A pool could keep one for each
	// processor.
	zstdLargest atomic.Pointer[weak.Pointer[zstd.Decoder]]
)

// sliceWriter appends what is written to a slice.
type sliceWriter struct{ p []byte }

func (w *sliceWriter) Write(p []byte) (int, error) {
	w.p = append(w.p, p...)
	return len(p), nil
}

// Compress appends src, compressed, to dst. Snappy is framed as xerial's Java library does, LZ4 is the frame format.
// It returns ErrCodec for a codec Kafka does not define.
func (c Codec) Compress(dst, src []byte) ([]byte, error) {
	switch c {
	case None:
		return append(dst, src...), nil
	case Gzip:
		w := gzipWriters.Get().(*gzip.Writer)
		defer gzipWriters.Put(w)
		out := &sliceWriter{dst}
		w.Reset(out)
		if _, err := w.Write(src); err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		if err := w.Close(); err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		return out.p, nil
	case Snappy:
		return compressSnappy(dst, src), nil
	case LZ4:
		w := lz4Writers.Get().(*lz4.Writer)
		defer lz4Writers.Put(w)
		out := &sliceWriter{dst}
		w.Reset(out)
		if _, err := w.Write(src); err != nil {
			return nil, fmt.Errorf("lz4: %w", err)
		}
		if err := w.Close(); err != nil {
			return nil, fmt.Errorf("lz4: %w", err)
		}
		return out.p, nil
	case Zstd:
		e := zstdEncoders.Get().(*zstd.Encoder)
		defer zstdEncoders.Put(e)
		return e.EncodeAll(src, dst), nil
	}
	return nil, fmt.Errorf("%w: %d", ErrCodec, int8(c))
}

// Decompress appends src, decompressed, to dst: at most limit bytes, else ErrTooLarge. Memory grows with the bytes
// that really come out, never with a size src claims. It returns ErrCorrupt for bytes that are not the codec's, and
// ErrCodec for a codec Kafka does not define.
func (c Codec) Decompress(dst, src []byte, limit int) ([]byte, error) {
	s, err := c.open(src)
	if err != nil {
		return nil, err
	}
	defer s.close()
	for n := 0; ; {
		if len(dst) == cap(dst) {
			dst = append(dst, 0)[:len(dst)]
		}
		// One byte past the limit is asked for, to tell "exactly the limit" from "more". The subtraction comes first:
		// the limit may be the largest int there is.
		room := cap(dst) - len(dst)
		if room > limit-n {
			room = limit - n + 1
		}
		m, err := s.Read(dst[len(dst) : len(dst)+room])
		dst = dst[:len(dst)+m]
		if n += m; n > limit {
			return nil, fmt.Errorf("%w: over %d bytes decompressed", ErrTooLarge, limit)
		}
		if errors.Is(err, io.EOF) {
			return dst, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// stream decompresses one source and returns its decoder to the pool when closed. Its errors are io.EOF and ErrCorrupt.
type stream struct {
	codec Codec
	r     io.Reader
	src   bytes.Reader
	cost  int64 // what was taken of decoding
	class int   // of a zstd decoder
	// shrunk says that the decoder has less of a window than the frame names.
	shrunk bool
}

// open starts decompressing src, waiting until there is room for the decoder.
func (c Codec) open(src []byte) (*stream, error) {
	s := &stream{codec: c}
	s.src.Reset(src)
	var err error
	switch c {
	case None:
		s.r = &s.src
	case Gzip:
		s.take(gzipCost)
		z := gzipReaders.Get().(*gzip.Reader)
		s.r, err = z, z.Reset(&s.src)
	case Snappy:
		var z *snappyReader
		if z, err = newSnappyReader(src); err == nil {
			s.take(int64(z.most))
			s.r = z
		}
	case LZ4:
		var z *lz4Reader
		if z, err = newLZ4Reader(src); err == nil {
			s.take(z.cost())
			s.r = z
		}
	case Zstd:
		err = s.openZstd(src)
	default:
		return nil, fmt.Errorf("%w: %d", ErrCodec, int8(c))
	}
	if err != nil {
		s.close()
		if errors.Is(err, ErrTooLarge) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %s: %w", ErrCorrupt, c, err)
	}
	return s, nil
}

// openZstd takes a decoder for the window that the first frame of src names. One that a later frame outgrows fails.
func (s *stream) openZstd(src []byte) error {
	var h zstd.Header
	if err := h.Decode(src); err != nil {
		return err
	}
	window := h.WindowSize
	if h.SingleSegment {
		window = h.FrameContentSize
	}
	var in io.Reader = &s.src
	if window > zstdWindowMax {
		head, rest := shrinkWindow(src)
		s.src.Reset(rest)
		in, window, s.shrunk = io.MultiReader(bytes.NewReader(head), in), zstdWindowMax, true
	}
	s.class = slices.IndexFunc(zstdWindows[:], func(w uint64) bool { return w >= window })
	s.take(int64(zstdWindows[s.class]) + zstdCost)
	z := s.pooledZstd()
	if z == nil {
		var err error
		// Buffers below 0: everything goes through the bounded stream, also what is in memory already.
		z, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(zstdWindows[s.class]), zstd.WithDecodeBuffersBelow(0))
		if err != nil {
			panic(err) // the options are constants
		}
	}
	s.r = z
	return z.Reset(in)
}

// shrinkWindow is the beginning of a frame's header that names zstdWindowMax in place of what src does, and what follows
// it in src, which begins with a frame (RFC 8878, 3.1.1.1).
func shrinkWindow(src []byte) (head, rest []byte) {
	const single, descriptor = 0x20, (22 - 10) << 3 // 4 MiB: an exponent over 2^10
	head = append(bytes.Clone(src[:5]), descriptor)
	if head[4]&single != 0 { // the window is the size of the content, which stays where it is
		head[4] &^= single
		return head, src[5:]
	}
	return head, src[6:]
}

// pooledZstd is a decoder that was used before, nil when there is none.
func (s *stream) pooledZstd() *zstd.Decoder {
	if s.class < len(zstdDecoders) {
		z, _ := zstdDecoders[s.class].Get().(*zstd.Decoder)
		return z
	}
	if kept := zstdLargest.Swap(nil); kept != nil {
		return kept.Value()
	}
	return nil
}

func (s *stream) take(n int64) {
	take(decoding, n)
	s.cost = n
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	switch {
	case err == nil || errors.Is(err, io.EOF):
	case s.shrunk:
		err = fmt.Errorf("%w: in a zstd window of %d bytes: %w", ErrTooLarge, zstdWindowMax, err)
	default:
		err = fmt.Errorf("%w: %s: %w", ErrCorrupt, s.codec, err)
	}
	return n, err
}

func (s *stream) close() {
	s.src.Reset(nil)
	switch z := s.r.(type) {
	case *gzip.Reader:
		gzipReaders.Put(z)
	case *lz4Reader:
		z.close()
	case *zstd.Decoder:
		if s.class < len(zstdDecoders) {
			zstdDecoders[s.class].Put(z)
		} else {
			// Made anew for every batch of a hostile peer it would cost more memory, as garbage.
			kept := weak.Make(z)
			zstdLargest.Store(&kept)
		}
	case *snappyReader:
		z.close()
	}
	s.r = nil
	decoding.Release(s.cost)
	s.cost = 0
}
