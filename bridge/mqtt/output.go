package mqtt

import (
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// output is what waits to be written to one connection. Nobody who appends to it ever blocks: a goroutine lives only
// while there is something to write, and what gathers meanwhile goes out in one write.
type output struct {
	conn  net.Conn
	all   *outlets
	limit int             // bytes from which room is false
	wg    *sync.WaitGroup // counts the writer
	room  func()          // called by the writer without locks after it took what waited while room was false
	// closed is called without locks after the connection was closed.
	closed func()

	mu   sync.Mutex
	cond *sync.Cond // the reader waits here for the buffer to shrink, and for the writer to end
	buf  []byte
	// idle is where buf begins with the first answer while nothing is on its way: most clients are sent nothing but one
	// PUBACK at a time, a thousand of them in the moment of a commit.
	idle [idleOutput]byte
	// answers is how much of buf are answers, which are not refused for want of room: the reader waits instead.
	answers int
	busy    bool // a writer runs
	full    bool // hasRoom said no since the last room call
	last    bool // nothing more may be appended; the writer closes the connection when it is done
	dead    bool // the connection failed
	slow    bool // to close the connection is to write to it
}

// outlets is the memory of all outputs together. A message that finds it taken waits in the log until the connection's
// own bytes have gone out, or, where it has none, until anybody's have.
type outlets struct {
	size int64
	used atomic.Int64

	packets, sent atomic.Int64 // that were given to a connection, and bytes that were written to one

	mu      sync.Mutex
	waiting []*output // with nothing of their own to wait for
}

const (
	// idleOutput is room for the PUBACKs of a small window, in bytes.
	idleOutput = 64
	// smallMessage is what a connection that has nothing to write may always be given, in bytes.
	smallMessage = 4 << 10
	// answersMax is how many bytes of answers a peer may leave unread before it is not read from any more.
	answersMax = 4 << 10
)

// has reports whether n bytes more may be held. One message larger than the whole goes alone.
func (a *outlets) has(n int) bool {
	used := a.used.Load()
	return used == 0 || used+int64(n) <= a.size
}

// wait is has, and otherwise has o's room called when bytes have gone out.
func (a *outlets) wait(o *output, n int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.has(n) {
		return true
	}
	if !slices.Contains(a.waiting, o) {
		a.waiting = append(a.waiting, o)
	}
	return false
}

// gone gives back n bytes. No lock is held.
func (a *outlets) gone(n int) {
	a.used.Add(-int64(n))
	a.mu.Lock()
	waiting := a.waiting
	a.waiting = nil
	a.mu.Unlock()
	for _, o := range waiting {
		o.room()
	}
}

// lingerTime is how long the last bytes may take before the connection is cut.
const lingerTime = 5 * time.Second

// closeTime is how long they may take when the server closes: it does not wait for peers that do not read.
const closeTime = 200 * time.Millisecond

// smallBuffer is the size of the buffers that are kept for the next connection that needs one, in bytes. Each of a thousand
// clients that are ahead of the disk holds one, and no share counts them.
const smallBuffer = 2 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, smallBuffer); return &b }}

// add appends a message with fn and sees to it that a writer runs. It is false when the connection has ended, whatever
// hasRoom said before: then fn was not called.
func (o *output) add(fn func(dst []byte) []byte) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.last || o.dead {
		return false
	}
	o.addLocked(fn)
	return true
}

// answer is add for an answer.
func (o *output) answer(fn func(dst []byte) []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.last && !o.dead {
		n := len(o.buf)
		if o.buf == nil && !o.busy {
			o.buf = o.idle[:0]
		}
		o.addLocked(fn)
		o.answers += len(o.buf) - n
	}
}

func (o *output) addLocked(fn func(dst []byte) []byte) {
	if o.buf == nil {
		o.buf = (*buffers.Get().(*[]byte))[:0]
	}
	n := len(o.buf)
	o.buf = fn(o.buf)
	if len(o.buf) > n {
		o.all.packets.Add(1)
	}
	o.all.used.Add(int64(len(o.buf) - n))
	if !o.busy {
		o.busy = true
		o.wg.Add(1)
		go o.write()
	}
}

// hasRoom reports whether a message of n bytes may be added; when not, room will be called.
func (o *output) hasRoom(n int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.dead || o.last:
		return false
	case !o.busy: // nothing is on its way
		return n <= smallMessage || o.all.wait(o, n)
	case len(o.buf) < o.limit && o.all.has(n):
		return true
	}
	o.full = true
	return false
}

// wait blocks while answers pile up because the peer does not read them.
func (o *output) wait() {
	o.mu.Lock()
	for o.answers >= answersMax && !o.dead && !o.last {
		o.cond.Wait()
	}
	o.mu.Unlock()
}

// clogged reports whether wait would block.
func (o *output) clogged() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.answers >= answersMax
}

func (o *output) write() {
	defer o.wg.Done()
	o.mu.Lock()
	for len(o.buf) > 0 && !o.dead {
		b := o.buf
		o.buf, o.answers = nil, 0
		full := o.full
		o.full = false
		o.cond.Broadcast()
		o.mu.Unlock()
		if full {
			o.room()
		}
		n, err := o.conn.Write(b)
		o.all.sent.Add(int64(n))
		o.all.gone(len(b))
		if cap(b) == smallBuffer {
			buffers.Put(&b)
		}
		o.mu.Lock()
		if err != nil {
			o.dead = true
		}
	}
	o.busy = false
	unwritten, full := len(o.buf), o.full
	o.buf, o.full = nil, false
	closing := o.last || o.dead
	o.cond.Broadcast()
	o.mu.Unlock()
	if unwritten > 0 {
		o.all.gone(unwritten)
	}
	if full && !closing {
		o.room()
	}
	if closing {
		o.close()
	}
}

// finish appends the last bytes (fn may be nil) and closes the connection when they are written, or after lingerTime.
func (o *output) finish(fn func(dst []byte) []byte, now time.Time) {
	o.mu.Lock()
	if o.last || o.dead {
		o.mu.Unlock()
		return
	}
	if fn != nil {
		o.addLocked(fn)
	}
	o.last = true
	busy := o.busy
	if !busy && o.slow {
		busy, o.busy = true, true
		o.wg.Add(1)
		go o.write()
	}
	o.cond.Broadcast()
	o.mu.Unlock()
	if !busy || o.conn.SetWriteDeadline(now.Add(lingerTime)) != nil {
		o.close() // nothing waits to be written
	}
}

func (o *output) close() {
	o.conn.Close() //nolint:errcheck // the peer is gone or told; there is nobody left to report to
	o.closed()
}

// hurry gives what waits to be written until t. The only error is that the connection is closed already.
func (o *output) hurry(t time.Time) { _ = o.conn.SetWriteDeadline(t) }

// drain waits for the writer to end.
func (o *output) drain() {
	o.mu.Lock()
	for o.busy {
		o.cond.Wait()
	}
	o.mu.Unlock()
}

// Output is the number of bytes that wait to be written, over all connections.
func (s *Server) Output() int64 { return s.outlets.used.Load() }
