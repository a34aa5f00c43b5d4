package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
)

// lines are the connections of one session. The client waits for an answer to its first request on one even when it is
// closed: over a dead link that takes ten seconds, which nobody has who wants to stop.
type lines struct {
	cfg *KafkaConfig

	mu     sync.Mutex
	open   map[*line]struct{}
	closed bool
}

// line is one connection.
type line struct {
	net.Conn
	lines *lines
}

// Close closes the connection.
func (l *line) Close() error {
	l.lines.mu.Lock()
	delete(l.lines.open, l)
	l.lines.mu.Unlock()
	return l.Conn.Close()
}

var errClosed = errors.New("the session is closed")

// dial makes a connection, with TLS where the link has it.
func (s *lines) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := s.cfg.Dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	l := &line{Conn: conn, lines: s}
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
