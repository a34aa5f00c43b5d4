package mqtt

import (
	"errors"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"millrace/bridge/mqtt/packet"
)

// ahead is how a client is heard while a packet of its own waits for the disk: its goroutine reads on, a little, and answers
// the PINGREQs it finds, which have no order against other packets. All else waits its turn.
type ahead struct {
	mu      sync.Mutex    // after every other lock, that of a budget too
	nudged  chan struct{} // holds one; nil until the first wait
	waits   bool          // between begin and end
	reading bool          // a read is under way, which nudge ends

	// What follows is the goroutine's that reads.
	from *[]byte // of buffers; nil: nothing was read ahead
	next int     // (*from)[next:] has not been given to input
	deaf bool    // the connection failed: what reads in turn will say how
}

const (
	// aheadAfter is how long a packet waits before the connection is read on.
	aheadAfter = 200 * time.Millisecond
	// aheadMax is how many bytes are read ahead, behind what one read brought with the packet that waits.
	aheadMax = smallBuffer
)

// past is a deadline that ends a read at once.
var past = time.Unix(1, 0)

// begin comes before the first look at what is waited for: from then on nudge is not lost.
func (a *ahead) begin() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.nudged == nil {
		a.nudged = make(chan struct{}, 1)
	}
	a.waits = true
}

func (a *ahead) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waits = false
	select {
	case <-a.nudged:
	default:
	}
}

// nudge says that what the client waits for may be there, or that its connection has ended. Safe from any goroutine; it
// does not block.
func (c *client) nudge() {
	a := &c.in.ahead
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.waits {
		return
	}
	select {
	case a.nudged <- struct{}{}:
	default:
	}
	if a.reading {
		_ = c.conn.SetReadDeadline(past) // an error means that the connection is closed, which ends the read as well
	}
}

// pause returns after a nudge, at until (zero: never), or for no reason. It is called between begin and end.
func (c *client) pause(until time.Time) {
	if c.sleep(aheadAfter, until) {
		return
	}
	for now := c.s.cfg.Now(); until.IsZero() || now.Before(until); now = c.s.cfg.Now() {
		c.answerPings()
		if !c.in.hasAhead() || c.out.clogged() {
			if c.sleep(time.Second, until) {
				return
			}
			continue
		}
		if nudged := c.readAhead(until); nudged {
			return
		}
	}
}

// sleep waits for a nudge, d or until. It reports whether it was nudged.
func (c *client) sleep(d time.Duration, until time.Time) (nudged bool) {
	if !until.IsZero() {
		d = min(d, until.Sub(c.s.cfg.Now()))
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-c.in.ahead.nudged:
		return true
	case <-t.C:
		return false
	}
}

// hasAhead reports whether more may be read ahead.
func (in *input) hasAhead() bool {
	return !in.ahead.deaf && (in.ahead.from == nil || len(*in.ahead.from) < aheadMax)
}

// readAhead reads what comes before a nudge, and before until.
func (c *client) readAhead(until time.Time) (nudged bool) {
	a := &c.in.ahead
	if a.from == nil {
		a.from, a.next = buffers.Get().(*[]byte), 0
		*a.from = (*a.from)[:0]
	}
	a.mu.Lock()
	if a.reading = len(a.nudged) == 0; !a.reading {
		a.mu.Unlock()
		return true
	}
	err := c.conn.SetReadDeadline(until)
	a.mu.Unlock()
	n := 0
	if err == nil {
		n, err = c.conn.Read((*a.from)[len(*a.from):aheadMax])
		*a.from = (*a.from)[:len(*a.from)+n]
	}
	a.mu.Lock()
	a.reading = false
	a.mu.Unlock()
	c.due = time.Time{} // serve sets its own anew
	if reset := c.conn.SetReadDeadline(c.due); reset != nil || err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		a.deaf = true
	}
	return false
}

// given moves what was read ahead to dst, and reports how much.
func (a *ahead) given(dst []byte) int {
	if a.from == nil {
		return 0
	}
	n := copy(dst, (*a.from)[a.next:])
	if a.next += n; a.next == len(*a.from) {
		a.release()
	}
	return n
}

// release gives the buffer back.
func (a *ahead) release() {
	if a.from != nil {
		buffers.Put(a.from)
		a.from, a.next = nil, 0
	}
}

// answerPings answers the PINGREQs behind the packet that waits [MQTT-3.12.4-1], as far as packets are there whole, and
// takes them out. Behind a DISCONNECT nothing is answered.
func (c *client) answerPings() {
	in := &c.in
	var head [5]byte
	for at := 0; ; {
		size, err := packet.Frame(head[:in.peek(head[:], at)])
		kind := packet.Type(head[0] >> 4)
		if size == 0 || err != nil || size > c.limits().MaxPacketSize || kind == packet.DISCONNECT {
			return
		}
		if kind != packet.PINGREQ || size != 2 || head[0]&15 != 0 {
			at += size
			continue
		}
		in.cut(at)
		c.s.traffic.frame(size)
		c.send(&packet.Ping{Response: true})
	}
}

// rest is what of the bytes read ahead input has not got yet.
func (a *ahead) rest() []byte {
	if a.from == nil {
		return nil
	}
	return (*a.from)[a.next:]
}

// peek copies what was read, from the at-th byte on that no packet has used, to dst, and reports how much.
func (in *input) peek(dst []byte, at int) (n int) {
	here, rest := in.buf[in.r:in.w], in.ahead.rest()
	if at < len(here) {
		n = copy(dst, here[at:])
	}
	if skip := at + n - len(here); n < len(dst) && skip < len(rest) {
		n += copy(dst[n:], rest[skip:])
	}
	return n
}

// cut takes two bytes out. The packet that waits lies before them and is not moved.
func (in *input) cut(at int) {
	for range 2 {
		if here := in.buf[in.r:in.w]; at < len(here) {
			copy(here[at:], here[at+1:])
			in.w--
		} else {
			i := in.ahead.next + at - len(here)
			*in.ahead.from = slices.Delete(*in.ahead.from, i, i+1)
		}
	}
	if in.ahead.from != nil && len(in.ahead.rest()) == 0 {
		in.ahead.release()
	}
}

// durably waits until what write has written is durable, or was not.
func (c *client) durably(write func(done func(error))) (err error) {
	c.in.ahead.begin()
	defer c.in.ahead.end()
	var landed atomic.Bool
	write(func(e error) {
		err = e
		landed.Store(true)
		c.nudge()
	})
	for !landed.Load() {
		c.pause(time.Time{})
	}
	return err
}

// room takes n bytes of a budget, waiting in line for them until then (zero: for ever), and reports whether it has them.
// Not to have them without an error means that it is too late, or the connection has ended.
func (c *client) room(of Budget, n int64, until time.Time) (bool, error) {
	c.in.ahead.begin()
	defer c.in.ahead.end()
	var granted atomic.Bool
	cancel, err := of.Later(n, func() {
		granted.Store(true)
		c.nudge()
	})
	if err != nil {
		return false, err
	}
	for !granted.Load() && c.ctx.Err() == nil && (until.IsZero() || c.s.cfg.Now().Before(until)) {
		c.pause(until)
	}
	return granted.Load() || !cancel(), nil
}

// linger waits so long, and reports whether the connection is there still.
func (c *client) linger(d time.Duration) bool {
	c.in.ahead.begin()
	defer c.in.ahead.end()
	until := c.s.cfg.Now().Add(d)
	for c.ctx.Err() == nil && c.s.cfg.Now().Before(until) {
		c.pause(until)
	}
	return c.ctx.Err() == nil
}

// pause waits for a nudge. It holds mu, but not while it waits.
func (a *acks) pause() {
	a.c.in.ahead.begin()
	a.mu.Unlock()
	a.c.pause(time.Time{})
	a.c.in.ahead.end()
	a.mu.Lock()
}
