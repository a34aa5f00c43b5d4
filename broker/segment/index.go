package segment

import (
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"
	"sync"
)

// Entries of the offset index: last offset of a batch less the segment's base, position of the batch. Entries of the
// time index: largest timestamp so far, last offset of the batch that brought it less the base.
const (
	indexEntry  = 8
	timeEntry   = 12
	maxRelative = math.MaxInt32
)

// indexState is what an append needs to know of the indexes.
type indexState struct {
	entries, times int64 // entries in the files
	lastPosition   int64 // position of the last offset index entry, -1 without one
	lastTime       int64 // timestamp of the last time index entry, -1 without one
	since          int64 // bytes since the batch of the last offset index entry, that one included
	maxTS          int64 // largest timestamp in the log, -1 without one
	maxTSOffset    int64 // last offset of the batch that has it
}

func emptyIndex(base int64) indexState {
	return indexState{lastPosition: -1, lastTime: -1, maxTS: -1, maxTSOffset: base}
}

// entryWriter gathers index entries and writes them a few at a time.
type entryWriter struct {
	s      *Segment
	state  indexState
	offset []byte // entries from state.entries - len/8 on, not yet in the file
	time   []byte
}

const entriesGathered = 64

var entryWriters = sync.Pool{New: func() any {
	return &entryWriter{offset: make([]byte, 0, entriesGathered*indexEntry), time: make([]byte, 0, entriesGathered*timeEntry)}
}}

func (s *Segment) openEntryWriter(state indexState) *entryWriter {
	w := entryWriters.Get().(*entryWriter)
	w.s, w.state, w.offset, w.time = s, state, w.offset[:0], w.time[:0]
	return w
}

func (w *entryWriter) close() {
	w.s = nil
	entryWriters.Put(w)
}

// add takes note of the batch h, the next in the log, as LogSegment.append of Apache Kafka does.
func (w *entryWriter) add(h header) error {
	st := &w.state
	if h.maxTS > st.maxTS {
		st.maxTS, st.maxTSOffset = h.maxTS, h.next-1
	}
	switch {
	case h.pos < st.lastPosition: // walked again for its timestamp
		return nil
	case h.pos == st.lastPosition:
		st.since = 0
	case st.since > w.s.interval():
		w.offset = binary.BigEndian.AppendUint32(w.offset, uint32(h.next-1-w.s.base))
		w.offset = binary.BigEndian.AppendUint32(w.offset, uint32(h.pos))
		st.entries++
		st.lastPosition = h.pos
		st.since = 0
		w.addTime()
	}
	st.since += h.size
	if len(w.offset) == cap(w.offset) || len(w.time) == cap(w.time) {
		return w.flush()
	}
	return nil
}

// addTime adds a time index entry when the largest timestamp has grown since the last one.
func (w *entryWriter) addTime() {
	st := &w.state
	if st.maxTS <= st.lastTime {
		return
	}
	w.time = binary.BigEndian.AppendUint64(w.time, uint64(st.maxTS))
	w.time = binary.BigEndian.AppendUint32(w.time, uint32(st.maxTSOffset-w.s.base))
	st.times++
	st.lastTime = st.maxTS
}

func (w *entryWriter) flush() error {
	at := w.state.entries*indexEntry - int64(len(w.offset))
	if err := w.s.writeIndex(kindIndex, w.offset, at); err != nil {
		return err
	}
	w.offset = w.offset[:0]
	at = w.state.times*timeEntry - int64(len(w.time))
	if err := w.s.writeIndex(kindTime, w.time, at); err != nil {
		return err
	}
	w.time = w.time[:0]
	return nil
}

func (s *Segment) writeIndex(k kind, p []byte, at int64) (err error) {
	if len(p) == 0 {
		return nil
	}
	f, err := s.handles.acquire(s, k, true)
	if err != nil {
		return err
	}
	defer s.handles.release(f)
	_, err = f.file.WriteAt(p, at)
	return err
}

func (s *Segment) interval() int64 {
	if s.cfg.IndexIntervalBytes > 0 {
		return int64(s.cfg.IndexIntervalBytes)
	}
	return 4096
}

// load makes the indexes what an append or a lookup needs: consistent in themselves, confirmed by the log at their
// ends, and reaching up to the end of the log. What is missing or wrong is built again from the log. It runs once
// after Open, and after whatever made the indexes doubtful.
func (s *Segment) load() error {
	s.mu.Lock()
	done := s.indexed
	s.mu.Unlock()
	if done {
		return nil
	}
	s.write.Lock()
	defer s.write.Unlock()
	return s.loadLocked()
}

func (s *Segment) loadLocked() (err error) {
	s.mu.Lock()
	if s.indexed {
		s.mu.Unlock()
		return nil
	}
	size := s.size
	s.mu.Unlock()

	state := emptyIndex(s.base)
	if state.entries, err = s.plausible(kindIndex, size); err != nil {
		return err
	}
	if state.times, err = s.plausible(kindTime, size); err != nil {
		return err
	}
	log, err := s.handles.acquire(s, kindLog, false)
	if err != nil {
		return err
	}
	defer s.handles.release(log)
	w := openWindow(log.file)
	defer w.close()
	c := &cursor{s: s, w: w, limit: size, next: s.base, epoch: -1}
	if err := s.confirmEnds(c, &state); err != nil {
		return err
	}
	if err := s.cutIndex(kindIndex, state.entries*indexEntry); err != nil {
		return err
	}
	if err := s.cutIndex(kindTime, state.times*timeEntry); err != nil {
		return err
	}
	s.indexEnd = math.MaxInt64
	next, state, err := s.indexRest(c, state)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index, s.next, s.indexed = state, next, true
	return nil
}

// confirmEnds drops entries from the ends of both indexes until the log confirms the last ones, and leaves the cursor
// at the batch from which on the log must be walked.
func (s *Segment) confirmEnds(c *cursor, state *indexState) error {
	offsets, err := s.openEntries(kindIndex)
	if err != nil {
		return err
	}
	defer offsets.close()
	times, err := s.openEntries(kindTime)
	if err != nil {
		return err
	}
	defer times.close()
	var last anchor
	for ; state.entries > 0; state.entries-- {
		offset, position, err := offsets.offset(state.entries - 1)
		if err != nil {
			return err
		}
		if last, err = c.anchor(offset, position); err == nil {
			state.lastPosition = position
			break
		}
		if !isBad(err) {
			return err
		}
	}
	s.mu.Lock()
	s.index = *state // lookups below may use what is confirmed
	s.mu.Unlock()
	for ; state.times > 0; state.times-- {
		ts, offset, err := times.time(state.times - 1)
		if err != nil {
			return err
		}
		h, err := s.batchEnding(c, offset)
		if err != nil && !isBad(err) {
			return err
		}
		if err != nil || h.maxTS != ts {
			continue
		}
		state.lastTime, state.maxTS, state.maxTSOffset = ts, ts, offset
		if last.set && last.h.pos < h.pos {
			break
		}
		// The largest timestamp lies before the last index entry: what came since must be looked at again.
		last = anchor{set: true, h: h}
		break
	}
	if state.times == 0 || !last.set {
		last = anchor{}
	}
	// Whatever was looked up on the way: from here on checksums count.
	c.pos, c.next, c.epoch, c.headersOnly = 0, s.base, -1, false
	if last.set {
		c.pos, c.next = last.h.pos, last.h.base
	}
	return nil
}

// anchor is a batch that an index entry led to and whose contents agree.
type anchor struct {
	set bool
	h   header
}

// anchor checks that the batch at position ends at offset. The cursor stays at that batch.
func (c *cursor) anchor(offset, position int64) (anchor, error) {
	if d := c.s.damageAround(position); d != nil {
		return anchor{}, &badBatch{d.Reason}
	}
	c.pos, c.next, c.epoch = position, -1, -1
	h, err := c.peek()
	if errors.Is(err, io.EOF) {
		err = bad("index entry behind the log's end")
	}
	if err != nil {
		return anchor{}, err
	}
	if h.next-1 != offset {
		return anchor{}, bad("index entry for offset %d, the batch ends at %d", offset, h.next-1)
	}
	return anchor{set: true, h: h}, nil
}

// batchEnding is the batch whose last offset is the given one, a *badBatch when there is none.
func (s *Segment) batchEnding(c *cursor, offset int64) (header, error) {
	h, err := s.seek(c, offset)
	var d *DamageError
	if errors.As(err, &d) || errors.Is(err, io.EOF) {
		return header{}, bad("no batch ends at offset %d", offset)
	}
	if err == nil && h.next-1 != offset {
		return header{}, bad("no batch ends at offset %d", offset)
	}
	return h, err
}

// indexRest walks the log from the cursor on and adds the entries that are missing. next is the offset after the last
// batch, -1 when the log ends in damage.
func (s *Segment) indexRest(c *cursor, state indexState) (next int64, _ indexState, err error) {
	w := s.openEntryWriter(state)
	defer w.close()
	from := c.pos
	for {
		h, err := c.step()
		if errors.Is(err, io.EOF) {
			s.passed(from, c.pos)
			return c.next, w.state, w.flush()
		}
		if isBad(err) {
			d, derr := s.damaged(c, err)
			if derr != nil {
				return 0, state, derr
			}
			s.passed(from, c.pos)
			if d.NextOffset < 0 {
				return -1, w.state, w.flush()
			}
			c.hop(d)
			from = d.Position
			if !s.hopped(d) {
				from = c.pos
			}
			continue
		}
		if err != nil {
			return 0, state, err
		}
		if err := w.add(h); err != nil {
			return 0, state, err
		}
	}
}

// plausible is the number of entries at the start of an index file that can be true: rising, and within the log.
func (s *Segment) plausible(k kind, size int64) (n int64, err error) {
	f, err := s.handles.acquire(s, k, false)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer s.handles.release(f)
	w := openWindow(f.file)
	defer w.close()
	info, err := f.file.Stat()
	if err != nil {
		return 0, err
	}
	width := int64(indexEntry)
	if k == kindTime {
		width = timeEntry
	}
	lastA, lastB := int64(-1), int64(-1)
	for end := info.Size() / width * width; n*width < end; n++ {
		p, err := w.peek(n*width, int(width), windowSize, end)
		if err != nil {
			return 0, err
		}
		var a, b int64
		if k == kindTime {
			a, b = int64(binary.BigEndian.Uint64(p)), int64(int32(binary.BigEndian.Uint32(p[8:])))
		} else {
			a, b = int64(int32(binary.BigEndian.Uint32(p))), int64(int32(binary.BigEndian.Uint32(p[4:])))
			if b >= size {
				break
			}
		}
		if a <= lastA || b <= lastB {
			break
		}
		lastA, lastB = a, b
	}
	return n, nil
}

// cutIndex cuts an index file that is longer than size.
func (s *Segment) cutIndex(k kind, size int64) (err error) {
	f, err := s.handles.acquire(s, k, false)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer s.handles.release(f)
	info, err := f.file.Stat()
	if err != nil || info.Size() <= size {
		return err
	}
	return f.file.Truncate(size)
}

// entries is an index file open for lookups.
type entries struct {
	s    *Segment
	file *handle
	w    *window
}

// entriesRead is how much of an index is read at a time: the last steps of a search fall into it.
const entriesRead = 512

// openEntries opens an index for lookups; an index without a file has no entries to look up. The caller closes it.
func (s *Segment) openEntries(k kind) (entries, error) {
	f, err := s.handles.acquire(s, k, false)
	if errors.Is(err, os.ErrNotExist) {
		return entries{s: s}, nil
	}
	if err != nil {
		return entries{}, err
	}
	return entries{s: s, file: f, w: openWindow(f.file)}, nil
}

func (e entries) close() {
	if e.file != nil {
		e.w.close()
		e.s.handles.release(e.file)
	}
}

func (e entries) read(i int64, width int) ([]byte, error) {
	if e.file == nil {
		return nil, io.ErrUnexpectedEOF
	}
	return e.w.peek(i*int64(width), width, entriesRead, math.MaxInt64)
}

// offset is entry i of the offset index, absolute.
func (e entries) offset(i int64) (offset, position int64, err error) {
	p, err := e.read(i, indexEntry)
	if err != nil {
		return 0, 0, err
	}
	return e.s.base + int64(binary.BigEndian.Uint32(p)), int64(binary.BigEndian.Uint32(p[4:])), nil
}

// time is entry i of the time index, absolute.
func (e entries) time(i int64) (ts, offset int64, err error) {
	p, err := e.read(i, timeEntry)
	if err != nil {
		return 0, 0, err
	}
	return int64(binary.BigEndian.Uint64(p)), e.s.base + int64(binary.BigEndian.Uint32(p[8:])), nil
}

// floorEntry is the number of the last entry of n for which ok holds, -1 for none; ok holds for a first part of them.
func floorEntry(n int64, ok func(i int64) (bool, error)) (int64, error) {
	low, high := int64(0), n // entries below low are ok, from high on they are not
	for low < high {
		middle := low + (high-low)/2
		yes, err := ok(middle)
		if err != nil {
			return 0, err
		}
		if yes {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low - 1, nil
}

// indexKnows says whether the offset index has an entry for exactly this batch.
func (s *Segment) indexKnows(h header) (bool, error) {
	s.mu.Lock()
	n := s.index.entries
	s.mu.Unlock()
	e, err := s.openEntries(kindIndex)
	if err != nil {
		return false, err
	}
	defer e.close()
	i, err := floorEntry(n, func(i int64) (bool, error) {
		_, position, err := e.offset(i)
		return position <= h.pos, err
	})
	if err != nil || i < 0 {
		return false, err
	}
	offset, position, err := e.offset(i)
	return position == h.pos && offset == h.next-1, err
}
