package group

import (
	"cmp"
	"maps"
	"slices"
)

// offset is how far a group has read a partition.
type offset struct {
	at       int64
	epoch    int32 // -1: none
	metadata string
	topicID  [16]byte
	written  int64 // Unix time in ms, as the record says
	retain   int64 // ms, -1: as configured
	heard    int64 // when it was committed, or loaded, in ms of the machine's own time
}

// offsets are a group's, by topic and partition. No topic is without.
type offsets map[string]map[int32]offset

func (o offsets) cost() (n int64) {
	for topic, list := range o {
		n += topicCost + int64(len(topic))
		for _, p := range list {
			n += offsetCost + int64(len(p.metadata))
		}
	}
	return n
}

func (o offsets) count() (n int) {
	for _, list := range o {
		n += len(list)
	}
	return n
}

// put keeps an offset.
func (g *group) put(p Place, o offset) {
	list := g.offsets[p.Topic]
	if list == nil {
		list = map[int32]offset{}
		g.offsets[p.Topic] = list
		g.size += topicCost + int64(len(p.Topic))
	}
	if old, ok := list[p.Partition]; ok {
		g.size -= offsetCost + int64(len(old.metadata))
	}
	list[p.Partition] = o
	g.size += offsetCost + int64(len(o.metadata))
}

// drop forgets offsets.
func (g *group) drop(places []Place) {
	for _, p := range places {
		list := g.offsets[p.Topic]
		old, ok := list[p.Partition]
		if !ok {
			continue
		}
		delete(list, p.Partition)
		g.size -= offsetCost + int64(len(old.metadata))
		if len(list) == 0 {
			delete(g.offsets, p.Topic)
			g.size -= topicCost + int64(len(p.Topic))
		}
	}
}

// places are those offsets that want says, in order.
func (g *group) places(want func(topic string, o offset) bool) (list []Place) {
	for _, topic := range slices.Sorted(maps.Keys(g.offsets)) {
		parts := g.offsets[topic]
		for _, p := range slices.Sorted(maps.Keys(parts)) {
			if want(topic, parts[p]) {
				list = append(list, Place{topic, p})
			}
		}
	}
	return list
}

// arriving adds to places those of commits that are not durable yet: what ends an offset ends them too, though they are
// not known yet, or they would be back with the next start.
func (g *group) arriving(places []Place, want func(topic string) bool) []Place {
	var list []Place
	for p := range g.flight {
		if _, known := g.offsets[p.Topic][p.Partition]; !known && want(p.Topic) {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b Place) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return append(places, list...)
}

// mayCommit says whether who speaks may write offsets for the group.
func (g *group) mayCommit(e Commit) error {
	switch {
	case g.phase == Dead:
		return ErrUnavailable
	case e.Generation < 0 && g.phase == Empty:
		return nil // somebody who assigns partitions by hand
	}
	m, err := g.find(e.Member, e.Instance)
	switch {
	case err != nil:
		return err
	case e.Generation != g.generation:
		return ErrIllegalGeneration
	case g.phase == CompletingRebalance:
		return ErrRebalance // it has not its new partitions yet
	}
	g.touch(m)
	return nil
}

// commit writes offsets down and answers when they are on flash; only then anybody is told of them.
func (g *group) commit(e Commit) {
	if err := g.mayCommit(e); err != nil {
		g.answer(e.tell, err)
		return
	}
	if g.offsets.count()+len(e.Offsets) > g.limits.Offsets {
		fresh := 0
		for i := range e.Offsets {
			if _, known := g.offsets[e.Offsets[i].Topic][e.Offsets[i].Partition]; !known {
				fresh++
			}
		}
		if g.offsets.count()+fresh > g.limits.Offsets {
			g.answer(e.tell, ErrTooMany)
			return
		}
	}
	if len(e.Offsets) == 0 {
		g.answer(e.tell, nil)
		return
	}
	made := make([]offset, len(e.Offsets))
	records := make([]keyValue, len(e.Offsets))
	for i := range e.Offsets {
		c := &e.Offsets[i]
		made[i] = offset{c.Offset, c.Epoch, c.Metadata, c.TopicID, g.now.wall, c.RetainMS, g.now.ms}
		records[i] = offsetRecord(g.id, c.Place, made[i])
		g.flight[c.Place]++
	}
	g.append(records, func(err error) {
		for i := range made {
			p := e.Offsets[i].Place
			if g.flight[p]--; g.flight[p] == 0 {
				delete(g.flight, p)
			}
			if err == nil {
				g.put(p, made[i])
			}
		}
		g.answer(e.tell, err)
	})
}

// bury writes the end of offsets down; then says what follows.
func (g *group) bury(places []Place, then func(error)) {
	records := make([]keyValue, len(places))
	for i, p := range places {
		records[i] = keyValue{key: offsetKey(g.id, p)}
	}
	g.appendAll(records, func(err error) {
		if err == nil {
			g.drop(places)
		}
		then(err)
	})
}

// buriedMax bounds the bytes of one write of ends: a batch has a largest size.
const buriedMax = 256 << 10

// appendAll writes many ends in as many pieces as it takes; then is called once, with the first error. Half of them
// written is half of what was asked for: the rest is tried again.
func (g *group) appendAll(records []keyValue, then pendingWrite) {
	left, first := 1, error(nil)
	done := func(err error) {
		if first == nil {
			first = err
		}
		if left--; left == 0 {
			then(first)
		}
	}
	from, size := 0, 0
	for i := range records {
		if size += len(records[i].key) + recordCost; size > buriedMax && i > from {
			left++
			g.append(records[from:i], done)
			from, size = i, len(records[i].key)+recordCost
		}
	}
	g.append(records[from:], done)
}

// recordCost is more than a record's lengths and deltas take, in bytes.
const recordCost = 32

// deleteOffsets deletes offsets that no member needs.
func (g *group) deleteOffsets(e DeleteOffsets) {
	if g.phase == Dead {
		g.answer(e.tell, e.fail(ErrNotFound))
		return
	}
	errs := make([]error, len(e.Places))
	var topics map[string]bool
	if len(g.members) > 0 {
		var known bool
		if topics, known = g.subscribed(); !known {
			g.answer(e.tell, e.fail(ErrNotEmpty))
			return
		}
	}
	var places []Place
	for i, p := range e.Places {
		if topics[p.Topic] {
			errs[i] = ErrSubscribed
		} else if _, ok := g.offsets[p.Topic][p.Partition]; ok || g.flight[p] > 0 {
			places = append(places, p)
		}
	}
	if len(places) == 0 {
		g.answer(e.tell, DeleteReply{Errors: errs})
		return
	}
	g.bury(places, func(err error) {
		if err != nil {
			g.answer(e.tell, e.fail(err))
			return
		}
		g.answer(e.tell, DeleteReply{Errors: errs})
	})
}

// delete ends a group without members. From now on it takes nothing, and when its end is on flash it is gone.
func (g *group) delete(e DeleteGroup) {
	switch {
	case g.phase == Dead:
		g.answer(e.tell, ErrNotFound)
	case g.phase != Empty:
		g.answer(e.tell, ErrNotEmpty)
	default:
		g.end(func(err error) { g.answer(e.tell, err) })
	}
}

// end writes down that an empty group is no more.
func (g *group) end(then func(error)) {
	places := g.places(func(string, offset) bool { return true })
	places = g.arriving(places, func(string) bool { return true })
	records := make([]keyValue, 0, len(places)+1)
	for _, p := range places {
		records = append(records, keyValue{key: offsetKey(g.id, p)})
	}
	records = append(records, keyValue{key: metadataKey(g.id)})
	g.phase = Dead
	for id := range g.pending {
		g.unexpect(id)
	}
	g.appendAll(records, func(err error) {
		if err != nil {
			g.phase = Empty // as it was: the next sweep, or the next request, tries again
		} else {
			g.drop(places)
		}
		then(err)
	})
}

// sweep has offsets expire that nobody has renewed for too long, and a group end that has none left. Ages are measured
// by the time that passed since the commit, or since the start: a clock that was wrong, or is set, expires nothing.
func (g *group) sweep() {
	if g.phase == Dead || len(g.writing) > 0 {
		return // the next one comes
	}
	topics, known := g.subscribed()
	old := g.places(func(topic string, o offset) bool {
		keep := g.limits.RetentionMS
		if o.retain >= 0 {
			keep = o.retain
		}
		switch {
		case g.phase == Empty:
			return g.now.ms-max(o.heard, g.idle) >= keep
		case g.phase == Stable && known && !topics[topic]:
			return g.now.ms-o.heard >= keep
		}
		return false
	})
	switch {
	case g.phase == Empty && len(g.pending) == 0 && len(old) == g.offsets.count() && !g.vacant():
		g.end(func(error) {})
	case len(old) > 0:
		g.bury(old, func(error) {})
	}
}

// forget drops the offsets of topics that are gone.
func (g *group) forget(e forget) {
	var places []Place
	if g.phase != Dead {
		places = g.places(func(topic string, o offset) bool { return e.gone(topic, o.topicID) })
		places = g.arriving(places, func(topic string) bool { return e.gone(topic, [16]byte{}) })
	}
	if len(places) == 0 {
		g.answer(e.tell, nil)
		return
	}
	g.bury(places, func(err error) { g.answer(e.tell, err) })
}
