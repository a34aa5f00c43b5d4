package journal

import (
	"encoding/binary"

	"github.com/klauspost/compress/s2"
)

// Every batch brings 61 bytes of header, a key and headers that hardly differ from its neighbours', and they are written
// to the journal beside readings that may be smaller. So the entries of a frame are packed, as one S2 block, where that
// makes the frame smaller. What is taken for small commits is a microsecond, beside a sync.
const (
	// packGain is the part of a frame that packing must save: what hardly shrinks is not worth unpacking.
	packGain = 16
	// packedBit in a header's count says that the entries are packed. A build before format.version 2 takes such a count for
	// an impossible one.
	packedBit = 1 << 31
)

// pack appends to dst what the whole frame, its header not yet sealed, is with its entries packed; false when they are
// left as they are.
func pack(dst, frame []byte) ([]byte, bool) {
	entries := frame[headerSize:]
	need := headerSize + s2.MaxEncodedLen(len(entries))
	if cap(dst) < need {
		dst = make([]byte, need)
	}
	packed := s2.Encode(dst[headerSize:need], entries)
	dst = dst[:headerSize+len(packed)]
	return dst, len(dst) <= len(frame)-len(frame)/packGain
}

// unpack decodes packed entries into buf, which it grows to what is needed, at most a frame. It returns false for bytes
// that are no S2 block, or one whose entries cannot be count ones or would not fit a frame; that is known, and the block's
// length checked, before anything is allocated.
func unpack(buf, packed []byte, count uint32) ([]byte, bool) {
	size, n := binary.Uvarint(packed)
	if n <= 0 || size > MaxFrame-headerSize || uint64(count)*minEntrySize > size {
		return buf, false
	}
	if uint64(cap(buf)) < size {
		buf = make([]byte, size)
	}
	p, err := s2.Decode(buf[:size], packed)
	if err != nil || uint64(len(p)) != size {
		return buf, false
	}
	return p, true
}
