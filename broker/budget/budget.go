// Package budget divides the memory a board may use into named shares. Every body, buffer and cache of the program is
// taken out of a share before its memory is allocated, so overload is a wait or a refusal and never an OOM kill.
package budget

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
)

// ErrExhausted is returned by Budget.Share when the shares would exceed the total.
var ErrExhausted = errors.New("budget: shares exceed the total")

// ErrTooLarge is returned by Acquire when the share could never hold what is asked for.
var ErrTooLarge = errors.New("budget: larger than the share")

// Budget is a total of bytes from which shares are carved, once, when the program is put together. What is not carved is
// the pot, of which elastic shares take when they need more than their own.
// It is safe for concurrent use.
type Budget struct {
	total int64

	mu     sync.Mutex // guards the shares too: what one gives back may be what another waits for
	carved int64      // Invariant: the sum of what the shares have for themselves, 0 <= carved <= total.
	// lent is what shares have taken of the pot. Invariant: 0 <= lent, and lent <= total-carved but for what was overdrawn.
	lent   int64
	shares []*Share
}

// New makes a budget of total bytes. A negative total is none.
func New(total int64) *Budget { return &Budget{total: max(total, 0)} }

// Total is the number of bytes there are to carve.
func (b *Budget) Total() int64 { return b.total }

// Share carves size bytes out of the budget under a name that is not used yet. It returns ErrExhausted when less is
// left.
func (b *Budget) Share(name string, size int64) (*Share, error) { return b.Elastic(name, size, size) }

// Elastic carves least bytes as Share does, for a share that may take more, up to most, as long as others leave it in the
// pot. Who waits for no more than least is served in the end, whatever others do; more may never come.
func (b *Budget) Elastic(name string, least, most int64) (*Share, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if slices.ContainsFunc(b.shares, func(s *Share) bool { return s.name == name }) {
		return nil, fmt.Errorf("budget: share %q exists", name)
	}
	if most < least || least < 0 || least > b.total-b.carved || b.lent > b.total-b.carved-least {
		return nil, fmt.Errorf("share %q of %d to %d bytes, %d of %d left: %w", name, least, most, b.total-b.carved, b.total, ErrExhausted)
	}
	s := &Share{budget: b, name: name, least: least, most: most}
	b.carved += least
	b.shares = append(b.shares, s)
	return s, nil
}

// Left is the number of bytes not carved yet: the pot.
func (b *Budget) Left() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.total - b.carved
}

// Gauges reads every share, in the order they were carved.
func (b *Budget) Gauges() []Gauge {
	b.mu.Lock()
	shares := slices.Clone(b.shares)
	b.mu.Unlock()
	gauges := make([]Gauge, len(shares))
	for i, s := range shares {
		gauges[i] = s.Gauge()
	}
	return gauges
}

// Share is a part of the budget. Who takes from it gives back exactly what was taken. It is safe for concurrent use.
type Share struct {
	budget *Budget
	name   string
	// least it has for itself, and never more than most.
	least, most int64

	// What follows is guarded by budget.mu.

	// Invariant: 0 <= used, and used <= most but for what was overdrawn.
	used, peak int64
	refused    int64
	// waiters queue in order: a large request is not starved by small ones that would fit before it.
	waiters list.List // of *waiter
}

type waiter struct {
	n       int64
	granted func() // called under budget.mu once n is counted as used; nil: it was, or does not wait any more
}

// Gauge is a reading of one share, in bytes but for the counts.
type Gauge struct {
	Name    string
	Size    int64 // the most it may have
	Used    int64
	Peak    int64 // the most that was ever used at once
	Waiting int   // Acquire calls that wait now
	Refused int64 // TryAcquire calls that failed, since the start
}

// Name is what the share was carved as.
func (s *Share) Name() string { return s.name }

// Size is the number of bytes the share has for itself: who waits for no more gets it in the end.
func (s *Share) Size() int64 { return s.least }

// Most is the number of bytes it may have at all, as long as others leave them. Who waits for more than Size bounds the
// wait by its context.
func (s *Share) Most() int64 { return s.most }

// Used is the number of bytes taken now.
func (s *Share) Used() int64 {
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	return s.used
}

// Gauge reads the share.
func (s *Share) Gauge() Gauge {
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	return Gauge{s.name, s.most, s.used, s.peak, s.waiters.Len(), s.refused}
}

// TryAcquire takes n bytes if they are there and nobody waits for them, and reports whether it did.
func (s *Share) TryAcquire(n int64) bool {
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	if s.waiters.Len() == 0 && s.take(n) {
		return true
	}
	s.refused++
	return false
}

// Acquire takes n bytes, waiting in line until they are there. It returns ErrTooLarge at once when n is more than Most,
// and the context's error when that ends first; then nothing was taken.
func (s *Share) Acquire(ctx context.Context, n int64) error {
	if err := ctx.Err(); err != nil && n <= s.most {
		return err
	}
	ready := make(chan struct{})
	cancel, err := s.Later(n, func() { close(ready) })
	if err != nil {
		return err
	}
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
	}
	if !cancel() {
		s.Release(n) // granted while the context ended
	}
	return ctx.Err()
}

// Later takes n bytes as Acquire does, and calls granted, once, when it has them: perhaps before it returns. granted may
// hold the budget's lock: it is quick, does not block and asks nothing of the budget. cancel takes the place in line back;
// false: n bytes were granted, and are the caller's to give back. It returns ErrTooLarge when n is more than Most.
func (s *Share) Later(n int64, granted func()) (cancel func() bool, err error) {
	if n > s.most {
		return nil, fmt.Errorf("%d bytes of share %q, which has %d: %w", n, s.name, s.most, ErrTooLarge)
	}
	mu := &s.budget.mu
	mu.Lock()
	defer mu.Unlock()
	if s.waiters.Len() == 0 && s.take(n) {
		granted()
		return func() bool { return false }, nil
	}
	w := &waiter{n: n, granted: granted}
	place := s.waiters.PushBack(w)
	return func() bool {
		mu.Lock()
		defer mu.Unlock()
		if w.granted == nil {
			return false
		}
		w.granted = nil
		s.waiters.Remove(place)
		s.grant() // those behind may fit where this one did not
		return true
	}, nil
}

// Overdraw takes n bytes whether they are there or not, for what exists already: state that was loaded from the disk.
// Until as much is given back nobody gets any of what is missing.
func (s *Share) Overdraw(n int64) {
	if n < 0 {
		panic(fmt.Sprintf("budget: %d bytes asked of share %q", n, s.name))
	}
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	s.add(n)
}

// Release gives back n bytes taken before. It panics when more is given back than was taken.
func (s *Share) Release(n int64) {
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	if n < 0 || n > s.used {
		panic(fmt.Sprintf("budget: %d bytes released to share %q with %d used", n, s.name, s.used))
	}
	s.give(n)
}

// take counts n as used if it fits. It panics on a negative n.
func (s *Share) take(n int64) bool {
	if n < 0 {
		panic(fmt.Sprintf("budget: %d bytes asked of share %q", n, s.name))
	}
	b := s.budget
	if n > s.most-s.used || n > s.least-s.used && s.borrowed(s.used+n)-s.borrowed(s.used) > b.total-b.carved-b.lent {
		return false
	}
	s.add(n)
	return true
}

// borrowed is what comes of the pot when used bytes are taken.
func (s *Share) borrowed(used int64) int64 { return max(0, used-s.least) }

// add counts n, which may be negative, as used.
func (s *Share) add(n int64) {
	s.budget.lent += s.borrowed(s.used+n) - s.borrowed(s.used)
	s.used += n
	s.peak = max(s.peak, s.used)
}

// give takes n back and serves whoever waited for it.
func (s *Share) give(n int64) {
	lent := s.budget.lent
	s.add(-n)
	s.grant()
	if s.budget.lent == lent {
		return
	}
	for _, other := range s.budget.shares {
		other.grant()
	}
}

// grant serves the front of the line as far as there is room.
func (s *Share) grant() {
	for e := s.waiters.Front(); e != nil; e = s.waiters.Front() {
		w := e.Value.(*waiter)
		if !s.take(w.n) {
			return
		}
		s.waiters.Remove(e)
		granted := w.granted
		w.granted = nil
		granted()
	}
}

// runtimeOverhead is what the process maps beside the Go heap and the binary: thread stacks, the kernel's buffers for
// it, the vDSO.
const runtimeOverhead = 4 << 20

// HeapLimit is the GOMEMLIMIT that keeps the process's resident memory under limit bytes (`memory.limit`): the limit
// less the binary's mapped pages, which count as resident and which the Go runtime does not see, and less 4 MiB. A
// limit too small for that is an error that names the least one.
func HeapLimit(limit, binaryPages int64) (int64, error) {
	const least = 4 << 20 // a heap below this would be collected all the time
	if binaryPages < 0 || binaryPages > math.MaxInt64-runtimeOverhead-least {
		return 0, fmt.Errorf("budget: %d bytes of binary pages", binaryPages)
	}
	if limit >= binaryPages+runtimeOverhead+least { // in this order nothing overflows
		return limit - binaryPages - runtimeOverhead, nil
	}
	return 0, fmt.Errorf("memory.limit of %d bytes is too small: at least %d", limit, binaryPages+runtimeOverhead+least)
}
