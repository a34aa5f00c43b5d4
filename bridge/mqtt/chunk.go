package mqtt

import (
	"fmt"

	"millrace/broker/record"
)

// chunkKeep bounds the bytes of all chunks that are kept between the turns of their streams.
const chunkKeep = 2 << 20

// chunk is a piece of a log as the scans read it last. A session takes a window of messages at a time, a batch of a Kafka
// client may hold ten thousand: with the chunk, and the places in it where sessions stopped, each record is read and
// decoded about once.
type chunk struct {
	buf         []byte
	first, next int64 // offsets of the whole batches in buf
	stops       [8]stop
	turn        int  // which of stops is overwritten next
	used        bool // since the last sweep
}

// stop is where a record begins: the batch's position in the chunk, and the place in the batch.
type stop struct {
	offset int64
	batch  int
	place  record.Place
}

// takeChunk gives the caller the stream's chunk for such turns, or an empty one.
func (st *stream) takeChunk(t turn) *chunk {
	c := st.chunks[t].Swap(nil)
	if c == nil {
		return new(chunk)
	}
	st.all.kept.Add(-int64(cap(c.buf)))
	return c
}

// keepChunk keeps c for the next turn, if there is room.
func (st *stream) keepChunk(t turn, c *chunk) {
	n := int64(cap(c.buf))
	if n == 0 {
		return
	}
	if st.all.kept.Add(n) > chunkKeep {
		st.all.kept.Add(-n)
		return
	}
	if old := st.chunks[t].Swap(c); old != nil {
		st.all.kept.Add(-int64(cap(old.buf)))
	}
}

// sweepChunk drops a chunk nobody has used since the last sweep.
func (st *stream) sweepChunk(t turn) {
	if c := st.takeChunk(t); c.used {
		c.used = false
		st.keepChunk(t, c) // and is not ours any more
	}
}

func (c *chunk) has(offset int64) bool { return offset >= c.first && offset < c.next }

// load makes the chunk hold offset from. An empty chunk afterwards says that nothing from there on can be read.
func (c *chunk) load(p Partition, from int64) (err error) {
	if c.has(from) {
		return nil
	}
	buf := c.buf[:0]
	if cap(buf) > 1<<20 {
		buf = nil
	}
	*c = chunk{}
	if buf, err = p.ReadBatches(buf, from, readBytes); err != nil {
		return err
	}
	c.buf = buf
	for i, rest := 0, buf; len(rest) > 0; i++ {
		var b record.Batch
		if b, rest, err = record.Next(rest); err != nil {
			*c = chunk{}
			return err
		}
		if i == 0 {
			c.first = min(from, b.BaseOffset())
		}
		c.next = b.NextOffset()
	}
	return nil
}

// each is the function each over the chunk, from offset from on, which it holds.
func (c *chunk) each(from int64, fn func(r *record.Record) bool) (next int64, err error) {
	at := stop{}
	for _, s := range c.stops {
		if s.offset <= from && s.offset > at.offset {
			at = s
		}
	}
	next = from
	for p := c.buf[at.batch:]; len(p) > 0; at.batch, at.place = len(c.buf)-len(p), (record.Place{}) {
		var b record.Batch
		if b, p, err = record.Next(p); err != nil {
			return next, err
		}
		if !b.Control() && b.NextOffset() > from {
			for r, err := range b.RecordsFrom(&at.place, recordBytes) {
				if err != nil {
					return max(next, b.NextOffset()), fmt.Errorf("%w: %w", errUnreadable, err)
				}
				if r.Offset < next {
					continue
				}
				if !fn(&r) {
					at.offset = r.Offset
					c.stops[c.turn] = at
					c.turn = (c.turn + 1) % len(c.stops)
					return r.Offset, nil
				}
				next = r.Offset + 1
			}
		}
		next = max(next, b.NextOffset())
	}
	return next, nil
}
