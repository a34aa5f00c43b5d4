package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"sync"

	"github.com/klauspost/compress/s2"
)

// xerialHeader starts a stream of org.xerial.snappy.SnappyOutputStream, Kafka's Java snappy: magic, version 1,
// lowest compatible version 1. Blocks follow, each with its length in four bytes.
var xerialHeader = []byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1}

// xerialBlock is the Java library's default block size.
const xerialBlock = 32 << 10

// snappyRatio bounds what honest snappy can yield: its densest element turns 3 bytes into 64. A block that claims
// more is refused before memory is taken for the claim.
const snappyRatio = 22

var errSnappy = errors.New("bad block")

func compressSnappy(dst, src []byte) []byte {
	dst = append(dst, xerialHeader...)
	for len(src) > 0 {
		block := src[:min(len(src), xerialBlock)]
		src = src[len(block):]
		at := len(dst)
		dst = append(dst, 0, 0, 0, 0)
		need := s2.MaxEncodedLen(len(block))
		if cap(dst)-len(dst) < need {
			dst = append(make([]byte, 0, len(dst)+need+len(src)), dst...)
		}
		packed := s2.EncodeSnappy(dst[len(dst):len(dst)+need], block)
		dst = dst[:len(dst)+len(packed)]
		binary.BigEndian.PutUint32(dst[at:], uint32(len(packed)))
	}
	return dst
}

var snappyBlocks = sync.Pool{New: func() any { return new([]byte) }}

// snappyBlockKeep is the largest buffer that goes back to the pool.
const snappyBlockKeep = 256 << 10

// snappyReader yields the blocks of a xerial stream, or a bare snappy block as other clients send it.
type snappyReader struct {
	src    []byte
	framed bool
	buf    *[]byte
	out    []byte // what of buf is still to be read
}

func newSnappyReader(src []byte) *snappyReader {
	r := &snappyReader{src: src, buf: snappyBlocks.Get().(*[]byte)}
	// Only the magic counts: the versions after it have never changed and are not worth refusing.
	if len(src) >= len(xerialHeader) && bytes.Equal(src[:8], xerialHeader[:8]) {
		r.framed = true
		r.src = src[len(xerialHeader):]
	}
	return r
}

func (r *snappyReader) Read(p []byte) (int, error) {
	for len(r.out) == 0 {
		if len(r.src) == 0 {
			return 0, io.EOF
		}
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}

func (r *snappyReader) next() error {
	block := r.src
	if r.framed {
		if len(r.src) < 4 {
			return io.ErrUnexpectedEOF
		}
		n := binary.BigEndian.Uint32(r.src)
		if uint64(n) > uint64(len(r.src)-4) {
			return io.ErrUnexpectedEOF
		}
		block, r.src = r.src[4:4+n], r.src[4+n:]
	} else {
		r.src = nil
	}
	size, err := s2.DecodedLen(block)
	if err != nil {
		return err
	}
	if int64(size) > int64(len(block))*snappyRatio+64 {
		return errSnappy
	}
	if cap(*r.buf) < size {
		*r.buf = make([]byte, size)
	}
	r.out, err = s2.Decode((*r.buf)[:cap(*r.buf)], block)
	return err
}

func (r *snappyReader) close() {
	if cap(*r.buf) <= snappyBlockKeep {
		snappyBlocks.Put(r.buf)
	}
	r.buf, r.out = nil, nil
}
