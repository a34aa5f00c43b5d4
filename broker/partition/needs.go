package partition

import "math"

// Needs tells what links to other clusters still have to send. The store asks before it lets anything go: it must answer
// at once, from memory, and call nothing of the store. Safe for concurrent use.
type Needs interface {
	// Needed tells the lowest offset of a partition that a link still needs, and the priority of the class it is in: 0 goes
	// first over the link, and last from a full disk. needed is false where no link wants the topic. A link that does not
	// know yet how far it is needs everything: from = 0.
	Needed(topic string, id [16]byte, partition int32) (from int64, priority int, needed bool)
}

// Delivered is the class of what no link needs. It is above every priority.
const Delivered = math.MaxInt

// SetNeeds has the store ask n before it lets records go by retention or for want of space. Set it before the first pass
// of the cleaner; without one nothing is needed. nil takes it back.
func (s *Store) SetNeeds(n Needs) {
	if n == nil {
		s.needs.Store(nil)
		return
	}
	s.needs.Store(&n)
}

// Needed is the lowest offset that a link still needs, and the class of what lies there and behind it: its priority, or
// Delivered, with from = math.MaxInt64, where no link needs any.
func (p *Partition) Needed() (from int64, class int) {
	n := p.store.needs.Load()
	if n == nil {
		return math.MaxInt64, Delivered
	}
	from, priority, needed := (*n).Needed(p.topic.Name, p.topic.ID, p.index)
	if !needed {
		return math.MaxInt64, Delivered
	}
	return max(from, 0), min(max(priority, 0), Delivered-1)
}

// Offer is the oldest segment of a partition, as a full disk looks at it.
type Offer struct {
	// Class is Delivered, or the priority of the class of which a link still needs something in the segment. The higher goes
	// first.
	Class int
	// Arrival is when the segment last grew, an age, ms. Within a class the older goes first.
	Arrival int64
}

// Offer is the oldest segment that DropOldest could give up; false where there is none with readable records.
func (p *Partition) Offer() (o Offer, ok bool) {
	from, class := p.Needed()
	p.state.Lock()
	defer p.state.Unlock()
	next := p.high
	if len(p.pieces) > 1 {
		next = p.pieces[1].Base()
	}
	if p.gone.Load() || next > p.high || next <= p.pieces[0].Base() {
		return Offer{}, false
	}
	return Offer{Class: classOf(next, max(from, p.start), class), Arrival: p.pieces[0].arrival.Load()}, true
}

// classOf is the class of a segment that ends before offset next, where class is needed, and there, from an offset on.
func classOf(next, from int64, class int) int {
	if next <= from {
		return Delivered
	}
	return class
}

// needed says how much of what lies below target is needed, from an offset on: the first that is, and about how many bytes
// of the segments that go.
func needed(pieces []*piece, from, target int64) (first, bytes int64) {
	if first = from; first >= target {
		return target, 0
	}
	for i, s := range pieces {
		if i+1 == len(pieces) || pieces[i+1].Base() > target {
			break
		}
		if pieces[i+1].Base() <= first {
			continue
		}
		bytes += s.Size()
		if first > s.Base() {
			if at, err := s.Position(first); err == nil { // of the batch that it is in
				bytes -= at
			}
		}
	}
	return first, bytes
}
