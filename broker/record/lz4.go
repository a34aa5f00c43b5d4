package record

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/pierrec/lz4/v4"
)

// Of the LZ4 frame format: the magic number, the flags of the descriptor's first byte, and how much an older block may
// be referred to by a newer one.
const (
	lz4Magic    = 0x184D2204
	lz4Version  = 0x40
	lz4Alone    = 0x20 // blocks do not refer to each other
	lz4BlockSum = 0x10
	lz4HasSize  = 0x08
	lz4Reserved = 0x02
	lz4HasDict  = 0x01
	lz4History  = 64 << 10
	// lz4Ratio bounds what a block can yield: each of its bytes adds at most 255 to the length of a match.
	lz4Ratio = 255
)

var errLZ4 = errors.New("bad frame")

// lz4Reader yields the blocks of one LZ4 frame. The library's own reader takes twice the block size a frame names,
// 8 MiB for some clients' smallest batch; this one takes what a block can really yield. Checksums are not looked at: the
// batch has one over all of it.
type lz4Reader struct {
	src   []byte // from the next block's size on
	sums  bool   // a checksum follows each block
	alone bool
	most  int     // no block yields more
	buf   *[]byte // the history, then what the last block yielded
	used  int     // how much of buf that is
	out   []byte  // what is still to be read
}

// newLZ4Reader reads the descriptor and steps over the blocks, to learn how large they are.
func newLZ4Reader(src []byte) (*lz4Reader, error) {
	if len(src) < 7 || binary.LittleEndian.Uint32(src) != lz4Magic {
		return nil, errLZ4
	}
	flags, sizes := src[4], src[5]
	if flags&0xC0 != lz4Version || flags&(lz4Reserved|lz4HasDict) != 0 || sizes&0x8F != 0 || sizes>>4 < 4 {
		return nil, errLZ4
	}
	at := 7
	if flags&lz4HasSize != 0 {
		at += 8
	}
	if len(src) < at {
		return nil, io.ErrUnexpectedEOF
	}
	r := &lz4Reader{src: src[at:], sums: flags&lz4BlockSum != 0, alone: flags&lz4Alone != 0}
	limit := 1 << (8 + 2*(sizes>>4))
	for scan := *r; ; {
		block, packed, err := scan.cut()
		if errors.Is(err, io.EOF) {
			return r, nil
		}
		if err != nil {
			return nil, err
		}
		if packed {
			r.most = max(r.most, int(min(int64(len(block))*lz4Ratio, int64(limit))))
		} else if r.most = max(r.most, len(block)); len(block) > limit {
			return nil, errLZ4
		}
	}
}

// cost is what the reader holds, in bytes.
func (r *lz4Reader) cost() int64 {
	if r.alone {
		return int64(r.most)
	}
	return int64(r.most) + lz4History
}

// cut takes the next block off src; io.EOF after the last. What follows the frame is no part of it.
func (r *lz4Reader) cut() (block []byte, packed bool, err error) {
	if len(r.src) < 4 {
		return nil, false, io.ErrUnexpectedEOF
	}
	size := binary.LittleEndian.Uint32(r.src)
	if size == 0 {
		return nil, false, io.EOF
	}
	n, sum := int64(size&^(1<<31)), int64(0)
	if r.sums {
		sum = 4
	}
	if n+sum > int64(len(r.src)-4) {
		return nil, false, io.ErrUnexpectedEOF
	}
	block, r.src = r.src[4:4+n], r.src[4+n+sum:]
	return block, size == uint32(n), nil
}

func (r *lz4Reader) Read(p []byte) (int, error) {
	for len(r.out) == 0 {
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}

func (r *lz4Reader) next() error {
	block, packed, err := r.cut()
	if err != nil {
		return err
	}
	if !packed && r.alone {
		r.out = block
		return nil
	}
	if r.buf == nil {
		r.buf = blocks.Get().(*[]byte)
		if need := int(r.cost()); cap(*r.buf) < need {
			*r.buf = make([]byte, need)
		}
		*r.buf = (*r.buf)[:cap(*r.buf)]
	}
	buf, past := *r.buf, 0
	if !r.alone {
		past = copy(buf, buf[max(r.used-lz4History, 0):r.used])
	}
	n := copy(buf[past:], block)
	if packed {
		if n, err = lz4.UncompressBlockWithDict(block, buf[past:past+r.most], buf[:past]); err != nil {
			return err
		}
	}
	r.used, r.out = past+n, buf[past:past+n]
	return nil
}

func (r *lz4Reader) close() {
	keepBlock(r.buf)
	r.buf, r.out = nil, nil
}
