package upstream

import (
	"errors"
	"fmt"
	"slices"

	"millrace/broker/record"
)

// errOther is why a partition stops whose last record taken is another one upstream.
var errOther = errors.New("is not the one that was taken: the partition was truncated, or restored")

// landed is what is appended of one partition.
type landed struct {
	in      *inlet
	records []record.Record
	bytes   int
	next    int64
	last    int64
	crc     uint32
	looped  int
	gone    *Range
	// compared says that the last record that was taken before is the one the peer has, or not there any more.
	compared bool
}

// worth says whether it has to be appended.
func (c *landed) worth() bool {
	return len(c.records) > 0 || c.gone != nil || !c.in.has || c.next-c.in.cursor.Next >= skippedMax
}

// cursor says that it was.
func (c *landed) cursor() landing {
	return landing{Local: c.in.log.ID(), UpstreamID: c.in.of.upstreamID, Next: c.next, Epoch: c.in.epoch, Last: c.last, CRC: c.crc}
}

// catch gathers records that are appended together. What they point to is of the peer's answer, or of arena.
type catch struct {
	board, cluster string
	keep           int // the largest arena that is kept, in bytes

	landed  []*landed
	arena   []byte
	records []record.Record
	headers []record.Header
	bytes   int
	total   int // of all that was gathered
}

func (f *catch) reset() {
	if cap(f.arena) > f.keep {
		f.arena = nil
	}
	clear(f.landed)
	clear(f.records)
	clear(f.headers)
	f.landed, f.arena, f.records, f.headers, f.bytes = f.landed[:0], f.arena[:0], f.records[:0], f.headers[:0], 0
}

// drop takes what was gathered last back.
func (f *catch) drop() { f.landed = f.landed[:len(f.landed)-1] }

// frame is what a record takes beside its key, value and headers, and headerFrame what a header takes, at most, in bytes.
const (
	frame       = 40
	headerFrame = 10
)

// gather adds what a partition has from its place on: at most room bytes in all, but one record at least when there is none.
// full says that there is more. An error is of what follows; what was added stays.
func (f *catch) gather(in *inlet, got *Portion, room int) (full bool, err error) {
	c := &landed{in: in, next: in.pos, last: in.cursor.Last, crc: in.cursor.CRC, gone: in.gone, compared: len(got.Batches) > 0}
	f.landed = append(f.landed, c)
	mark := len(f.records)
	defer func() { c.records = f.records[mark:len(f.records):len(f.records)] }()
	for b, err := range visible(got.Batches, got.Aborted) {
		if err != nil {
			return false, fmt.Errorf("at offset %d upstream: %w", c.next, err)
		}
		if b.NextOffset() <= c.next && !in.compare {
			continue
		}
		if !b.hidden {
			if full, err := f.batch(c, b.Batch, room); full || err != nil {
				return full, err
			}
		}
		c.next = max(c.next, b.NextOffset())
	}
	return false, nil
}

// batch adds the records of a batch.
func (f *catch) batch(c *landed, b record.Batch, room int) (full bool, err error) {
	own := b.Codec() == record.None
	in := c.in
	for r, err := range b.Records(record.DefaultMaxBytes) {
		switch {
		case err != nil:
			return false, fmt.Errorf("at offset %d upstream: %w", c.next, err)
		case in.compare && r.Offset == in.cursor.Last && sum(&r) != in.cursor.CRC:
			return false, fmt.Errorf("the record at offset %d upstream %w", r.Offset, errOther)
		case r.Offset < c.next:
			continue
		case r.Large:
			return false, fmt.Errorf("offset %d upstream: %w", r.Offset, record.ErrTooLarge)
		}
		if f.own(r.Headers) {
			c.looped++
			c.next = r.Offset + 1
			continue
		}
		size := weight(&r) + frame + headerFrame*(len(r.Headers)+1) + len(HeaderCluster) + len(f.cluster)
		limit := partMax
		if in.most > 0 {
			limit = in.most
		}
		if len(f.records) > 0 && (f.bytes+size > room || len(f.records) >= recordsMax) || c.bytes > 0 && c.bytes+size > limit {
			return true, nil
		}
		f.add(&r, own)
		c.bytes += size
		c.next, c.last, c.crc = r.Offset+1, r.Offset, sum(&r)
		f.bytes += size
		f.total += size
	}
	return false, nil
}

// own says that a record came from this board.
func (f *catch) own(headers []record.Header) bool {
	return slices.ContainsFunc(headers, func(h record.Header) bool { return h.Key == HeaderBoard && string(h.Value) == f.board })
}

// add adds one record. own says that its bytes stay where they are.
func (f *catch) add(r *record.Record, own bool) {
	mark := len(f.headers)
	for _, h := range r.Headers {
		f.headers = append(f.headers, record.Header{Key: h.Key, Value: f.hold(h.Value, own)})
	}
	if f.cluster != "" {
		f.headers = append(f.headers, record.Header{Key: HeaderCluster, Value: []byte(f.cluster)})
	}
	out := record.Record{Timestamp: r.Timestamp, Key: f.hold(r.Key, own), Value: f.hold(r.Value, own)}
	if n := len(f.headers); n > mark {
		out.Headers = f.headers[mark:n:n]
	}
	f.records = append(f.records, out)
}

// hold is p until reset.
func (f *catch) hold(p []byte, own bool) []byte {
	if own || p == nil {
		return p
	}
	mark := len(f.arena)
	f.arena = append(f.arena, p...)
	return f.arena[mark:len(f.arena):len(f.arena)]
}
