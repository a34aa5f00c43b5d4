package upstream

import (
	"errors"
	"slices"
)

// Fault counts records with something wrong, of which First is the first offset on the board, -1 for none.
type Fault struct {
	Count int64 `json:"count"`
	First int64 `json:"first"`
}

var noFault = Fault{First: -1}

func (f *Fault) add(offset int64) {
	if f.Count++; f.First < 0 || offset < f.First {
		f.First = offset
	}
}

const (
	// windowMost bounds how many records of the board's log each lane holds at once, of all partitions that go to one upstream,
	// and windowLeast how many of each; windowAround are known before those that are looked for. strangersMax and othersMax
	// are how many of the peer's.
	windowMost, windowLeast = 16384, 16
	windowAround            = 1024
	strangersMax            = 1024
	othersMax               = 1024
	// piecesMax is how many ranges what was found in a partition upstream may be in: without faults it is a few.
	piecesMax = 16384
)

// window is how many records of each of so many partitions a lane holds at once; 0: they are too many. A record takes 56 bytes, so
// two lanes stay below half of what a lane has room for.
func (c *Config) window(partitions int) int {
	size := min(windowMost, max(c.TransactionBytes/64, 4*windowLeast)) / max(partitions, 1)
	if size < windowLeast {
		return 0
	}
	return size
}

// errPieces ends a comparison in which too much is wrong to keep count.
var errPieces = errors.New("so much is wrong that it was given up")

// strand is the part of a local partition that goes to one partition upstream.
type strand struct {
	index int32
	// from and to are the offsets to be looked for, but those of skip, which are not delivered yet. What lies around them from
	// low to high is known, and not looked for.
	from, to, low, high int64
	skip                spans
	compacted           bool

	seen   spans
	tracks [lanes]*track
	// holes says that the log has lost something within.
	holes bool

	found                                   int64 // of those to be looked for
	missing, doubled, disordered, different Fault
	// lost are offsets that gap records tell of, letGo records that compaction may have taken, altered those of different that
	// are not in found.
	lost, letGo, altered int64
}

func newStrand(index int32, from, to, low, high int64) *strand {
	return &strand{
		index: index, from: from, to: to, low: low, high: high, missing: noFault, doubled: noFault, disordered: noFault, different: noFault,
	}
}

// wanted says whether an offset is to be looked for.
func (s *strand) wanted(offset int64) bool {
	return offset >= s.from && offset < s.to && !s.skip.has(offset)
}

// track is where one lane is in a strand: a window of the log that moves on with what arrives.
type track struct {
	list []print
	pos  int   // of the one that is expected
	next int64 // where the list goes on
	most int64 // the last offset that arrived in order, -1 for none
	// turns are what arrived first after a stranger did, at most one for each.
	turns []turn
}

// turn is an arrival behind so many strangers: the offset, and what most was before.
type turn struct {
	behind      int
	offset, was int64
	told        bool // that it is out of order
}

// identity is what a record is known by.
type identity struct {
	content
	at int64
}

// comparison holds what arrives in one partition upstream against the local partitions it comes from. The peer is read once, from
// front to back; the log is read where it is looked for, in a window for each lane. What is in no window waits, until the
// whole range is searched for all that waits at once. Memory is bounded whatever the size.
type comparison struct {
	strands []*strand
	size    int // of each window
	pieces  int // of what was found, of all strands
	// walk calls fn with the records of a strand from an offset on, in order, until it returns false.
	walk func(s *strand, from, end int64, fn func(*print) bool) error
	// told are the offsets of a strand that gap records tell of. It is asked where something is not there.
	told func(s *strand) (spans, error)

	strangers []arrival
	// pending are the strangers: one that is there again waits with the first.
	pending map[identity]struct{}
	others  []arrival // foreign ones that may turn out to be one of ours, altered
	foreign int64
}

// take takes the next record that arrived.
func (c *comparison) take(a *arrival) error {
	switch {
	case a.alien:
		c.foreign++
		return nil
	case a.offset >= 0:
		return c.exact(a)
	}
	if _, is := c.pending[identity{a.content, a.at}]; is {
		return c.wait(a)
	}
	for _, s := range c.strands {
		t, err := c.track(s, a.lane)
		if err != nil {
			return err
		}
		if t.pos < len(t.list) && a.of(&t.list[t.pos]) && !s.seen.has(t.list[t.pos].offset) {
			t.pos++
			return c.mark(s, t, &t.list[t.pos-1])
		}
	}
	for _, s := range c.strands {
		if found, err := c.search(s, s.tracks[a.lane], a); found || err != nil {
			return err
		}
	}
	return c.wait(a)
}

// wait has an arrival be settled later.
func (c *comparison) wait(a *arrival) error {
	if c.pending == nil {
		c.pending = map[identity]struct{}{}
	}
	c.strangers, c.pending[identity{a.content, a.at}] = append(c.strangers, *a), struct{}{}
	if len(c.strangers) >= strangersMax {
		return c.settle()
	}
	return nil
}

// search looks for an arrival in a window: in order, else out of order, else one that has arrived already.
func (c *comparison) search(s *strand, t *track, a *arrival) (found bool, err error) {
	again := -1
	look := func(i int) bool {
		if !a.of(&t.list[i]) {
			return false
		}
		if s.seen.has(t.list[i].offset) {
			if again < 0 {
				again = i
			}
			return false
		}
		return true
	}
	for i := t.pos; i < len(t.list); i++ {
		if look(i) {
			t.pos = i + 1
			return true, c.mark(s, t, &t.list[i])
		}
	}
	for i := t.pos - 1; i >= 0; i-- {
		if look(i) {
			return true, c.mark(s, t, &t.list[i])
		}
	}
	if again < 0 || len(c.strands) > 1 || s.tracks[Live] != nil && s.tracks[Backfill] != nil {
		return false, nil // one that is equal may be elsewhere
	}
	t.pos = max(t.pos, again+1)
	return true, c.mark(s, t, &t.list[again])
}

// exact takes one that says where it comes from.
func (c *comparison) exact(a *arrival) error {
	i := slices.IndexFunc(c.strands, func(s *strand) bool { return s.index == a.part })
	if i < 0 {
		c.foreign++
		return nil
	}
	s := c.strands[i]
	if a.offset < s.low || a.offset >= s.high {
		return nil // of before, or of after the question
	}
	t, err := c.track(s, a.lane)
	if err != nil {
		return err
	}
	if a.offset >= t.next {
		if err := c.seek(s, t, a.offset); err != nil {
			return err
		}
	}
	at, is := slices.BinarySearchFunc(t.list, a.offset, func(p print, offset int64) int {
		return int(max(-1, min(1, p.offset-offset)))
	})
	var p print
	switch {
	case is:
		p = t.list[at]
		t.pos = max(t.pos, at+1)
	case at == 0 && t.next > a.offset: // behind the window
		if err := c.walk(s, a.offset, a.offset+1, func(one *print) bool { p, is = *one, true; return false }); err != nil {
			return err
		}
	}
	if !is { // the board does not have it, or it should be elsewhere
		c.foreign++
		return nil
	}
	if !s.seen.has(p.offset) && a.content != p.content && s.wanted(p.offset) {
		s.different.add(p.offset)
	}
	return c.mark(s, t, &p)
}

// mark notes that a record has arrived.
func (c *comparison) mark(s *strand, t *track, p *print) error {
	if s.seen.has(p.offset) {
		if s.wanted(p.offset) {
			s.doubled.add(p.offset)
		}
		return nil
	}
	if n := len(c.strangers); n > 0 && (len(t.turns) == 0 || t.turns[len(t.turns)-1].behind < n) {
		t.turns = append(t.turns, turn{behind: n, offset: p.offset, was: t.most})
	}
	s.order(p.offset, t.most)
	t.most = max(t.most, p.offset)
	return c.arrived(s, p)
}

// order compares an offset with the last one before it.
func (s *strand) order(offset, before int64) {
	if offset < before && s.wanted(offset) {
		s.disordered.add(offset)
	}
}

func (c *comparison) arrived(s *strand, p *print) error {
	if s.wanted(p.offset) {
		s.found++
	}
	c.pieces -= len(s.seen)
	s.seen.add(Range{p.after, p.offset + 1})
	if c.pieces += len(s.seen); c.pieces > piecesMax {
		return errPieces
	}
	return nil
}

// track is a lane's, with a part of the log ahead of it.
func (c *comparison) track(s *strand, l Lane) (*track, error) {
	t := s.tracks[l]
	if t == nil {
		t = &track{next: s.low, most: -1}
		s.tracks[l] = t
	}
	for {
		for t.pos < len(t.list) && s.tracks[1-l] != nil && s.seen.has(t.list[t.pos].offset) { // by the other lane
			t.pos++
		}
		if len(t.list)-t.pos > c.size/4 || t.next >= s.high {
			return t, nil
		}
		if drop := t.pos - c.size/4; drop > 0 {
			t.list = slices.Delete(t.list, 0, drop)
			t.pos -= drop
		}
		if err := c.load(s, t); err != nil {
			return nil, err
		}
	}
}

// close lets the windows go. They are filled again from where they were: what comes late then is found by settle.
func (c *comparison) close() {
	for _, s := range c.strands {
		for _, t := range s.tracks {
			if t != nil && len(t.list) > 0 {
				if t.pos < len(t.list) {
					t.next = t.list[t.pos].offset
				}
				t.list, t.pos = nil, 0
			}
		}
	}
}

// seek has a track go on elsewhere.
func (c *comparison) seek(s *strand, t *track, offset int64) error {
	t.list, t.pos, t.next = t.list[:0], 0, offset
	return c.load(s, t)
}

// load fills a window.
func (c *comparison) load(s *strand, t *track) error {
	full := false
	err := c.walk(s, t.next, s.high, func(p *print) bool {
		t.list = append(t.list, *p)
		t.next = p.offset + 1
		full = len(t.list) >= c.size
		return !full
	})
	if !full && err == nil {
		t.next = s.high
	}
	return err
}

// finish says what did not arrive.
func (c *comparison) finish() error {
	if err := c.settle(); err != nil {
		return err
	}
	altered := map[int64][]int{} // others by their stamps
	for i := range c.others {
		altered[c.others[i].at] = append(altered[c.others[i].at], i)
	}
	for _, s := range c.strands {
		if err := c.rest(s, altered); err != nil {
			return err
		}
	}
	return nil
}

// rest looks at what of a strand did not arrive. It is lost, where a gap record says so; altered, where something else like it is
// there; let go by compaction, where the topic is compacted and the key came again, or was deleted; else it is missing.
func (c *comparison) rest(s *strand, altered map[int64][]int) error {
	some := s.holes
	for _, r := range s.unseen(nil) {
		if some {
			break
		}
		if err := c.walk(s, r.First, r.End, func(*print) bool { some = true; return false }); err != nil {
			return err
		}
	}
	if !some && !s.holes {
		return nil
	}
	told, err := c.told(s)
	if err != nil {
		return err
	}
	left := s.unseen(told)
	s.lost = length(s.unseen(nil)) - length(left)
	if s.compacted {
		return c.restCompacted(s, told, altered)
	}
	for _, r := range left {
		if err := c.walk(s, r.First, r.End, func(p *print) bool {
			if !c.altered(s, p, altered) {
				s.missing.add(p.offset)
			}
			return true
		}); err != nil {
			return err
		}
	}
	return nil
}

func length(list []Range) (n int64) {
	for _, r := range list {
		n += r.End - r.First
	}
	return n
}

// unseen is what was looked for and did not arrive, without what was told.
func (s *strand) unseen(told spans) []Range {
	list := []Range{{s.from, s.to}}
	for _, not := range []spans{s.skip, s.seen, told} {
		was := list
		list = nil
		for _, r := range was {
			list = append(list, not.without(r)...)
		}
	}
	return list
}

// altered says whether there is a foreign record with the stamp of one of ours, and all but one of its key, value and headers.
func (c *comparison) altered(s *strand, p *print, by map[int64][]int) bool {
	list := by[p.at]
	n := slices.IndexFunc(list, func(i int) bool { return c.others[i].near(p.content) })
	if n < 0 {
		return false
	}
	by[p.at] = slices.Delete(list, n, n+1)
	c.foreign--
	s.altered++
	s.different.add(p.offset)
	return true
}

// restCompacted is rest of a compacted topic: it goes through all of it, for a later record of the key.
func (c *comparison) restCompacted(s *strand, told spans, altered map[int64][]int) error {
	open := map[uint64]int64{} // by key, the last that did not arrive
	err := c.walk(s, s.from, s.high, func(p *print) bool {
		if _, is := open[p.key]; is {
			s.letGo++
			delete(open, p.key)
		}
		switch {
		case !s.wanted(p.offset) || s.seen.has(p.offset) || told.has(p.offset) || c.altered(s, p, altered):
		case p.key == null:
			s.missing.add(p.offset)
		case p.value == null:
			s.letGo++
		default:
			open[p.key] = p.offset
		}
		return len(open) <= piecesMax
	})
	if len(open) > piecesMax {
		err = errPieces
	}
	for _, offset := range open {
		s.missing.add(offset)
	}
	return err
}
