package partition

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"millrace/broker/journal"
	"millrace/broker/record"
)

// log is one partition while it is being recovered: a cursor that follows the journal through its segments.
type log struct {
	r       *recovery
	p       *Partition
	slot    *SlotEntry // what the checkpoint says, nil for nothing
	saved   *SlotEntry // slot, as recovery found it
	keeps   *keptFile  // what earlier lives kept of it outside the journal, nil for nothing
	missing bool       // there is no directory
	// vanished is set where there was one with records in it, by the checkpoint.
	vanished bool
	// complete is set when a slot was valid: the entries then have everything that came after it.
	complete bool
	gap      bool     // of what was kept, something is missing
	pieces   []*piece // ascending

	// The cursor: the next entry is expected at byte pos of piece at, with offset next.
	at        *piece
	pos, next int64
	// walked is set while the cursor comes from the segments alone, and the journal may say better.
	walked bool
	// floating is set until the first entry that is applied has told where the cursor belongs.
	floating bool
	failed   bool  // given up: what the journal has of it is kept
	err      error // why
	// hole is set when bytes at the cursor were lost and it is not known yet how many.
	hole bool
	// Up to here the checkpoint has synced everything: earlier entries are stepped over.
	safeSegment, safePos int64
	went                 int64            // the slot's segment where retention has removed it since, with all before it; else -1
	unwritten            []byte           // whole batches that end at the cursor and are not written yet
	ends                 map[*piece]int64 // where segments that were rolled end
	strays               map[int64]*piece // segments that are not of the log any more, by base
	trusted              []*piece         // segments whose bytes were taken without anything that says they are synced
	made                 []int64          // bases of segments that recovery made
	// Batches from here on are not in the producer snapshot, and were not noted yet: entries that are passed by may be
	// met again in their segment.
	producersFrom int64
}

// begin opens the segments and puts the cursor where the checkpoint says, or where a walk over the active one ends.
func (l *log) begin() error {
	l.ends, l.strays = make(map[*piece]int64), make(map[int64]*piece)
	l.safeSegment, l.went = -1, -1
	if l.missing {
		if err := l.create(); err != nil {
			return err
		}
	} else if err := l.open(); err != nil {
		return err
	}
	if err := l.readEpochs(); err != nil {
		return err
	}
	if l.slot != nil {
		return l.fromSlot()
	}
	if l.young() {
		// The journal has all of it that was ever acknowledged, from its first offset on. A producer snapshot is of a
		// checkpoint that did not come to its end, and may be of what a truncation has cut since.
		var err error
		l.at, err = l.piece(0)
		l.next, l.floating = 0, true
		return err
	}
	var err error
	if l.producersFrom, err = l.restoreProducers(math.MaxInt64); err != nil {
		return err
	}
	l.walked, l.floating = true, true
	l.at = l.pieces[len(l.pieces)-1]
	l.next = l.at.Base()
	return l.walk(0)
}

// young says whether the log began after the checkpoint: then what the journal does not have of it was never
// acknowledged. Of a partition that only the catalog knows, nothing was; one that nobody knows is left as it is found. Of
// one whose directory is gone the journal has all that is left.
func (l *log) young() bool {
	if !l.complete || l.vanished {
		return l.vanished
	}
	_, _, known := l.r.s.cfg.Known(l.p.topic.ID)
	return l.r.fact(l.key()).made || known && !l.gaps()
}

// gaps says whether entries of the log may be missing.
func (l *log) gaps() bool {
	return len(l.r.report.Journal.Gaps) > 0 || l.gap
}

func (l *log) key() key { return key{l.p.topic.ID, l.p.index} }

// fromSlot puts the cursor where the checkpoint saw the log's end. What it says is synced is believed as far as the
// file has the bytes.
func (l *log) fromSlot() error {
	e := l.slot
	var err error
	if l.at, err = l.piece(e.Segment); err != nil {
		return err
	}
	l.pos, l.next = e.Position, e.Next
	l.safeSegment, l.safePos = e.Segment, e.Position
	for _, s := range l.pieces {
		if s.Base() < e.Segment {
			s.flushed.Store(s.Size())
		}
	}
	f := l.r.fact(l.key())
	cutBack := slices.ContainsFunc(f.cuts, func(c cut) bool {
		return c.seg < e.Segment || c.seg == e.Segment && c.pos < e.Position
	})
	switch {
	case cutBack:
		// The file may be shorter since: the journal says where the log goes on.
	case l.at.Size() < e.Position && f.start >= e.Next:
		// Removed since then, with everything in it.
		if l.at, err = l.piece(e.Next); err != nil {
			return err
		}
		l.pos, l.went = 0, e.Segment // entries behind the slot still tell of producers
	case l.at.Size() < e.Position:
		l.pos, l.next = 0, l.at.Base()
		if err := l.walk(0); err != nil {
			return err
		}
		if err := l.putBack(e.Position, e.Next); err != nil {
			return err
		}
		if err := l.fill(e.Position, e.Next); err != nil {
			return err
		}
	default:
		l.at.flushed.Store(e.Position)
	}
	l.p.store.producers.Add(-int64(l.p.producers.forget())) // what a walk has told of them
	// No later one, though it be at or below e.Next: it may be from before a truncation.
	if l.producersFrom, err = l.restoreProducers(e.Snapshot); err != nil {
		return err
	}
	if e.Snapshot >= 0 && l.producersFrom < e.Snapshot {
		l.r.lost("%s: producer snapshot %d is lost; the active segment tells what it can", l.p, e.Snapshot)
		_, err = l.at.Scan(0, func(b record.Batch, _ int64) error {
			if b.BaseOffset() < e.Next {
				l.note(b)
			}
			return nil
		})
	} else {
		l.producersFrom = max(l.producersFrom, 0)
	}
	return err
}

// walk moves the cursor over the valid batches of its segment.
func (l *log) walk(from int64) error {
	valid, err := l.at.Scan(from, func(b record.Batch, _ int64) error {
		l.note(b)
		l.next = b.NextOffset()
		return nil
	})
	l.pos = valid
	return err
}

// note remembers a batch's leader epoch and producer. What the list of epochs says of offsets from the batch on is hearsay:
// the file may be of another checkpoint, or was made from segments that replay had not mended yet.
func (l *log) note(b record.Batch) {
	l.p.epochs.cut(b.BaseOffset())
	l.p.epochs.note(b.LeaderEpoch(), b.BaseOffset())
	l.noteProducer(b)
}

func (l *log) noteProducer(b record.Batch) {
	if b.BaseOffset() < l.producersFrom {
		return
	}
	l.producersFrom = b.NextOffset()
	if fills(b) {
		l.p.store.producers.Add(-int64(l.p.producers.suspect(b.BaseOffset())))
	}
	if b.ProducerID() >= 0 && !b.Control() && b.BaseSequence() >= 0 {
		l.p.store.producers.Add(int64(l.p.producers.add(b, max(b.MaxTimestamp(), 0), l.p.store.nowMS(), math.MaxInt64)))
	}
}

// rollbackProducers forgets the batches that do not end by offset end; what comes in their place counts.
func (l *log) rollbackProducers(end int64) {
	l.p.store.producers.Add(-int64(l.p.producers.rollback(end)))
	l.producersFrom = min(l.producersFrom, end)
}

// suspectProducers lets all of them go on anywhere, because batches at offset from are lost that may be anybody's: one that
// is known by an older batch than its last would be refused for ever.
func (l *log) suspectProducers(from int64) {
	l.p.store.producers.Add(-int64(l.p.producers.suspect(from)))
	l.producersFrom = min(l.producersFrom, from)
}

// apply carries out one entry.
func (l *log) apply(at place, e *journal.Entry) error {
	f := l.r.fact(l.key())
	switch e.Kind {
	case journal.StartMoved:
		return nil // with the cuts, at the end
	case journal.Truncate:
		if f.overtaken(at, e) {
			return nil
		}
		if slices.ContainsFunc(f.cuts, func(c cut) bool { return at.before(c.at) && c.covers(e.Segment, e.Position) }) {
			return nil // a later one cut as much
		}
		return l.cutTo(e)
	case journal.Append, journal.Pointer:
	default:
		return nil
	}
	if f.overtaken(at, e) {
		return nil // two checkpoints have seen it, and the producer snapshots of either know of it
	}
	length := int64(e.Length)
	for _, c := range f.cuts {
		if c.at.before(at) {
			continue
		}
		if c.covers(e.Segment, e.Position) {
			return nil
		}
		if c.covers(e.Segment, e.Position+length) {
			length = c.pos - e.Position
		}
	}
	if e.Segment < l.safeSegment || e.Segment == l.safeSegment && e.Position+length <= l.safePos {
		return nil
	}
	if gone, err := l.gone(e, length, f); err != nil {
		return err
	} else if gone {
		return l.passBy(e, length)
	}
	l.r.report.Entries++
	if err := l.moveTo(e); err != nil {
		return err
	}
	if e.Kind == journal.Append {
		return l.write(e, e.Bytes[:min(length, int64(len(e.Bytes)))])
	}
	return l.stepOver(e, length)
}

// passBy takes nothing of an entry but its producers' sequences, which outlive their records. Where the bytes are gone
// nobody knows whose they were.
func (l *log) passBy(e *journal.Entry, length int64) error {
	raw := e.Bytes
	if e.Kind == journal.Pointer {
		if err := l.flush(); err != nil {
			return err
		}
		holds, err := false, error(nil)
		if l.lay(e.Segment) {
			if holds, err = l.holds(e); err != nil {
				return err
			}
		}
		if holds {
			if raw, err = l.bytesAt(e); err != nil {
				return err
			}
		} else {
			l.suspectProducers(e.Base)
			return nil
		}
	}
	for rest := raw[:min(length, int64(len(raw)))]; len(rest) > 0; {
		b, after, err := record.Next(rest)
		if err != nil {
			return fmt.Errorf("%s: entry for offset %d: %w", l.p, e.Base, err)
		}
		l.noteProducer(b)
		rest = after
	}
	return nil
}

// gone says whether an entry is of a segment that went. A pointer below the start tells so by itself, where no later
// segment is in the journal: its bytes are not there. But a file of that name may be: a recovery that was cut has made it,
// and written some of what is inline. Where the bytes were damaged instead, the place of what follows tells whether
// anybody misses them.
func (l *log) gone(e *journal.Entry, length int64, f *fact) (bool, error) {
	switch {
	case e.Segment <= l.went || l.obsolete(e.Segment, f):
		return true, nil
	case e.Kind != journal.Pointer || e.Base >= f.start:
		return false, nil
	}
	if !l.lay(e.Segment) {
		return true, nil
	}
	if length < int64(e.Length) { // of what a truncation cut in half nothing says whether it is whole
		return false, nil
	}
	if err := l.flush(); err != nil {
		return false, err
	}
	raw, err := l.bytesAt(e)
	if err != nil {
		return false, err
	}
	return len(raw) < int(e.Length) || e.Base < f.next && record.Castagnoli(raw) != e.CRC, nil
}

// obsolete says whether a segment lies wholly below the start, so that nothing of it is wanted any more.
func (l *log) obsolete(base int64, f *fact) bool {
	below := func(next int64) bool { return next > base && next <= f.start }
	return slices.ContainsFunc(f.bases, below)
}

// cutTo moves the cursor to where a truncation cut.
func (l *log) cutTo(e *journal.Entry) error {
	l.r.report.Entries++
	if err := l.flush(); err != nil {
		return err
	}
	// A snapshot from before the truncation knows nothing of what was written in the place of what was cut.
	l.rollbackProducers(e.Base)
	// The list of epochs may know what was cut, also where nothing of that is replayed.
	l.p.epochs.cut(e.Base)
	if e.Segment <= l.went {
		return nil
	}
	if e.Segment < l.safeSegment || e.Segment == l.safeSegment && e.Position < l.safePos {
		l.safeSegment, l.safePos = e.Segment, e.Position
		for _, s := range l.pieces {
			if s.Base() > e.Segment {
				s.flushed.Store(0)
			} else if s.Base() == e.Segment {
				s.flushed.Store(min(s.flushed.Load(), e.Position))
			}
		}
	}
	if e.Segment > l.at.Base() || e.Segment == l.at.Base() && e.Position >= l.pos {
		if l.obsolete(e.Segment, l.r.fact(l.key())) {
			return nil
		}
		return l.moveTo(e) // over what is below the start, or lost
	}
	s, err := l.piece(e.Segment)
	if err != nil {
		return err
	}
	if s.Size() < e.Position {
		// It went below the start since, or is damaged. A filler keeps what follows where the journal says.
		l.at, l.next = s, s.Base()
		if err := l.walk(0); err != nil {
			return err
		}
		if err := l.fill(e.Position, e.Base); err != nil {
			return err
		}
	}
	l.at, l.pos, l.next, l.hole, l.walked = s, e.Position, e.Base, false, false
	l.floating = false
	delete(l.ends, s)
	l.stray(s.Base(), math.MaxInt64)
	return nil
}

// moveTo brings the cursor to an entry's place: over a roll, back when a walk went further than the journal, or over
// what damage took in between.
func (l *log) moveTo(e *journal.Entry) error {
	if e.Segment != l.at.Base() || e.Position != l.pos || e.Base != l.next {
		if err := l.flush(); err != nil {
			return err
		}
	}
	back := e.Segment < l.at.Base() || e.Segment == l.at.Base() && e.Position < l.pos
	if back && !l.floating && l.complete {
		return fmt.Errorf("%s: entry at byte %d of segment %d lies before the cursor at %d of %d: %w",
			l.p, e.Position, e.Segment, l.pos, l.at.Base(), errOrder)
	}
	switch {
	case back:
		s, err := l.piece(e.Segment)
		if err != nil {
			return err
		}
		l.at, l.pos, l.next, l.hole = s, min(e.Position, s.Size()), e.Base, false
		delete(l.ends, s)
		l.stray(s.Base(), math.MaxInt64)
		l.p.epochs.cut(e.Base)
		l.rollbackProducers(e.Base)
	case e.Segment > l.at.Base():
		if l.hole || e.Segment > l.next {
			if err := l.accept(e.Segment); err != nil {
				return err
			}
			l.lose(l.next, e.Segment)
		}
		l.ends[l.at] = l.pos
		l.stray(l.at.Base(), e.Segment)
		s, err := l.piece(e.Segment)
		if err != nil {
			return err
		}
		l.at, l.pos, l.next, l.hole = s, 0, e.Segment, false
	}
	l.walked, l.floating = false, false
	if e.Position == l.pos && e.Base == l.next {
		return nil
	}
	// Entries in between are lost, or their pointed bytes are. What is there and valid is as good.
	if err := l.accept(e.Base); err != nil {
		return err
	}
	if e.Position < l.pos || e.Base < l.next {
		return fmt.Errorf("%s: entry for offset %d at byte %d, the log is at %d, %d: %w", l.p, e.Base, e.Position, l.next, l.pos, errOrder)
	}
	if e.Position > l.pos {
		l.suspectProducers(l.next)
	}
	return l.fill(e.Position, e.Base)
}

// lose tells that offsets from to next-1 are lost, but for those below the start, which nobody misses.
func (l *log) lose(from, next int64) {
	if from = max(from, l.r.fact(l.key()).start); from < next {
		l.r.lost("%s: offsets %d to %d are lost", l.p, from, next-1)
	}
}

// errOrder is returned where the journal contradicts itself with good checksums: not damage but a fault of ours.
var errOrder = errors.New("journal entries out of order")
