package contract

import (
	"net"
	"os"
	"sync"
	"time"
)

// Conn has a connection counted and limited by the Meter: see there. It is a net.Conn; closing it ends every wait.
func (m *Meter) Conn(raw net.Conn) net.Conn {
	c := &conn{Conn: raw, meter: m, closed: make(chan struct{})}
	c.read.init(raw.SetReadDeadline, c.closed)
	c.write.init(raw.SetWriteDeadline, c.closed)
	return c
}

type conn struct {
	net.Conn
	meter       *Meter
	read, write side
	once        sync.Once
	closed      chan struct{}
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (n int, err error) {
	m := c.meter
	c.write.turn.Lock()
	defer c.write.turn.Unlock()
	for {
		part := p[n:]
		if piece := m.piece(); piece > 0 && len(part) > piece {
			part = part[:piece]
		}
		if err := c.write.pause(m.bucket.take(len(part), time.Now())); err != nil {
			m.bucket.take(-len(part), time.Now())
			return n, err
		}
		if err := m.budget.take(len(part)); err != nil {
			return n, err
		}
		done, err := c.Conn.Write(part)
		m.sent.Add(int64(done))
		if n += done; err != nil || n == len(p) {
			return n, err
		}
	}
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (n int, err error) {
	m := c.meter
	if piece := m.piece(); piece > 0 && len(p) > piece {
		p = p[:piece]
	}
	if err := c.read.pause(m.bucket.take(0, time.Now())); err != nil {
		return 0, err
	}
	if err := m.budget.hold(len(p)); err != nil {
		return 0, err
	}
	n, err = c.Conn.Read(p)
	m.received.Add(int64(n))
	m.budget.settle(len(p), n)
	m.bucket.take(n, time.Now())
	return n, err
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error { return c.read.setDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error { return c.write.setDeadline(t) }

// side is one direction of a connection.
type side struct {
	turn   sync.Mutex // one Write at a time: pieces of two do not mix
	closed <-chan struct{}

	mu  sync.Mutex
	set func(time.Time) error // the raw connection's
	// deadline is what was set last, and later by what pause has held back since. Zero is none.
	deadline time.Time
	past     bool          // it was past already when it was set
	news     chan struct{} // closed and made anew when a deadline is set
}

func (s *side) init(set func(time.Time) error, closed <-chan struct{}) {
	s.set, s.closed, s.news = set, closed, make(chan struct{})
}

func (s *side) setDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline, s.past = t, !t.IsZero() && !t.After(time.Now())
	close(s.news)
	s.news = make(chan struct{})
	return s.set(t)
}

// pause waits, and moves the deadline by as long as it did. It ends early when the connection is closed, or with a deadline
// that is set to the past.
func (s *side) pause(d time.Duration) error {
	for d > 0 {
		s.mu.Lock()
		news, past := s.news, s.past
		s.mu.Unlock()
		if past {
			return os.ErrDeadlineExceeded
		}
		begin := time.Now()
		timer := time.NewTimer(d)
		select {
		case <-timer.C:
		case <-news:
		case <-s.closed:
			timer.Stop()
			return net.ErrClosed
		}
		timer.Stop()
		waited := time.Since(begin)
		d -= waited
		if err := s.later(news, waited); err != nil {
			return err
		}
	}
	return nil
}

// later moves the deadline, unless it was set anew since news was made: then it is as new as that.
func (s *side) later(news chan struct{}, by time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.news != news || s.deadline.IsZero() {
		return nil
	}
	s.deadline = s.deadline.Add(by)
	return s.set(s.deadline)
}
