package rest

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// headerMax bounds a request's line and headers, in bytes.
	headerMax = 16 << 10
	// idleTime is how long a connection may be silent between two requests.
	idleTime = time.Minute
	// farewell is how long requests that are being answered have when the door closes.
	farewell = 5 * time.Second
	// piece is how much of a body or an answer is on its way between two looks at the clock, in bytes.
	piece = 16 << 10
	// connectionCost is what a connection takes, in bytes: two goroutines and net/http's buffers; tlsCost is what TLS adds,
	// see broker/server.
	connectionCost, tlsCost = 16 << 10, 35 << 10
)

var (
	errClosed = errors.New("rest: closed")
	errNoRoom = errors.New("rest: too many connections")
)

func (s *Server) newHTTP() *http.Server {
	// HTTP/2 would let one connection have a hundred requests.
	var only http.Protocols
	only.SetHTTP1(true)
	return &http.Server{
		Handler: s.mux, Protocols: &only, MaxHeaderBytes: headerMax,
		ReadHeaderTimeout: s.config.Stall, ReadTimeout: s.config.Stall, WriteTimeout: transferMax * s.config.Stall, IdleTimeout: idleTime,
		ConnState: s.state,
		ErrorLog:  slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), // what peers do wrong
	}
}

// Serve serves a listener until Close. config is asked for each connection's TLS; nil: none.
func (s *Server) Serve(l net.Listener, config func() *tls.Config) error {
	if !s.work() {
		return errors.Join(errClosed, l.Close())
	}
	defer s.working.Done()
	l = &listener{Listener: l, server: s, tls: config != nil}
	if config != nil {
		l = tls.NewListener(l, &tls.Config{
			MinVersion:         tls.VersionTLS12,
			GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return config(), nil },
		})
	}
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// work counts one more that Close waits for, until working.Done; false after Close.
func (s *Server) work() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.working.Add(1)
	}
	return !s.closed
}

// Close stops listening, ends what only waits for records, lets the other requests be answered, and returns when nothing
// of the door runs any more.
func (s *Server) Close() error {
	s.mu.Lock()
	was := s.closed
	s.closed = true
	s.mu.Unlock()
	if was {
		s.working.Wait()
		return nil
	}
	close(s.closing)
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) { // a peer that does not take its answer
		err = s.http.Close()
	}
	s.working.Wait()
	return err
}

// listener counts connections.
type listener struct {
	net.Listener
	server *Server
	tls    bool
}

// Accept waits for a connection for which there is room. Where there is none, one that is silent between two requests
// makes it, else the new one is closed.
func (l *listener) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &conn{Conn: nc, server: l.server}
		if err := l.server.admit(c, l.tls); err == nil {
			return c, nil
		}
		l.server.refused.Add(1)
		if err := nc.Close(); err != nil {
			l.server.log.Debug("a connection that is refused", "err", err)
		}
	}
}

func (s *Server) admit(c *conn, secured bool) error {
	s.mu.Lock()
	full := s.open >= s.config.MaxConnections
	var silent *conn
	for o := range s.idle {
		silent = o
		break
	}
	s.mu.Unlock()
	if full {
		if silent == nil {
			return errNoRoom
		}
		if err := silent.Close(); err != nil {
			s.log.Debug("a silent connection makes room", "err", err)
		}
	}
	if room := s.config.Connections; room != nil {
		cost := int64(connectionCost)
		if secured {
			cost += tlsCost
		}
		if !room.TryAcquire(cost) {
			return errNoRoom
		}
		c.taken = cost
	}
	s.mu.Lock()
	s.open++
	s.mu.Unlock()
	return nil
}

// state keeps the set of connections that are silent between two requests.
func (s *Server) state(nc net.Conn, state http.ConnState) {
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	c, ok := nc.(*conn)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if state == http.StateIdle {
		s.idle[c] = struct{}{}
	} else {
		delete(s.idle, c)
	}
}

// conn is one connection, as it is counted.
type conn struct {
	net.Conn
	server *Server
	taken  int64 // of Config.Connections
	once   sync.Once
}

// Close gives back what the connection took, once.
func (c *conn) Close() error {
	c.once.Do(func() {
		s := c.server
		s.mu.Lock()
		s.open--
		delete(s.idle, c)
		s.mu.Unlock()
		if c.taken > 0 {
			s.config.Connections.Release(c.taken)
		}
	})
	return c.Conn.Close()
}

// arriving reads a body from a peer that must get on with it.
type arriving struct {
	io.Reader
	*holder
}

func (a arriving) Read(b []byte) (int, error) {
	if err := a.patient(); err != nil {
		return 0, err
	}
	return a.Reader.Read(b)
}

// unhurried lets a peer whose request is here be silent until it is answered. Without it net/http would take the silence
// for its end.
func (s *Server) unhurried(w http.ResponseWriter) error {
	return http.NewResponseController(w).SetReadDeadline(time.Time{})
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// send sends an answer.
func (s *Server) send(w http.ResponseWriter, status int, body []byte) {
	last := time.Now().Add(transferMax * s.config.Stall)
	s.pieces(w, status, body, func() error {
		return http.NewResponseController(w).SetWriteDeadline(earlier(time.Now().Add(s.config.Stall), last))
	})
}

// pieces sends an answer a piece at a time, to a peer that must get on with it: patient is called before each.
func (s *Server) pieces(w http.ResponseWriter, status int, body []byte, patient func() error) {
	h := w.Header()
	h.Set("Content-Length", itoa(int64(len(body))))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	for begun := false; len(body) > 0 || !begun; begun = true {
		err := patient()
		if !begun {
			w.WriteHeader(status)
		}
		n := min(len(body), piece)
		if err == nil {
			_, err = w.Write(body[:n])
		}
		if err != nil { // the peer has gone, or took too long
			s.log.Debug("answer not written", "err", err)
			return
		}
		body = body[n:]
	}
}
