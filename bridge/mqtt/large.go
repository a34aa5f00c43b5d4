package mqtt

import (
	"context"
	"errors"
	"os"
	"sync/atomic"
	"time"

	"millrace/bridge/mqtt/packet"
)

const (
	// largePacket is the size, in bytes, from which a packet's memory is taken from a budget: ReadingSmall, or Reading
	// when it is over smallPacket. Packets below fit what every connection may have. The two keep each other out: whoever
	// sends a few KiB does not wait for those that send megabytes.
	largePacket, smallPacket = 4 << 10, 64 << 10
	// stall is how long a peer may take for the next page of a large packet while nobody wants the memory it holds.
	stall = 30 * time.Second
	// While others wait, a page must come within hurried, and sooner the more there are: a peer that has gone silent
	// gives its memory back, the one that has been silent longest first, and a hundred of them delay an honest one by
	// 17 s when it comes last. And a packet must be whole in hurriedAll and the time leastRate gives it: pages that
	// trickle in are silence too.
	hurried, hurriedAll, hurriedLeast = time.Second, 4 * time.Second, 50 * time.Millisecond
	// leastRate is in bytes a second.
	leastRate = 64 << 10
)

// large is what a connection holds of the budgets for arriving packets.
type large struct {
	c     *client
	of    *arrivals
	held  int64     // bytes of it
	began time.Time // when they were granted
	page  int       // bytes of the packet at which the peer has delivered its next page
	at    time.Time // when the last page was whole
	// looked says that the peer's time is over and what it may have sent meanwhile was looked for once more.
	looked bool
	// until is when CONNECT must be there; zero: it is.
	until time.Time
	// moved says that the connection's read deadline is not what serve set it to.
	moved bool
}

// arrivals are packets of one kind that are not whole yet.
type arrivals struct {
	budget  Budget
	waiting atomic.Int32 // connections that wait for memory of it
}

// lastLook is how long the last look takes at most.
const lastLook = 5 * time.Millisecond

var errStalled = &packet.Error{Reason: packet.QuotaExceeded, Why: "the rest of a large packet did not come in time"}

var errNoMemory = &packet.Error{Reason: packet.QuotaExceeded, Why: "no memory for a large packet came free in time"}

// acquire waits in line for n bytes, not for ever: most of those before it may be silent peers.
func (l *large) acquire(n int64) error {
	ctx, cancel := context.WithTimeout(l.c.ctx, l.by(l.c.s.cfg.Now().Add(stall)).Sub(l.c.s.cfg.Now()))
	defer cancel()
	err := l.of.budget.Acquire(ctx, n)
	if err != nil && l.c.ctx.Err() == nil {
		return errNoMemory
	}
	return err
}

// stall is how long the peer may take for its next page. Its keep alive counts for a packet that does not arrive as for
// one that does not begin [MQTT-3.1.2-22].
func (l *large) stall() time.Duration {
	if l.c.keepAlive > 0 {
		return min(stall, l.c.keepAlive)
	}
	return stall
}

// by is a deadline, but not after that of CONNECT.
func (l *large) by(t time.Time) time.Time {
	if !l.until.IsZero() && l.until.Before(t) {
		return l.until
	}
	return t
}

// due is when the page that is arriving must be there, with so many others waiting for memory.
func (l *large) due(waiting int32) time.Time {
	t := l.at.Add(l.stall())
	if waiting == 0 {
		return l.by(t)
	}
	page := l.at.Add(min(l.stall(), hurried, max(hurriedAll/time.Duration(waiting), hurriedLeast)))
	if whole := l.began.Add(hurriedAll + time.Duration(l.held)*time.Second/leastRate); whole.Before(page) {
		page = whole
	}
	return l.by(page)
}

// greeted says that CONNECT is there: its deadline is over.
func (l *large) greeted() {
	l.c.s.readingMu.Lock()
	l.until = time.Time{}
	l.c.s.readingMu.Unlock()
}

// begin takes the memory of a packet of size bytes, of which have are there, waiting in line. Meanwhile those that hold
// such memory and do not send what it is for are hurried, so that nobody waits long for a peer that has gone silent.
func (l *large) begin(size, have int) error {
	s := l.c.s
	if l.of = &s.arriving[0]; size <= smallPacket {
		l.of = &s.arriving[1]
	}
	held := min(int64(size), l.of.budget.Size())
	if !l.of.budget.TryAcquire(held) {
		s.hurry(l.of, l.of.waiting.Add(1))
		err := l.acquire(held)
		l.of.waiting.Add(-1)
		if err != nil {
			return err
		}
	}
	now := s.cfg.Now()
	s.readingMu.Lock()
	l.held, l.page, l.began, l.at, l.looked = held, have+largePacket, now, now, false
	s.reading[l.c] = struct{}{}
	s.readingMu.Unlock()
	return l.patient()
}

// hurry moves the deadlines of those that hold memory to what they are now that so many wait for it.
func (s *Server) hurry(of *arrivals, waiting int32) {
	s.readingMu.Lock()
	defer s.readingMu.Unlock()
	for c := range s.reading {
		if c.in.of == of {
			// An error means that the connection has ended, which is what the deadline would lead to.
			_ = c.conn.SetReadDeadline(c.in.due(waiting))
		}
	}
}

// patient sets the read deadline of the page that is arriving.
func (l *large) patient() error {
	l.moved = true
	waiting := l.of.waiting.Load()
	err := l.c.conn.SetReadDeadline(l.due(waiting))
	if now := l.of.waiting.Load(); err == nil && now > waiting { // whoever began to wait before we set it saw us in reading
		err = l.c.conn.SetReadDeadline(l.due(now))
	}
	return err
}

// read judges what one read gave of a packet that is not whole: have bytes of it are there now. nil: go on.
func (l *large) read(have int, err error) error {
	s := l.c.s
	now, timedOut := s.cfg.Now(), errors.Is(err, os.ErrDeadlineExceeded)
	if err != nil && !timedOut {
		return err
	}
	next := have >= l.page
	if next {
		s.readingMu.Lock()
		l.page, l.at = have+largePacket, now
		s.readingMu.Unlock()
	}
	switch late := !now.Before(l.due(l.of.waiting.Load())); {
	case late && l.looked:
		return errStalled
	case late:
		// A read after its deadline gives nothing of what came in time and was not read because we were busy.
		l.looked = true
		return l.c.conn.SetReadDeadline(now.Add(lastLook))
	case next, timedOut: // hurried for somebody who has been served since
		l.looked = false
		return l.patient()
	}
	return nil
}

// end gives the memory back.
func (l *large) end() {
	if l.held == 0 {
		return
	}
	s := l.c.s
	s.readingMu.Lock()
	delete(s.reading, l.c)
	s.readingMu.Unlock()
	l.of.budget.Release(l.held)
	l.held = 0
}
