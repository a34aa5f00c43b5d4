package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"millrace/broker/record"
)

const (
	// searchAtOnce is how many bytes are read upstream in one go at groups to find where records went, searchMost for one
	// stretch, and searchLeast what a look counts for at least.
	searchAtOnce = 1 << 20
	searchMost   = 4 << 20
	searchLeast  = 64 << 10
)

// search looks upstream for records that were sent and of which it is not known where they went, where a group needs it.
func (ln *lane) search(ctx context.Context) error {
	left := searchAtOnce
	ln.mu.Lock()
	parts := slices.DeleteFunc(slices.Clone(ln.table.all), func(p *part) bool {
		return !slices.ContainsFunc(p.marks, func(m *mark) bool { return p.unfollowed(m.id) == "" && m.asked && m.missing() })
	})
	ln.mu.Unlock()
	for _, p := range parts {
		if left <= 0 {
			return nil
		}
		if err := ln.searchPart(ctx, p, &left); err != nil {
			return err
		}
	}
	return nil
}

var (
	// errEnough ends a walk through records upstream when there are no more here to compare with.
	errEnough = errors.New("no more to compare with")
	// errNotSent says that a record upstream is not the one that was sent.
	errNotSent = errors.New("not the record that was sent")
)

// searchPart goes on looking in a partition. The records that this producer wrote after the last one whose place is known are
// those that the log has there, one by one: a transaction that was committed has all of its records, in their order.
func (ln *lane) searchPart(ctx context.Context, p *part, left *int) error {
	old := p.path.old
	work := *old // Status reads the other one
	found, err := ln.match(ctx, p, &work, left)
	ln.mu.Lock()
	defer ln.mu.Unlock()
	*old = work
	if !found {
		old.cost += searchLeast
	}
	if errors.Is(err, errNotSent) || old.cost >= searchMost {
		old.over, err = true, nil
	}
	for _, m := range p.marks {
		ln.translateLocked(m)
	}
	if old.trail.trim(ln.trailBytes()) && !old.whole() { // what groups wait for is at its end
		old.over = true
	}
	ln.filler.reset()
	return err
}

// match reads upstream and compares, at most as much as is left. found says that it came further.
func (ln *lane) match(ctx context.Context, p *part, old *stretch, left *int) (found bool, err error) {
	ln.mu.Lock()
	base := draft{part: p, lane: Live, log: p.log, id: p.id, to: p.to.name, mine: p.to.mine, have: p.to.have, end: old.end + 1}
	ln.mu.Unlock()
	switch {
	case base.log == nil:
		return false, nil
	case base.log.Compacted():
		return false, errNotSent // what was sent may be gone here
	}
	f, w := &ln.filler, p.path
	for !old.whole() {
		last, _ := old.last()
		f.reset()
		copied := base
		d := &copied
		d.cursor = Cursor{Next: last + 1, Last: -1}
		if err := f.fill(d, ln.size); err != nil {
			return found, fmt.Errorf("%s-%d: %w", p.topic, p.index, err)
		}
		if len(d.holes) > 0 || len(f.records) == 0 {
			return found, errNotSent
		}
		for i := 0; i < len(f.records); {
			if *left <= 0 {
				return found, nil
			}
			at, n, err := ln.session.Visible(ctx, base.to, p.index, old.from, min(*left, searchAtOnce), func(s Seen) error {
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
				found = true
				return nil
			})
			*left -= max(n, searchLeast)
			old.cost += n
			if err != nil && !errors.Is(err, errEnough) {
				return found, err
			}
			if at == old.from && err == nil {
				return found, nil // somebody's transaction is open there, or it was no transaction and is gone
			}
			old.from = at
		}
	}
	return found, nil
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
