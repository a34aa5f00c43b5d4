package mqtt

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"millrace/bridge/mqtt/packet"
)

// Listener is where connections come from, and what is asked of them.
type Listener struct {
	net.Listener // closed by Serve
	// TLS is the configuration for the next connection; nil: no TLS.
	TLS func() *tls.Config
	// WebSocket speaks MQTT in WebSocket frames, at the path /mqtt. Origins are the hosts, or "scheme://host", whose pages
	// may connect beside those that come from the address itself; path.Match patterns, "*" any.
	WebSocket bool
	Origins   []string
	// Anonymous lets in who shows neither a password nor a certificate.
	Anonymous bool
	// MaxConnections is how many may be open at once, 0: as many as the Config says.
	MaxConnections int
	// Rate is how many are accepted in a second, after as many at once; 0: as they come. Others wait in the kernel's queue.
	Rate int
	// Limits are those of each client that comes by this listener; Serve fills in what is 0.
	Limits Limits

	open int // under Server.mu
}

// cost is what a connection takes of the Connections budget, in bytes.
func (l *Listener) cost() int64 {
	n := int64(connectionCost)
	if l.TLS != nil {
		n += tlsCost
	}
	if l.WebSocket {
		n += webSocketCost
	}
	return n
}

// What a connection takes beside its session, in bytes: an idle one, which has no goroutine, takes half of connectionCost
// (BenchmarkIdleClient), one that publishes, with a stack and a window, takes the room of several that are idle; what TLS
// adds, where crypto/tls keeps the buffer of the largest record it has read; what WebSocket adds, a second goroutine and
// small buffers. TestWhatConnectionsTake measures the last two.
const (
	connectionCost = 5 << 10
	tlsCost        = 35 << 10
	webSocketCost  = 6 << 10
)

// ErrClosed is returned by Serve after Close.
var ErrClosed = errors.New("mqtt: server closed")

// Serve serves connections until Close, which it reports as ErrClosed, or until the listener is closed. It closes l.
// Its connections are streams that lose nothing and keep the order [MQTT-4.2.0-1].
// A listener of another kind than *Listener is one without TLS that does as Config.AllowAnonymous says. Limits that are none
// are an error before any connection.
func (s *Server) Serve(l net.Listener) error {
	of, ok := l.(*Listener)
	if !ok {
		of = &Listener{Listener: l, Anonymous: s.cfg.AllowAnonymous}
	}
	if err := of.Limits.fill(s.cfg.Limits); err != nil {
		return errors.Join(err, l.Close())
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errors.Join(ErrClosed, l.Close())
	}
	s.listeners[of.Listener] = struct{}{}
	s.wg.Add(1)
	s.mu.Unlock()
	defer s.wg.Done()
	err := s.accept(of)
	s.mu.Lock()
	delete(s.listeners, of.Listener)
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return ErrClosed
	}
	if err = fmt.Errorf("mqtt: accept: %w", err); errors.Is(err, net.ErrClosed) {
		return err
	}
	return errors.Join(err, l.Close())
}

// accept runs until the listener is closed.
func (s *Server) accept(l *Listener) error {
	const least, most = 5 * time.Millisecond, time.Second
	pause := least
	turns := turnstile{rate: l.Rate, left: l.Rate, last: s.cfg.Now()}
	for {
		for wait := turns.pass(s.cfg.Now()); wait > 0; wait = turns.pass(s.cfg.Now()) {
			if !s.pause(wait) {
				return ErrClosed
			}
		}
		conn, err := l.Accept()
		switch {
		case err == nil:
			pause = least
			s.serveConn(conn, l)
			continue
		case errors.Is(err, net.ErrClosed):
			return err
		}
		// Out of descriptors or memory: connections will end, and accepting goes on.
		s.complain("mqtt: accept failed", "listener", l.Addr(), "error", err)
		if pause = min(2*pause, most); !s.pause(pause) {
			return err
		}
	}
}

// turnstile lets so many through in a second, after as many at once.
type turnstile struct {
	rate, left int       // Invariant: left <= rate
	last       time.Time // up to when left was filled up
}

// pass takes one turn, or says how long to wait before asking again.
func (t *turnstile) pass(now time.Time) (wait time.Duration) {
	if t.rate <= 0 {
		return 0
	}
	each := time.Second / time.Duration(t.rate)
	switch n := now.Sub(t.last) / each; {
	case n < 0: // the clock was set back
		t.last = now
	case n >= time.Duration(t.rate-t.left):
		t.left, t.last = t.rate, now
	default:
		t.left, t.last = t.left+int(n), t.last.Add(n*each)
	}
	if t.left == 0 {
		return max(each-now.Sub(t.last), time.Millisecond)
	}
	t.left--
	return 0
}

// pause waits, and is false when the server closed meanwhile.
func (s *Server) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.closing:
		return false
	}
}

// ServeConn serves one connection in its own goroutine. Over the limits of connections it is closed at once.
func (s *Server) ServeConn(conn net.Conn) {
	s.serveConn(conn, &Listener{Anonymous: s.cfg.AllowAnonymous, Limits: s.cfg.Limits})
}

func (s *Server) serveConn(conn net.Conn, l *Listener) {
	err := s.open(conn, l)
	if err == nil {
		return
	}
	closing := conn.Close()
	if errors.Is(err, ErrClosed) && closing == nil { // a stop refuses nobody in particular
		return
	}
	s.complain("mqtt: connection refused", "remote", conn.RemoteAddr(), "error", errors.Join(err, closing))
}

func (s *Server) open(conn net.Conn, l *Listener) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	cost := l.cost()
	switch {
	case s.closed:
		return ErrClosed
	case len(s.clients) >= s.cfg.MaxConnections:
		return fmt.Errorf("max_connections in [mqtt] is %d", s.cfg.MaxConnections)
	case l.MaxConnections > 0 && l.open >= l.MaxConnections:
		return fmt.Errorf("max_connections of the listener is %d", l.MaxConnections)
	case !s.cfg.Connections.TryAcquire(cost):
		return errors.New("memory.limit has no room for another connection")
	}
	c := newClient(s, conn, l)
	s.clients[c] = struct{}{}
	l.open++
	s.wg.Add(1)
	go c.run()
	return nil
}

// gone is the last a connection does.
func (s *Server) gone(c *client) {
	s.mu.Lock()
	delete(s.clients, c)
	c.listener.open--
	s.mu.Unlock()
	s.cfg.Connections.Release(c.listener.cost())
	s.wg.Done()
}

// Connections is the number of open connections.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.clients)
}

// Close ends all listeners and connections (MQTT 5 clients are told 0x8B), writes the cursors of durable sessions and
// waits for all of it. Wills are not sent: the next start does that, for clients that are not back in time.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.wg.Wait()
		return nil
	}
	s.closed = true
	close(s.closing)
	var errs []error
	for l := range s.listeners {
		errs = append(errs, l.Close())
	}
	for c := range s.clients {
		c.end(packet.ServerShuttingDown, "the server is shutting down")
		c.out.hurry(s.cfg.Now().Add(closeTime))
	}
	s.mu.Unlock()
	s.deadlines.close()
	s.streams.close()
	s.store.tables.close()
	s.wg.Wait()
	s.store.putGroups(s.turned()) // after the last of their members has left
	s.wg.Wait()
	s.cancel()
	return errors.Join(errs...)
}

// stopping reports whether Close was called.
func (s *Server) stopping() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

// hostOf is a peer's address as entries name it, empty for a Unix socket.
func hostOf(a net.Addr) string {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap().WithZone("").String()
	}
	return ""
}
