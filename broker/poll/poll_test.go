package poll

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// clock is the poller's time, and the pulse's part.
type clock struct{ ms, woken atomic.Int64 }

// bound is how long what must happen may take.
const bound = 20 * time.Second

func open(t *testing.T, waiters int) (*Poller, *clock) {
	t.Helper()
	c := new(clock)
	p, err := New(Config{Waiters: waiters, NowMS: c.ms.Load, Wake: c.woken.Store})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p, c
}

// pair is a connection and its peer.
func pair(t *testing.T) (ours *net.TCPConn, raw syscall.RawConn, peer *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialled, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialled.Close(); accepted.Close() })
	ours, peer = accepted.(*net.TCPConn), dialled.(*net.TCPConn)
	if raw, err = ours.SyscallConn(); err != nil {
		t.Fatal(err)
	}
	return ours, raw, peer
}

func write(t *testing.T, c *net.TCPConn) {
	t.Helper()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Error(err)
	}
}

// counted makes a waiter whose resumes arrive at a channel.
func counted(p *Poller, raw syscall.RawConn) (*Waiter, chan struct{}) {
	resumed := make(chan struct{}, 16)
	return p.NewWaiter(raw, func() { resumed <- struct{}{} }), resumed
}

func must(t *testing.T, resumed chan struct{}) {
	t.Helper()
	select {
	case <-resumed:
	case <-time.After(bound):
		t.Fatal("not resumed")
	}
}

func mustNot(t *testing.T, resumed chan struct{}) {
	t.Helper()
	select {
	case <-resumed:
		t.Fatal("resumed, and nothing had happened")
	default:
	}
}

func TestBytesResumeEachWaitOnce(t *testing.T) {
	p, _ := open(t, 8)
	ours, raw, peer := pair(t)
	w, resumed := counted(p, raw)
	for range 3 {
		if !w.Wait(0) {
			t.Fatal("does not wait")
		}
		mustNot(t, resumed)
		write(t, peer)
		must(t, resumed)
		if _, err := ours.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		write(t, peer) // nobody waits: nothing is told
		if _, err := ours.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	mustNot(t, resumed)
}

func TestBytesThatAreThereAlreadyResume(t *testing.T) {
	p, _ := open(t, 8)
	ours, raw, peer := pair(t)
	write(t, peer)
	if _, err := ours.Read(nil); err != nil {
		t.Fatal(err)
	}
	w, resumed := counted(p, raw)
	for range 2 { // nobody reads them
		if !w.Wait(0) {
			t.Fatal("does not wait")
		}
		must(t, resumed)
	}
}

func TestThePeersEndResumes(t *testing.T) {
	p, _ := open(t, 8)
	_, raw, peer := pair(t)
	w, resumed := counted(p, raw)
	if !w.Wait(0) {
		t.Fatal("does not wait")
	}
	if err := peer.Close(); err != nil {
		t.Fatal(err)
	}
	must(t, resumed)
}

func TestTheDeadlineResumesAndNotBefore(t *testing.T) {
	p, clock := open(t, 8)
	_, raw, _ := pair(t)
	w, resumed := counted(p, raw)
	if !w.Wait(1500 * time.Microsecond) {
		t.Fatal("does not wait")
	}
	if at, ok := p.Next(); !ok || at != 2 || clock.woken.Load() != 2 {
		t.Fatalf("the pulse is told %d, %v and %d, want 2", at, ok, clock.woken.Load())
	}
	clock.ms.Store(1)
	p.Advance(1)
	mustNot(t, resumed)
	clock.ms.Store(2)
	p.Advance(2)
	must(t, resumed)
	if _, ok := p.Next(); ok {
		t.Error("a deadline is left")
	}
}

func TestBytesCancelTheDeadline(t *testing.T) {
	p, clock := open(t, 8)
	_, raw, peer := pair(t)
	w, resumed := counted(p, raw)
	if !w.Wait(time.Second) {
		t.Fatal("does not wait")
	}
	write(t, peer)
	must(t, resumed)
	clock.ms.Store(5000)
	p.Advance(5000)
	mustNot(t, resumed)
}

func TestWakeEndsAWaitOrKeepsTheNextOneFromBeginning(t *testing.T) {
	p, _ := open(t, 8)
	ours, raw, _ := pair(t)
	w, resumed := counted(p, raw)
	if !w.Wait(time.Hour) {
		t.Fatal("does not wait")
	}
	if err := ours.Close(); err != nil {
		t.Fatal(err)
	}
	w.Wake()
	must(t, resumed)
	w.Wake()
	if w.Wait(0) {
		t.Error("waits though it was woken before")
	}
	if w.Wait(0) {
		t.Error("waits for a closed connection")
	}
	mustNot(t, resumed)
}

func TestClosingResumesAllAndLetsNoneWait(t *testing.T) {
	p, _ := open(t, 8)
	var all []chan struct{}
	var last *Waiter
	for range 5 {
		_, raw, _ := pair(t)
		w, resumed := counted(p, raw)
		if !w.Wait(time.Hour) {
			t.Fatal("does not wait")
		}
		all, last = append(all, resumed), w
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	for _, resumed := range all {
		must(t, resumed)
	}
	if last.Wait(0) {
		t.Error("waits at a closed poller")
	}
}

func TestAFullWheelLetsNoMoreWaitWithADeadline(t *testing.T) {
	p, _ := open(t, 1)
	_, first, _ := pair(t)
	_, second, peer := pair(t)
	a, _ := counted(p, first)
	b, resumed := counted(p, second)
	if !a.Wait(time.Hour) || b.Wait(time.Hour) {
		t.Fatal("the second of one waits")
	}
	write(t, peer)
	mustNot(t, resumed)
	a.Wake()
	if !b.Wait(time.Hour) {
		t.Fatal("does not wait though there is room again")
	}
	must(t, resumed)
}

func TestAPlaceThatIsUsedAgainHearsNothingOfItsFormerConnection(t *testing.T) {
	p, _ := open(t, 8)
	_, first, peer := pair(t)
	a, _ := counted(p, first)
	if !a.Wait(0) {
		t.Fatal("does not wait")
	}
	a.Wake()
	a.Retire()
	if a.Wait(0) {
		t.Error("waits though it was retired")
	}
	_, second, other := pair(t)
	b, resumed := counted(p, second)
	if !b.Wait(0) {
		t.Fatal("does not wait")
	}
	if len(p.slots) != 1 {
		t.Fatalf("%d places for one connection", len(p.slots))
	}
	write(t, peer) // epoll still tells of it: it was not closed
	write(t, other)
	must(t, resumed)
	mustNot(t, resumed)
}

// TestNoWaitIsLostOrResumedTwiceAmongManyAtOnce has each connection answer its peer a few times, waiting in between, while
// others wake it.
func TestNoWaitIsLostOrResumedTwiceAmongManyAtOnce(t *testing.T) {
	const connections, rounds = 64, 50
	p, _ := open(t, connections)
	var all sync.WaitGroup
	for range connections {
		ours, raw, peer := pair(t)
		done := make(chan struct{})
		var running atomic.Int32
		var w *Waiter
		got := 0
		w = p.NewWaiter(raw, func() {
			for {
				if n := running.Add(1); n != 1 {
					t.Errorf("%d goroutines for one connection", n)
				}
				if err := ours.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
					t.Error(err)
				}
				var b [1]byte
				if _, err := ours.Read(b[:]); err == nil {
					if got++; got == rounds {
						close(done)
						return
					}
					if _, err := ours.Write(b[:]); err != nil {
						t.Error(err)
					}
				}
				running.Add(-1)
				if w.Wait(time.Hour) {
					return
				}
			}
		})
		if !w.Wait(0) {
			t.Fatal("does not wait")
		}
		all.Go(func() {
			for range rounds - 1 {
				write(t, peer)
				if _, err := peer.Read(make([]byte, 1)); err != nil {
					t.Error(err)
					return
				}
				w.Wake()
			}
			write(t, peer)
			select {
			case <-done:
			case <-time.After(bound):
				t.Error("a wait was lost")
			}
		})
	}
	all.Wait()
}
