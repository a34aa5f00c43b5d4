package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
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

// snappyBlockMax is the most one block may yield, in bytes: the format says nothing of how far back a block may refer,
// so all of it must be held.
const snappyBlockMax = 4 << 20

var errSnappy = errors.New("bad block")

func compressSnappy(dst, src []byte) []byte {
	dst = append(dst, xerialHeader...)
	for len(src) > 0 {
		block := src[:min(len(src), xerialBlock)]
		src = src[len(block):]
		if need := 4 + s2.MaxEncodedLen(len(block)); cap(dst)-len(dst) < need {
			dst = append(make([]byte, 0, len(dst)+need+len(src)), dst...)
		}
		dst = snappyBlock(dst, block)
	}
	return dst
}

// blocks are the buffers that blocks are decompressed into.
var blocks = sync.Pool{New: func() any { return new([]byte) }}

// snappyBlock appends one block of a xerial stream.
func snappyBlock(dst, block []byte) []byte {
	at := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	need := s2.MaxEncodedLen(len(block))
	dst = slices.Grow(dst, need)
	packed := s2.EncodeSnappy(dst[len(dst):len(dst)+need], block)
	dst = dst[:len(dst)+len(packed)]
	binary.BigEndian.PutUint32(dst[at:], uint32(len(packed)))
	return dst
}

// blockKeep is the largest buffer that goes back to the pool.
const blockKeep = 256 << 10

func keepBlock(buf *[]byte) {
	if buf != nil && cap(*buf) <= blockKeep {
		blocks.Put(buf)
	}
}

// snappyReader yields the blocks of a xerial stream, or a bare snappy block as other clients send it.
type snappyReader struct {
	src    []byte
	framed bool
	most   int // no block yields more
	buf    *[]byte
	out    []byte // what of buf is still to be read
}

// newSnappyReader steps over the blocks, to learn how large they are. It returns ErrTooLarge for one that no room is
// made for: an honest block is a few dozen KiB, or a whole batch as its producer gathered it.
func newSnappyReader(src []byte) (*snappyReader, error) {
	r := &snappyReader{src: src}
	// Only the magic counts: the versions after it have never changed and are not worth refusing.
	if len(src) >= len(xerialHeader) && bytes.Equal(src[:8], xerialHeader[:8]) {
		r.framed = true
		r.src = src[len(xerialHeader):]
	}
	for scan := *r; ; {
		_, size, err := scan.cut()
		if errors.Is(err, io.EOF) {
			return r, nil
		}
		if err != nil {
			return nil, err
		}
		if r.most = max(r.most, size); r.most > snappyBlockMax {
			return nil, fmt.Errorf("%w: a snappy block of %d bytes, limit %d", ErrTooLarge, r.most, snappyBlockMax)
		}
	}
}

// cut takes the next block off src, and says how large it is decompressed; io.EOF after the last.
func (r *snappyReader) cut() (block []byte, size int, err error) {
	if len(r.src) == 0 {
		return nil, 0, io.EOF
	}
	block, rest := r.src, []byte(nil)
	if r.framed {
		if len(r.src) < 4 {
			return nil, 0, io.ErrUnexpectedEOF
		}
		n := binary.BigEndian.Uint32(r.src)
		if uint64(n) > uint64(len(r.src)-4) {
			return nil, 0, io.ErrUnexpectedEOF
		}
		block, rest = r.src[4:4+n], r.src[4+n:]
	}
	r.src = rest
	if size, err = s2.DecodedLen(block); err != nil {
		return nil, 0, err
	}
	if int64(size) > int64(len(block))*snappyRatio+64 {
		return nil, 0, errSnappy
	}
	return block, size, nil
}

func (r *snappyReader) Read(p []byte) (int, error) {
	for len(r.out) == 0 {
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}

func (r *snappyReader) next() error {
	block, _, err := r.cut()
	if err != nil {
		return err
	}
	if r.buf == nil {
		r.buf = blocks.Get().(*[]byte)
		if cap(*r.buf) < r.most {
			*r.buf = make([]byte, r.most)
		}
	}
	r.out, err = s2.Decode((*r.buf)[:cap(*r.buf)], block)
	return err
}

func (r *snappyReader) close() {
	keepBlock(r.buf)
	r.buf, r.out = nil, nil
}
