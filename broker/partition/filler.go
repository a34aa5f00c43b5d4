package partition

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"millrace/broker/record"
)

// fillerType is the control record type of a filler: none that Kafka defines, so that every client steps over it.
const fillerType = 0x7fff

// filler is a batch of exactly n bytes that covers the lost offsets first to last, so that a damaged log stays walkable
// and every later batch stays where the journal says. It is a control batch: clients show none of it. n must have room
// for the smallest batch there is with a record.
func filler(n int, first, last int64, epoch int32) (record.Batch, error) {
	body, ok := fillerRecord(n - record.HeaderSize)
	if !ok {
		return nil, fmt.Errorf("no filler of %d bytes: %w", n, errOrder)
	}
	be := binary.BigEndian
	b := append(record.Filler(first, last, epoch, 0), body...)
	be.PutUint32(b[8:], uint32(len(b)-12))                            // batch length
	be.PutUint16(b[21:], 0x20)                                        // attributes: control
	be.PutUint32(b[57:], 1)                                           // one record
	be.PutUint32(b[17:], record.Castagnoli(b[record.ChecksumStart:])) // CRC
	return b, nil
}

// fills says whether b is a filler.
func fills(b record.Batch) bool {
	if !b.Control() || b.ProducerID() >= 0 {
		return false
	}
	same, err := filler(len(b), b.BaseOffset(), b.LastOffset(), b.LeaderEpoch())
	return err == nil && bytes.Equal(b, same)
}

// fillerRecord is one control record of exactly n bytes with its length. The value takes up the room. Where a varint
// grows and a size would be jumped over, the record's length is written a byte wider than it must be.
func fillerRecord(n int) ([]byte, bool) {
	for key := 4; key >= 0; key-- { // the control record's version and type; less only where there is no room
		for value := max(0, n-key-16); value <= n; value++ {
			inner := 3 + 1 + key + varintSize(value) + value + 1
			wide := n - inner // bytes left for the length
			if wide < varintSize(inner) {
				break
			}
			if wide > varintSize(inner)+1 {
				continue
			}
			p := appendWide(make([]byte, 0, n), inner, wide)
			p = append(p, 0, 0, 0) // attributes, timestamp delta, offset delta
			p = binary.AppendVarint(p, int64(key))
			p = append(p, []byte{0, 0, fillerType >> 8, fillerType & 0xff}[:key]...)
			p = binary.AppendVarint(p, int64(value))
			return append(p, make([]byte, value+1)...), true // and no headers
		}
	}
	return nil, false
}

func varintSize(v int) int { return len(binary.AppendVarint(nil, int64(v))) }

// appendWide appends v as a varint of exactly width bytes.
func appendWide(p []byte, v, width int) []byte {
	p = binary.AppendVarint(p, int64(v))
	if width > varintSize(v) {
		p[len(p)-1] |= 0x80
		p = append(p, 0)
	}
	return p
}
