package mqtt

import (
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
	// moved says that the connection's read deadline is not what serve set it to.
	moved bool
}

var errStalled = &packet.Error{Reason: packet.QuotaExceeded, Why: "the rest of a large packet did not come in time"}

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
		err := s.cfg.Reading.Acquire(l.c.ctx, held)
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
	err := l.c.conn.SetReadDeadline(l.at.Add(stall))
	if err == nil && l.c.s.waiting.Load() > 0 { // whoever began to wait before we set the long deadline saw us in reading
		err = l.c.conn.SetReadDeadline(l.at.Add(hurried))
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
	allowed := stall
	if l.c.s.waiting.Load() > 0 {
		allowed = hurried
	}
	if !now.Before(l.at.Add(allowed)) {
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
