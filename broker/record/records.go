package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
)

// Record is one record of a batch. Offset and Timestamp (ms, -1 for none) are absolute. Key and Value are nil for
// Kafka's null.
type Record struct {
	Offset, Timestamp int64
	Key, Value        []byte
	Headers           []Header
	// Large says that the record takes more than MaxRecord decompressed, or has more than MaxHeaders, and that key, value
	// and headers were left out for it.
	Large bool
}

// Header is one header of a record. Value is nil for Kafka's null.
type Header struct {
	Key   string
	Value []byte
}

// minRecord is the least a record can take: length, attributes, two deltas, key, value and header count, a byte each.
const minRecord = 7

// Records yields the records in order. A record's slices alias the batch, or a scratch that the next step uses again:
// keep nothing of one without a copy (header keys are strings of their own). Compressed batches are decompressed as
// a stream, one record in memory at a time, and end in ErrTooLarge after maxBytes. An error is the last thing yielded.
// The batch must have passed Check.
func (b Batch) Records(maxBytes int) iter.Seq2[Record, error] {
	return b.RecordsFrom(new(Place), maxBytes)
}

// Stamps yields the records in order with no more than their offsets and timestamps, in little memory whatever their
// size. Otherwise it is Records.
func (b Batch) Stamps(maxBytes int) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) { b.yield(new(Place), maxBytes, false, yield) }
}

// Place is a place in one batch, the zero Place its beginning.
type Place struct {
	at   int   // bytes of records before it
	done int32 // records before it
	prev int64 // offset delta of the last of these, plus 1
}

// RecordsFrom is Records from the place p on, which is moved along: when the caller stops, p is the place of the record
// that was yielded last, so that it can be gone on with from there. In a compressed batch there is no such place but the
// beginning: p stays there.
func (b Batch) RecordsFrom(p *Place, maxBytes int) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) { b.yield(p, maxBytes, true, yield) }
}

func (b Batch) yield(p *Place, maxBytes int, fields bool, yield func(Record, error) bool) {
	w, err := b.walk(maxBytes)
	if err != nil {
		yield(Record{}, err)
		return
	}
	defer w.close()
	whole := len(w.records)
	if w.stream == nil {
		w.records, w.left, w.prev = w.records[p.at:], w.left-p.done, p.prev-1
	}
	for {
		if w.stream == nil {
			*p = Place{whole - len(w.records), b.Count() - w.left, w.prev + 1}
		}
		r, err := w.next(fields)
		if errors.Is(err, io.EOF) {
			return
		}
		if !yield(r, err) || err != nil {
			return
		}
	}
}

// walker steps through the records of one batch.
type walker struct {
	batch     Batch
	base      int64
	baseTS    int64
	appendTS  int64
	logAppend bool
	lastDelta int64
	left      int32 // records still to come
	prev      int64 // offset delta of the last record
	size      int64 // bytes of the last record
	records   []byte
	stream    *stream
	window    *window
	headers   []Header
}

// window is the scratch of one decompression: bytes [start, end) of buf are decompressed and not yet consumed.
type window struct {
	buf        []byte
	start, end int
	room       int // how many more bytes may come out
	eof        bool
	spare      bool // this is the scratch that may be large
}

const (
	windowSize = 16 << 10
	// windowKeep is the largest scratch that goes back to the pool.
	windowKeep = 128 << 10
)

var windows = sync.Pool{New: func() any { return &window{buf: make([]byte, windowSize)} }}

func (b Batch) walk(maxBytes int) (*walker, error) {
	if len(b) < HeaderSize {
		return nil, ErrShort
	}
	if b.Count() < 0 {
		return nil, fmt.Errorf("%w: %d records", ErrCorrupt, b.Count())
	}
	w := &walker{
		batch: b, base: b.BaseOffset(), baseTS: b.BaseTimestamp(), appendTS: b.MaxTimestamp(), logAppend: b.LogAppendTime(),
		lastDelta: int64(b.LastOffsetDelta()), left: b.Count(), prev: -1, records: b[HeaderSize:],
	}
	if b.Codec() != None && (w.left > 0 || len(w.records) > 0) {
		s, err := b.Codec().open(w.records)
		if err != nil {
			return nil, err
		}
		w.stream = s
		w.window = windows.Get().(*window)
		*w.window = window{buf: w.window.buf, room: maxBytes}
	}
	return w, nil
}

func (w *walker) close() {
	if w.stream == nil {
		return
	}
	w.stream.close()
	if w.window.spare {
		spare.Release(1)
	} else {
		windows.Put(w.window)
	}
	w.stream, w.window = nil, nil
}

// next is the next record, io.EOF after the last one. Without fields only offset and timestamp are filled in, and of
// the key whether it is nil, but everything is walked and checked, whatever its size: of a compressed batch no more than
// the smallest scratch is held at a time.
func (w *walker) next(fields bool) (Record, error) {
	if w.left == 0 {
		p, err := w.fill(1)
		if err != nil {
			return Record{}, err
		}
		if len(p) > 0 {
			return Record{}, fmt.Errorf("%w: bytes after the last record", ErrCorrupt)
		}
		return Record{}, io.EOF
	}
	p, err := w.fill(binary.MaxVarintLen32)
	if err != nil {
		return Record{}, err
	}
	size, n := varint(p)
	if n == 0 || size < minRecord-1 {
		return Record{}, fmt.Errorf("%w: record length", ErrCorrupt)
	}
	if w.stream == nil && size > int64(len(p)-n) || w.stream != nil && size > int64(w.window.room+w.window.end-w.window.start-n) {
		if w.stream != nil {
			return Record{}, fmt.Errorf("%w: record of %d bytes", ErrTooLarge, size)
		}
		return Record{}, fmt.Errorf("%w: record of %d bytes, %d left", ErrCorrupt, size, len(p)-n)
	}
	w.size = size
	if w.stream != nil && (!fields && n+int(size) > windowSize || size > MaxRecord) {
		w.consume(n)
		w.left--
		return w.skim(size)
	}
	if p, err = w.fill(n + int(size)); err != nil {
		return Record{}, err
	}
	if len(p) < n+int(size) {
		return Record{}, fmt.Errorf("%w: record of %d bytes, %d left", ErrCorrupt, size, len(p)-n)
	}
	w.consume(n + int(size))
	w.left--
	return w.parse(p[n:n+int(size)], fields)
}

// fill is what is to be read next: at least want bytes, unless the records end before.
func (w *walker) fill(want int) ([]byte, error) {
	if w.stream == nil {
		return w.records, nil
	}
	v := w.window
	for v.end-v.start < want && !v.eof {
		if v.start > 0 {
			v.end = copy(v.buf, v.buf[v.start:v.end])
			v.start = 0
		}
		if v.end == len(v.buf) {
			v.grow(want)
		}
		n, err := w.stream.Read(v.buf[v.end:])
		v.end += n
		if v.room -= n; v.room < 0 {
			return nil, fmt.Errorf("%w: decompressed records", ErrTooLarge)
		}
		if errors.Is(err, io.EOF) {
			v.eof = true
		} else if err != nil {
			return nil, err
		}
	}
	return v.buf[v.start:v.end], nil
}

// grow makes room for more, up to a record of want bytes. The scratch doubles as bytes really arrive, so a record that
// only claims to be large costs nothing.
func (v *window) grow(want int) {
	size := min(2*len(v.buf), max(want, windowSize))
	if size > windowKeep && !v.spare {
		take(spare, 1)
		v.spare = true
	}
	grown := make([]byte, max(size, len(v.buf)+1))
	copy(grown, v.buf[:v.end])
	v.buf = grown
}

func (w *walker) consume(n int) {
	if w.stream == nil {
		w.records = w.records[n:]
		return
	}
	w.window.start += n
}

// parse reads the body of one record.
func (w *walker) parse(p []byte, fields bool) (Record, error) {
	d := decoder{p: p[1:]} // attributes: none are defined
	tsDelta, offsetDelta := d.varlong(), d.varint()
	r := Record{Offset: w.base + offsetDelta, Timestamp: w.baseTS + tsDelta}
	if w.logAppend {
		r.Timestamp = w.appendTS
	}
	r.Key, r.Value = d.bytes(), d.bytes()
	headers := d.varint()
	if headers < 0 || headers*2 > int64(len(d.p)) {
		return Record{}, fmt.Errorf("%w: %d headers", ErrCorrupt, headers)
	}
	if headers > MaxHeaders && fields {
		r.Key, r.Value, r.Large, fields = nil, nil, true, false
	}
	old := w.headers
	if fields && headers > 0 {
		w.headers = w.headers[:0]
	}
	for i := range int(headers) {
		key := d.bytes()
		if key == nil {
			d.bad = true
		}
		value := d.bytes()
		if d.bad {
			break
		}
		if fields {
			h := Header{Value: value}
			// Neighbours mostly carry the same header names: one string serves them all.
			if i < len(old) && old[i].Key == string(key) {
				h.Key = old[i].Key
			} else {
				h.Key = string(key)
			}
			w.headers = append(w.headers, h)
		}
	}
	if fields && headers > 0 {
		r.Headers = w.headers
	}
	if d.bad || len(d.p) != 0 {
		return Record{}, fmt.Errorf("%w: record at delta %d", ErrCorrupt, offsetDelta)
	}
	return r, w.follow(offsetDelta)
}

// follow notes the offset delta of one more record.
func (w *walker) follow(delta int64) error {
	if delta <= w.prev || delta > w.lastDelta {
		return fmt.Errorf("%w: offset delta %d after %d", ErrCorrupt, delta, w.prev)
	}
	w.prev = delta
	return nil
}

// decoder reads Kafka's primitive types from p. After the first one that does not fit, bad is set and all reads are
// zero.
type decoder struct {
	p   []byte
	bad bool
}

func (d *decoder) varint() int64 {
	v, n := varint(d.p)
	if n == 0 {
		d.fail()
		return 0
	}
	d.p = d.p[n:]
	return v
}

func (d *decoder) varlong() int64 {
	v, n := binary.Varint(d.p)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.p = d.p[n:]
	return v
}

// bytes is a length and as many bytes, nil for the length -1.
func (d *decoder) bytes() []byte {
	n := d.varint()
	if d.bad || n == -1 {
		return nil
	}
	if n < -1 || n > int64(len(d.p)) {
		d.fail()
		return nil
	}
	p := d.p[:n:n]
	d.p = d.p[n:]
	return p
}

func (d *decoder) fail() { d.bad, d.p = true, nil }

// varint is the zigzag number of at most 32 bits at the start of p, and its length, 0 when there is none.
func varint(p []byte) (int64, int) {
	if len(p) > 0 && p[0] < 0x80 { // one byte, the common case
		return int64(p[0]>>1) ^ -int64(p[0]&1), 1
	}
	v, n := binary.Uvarint(p[:min(len(p), binary.MaxVarintLen32)])
	if n <= 0 || v > 1<<32-1 {
		return 0, 0
	}
	return int64(v>>1) ^ -int64(v&1), n
}
