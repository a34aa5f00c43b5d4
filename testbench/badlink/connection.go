package badlink

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// connection is one of a client, with the one to the server that was made for it.
type connection struct {
	link   *Link
	ctx    context.Context // ends when it is over
	cancel context.CancelFunc
	// mute has what is read be swallowed, and nobody be told of an end. It is never taken back.
	mute atomic.Bool
	// lost says that a hole has swallowed something of it. It comes before mute.
	lost atomic.Bool

	mu   sync.Mutex
	over bool
	gone [2]bool // ends that were taken away
	// ends are the sockets, by the direction that leads to them: ends[Down] is the client's. ends[Up] is nil until the
	// server has taken it.
	ends [2]net.Conn
}

// serve carries bytes both ways until the connection is over.
func (c *connection) serve() {
	defer c.end()
	l := c.link
	if conditions, _ := l.now(c); conditions.Hole {
		c.carry(Up) // nobody is told that it comes, and so nothing comes back
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, dialMax)
	server, err := l.dial(ctx)
	cancel()
	if err != nil {
		c.abort(&l.stats.Refused)
		return
	}
	c.mu.Lock()
	c.ends[Up] = server
	over, gone := c.over, c.gone[Up]
	c.mu.Unlock()
	if over || gone {
		reset(server)
	}
	if over {
		return
	}
	var down sync.WaitGroup
	down.Go(func() { c.carry(Down) })
	c.carry(Up)
	down.Wait()
}

// chunk is what was read at once, or how reading ended.
type chunk struct {
	data []byte
	err  error
	at   time.Time
	late float64 // of the jitter: 0 to 1
}

// carry carries one direction to its end.
func (c *connection) carry(d Direction) {
	chunks := make(chan chunk, chunksMax)
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(chunks)
		c.read(c.ends[1-d], chunks)
	})
	for k := range chunks {
		if !c.deliver(d, k) {
			c.abort(&c.link.stats.Resets)
		}
	}
	reading.Wait()
}

// read hands on what comes, and at last why no more does.
func (c *connection) read(from net.Conn, chunks chan<- chunk) {
	buf := make([]byte, chunkMax)
	for {
		n, err := from.Read(buf)
		k := chunk{data: slices.Clone(buf[:n]), err: err, at: time.Now(), late: c.link.draw()}
		select {
		case chunks <- k:
		case <-c.ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

func (l *Link) draw() float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.random.Float64()
}

// deliver hands a chunk on when its time has come, as the conditions are then. It reports whether the connection goes on,
// if only in the other direction.
func (c *connection) deliver(d Direction, k chunk) bool {
	for data := k.data; len(data) > 0; {
		if !c.wait(k) {
			c.link.count(&c.link.stats.Swallowed, len(data))
			return true
		}
		n, wait, fired := c.link.take(d, len(data))
		if n == 0 {
			_, changed := c.link.now(c)
			c.sleep(wait, changed)
			continue
		}
		_, err := c.ends[d].Write(data[:n])
		for _, fire := range fired {
			fire()
		}
		data = data[n:]
		if err != nil && !c.mute.Load() {
			return false
		}
	}
	if k.err == nil || !c.wait(k) {
		return true
	}
	if half, ok := c.ends[d].(interface{ CloseWrite() error }); ok && errors.Is(k.err, io.EOF) {
		return half.CloseWrite() == nil
	}
	return false
}

// wait waits until a chunk may go. It reports whether it is to be handed on; if not it is swallowed.
func (c *connection) wait(k chunk) bool {
	for {
		conditions, changed := c.link.now(c)
		if c.mute.Load() || c.ctx.Err() != nil {
			return false
		}
		left := time.Until(k.at.Add(conditions.Latency + time.Duration(k.late*float64(conditions.Jitter))))
		switch {
		case conditions.Stall:
			c.sleep(-1, changed)
		case left > 0:
			c.sleep(left, changed)
		default:
			return true
		}
	}
}

// sleep waits for a time, which is for ever when it is negative, or until the conditions change or the connection is over.
func (c *connection) sleep(d time.Duration, changed <-chan struct{}) {
	var due <-chan time.Time
	if d >= 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-due:
	case <-changed:
	case <-c.ctx.Done():
	}
}

// takeAway resets one end, and the other is not told.
func (c *connection) takeAway(gone Direction) {
	c.mute.Store(true)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone[gone] = true
	if end := c.ends[gone]; end != nil && !c.over {
		reset(end)
	}
}

// abort resets both ends, and is counted where the connection was not over.
func (c *connection) abort(as *int64) {
	c.finish(reset, func() { c.link.count(as, 1) })
}

// end closes both ends and forgets the connection.
func (c *connection) end() {
	c.finish(func(end net.Conn) { _ = end.Close() }, func() {}) // both have said that they are through
	c.link.mu.Lock()
	delete(c.link.connects, c)
	c.link.mu.Unlock()
}

// finish ends the connection, once. It is counted before a peer can know.
func (c *connection) finish(closing func(net.Conn), counting func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return
	}
	c.over = true
	counting()
	c.cancel()
	for _, end := range c.ends {
		if end != nil {
			closing(end)
		}
	}
}

// reset closes a socket so that its peer is told of it by RST, and what was not sent yet is forgotten.
func reset(end net.Conn) {
	if tcp, ok := end.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // it is closed in any case
	}
	_ = end.Close()
}
