package rest

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"millrace/broker/budget"
)

// roomWait is how long a request waits for memory before it is told to come again.
const roomWait = 2 * time.Second

// While others wait for the memory a peer holds, it has hurried for its next bytes, and less the more they are.
const hurried, hurriedAll, hurriedLeast = time.Second, 4 * time.Second, 100 * time.Millisecond

// room is the memory of requests and answers.
type room struct {
	share *budget.Share
	// waiting counts requests that wait for memory: while there are any, peers that hold some hurry.
	waiting atomic.Int32

	mu      sync.Mutex
	holders map[*holder]struct{}
}

// holder is a peer that memory is held for while it sends its body or takes its answer.
type holder struct {
	room *room
	// until sets the time the peer has, and stall and last say how long that is at most.
	until func(time.Time) error
	stall time.Duration
	last  time.Time
}

func newRoom(share *budget.Share) *room {
	return &room{share: share, holders: make(map[*holder]struct{})}
}

// size is the most one request may take. When others have taken what is not this door's own, it is told to come again.
func (m *room) size() int64 { return m.share.Most() }

// grant is memory that was taken from a room.
type grant struct {
	room *room
	n    int64
}

// keep gives back all but n bytes.
func (g *grant) keep(n int64) {
	if back := g.n - n; back > 0 {
		g.room.share.Release(back)
		g.n = n
	}
}

// free gives back everything.
func (g *grant) free() { g.keep(0) }

// take waits a little for n bytes, at most all there are.
func (m *room) take(ctx context.Context, n int64) (*grant, error) {
	n = min(n, m.size())
	g := &grant{m, n}
	if m.share.TryAcquire(n) {
		return g, nil
	}
	m.waiting.Add(1)
	defer m.waiting.Add(-1)
	m.mu.Lock()
	for h := range m.holders {
		h.hurry()
	}
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, roomWait)
	defer cancel()
	if err := m.share.Acquire(ctx, n); err != nil {
		return nil, errBusy
	}
	return g, nil
}

// holds notes that memory is held for a peer that has stall for each piece. until sets its deadline.
func (m *room) holds(stall time.Duration, until func(time.Time) error) *holder {
	h := &holder{room: m, until: until, stall: stall, last: time.Now().Add(transferMax * stall)}
	m.mu.Lock()
	m.holders[h] = struct{}{}
	m.mu.Unlock()
	return h
}

// patient gives the peer time for its next piece. Whoever begins to wait says so first and then hurries, so one of the two
// sees the other.
func (h *holder) patient() error {
	err := h.until(earlier(time.Now().Add(h.stall), h.last))
	if h.room.waiting.Load() > 0 {
		h.hurry()
	}
	return err
}

// hurry gives the peer less.
func (h *holder) hurry() {
	d := min(h.stall, hurried, max(hurriedAll/time.Duration(max(h.room.waiting.Load(), 1)), hurriedLeast))
	// It fails only for a connection that is closed, and then there is nobody to hurry.
	_ = h.until(earlier(time.Now().Add(d), h.last))
}

// over says that nothing more is expected of the peer for the memory it has.
func (h *holder) over() {
	h.room.mu.Lock()
	delete(h.room.holders, h)
	h.room.mu.Unlock()
}
