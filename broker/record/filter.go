package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Keys is Records without headers: what compaction looks at, with nothing allocated for the rest.
func (b Batch) Keys(maxBytes int) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		w, err := b.walk(maxBytes)
		if err != nil {
			yield(Record{}, err)
			return
		}
		defer w.close()
		for {
			r, err := w.next(false)
			if errors.Is(err, io.EOF) {
				return
			}
			if !yield(r, err) || err != nil {
				return
			}
		}
	}
}

// DeleteHorizon is the time, ms, from which on the batch's tombstones may go (KIP-534), ok false while it is not decided.
// Millrace decides it when a tombstone is first compacted, as Kafka does.
func (b Batch) DeleteHorizon() (ms int64, ok bool) {
	return b.BaseTimestamp(), b.Attributes()&deleteHorizonBit != 0
}

// Retain appends to dst the batch with only those records that keep says yes to; it is asked once for each, in order, and
// must not hold on to it. Offsets, timestamps, keys, values, headers, codec, producer and leader epoch stay as they are,
// and so does the range of offsets, so that a batch without records is what may be left. horizon, when it is not
// negative, becomes the batch's delete horizon; with -1 it stays as it was. Records are streamed: memory goes with the
// batch as it is stored. The batch must have passed Check; maxBytes is as in Records.
func (b Batch) Retain(dst []byte, maxBytes int, horizon int64, keep func(Record) bool) ([]byte, error) {
	at := len(dst)
	w, err := b.walk(maxBytes)
	if err != nil {
		return dst, err
	}
	defer w.close()
	out, err := b.Codec().pack(append(dst, b[:HeaderSize]...))
	if err != nil {
		return dst, err
	}
	base, count, largest := b.BaseTimestamp(), int32(0), int64(noTimestamp)
	if horizon >= 0 {
		base = horizon
	}
	var scratch []byte
	for {
		r, raw, err := w.nextRaw()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil && keep(r) {
			if base != b.BaseTimestamp() {
				scratch, err = rebase(scratch[:0], raw, b.BaseTimestamp()-base)
				raw = scratch
			}
			if err == nil {
				_, err = out.Write(raw)
			}
			count, largest = count+1, max(largest, r.Timestamp)
		}
		if err != nil {
			out.free()
			return dst, err
		}
	}
	if count == 0 {
		out.free()
		return append(dst, b.emptied()...), nil
	}
	packed, err := out.finish()
	if err != nil {
		return dst, err
	}
	if len(packed)-at > math.MaxInt32 {
		return dst, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(packed)-at)
	}
	n := Batch(packed[at:])
	be := binary.BigEndian
	be.PutUint32(n[atLength:], uint32(len(n)-prefixSize))
	if horizon >= 0 {
		be.PutUint16(n[atAttributes:], uint16(n.Attributes()|deleteHorizonBit))
	}
	be.PutUint64(n[atBaseTimestamp:], uint64(base))
	if !b.LogAppendTime() { // there it is every record's time
		be.PutUint64(n[atMaxTimestamp:], uint64(largest))
	}
	be.PutUint32(n[atCount:], uint32(count))
	be.PutUint32(n[atCRC:], Castagnoli(n[atAttributes:]))
	return packed, nil
}

// emptied is the batch without records, uncompressed: what Kafka's log cleaner leaves of the last batch of a producer.
func (b Batch) emptied() Batch {
	n := append(Batch(nil), b[:HeaderSize]...)
	be := binary.BigEndian
	be.PutUint32(n[atLength:], HeaderSize-prefixSize)
	be.PutUint16(n[atAttributes:], uint16(n.Attributes()&^(codecMask|deleteHorizonBit)))
	be.PutUint64(n[atBaseTimestamp:], uint64(n.MaxTimestamp()))
	be.PutUint32(n[atCount:], 0)
	be.PutUint32(n[atCRC:], Castagnoli(n[atAttributes:]))
	return n
}

// Extend makes last the last offset the batch covers, so that it closes the hole behind it, and computes the CRC anew.
// Only a batch without a producer can: the last sequence number follows from the last offset. It panics unless
// the batch is one of those and last is not before its own last offset, and within 2^31 of its base.
func (b Batch) Extend(last int64) {
	if !b.Extendable(last) {
		panic(fmt.Sprintf("record: extend batch %d to %d, producer %d, to %d", b.BaseOffset(), b.LastOffset(), b.ProducerID(), last))
	}
	binary.BigEndian.PutUint32(b[atLastOffsetDelta:], uint32(last-b.BaseOffset()))
	binary.BigEndian.PutUint32(b[atCRC:], Castagnoli(b[atAttributes:]))
}

// Extendable says whether Extend may be called.
func (b Batch) Extendable(last int64) bool {
	return b.ProducerID() < 0 && !b.Control() && last >= b.LastOffset() && last-b.BaseOffset() <= math.MaxInt32
}

// nextRaw is next with the record's own bytes, its length in front.
func (w *walker) nextRaw() (Record, []byte, error) {
	p, err := w.fill(binary.MaxVarintLen32)
	if err != nil {
		return Record{}, nil, err
	}
	size, n := varint(p)
	r, err := w.next(false)
	if err != nil {
		return Record{}, nil, err
	}
	if w.stream == nil {
		at := len(w.batch) - len(w.records)
		return r, w.batch[at-n-int(size) : at], nil
	}
	return r, w.window.buf[w.window.start-n-int(size) : w.window.start], nil
}

// rebase appends a record whose timestamp delta is by more.
func rebase(dst, raw []byte, by int64) ([]byte, error) {
	_, n := varint(raw)
	d := decoder{p: raw[n+1:]}
	delta := d.varlong() + by
	if d.bad {
		return dst, fmt.Errorf("%w: record timestamp", ErrCorrupt)
	}
	var ts [binary.MaxVarintLen64]byte
	m := binary.PutVarint(ts[:], delta)
	dst = binary.AppendVarint(dst, int64(1+m+len(d.p)))
	dst = append(dst, raw[n])
	dst = append(dst, ts[:m]...)
	return append(dst, d.p...), nil
}

// packer compresses what is written to it onto a slice, a piece at a time.
type packer struct {
	codec Codec
	out   *sliceWriter
	w     io.WriteCloser // nil for none and snappy
	block []byte         // of snappy, what waits for a full block
}

// pack starts compressing onto dst.
func (c Codec) pack(dst []byte) (*packer, error) {
	p := &packer{codec: c, out: &sliceWriter{dst}}
	switch c {
	case None:
	case Gzip:
		w := gzipWriters.Get().(*gzip.Writer)
		w.Reset(p.out)
		p.w = w
	case Snappy:
		p.out.p = append(p.out.p, xerialHeader...)
		p.block = make([]byte, 0, xerialBlock)
	case LZ4:
		w := lz4Writers.Get().(*lz4.Writer)
		w.Reset(p.out)
		p.w = w
	case Zstd:
		w := zstdEncoders.Get().(*zstd.Encoder)
		w.Reset(p.out)
		p.w = w
	default:
		return nil, fmt.Errorf("%w: %d", ErrCodec, int8(c))
	}
	return p, nil
}

func (p *packer) Write(b []byte) (int, error) {
	switch {
	case p.w != nil:
		return p.w.Write(b)
	case p.codec == None:
		return p.out.Write(b)
	}
	for rest := b; len(rest) > 0; {
		n := min(len(rest), xerialBlock-len(p.block))
		p.block, rest = append(p.block, rest[:n]...), rest[n:]
		if len(p.block) == xerialBlock {
			p.out.p = snappyBlock(p.out.p, p.block)
			p.block = p.block[:0]
		}
	}
	return len(b), nil
}

// finish is what came of it. The packer is done.
func (p *packer) finish() ([]byte, error) {
	if len(p.block) > 0 {
		p.out.p = snappyBlock(p.out.p, p.block)
	}
	var err error
	if p.w != nil {
		if err = p.w.Close(); err != nil {
			err = fmt.Errorf("%s: %w", p.codec, err)
		}
	}
	p.free()
	return p.out.p, err
}

// free gives the compressor back.
func (p *packer) free() {
	switch w := p.w.(type) {
	case *gzip.Writer:
		gzipWriters.Put(w)
	case *lz4.Writer:
		lz4Writers.Put(w)
	case *zstd.Encoder:
		w.Reset(nil)
		zstdEncoders.Put(w)
	}
	p.w = nil
}
