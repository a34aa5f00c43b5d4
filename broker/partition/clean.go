package partition

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"millrace/broker/journal"
	"millrace/broker/record"
	"millrace/broker/segment"
)

// cleaning is what a partition remembers of its compaction. Guarded by Partition.retaining.
type cleaning struct {
	// to is the offset up to which the log was compacted, where its dirty part begins. What it loses is only work.
	to int64
	// settled is the first segment that the journal was not told of: entries of this life, or an earlier one, for segments
	// below it must not be replayed.
	settled int64
	swap    *swapping // one that the disk refused to finish
}

// swapping is a compacted segment that readers have and that does not bear its own name yet.
type swapping struct {
	to   *piece
	olds []*segment.Segment
}

// cut takes back what a truncation to offset end in segment base makes of it.
func (c *cleaning) cut(base, end int64) {
	c.to, c.settled = min(c.to, end), min(c.settled, base)
}

// Closed is a closed segment that compaction may read, and replace by Rewrite, as it was when Cleanable told of it.
type Closed struct {
	Base, Next int64 // the first offset, and the base of the segment behind it
	Size       int64 // bytes
	// Opened and Arrival are when its first and its last batch came by the board's clock, ms.
	Opened, Arrival int64

	piece *piece
}

// Cleanable is what compaction may work on.
type Cleanable struct {
	// Closed are the segments, from the first on: each is closed, below the high watermark, and so far below both
	// checkpoint slots that whatever recovery goes by it never looks into it but to read it.
	Closed []Closed
	// Dirty is the offset up to which they were compacted before.
	Dirty int64
	// Limit is how large a segment may become that takes the place of several, in bytes.
	Limit int64
	// Waiting are segments that only want two checkpoints to belong to them.
	Waiting []Closed
}

// Cleanable tells what may be compacted now. It is nothing where the topic's cleanup.policy does not say compact.
func (p *Partition) Cleanable() Cleanable {
	cfg := p.config.Load()
	if !cfg.CleanupCompact {
		return Cleanable{}
	}
	p.retaining.Lock()
	defer p.retaining.Unlock()
	if p.gone.Load() {
		return Cleanable{}
	}
	p.state.Lock()
	defer p.state.Unlock()
	c := Cleanable{Dirty: max(p.cleaning.to, p.pieces[0].Base()), Limit: segmentMax(cfg)}
	for i, s := range p.pieces {
		if i+1 == len(p.pieces) || s.Base() >= p.durablePiece.Base() || p.pieces[i+1].Base() > p.high {
			break
		}
		closed := Closed{
			Base: s.Base(), Next: p.pieces[i+1].Base(), Size: s.Size(), Opened: s.opened.Load(), Arrival: s.arrival.Load(), piece: s,
		}
		if s.Base() < p.safe() {
			c.Closed = append(c.Closed, closed)
		} else {
			c.Waiting = append(c.Waiting, closed)
		}
	}
	return c
}

// safe is the base below which segments may be compacted: recovery goes by one of the two slots, and begins at or behind
// the segment it names. Holds state.
func (p *Partition) safe() int64 { return min(p.places[0], p.places[1]) }

// named notes that a checkpoint slot names a segment as the partition's last.
func (p *Partition) named(base int64) {
	p.state.Lock()
	defer p.state.Unlock()
	p.places = [2]int64{min(base, p.cutTo), p.places[0]}
}

// Scan hands every batch of the segment to fn, checked and in order; it is fn's only until it returns. whole is false
// where some are damaged: those are stepped over. It returns ErrChanged when the segment is not the log's any more.
func (p *Partition) Scan(c Closed, fn func(record.Batch) error) (whole bool, err error) {
	whole = true
	for from := int64(0); from < c.Size; {
		valid, err := c.piece.Scan(from, func(b record.Batch, _ int64) error { return fn(b) })
		if err == nil && valid < c.Size {
			whole = false
			var d *segment.DamageError
			if d, err = c.piece.Resync(valid, c.Size); err == nil && d.NextOffset >= 0 {
				from = d.Next
				continue
			}
		}
		if err != nil && !p.current(c) {
			err = fmt.Errorf("%w: %w", ErrChanged, err)
		}
		return whole, err
	}
	return whole, nil
}

func (p *Partition) current(c Closed) bool {
	p.state.Lock()
	defer p.state.Unlock()
	return !p.gone.Load() && slices.Contains(p.pieces, c.piece)
}

// LastOf says whether offset is where the last batch of a producer begins: its sequence number must stay in the log,
// though its records may go.
func (p *Partition) LastOf(producer, offset int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.producers.byID[producer]
	return known != nil && known.newest().base == offset
}

// Rewrite puts one segment in the place of run, neighbours that Cleanable told of. fill writes it by add: whole batches,
// all offsets of run and no others, without a hole. Appends, reads and checkpoints go on meanwhile; what was being read is
// read to its end. When it returns, the new segment is durable in the place of the old ones, or it failed: then
// those are in their place, or, where the disk failed at the very end, both are on it, which the next call or start ends.
// It returns ErrChanged when the log has changed since Cleanable: nothing is done then. size is the new segment's.
func (p *Partition) Rewrite(run []Closed, fill func(add func(batches []byte) error) error) (size int64, err error) {
	made, err := p.beginRewrite(run)
	if err != nil {
		return 0, fmt.Errorf("compact %s: %w", p, err)
	}
	err = fill(func(batches []byte) error {
		_, err := made.Append(batches)
		return err
	})
	last := run[len(run)-1]
	if err == nil && made.End() != last.Next {
		err = fmt.Errorf("the compacted segment ends at %d, not at %d", made.End(), last.Next)
	}
	if err == nil {
		err = made.Sync() // the most of it, before anybody has to wait
	}
	p.retaining.Lock()
	defer p.retaining.Unlock()
	if err == nil {
		err = p.swapIn(run, made)
	}
	if err == nil {
		return made.Size(), nil
	}
	if p.cleaning.swap == nil {
		if p.gone.Load() { // its directory may be a new topic's by now
			err = errors.Join(err, made.Close())
		} else {
			err = errors.Join(err, made.Remove())
		}
	}
	return 0, fmt.Errorf("compact %s: %w", p, diskError(err))
}

// beginRewrite sees to it that nothing in the journal speaks of run any more, and makes the file.
func (p *Partition) beginRewrite(run []Closed) (*segment.Segment, error) {
	p.retaining.Lock()
	defer p.retaining.Unlock()
	if err := p.finishSwap(); err != nil {
		return nil, err
	}
	if err := p.unchanged(run); err != nil {
		return nil, err
	}
	if err := p.settle(run[len(run)-1].Base); err != nil {
		return nil, err
	}
	return segment.CreateCleaned(p.store.cfg.FS, p.dir, run[0].Base, p.segmentConfig())
}

// unchanged says whether run is still there, as it was. Holds retaining.
func (p *Partition) unchanged(run []Closed) error {
	p.state.Lock()
	defer p.state.Unlock()
	i := slices.Index(p.pieces, run[0].piece)
	if p.gone.Load() || i < 0 || i+len(run) >= len(p.pieces) || run[len(run)-1].Base >= p.safe() {
		return ErrChanged
	}
	for n, c := range run {
		s := p.pieces[i+n]
		if s != c.piece || s.Size() != c.Size || p.pieces[i+n+1].Base() != c.Next || s == p.durablePiece {
			return ErrChanged
		}
	}
	return nil
}

// settle tells the journal, durably, that what it says of segments up to base is done with. It tells so of all that may be
// compacted, so that one entry serves them all. With both checkpoint slots lost recovery replays whatever the journal
// still has, and would write it over compacted segments otherwise. Holds retaining.
func (p *Partition) settle(base int64) error {
	if base < p.cleaning.settled {
		return nil
	}
	p.state.Lock()
	below, start := p.safe(), p.start
	p.state.Unlock()
	p.mu.Lock()
	err := p.movable()
	if err == nil {
		err = p.store.admitBytes(entryBytes, 1, true, p.store.nowMS())
	}
	if err != nil {
		p.mu.Unlock()
		return err
	}
	result := make(chan error, 1)
	p.store.journal.Stage([]journal.Entry{{
		Kind: journal.StartMoved, Topic: p.topic.ID, Partition: p.index, Segment: below, Base: start,
	}}, func(err error) { result <- err })
	p.mu.Unlock()
	err = <-result
	p.store.pending(-entryBytes, -1)
	if err == nil {
		p.cleaning.settled = below
		p.store.touched.Store(true)
	}
	return err
}

// swapIn puts made in the place of run. Holds retaining.
func (p *Partition) swapIn(run []Closed, made *segment.Segment) error {
	if err := p.unchanged(run); err != nil {
		return err
	}
	next := &piece{Segment: made}
	next.opened.Store(math.MaxInt64)
	olds := make([]*segment.Segment, len(run))
	for i, c := range run {
		olds[i] = c.piece.Segment
		next.opened.Store(min(next.opened.Load(), c.piece.opened.Load()))
		next.arrival.Store(max(next.arrival.Load(), c.piece.arrival.Load()))
	}
	if err := made.Ready(len(run) > 1, p.store.cfg.Clock.Date(next.arrival.Load())); err != nil {
		return err
	}
	next.flushed.Store(made.Size())
	p.mu.Lock()
	p.state.Lock()
	i := slices.Index(p.pieces, run[0].piece)
	// Readers have the old slice.
	p.pieces = slices.Concat(p.pieces[:i], []*piece{next}, p.pieces[i+len(run):])
	p.state.Unlock()
	p.mu.Unlock()
	p.cleaning.swap = &swapping{next, olds}
	return p.finishSwap()
}

// finishSwap ends a swap that the disk did not let end before. Holds retaining.
func (p *Partition) finishSwap() error {
	s := p.cleaning.swap
	if s == nil {
		return nil
	}
	if p.gone.Load() {
		return ErrDeleted
	}
	if err := s.to.Replace(s.olds); err != nil {
		return fmt.Errorf("end the compaction of %s at %d: %w", p, s.to.Base(), err)
	}
	p.cleaning.swap = nil
	return nil
}

// Cleaned notes that the log is compacted up to an offset: what is behind is dirty.
func (p *Partition) Cleaned(to int64) {
	p.retaining.Lock()
	defer p.retaining.Unlock()
	p.cleaning.to = to
}

// CleanedTo is the offset up to which the log was compacted.
func (p *Partition) CleanedTo() int64 {
	p.retaining.Lock()
	defer p.retaining.Unlock()
	return p.cleaning.to
}
