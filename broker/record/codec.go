package record

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

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
	// zstdDecoderWindow admits every level of every client up to zstd's recommended 8 MiB.
	zstdDecoderWindow = 8 << 20
)

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
	lz4Readers   = sync.Pool{New: func() any { return lz4.NewReader(nil) }}
	zstdEncoders = sync.Pool{New: func() any {
		// One at a time means no goroutines, so the collector may take an encoder that was not closed.
		e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest),
			zstd.WithWindowSize(zstdEncoderWindow), zstd.WithLowerEncoderMem(true))
		if err != nil {
			panic(err) // the options are constants
		}
		return e
	}}
	zstdDecoders = sync.Pool{New: func() any {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(zstdDecoderWindow), zstd.WithDecodeBuffersBelow(0))
		if err != nil {
			panic(err) // the options are constants
		}
		return d
	}}
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
}

// open starts decompressing src.
func (c Codec) open(src []byte) (*stream, error) {
	s := &stream{codec: c}
	s.src.Reset(src)
	switch c {
	case None:
		s.r = &s.src
	case Gzip:
		z := gzipReaders.Get().(*gzip.Reader)
		if err := z.Reset(&s.src); err != nil {
			gzipReaders.Put(z)
			return nil, fmt.Errorf("%w: gzip: %w", ErrCorrupt, err)
		}
		s.r = z
	case Snappy:
		s.r = newSnappyReader(src)
	case LZ4:
		z := lz4Readers.Get().(*lz4.Reader)
		z.Reset(&s.src)
		s.r = z
	case Zstd:
		z := zstdDecoders.Get().(*zstd.Decoder)
		if err := z.Reset(&s.src); err != nil {
			zstdDecoders.Put(z)
			return nil, fmt.Errorf("%w: zstd: %w", ErrCorrupt, err)
		}
		s.r = z
	default:
		return nil, fmt.Errorf("%w: %d", ErrCodec, int8(c))
	}
	return s, nil
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %s: %w", ErrCorrupt, s.codec, err)
	}
	return n, err
}

func (s *stream) close() {
	s.src.Reset(nil)
	switch z := s.r.(type) {
	case *gzip.Reader:
		gzipReaders.Put(z)
	case *lz4.Reader:
		lz4Readers.Put(z)
	case *zstd.Decoder:
		zstdDecoders.Put(z)
	case *snappyReader:
		z.close()
	}
	s.r = nil
}
