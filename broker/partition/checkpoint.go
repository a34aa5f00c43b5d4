package partition

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"millrace/broker/journal"
	"millrace/broker/segment"
)

// checkpointRetryMS is how long a failed checkpoint waits before it is tried again by itself.
const checkpointRetryMS = 1000

// flushesAtOnce is how many partitions a checkpoint flushes side by side: a filesystem that journals its metadata takes
// those that wait together into one commit, which costs tens of KiB whether it is for one file or for all.
const flushesAtOnce = 16

// flushed is what became of one partition's flush.
type flushed struct {
	entry SlotEntry
	ok    bool
	err   error
}

// Checkpoint makes everything that was committed when it is called independent of the journal, and lets that part of
// the journal go. Appends go on meanwhile. After an error nothing was let go and nothing is lost: the next one starts
// over. One runs at a time.
func (s *Store) Checkpoint() error { return s.checkpointWith(nil, nil) }

// checkpointWith is Checkpoint with one partition more that nobody can find yet, and that was o; nil for none.
func (s *Store) checkpointWith(o *offline, back *Partition) error {
	s.checkpointing.Lock()
	defer s.checkpointing.Unlock()
	err := s.checkpoint(o, back)
	wait := s.cfg.CheckpointIntervalMS
	if err != nil {
		wait = checkpointRetryMS
	}
	s.nextCheckpoint.Store(s.nowMS() + wait)
	return err
}

func (s *Store) checkpoint(o *offline, back *Partition) error {
	s.touched.Store(false)
	mark, ok := s.barrier()
	if !ok {
		return ErrDeleted
	}
	s.awaitDeletions()
	parts := slices.Collect(s.All())
	slot := Slot{Mark: mark}
	if back != nil {
		parts = append(parts, back)
	}
	s.mu.RLock()
	for _, other := range s.offline {
		if other != o && other.slot != nil {
			slot.Partitions = append(slot.Partitions, *other.slot)
		}
	}
	s.mu.RUnlock()
	for _, p := range parts {
		p.startFlush()
	}
	// Each partition's place is noted when its turn comes, which is after the mark: it is at least what the journal
	// says up to there, and more does no harm, because replay writes the same bytes to the same places.
	flushed := make([]flushed, len(parts))
	var next atomic.Int32
	var workers sync.WaitGroup
	for range min(len(parts), flushesAtOnce) {
		workers.Go(func() {
			for i := next.Add(1) - 1; int(i) < len(parts); i = next.Add(1) - 1 {
				f := &flushed[i]
				f.entry, f.ok, f.err = parts[i].flush()
			}
		})
	}
	workers.Wait()
	var errs []error
	for i, f := range flushed {
		if f.err != nil {
			errs = append(errs, fmt.Errorf("flush %s: %w", parts[i], f.err))
		} else if f.ok {
			slot.Partitions = append(slot.Partitions, f.entry)
		}
	}
	// Deleted directories' names must be gone for good before the journal forgets that they are deleted.
	if err := errors.Join(append(errs, s.syncTopics())...); err != nil {
		s.touched.Store(true)
		return err
	}
	err, memoryErr := s.slots.write(slot)
	if memoryErr != nil {
		s.log.Error("checkpoints go to files from now on", "err", memoryErr)
	}
	if err != nil {
		s.touched.Store(true)
		return err
	}
	for i, f := range flushed {
		if f.ok {
			parts[i].named(f.entry.Segment)
		}
	}
	if back != nil {
		// It still is offline to everybody else, the next checkpoint included: with this place, and nothing behind it.
		s.mu.Lock()
		o.slot, o.keeps.past = &flushed[len(parts)-1].entry, true
		s.mu.Unlock()
	}
	if err := s.journal.Drop(slot.Mark); err != nil {
		return fmt.Errorf("drop the journal's front: %w", err)
	}
	s.cfg.OnCheckpoint()
	return s.removeSnapshots()
}

// awaitDeletions returns when every deletion whose entry is committed has its directories renamed for good: the journal
// must not forget one that still has its old name.
func (s *Store) awaitDeletions() {
	s.deleting.Lock()
	defer s.deleting.Unlock()
}

// barrier is the last committed frame, at a moment when everything up to it has reached the partitions. Asked between
// commits: Mark alone may be ahead of the callbacks.
// False when the store is abandoned.
func (s *Store) barrier() (journal.Mark, bool) {
	at := make(chan journal.Mark, 1)
	s.journal.Defer(func() { at <- s.journal.Mark() })
	select {
	case mark := <-at:
		return mark, true
	case <-s.abandoned:
		return journal.Mark{}, false
	}
}

// flush makes the partition's log durable up to its durable end, with producer state, leader epochs and why its start is
// where it is, and tells where that is. ok is false when the partition is deleted. Holds Store.checkpointing.
func (p *Partition) flush() (e SlotEntry, ok bool, err error) {
	// Truncate lowers what is flushed: not in between.
	p.retaining.Lock()
	defer p.retaining.Unlock()
	p.mu.Lock()
	if p.gone.Load() && p.store.Get(p.topic.ID, p.index) != p {
		p.mu.Unlock()
		return SlotEntry{}, false, nil
	}
	p.state.Lock()
	pieces, last := p.pieces, p.durablePiece
	p.cutTo = math.MaxInt64
	why := p.causes
	e = SlotEntry{
		Topic: p.topic.ID, Partition: p.index,
		Segment: last.Base(), Position: p.durablePos, Next: p.durable, Start: p.start,
	}
	p.state.Unlock()
	var states []segment.ProducerState
	dirty := p.producers.dirty || p.snapshot > e.Next // a truncation went behind it
	if dirty {
		states = p.producers.snapshot(e.Next)
		// What is not durable yet is not in the snapshot, and must be in the next.
		p.producers.dirty = p.end.Load() > e.Next
	}
	epochs := p.epochs.list.Load()
	p.mu.Unlock()

	err = p.flushPieces(pieces, last, e.Position)
	if err == nil && epochs != p.savedEpochs {
		known := cutList(*epochs, e.Next)
		err = segment.WriteEpochs(p.store.cfg.FS, p.dir, known)
		if err == nil && len(known) == len(*epochs) {
			p.savedEpochs = epochs
		}
	}
	if err == nil && !slices.Equal(why, p.savedCauses) {
		if err = segment.WriteCauses(p.store.cfg.FS, p.dir, why); err == nil {
			p.savedCauses = why
		}
	}
	if err == nil && dirty {
		if err = segment.WriteSnapshot(p.store.cfg.FS, p.dir, e.Next, states); err == nil {
			p.snapshot = e.Next
		}
	}
	if err != nil {
		if dirty {
			p.mu.Lock()
			p.producers.dirty = true
			p.mu.Unlock()
		}
		return SlotEntry{}, false, err
	}
	e.Snapshot = p.snapshot
	return e, true, nil
}

// startFlush has the disk begin with what flush will sync.
func (p *Partition) startFlush() {
	p.state.Lock()
	pieces := p.pieces
	p.state.Unlock()
	for _, s := range pieces {
		if s.flushed.Load() < s.Size() {
			s.StartSync()
		}
	}
}

// flushPieces syncs every segment up to byte pos of last.
func (p *Partition) flushPieces(pieces []*piece, last *piece, pos int64) error {
	for _, s := range pieces {
		to := pos
		if s != last {
			to = s.Size()
		}
		if s.Base() > last.Base() {
			continue
		}
		s.SaveTopics()
		// Also where all bytes are flushed: a cut must be durable before the journal forgets it. A segment that nothing
		// has touched since its last sync costs nothing.
		if err := p.syncPiece(s); err != nil {
			return err
		}
		s.flushed.Store(to)
	}
	return nil
}

// removeSnapshots removes the producer snapshots that no slot names any more. The last slots name two generations.
func (s *Store) removeSnapshots() error {
	keep := make(map[key][]int64, len(s.slots.last.Partitions))
	for _, slot := range []Slot{s.slots.last, s.slots.prev} {
		for _, e := range slot.Partitions {
			k := key{e.Topic, e.Partition}
			keep[k] = append(keep[k], e.Snapshot)
		}
	}
	var errs []error
	for p := range s.All() {
		if p.snapshot < 0 || p.snapshot == p.sweptFor {
			continue
		}
		offsets, err := p.snapshots()
		errs = append(errs, err)
		for _, o := range offsets {
			if !slices.Contains(keep[key{p.topic.ID, p.index}], o) && o < p.snapshot {
				errs = append(errs, s.cfg.FS.Remove(filepath.Join(p.dir, segment.SnapshotName(o))))
			}
		}
		p.sweptFor = p.snapshot
	}
	return errors.Join(errs...)
}

// Checkpointed is the newest checkpoint. While nothing is appended after one it says where every partition ends; it may
// be asked after Close too.
func (s *Store) Checkpointed() Slot {
	s.checkpointing.Lock()
	defer s.checkpointing.Unlock()
	return s.slots.last
}
