package badlink

import (
	"slices"
	"time"
)

// flow is one direction of a link; the link's mutex is for it.
type flow struct {
	bytes int64 // that were handed on
	// tokens are bytes that may go at once, as of at. Invariant: at most a twentieth of a second's.
	tokens float64
	at     time.Time
	fuses  []*fuse
}

// fuse is something that happens when so many more bytes have gone.
type fuse struct {
	left int64
	fire func()
}

// after has fire be called once when n more bytes have gone in a direction.
func (l *Link) after(d Direction, n int64, fire func()) {
	if n <= 0 {
		fire()
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flows[d].fuses = append(l.flows[d].fuses, &fuse{n, fire})
}

// take says how many of n bytes may go now, at least one, and they are counted as gone; or how long to wait before it is
// asked again. Then those of fired are to be called, when the bytes have gone.
func (l *Link) take(d Direction, n int) (some int, wait time.Duration, fired []func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := &l.flows[d]
	for _, fuse := range f.fuses {
		n = int(min(int64(n), fuse.left))
	}
	if rate := float64([...]int64{l.conditions.Up, l.conditions.Down}[d]); rate > 0 {
		now := time.Now()
		burst := max(rate/20, 1)
		f.tokens = min(burst, f.tokens+rate*now.Sub(f.at).Seconds())
		f.at = now
		if want := min(float64(n), burst); f.tokens < want {
			return 0, time.Duration((want-f.tokens)/rate*float64(time.Second)) + time.Microsecond, nil
		}
		n = min(n, int(f.tokens))
		f.tokens -= float64(n)
	}
	f.bytes += int64(n)
	f.fuses = slices.DeleteFunc(f.fuses, func(fuse *fuse) bool {
		if fuse.left -= int64(n); fuse.left > 0 {
			return false
		}
		fired = append(fired, fuse.fire)
		return true
	})
	return n, 0, fired
}
