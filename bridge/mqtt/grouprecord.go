package mqtt

import (
	"cmp"
	"fmt"
	"slices"
	"sync"

	"millrace/broker/record"
)

// keyGroup, which no client identifier begins, and the whole filter are the key of a group's record.
const keyGroup = "\x00s"

const groupVersion = 1

// groupRecords writes the records of groups that have durable members. One goes with every record of a session that has to do
// with the group, behind it in one batch: what the cursor is past is then in the delivery tables before it, or in the
// record's list of what was handed out and has to be again (ADR 16).
type groupRecords struct {
	// writing is held while records are made and appended, so that they are in the log in the order of the states they
	// tell. It comes after session.writing and before stream.mu.
	writing sync.Mutex

	mu   sync.Mutex // after every other lock
	owed []*group   // to be written with the next record of anything
	// there are the groups whose record is in the log, or on its way.
	there map[string]*group
}

// owe has the group written with the next record of anything. It may hold any lock.
func (o *store) owe(groups ...*group) {
	o.groups.mu.Lock()
	defer o.groups.mu.Unlock()
	for _, g := range groups {
		if !slices.Contains(o.groups.owed, g) {
			o.groups.owed = append(o.groups.owed, g)
		}
	}
}

// appendWith appends recs and the records of groups and of those that are owed.
func (o *store) appendWith(groups []*group, recs []record.Record, done func(error)) {
	w := &o.groups
	w.writing.Lock()
	defer w.writing.Unlock()
	w.mu.Lock()
	owed := w.owed
	w.owed = nil
	w.mu.Unlock()
	for _, g := range owed {
		if !slices.Contains(groups, g) {
			groups = append(groups, g)
		}
	}
	var ends []*group
	for _, g := range groups {
		value := encodeGroup(g)
		w.mu.Lock()
		known := w.there[g.key]
		if value != nil {
			w.there[g.key] = g
		}
		w.mu.Unlock()
		switch {
		case value != nil:
			recs = append(recs, record.Record{Key: []byte(keyGroup + g.key), Value: value})
		case known == g: // and no later group of that name
			recs = append(recs, record.Record{Key: []byte(keyGroup + g.key)})
			ends = append(ends, g)
		}
	}
	if len(recs) == 0 {
		done(nil)
		return
	}
	o.append(recs, func(err error) {
		if err != nil {
			o.owe(groups...)
		} else {
			o.forgetGroups(ends)
		}
		done(err)
	})
}

// putGroups writes the groups, when nothing else does.
func (o *store) putGroups(groups []*group) {
	o.appendWith(groups, nil, func(err error) {
		if err != nil {
			o.s.log.Error("mqtt: shared subscriptions could not be written", "error", err)
		}
	})
}

// forgetGroups drops those whose record has ended for good.
func (o *store) forgetGroups(ends []*group) {
	o.groups.mu.Lock()
	defer o.groups.mu.Unlock()
	for _, g := range ends {
		g.handed.mu.Lock()
		over := g.handed.over
		g.handed.mu.Unlock()
		if over && o.groups.there[g.key] == g {
			delete(o.groups.there, g.key)
		}
	}
}

// encodeGroup is the value of the group's record: the cursor; what lies before it and has to be handed out again. It is nil
// when no member is durable.
func encodeGroup(g *group) []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.keeps == 0 || g.over {
		return nil
	}
	g.dirty.Store(false)
	next := make(map[*stream]int64, len(g.past))
	for st, offset := range g.past {
		next[st] = offset
	}
	for st, offset := range g.lag {
		next[st] = max(next[st], offset)
	}
	var w sessionWriter
	w.positions(next)
	g.handed.mu.Lock()
	defer g.handed.mu.Unlock()
	w.uint(uint64(len(g.handed.all)))
	for p := range g.handed.all {
		w.at(p.st, p.offset)
	}
	return w.seal(groupVersion)
}

// decodeGroup is encodeGroup's inverse.
func decodeGroup(p []byte, g *group, find func(streamKey) *stream) error {
	r := &sessionReader{p: p}
	if v := r.take(1)[0]; r.bad || v != groupVersion {
		return fmt.Errorf("%w: group of version %d", errSession, v)
	}
	table := r.placed(find)
	r.positions(table, func(st *stream, next int64) {
		g.fallBehind(st, next)
		g.past[st] = next
	})
	r.positions(table, func(st *stream, offset int64) {
		p := position{st, offset}
		if _, known := g.handed.all[p]; !known {
			g.handed.all[p] = struct{}{}
			g.handed.again = append(g.handed.again, p)
		}
	})
	if r.bad || len(r.p) != 0 {
		return errSession
	}
	return nil
}

// restoreGroups makes the groups again that the log remembers, before the sessions. Under life.
func (o *store) restoreGroups(values map[string][]byte) {
	for key, value := range values {
		g := o.s.group(key)
		o.groups.there[key] = g
		if err := decodeGroup(value, g, o.s.streams.find); err != nil {
			o.s.log.Error("mqtt: the place of a shared subscription is lost, it goes on at the end of the log", "group", key, "error", err)
			delete(values, key)
			delete(o.s.groups, key)
			o.groups.there[key] = o.s.group(key)
		}
	}
}

// settleGroups joins them with the sessions, which are all there now. Under life.
func (o *store) settleGroups(values map[string][]byte) {
	for key, g := range o.s.groups {
		if g.size == 0 { // a crash came between the end of its last member's subscription and its own
			o.s.end(g)
			o.owe(g)
			continue
		}
		if values[key] == nil {
			g.begin()
		}
	}
	for _, ss := range o.s.sessions {
		ss.mu.Lock()
		for i := range ss.inflight {
			switch d := &ss.inflight[i]; {
			case d.group == nil:
			case d.group.over:
				d.group = nil
			case d.qos == 2: // it is this client's
				d.group.handed.drop(d.at())
			}
		}
		ss.giveBack()
		ss.mu.Unlock()
	}
	for _, g := range o.s.groups {
		g.handed.sort()
		o.s.cfg.State.Overdraw(groupCost(g.key))
		g.restCost()
	}
}

// sort puts what has to be handed out again in the order of the log.
func (h *handed) sort() {
	h.mu.Lock()
	defer h.mu.Unlock()
	slices.SortFunc(h.again, func(a, b position) int { return cmp.Compare(a.offset, b.offset) })
}

// drop takes p out of what has to be handed out again.
func (h *handed) drop(p position) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.all, p)
	h.again = slices.DeleteFunc(h.again, func(q position) bool { return p == q })
}
