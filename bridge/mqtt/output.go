package mqtt

import (
	"net"
	"sync"
	"time"
)

// output is what waits to be written to one connection. Nobody who appends to it ever blocks: a goroutine lives only
// while there is something to write, and what gathers meanwhile goes out in one write.
type output struct {
	conn  net.Conn
	limit int             // bytes from which room is false
	wg    *sync.WaitGroup // counts the writer
	room  func()          // called by the writer without locks after it took what waited while room was false

	mu   sync.Mutex
	cond *sync.Cond // the reader waits here for the buffer to shrink, and for the writer to end
	buf  []byte
	busy bool // a writer runs
	full bool // hasRoom said no since the last room call
	last bool // nothing more may be appended; the writer closes the connection when it is done
	dead bool // the connection failed
}

// lingerTime is how long the last bytes may take before the connection is cut.
const lingerTime = 5 * time.Second

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 4096); return &b }}

// add appends with fn and sees to it that a writer runs.
func (o *output) add(fn func(dst []byte) []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.last && !o.dead {
		o.addLocked(fn)
	}
}

func (o *output) addLocked(fn func(dst []byte) []byte) {
	if o.buf == nil {
		o.buf = (*buffers.Get().(*[]byte))[:0]
	}
	o.buf = fn(o.buf)
	if !o.busy {
		o.busy = true
		o.wg.Add(1)
		go o.write()
	}
}

// hasRoom reports whether a message may be added; when not, room will be called.
func (o *output) hasRoom() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.dead || o.last {
		return false
	}
	if len(o.buf) >= o.limit {
		o.full = true
		return false
	}
	return true
}

// wait blocks while answers pile up because the peer does not read them.
func (o *output) wait() {
	o.mu.Lock()
	for len(o.buf) >= 2*o.limit && !o.dead && !o.last {
		o.cond.Wait()
	}
	o.mu.Unlock()
}

func (o *output) write() {
	defer o.wg.Done()
	o.mu.Lock()
	for len(o.buf) > 0 && !o.dead {
		b := o.buf
		o.buf = nil
		full := o.full
		o.full = false
		o.cond.Broadcast()
		o.mu.Unlock()
		if full {
			o.room()
		}
		_, err := o.conn.Write(b)
		if cap(b) <= 1<<16 {
			buffers.Put(&b)
		}
		o.mu.Lock()
		if err != nil {
			o.dead = true
		}
	}
	o.busy = false
	o.buf = nil
	closing := o.last || o.dead
	o.cond.Broadcast()
	o.mu.Unlock()
	if closing {
		o.conn.Close() //nolint:errcheck // the peer is gone or told; there is nobody left to report to
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
	o.cond.Broadcast()
	o.mu.Unlock()
	if !busy || o.conn.SetWriteDeadline(now.Add(lingerTime)) != nil {
		o.conn.Close() //nolint:errcheck // nothing waits to be written
	}
}

// drain waits for the writer to end.
func (o *output) drain() {
	o.mu.Lock()
	for o.busy {
		o.cond.Wait()
	}
	o.mu.Unlock()
}
