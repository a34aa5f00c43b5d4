package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"millrace/broker/record"
)

const (
	// searchAtOnce is how many bytes are read upstream in one go at groups to find where records went, searchMost for one stretch,
	// both by what was asked for, or came, where that is more; searchLeast is what a look counts for that found nothing new.
	searchAtOnce = 1 << 20
	searchMost   = 4 << 20
	searchLeast  = 64 << 10
	// searchSpell is how long a search may go on before it makes room for records, searchPatience how long one portion may take,
	// and searchFails how often it may fail for one stretch.
	searchSpell    = 5 * time.Second
	searchPatience = 2 * fetchSlow
	searchFails    = 3
	// searchRests is how many times as long as a search has taken there is none.
	searchRests = 9
)

// seek is what a lane knows of searching. Portions begin small, and fit the link.
type seek struct {
	portion int
	began   time.Time
	left    int
	// again is when it may search again, strikes how often the peer failed in a row.
	again   time.Time
	strikes int
}

// search looks upstream for records that were sent and of which it is not known where they went, where a group needs it. What
// fails is of one partition, and holds up no other group.
func (ln *lane) search(ctx context.Context) {
	s := &ln.seek
	if s.began = time.Now(); s.began.Before(s.again) {
		return
	}
	s.left = searchAtOnce
	ln.mu.Lock()
	parts := slices.DeleteFunc(slices.Clone(ln.table.all), func(p *part) bool {
		return !slices.ContainsFunc(p.marks, func(m *mark) bool { return p.unfollowed(m.id) == "" && m.asked && m.missing() })
	})
	ln.mu.Unlock()
	for _, p := range parts {
		if ctx.Err() != nil || ln.halted() || s.left < fetchLeast || time.Since(s.began) >= searchSpell {
			break
		}
		if !ln.searchPart(ctx, p) { // another one would wait as long for nothing
			s.again = time.Now().Add(min(ln.cfg.GroupsInterval<<min(s.strikes, 10), groupRetryMost))
			s.strikes++
			return
		}
	}
	s.again = time.Now().Add(searchRests * time.Since(s.began))
}

var (
	// errEnough ends a walk through records upstream when there are no more here to compare with.
	errEnough = errors.New("no more to compare with")
	// errNotSent says that a record upstream is not the one that was sent.
	errNotSent = errors.New("not the record that was sent")
	// errPeer says that a portion did not come.
	errPeer = errors.New("read upstream")
)

// searchPart goes on looking in a partition, and says whether the peer can be asked more. The records that this producer wrote after
// the last one whose place is known are those that the log has there, one by one: a transaction that was committed has all of its
// records, in their order.
func (ln *lane) searchPart(ctx context.Context, p *part) (fine bool) {
	old := p.path.old
	work := *old // Status reads the other one
	err := ln.match(ctx, p, &work)
	ln.filler.reset()
	ln.mu.Lock()
	defer ln.mu.Unlock()
	*old = work
	var refused *RefusedError
	final := errors.Is(err, errNotSent) || errors.Is(err, ErrOutOfRange) || errors.As(err, &refused)
	switch {
	case final || searchMost-old.cost < fetchLeast:
		old.over = true
	case err != nil && ctx.Err() == nil:
		if old.fails++; old.fails >= searchFails {
			old.over = true
		}
	}
	if old.problem = ""; err != nil && !errors.Is(err, errNotSent) {
		old.problem = ": " + err.Error()
		ln.log.Warn("where records went is not found", "topic", p.topic, "partition", p.index, "given up", old.over, "error", err)
	}
	for _, m := range p.marks {
		ln.translateLocked(m)
	}
	if old.trail.trim(ln.trailBytes()) && !old.whole() { // what groups wait for is at its end
		old.over = true
	}
	return final || !errors.Is(err, errPeer)
}

// maySearch says how much of a class may be asked for now, 0 for nothing.
func (ln *lane) maySearch(class, cost int) (bytes int) {
	s := &ln.seek
	room := min(s.left, searchMost-cost)
	if room < fetchLeast || time.Since(s.began) >= searchSpell || ln.halted() {
		return 0
	}
	clear(ln.ready)
	ln.ready[class] = true
	got, quantum, _ := ln.env.Scheduler.Next(ln.env.Clock.Now(), Live, ln.ready)
	if got < 0 {
		return 0
	}
	s.portion = max(s.portion, fetchLeast)
	return min(s.portion, room, max(quantum, leastTransactionBytes))
}

// portion reads one portion upstream. Its errors are those of fn, ErrOutOfRange, a RefusedError and errPeer.
func (ln *lane) portion(ctx context.Context, d *draft, old *stretch, most int, fn func(Seen) error) (next int64, err error) {
	s, began := &ln.seek, time.Now()
	ctx, cancel := context.WithTimeout(ctx, searchPatience)
	defer cancel()
	var own error
	next, n, err := ln.session.Visible(ctx, d.to, d.part.index, old.from, most, func(r Seen) error {
		own = fn(r)
		return own
	})
	cost := max(n, most)
	if n == 0 && err == nil {
		cost = searchLeast
	}
	s.left -= cost
	old.cost += cost
	ln.env.Scheduler.Sent(ln.env.Clock.Now(), Live, d.part.class, n)
	if err != nil && own == nil {
		s.portion = fetchLeast
		return next, fmt.Errorf("%w: %w", errPeer, err)
	}
	s.strikes, s.portion = 0, fit(s.portion, n, time.Since(began))
	return next, err
}

// match reads upstream and compares, as far as it may now.
func (ln *lane) match(ctx context.Context, p *part, old *stretch) error {
	ln.mu.Lock()
	base := draft{part: p, lane: Live, log: p.log, id: p.id, to: p.to.name, mine: p.to.mine, have: p.to.have, end: old.end + 1}
	ln.mu.Unlock()
	switch {
	case base.log == nil:
		return nil
	case base.log.Compacted():
		return errNotSent // what was sent may be gone here
	}
	f, w := &ln.filler, p.path
	for !old.whole() {
		last, _ := old.last()
		f.reset()
		copied := base
		d := &copied
		d.cursor = Cursor{Next: last + 1, Last: -1}
		if err := f.fill(d, ln.size); err != nil {
			return fmt.Errorf("%s-%d: %w", p.topic, p.index, err)
		}
		if len(d.holes) > 0 || len(f.records) == 0 {
			return errNotSent
		}
		for i := 0; i < len(f.records); {
			most := ln.maySearch(p.class, old.cost)
			if most == 0 {
				return nil
			}
			at, err := ln.portion(ctx, d, old, most, func(s Seen) error {
				if s.Producer != old.producer {
					return nil
				}
				if i == len(f.records) {
					return errEnough
				}
				later := w.trail.some() && s.Offset >= w.trail.up // it is known what that is
				if later || !f.same(i, &s) || !old.add(f.from[i].local, s.Offset) {
					return errNotSent
				}
				i++
				return nil
			})
			if err != nil && !errors.Is(err, errEnough) {
				return err
			}
			if at == old.from && err == nil {
				return nil // somebody's transaction is open there, or it was no transaction and is gone
			}
			old.from = at
		}
	}
	return nil
}

// same says whether a record upstream is one that would be sent now. Stamps are compared where both are sure.
func (f *filler) same(i int, s *Seen) bool {
	r, from := &f.records[i], &f.from[i]
	n := from.headers
	if !equal(r.Key, s.Key) || !equal(r.Value, s.Value) || len(s.Headers) < n {
		return false
	}
	for j, h := range r.Headers[:n] {
		if h.Key != s.Headers[j].Key || !equal(h.Value, s.Headers[j].Value) {
			return false
		}
	}
	unsure := s.AppendTime || slices.ContainsFunc(r.Headers[n:], func(h record.Header) bool { return h.Key == HeaderClock })
	for _, h := range s.Headers[n:] { // provenance may have been switched on or off since
		want := ""
		switch h.Key {
		case HeaderClock:
			unsure = true
			continue
		case HeaderBoard:
			want = f.cfg.Board
		case HeaderTopic:
			want = from.part.topic
		case HeaderPartition:
			want = strconv.Itoa(int(from.part.index))
		case HeaderOffset:
			want = strconv.FormatInt(from.local, 10)
		default: // of a lane there were two: they do not send in one order
			return false
		}
		if string(h.Value) != want {
			return false
		}
	}
	return unsure || r.Timestamp == s.Timestamp
}

// equal says whether two fields are the same; nil is not empty.
func equal(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }
