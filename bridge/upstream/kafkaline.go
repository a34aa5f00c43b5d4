package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// idleMost is how long a connection may carry nothing and still be used by a transaction. Routers on the way forget the first of them
// after four minutes, which only the next write would show: within a transaction, which it would end.
const idleMost = 3 * time.Minute

// lines are the connections of one session. The client waits for an answer to its first request on one even when it is
// closed: over a dead link that takes ten seconds, which nobody has who wants to stop.
type lines struct {
	cfg *KafkaConfig

	mu     sync.Mutex
	open   map[*line]struct{}
	closed bool
	// ended says that a connection has ended since shaken was asked, refuse is told of who wants a new one then: a Send is
	// under way.
	ended  bool
	refuse func(error)
}

// line is one connection.
type line struct {
	net.Conn
	lines *lines
	made  time.Time
	used  atomic.Int64 // how long after made it carried bytes last, in nanoseconds: no clock that is set moves it
}

// Read implements net.Conn.
func (l *line) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if n > 0 {
		l.use()
	}
	return n, err
}

// Write implements net.Conn.
func (l *line) Write(p []byte) (int, error) {
	l.use()
	return l.Conn.Write(p)
}

func (l *line) use() { l.used.Store(int64(time.Since(l.made))) }

// idle is for how long it has carried nothing.
func (l *line) idle() time.Duration { return time.Since(l.made) - time.Duration(l.used.Load()) }

// Close closes the connection. It has ended once, be it that the client finds out later.
func (l *line) Close() error {
	l.lines.mu.Lock()
	if _, open := l.lines.open[l]; open {
		delete(l.lines.open, l)
		l.lines.ended = true
	}
	l.lines.mu.Unlock()
	return l.Conn.Close()
}

// shaken says whether a connection has ended since it was asked last. Those that were idle for too long it ends itself: the client
// writes its next request to them in vain, not a byte of it, and at once makes a new one, which a Send may.
func (s *lines) shaken() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for l := range s.open {
		if l.idle() > idleMost {
			delete(s.open, l)
			_ = l.Conn.Close() // nothing is on its way
			s.ended = true
		}
	}
	ended := s.ended
	s.ended = false
	return ended
}

// hold has no connection be made in the place of one that has ended, until it is called with nil.
func (s *lines) hold(refuse func(error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = refuse
}

var (
	errClosed = errors.New("the session is closed")
	// errShaken ends a transaction: the client would send the rest of it to somebody who may have lost the end of the last one.
	errShaken = errors.New("a connection to the peer has ended")
)

// dial makes a connection, with TLS where the link has it.
func (s *lines) dial(ctx context.Context, network, address string) (net.Conn, error) {
	s.mu.Lock()
	refuse := s.refuse
	if !s.ended {
		refuse = nil
	}
	s.mu.Unlock()
	if refuse != nil {
		refuse(errShaken)
		return nil, errShaken
	}
	conn, err := s.cfg.Dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	l := &line{Conn: conn, lines: s, made: time.Now()}
	s.mu.Lock()
	closed := s.closed
	if !closed {
		s.open[l] = struct{}{}
	}
	s.mu.Unlock()
	if closed {
		return nil, errors.Join(errClosed, conn.Close())
	}
	if s.cfg.TLS == nil {
		return l, nil
	}
	cfg := s.cfg.TLS.Clone()
	if cfg.ServerName == "" {
		if cfg.ServerName, _, err = net.SplitHostPort(address); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	secure := tls.Client(l, cfg)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return secure, nil
}

// close closes all connections, and has no new ones made.
func (s *lines) close() {
	s.mu.Lock()
	open := s.open
	s.open, s.closed = map[*line]struct{}{}, true
	s.mu.Unlock()
	for l := range open {
		_ = l.Conn.Close() // nothing is written to it any more
	}
}
