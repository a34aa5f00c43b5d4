package cleaner

import (
	"context"
	"errors"
	"fmt"
	"math"

	"millrace/broker/catalog"
	"millrace/broker/partition"
	"millrace/broker/record"
)

var (
	// errNoRoom ends a job until there is space.
	errNoRoom = errors.New("no room for a compacted segment")
	// errDirtier is returned where what passes for clean was not compacted.
	errDirtier = errors.New("an older part of the log is dirty")
	errRecords = errors.New("records do not parse")
	errFull    = errors.New("no room for another key")
)

// job is the compaction of one log: every record in it is held against the later ones of the dirty part. It goes on from
// pass to pass; what it forgets in between, at a restart, is done again.
//
// The dirty part may have more keys than memory has room for. Then it is read a part at a time, and each part is held
// against as many of the log's segments as there are marks for records; a segment is written once, when all parts
// have been held against it. Flash wears and reading does not wear it.
type job struct {
	p          Partition
	dirty, end int64 // the dirty part, whole closed segments but perhaps for the first
	next       int64 // the log is done up to here
	// hold is set when an older segment could not be rewritten: tombstones of what is in it must stay.
	hold bool

	before, after int64 // bytes of the segments that were done
	rewritten     int   // segments
}

// view is what a job knows for one pass.
type view struct {
	*job
	c   *Cleaner
	ctx context.Context
	cfg *catalog.TopicConfig
	// now says which tombstones have come to their time, and wall dates them, ms: it is ahead where the board learned in this
	// life that it had been off for a while.
	now, wall int64
	// needed is from where on a link still needs the log: a tombstone there is the last word on its key, and stays.
	needed  int64
	sources []partition.Closed
	limit   int64 // of a segment, in bytes
	keys    *offsetMap
	mapped  [2]int64 // the part of the log that keys has; empty for none
	dead    bits
	scratch []byte
}

// recordBytes is about what a record takes beside key and value.
const recordBytes = 10

// window is a run of sources whose records have marks.
type window struct {
	runs []*source
	skip int  // records of the first one that have no mark, because they had one in the window before
	more bool // the first one has more records than marks
}

// source is one segment and what marking has learned of it.
type source struct {
	partition.Closed
	first, records int // number of the first record in the window, and how many there are
	whole          bool
	all, live      int64 // bytes of records
	dead, undated  int   // records to go, and tombstones that have no time to go yet
}

// run takes the job on until the log is done or the budget is spent. done says which.
func (v *view) run() (done bool, err error) {
	for skip := 0; v.next < v.end; {
		if v.c.spent >= v.c.cfg.Budget {
			return false, nil
		}
		i := 0
		for i < len(v.sources) && v.sources[i].Base < v.next {
			i++
		}
		if i == len(v.sources) || v.sources[i].Base != v.next || v.sources[len(v.sources)-1].Next != v.end {
			return false, partition.ErrChanged
		}
		if !v.c.room(v.sources[i].Size) {
			return false, errNoRoom
		}
		w, err := v.mark(v.sources[i:], skip)
		if err != nil {
			return false, err
		}
		kept, err := v.rewrite(&w)
		if err != nil {
			return false, err
		}
		v.refresh()
		if w.more { // the same segment again, for its other records
			skip = kept
			continue
		}
		skip = 0
		v.next = w.runs[len(w.runs)-1].Next
	}
	return true, nil
}

// refresh takes the segments as they are now.
func (v *view) refresh() {
	can := v.p.Cleanable()
	v.sources, v.limit = can.Closed, can.Limit
	for len(v.sources) > 0 && v.sources[len(v.sources)-1].Next > v.end {
		v.sources = v.sources[:len(v.sources)-1]
	}
}

// mark finds as many of the sources as there are marks for, and in them the records that a later one makes superfluous.
func (v *view) mark(sources []partition.Closed, skip int) (w window, err error) {
	clear(v.dead)
	w.skip = skip
	for from := v.dirty; from < v.end; {
		to, err := v.learn(from)
		if err != nil {
			return w, err
		}
		if from = to; w.runs == nil {
			err = v.open(&w, sources, to)
		} else {
			for _, s := range w.runs {
				if err == nil && s.Base < to {
					err = v.compare(&w, s, to)
				}
			}
		}
		if err != nil {
			return w, err
		}
	}
	return w, nil
}

// open begins a window, while keys has the dirty part up to an offset.
func (v *view) open(w *window, sources []partition.Closed, upto int64) error {
	n := 0
	for _, c := range sources {
		s := &source{Closed: c, first: n}
		if err := v.compare(w, s, upto); err != nil {
			return err
		}
		if n += s.records; n-w.skip > v.dead.len() {
			if len(w.runs) > 0 {
				return nil // the next window begins with it
			}
			w.more = s.whole
		}
		w.runs = append(w.runs, s)
		if w.more || w.skip > 0 {
			return nil
		}
	}
	return nil
}

// learn has keys know the dirty part from an offset on as far as there is room, and tells how far that is.
func (v *view) learn(from int64) (to int64, err error) {
	if v.mapped[0] == from && v.mapped[1] > from {
		return v.mapped[1], nil
	}
	v.keys.reset(from)
	v.mapped = [2]int64{from, v.end}
	for _, c := range v.sources {
		if c.Next <= from {
			continue
		}
		_, err := v.p.Scan(c, func(b record.Batch) error {
			if err := v.spend(b); err != nil || b.Control() || b.NextOffset() <= from {
				return err
			}
			for r, err := range b.Keys(record.DefaultMaxBytes) {
				if err != nil {
					return fmt.Errorf("%w: %w", errRecords, err)
				}
				if r.Key == nil || r.Offset < from {
					continue
				}
				if !v.keys.put(r.Key, r.Offset) {
					v.mapped[1] = r.Offset
					return errFull
				}
			}
			return nil
		})
		if errors.Is(err, errFull) {
			break
		}
		if err != nil && !errors.Is(err, errRecords) {
			v.mapped = [2]int64{}
			return 0, err
		}
	}
	return v.mapped[1], nil
}

// compare marks what keys, which has the dirty part up to an offset, makes superfluous in one segment. With the last of
// the dirty part it also sums up what there is to do.
func (v *view) compare(w *window, s *source, upto int64) error {
	n, last, older := s.first, upto >= v.end, false
	s.all, s.live, s.dead, s.undated = 0, 0, 0, 0
	whole, err := v.p.Scan(s.Closed, func(b record.Batch) error {
		if err := v.spend(b); err != nil {
			return err
		}
		if b.Control() || !last && s.Base >= upto {
			n += int(b.Count())
			if b.Control() && b.ProducerID() < 0 && len(b) > record.HeaderSize { // recovery's: bytes that were lost
				s.all, s.dead = s.all+int64(len(b)), s.dead+1
			}
			return nil
		}
		horizon, dated := b.DeleteHorizon()
		for r, err := range b.Keys(record.DefaultMaxBytes) {
			if err != nil {
				return fmt.Errorf("%w: %w", errRecords, err)
			}
			if at := n - w.skip; at >= 0 && at < v.dead.len() && r.Key != nil && v.keys.later(r.Key, r.Offset) {
				v.dead.set(at)
			}
			if last {
				size := int64(len(r.Key) + len(r.Value) + recordBytes)
				if s.all += size; v.superfluous(w, n, r, horizon, dated) {
					s.dead++
				} else if s.live += size; r.Value == nil && !dated {
					s.undated++
					older = older || r.Offset < v.dirty
				}
			}
			n++
		}
		return nil
	})
	if errors.Is(err, errRecords) {
		whole, err = false, nil
	}
	s.records, s.whole = n-s.first, whole
	if !whole {
		v.hold = true
	} else if older && err == nil {
		// Compaction would have dated it: the file that says how far it came has lied.
		err = errDirtier
	}
	return err
}

// superfluous says whether the n-th record of a window goes. Records without a key, of before the topic was
// compacted, go too, as in Kafka: nobody could ever replace them.
func (v *view) superfluous(w *window, n int, r record.Record, horizon int64, dated bool) bool {
	at := n - w.skip
	if at < 0 || at >= v.dead.len() {
		return false
	}
	late := r.Value == nil && dated && v.now >= horizon && !v.hold && r.Offset < v.needed
	return late || r.Key == nil || v.dead.get(at)
}

// spend counts what is read, lets retention in, and ends the job with its context.
func (v *view) spend(b record.Batch) error {
	v.c.spent += int64(len(b))
	v.c.breathe()
	return v.ctx.Err()
}

// rewrite writes the segments of a window that have something to lose, and joins small ones. kept is how many of the
// records with marks, and of those before, are left.
func (v *view) rewrite(w *window) (kept int, err error) {
	for rest := w.runs; len(rest) > 0; {
		n := v.group(rest)
		if kept, err = v.replace(w, rest[:n]); err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	return kept, nil
}

// estimate is about how large a segment will be.
func (s *source) estimate() int64 {
	if s.all == 0 {
		return record.HeaderSize
	}
	return int64(float64(s.Size)*float64(s.live)/float64(s.all)) + record.HeaderSize
}

// group is how many of the sources, from the first on, fit into one segment.
func (v *view) group(sources []*source) (n int) {
	size := int64(0)
	for _, s := range sources {
		size += s.estimate()
		if n > 0 && (!s.whole || !sources[0].whole || size > v.limit || s.Next-sources[0].Base > math.MaxInt32) {
			break
		}
		n++
	}
	return n
}

// replace writes one segment in the place of a group, where that gains anything.
func (v *view) replace(w *window, group []*source) (kept int, err error) {
	run := make([]partition.Closed, len(group))
	wanted, before, estimate := len(group) > 1, int64(0), int64(0)
	for i, s := range group {
		run[i] = s.Closed
		wanted = wanted || s.dead > 0 || s.undated > 0
		before, estimate = before+s.Size, estimate+s.estimate()
	}
	if !group[0].whole || !wanted {
		v.before, v.after = v.before+before, v.after+before
		return w.skip + v.dead.len(), nil
	}
	if !v.c.room(estimate) {
		return 0, errNoRoom
	}
	size, err := v.p.Rewrite(run, func(add func([]byte) error) error {
		out := writer{add: add}
		kept = 0
		for _, s := range group {
			n := s.first
			whole, err := v.p.Scan(s.Closed, func(b record.Batch) error {
				if err := v.spend(b); err != nil {
					return err
				}
				err := v.pass(w, &out, b, n, &kept)
				n += int(b.Count())
				return err
			})
			if err != nil {
				return err
			}
			if !whole || n != s.first+s.records {
				return partition.ErrChanged // it has rotted since: another time it is left alone
			}
		}
		return out.end()
	})
	if err != nil {
		return 0, err
	}
	v.c.spent += size
	v.before, v.after, v.rewritten = v.before+before, v.after+size, v.rewritten+len(group)
	return kept, nil
}

// pass writes what is left of one batch, whose first record is the n-th of the window.
func (v *view) pass(w *window, out *writer, b record.Batch, n int, kept *int) error {
	if b.Control() {
		if b.ProducerID() < 0 {
			return out.drop(b)
		}
		*kept += int(b.Count())
		return out.keep(b)
	}
	horizon, dated := b.DeleteHorizon()
	left, date, at := int32(0), int64(-1), n
	for r, err := range b.Keys(record.DefaultMaxBytes) {
		if err != nil {
			return fmt.Errorf("%w: %w", errRecords, err)
		}
		if !v.superfluous(w, at, r, horizon, dated) {
			left++
			if at-w.skip < v.dead.len() {
				*kept++
			}
			if r.Value == nil && !dated {
				date = v.cfg.DeleteRetentionMS
				if date > math.MaxInt64/2-v.wall {
					date = math.MaxInt64/2 - v.wall
				}
				date += v.wall
			}
		}
		at++
	}
	switch {
	case left == b.Count() && date < 0 && left > 0:
		return out.keep(b)
	case left == 0 && (b.ProducerID() < 0 || !v.p.LastOf(b.ProducerID(), b.BaseOffset())):
		return out.drop(b)
	}
	at = n
	var err error
	v.scratch, err = b.Retain(v.scratch[:0], record.DefaultMaxBytes, date, func(r record.Record) bool {
		at++
		return !v.superfluous(w, at-1, r, horizon, dated)
	})
	if err != nil {
		return err
	}
	return out.keep(v.scratch)
}
