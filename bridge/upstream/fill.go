package upstream

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"millrace/broker/record"
)

// draft is what a transaction that is being built does to one partition, in one lane.
type draft struct {
	part *part
	lane Lane
	// What follows is of the part when the draft was begun: the table may change meanwhile.
	log        Partition
	id         [16]byte
	to         string
	mine, have int32 // partitions here and upstream
	most       int
	base       int64 // the committed cursor's Next

	cursor  Cursor
	end     int64 // where the lane stops: offsets from here on are not its own
	holes   []hole
	records int
	bytes   int
	looped  int
	// moved says that the cursor has to be written although there are no records.
	moved bool
	// full says that it stopped for want of room.
	full bool
}

// skippedMax is how many offsets without anything to send a cursor may be behind.
const skippedMax = 10_000

// worth says whether the draft has to be committed.
func (d *draft) worth() bool {
	return d.records > 0 || len(d.holes) > 0 || d.moved || d.cursor.Next-d.base >= skippedMax
}

// fillerType is the type of control records that stand for damage, see broker/partition.
const fillerType = 0x7fff

// readMax is how much is read of the log at once, in bytes; a batch that is larger comes whole.
const readMax = 256 << 10

// pieceLeast is how large the pieces are that records are copied to, and numberMost what a number takes in decimal.
const (
	pieceLeast = 32 << 10
	numberMost = 20
)

// recordsMax is how many records a transaction holds at most, and draftsMax of how many partitions.
const (
	recordsMax = 4096
	draftsMax  = 256
)

// errFull ends the walk through batches when there is no more room.
var errFull = errors.New("no room")

// filler builds the records of a transaction. Their keys and values alias raw and arena.
type filler struct {
	cfg     *Config
	clock   Clock
	cluster string // of the peer

	// raw and arena are the last piece of what was read and of what was copied. A piece that is full is left to the records
	// that alias it, not copied into a larger one: all of them together would be several times as much. rawSpilt and spilt are what
	// such pieces hold, rawMost is the most that would have been needed in one piece: the next transaction has one that is large enough.
	raw                      []byte
	arena                    []byte
	rawSpilt, rawMost, spilt int
	records                  []Record
	headers                  []record.Header
	bytes                    int
	// from says where records come from, where groups are followed.
	from []origin
}

// origin is where a record is in the board's log, and how many headers it has there.
type origin struct {
	part    *part
	local   int64
	headers int
}

// reset forgets all records, and memory that was taken for an uncommonly large one. Buffers grow by more than is needed.
func (f *filler) reset() {
	keep := 2 * (f.cfg.TransactionBytes + readMax)
	f.raw = emptied(f.raw, f.rawMost, keep)
	f.arena = emptied(f.arena, f.spilt+len(f.arena), keep)
	f.rawSpilt, f.rawMost, f.spilt = 0, 0, 0
	clear(f.records)
	clear(f.headers)
	clear(f.from)
	f.records, f.headers, f.from, f.bytes = f.records[:0], f.headers[:0], f.from[:0], 0
}

// emptied is a buffer that holds most bytes, what was last needed, when that is no more than keep.
func emptied(last []byte, most, keep int) []byte {
	switch {
	case most > cap(last) && most <= keep:
		return make([]byte, 0, max(most, pieceLeast))
	case cap(last) > keep:
		return nil
	}
	return last[:0]
}

// forget gives all memory up: somebody may still read it.
func (f *filler) forget() { *f = filler{cfg: f.cfg, clock: f.clock, cluster: f.cluster} }

// fill adds what the draft's partition has to send: at most room bytes, but one record at least when the transaction has
// none. It returns the log's errors; what was added before stays.
func (f *filler) fill(d *draft, room int) error {
	if d.most > 0 {
		room = min(room, d.most-d.bytes)
	}
	limit := f.bytes + room
	for d.full = false; !d.full && d.cursor.Next < d.end; {
		log := d.log
		high := min(log.High(), d.end) // before the read: what is not read below it is not there
		if start := log.Start(); d.cursor.Next < start {
			d.gone(start)
			continue
		}
		if d.cursor.Next >= high {
			return nil
		}
		mark := len(f.raw)
		raw, err := log.ReadBatches(f.raw[mark:], d.cursor.Next, min(readMax, max(4<<10, limit-f.bytes)))
		if errors.Is(err, ErrOutOfRange) && d.cursor.Next < log.Start() {
			continue // retention was quicker
		}
		if err != nil {
			return err
		}
		if len(raw) == 0 {
			d.lost(high) // nothing but damage up to the end
			return nil
		}
		aliased, err := f.batches(d, raw, limit)
		if len(raw) > cap(f.raw)-mark { // it did not fit, and is a piece of its own
			f.rawSpilt += mark
			f.raw, mark = raw, 0
		}
		f.rawMost = max(f.rawMost, f.rawSpilt+mark+len(raw))
		if f.raw = f.raw[:mark]; aliased {
			f.raw = f.raw[:mark+len(raw)]
		}
		if errors.Is(err, errFull) {
			d.full = true
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// gone leaves out the offsets up to end, which the log has let go.
func (d *draft) gone(end int64) {
	if w, ok := d.log.(Witness); ok {
		for _, g := range w.Gone(d.cursor.Next) {
			d.hole(min(g.End, end), g.Cause)
		}
	}
	d.hole(end, CauseRetention)
}

// hole leaves out the offsets up to end.
func (d *draft) hole(end int64, cause string) {
	if end = min(end, d.end); end > d.cursor.Next {
		if n := len(d.holes); n > 0 && d.holes[n-1].End == d.cursor.Next && d.holes[n-1].cause == cause {
			d.holes[n-1].End = end
		} else {
			d.holes = append(d.holes, hole{Range{d.cursor.Next, end}, cause})
		}
		d.cursor.Next = end
	}
}

// lost leaves out the offsets up to end, which are missing in the log: compaction may take them, else it is damage.
func (d *draft) lost(end int64) {
	if d.log.Compacted() {
		d.cursor.Next = max(d.cursor.Next, min(end, d.end))
		return
	}
	d.hole(end, CauseDamage)
}

// batches adds the records of whole batches, and says whether any of them alias raw.
func (f *filler) batches(d *draft, raw []byte, limit int) (aliased bool, err error) {
	for len(raw) > 0 && d.cursor.Next < d.end {
		var b record.Batch
		if b, raw, err = record.Next(raw); err != nil {
			return aliased, err
		}
		if b.NextOffset() <= d.cursor.Next {
			continue
		}
		d.lost(b.BaseOffset())
		if d.cursor.Next >= d.end {
			break
		}
		switch {
		case b.Control():
			if damage(b) {
				d.hole(b.NextOffset(), CauseDamage)
			}
		case b.Count() == 0:
			d.lost(b.NextOffset())
		default:
			before := len(f.records)
			// Of one that goes in part the records are copied: else hundreds of ends of large batches would all be held.
			whole := b.BaseOffset() >= d.cursor.Next && b.NextOffset() <= d.end && f.bytes+len(b) <= limit || b.Count() == 1
			own := b.Codec() == record.None && whole
			err = f.batch(d, b, limit, own)
			aliased = aliased || own && len(f.records) > before
			if err != nil {
				return aliased, err
			}
		}
		d.cursor.Next = max(d.cursor.Next, min(b.NextOffset(), d.end))
	}
	return aliased, nil
}

// damage says whether a control batch stands for records that were lost.
func damage(b record.Batch) bool {
	for r, err := range b.Records(len(b)) {
		return err == nil && len(r.Key) == 4 && int(r.Key[2])<<8|int(r.Key[3]) == fillerType
	}
	return false
}

// batch adds the records of one batch. own says that its bytes stay where they are until the transaction is over.
func (f *filler) batch(d *draft, b record.Batch, limit int, own bool) error {
	var last record.Record // what was added last, as long as its bytes stay
	defer func() {
		if d.records > 0 && last.Offset == d.cursor.Last && last.Offset >= 0 {
			d.cursor.CRC = sum(&last)
		}
	}()
	last.Offset = -1
	for r, err := range b.Records(record.DefaultMaxBytes) {
		switch {
		case err != nil:
			return fmt.Errorf("offset %d: %w", d.cursor.Next, err)
		case r.Offset < d.cursor.Next:
			continue
		case r.Offset >= d.end:
			return nil
		case r.Large:
			return fmt.Errorf("offset %d: %w", r.Offset, record.ErrTooLarge)
		}
		if len(r.Headers) > 0 && f.looped(r.Headers) {
			d.looped++
			d.cursor.Next = r.Offset + 1
			continue
		}
		size := weight(&r)
		if len(f.records) > 0 && (f.bytes+size > limit || len(f.records) >= recordsMax) {
			return errFull
		}
		out := f.add(d, &r, own)
		last.Offset, last.Timestamp, last.Key, last.Value, last.Headers = r.Offset, r.Timestamp, out.Key, out.Value, out.Headers[:len(r.Headers)]
		d.cursor.Next, d.cursor.Last = r.Offset+1, r.Offset
		d.records++
		d.bytes += size
		f.bytes += size
	}
	return nil
}

// weight is what a record counts for: its payload, and about what its frame takes.
func weight(r *record.Record) int {
	n := len(r.Key) + len(r.Value) + 16
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value)
	}
	return n
}

// cameDown says that a record came from some Kafka.
func cameDown(headers []record.Header) bool {
	return slices.ContainsFunc(headers, func(h record.Header) bool { return h.Key == HeaderCluster })
}

// export is the stamp a record leaves with, and whether its time is not known. That of one which came down is of another clock.
func export(c Clock, topic [16]byte, partition int32, r *record.Record) (at int64, unsure bool) {
	if cameDown(r.Headers) {
		return r.Timestamp, false
	}
	return c.Export(topic, partition, r.Offset, r.Timestamp)
}

// looped says that a record came from the peer.
func (f *filler) looped(headers []record.Header) bool {
	return f.cluster != "" && slices.ContainsFunc(headers, func(h record.Header) bool {
		return h.Key == HeaderCluster && string(h.Value) == f.cluster
	})
}

// add adds one record. own says that its bytes stay where they are until the transaction is over.
func (f *filler) add(d *draft, r *record.Record, own bool) *Record {
	p := d.part
	at, unsure := export(f.clock, d.id, p.index, r)
	out := Record{
		Topic: d.to, Partition: place(p.index, d.mine, d.have, r.Key), Timestamp: at,
		Key: f.hold(r.Key, own), Value: f.hold(r.Value, own), Offset: -1,
	}
	mark := len(f.headers)
	for _, h := range r.Headers {
		f.headers = append(f.headers, record.Header{Key: h.Key, Value: f.hold(h.Value, own)})
	}
	if unsure {
		f.header(HeaderClock, "unsure")
	}
	if f.cfg.Order == LiveFirst || d.lane == Backfill { // or left over of a time when it was
		f.header(HeaderLane, d.lane.String())
	}
	if f.cfg.Provenance || f.cfg.Mark {
		f.header(HeaderBoard, f.cfg.Board)
	}
	if f.cfg.Provenance {
		f.header(HeaderTopic, p.topic)
		f.number(HeaderPartition, int64(p.index))
		f.number(HeaderOffset, r.Offset)
	}
	if n := len(f.headers); n > mark {
		out.Headers = f.headers[mark:n:n]
	}
	f.records = append(f.records, out)
	if len(f.cfg.Groups) > 0 {
		f.from = append(f.from, origin{p, r.Offset, len(r.Headers)})
	}
	return &f.records[len(f.records)-1]
}

// hold is p for as long as the transaction lasts.
func (f *filler) hold(p []byte, own bool) []byte {
	if own || len(p) == 0 {
		return p
	}
	mark := f.room(len(p))
	f.arena = append(f.arena, p...)
	return f.arena[mark:len(f.arena):len(f.arena)]
}

// room makes room for n bytes in the arena, and says where they go.
func (f *filler) room(n int) (mark int) {
	if cap(f.arena)-len(f.arena) < n {
		f.spilt += len(f.arena)
		f.arena = make([]byte, 0, max(n, pieceLeast))
	}
	return len(f.arena)
}

func (f *filler) header(key, value string) {
	mark := f.room(len(value))
	f.arena = append(f.arena, value...)
	f.headers = append(f.headers, record.Header{Key: key, Value: f.arena[mark:len(f.arena):len(f.arena)]})
}

func (f *filler) number(key string, v int64) {
	mark := f.room(numberMost)
	f.arena = strconv.AppendInt(f.arena, v, 10)
	f.headers = append(f.headers, record.Header{Key: key, Value: f.arena[mark:len(f.arena):len(f.arena)]})
}
