package server

import (
	"math/bits"
	"sync"

	"millrace/broker/budget"
)

const (
	// classMin and classMax bound the sizes of body buffers that are kept for the next request: powers of two.
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
	free [22][][]byte // by the logarithm of their size
	kept int          // Invariant: the sum of the sizes of what is in free, <= keepMax.
}

// cost is what a body of n bytes takes from the share, never more than the share has.
func (b *bodies) cost(n int) int {
	if n > classMax {
		return n
	}
	return int(min(int64(1)<<bits.Len(uint(max(n, classMin)-1)), b.share.Size()))
}

// get returns a buffer of n bytes, whose cost was taken from the share.
func (b *bodies) get(n int) []byte {
	cost := b.cost(n)
	class := bits.Len(uint(cost - 1))
	if cost <= classMax {
		b.mu.Lock()
		if l := len(b.free[class]); l > 0 {
			p := b.free[class][l-1]
			b.free[class] = b.free[class][:l-1]
			b.kept -= cap(p)
			b.mu.Unlock()
			return p[:n]
		}
		b.mu.Unlock()
	}
	return make([]byte, n, cost)
}

// put takes back a buffer of get and gives its cost back to the share.
func (b *bodies) put(p []byte) {
	cost := b.cost(len(p))
	if cost == cap(p) && cost <= classMax {
		class := bits.Len(uint(cost - 1))
		b.mu.Lock()
		if b.kept+cost <= keepMax {
			b.kept += cost
			b.free[class] = append(b.free[class], p)
		}
		b.mu.Unlock()
	}
	b.share.Release(int64(cost))
}
