// Package purgatory is where operations wait that cannot be answered yet: a produce for its replicas, a fetch for its
// bytes, a join for the other members. It is Kafka's delayed operation purgatory: watch lists per key, a deadline in a
// timing wheel, and check, watch all keys, check again.
package purgatory

import (
	"errors"
	"fmt"
	"sync"

	"millrace/broker/wheel"
)

// ErrFull is returned by Watch when one of the limits is reached. Nothing is kept; the caller answers now, with what
// there is.
var ErrFull = errors.New("purgatory: full")

// ErrClosed is returned by Watch after Close. The caller answers now.
var ErrClosed = errors.New("purgatory: closed")

// Op is an operation that waits. Of Complete and Cancelled exactly one is called, once.
type Op interface {
	// Ready reports whether the operation can be completed now. It is called from any goroutine, several at once, with
	// no lock of the purgatory held, and also after the operation completed. Once true for lack of anything to wait
	// for, it need not stay true: the operation is completed all the same.
	Ready() bool
	// Complete answers the operation, with what there is when expired is true because its deadline passed or the
	// purgatory closed. It is called from the goroutine that found the operation ready and must not block.
	Complete(expired bool)
	// Cost is what the waiting operation holds, in bytes, at least 0. It does not change while the operation waits.
	Cost() int64
}

// Config limits a purgatory.
type Config struct {
	// Ops is the most operations that wait at once, 1 to wheel.MaxCapacity. Each takes 32 bytes from the start.
	Ops int
	// Keys is the most places in watch lists: the sum over the waiting operations of the keys each watches.
	Keys int
	// Cost is the most bytes waiting operations hold together.
	Cost int64
	// NowMS tells the time in milliseconds since any fixed instant, and never goes back: (*pulse.Pulse).Now.
	NowMS func() int64
	// Wake is told the time of a deadline that may be the earliest: (*pulse.Pulse).Wake. It is called with a lock held
	// and must not call back.
	Wake func(atMS int64)
}

// Purgatory holds waiting operations under keys of type K. It is safe for concurrent use.
//
// It registers with the pulse as a Source: Next and Advance expire what nobody completed.
//
// One lock guards everything and no code of an operation runs under it. Measured on two cores, taking it costs a
// commit 25 ns for a partition that nobody waits for; sharding by key would make every operation that watches many
// partitions take many locks, and gain nothing.
type Purgatory[K comparable] struct {
	config Config

	mu     sync.Mutex
	lists  map[K]*list[K] // no list is empty
	wheel  *wheel.Wheel[*parked[K]]
	keys   int   // Invariant: the number of nodes in all lists, <= config.Keys.
	cost   int64 // Invariant: the sum of the waiting operations' costs, <= config.Cost.
	closed bool

	expired int64 // operations that were completed by their deadline, since New
}

// parked is an operation in the purgatory.
type parked[K comparable] struct {
	op     Op
	cost   int64
	handle wheel.Handle
	nodes  []node[K] // its places in the lists of its keys
	// over is set, under the lock, by whoever takes the operation out: only that one completes it.
	over bool
}

// list is the operations that watch one key, in the order they came.
type list[K comparable] struct {
	key      K
	sentinel node[K]
}

// node is a place in a list.
type node[K comparable] struct {
	next, prev *node[K]
	of         *parked[K] // nil for a sentinel
	list       *list[K]
}

// Ticket names a parked operation for Cancel. The zero Ticket names none.
type Ticket[K comparable] struct{ of *parked[K] }

// New makes an empty purgatory. It panics on limits out of range.
func New[K comparable](c Config) *Purgatory[K] {
	if c.Keys < 1 || c.Cost < 0 || c.NowMS == nil || c.Wake == nil {
		panic(fmt.Sprintf("purgatory: config out of range: ops %d, keys %d, cost %d", c.Ops, c.Keys, c.Cost))
	}
	return &Purgatory[K]{
		config: c,
		lists:  make(map[K]*list[K]),
		wheel:  wheel.New[*parked[K]](wheel.Config{TickMS: 1, Slots: 64, Capacity: c.Ops, NowMS: c.NowMS()}),
	}
}

// Watch completes op now if it is ready, and else parks it under keys until Check finds it ready, waitMS milliseconds
// have passed, or it is cancelled. A wait of 0 or less expires at once.
//
// It returns ErrFull when there is no room, or ErrClosed; then nothing of op was called but Ready and Cost, and the
// caller answers itself.
//
// Ready is asked a second time after op is in every list, because what it waits for may have happened between the
// first time and then: nobody would ever wake it, and the client would wait out its whole timeout.
func (p *Purgatory[K]) Watch(op Op, keys []K, waitMS int64) (Ticket[K], error) {
	if op.Ready() {
		op.Complete(false)
		return Ticket[K]{}, nil
	}
	if waitMS <= 0 {
		op.Complete(true)
		return Ticket[K]{}, nil
	}
	o, err := p.park(op, keys, waitMS)
	if err != nil {
		return Ticket[K]{}, err
	}
	if op.Ready() {
		p.complete(o, false)
	}
	return Ticket[K]{o}, nil
}

// Check completes the operations that wait under key and are ready now, and returns how many. It is called after the
// state they wait for changed.
func (p *Purgatory[K]) Check(key K) int {
	var room [16]*parked[K] // most keys have few waiters: no allocation
	waiting := room[:0]
	p.mu.Lock()
	if l := p.lists[key]; l != nil {
		for n := l.sentinel.next; n != &l.sentinel; n = n.next {
			waiting = append(waiting, n.of)
		}
	}
	p.mu.Unlock()

	completed := 0
	for _, o := range waiting {
		if o.op.Ready() && p.complete(o, false) {
			completed++
		}
	}
	return completed
}

// Cancel takes an operation out without completing it, and reports whether it was still waiting. When true, neither
// Complete nor Ready of it will be called by anyone who did not start already.
func (p *Purgatory[K]) Cancel(t Ticket[K]) bool { return t.of != nil && p.take(t.of) }

// Len is the number of operations that wait.
func (p *Purgatory[K]) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wheel.Len()
}

// Cost is the number of bytes waiting operations hold.
func (p *Purgatory[K]) Cost() int64 { return p.Figures().Cost }

// Figures are what a purgatory holds, what it may hold, and how many operations their deadline has completed since New.
type Figures struct {
	Ops, MaxOps, Keys, MaxKeys int
	Cost, MaxCost              int64 // bytes
	Expired                    int64
}

// Figures reads them all at one moment.
func (p *Purgatory[K]) Figures() Figures {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Figures{p.wheel.Len(), p.wheel.Cap(), p.keys, p.config.Keys, p.cost, p.config.Cost, p.expired}
}

// Next is the time to call Advance at; ok is false when nothing waits.
func (p *Purgatory[K]) Next() (atMS int64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wheel.Next()
}

// Advance completes the operations whose deadline has passed. Only one goroutine calls it, with times that do not go
// back.
func (p *Purgatory[K]) Advance(nowMS int64) {
	var due [64]*parked[K]
	for {
		p.mu.Lock()
		n := p.wheel.Advance(nowMS, due[:])
		for _, o := range due[:n] {
			p.unlist(o)
		}
		p.expired += int64(n)
		p.mu.Unlock()
		for i, o := range due[:n] {
			o.op.Complete(true)
			due[i] = nil
		}
		if n < len(due) {
			return
		}
	}
}

// Close completes every waiting operation as expired and refuses new ones.
func (p *Purgatory[K]) Close() {
	for {
		p.mu.Lock()
		p.closed = true
		var o *parked[K]
		for _, l := range p.lists {
			o = l.sentinel.next.of
			break
		}
		p.mu.Unlock()
		if o == nil {
			return
		}
		p.complete(o, true)
	}
}

// park puts op into the wheel and under every key.
func (p *Purgatory[K]) park(op Op, keys []K, waitMS int64) (*parked[K], error) {
	o := &parked[K]{op: op, cost: op.Cost(), nodes: make([]node[K], len(keys))}
	if o.cost < 0 || len(keys) == 0 {
		panic(fmt.Sprintf("purgatory: operation of cost %d under %d keys", o.cost, len(keys)))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return nil, ErrClosed
	case len(keys) > p.config.Keys-p.keys || o.cost > p.config.Cost-p.cost:
		return nil, ErrFull
	}
	now := p.config.NowMS()
	at := now + waitMS
	if at < now { // a client may name any wait
		at = 1<<63 - 1
	}
	var err error
	if o.handle, err = p.wheel.Add(at, o); err != nil {
		return nil, ErrFull
	}
	p.keys += len(keys)
	p.cost += o.cost
	for i, k := range keys {
		l := p.lists[k]
		if l == nil {
			l = &list[K]{key: k}
			l.sentinel.next, l.sentinel.prev = &l.sentinel, &l.sentinel
			p.lists[k] = l
		}
		last := l.sentinel.prev
		n := &o.nodes[i]
		*n = node[K]{next: &l.sentinel, prev: last, of: o, list: l}
		last.next, l.sentinel.prev = n, n
	}
	p.config.Wake(at)
	return o, nil
}

// complete answers o unless somebody else has taken it out, and reports whether it did.
func (p *Purgatory[K]) complete(o *parked[K], expired bool) bool {
	if !p.take(o) {
		return false
	}
	o.op.Complete(expired)
	return true
}

// take takes o out, and reports whether it was still in.
func (p *Purgatory[K]) take(o *parked[K]) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if o.over {
		return false
	}
	p.wheel.Cancel(o.handle)
	p.unlist(o)
	return true
}

// unlist takes o, which has left the wheel, out of its lists: one step for each key, however many others wait there.
func (p *Purgatory[K]) unlist(o *parked[K]) {
	o.over = true
	p.keys -= len(o.nodes)
	p.cost -= o.cost
	for i := range o.nodes {
		n := &o.nodes[i]
		n.prev.next, n.next.prev = n.next, n.prev
		if l := n.list; l.sentinel.next == &l.sentinel {
			delete(p.lists, l.key)
		}
	}
	o.nodes = nil
}
