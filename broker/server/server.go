// Package server is the Kafka door's listeners and connections: it reads frames, hands requests to a Handler, and
// writes the answers in the order of the requests. It knows nothing of what the requests mean.
//
// Everything is bounded: connections, the bytes of request bodies (taken from a budget before a body is read), the
// requests in flight on a connection (a connection that reaches the limit is not read from until one is answered:
// muted, not queued), the time a peer may be silent in the middle of a frame, and the time it may refuse to take
// bytes. A connection that is idle holds no buffer, and with a Poller no goroutine.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/budget"
	"millrace/broker/poll"
	"millrace/broker/wire"
)

// ErrNotLoopback is returned by Listen for an address that others can reach, while nobody is asked who they are.
var ErrNotLoopback = errors.New("only loopback addresses may be served without authentication")

// ErrClosed is returned by Listen after Close.
var ErrClosed = errors.New("server: closed")

// Handler answers requests. It is safe for concurrent use.
type Handler interface {
	// Serve begins to answer req. It calls reply exactly once, before it returns or at any time later and from any
	// goroutine, unless cancel said that it will not.
	//
	// Serve may block: the connection then waits. cancel may be nil. It is called at most once, when the peer has
	// gone, and reports whether it stopped the operation: if so reply will not be called any more.
	Serve(req *Request, reply func(Answer)) (cancel func() bool)
}

// Answer builds a response when the connection is about to write it, in the connection's goroutine, so that who
// replied is not held up and files are open no longer than it takes to send from them. nil sends nothing.
type Answer func() *wire.Response

// Request is one request. Header and addresses stay valid; Body's records alias the frame, see Hold.
type Request struct {
	wire.Header
	Body kmsg.Request
	// Size is the frame's, in bytes.
	Size int
	// Context ends when the server closes.
	Context context.Context
	// Local is the address the client connected to, Remote is the client's.
	Local, Remote net.Addr
	// Session is what the connection has shown of who it is. It may be used until Serve returns.
	Session *auth.Session

	free func() // gives the frame back; nil where Body does not alias it
}

// Hold makes the caller responsible for the bytes Body aliases: they stay valid, and counted, until release is
// called, once. Without Hold they end with Serve. It is called before Serve returns, at most once.
func (r *Request) Hold() (release func()) {
	free := r.free
	r.free = nil
	if free == nil {
		return func() {}
	}
	return free
}

// Config is what a Server needs and its limits. Zero limits stand for the defaults named.
type Config struct {
	Handler Handler
	// Bodies is where request bodies come from. No single batch may be larger than the share.
	Bodies *budget.Share
	// Copies is where response bytes come from that cannot be sent straight from a file.
	Copies *budget.Share
	// Connections is where the memory of connections comes from; one that gets none is closed at once. nil: only
	// MaxConnections bounds it.
	Connections *budget.Share
	// Poller is where connections wait without a goroutine that have been silent for Silence, default 200 ms. nil: each
	// keeps its own.
	Poller  *poll.Poller
	Silence time.Duration
	// RequestMax is `socket.request.max.bytes`: the largest frame, default 100 MiB. No more than 2 MiB of one is held at
	// once, or one batch: larger ones, which only Produce may have, are served partition by partition.
	RequestMax int
	// MaxConnections is `max.connections`; default 1000. One more is closed at once.
	MaxConnections int
	// InFlight is how many Produce requests of one connection may wait for their commit at once; default 8. Every
	// other request is served alone on its connection, as Apache Kafka serves all.
	InFlight int
	// Idle is `connections.max.idle.ms`; default 10 minutes.
	Idle time.Duration
	// Stall is how long a peer may neither deliver the next bytes of a frame it began nor take bytes of an answer;
	// default 30 s. While others wait for the memory a half-sent frame holds, it is a second.
	Stall time.Duration
	// Login is how long a peer has to say who it is, for its TLS handshake and again for its login; default 20 s. While
	// others wait for their handshake it is a second.
	Login time.Duration
	// Handshakes is how many TLS handshakes may be under way at once; default 16. Others wait.
	Handshakes int
	// AllowRemote permits listeners that ask nobody who they are on addresses that are not loopback.
	AllowRemote bool
	// Open opens a TCP listener, whose connections are *net.TCPConn. nil: net.Listen does.
	Open func(address string) (net.Listener, error)
	// Watch stands between a listener and its accept loop, to see that the loop goes on. nil: nobody watches.
	Watch func(net.Listener) net.Listener
	// Now tells the time for deadlines of the network; default time.Now.
	Now    func() time.Time
	Logger *slog.Logger
}

// Server owns listeners and connections. It is safe for concurrent use.
type Server struct {
	config Config
	ctx    context.Context
	stop   context.CancelFunc
	bodies *bodies
	log    *slog.Logger
	// wholeMax is the largest frame that is held whole, splits counts those on their way in pieces.
	wholeMax int
	splits   *budget.Share

	mu        sync.Mutex
	closed    bool
	listeners []net.Listener
	shaking   chan struct{}      // holds one for each handshake under way
	conns     map[*conn]struct{} // Invariant: at most config.MaxConnections.

	// until is when peers must have taken the answers that were begun before the server closed. Set before ctx ends.
	until time.Time

	// waiting counts connections that wait for body memory: while there are any, half-sent frames hurry. queueing counts
	// those that wait for a handshake.
	waiting, queueing atomic.Int32
	refused           atomic.Int64
	// complained is when complain last wrote a line, in seconds, and silent how many it did not write since.
	complained, silent atomic.Int64
	wg                 sync.WaitGroup // every connection and every other goroutine of the server
}

// New makes a server that listens nowhere yet. It panics on a Config without Handler, Bodies or Copies.
func New(c Config) *Server {
	if c.Handler == nil || c.Bodies == nil || c.Copies == nil {
		panic("server: config without handler or budgets")
	}
	if c.Open == nil {
		c.Open = func(address string) (net.Listener, error) { return net.Listen("tcp", address) }
	}
	if c.Watch == nil {
		c.Watch = func(l net.Listener) net.Listener { return l }
	}
	if c.RequestMax <= 0 {
		c.RequestMax = 100 << 20
	}
	if c.MaxConnections <= 0 {
		c.MaxConnections = 1000
	}
	if c.InFlight <= 0 {
		c.InFlight = 8
	}
	if c.Idle <= 0 {
		c.Idle = 10 * time.Minute
	}
	if c.Silence <= 0 {
		c.Silence = 200 * time.Millisecond
	}
	if c.Stall <= 0 {
		c.Stall = 30 * time.Second
	}
	if c.Login <= 0 {
		c.Login = 20 * time.Second
	}
	if c.Handshakes <= 0 {
		c.Handshakes = 16
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	splits, err := budget.New(splitsMax).Share("splits", splitsMax)
	if err != nil {
		panic(err) // a budget holds what it was made for
	}
	ctx, stop := context.WithCancel(context.Background())
	return &Server{
		config: c, ctx: ctx, stop: stop, log: c.Logger,
		wholeMax: int(min(wholeMax, c.Bodies.Size())), splits: splits,
		bodies: &bodies{share: c.Bodies}, shaking: make(chan struct{}, c.Handshakes),
		conns: make(map[*conn]struct{}),
	}
}

// Listen opens a listener and serves it until Close. It returns the address it got, or ErrNotLoopback.
func (s *Server) Listen(l Listener) (net.Addr, error) {
	if l.Protocol == "" {
		l.Protocol = auth.Plaintext
	}
	tcp, err := net.ResolveTCPAddr("tcp", l.Address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", l.Address, err)
	}
	if !s.config.AllowRemote && !l.asks() && !tcp.IP.IsLoopback() {
		return nil, fmt.Errorf("listen on %s: %w", l.Address, ErrNotLoopback)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	opened, err := s.config.Open(tcp.String())
	if err != nil {
		return nil, err
	}
	watched := s.config.Watch(opened)
	s.listeners = append(s.listeners, watched)
	s.wg.Go(func() { s.accept(watched, &l) })
	return opened.Addr(), nil
}

// Connections is the number of open connections.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Refused is the number of connections closed for being too many, since the start.
func (s *Server) Refused() int64 { return s.refused.Load() }

// Close stops listening, reads no further request, gives up those that only wait (their peers reconnect), answers the
// others, and returns when every goroutine of the server has ended. What Handler still needs to reply must be closed
// after it.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.wg.Wait()
		return nil
	}
	s.closed = true
	var err error
	for _, l := range s.listeners {
		err = errors.Join(err, l.Close())
	}
	s.until = s.config.Now().Add(min(closing, s.config.Stall))
	s.stop()
	for c := range s.conns {
		c.interrupt()
		// As with hurry: it fails only for a connection that is closed.
		_ = c.net.SetWriteDeadline(s.until)
	}
	s.mu.Unlock()
	s.wg.Wait()
	return err
}

// accept runs until the listener is closed.
func (s *Server) accept(l net.Listener, of *Listener) {
	pause := 5 * time.Millisecond
	for {
		nc, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			// Out of descriptors or memory: connections will end, and accepting goes on.
			s.log.Warn("accept failed", "listener", l.Addr(), "err", err)
			if pause = min(2*pause, time.Second); !s.pause(pause) {
				return
			}
			continue
		}
		pause = 5 * time.Millisecond
		c, err := s.open(nc.(*net.TCPConn), of) // of Open
		if err != nil {
			s.refused.Add(1)
			s.complain("connection refused", nc.RemoteAddr(), errors.Join(err, nc.Close()))
			continue
		}
		go c.run()
	}
}

// pause waits, and is false when the server closed meanwhile.
func (s *Server) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// open registers a connection, unless there are too many.
func (s *Server) open(nc *net.TCPConn, of *Listener) (*conn, error) {
	rc, err := nc.SyscallConn()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	if len(s.conns) >= s.config.MaxConnections {
		return nil, fmt.Errorf("max.connections is %d", s.config.MaxConnections)
	}
	if room := s.config.Connections; room != nil && !room.TryAcquire(connectionCost) {
		return nil, errNoRoom
	}
	c := &conn{server: s, taken: connectionCost, net: nc, raw: rc, listener: of, session: auth.NewSession(of.Protocol, auth.Anonymous, hostOf(nc.RemoteAddr()))}
	c.asked(s.config.Login)
	c.turn.L = &c.mu
	if s.config.Poller != nil {
		c.waiter = s.config.Poller.NewWaiter(rc, c.run)
	}
	s.conns[c] = struct{}{}
	s.wg.Add(1)
	return c, nil
}

// hostOf is a peer's address as ACLs name it.
func hostOf(a net.Addr) string {
	if tcp, ok := a.(*net.TCPAddr); ok {
		if ip, ok := netip.AddrFromSlice(tcp.IP); ok {
			return ip.Unmap().String()
		}
	}
	return ""
}

// complain logs what a peer did, one line a second at most: whoever sends garbage must not fill the log, which lies on
// the same flash as the data.
func (s *Server) complain(what string, peer net.Addr, err error) {
	now, last := s.config.Now().Unix(), s.complained.Load()
	if now == last || !s.complained.CompareAndSwap(last, now) {
		s.silent.Add(1)
		return
	}
	s.log.Info(what, "remote", peer, "err", err, "unlogged", s.silent.Swap(0))
}

// forget is the last a connection does.
func (s *Server) forget(c *conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	s.wg.Done()
}

// hurried is how long a peer has for the next bytes while so many wait for what it holds.
func (s *Server) hurried(waiting int32) time.Duration {
	return min(s.config.Stall, hurried, max(hurriedAll/time.Duration(waiting), hurriedLeast))
}

// reserve takes a body's memory, waiting in line.
func (s *Server) reserve(n int) error { return s.wait(s.config.Bodies, int64(n)) }

// wait takes n of a share, waiting in line. While it waits, peers that hold some for frames they do not finish are
// hurried.
func (s *Server) wait(share *budget.Share, n int64) error {
	if share.TryAcquire(n) {
		return nil
	}
	waiting := s.waiting.Add(1)
	defer s.waiting.Add(-1)
	s.mu.Lock()
	for c := range s.conns {
		if c.inBody.Load() {
			c.hurry(s.hurried(waiting))
		}
	}
	s.mu.Unlock()
	return share.Acquire(s.ctx, n)
}
