package server

import (
	"fmt"
	"sync"

	"millrace/broker/wire"
)

const (
	// wholeMax is the largest frame that is held in memory, in bytes. A larger one, which only a Produce may be, is read
	// and served partition by partition: clients gather what they have for all partitions of a broker into one request,
	// up to Kafka's `socket.request.max.bytes` of 100 MiB.
	wholeMax = 2 << 20
	// splitsMax is how many such requests may be on their way at once, over all connections.
	splitsMax = 4
)

// pieces are the answers to the pieces of one request, in their order.
type pieces struct {
	mu      sync.Mutex
	changed sync.Cond
	open    []*piece // begun and not built
	built   []*wire.Response
}

type piece struct {
	answer Answer
	ready  bool
}

func (p *pieces) begin() (reply func(Answer)) {
	one := new(piece)
	p.open = append(p.open, one)
	return func(a Answer) {
		p.mu.Lock()
		one.answer, one.ready = a, true
		p.changed.Broadcast()
		p.mu.Unlock()
	}
}

// settle waits for answers until at most n pieces are open. An answer is built as soon as it can be, so that nothing of
// its request is kept.
func (p *pieces) settle(n int) {
	for ; len(p.open) > n; p.open = p.open[1:] {
		one := p.open[0]
		p.mu.Lock()
		for !one.ready {
			p.changed.Wait()
		}
		p.mu.Unlock()
		if r := one.answer(); r != nil { // acks 0 is answered by nothing
			p.built = append(p.built, r)
		}
	}
}

// split serves a Produce request of size bytes, whose prefix and first bytes are in the buffer, in pieces. Its turn has
// come.
func (c *conn) split(size int) error {
	if err := c.server.wait(c.server.splits, 1); err != nil {
		return err
	}
	defer c.server.splits.Release(1)
	c.inBody.Store(true)
	defer c.inBody.Store(false)

	s := &slot{key: keyProduce}
	c.mu.Lock()
	c.queue = append(c.queue, s)
	c.mu.Unlock()
	answers := &pieces{}
	answers.changed.L = &answers.mu
	merged, err := c.servePieces(size, answers)
	answers.settle(0)
	if err != nil {
		for _, r := range answers.built {
			r.Release()
		}
		c.reply(s, nil)
		return err
	}
	c.reply(s, merged(answers))
	return nil
}

// servePieces reads the request and begins to serve all of it. merged makes the answer once all pieces are answered.
func (c *conn) servePieces(size int, answers *pieces) (merged func(*pieces) Answer, err error) {
	c.in.used(wire.PrefixSize)
	var last int
	take := func(n int) ([]byte, error) {
		c.in.used(last)
		last = 0
		c.patientBody()
		if err := c.in.need(c, n); err != nil {
			return nil, c.in.half(err)
		}
		last = n
		return c.in.buffer[c.in.start : c.in.start+n], nil
	}
	all, err := wire.ReadPieces(size, take)
	if err != nil {
		return nil, err
	}
	for {
		n, err := all.Next()
		if err != nil {
			return nil, err
		}
		c.in.used(last)
		last = 0
		if n < 0 {
			break
		}
		if int64(n) > c.server.config.Bodies.Size() {
			return nil, fmt.Errorf("a batch of %d bytes, the limit that follows from memory.limit is %d: %w", n, c.server.config.Bodies.Size(), wire.ErrFrameTooLarge)
		}
		answers.settle(c.server.config.InFlight - 1)
		if err := c.servePiece(all, n, answers); err != nil {
			return nil, err
		}
	}
	return func(p *pieces) Answer {
		return func() *wire.Response {
			if len(p.built) == 0 {
				return nil
			}
			r, err := all.Merge(p.built)
			if err != nil {
				c.server.complain("answer not built", c.net.RemoteAddr(), err)
				return &wire.Response{Close: true}
			}
			return r
		}
	}, nil
}

// servePiece reads the n bytes of one partition and begins to serve them.
func (c *conn) servePiece(all *wire.Pieces, n int, answers *pieces) error {
	bodies := c.server.bodies
	if err := c.server.reserve(bodies.cost(n)); err != nil {
		return err
	}
	records := bodies.get(n)
	got := min(n, c.in.len())
	if got > 0 {
		copy(records, c.in.buffer[c.in.start:c.in.start+got])
		c.in.used(got)
	}
	if err := c.fillBody(records, got); err != nil {
		bodies.put(records)
		return c.in.half(err)
	}
	c.inBody.Store(true)
	req := &Request{
		Header: all.Header, Body: all.Piece(records), Size: n, Context: c.server.ctx, free: func() { bodies.put(records) },
		Local: c.net.LocalAddr(), Remote: c.net.RemoteAddr(),
	}
	c.server.config.Handler.Serve(req, answers.begin())
	req.Hold()()
	return nil
}

// patientBody is patient for bytes of a request that holds what others may wait for.
func (c *conn) patientBody() {
	c.patient(c.server.config.Stall)
	if n := c.server.waiting.Load(); n > 0 { // whoever began to wait before we set the long deadline saw us inBody
		c.patient(c.server.hurried(n))
	}
}
