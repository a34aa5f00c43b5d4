// Package record reads, checks, stamps and builds Kafka record batches of version 2 (magic 2, KIP-98), the one format
// Millrace stores and serves.
//
// Nothing here trusts a length or a count it read: sizes are compared with the bytes at hand before anything is
// allocated, and decompression stops at a limit the caller names.
package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
)

// HeaderSize is the length of a batch without records, in bytes.
const HeaderSize = 61

// prefixSize is what the batch length does not count: base offset and the length itself.
const prefixSize = 12

// Byte positions of the header's fields. Base offset, length, leader epoch, magic and CRC are outside the CRC.
const (
	atBaseOffset      = 0
	atLength          = 8
	atLeaderEpoch     = 12
	atMagic           = 16
	atCRC             = 17
	atAttributes      = 21
	atLastOffsetDelta = 23
	atBaseTimestamp   = 27
	atMaxTimestamp    = 35
	atProducerID      = 43
	atProducerEpoch   = 51
	atBaseSequence    = 53
	atCount           = 57
)

// Bits of the attributes.
const (
	codecMask         = 0x07
	logAppendTimeBit  = 0x08
	transactionalBit  = 0x10
	controlBit        = 0x20
	deleteHorizonBit  = 0x40
	currentMagic      = 2
	noTimestamp       = -1
	noProducer        = -1
	noProducerEpoch   = -1
	noSequence        = -1
	noPartitionLeader = -1
)

var (
	// ErrCorrupt is returned for bytes that are no record batch, or one whose checksum or contents do not hold.
	ErrCorrupt = errors.New("corrupt record batch")
	// ErrShort is returned when the bytes end inside a batch. More of them may make it whole.
	ErrShort = errors.New("record batch is cut short")
	// ErrMagic is returned for a message format other than version 2.
	ErrMagic = errors.New("unsupported message format")
	// ErrTooLarge is returned when decompressed records pass the caller's limit, or a batch Kafka's 2 GiB.
	ErrTooLarge = errors.New("record batch is too large")
	// ErrCodec is returned for a compression type Kafka does not define.
	ErrCodec = errors.New("unknown compression type")
	// ErrInvalid is returned by Validate for a batch that is whole but that a client may not write.
	ErrInvalid = errors.New("invalid record batch")
	// ErrTimestamp is returned by Validate for a record outside the times the topic accepts.
	ErrTimestamp = errors.New("record timestamp is out of range")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Castagnoli is the CRC32C of p.
func Castagnoli(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

// Update is the CRC32C of what crc covers followed by p.
func Update(crc uint32, p []byte) uint32 { return crc32.Update(crc, castagnoli, p) }

// Batch is exactly one whole batch, from its base offset to its last record. Accessors panic on fewer than
// HeaderSize bytes; Next and Check never let such a batch through.
type Batch []byte

// BaseOffset is the offset of the first record.
func (b Batch) BaseOffset() int64 { return int64(binary.BigEndian.Uint64(b[atBaseOffset:])) }

// LastOffset is the offset of the last record the batch was written with; compaction may have removed it.
func (b Batch) LastOffset() int64 { return b.BaseOffset() + int64(b.LastOffsetDelta()) }

// NextOffset is the offset after the last one.
func (b Batch) NextOffset() int64 { return b.LastOffset() + 1 }

// LeaderEpoch is the epoch of the leader that gave the batch its offset, -1 when none has.
func (b Batch) LeaderEpoch() int32 { return int32(binary.BigEndian.Uint32(b[atLeaderEpoch:])) }

// Magic is the version of the message format.
func (b Batch) Magic() int8 { return int8(b[atMagic]) }

// CRC is the stored CRC32C of everything from the attributes on.
func (b Batch) CRC() uint32 { return binary.BigEndian.Uint32(b[atCRC:]) }

// Attributes are the batch's flag bits.
func (b Batch) Attributes() int16 { return int16(binary.BigEndian.Uint16(b[atAttributes:])) }

// Codec is the compression of the records. It may be a number Kafka does not define.
func (b Batch) Codec() Codec { return Codec(b.Attributes() & codecMask) }

// LogAppendTime says whether every record carries the broker's time, MaxTimestamp, in place of its own.
func (b Batch) LogAppendTime() bool { return b.Attributes()&logAppendTimeBit != 0 }

// Transactional says whether the batch is part of a transaction.
func (b Batch) Transactional() bool { return b.Attributes()&transactionalBit != 0 }

// Control says whether the batch holds transaction markers, which no application sees.
func (b Batch) Control() bool { return b.Attributes()&controlBit != 0 }

// LastOffsetDelta is the distance of the last offset from the base.
func (b Batch) LastOffsetDelta() int32 { return int32(binary.BigEndian.Uint32(b[atLastOffsetDelta:])) }

// BaseTimestamp is what the records' timestamp deltas count from, in ms.
func (b Batch) BaseTimestamp() int64 { return int64(binary.BigEndian.Uint64(b[atBaseTimestamp:])) }

// MaxTimestamp is the largest timestamp in the batch, in ms, -1 when it has none.
func (b Batch) MaxTimestamp() int64 { return int64(binary.BigEndian.Uint64(b[atMaxTimestamp:])) }

// ProducerID is the id of an idempotent producer, -1 for others.
func (b Batch) ProducerID() int64 { return int64(binary.BigEndian.Uint64(b[atProducerID:])) }

// ProducerEpoch is the epoch of an idempotent producer, -1 for others.
func (b Batch) ProducerEpoch() int16 { return int16(binary.BigEndian.Uint16(b[atProducerEpoch:])) }

// BaseSequence is the sequence number of the first record of an idempotent producer, -1 for others.
func (b Batch) BaseSequence() int32 { return int32(binary.BigEndian.Uint32(b[atBaseSequence:])) }

// Count is the number of records.
func (b Batch) Count() int32 { return int32(binary.BigEndian.Uint32(b[atCount:])) }

// PeekSize is the whole size, in bytes, of the batch whose first bytes are p, from its length field alone.
// It returns ErrShort when p does not reach past the magic byte, ErrMagic for the older message formats and
// ErrCorrupt for a length no batch can have.
func PeekSize(p []byte) (int64, error) {
	if len(p) <= atMagic {
		return 0, ErrShort
	}
	length := int32(binary.BigEndian.Uint32(p[atLength:]))
	if magic := int8(p[atMagic]); magic != currentMagic {
		if magic == 0 || magic == 1 {
			return 0, fmt.Errorf("%w: version %d", ErrMagic, magic)
		}
		return 0, fmt.Errorf("%w: magic %d", ErrCorrupt, magic)
	}
	if length < HeaderSize-prefixSize {
		return 0, fmt.Errorf("%w: length %d", ErrCorrupt, length)
	}
	return int64(length) + prefixSize, nil
}

// Next cuts the first batch off p. rest follows it. It returns ErrShort when p ends inside the batch, ErrMagic for
// the older message formats, ErrCorrupt when no batch starts there. The checksum is not looked at.
func Next(p []byte) (b Batch, rest []byte, err error) {
	size, err := PeekSize(p)
	if err != nil {
		return nil, p, err
	}
	if size > int64(len(p)) {
		return nil, p, ErrShort
	}
	return Batch(p[:size:size]), p[size:], nil
}

// Check says whether b is one whole batch with a good CRC32C and a header that is possible: ErrShort, ErrCorrupt or
// ErrMagic when not. Base offset and leader epoch are outside the checksum: nothing in the batch can prove them.
func (b Batch) Check() error {
	size, err := PeekSize(b)
	if err != nil {
		return err
	}
	if size != int64(len(b)) {
		if size > int64(len(b)) {
			return ErrShort
		}
		return fmt.Errorf("%w: %d bytes where the header says %d", ErrCorrupt, len(b), size)
	}
	if err := b.CheckHeader(); err != nil {
		return err
	}
	if crc := Castagnoli(b[atAttributes:]); crc != b.CRC() {
		return fmt.Errorf("%w: CRC %08x, computed %08x", ErrCorrupt, b.CRC(), crc)
	}
	return nil
}

// CheckHeader looks at the fields that need no checksum to be called impossible. b may be a header alone.
func (b Batch) CheckHeader() error {
	switch {
	case len(b) < HeaderSize:
		return ErrShort
	case b.BaseOffset() < 0:
		return fmt.Errorf("%w: base offset %d", ErrCorrupt, b.BaseOffset())
	case b.LastOffsetDelta() < 0 || b.BaseOffset() > math.MaxInt64-1-int64(b.LastOffsetDelta()):
		return fmt.Errorf("%w: last offset delta %d", ErrCorrupt, b.LastOffsetDelta())
	case b.Count() < 0 || int64(b.Count()) > int64(b.LastOffsetDelta())+1:
		return fmt.Errorf("%w: %d records for %d offsets", ErrCorrupt, b.Count(), int64(b.LastOffsetDelta())+1)
	}
	return nil
}

// ChecksumStart is where in a batch the bytes covered by the CRC begin.
const ChecksumStart = atAttributes

// Stamp gives the batch its place in the log. Both fields are outside the CRC.
func (b Batch) Stamp(base int64, epoch int32) {
	binary.BigEndian.PutUint64(b[atBaseOffset:], uint64(base))
	binary.BigEndian.PutUint32(b[atLeaderEpoch:], uint32(epoch))
}

// StampAppendTime makes ms the time of every record, as message.timestamp.type=LogAppendTime demands, and computes
// the CRC anew.
func (b Batch) StampAppendTime(ms int64) {
	binary.BigEndian.PutUint16(b[atAttributes:], uint16(b.Attributes()|logAppendTimeBit))
	b.setMaxTimestamp(ms)
}

func (b Batch) setMaxTimestamp(ms int64) {
	binary.BigEndian.PutUint64(b[atMaxTimestamp:], uint64(ms))
	binary.BigEndian.PutUint32(b[atCRC:], Castagnoli(b[atAttributes:]))
}

// Filler is a batch without records that covers the offsets first to last, as Kafka's log cleaner leaves them:
// consumers step over it. It keeps a log contiguous where compaction removed, or damage ate, whole batches.
// It panics unless 0 <= last-first <= 2^31-1.
func Filler(first, last int64, epoch int32, ms int64) Batch {
	if last < first || last-first > math.MaxInt32 {
		panic(fmt.Sprintf("record: filler for offsets %d to %d", first, last))
	}
	b := make(Batch, HeaderSize)
	b.putHeader(None, int32(last-first), 0, ms, ms)
	b.Stamp(first, epoch)
	return b
}

// putHeader writes a header for the records that already follow it in b: base offset 0, no leader, no producer.
func (b Batch) putHeader(codec Codec, lastDelta, count int32, base, maxTS int64) {
	be := binary.BigEndian
	be.PutUint64(b[atBaseOffset:], 0)
	be.PutUint32(b[atLength:], uint32(len(b)-prefixSize))
	epoch := int32(noPartitionLeader)
	be.PutUint32(b[atLeaderEpoch:], uint32(epoch))
	b[atMagic] = currentMagic
	be.PutUint16(b[atAttributes:], uint16(codec))
	be.PutUint32(b[atLastOffsetDelta:], uint32(lastDelta))
	be.PutUint64(b[atBaseTimestamp:], uint64(base))
	be.PutUint64(b[atMaxTimestamp:], uint64(maxTS))
	id, producerEpoch, sequence := int64(noProducer), int16(noProducerEpoch), int32(noSequence)
	be.PutUint64(b[atProducerID:], uint64(id))
	be.PutUint16(b[atProducerEpoch:], uint16(producerEpoch))
	be.PutUint32(b[atBaseSequence:], uint32(sequence))
	be.PutUint32(b[atCount:], uint32(count))
	be.PutUint32(b[atCRC:], Castagnoli(b[atAttributes:]))
}

// SetProducer makes the batch one of an idempotent producer and computes the CRC anew.
func (b Batch) SetProducer(id int64, epoch int16, sequence int32, transactional bool) {
	be := binary.BigEndian
	be.PutUint64(b[atProducerID:], uint64(id))
	be.PutUint16(b[atProducerEpoch:], uint16(epoch))
	be.PutUint32(b[atBaseSequence:], uint32(sequence))
	attributes := b.Attributes() &^ transactionalBit
	if transactional {
		attributes |= transactionalBit
	}
	be.PutUint16(b[atAttributes:], uint16(attributes))
	be.PutUint32(b[atCRC:], Castagnoli(b[atAttributes:]))
}
