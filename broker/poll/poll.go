// Package poll lets connections wait for their peers without a goroutine: most clients of a board are silent most of the
// time, and a stack is most of what a silent one takes.
//
// A Poller is one epoll instance, which is itself waited for by the runtime's own poller: it has one goroutine and no
// thread. Deadlines lie in one timing wheel, which the process's pulse turns.
package poll

import (
	"errors"
	"fmt"
	"math"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"millrace/broker/wheel"
)

// Config is what a Poller needs.
type Config struct {
	// Waiters is the most that wait with a deadline at once, 1 to wheel.MaxCapacity. Each takes 32 bytes from the start.
	Waiters int
	// NowMS is the time in milliseconds since any fixed instant, Wake is told of a deadline in it: see Next.
	NowMS func() int64
	Wake  func(atMS int64)
}

// Poller is what waiters wait at. It is safe for concurrent use.
type Poller struct {
	config Config
	file   *os.File // the epoll instance
	raw    syscall.RawConn
	ended  chan struct{} // closed when the goroutine has ended

	mu     sync.Mutex
	closed bool   // and then the instance may be
	epoll  int    // its descriptor
	slots  []slot // by the number epoll knows a waiter by
	free   []int32
	wheel  *wheel.Wheel[*Waiter]
}

// slot is a place for one waiter. An event of one that was here before has another turn.
type slot struct {
	of   *Waiter
	turn int32
}

// Waiter is one connection's place at a Poller. Its methods are safe for concurrent use.
type Waiter struct {
	poller *Poller
	conn   syscall.RawConn
	resume func()

	// Guarded by poller.mu.
	number  int32 // of its slot, -1: none
	handle  wheel.Handle
	added   bool // epoll knows the connection
	waits   bool
	woken   bool // Wake was called while it did not wait
	retired bool
}

// New makes a poller. The caller closes it, and calls Advance as Next says.
func New(c Config) (*Poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // or the runtime would block a thread
		return nil, errors.Join(fmt.Errorf("epoll: %w", err), unix.Close(fd))
	}
	p := &Poller{config: c, file: os.NewFile(uintptr(fd), "epoll"), epoll: fd, ended: make(chan struct{})}
	if p.raw, err = p.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, p.file.Close())
	}
	p.wheel = wheel.New[*Waiter](wheel.Config{TickMS: 1, Slots: 64, Capacity: c.Waiters, NowMS: c.NowMS()})
	go p.run()
	return p, nil
}

// Close resumes all waiters, lets no more wait, and returns when the poller's goroutine has ended.
func (p *Poller) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	for _, s := range p.slots {
		if s.of != nil && s.of.waits {
			s.of.fire()
		}
	}
	p.mu.Unlock()
	err := p.file.Close()
	<-p.ended
	return err
}

// NewWaiter makes a place for a connection. resume is called in a goroutine of its own each time a wait ends; whoever
// waits counts it among its own. The owner retires the waiter.
func (p *Poller) NewWaiter(conn syscall.RawConn, resume func()) *Waiter {
	return &Waiter{poller: p, conn: conn, resume: resume, number: -1}
}

// Wait begins to wait, and is false when it does not: the connection or the poller is closed, Wake was called, or there
// is no room. When true, resume is called once: when the peer has sent something or gone, after d, if that is over 0,
// or by Wake.
func (w *Waiter) Wait(d time.Duration) bool {
	p := w.poller
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.woken {
		w.woken = false
		return false
	}
	if p.closed || w.retired || !w.arm() {
		return false
	}
	if w.waits = true; d > 0 {
		at := deadline(p.config.NowMS(), d)
		var err error
		if w.handle, err = p.wheel.Add(at, w); err != nil {
			w.waits = false // an event of it finds nobody
			return false
		}
		p.config.Wake(at)
	}
	return true
}

// deadline is when d is over, in milliseconds: never before.
func deadline(nowMS int64, d time.Duration) int64 {
	ms := (int64(d) + int64(time.Millisecond) - 1) / int64(time.Millisecond)
	return nowMS + min(ms, math.MaxInt64-nowMS)
}

// Wake ends the wait, or keeps the next one from beginning. After a connection was closed it must be called: nothing else
// ends its wait.
func (w *Waiter) Wake() {
	w.poller.mu.Lock()
	defer w.poller.mu.Unlock()
	if !w.waits {
		w.woken = true
		return
	}
	w.fire()
}

// Retire gives the place back. The waiter does not wait, and will not any more.
func (w *Waiter) Retire() {
	p := w.poller
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.retired {
		return
	}
	if w.retired = true; w.number >= 0 {
		p.slots[w.number] = slot{turn: p.slots[w.number].turn + 1}
		p.free = append(p.free, w.number)
	}
}

// fire ends a wait.
func (w *Waiter) fire() {
	w.waits = false
	w.poller.wheel.Cancel(w.handle)
	w.handle = 0
	go w.resume()
}

// arm has epoll tell of the connection, once.
func (w *Waiter) arm() bool {
	p := w.poller
	if w.number < 0 {
		if n := len(p.free); n > 0 {
			w.number, p.free = p.free[n-1], p.free[:n-1]
		} else {
			w.number = int32(len(p.slots))
			p.slots = append(p.slots, slot{})
		}
		p.slots[w.number].of = w
	}
	op := unix.EPOLL_CTL_MOD
	if !w.added {
		op = unix.EPOLL_CTL_ADD
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: w.number, Pad: p.slots[w.number].turn}
	var failed error
	err := w.conn.Control(func(fd uintptr) { failed = unix.EpollCtl(p.epoll, op, int(fd), &event) })
	if err != nil || failed != nil {
		return false
	}
	w.added = true
	return true
}

// run resumes waiters whose peers have sent something, until the poller is closed.
func (p *Poller) run() {
	defer close(p.ended)
	var events [64]unix.EpollEvent
	for {
		n := 0
		// It fails when the poller is closed, and then all have been resumed.
		if err := p.raw.Read(func(fd uintptr) bool {
			var err error
			n, err = unix.EpollWait(int(fd), events[:], 0)
			return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
		}); err != nil {
			return
		}
		p.mu.Lock()
		for _, e := range events[:max(n, 0)] {
			if s := p.slots[e.Fd]; s.of != nil && s.turn == e.Pad && s.of.waits {
				s.of.fire()
			}
		}
		p.mu.Unlock()
	}
}

// Len is how many wait with a deadline, and how many may.
func (p *Poller) Len() (n, most int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wheel.Len(), p.wheel.Cap()
}

// Next is the time to call Advance at; ok is false when nobody waits with a deadline.
func (p *Poller) Next() (atMS int64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wheel.Next()
}

// Advance resumes those whose time is over. Only one goroutine calls it, with times that do not go back.
func (p *Poller) Advance(nowMS int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var due [64]*Waiter
	for {
		n := p.wheel.Advance(nowMS, due[:])
		for _, w := range due[:n] {
			w.fire()
		}
		if n < len(due) {
			return
		}
	}
}
