package server

import (
	"math/bits"
	"sync"

	"millrace/broker/budget"
)

const (
	// classMin and classMax bound the sizes of body buffers that are kept for the next request.
	classMin, classMax = 512, 2 << 20
	// keepMax bounds the bytes of buffers kept while nobody uses them: the requests of a megabyte that one producer has under
	// way. With half as much every second one was a fresh megabyte, and bulk produce took a fifth more CPU.
	keepMax = 4 << 20
)

// bodies makes buffers for request bodies. What is in use was taken from the share; a few are kept for the next
// request, because clearing a fresh megabyte costs more than checking what is sent in it.
type bodies struct {
	share *budget.Share

	mu   sync.Mutex
	free map[int][][]byte // by their cost
	kept int              // Invariant: the sum of the sizes of what is in free, at most keepMax and the share's size.
}

// cost is what a body of n bytes takes from the share, never more than the share has: the next power of two or a
// quarter, half or three quarters of the way to it.
func (b *bodies) cost(n int) int {
	if n > classMax {
		return n
	}
	n = max(n, classMin)
	step := 1 << bits.Len(uint(n-1)) / 8
	return int(min(int64((n+step-1)/step*step), b.share.Size()))
}

// get returns a buffer of n bytes, whose cost was taken from the share.
func (b *bodies) get(n int) []byte {
	cost := b.cost(n)
	b.mu.Lock()
	if l := len(b.free[cost]); l > 0 {
		p := b.free[cost][l-1]
		b.free[cost][l-1] = nil
		b.free[cost] = b.free[cost][:l-1]
		b.kept -= cap(p)
		b.mu.Unlock()
		return p[:n]
	}
	if b.kept > 0 && b.share.Used()+int64(b.kept) > b.share.Size() { // what is kept is of no use to those of today
		clear(b.free)
		b.kept = 0
	}
	b.mu.Unlock()
	return make([]byte, n, cost)
}

// put takes back a buffer of get and gives its cost back to the share.
func (b *bodies) put(p []byte) {
	cost := b.cost(len(p))
	if cost == cap(p) && cost <= classMax {
		b.mu.Lock()
		if int64(b.kept+cost) <= min(keepMax, b.share.Size()) {
			if b.free == nil {
				b.free = make(map[int][][]byte)
			}
			b.kept += cost
			b.free[cost] = append(b.free[cost], p)
		}
		b.mu.Unlock()
	}
	b.share.Release(int64(cost))
}
