package mqtt

import (
	"context"
	"errors"
	"os"
	"time"

	"millrace/bridge/mqtt/packet"
)

const (
	// largePacket is the size, in bytes, from which a packet's memory is taken from the Reading budget. Smaller ones
	// fit what every connection may have.
	largePacket = smallBuffer
	// stall is how long a peer may take for the next page of a large packet, hurried how long while others wait for the
	// memory it holds.
	stall   = 30 * time.Second
	hurried = time.Second
)

// large is what a connection holds of the Reading budget.
type large struct {
	c    *client
	held int64     // bytes
	page int       // bytes of the packet at which the peer has delivered its next page
	at   time.Time // when the last page was whole
	// until is when CONNECT must be there; zero: it is.
	until time.Time
	// moved says that the connection's read deadline is not what serve set it to.
	moved bool
}

var errStalled = &packet.Error{Reason: packet.QuotaExceeded, Why: "the rest of a large packet did not come in time"}

var errNoMemory = &packet.Error{Reason: packet.QuotaExceeded, Why: "no memory for a large packet came free in time"}

// acquire waits in line for n bytes, not for ever: most of those before it may be silent peers.
func (l *large) acquire(n int64) error {
	ctx, cancel := context.WithTimeout(l.c.ctx, l.by(l.c.s.cfg.Now().Add(stall)).Sub(l.c.s.cfg.Now()))
	defer cancel()
	err := l.c.s.cfg.Reading.Acquire(ctx, n)
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

// begin takes the memory of a packet of size bytes, of which have are there, waiting in line. Meanwhile those that hold
// such memory and do not send what it is for are hurried, so that nobody waits for a peer that has gone silent.
func (l *large) begin(size, have int) error {
	s := l.c.s
	held := min(int64(size), s.cfg.Reading.Size())
	if !s.cfg.Reading.TryAcquire(held) {
		s.waiting.Add(1)
		s.readingMu.Lock()
		for c := range s.reading {
			// An error means that the connection has ended, which is what the deadline would lead to.
			_ = c.conn.SetReadDeadline(s.cfg.Now().Add(hurried))
		}
		s.readingMu.Unlock()
		err := l.acquire(held)
		s.waiting.Add(-1)
		if err != nil {
			return err
		}
	}
	l.held, l.page, l.at = held, have+largePacket, s.cfg.Now()
	s.readingMu.Lock()
	s.reading[l.c] = struct{}{}
	s.readingMu.Unlock()
	return l.patient()
}

// patient sets the read deadline of the page that is arriving.
func (l *large) patient() error {
	l.moved = true
	err := l.c.conn.SetReadDeadline(l.by(l.at.Add(l.stall())))
	if err == nil && l.c.s.waiting.Load() > 0 { // whoever began to wait before we set the long deadline saw us in reading
		err = l.c.conn.SetReadDeadline(l.by(l.at.Add(min(l.stall(), hurried))))
	}
	return err
}

// read judges what one read gave: have bytes of the packet are there now. nil: go on.
func (l *large) read(have int, err error) error {
	now := l.c.s.cfg.Now()
	if have >= l.page {
		l.page, l.at = have+largePacket, now
		return l.patient()
	}
	if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	allowed := l.stall()
	if l.c.s.waiting.Load() > 0 {
		allowed = min(allowed, hurried)
	}
	if !now.Before(l.by(l.at.Add(allowed))) {
		return errStalled
	}
	return l.patient() // hurried for somebody who has been served since
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
	s.cfg.Reading.Release(l.held)
	l.held = 0
}
