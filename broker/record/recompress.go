package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// recompressing is how many batches are compressed anew at once: compressors hold a megabyte each.
var recompressing = share("recompressing", 2)

// RecompressedMax is more than Recompress can yield for a batch whose records take decompressed bytes.
func RecompressedMax(decompressed int64) int64 {
	return HeaderSize + decompressed + decompressed/6 + 1024
}

// Recompress appends b, compressed with codec, to dst: the same records byte for byte, in a batch with the same offsets,
// times, flags and producer, and the CRC that goes with them. Records pass through in pieces of a few KiB. It returns
// ErrTooLarge when the batch would take more than most bytes, in which case dst got no more than that; else the errors of
// Records. The batch must have passed Validate.
func (b Batch) Recompress(dst []byte, codec Codec, most int64) ([]byte, error) {
	take(recompressing, 1)
	defer recompressing.Release(1)
	s, err := b.Codec().open(b[HeaderSize:])
	if err != nil {
		return nil, err
	}
	defer s.close()
	out := &cappedWriter{p: append(dst, b[:HeaderSize]...), room: most - HeaderSize}
	at := len(dst)
	w, err := codec.compressor(out)
	if err != nil {
		return nil, err
	}
	buf := windows.Get().(*window)
	defer windows.Put(buf)
	for err == nil {
		var n int
		n, err = s.Read(buf.buf)
		if _, failed := w.Write(buf.buf[:n]); failed != nil {
			err = failed
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, err
	}
	packed := Batch(out.p[at:])
	be := binary.BigEndian
	be.PutUint32(packed[atLength:], uint32(len(packed)-prefixSize))
	be.PutUint16(packed[atAttributes:], uint16(b.Attributes()&^codecMask|int16(codec)))
	be.PutUint32(packed[atCRC:], Castagnoli(packed[atAttributes:]))
	return out.p, nil
}

// cappedWriter appends to p while there is room.
type cappedWriter struct {
	p    []byte
	room int64
}

func (w *cappedWriter) Write(p []byte) (int, error) {
	if w.room -= int64(len(p)); w.room < 0 {
		return 0, fmt.Errorf("%w: %d bytes more than allowed when compressed anew", ErrTooLarge, -w.room)
	}
	w.p = append(w.p, p...)
	return len(p), nil
}

// compressor is a writer that compresses into w and, closed, goes back to its pool.
func (c Codec) compressor(w io.Writer) (io.WriteCloser, error) {
	switch c {
	case None:
		return plain{w}, nil
	case Gzip:
		z := gzipWriters.Get().(*gzip.Writer)
		z.Reset(w)
		return pooled{z, func() { gzipWriters.Put(z) }}, nil
	case Snappy:
		return &snappyWriter{w: w}, nil
	case LZ4:
		z := lz4Writers.Get().(*lz4.Writer)
		z.Reset(w)
		return pooled{z, func() { lz4Writers.Put(z) }}, nil
	case Zstd:
		z := zstdEncoders.Get().(*zstd.Encoder)
		z.Reset(w)
		return pooled{z, func() { zstdEncoders.Put(z) }}, nil
	}
	return nil, fmt.Errorf("%w: %d", ErrCodec, int8(c))
}

type plain struct{ io.Writer }

func (plain) Close() error { return nil }

type pooled struct {
	io.WriteCloser
	put func()
}

func (p pooled) Close() error {
	err := p.WriteCloser.Close()
	p.put()
	return err
}

// snappyWriter gathers the blocks of a xerial stream.
type snappyWriter struct {
	w      io.Writer
	block  []byte
	packed []byte
	begun  bool
}

func (s *snappyWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		part := p[:min(len(p), xerialBlock-len(s.block))]
		s.block, p = append(s.block, part...), p[len(part):]
		if len(s.block) == xerialBlock {
			if err := s.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (s *snappyWriter) flush() error {
	s.packed = compressSnappy(s.packed[:0], s.block)
	s.block = s.block[:0]
	out := s.packed
	if s.begun {
		out = out[len(xerialHeader):]
	}
	s.begun = true
	_, err := s.w.Write(out)
	return err
}

func (s *snappyWriter) Close() error {
	if len(s.block) == 0 && s.begun {
		return nil
	}
	return s.flush()
}
