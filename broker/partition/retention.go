package partition

import (
	"errors"
	"fmt"
	"math"

	"millrace/broker/catalog"
	"millrace/broker/journal"
	"millrace/broker/segment"
)

// Retained says what one pass of retention did.
type Retained struct {
	Segments int   // removed
	Bytes    int64 // freed in log files
	From, To int64 // offsets that went: From is the old start, To the new; equal when the start did not move

	// Of what DropOldest gave up, what a link still needed: the offsets from Needed up to To, and about how many bytes.
	// Needed is To where there were none.
	Needed, NeededBytes int64
}

// Retain, told the time as an age, removes the oldest segments that the topic's cleanup.policy=delete lets go: by
// retention.ms since they arrived (not by the records' own timestamps), by retention.bytes, and those wholly below the start that DeleteRecords moved.
// The active segment is rolled first when it has expired itself. What a link still needs stays, however old it is: it goes
// last, by DropOldest. The new start is journalled and synced before anything is removed. Blocks for a commit; do not call
// it from a done.
func (p *Partition) Retain(nowMS int64) (Retained, error) {
	p.retaining.Lock()
	defer p.retaining.Unlock()
	if p.gone.Load() { // its directory may be a new topic's by now
		return Retained{}, nil
	}
	cfg := p.config.Load()
	from, _ := p.Needed()
	if err := p.rollExpired(nowMS, cfg, from); err != nil {
		return Retained{}, fmt.Errorf("retention of %s: %w", p, err)
	}
	p.state.Lock()
	pieces, start, high := p.pieces, p.start, p.high
	p.state.Unlock()
	target := start
	if cfg.CleanupDelete {
		left := size(pieces)
		for i := 0; i+1 < len(pieces); i++ {
			s, next := pieces[i], pieces[i+1].Base()
			if next > high {
				break
			}
			old := cfg.RetentionMS >= 0 && nowMS-s.arrival.Load() > cfg.RetentionMS
			big := cfg.RetentionBytes >= 0 && left-s.Size() >= cfg.RetentionBytes
			if next > start && (!old && !big || next > from) {
				break
			}
			left -= s.Size()
			target = max(target, next)
		}
	}
	return p.dropTo(target, segment.Retention)
}

// DropOldest gives the oldest segment up, whatever retention says: the policy of a full disk (`full = "drop-oldest"`).
// The active segment goes only where it is the only one: it is rolled first. A segment of a lower class than class, which
// more depends on, stays. It returns a Retained of no segments when there is nothing to give. Blocks for commits.
func (p *Partition) DropOldest(class int) (Retained, error) {
	p.retaining.Lock()
	defer p.retaining.Unlock()
	if p.gone.Load() {
		return Retained{}, nil
	}
	if err := p.rollLast(); err != nil {
		return Retained{}, fmt.Errorf("drop the oldest of %s: %w", p, err)
	}
	pieces, start, high := p.front()
	if len(pieces) > 1 && pieces[1].Base() > high { // it ends in what waits for a commit: until that is over
		if err := p.waitMove(start, segment.DiskFull); err != nil {
			return Retained{}, err
		}
		p.stepOver()
		pieces, start, high = p.front()
	}
	from, is := p.Needed()
	from = max(from, start)
	if len(pieces) < 2 || pieces[1].Base() > high || classOf(pieces[1].Base(), from, is) < class {
		return p.dropTo(start, segment.DiskFull) // nothing, but for what DeleteRecords has left
	}
	target := max(start, pieces[1].Base())
	first, bytes := needed(pieces, from, target)
	r, err := p.dropTo(target, segment.DiskFull)
	r.Needed, r.NeededBytes = min(first, r.To), bytes
	return r, err
}

// stepOver has the durable end lie in the active segment where everything before that is durable, as roll does: an older
// one in which it lies stays.
func (p *Partition) stepOver() {
	p.state.Lock()
	defer p.state.Unlock()
	if active := p.active(); p.durable == active.Base() {
		p.durablePiece, p.durablePos = active, 0
	}
}

// front is the segments, and the offsets between which they are readable.
func (p *Partition) front() (pieces []*piece, start, high int64) {
	p.state.Lock()
	defer p.state.Unlock()
	return p.pieces, p.start, p.high
}

// rollLast begins a new segment where there is only one, and it has something in it.
func (p *Partition) rollLast() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.pieces) > 1 || p.cutting || p.broken != nil || p.active().Size() == 0 {
		return nil
	}
	return p.roll()
}

// rollExpired begins a new segment when the active one is due by time, though nobody appends. One that a link needs from
// some offset on stays as it is.
func (p *Partition) rollExpired(now int64, cfg *catalog.TopicConfig, needed int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	active := p.active()
	if p.gone.Load() || p.cutting || p.broken != nil || active.Size() == 0 {
		return nil
	}
	old := cfg.CleanupDelete && cfg.RetentionMS >= 0 && now-active.arrival.Load() > cfg.RetentionMS && p.end.Load() <= needed
	due := active.opened.Load() > 0 && now-active.opened.Load() >= p.segmentMS(active, cfg)
	if !old && !due {
		return nil
	}
	return p.roll()
}

// dropTo moves the start to target, durably, and removes what lies wholly below it. Holds retaining.
func (p *Partition) dropTo(target int64, why segment.Cause) (Retained, error) {
	if err := p.finishSwap(); err != nil {
		return Retained{}, err
	}
	start := p.Start()
	if target > start {
		if err := p.waitMove(target, why); err != nil {
			return Retained{}, err
		}
	}
	r, err := p.removeBelowStart()
	r.From, r.To = start, max(start, target)
	r.Needed = r.To
	return r, err
}

// removeBelowStart unlinks the segments wholly below the start. The move that put them there is durable.
func (p *Partition) removeBelowStart() (Retained, error) {
	p.mu.Lock()
	p.state.Lock()
	n := 0
	for n+1 < len(p.pieces) && p.pieces[n+1].Base() <= p.start && p.pieces[n] != p.durablePiece {
		n++
	}
	cut := p.pieces[:n]
	p.pieces = p.pieces[n:]
	start := p.start
	p.state.Unlock()
	if n > 0 {
		p.epochs.raise(start)
	}
	p.mu.Unlock()
	var r Retained
	var errs []error
	for _, s := range cut {
		r.Segments++
		r.Bytes += s.Size()
		errs = append(errs, s.Remove())
	}
	return r, errors.Join(errs...)
}

// DeleteRecords makes before the first readable offset; -1 is the high watermark. done is called exactly once, with the
// new start, after the move is synced; it may be called before DeleteRecords returns. Segments wholly below go with the
// next pass of retention, needed by a link or not. Moving the start back is no error and does nothing, as in Kafka.
func (p *Partition) DeleteRecords(before int64, done func(low int64, err error)) {
	p.state.Lock()
	start, high := p.start, p.high
	p.state.Unlock()
	if before == -1 {
		before = high
	}
	switch {
	case before < 0 || before > high:
		done(-1, fmt.Errorf("delete records of %s before %d, high watermark %d: %w", p, before, high, ErrOffsetOutOfRange))
	case before <= start:
		done(start, nil)
	default:
		p.moveStart(before, segment.ByClient, done)
	}
}

// waitMove moves the start, and waits for that and whatever was staged before it.
func (p *Partition) waitMove(to int64, why segment.Cause) error {
	result := make(chan error, 1)
	p.moveStart(to, why, func(_ int64, err error) { result <- err })
	return <-result
}

// moveStart journals a new start, and why. done is called from the committer, or at once with an error.
func (p *Partition) moveStart(to int64, why segment.Cause, done func(low int64, err error)) {
	p.mu.Lock()
	err := p.movable()
	if err == nil {
		err = p.store.admitBytes(entryBytes, 1, true, p.store.nowMS())
	}
	if err != nil {
		p.mu.Unlock()
		done(-1, fmt.Errorf("move start of %s: %w", p, err))
		return
	}
	entry := []journal.Entry{{Kind: journal.StartMoved, Topic: p.topic.ID, Partition: p.index, Base: to, Length: int32(why)}}
	p.store.journal.Stage(entry, func(err error) {
		p.store.pending(-entryBytes, -1)
		if err != nil {
			done(-1, fmt.Errorf("move start of %s: %w", p, err))
			return
		}
		p.state.Lock()
		if to > p.start {
			p.causes, p.start = p.causes.moved(p.start, why), to
		}
		low := p.start
		p.state.Unlock()
		p.store.touched.Store(true)
		done(low, nil)
	})
	p.mu.Unlock()
}

// movable says whether start and end may be moved. Holds mu.
func (p *Partition) movable() error {
	switch {
	case p.gone.Load():
		return ErrDeleted
	case p.cutting:
		return ErrNotLeader
	}
	return nil
}

// Truncate cuts the log back to offset to, as a follower does whose leader has another history. A batch that holds to
// goes whole; the end that came of it is returned. It is journalled and synced before the log is cut. While it waits
// nothing may be appended. Blocks for a commit.
func (p *Partition) Truncate(to int64) (int64, error) {
	end, err := p.truncate(to)
	if err != nil {
		return -1, fmt.Errorf("truncate %s to %d: %w", p, to, err)
	}
	return end, nil
}

func (p *Partition) truncate(to int64) (int64, error) {
	p.retaining.Lock()
	defer p.retaining.Unlock()
	if err := p.finishSwap(); err != nil {
		return -1, err
	}
	p.mu.Lock()
	failed := p.sealLocked()
	err := p.movable()
	if err == nil && (to < p.Start() || to > p.end.Load()) {
		err = ErrOffsetOutOfRange
	}
	var last *piece
	var end, pos int64
	if err == nil {
		last, end, pos, err = p.place(to)
	}
	if err == nil {
		err = p.store.admitBytes(entryBytes, 1, true, p.store.nowMS())
	}
	if err != nil || end == p.end.Load() {
		if err == nil {
			p.store.pending(-entryBytes, -1)
		}
		p.mu.Unlock()
		failed.refuse()
		return end, err
	}
	p.cutting = true
	result := make(chan error, 1)
	entry := []journal.Entry{{
		Kind: journal.Truncate, Topic: p.topic.ID, Partition: p.index, Segment: last.Base(), Position: pos, Base: end,
	}}
	p.store.journal.Stage(entry, func(err error) { result <- err })
	p.mu.Unlock()
	failed.refuse()

	err = <-result
	p.store.pending(-entryBytes, -1)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutting = false
	if err != nil {
		return -1, err
	}
	p.state.Lock()
	// The place was found before the commit; retention was kept out and nothing was appended, so it holds.
	p.durable, p.durablePiece, p.durablePos = end, last, pos
	p.high = min(p.high, end)
	if end < p.start { // the batch that held the start went whole
		p.start, p.causes = end, p.causes.cut(end)
	}
	p.cutTo = min(p.cutTo, last.Base())
	p.places = [2]int64{min(p.places[0], last.Base()), min(p.places[1], last.Base())}
	p.state.Unlock()
	p.cleaning.cut(last.Base(), end)
	p.broken = p.cutLocked(last, last.Base(), end, pos)
	p.store.touched.Store(true)
	return end, p.broken
}

// place is where offset lies: its segment, and the base offset and byte position of the batch that holds it.
// Holds mu.
func (p *Partition) place(offset int64) (s *piece, base, pos int64, err error) {
	p.state.Lock()
	pieces := p.pieces
	p.state.Unlock()
	if end := p.end.Load(); offset >= end {
		s = pieces[len(pieces)-1]
		return s, end, s.Size(), nil
	}
	s = pieces[floor(pieces, offset)]
	if offset <= s.Base() {
		return s, s.Base(), 0, nil
	}
	if pos, err = s.Position(offset); err != nil {
		return nil, 0, 0, err
	}
	span, err := s.Read(offset, s.Size(), 1)
	if err != nil {
		return nil, 0, 0, err
	}
	defer span.Release()
	base, err = firstOffset(span)
	return s, base, pos, err
}

// floor is the index of the piece that offset lies in: the last whose base is not above it.
func floor(pieces []*piece, offset int64) int {
	lo, hi := 0, len(pieces)
	for hi-lo > 1 {
		if mid := (lo + hi) / 2; pieces[mid].Base() <= offset {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}

// entryBytes is what an entry without bytes is counted as in the queue.
const entryBytes = 128

// noFollowers is the followers' end while there are none.
const noFollowers = int64(math.MaxInt64)
