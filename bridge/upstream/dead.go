package upstream

import (
	"cmp"
	"slices"
)

// deadMax is how many cursors of deleted topics are kept upstream: as long as its cursor is there, a topic that is made anew
// stops. Of more those that were written longest ago go.
const deadMax = 1024

// buryMax is how many of them go with one transaction.
const buryMax = 64

// deadMost is how many cursors of deleted topics are kept: no more than there may be of others.
func (c *Config) deadMost() int { return min(c.Partitions, deadMax) }

// drop lets partitions go that the log has no more. One that a transaction or a decision is about stays until that is over.
func (t *table) drop(there map[cursorID]bool) {
	gone := map[*part]bool{}
	for _, p := range t.all {
		if there[cursorID{Live, p.topic, p.index}] {
			continue
		}
		p.log = nil
		if gone[p] = !p.held && p.lane[Live].draft == nil && p.lane[Backfill].draft == nil; !gone[p] {
			continue
		}
		for _, pos := range p.lane {
			pos.queued = false
		}
		list := t.parts[p.topic]
		list[p.index] = nil
		if !slices.ContainsFunc(list, func(p *part) bool { return p != nil }) {
			delete(t.parts, p.topic)
			delete(t.targets, p.topic)
		}
	}
	if len(gone) == 0 {
		return
	}
	is := func(p *part) bool { return gone[p] }
	t.all = slices.DeleteFunc(t.all, is)
	for l := range t.queue {
		for c := range t.queue[l] {
			t.queue[l][c].remove(is)
		}
	}
}

// age forgets positions that stand for nothing, and finds the cursors that are too many, of topics that are not among names.
func (t *table) age(names []string, most int) {
	t.dead = t.dead[:0]
	for id, pos := range t.cursors {
		switch _, there := slices.BinarySearch(names, id.topic); {
		case t.find(id.topic, id.partition) != nil:
		case !pos.has:
			delete(t.cursors, id)
		case !there:
			t.dead = append(t.dead, id)
		}
	}
	if len(t.dead) <= most {
		t.dead = t.dead[:0]
		return
	}
	slices.SortFunc(t.dead, func(a, b cursorID) int {
		return cmp.Or(cmp.Compare(t.cursors[a].cursor.At, t.cursors[b].cursor.At), cmp.Compare(a.topic, b.topic),
			cmp.Compare(a.partition, b.partition), cmp.Compare(a.lane, b.lane))
	})
	t.dead = t.dead[:len(t.dead)-most]
}

// bury adds tombstones of cursors that are too many to a transaction of the live lane, and says whose. Only this lane's
// goroutine brings partitions into the table while there is a connection: so none of them has a partition until it is committed.
func (ln *lane) bury(now int64) ([]cursorID, error) {
	if ln.lane != Live {
		return nil, nil
	}
	ln.mu.Lock()
	list := slices.Clone(ln.table.dead[:min(len(ln.table.dead), buryMax)])
	ln.mu.Unlock()
	for _, id := range list {
		k := CursorKey{Board: ln.cfg.Board, Link: ln.cfg.Name, Lane: id.lane.String(), Topic: id.topic, Partition: id.partition}
		key, err := k.Append(nil)
		if err != nil {
			return nil, err
		}
		ln.filler.records = append(ln.filler.records, Record{
			Topic: ln.cfg.CursorTopic, Partition: cursorPartition(ln.cfg.Board), Timestamp: now, Key: key,
		})
	}
	return list, nil
}

// buriedLocked notes that the tombstones are committed.
func (l *Link) buriedLocked(list []cursorID) {
	for _, id := range list {
		delete(l.table.cursors, id)
	}
	l.table.dead = l.table.dead[:copy(l.table.dead, l.table.dead[len(list):])]
}
