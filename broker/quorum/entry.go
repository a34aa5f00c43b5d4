package quorum

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"time"

	"github.com/hashicorp/raft"

	"millrace/broker/catalog"
)

// One wal entry is one raft log entry: {CRC32C of the rest u32, magic u8, type u8, place u16, index u64, term u64,
// appended ns i64, extension length u32, extension, data}, big endian. The wal itself has neither checksum nor index in
// its frames, so both are here. The magic lets a scan find the next entry behind damaged bytes. The place is the entry's
// in the write that stored it: an entry at place 0 proves that every write before its own was confirmed.
const (
	entryMagic  = 0xC7
	entryHeader = 4 + 1 + 1 + 2 + 8 + 8 + 8 + 4
	// entryMax bounds one entry: the largest command and room for raft's own entries.
	entryMax = catalog.MaxCommandSize + 64<<10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errEntry = errors.New("not a log entry")

// entrySize is the size of l as a wal payload.
func entrySize(l *raft.Log) int { return entryHeader + len(l.Extensions) + len(l.Data) }

// appendEntry appends l as a wal payload.
func appendEntry(b []byte, l *raft.Log, place int) []byte {
	at := len(b)
	b = append(b, 0, 0, 0, 0, entryMagic, byte(l.Type))
	b = binary.BigEndian.AppendUint16(b, uint16(min(place, math.MaxUint16)))
	b = binary.BigEndian.AppendUint64(b, l.Index)
	b = binary.BigEndian.AppendUint64(b, l.Term)
	var appended int64
	if !l.AppendedAt.IsZero() {
		appended = l.AppendedAt.UnixNano()
	}
	b = binary.BigEndian.AppendUint64(b, uint64(appended))
	b = binary.BigEndian.AppendUint32(b, uint32(len(l.Extensions)))
	b = append(append(b, l.Extensions...), l.Data...)
	binary.BigEndian.PutUint32(b[at:], crc32.Checksum(b[at+4:], castagnoli))
	return b
}

// decodeEntry reads a wal payload into l, which then shares memory with p.
func decodeEntry(p []byte, l *raft.Log) error {
	if len(p) < entryHeader || p[4] != entryMagic {
		return errEntry
	}
	if crc32.Checksum(p[4:], castagnoli) != binary.BigEndian.Uint32(p) {
		return fmt.Errorf("%w: CRC mismatch", errEntry)
	}
	ext := binary.BigEndian.Uint32(p[32:])
	if uint64(ext) > uint64(len(p)-entryHeader) {
		return fmt.Errorf("%w: extension of %d bytes", errEntry, ext)
	}
	*l = raft.Log{
		Type:  raft.LogType(p[5]),
		Index: binary.BigEndian.Uint64(p[8:]),
		Term:  binary.BigEndian.Uint64(p[16:]),
		Data:  p[entryHeader+int(ext):],
	}
	if ext > 0 {
		l.Extensions = p[entryHeader : entryHeader+int(ext)]
	}
	if ns := int64(binary.BigEndian.Uint64(p[24:])); ns != 0 {
		l.AppendedAt = time.Unix(0, ns)
	}
	return nil
}

// entryPlace is the place of the whole entry whose frame begins b.
func entryPlace(b []byte) uint16 {
	_, w := binary.Uvarint(b)
	return binary.BigEndian.Uint16(b[w+6:])
}

// nextEntry reads the frame at the start of b, the wal's {uvarint length, payload}, and returns its size.
func nextEntry(b []byte, l *raft.Log) (int, error) {
	n, w := binary.Uvarint(b)
	if w <= 0 || n > entryMax || n > uint64(len(b)-w) {
		return 0, errEntry
	}
	if err := decodeEntry(b[w:w+int(n)], l); err != nil {
		return 0, err
	}
	return w + int(n), nil
}

// frameSize is the size of a payload of n bytes with the wal's length before it.
func frameSize(n int) int64 {
	var b [binary.MaxVarintLen64]byte
	return int64(n + binary.PutUvarint(b[:], uint64(n)))
}

// findEntry looks behind damaged bytes for the next whole entry with an index of at least least. It returns the position
// of its frame, or -1.
func findEntry(b []byte, least uint64) int {
	var l raft.Log
	for at := range b {
		_, w := binary.Uvarint(b[at:min(len(b), at+binary.MaxVarintLen64)])
		if w <= 0 || at+w+entryHeader > len(b) || b[at+w+4] != entryMagic {
			continue
		}
		if _, err := nextEntry(b[at:], &l); err == nil && l.Index >= least && l.Index < math.MaxInt64 {
			return at
		}
	}
	return -1
}
