package server

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"millrace/broker/auth"
	"millrace/broker/poll"
	"millrace/broker/wire"
)

// keyProduce is the one API whose requests may be in flight together: it is answered by a commit, and company in a
// commit costs nothing.
const keyProduce = 0

// While others wait for the memory a peer holds, it has hurried for the next bytes of its frame, and less the more they
// are: a hundred peers that fall silent delay an honest one behind them all by 17 s at most.
const hurried, hurriedAll, hurriedLeast = time.Second, 4 * time.Second, 100 * time.Millisecond

// closing is how long a peer has to take an answer once the server closes.
const closing = 250 * time.Millisecond

// conn is one connection: a goroutine that reads (run), which is there while the peer is not silent, and one that writes
// while there is something to write and it cannot be written by the first.
type conn struct {
	server *Server
	net    *net.TCPConn
	raw    syscall.RawConn
	waiter *poll.Waiter // nil where there is no poller
	ready  bool         // the handshake, if any, is over
	tls    *tls.Conn    // nil where the listener has none
	taken  int64        // of Config.Connections
	in     input
	first  [1]byte // what a read of an idle TLS connection reads into

	listener *Listener
	session  *auth.Session // of the reader's goroutine
	// told is set when the peer was told why its connection ends. Guarded by mu once the handshake is over.
	told bool
	// by is when the peer must have shown who it is, while it has not.
	by    time.Time
	began time.Time // when the answer that is being written was begun
	// quiet is since when the next request is waited for, zero when it has begun to arrive.
	quiet time.Time
	// inBody is set while the peer holds body memory for a frame it has not finished.
	inBody atomic.Bool
	// inShake is set while the TLS handshake is under way.
	inShake atomic.Bool

	mu   sync.Mutex
	turn sync.Cond // signalled when the queue gets shorter
	// queue holds what was asked and not answered, oldest first. Invariant: len(queue) <= InFlight.
	queue []*slot
	// writing is set while a goroutine is in flush. serving is set while the reader is in Serve and will flush itself.
	writing, serving bool
	// broken is set when nothing more can be written.
	broken bool
}

// slot is the place of one answer. Guarded by conn.mu.
type slot struct {
	key    int16
	answer Answer
	ready  bool
	cancel func() bool
}

// errSilent is returned by next when the peer has been silent for Config.Silence.
var errSilent = errors.New("silent")

// run serves the connection until it ends, or the peer is silent: then it is called again when something comes.
func (c *conn) run() {
	for {
		err := c.serve()
		if err != errSilent {
			c.finish(err)
			return
		}
		if c.waiter.Wait(c.left()) {
			return // c is the next run's already
		}
	}
}

// serve reads requests and begins to answer them until the peer goes, is silent, misbehaves, or the server closes; the
// error says which.
func (c *conn) serve() error {
	if !c.ready {
		if err := c.secure(); err != nil {
			return err
		}
		c.ready = true
	}
	for {
		req, err := c.next()
		if err != nil {
			return err
		}
		if req != nil { // else it was served in pieces
			c.begin(req)
		}
	}
}

// finish ends the connection.
func (c *conn) finish(err error) {
	c.drain()
	c.in.drop()
	closing := c.close()
	if c.waiter != nil {
		c.waiter.Retire()
	}
	if room := c.server.config.Connections; room != nil {
		room.Release(c.taken)
	}
	if err == io.EOF || errors.Is(err, net.ErrClosed) || errors.Is(err, context.Canceled) {
		err = nil
	}
	if err = errors.Join(err, closing); err != nil {
		c.server.complain("connection ended", c.net.RemoteAddr(), err)
	}
	c.server.forget(c)
}

// begin serves a request whose turn it is.
func (c *conn) begin(req *Request) {
	s := &slot{key: req.Key}
	c.mu.Lock()
	c.queue = append(c.queue, s)
	c.serving = true
	c.mu.Unlock()

	cancel := c.server.config.Handler.Serve(req, func(a Answer) { c.reply(s, a) })
	req.Hold()() // unless the handler took it

	c.mu.Lock()
	s.cancel = cancel
	c.serving = false
	flush := c.mayWrite()
	c.mu.Unlock()
	if flush {
		c.flush()
	}
}

// await waits until a request for the API may be served. Its body is read only then, so that nobody holds memory for
// a request that waits behind another.
func (c *conn) await(key int16) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.broken && !c.admits(key) {
		c.turn.Wait()
	}
	if c.broken {
		return net.ErrClosed
	}
	return c.server.ctx.Err()
}

// admits says whether a request may be served beside those in flight.
func (c *conn) admits(key int16) bool {
	if len(c.queue) == 0 {
		return !c.writing
	}
	return key == keyProduce && c.queue[0].key == keyProduce && len(c.queue) < c.server.config.InFlight
}

// reply stores an answer and sees to it that someone writes it.
func (c *conn) reply(s *slot, a Answer) {
	c.mu.Lock()
	s.answer, s.ready = a, true
	flush := !c.serving && c.mayWrite()
	c.mu.Unlock()
	if flush {
		c.server.wg.Go(c.flush) // within run, which the group counts, so never after its end
	}
}

// mayWrite says whether the caller is to flush, and then nobody else is.
func (c *conn) mayWrite() bool {
	if c.writing || len(c.queue) == 0 || !c.queue[0].ready {
		return false
	}
	c.writing = true
	return true
}

// flush writes the answers that are ready, in order. The caller has set writing.
func (c *conn) flush() {
	c.mu.Lock()
	for len(c.queue) > 0 && c.queue[0].ready {
		s, broken := c.queue[0], c.broken
		c.mu.Unlock()
		if s.answer != nil && !broken {
			broken = !c.answer(s.answer)
			s.answer = nil
		}
		c.mu.Lock()
		if broken && !c.broken {
			c.broken = true
			c.interrupt()
		}
		// A fresh slice now and then, so that the front of the old one does not stay.
		if c.queue = c.queue[1:]; len(c.queue) == 0 {
			c.queue = nil
		}
		c.turn.Broadcast()
	}
	c.writing = false
	c.turn.Broadcast()
	c.mu.Unlock()
}

// answer builds and writes one response, and is false when the connection must end.
func (c *conn) answer(build Answer) bool {
	r := build()
	if r == nil {
		return true
	}
	defer r.Release()
	if err := c.write(r); err != nil {
		if !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, net.ErrClosed) {
			c.server.complain("answer not written", c.net.RemoteAddr(), err)
		}
		return false
	}
	if r.Close && r.Size() > 0 {
		c.mu.Lock()
		c.told = true
		c.mu.Unlock()
	}
	return !r.Close
}

// drain gives up what only waits, and waits for the rest to be answered and written.
func (c *conn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := 0; i < len(c.queue); i++ {
		s := c.queue[i]
		if s.ready || s.cancel == nil {
			continue
		}
		cancel := s.cancel
		s.cancel = nil
		c.mu.Unlock()
		stopped := cancel()
		c.mu.Lock()
		if stopped {
			s.ready = true
		}
		i = -1 // the queue may have moved
	}
	if c.mayWrite() {
		c.mu.Unlock()
		c.flush()
		c.mu.Lock()
	}
	for len(c.queue) > 0 || c.writing {
		c.turn.Wait()
	}
}

// hurry sets the time the peer has for the next bytes; 0 ends a read that waits.
func (c *conn) hurry(d time.Duration) {
	// The only error is that the connection is closed, which is what the deadline would lead to.
	_ = c.net.SetReadDeadline(c.server.config.Now().Add(d))
}

// interrupt ends the reader's wait, after it was said that nothing more is to be read.
func (c *conn) interrupt() {
	if c.hurry(0); c.waiter != nil {
		c.waiter.Wake()
	}
}

// patient is hurry for the reader itself. Who ends the connection says so first and then hurries, so one of the two
// sees the other. Whoever is to say who they are has no longer than that takes.
func (c *conn) patient(d time.Duration) {
	if !c.session.Known() {
		d = min(d, max(0, c.by.Sub(c.server.config.Now())))
	}
	if c.hurry(d); c.over() {
		c.hurry(0)
	}
}

// over says whether nothing more is to be read.
func (c *conn) over() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.broken || c.server.ctx.Err() != nil
}

// next reads one request; nil when it was large and is served already. Bodies of Produce and large ones are held in memory from the budget; every other request is
// decoded from the buffer it was read into and leaves nothing behind.
func (c *conn) next() (*Request, error) {
	size, key, err := c.in.begin(c)
	if err != nil {
		return nil, err
	}
	if c.session.Raw() {
		return c.token(size)
	}
	if err := c.stranger(key, size); err != nil {
		return nil, err
	}
	if err := c.await(key); err != nil {
		return nil, err
	}
	if key == keyProduce && size > c.server.wholeMax {
		return nil, c.split(size)
	}
	frame, free, err := c.in.frame(c, size)
	if err != nil {
		return nil, err
	}
	h, body, err := wire.Parse(frame)
	if err != nil {
		if free != nil {
			free()
		}
		return nil, err
	}
	if wire.PrefixSize+size <= smallMax && h.Key != keyProduce {
		// Nothing of the body aliases the frame. The memory of a larger one is counted until it is served all the same,
		// for what was decoded from it.
		free()
		free = nil
	}
	return &Request{
		Header: h, Body: body, Size: size, Context: c.server.ctx, free: free,
		Local: c.net.LocalAddr(), Remote: c.net.RemoteAddr(), Session: c.session,
	}, nil
}

// timedOut says whether err is a deadline that passed.
func timedOut(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
