package partition

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
