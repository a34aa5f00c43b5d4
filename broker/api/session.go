package api

import (
	"container/list"
	"math/rand/v2"
	"sync"

	"millrace/broker/catalog"
)

const (
	// sessionFull is the session epoch of a full fetch that begins a session, sessionNone of one without (KIP-227).
	sessionFull, sessionNone = 0, -1
	// sessionIdleMS is how long a session must not have been used before another may take its place. Apache Kafka's
	// min.incremental.fetch.session.eviction.ms.
	sessionIdleMS = 120_000
)

// want is what a reader wants of one partition, and what it was told last.
type want struct {
	name  string // empty where the request named the topic by id
	id    catalog.TopicID
	index int32

	offset    int64
	epoch     int32 // the leader epoch the reader believes in, -1 none
	lastEpoch int32 // of the last record it has, -1 unknown
	maxBytes  int32

	// high and start are what the reader was told, -1 nothing yet. Guarded by the session's lock.
	high, start int64
}

type wantKey struct {
	name  string
	id    catalog.TopicID
	index int32
}

// size is about what a want takes in a session and its index, in bytes. The name may be the want's own.
func (w *want) size() int64 { return 288 + int64(len(w.name)) }

func sizeOf(wants []*want) (n int64) {
	for _, w := range wants {
		n += w.size()
	}
	return n
}

func (w *want) key() wantKey { return wantKey{w.name, w.id, w.index} }

// session is one incremental fetch session: the partitions a reader wants, so that its requests and our answers name
// only what changed.
type session struct {
	id   int32
	byID bool // topics are named by id
	// place and used belong to sessions.mu.
	place *list.Element
	used  int64 // ms

	mu sync.Mutex
	// epoch is the one the next request must carry, from 1 on.
	epoch int32
	// wants are in the order they are served in: what gave records goes to the end, so that every partition gets its
	// turn when not all fit into an answer. Invariant: index has the same ones.
	wants []*want
	index map[wantKey]*want
}

// sessions is the bounded cache of fetch sessions. It is safe for concurrent use.
type sessions struct {
	slots int   // the most sessions
	room  int64 // the most bytes their partitions may take
	nowMS func() int64

	mu     sync.Mutex
	byID   map[int32]*session
	oldest list.List // of *session, the least recently used first. Invariant: the same ones as byID.
	// taken is what the partitions of all sessions take. Invariant: <= room.
	taken int64
}

func newSessions(slots int, room int64, nowMS func() int64) *sessions {
	return &sessions{slots: slots, room: room, nowMS: nowMS, byID: make(map[int32]*session)}
}

// begin makes a session of wants, or nil when there is no room: the reader then goes on with full fetches.
func (c *sessions) begin(wants []*want, byID bool) *session {
	size := sizeOf(wants)
	if len(wants) == 0 || size > c.room {
		return nil
	}
	s := &session{byID: byID, epoch: 1, wants: wants, index: make(map[wantKey]*want, len(wants)), used: c.nowMS()}
	for _, w := range wants {
		s.index[w.key()] = w
	}
	s.wants = wants
	if len(s.index) != len(wants) {
		return nil // the same partition twice: no client does that
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.byID) >= c.slots || c.taken+size > c.room {
		front := c.oldest.Front()
		if front == nil || s.used-front.Value.(*session).used < sessionIdleMS {
			return nil
		}
		c.drop(front.Value.(*session))
	}
	for s.id == 0 || c.byID[s.id] != nil {
		s.id = rand.Int32() // positive; hard to guess, so that nobody continues another's by accident
	}
	c.byID[s.id] = s
	s.place = c.oldest.PushBack(s)
	c.taken += size
	return s
}

// find returns a session and notes that it is used; nil when there is none.
func (c *sessions) find(id int32) *session {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.byID[id]
	if s != nil {
		s.used = c.nowMS()
		c.oldest.MoveToBack(s.place)
	}
	return s
}

// end forgets a session.
func (c *sessions) end(id int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.byID[id]; s != nil {
		c.drop(s)
	}
}

// drop takes a session out. Who still serves a request of it goes on with what it has.
func (c *sessions) drop(s *session) {
	s.mu.Lock()
	size := sizeOf(s.wants)
	s.wants, s.index = nil, nil
	s.mu.Unlock()
	c.taken -= size
	c.oldest.Remove(s.place)
	delete(c.byID, s.id)
}

// update is one incremental request: it checks the epoch, changes what is wanted, and returns a copy of the session's
// wants in their order. The code is an error of the whole request.
func (c *sessions) update(id, epoch int32, change []*want, forget []wantKey, byID bool) (*session, []*want, int16) {
	s := c.find(id)
	if s == nil {
		return nil, nil, codeSessionNotFound
	}
	c.mu.Lock() // before the session's, as in drop
	defer c.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.index == nil:
		return nil, nil, codeSessionNotFound
	case epoch != s.epoch:
		return nil, nil, codeInvalidSessionEpoch
	case byID != s.byID:
		return nil, nil, codeSessionTopicID
	}
	var fresh int64
	for _, w := range change {
		if s.index[w.key()] == nil {
			fresh += w.size()
		}
	}
	if c.taken+fresh > c.room {
		return nil, nil, codeSessionNotFound // the reader begins anew, and gets full fetches
	}
	before := sizeOf(s.wants)
	for _, w := range change {
		if old := s.index[w.key()]; old != nil {
			old.offset, old.epoch, old.lastEpoch, old.maxBytes = w.offset, w.epoch, w.lastEpoch, w.maxBytes
			continue
		}
		one := *w // a copy: w lies among all those of its request
		s.index[w.key()] = &one
		s.wants = append(s.wants, &one)
	}
	for _, k := range forget {
		delete(s.index, k)
	}
	kept := s.wants[:0]
	for _, w := range s.wants {
		if s.index[w.key()] == w {
			kept = append(kept, w)
		}
	}
	clear(s.wants[len(kept):])
	s.wants = kept
	c.taken += sizeOf(kept) - before
	if s.epoch++; s.epoch <= 0 {
		s.epoch = 1 // after 2^31-1 comes 1 (KIP-227)
	}
	copied := make([]*want, len(kept))
	for i, w := range kept {
		one := *w
		copied[i] = &one
	}
	return s, copied, codeNone
}

// changed notes what the reader is told of a partition now, and says whether it must be told: records, errors, or a
// watermark or start that moved (KIP-227).
func (s *session) changed(k wantKey, high, start int64, code int16, records bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.index[k]
	if w == nil {
		return true // forgotten meanwhile, by the eviction of the session: the answer is complete all the same
	}
	tell := records || code != codeNone || w.high != high || w.start != start
	w.high, w.start = high, start
	if code != codeNone {
		w.high = -1 // so that the reader is told when the error is over
	}
	return tell
}

// rotate puts the partitions that gave records behind the others.
func (s *session) rotate(gave map[wantKey]bool) {
	if len(gave) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	order := make([]*want, 0, len(s.wants))
	for _, w := range s.wants {
		if !gave[w.key()] {
			order = append(order, w)
		}
	}
	for _, w := range s.wants {
		if gave[w.key()] {
			order = append(order, w)
		}
	}
	s.wants = order
}
