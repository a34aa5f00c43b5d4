package journal

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// A frame, little endian, is the payload of one wal entry:
//
//	 0  4  CRC32C of everything after it
//	 4  4  length of the whole frame
//	 8  8  wal index
//	16  8  journal id
//	24  4  count of entries; its highest bit says that they are packed
//	28     entries, or one S2 block of them
//
// and an entry is kind (1), topic id (16), then varints: partition, segment, position, base, length; then the length
// bytes of an append or of a created topic's name, or the 4-byte CRC32C of a pointer.
const (
	headerSize   = 28
	minEntrySize = 1 + 16 + 5
	maxEntryHead = 1 + 16 + 2*binary.MaxVarintLen32 + 3*binary.MaxVarintLen64
	crcSize      = 4
	// maxIndex is far beyond any index a board can reach, and far enough from the top that sums do not wrap.
	maxIndex = 1 << 62
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	errEntry   = errors.New("bad journal entry")
)

// header is a frame's fixed part.
type header struct {
	crc    uint32
	length uint32
	index  uint64
	id     uint64
	count  uint32
	packed bool
}

func parseHeader(p []byte) header {
	count := binary.LittleEndian.Uint32(p[24:])
	return header{
		crc:    binary.LittleEndian.Uint32(p),
		length: binary.LittleEndian.Uint32(p[4:]),
		index:  binary.LittleEndian.Uint64(p[8:]),
		id:     binary.LittleEndian.Uint64(p[16:]),
		count:  count &^ packedBit,
		packed: count&packedBit != 0,
	}
}

// sane tells whether h can head a frame at all; it bounds what is read and allocated before the CRC is known.
func (h header) sane() bool {
	room := h.length // of the entries
	if h.packed {
		room = MaxFrame
	}
	return h.length >= headerSize && h.length <= MaxFrame && h.index > 0 && h.index < maxIndex && h.id != 0 &&
		h.count <= (room-headerSize)/minEntrySize
}

// seal writes the header of a frame whose entries, count of them, are already in frame[headerSize:].
func seal(frame []byte, index, id uint64, count int, packed bool) {
	n := uint32(count)
	if packed {
		n |= packedBit
	}
	binary.LittleEndian.PutUint32(frame[4:], uint32(len(frame)))
	binary.LittleEndian.PutUint64(frame[8:], index)
	binary.LittleEndian.PutUint64(frame[16:], id)
	binary.LittleEndian.PutUint32(frame[24:], n)
	binary.LittleEndian.PutUint32(frame, crc32.Checksum(frame[4:], castagnoli))
}

// appendEntry encodes e, whose Kind and CRC are what goes to disk.
func appendEntry(p []byte, e *Entry) []byte {
	p = append(p, byte(e.Kind))
	p = append(p, e.Topic[:]...)
	p = binary.AppendVarint(p, int64(e.Partition))
	p = binary.AppendVarint(p, e.Segment)
	p = binary.AppendVarint(p, e.Position)
	p = binary.AppendVarint(p, e.Base)
	switch e.Kind {
	case Append, TopicCreated:
		p = binary.AppendVarint(p, int64(len(e.Bytes)))
		p = append(p, e.Bytes...)
	case Pointer:
		p = binary.AppendVarint(p, int64(e.Length))
		p = binary.LittleEndian.AppendUint32(p, e.CRC)
	default:
		p = binary.AppendVarint(p, int64(e.Length))
	}
	return p
}

// decodeEntries appends the count entries in p to dst; their Bytes alias p. It is a pure function of its arguments and
// allocates at most count entries; the caller has bounded count by len(p).
func decodeEntries(dst []Entry, p []byte, count uint32) ([]Entry, error) {
	for ; count > 0; count-- {
		var e Entry
		var err error
		if e, p, err = decodeEntry(p); err != nil {
			return dst, err
		}
		dst = append(dst, e)
	}
	if len(p) != 0 {
		return dst, errEntry
	}
	return dst, nil
}

func decodeEntry(p []byte) (e Entry, rest []byte, err error) {
	if len(p) < minEntrySize {
		return e, nil, errEntry
	}
	e.Kind = Kind(p[0])
	copy(e.Topic[:], p[1:])
	p = p[17:]
	var partition, length int64
	for _, v := range []*int64{&partition, &e.Segment, &e.Position, &e.Base, &length} {
		x, n := binary.Varint(p)
		if n <= 0 {
			return e, nil, errEntry
		}
		*v, p = x, p[n:]
	}
	if int64(int32(partition)) != partition || int64(int32(length)) != length {
		return e, nil, errEntry
	}
	e.Partition, e.Length = int32(partition), int32(length)
	switch e.Kind {
	case Append, TopicCreated:
		if length < 0 || length > int64(len(p)) {
			return e, nil, errEntry
		}
		e.Bytes, p = p[:length:length], p[length:]
	case Pointer:
		if length < 0 || len(p) < crcSize {
			return e, nil, errEntry
		}
		e.CRC, p = binary.LittleEndian.Uint32(p), p[crcSize:]
	case Truncate, StartMoved, TopicDeleted:
	default:
		return e, nil, errEntry
	}
	return e, p, nil
}

// decoder decodes frames with buffers of its own.
type decoder struct {
	entries  []Entry
	unpacked []byte
}

// check tells whether p is exactly one frame with a right CRC and decodable entries, and leaves them in d.entries until
// the next call. Their Bytes alias p, or d.unpacked where they were packed.
func (d *decoder) check(p []byte) bool {
	d.entries = d.entries[:0]
	if len(p) < headerSize {
		return false
	}
	h := parseHeader(p)
	if !h.sane() || int(h.length) != len(p) || crc32.Checksum(p[4:], castagnoli) != h.crc {
		return false
	}
	raw := p[headerSize:]
	if h.packed {
		var ok bool
		if d.unpacked, ok = unpack(d.unpacked, raw, h.count); !ok {
			return false
		}
		raw = d.unpacked
	}
	var err error
	d.entries, err = decodeEntries(d.entries, raw, h.count)
	return err == nil
}

func checksum(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }
