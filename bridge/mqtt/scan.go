package mqtt

import (
	"cmp"
	"errors"
	"slices"
	"sync"

	"millrace/broker/record"
	"millrace/broker/segment"
)

// wait enters a session that lags in st and may be sent to.
func (st *stream) wait(ss *session) {
	st.waitMu.Lock()
	if !slices.Contains(st.waiting, ss) {
		st.waiting = append(st.waiting, ss)
	}
	st.waitMu.Unlock()
	st.queue()
}

func (st *stream) queue() {
	st.waitMu.Lock()
	push := !st.queued && len(st.waiting) > 0
	if push {
		st.queued = true
	}
	st.waitMu.Unlock()
	if push {
		st.all.push(st)
	}
}

// scanner is one session in a scan.
type scanner struct {
	ss    *session
	epoch uint64
	next  int64
}

// owns reports whether c still is the one that moves the session's cursor: the session is connected as it was, has
// room, and no other scan took it further. Under ss.mu.
func (c *scanner) owns(st *stream) bool {
	next, behind := c.ss.lag[st]
	return behind && next == c.next && c.ss.epoch == c.epoch && c.ss.open() && !c.ss.blocked
}

// turn says for whom a scan reads. The two take turns, so that who is a little behind does not wait for who is far behind,
// and so that together they read at most twice what the furthest behind alone would.
type turn byte

const (
	far  turn = iota // from the furthest behind on, for all
	near             // for the one nearest to the tail, and those who are nearRecords behind it at most
)

// nearRecords is about what a turn reads.
const nearRecords = 1024

// choose takes those of the waiting sessions that this turn is for. When all are near each other every turn is a far one.
func (st *stream) choose(in []*scanner) (t turn, now, later []*scanner) {
	if len(in) == 0 {
		return far, in, nil
	}
	bound := slices.MaxFunc(in, compareScanners).next - nearRecords
	st.waitMu.Lock()
	defer st.waitMu.Unlock()
	if st.turn == near || slices.MinFunc(in, compareScanners).next >= bound {
		st.turn = far
		return far, in, nil
	}
	st.turn = near
	for _, c := range in {
		if c.next >= bound {
			now = append(now, c)
		} else {
			later = append(later, c)
		}
	}
	return near, now, later
}

func compareScanners(a, b *scanner) int { return cmp.Compare(a.next, b.next) }

// run is one turn of the stream's shared scan: from the furthest behind of the sessions chosen on, each gets what it
// wants from the offset it is at, until it has no room or is at the tail.
func (st *stream) run() {
	st.waitMu.Lock()
	waiting := st.waiting
	st.waiting, st.queued = nil, false
	st.waitMu.Unlock()
	var in []*scanner
	for _, ss := range waiting {
		ss.mu.Lock()
		next, behind := ss.lag[st]
		if behind && ss.open() && !ss.blocked {
			in = append(in, &scanner{ss, ss.epoch, next})
		}
		ss.mu.Unlock()
	}
	t, in, later := st.choose(in)
	held := st.takeChunk(t)
	for range turnReads {
		in = slices.DeleteFunc(in, func(c *scanner) bool { return !st.behind(c) })
		if len(in) == 0 {
			break
		}
		var ok bool
		if in, ok = st.scan(in, held); !ok {
			break
		}
	}
	held.used = true
	st.keepChunk(t, held)
	// Not through yet: the others in the queue first.
	for _, c := range append(in, later...) {
		c.ss.mu.Lock()
		again := c.owns(st)
		c.ss.mu.Unlock()
		if again {
			st.wait(c.ss)
		}
	}
}

// behind reports whether c still has records before the tail to read. One that has none is at the tail from here on.
func (st *stream) behind(c *scanner) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	c.ss.mu.Lock()
	defer c.ss.mu.Unlock()
	if !c.owns(st) {
		return false
	}
	if c.next < st.pos {
		return true
	}
	delete(c.ss.lag, st)
	return false
}

// scan reads once and hands out. ok is false when reading has to wait.
func (st *stream) scan(in []*scanner, held *chunk) ([]*scanner, bool) {
	from := slices.MinFunc(in, compareScanners).next
	// The tail as it was before the read: what is between from and it, and is not read now, never will be.
	st.mu.Lock()
	tail := st.pos
	st.mu.Unlock()
	next, passed := st.pass(in, held, from, tail)
	if passed {
		st.save(in, next)
		return in, true
	}
	from = next
	err := held.load(st.part, from)
	if err == nil {
		var m message
		next, err = held.each(from, func(r *record.Record) bool {
			if r.Offset >= tail {
				return false // the tail reader's
			}
			if m.read(st.all.s, st.topic, st.index, r) && m.live(st) {
				in = slices.DeleteFunc(in, func(c *scanner) bool { return !c.take(st, &m) })
			}
			return len(in) > 0
		})
		if len(held.buf) == 0 {
			next = tail // nothing readable before it
		}
	}
	if err != nil {
		moved := next
		if errors.Is(err, ErrGone) {
			st.all.drop(st)
			st.abandon(in)
			return nil, true
		}
		if !st.failed(err, &moved) {
			st.save(in, next)
			return nil, st.park(in)
		}
		next = moved
	}
	st.save(in, min(next, tail))
	return in, true
}

// wanteds has the memory of pass.
var wanteds = sync.Pool{New: func() any { return new(segment.Wanted) }}

// pass moves from over what nobody in the scan wants, up to the tail, as far as the log can tell without being read: what a
// session subscribes to from now on begins at the tail or behind it. all says that from there on nothing is to be read now.
func (st *stream) pass(in []*scanner, held *chunk, from, tail int64) (next int64, all bool) {
	if held.has(from) {
		return from, false
	}
	w := wanteds.Get().(*segment.Wanted)
	defer wanteds.Put(w)
	w.Reset()
	for _, c := range in {
		c.ss.mu.Lock()
		for _, sub := range c.ss.subs {
			w.Add(sub.filter)
		}
		c.ss.mu.Unlock()
	}
	if !w.Done() {
		return from, false
	}
	next, more := st.part.Skip(from, w)
	return min(next, tail), more || next >= tail
}

// abandon takes the stream of a deleted topic from the sessions in the scan.
func (st *stream) abandon(in []*scanner) {
	for _, c := range in {
		c.ss.mu.Lock()
		delete(c.ss.lag, st)
		c.ss.mu.Unlock()
	}
}

// park leaves the scanners waiting for the retry that failed has asked for.
func (st *stream) park(in []*scanner) bool {
	st.waitMu.Lock()
	defer st.waitMu.Unlock()
	for _, c := range in {
		if !slices.Contains(st.waiting, c.ss) {
			st.waiting = append(st.waiting, c.ss)
		}
	}
	return false
}

// take offers m to the scanner's session; false when the session drops out of the scan.
func (c *scanner) take(st *stream, m *message) bool {
	c.ss.mu.Lock()
	defer c.ss.mu.Unlock()
	if m.offset < c.next {
		return true
	}
	if !c.owns(st) {
		return false
	}
	var few [8]*subscription
	hits := few[:0]
	for _, sub := range c.ss.subs {
		if matches(sub.filter, m.topic) {
			hits = append(hits, sub)
		}
	}
	if len(hits) == 0 {
		return true
	}
	if c.ss.offer(st, m, hits) == blocked {
		c.ss.lag[st] = m.offset
		return false
	}
	c.next = m.offset + 1
	c.ss.lag[st] = c.next
	return true
}

// save moves the cursors of those still in the scan.
func (st *stream) save(in []*scanner, next int64) {
	for _, c := range in {
		c.ss.mu.Lock()
		if c.next < next && c.owns(st) {
			c.next = next
			c.ss.lag[st] = next
		}
		c.ss.mu.Unlock()
	}
}
