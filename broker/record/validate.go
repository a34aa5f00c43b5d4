package record

import (
	"errors"
	"fmt"
	"io"
	"math"
)

// ValidateOptions say what a topic accepts. The zero value accepts what Kafka does from a client, with no limit on
// times.
type ValidateOptions struct {
	// MaxBytes bounds the decompressed records. 0 is DefaultMaxBytes.
	MaxBytes int
	// MaxRecord bounds each decompressed record; one of a batch that is not compressed is as large as it is. Less than
	// MaxRecord is MaxRecord.
	MaxRecord int64
	// Compacted demands a key in every record.
	Compacted bool
	// Earliest and Latest bound every record's timestamp, in ms, when they are over 0. Records without one (-1) pass.
	Earliest, Latest int64
	// Internal admits control batches, which clients may not write.
	Internal bool
}

// DefaultMaxBytes is the limit on decompressed records where the caller names none. They are streamed: it bounds the time
// a batch may take, not memory.
const DefaultMaxBytes = 64 << 20

// Validate says whether a client may write the batch, looking at every record, as Kafka's LogValidator does: offsets
// 0 to n-1 without a hole, lengths that add up, sequence numbers with a producer id, keys where the topic needs them.
// It returns ErrCorrupt, ErrTooLarge, ErrCodec, ErrInvalid or ErrTimestamp. The batch must have passed Check.
//
// A max timestamp that is not the records' largest is put right in place, CRC included, as Kafka does: the time
// index is built on it.
func (b Batch) Validate(o ValidateOptions) error {
	_, err := b.Measure(o)
	return err
}

// Measure is Validate, and says how many bytes the records take decompressed.
func (b Batch) Measure(o ValidateOptions) (decompressed int64, err error) {
	if o.MaxBytes == 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if err := b.validateHeader(o); err != nil {
		return 0, err
	}
	w, err := b.walk(o.MaxBytes)
	if err != nil {
		return 0, err
	}
	defer w.close()
	largest := int64(noTimestamp)
	for want := int64(0); ; want++ {
		r, err := w.next(false)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, err
		}
		if w.stream != nil && w.size > max(o.MaxRecord, MaxRecord) {
			return 0, fmt.Errorf("%w: record %d takes %d bytes decompressed, limit %d", ErrTooLarge, want, w.size, max(o.MaxRecord, MaxRecord))
		}
		if w.prev != want {
			return 0, fmt.Errorf("%w: offset delta %d, want %d", ErrInvalid, w.prev, want)
		}
		if o.Compacted && r.Key == nil && !b.Control() {
			return 0, fmt.Errorf("%w: record %d has no key, the topic is compacted", ErrInvalid, want)
		}
		if r.Timestamp != noTimestamp && (o.Earliest > 0 && r.Timestamp < o.Earliest || o.Latest > 0 && r.Timestamp > o.Latest) {
			return 0, fmt.Errorf("%w: record %d has %d, accepted are %d to %d", ErrTimestamp, want, r.Timestamp, o.Earliest, o.Latest)
		}
		largest = max(largest, r.Timestamp)
	}
	if largest != b.MaxTimestamp() {
		b.setMaxTimestamp(largest)
	}
	if w.stream == nil {
		return int64(len(b) - HeaderSize), nil
	}
	return int64(o.MaxBytes - w.window.room), nil
}

func (b Batch) validateHeader(o ValidateOptions) error {
	if err := b.CheckHeader(); err != nil {
		return err
	}
	switch {
	case b.Count() == 0:
		return fmt.Errorf("%w: no records", ErrInvalid)
	case int64(b.Count()) != int64(b.LastOffsetDelta())+1:
		return fmt.Errorf("%w: %d records for %d offsets", ErrInvalid, b.Count(), int64(b.LastOffsetDelta())+1)
	case b.Codec() > Zstd:
		return fmt.Errorf("%w: %d", ErrCodec, int8(b.Codec()))
	case b.Codec() == None && int64(b.Count()) > int64(len(b)-HeaderSize)/minRecord:
		return fmt.Errorf("%w: %d records in %d bytes", ErrCorrupt, b.Count(), len(b)-HeaderSize)
	case b.Attributes()&^(codecMask|logAppendTimeBit|transactionalBit|controlBit|deleteHorizonBit) != 0:
		return fmt.Errorf("%w: attributes %#x", ErrInvalid, b.Attributes())
	case b.LogAppendTime() && !o.Internal:
		return fmt.Errorf("%w: the type is the broker's to set", ErrTimestamp)
	case b.Control() && !o.Internal:
		return fmt.Errorf("%w: control batch from a client", ErrInvalid)
	case b.ProducerID() >= 0 && (b.ProducerEpoch() < 0 || b.BaseSequence() < 0) && !b.Control():
		return fmt.Errorf("%w: producer %d with epoch %d and sequence %d", ErrInvalid, b.ProducerID(), b.ProducerEpoch(), b.BaseSequence())
	case b.ProducerID() < noProducer || b.ProducerID() == math.MaxInt64:
		return fmt.Errorf("%w: producer id %d", ErrInvalid, b.ProducerID())
	case b.Transactional() && b.ProducerID() < 0:
		return fmt.Errorf("%w: transaction without a producer id", ErrInvalid)
	}
	return nil
}
