package mqtt

import (
	"maps"
	"sync"
)

// reader is a cursor over the log: a session's, or that of a group of shared subscriptions. The tail reader and the scans
// move it; where what they find goes, its outlet knows.
type reader struct {
	s  *Server
	to outlet

	mu sync.Mutex
	// epoch counts attachments and their ends; work begun under an older one is void.
	epoch uint64
	// lag holds the next offset of every partition in which the reader is behind the tail reader. While it follows the log, a
	// partition without an entry is at the tail. While it rests every partition the filters reach has an entry; one without
	// is newer than that and is read from its start.
	lag     map[*stream]int64
	blocked bool // something was not sent because there was no room
	// away is what the cursor holds of the State budget while it rests; life guards it.
	away int64

	// hits and hitGen are the tail reader's: the subscriptions the message at hand matched.
	hits   []*subscription
	hitGen uint64
}

// outlet is what a reader has its messages sent by. All of it is called under the reader's mu.
type outlet interface {
	// open reports whether messages may be sent.
	open() bool
	// filters are the subscriptions whose messages it wants.
	filters() []*subscription
	// offer sends m of st when one of subs, which match it, wants it.
	offer(st *stream, m *message, subs []*subscription) outcome
}

// reader is the one that gets the subscription's messages.
func (sub *subscription) reader() *reader {
	if sub.session == nil {
		return &sub.group.reader
	}
	return &sub.session.reader
}

func filtersOf(subs []*subscription) []string {
	filters := make([]string, len(subs))
	for i, sub := range subs {
		filters[i] = sub.filter
	}
	return filters
}

// follow puts subs, all the reader has, to work. Under life.
func (r *reader) follow(subs []*subscription) {
	r.s.cfg.State.Release(r.away)
	r.away = 0
	r.mu.Lock()
	known := maps.Clone(r.lag)
	r.mu.Unlock()
	for _, sub := range subs {
		r.s.index.add(sub)
	}
	// A partition made while the reader rested is read from its start. That of one made from now on is offered to it.
	reached := r.s.streams.reached(filtersOf(subs)...)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, st := range reached {
		if _, ok := known[st]; !ok {
			r.fallBehind(st, st.part.Start())
		}
	}
}

// rest takes subs, all the reader has, from the index, and fixes its cursor when it is to be kept. The outlet is closed
// already, and the epoch a new one: no scan takes the reader out of lag, and nothing is sent past what is noted there.
// Under life.
func (r *reader) rest(subs []*subscription, keep bool) {
	if keep {
		// While the tail reader stands still at pos, a reader that is not behind has everything before it.
		for _, st := range r.s.streams.reached(filtersOf(subs)...) {
			st.mu.Lock()
			r.mu.Lock()
			if _, behind := r.lag[st]; !behind {
				r.fallBehind(st, st.pos)
			}
			r.mu.Unlock()
			st.mu.Unlock()
		}
	}
	for _, sub := range subs {
		r.s.index.remove(sub)
	}
	if keep {
		r.restCost()
	}
}

// restCost takes what a resting cursor costs. Under life.
func (r *reader) restCost() {
	r.mu.Lock()
	r.away = int64(len(r.lag)) * cursorCost
	r.mu.Unlock()
	r.s.cfg.State.Overdraw(r.away) // the log has it: it is kept whatever the limit says
}

// fallBehind notes that the reader has what lies before offset. Under r.mu.
func (r *reader) fallBehind(st *stream, offset int64) {
	if r.lag == nil {
		r.lag = make(map[*stream]int64, 1)
	}
	r.lag[st] = offset
}
