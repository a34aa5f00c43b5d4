package partition

import (
	"cmp"
	"fmt"
	"slices"

	"millrace/broker/journal"
	"millrace/broker/record"
)

// Part is what AppendTogether appends to one partition. Done is called exactly once, as that of AppendRecords is.
type Part struct {
	Partition *Partition
	Records   []record.Record
	Done      func(AppendResult)
}

// AppendTogether is AppendRecords for several partitions of one store, no two of them the same: all or nothing. They
// are one group of the journal, so whatever cut comes, all of them are there afterwards or none. Each part is a batch of
// its own; commits still hold those of many callers. Every Done gets the same error, or none does, in the order of parts.
// o.Epoch and o.InSync hold for each of them.
func AppendTogether(parts []Part, o AppendOptions) {
	err := appendTogether(parts, o)
	if err == nil {
		return
	}
	for _, part := range parts {
		p := part.Partition
		part.Done(AppendResult{Base: -1, AppendTime: -1, Start: p.Start(), Err: fmt.Errorf("append to %s: %w", p, err)})
	}
}

// appendTogether stages the group, or returns why not before any Done was called.
func appendTogether(parts []Part, o AppendOptions) error {
	if len(parts) == 0 {
		return nil
	}
	store := parts[0].Partition.store
	now := store.stampMS()
	sizes := make([]int64, len(parts))
	for i, part := range parts {
		var err error
		if sizes[i], err = part.Partition.measure(part.Records, o, now); err != nil {
			return fmt.Errorf("%s: %w", part.Partition, err)
		}
	}
	// Nothing else takes the locks of two partitions, so one order among our own kind is enough.
	locked := make([]*Partition, len(parts))
	for i, part := range parts {
		locked[i] = part.Partition
	}
	slices.SortFunc(locked, func(a, b *Partition) int {
		return cmp.Or(slices.Compare(a.topic.ID[:], b.topic.ID[:]), cmp.Compare(a.index, b.index))
	})
	if len(slices.Compact(slices.Clone(locked))) < len(locked) {
		return fmt.Errorf("%w: the same partition twice", record.ErrInvalid)
	}
	var failed []*failure
	for _, p := range locked {
		p.mu.Lock()
		failed = append(failed, p.sealLocked()) // records that came before keep their place
	}
	err := stageTogether(store, parts, sizes, now, o)
	for _, p := range locked {
		p.mu.Unlock()
	}
	for _, f := range failed {
		f.refuse()
	}
	return err
}

// stageTogether writes every part to its segment and stages them as one group. On an error nothing of them is left.
// Holds every mu.
func stageTogether(store *Store, parts []Part, sizes []int64, now int64, o AppendOptions) (err error) {
	for _, part := range parts {
		if err := part.Partition.writable(o); err != nil {
			return fmt.Errorf("%s: %w", part.Partition, err)
		}
	}
	admitted := 0
	defer func() {
		for _, size := range sizes[:admitted] { // what was written is counted by itself
			store.pending(-size, -1)
		}
	}()
	for i, size := range sizes {
		if err := parts[i].Partition.admit(size, o.Internal, now); err != nil {
			return err
		}
		admitted++
	}
	commits := make([]*commit, 0, len(parts))
	var group []journal.Entry
	for _, part := range parts {
		p := part.Partition
		g := newGathering(p.config.Load())
		g.now = now
		g.waiters = append(g.waiters, gathered{0, part.Done})
		g.add(part.Records, now)
		c, err := p.writeGathered(g)
		if err != nil {
			for _, c := range slices.Backward(commits) {
				c.unwrite()
			}
			return fmt.Errorf("%s: %w", p, err)
		}
		commits = append(commits, c)
	}
	for _, c := range commits {
		group = append(group, c.p.entries(c)...)
	}
	store.journal.Stage(group, func(err error) {
		for _, c := range commits {
			c.finish(err)
		}
	})
	return nil
}

// unwrite takes back a batch that was written and will not be staged. Holds mu.
func (c *commit) unwrite() {
	p, n := c.p, int64(len(c.batches))
	p.store.pending(-n, -1)
	// While the tail stands, nothing may follow it.
	p.broken = p.cutLocked(c.piece, c.piece.Base(), c.result.Base, c.pos-n)
	c.free()
}
