package mqtt

import (
	"container/heap"
	"sync"
	"time"
)

// deadlines runs functions at times, with one timer for all of them. An idle server has no timer at all.
type deadlines struct {
	now   func() time.Time
	after func(time.Duration, func()) func() bool

	mu     sync.Mutex
	idle   *sync.Cond
	heap   deadlineHeap
	stop   func() bool
	gen    int       // of the newest timer
	armed  time.Time // when the timer fires; zero: none
	firing int       // timer functions running
	closed bool
}

type deadline struct {
	at    time.Time
	fn    func()
	place int // in the heap, -1 when not in it
}

func newDeadlines(now func() time.Time, after func(time.Duration, func()) func() bool) *deadlines {
	d := &deadlines{now: now, after: after}
	d.idle = sync.NewCond(&d.mu)
	return d
}

// at calls fn, in the timer's goroutine and without locks, once t has come. fn may block a little, not for long.
func (d *deadlines) at(t time.Time, fn func()) *deadline {
	e := &deadline{at: t, fn: fn, place: -1}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		heap.Push(&d.heap, e)
		d.arm()
	}
	return e
}

// cancel takes e out; it reports whether e had not run yet. nil is fine.
func (d *deadlines) cancel(e *deadline) bool {
	if e == nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if e.place < 0 {
		return false
	}
	heap.Remove(&d.heap, e.place)
	return true
}

// arm makes the timer fire at the first deadline. A timer that fires too early finds nothing and arms again.
func (d *deadlines) arm() {
	if len(d.heap) == 0 || d.closed || (!d.armed.IsZero() && !d.heap[0].at.Before(d.armed)) {
		return
	}
	if d.stop != nil && d.stop() {
		d.firing--
	}
	d.armed = d.heap[0].at
	d.firing++
	d.gen++
	gen := d.gen
	d.stop = d.after(max(d.armed.Sub(d.now()), 0), func() { d.fire(gen) })
}

func (d *deadlines) fire(gen int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if gen == d.gen { // else a newer timer is armed; it is not ours to forget
		d.armed, d.stop = time.Time{}, nil
	}
	for len(d.heap) > 0 && !d.closed && !d.heap[0].at.After(d.now()) {
		e := heap.Pop(&d.heap).(*deadline)
		d.mu.Unlock()
		e.fn()
		d.mu.Lock()
	}
	d.arm()
	d.firing--
	d.idle.Broadcast()
}

// close cancels everything and waits for what runs.
func (d *deadlines) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for _, e := range d.heap {
		e.place = -1
	}
	d.heap = nil
	if d.stop != nil && d.stop() {
		d.firing--
	}
	d.stop = nil
	for d.firing > 0 {
		d.idle.Wait()
	}
}

type deadlineHeap []*deadline

func (h deadlineHeap) Len() int           { return len(h) }
func (h deadlineHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h deadlineHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

func (h *deadlineHeap) Push(x any) {
	e := x.(*deadline)
	e.place = len(*h)
	*h = append(*h, e)
}

func (h *deadlineHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	e.place = -1
	return e
}
