package partition

import (
	"fmt"

	"millrace/broker/journal"
)

// admit takes room for an append of n bytes: in the queue, and on the disk unless the active segment has it already
// (preallocate). Holds mu.
func (p *Partition) admit(n int64, internal bool, now int64) error {
	if !p.preallocated(n, internal, now) {
		return p.store.admitBytes(n, 1, internal, now)
	}
	return p.store.queue(n, 1, internal)
}

// preallocated says whether the disk keeps space for n more bytes, and has it keep a whole segment's where it does not
// yet: the segment is new, or a restart or a cut has forgotten. A disk that has no room for a segment still gets what
// fits record by record. Holds mu.
func (p *Partition) preallocated(n int64, internal bool, now int64) bool {
	cfg := p.config.Load()
	if !cfg.Preallocate {
		return false
	}
	active, whole := p.active(), segmentMax(cfg)
	need := n + p.gathered
	if active.Size()+need > whole {
		return false // it will lie in the next one
	}
	if active.Spare() >= need {
		return true
	}
	if p.store.admitDisk(whole-active.Size(), internal, now) != nil {
		return false
	}
	if err := active.Allocate(whole); err != nil {
		p.store.log.Debug("no space kept for a segment", "partition", p.String(), "err", err)
	}
	return active.Spare() >= need
}

// admitBytes takes room in the queue, and on the disk.
func (s *Store) admitBytes(n, groups int64, internal bool, now int64) error {
	if err := s.queue(n, groups, internal); err != nil {
		return err
	}
	if err := s.admitDisk(n, internal, now); err != nil {
		s.pending(-n, -groups)
		return err
	}
	return nil
}

// queue takes room in the journal's queue, as far as the store counts it.
func (s *Store) queue(n, groups int64, internal bool) error {
	queued, waiting := s.queued.Add(n), s.groups.Add(groups)
	// Internal entries may use the half of the journal's queue that clients may not.
	if !internal && (queued > appendMax || waiting > appendsMax) || queued > journal.MaxQueue*7/8 {
		s.pending(-n, -groups)
		return fmt.Errorf("%d bytes in %d appends: %w", queued-n, waiting-groups, ErrOverloaded)
	}
	return nil
}

// admitDisk takes room on the disk.
func (s *Store) admitDisk(n int64, internal bool, now int64) error {
	if s.cfg.Space == nil {
		return nil
	}
	if err := s.cfg.Space.Admit(n, internal, now); err != nil {
		s.cfg.OnDiskFull()
		return fmt.Errorf("%w: %w", ErrDiskFull, err)
	}
	return nil
}

// pending counts what waits for the journal.
func (s *Store) pending(bytes, groups int64) {
	s.queued.Add(bytes)
	s.groups.Add(groups)
}
