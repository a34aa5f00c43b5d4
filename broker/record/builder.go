package record

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
)

// Builder gathers records into one batch. Reset makes it ready for the next; its memory is used again, so a builder
// in a steady state allocates nothing. It is not safe for concurrent use.
type Builder struct {
	codec   Codec
	buf     []byte // header and uncompressed records
	packed  []byte // header and compressed records
	record  []byte // one record's body, written before its length is known
	count   int32
	base    int64
	largest int64
}

// NewBuilder makes an empty builder whose batches are compressed with codec.
func NewBuilder(codec Codec) *Builder {
	b := &Builder{codec: codec}
	b.Reset()
	return b
}

// Reset forgets all records. The last batch built is invalid from then on.
func (b *Builder) Reset() {
	if b.buf == nil {
		b.buf = make([]byte, HeaderSize, 512)
	}
	b.buf = b.buf[:HeaderSize]
	b.count = 0
}

// Grow makes room for n bytes more, so that adding them allocates nothing.
func (b *Builder) Grow(n int) { b.buf = slices.Grow(b.buf, n) }

// Len is the size of the batch so far without compression, in bytes, the header included.
func (b *Builder) Len() int { return len(b.buf) }

// Count is the number of records so far.
func (b *Builder) Count() int { return int(b.count) }

// Add appends one record. ts is in ms; a nil key or value is Kafka's null. Everything is copied. The caller watches
// Len: the builder grows as far as it is told to, and Build refuses what no batch can hold.
func (b *Builder) Add(ts int64, key, value []byte, headers []Header) {
	if b.count == 0 {
		b.base, b.largest = ts, ts
	}
	b.largest = max(b.largest, ts)
	p := append(b.record[:0], 0) // attributes: none are defined
	p = binary.AppendVarint(p, ts-b.base)
	p = binary.AppendVarint(p, int64(b.count))
	p = appendBytes(p, key)
	p = appendBytes(p, value)
	p = binary.AppendVarint(p, int64(len(headers)))
	for _, h := range headers {
		p = binary.AppendVarint(p, int64(len(h.Key)))
		p = append(p, h.Key...)
		p = appendBytes(p, h.Value)
	}
	b.record = p
	b.buf = binary.AppendVarint(b.buf, int64(len(p)))
	b.buf = append(b.buf, p...)
	b.count++
}

// appendBytes writes p with its length, -1 for nil.
func appendBytes(dst, p []byte) []byte {
	if p == nil {
		return append(dst, 1) // varint -1
	}
	dst = binary.AppendVarint(dst, int64(len(p)))
	return append(dst, p...)
}

// Build is the batch of all records added: base offset 0, leader epoch and producer -1. It aliases the builder's
// memory until Reset. Records that do not shrink are stored uncompressed. It returns ErrInvalid when there are no
// records and ErrTooLarge past 2 GiB.
func (b *Builder) Build() (Batch, error) {
	if b.count == 0 {
		return nil, fmt.Errorf("%w: no records", ErrInvalid)
	}
	if int64(len(b.buf)) > math.MaxInt32 {
		return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(b.buf))
	}
	batch, codec := Batch(b.buf), None
	if b.codec != None {
		packed := b.packed[:0]
		if cap(packed) < HeaderSize {
			packed = make([]byte, 0, HeaderSize+len(b.buf)/2)
		}
		packed, err := b.codec.Compress(packed[:HeaderSize], b.buf[HeaderSize:])
		if err != nil {
			return nil, err
		}
		if b.packed = packed; len(packed) < len(b.buf) {
			batch, codec = Batch(packed), b.codec
		}
	}
	batch.putHeader(codec, b.count-1, b.count, b.base, b.largest)
	return batch, nil
}
