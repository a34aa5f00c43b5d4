// Package wheel is a bounded hierarchical timing wheel: O(1) add and cancel, no allocation after New, and no clock of
// its own.
//
// It is Kafka's timing wheel (a tick, a wheel size, overflow wheels whose tick is the whole turn of the wheel below,
// lists with a sentinel, re-insertion when an overflow bucket comes up) with one difference: a deadline's bucket is
// found from the highest digit, in base Slots, in which it differs from the current tick. So every entry of a level is
// due before any entry of the level above, buckets never wrap around, and the next bucket is one bit operation away.
package wheel

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
)

// ErrFull is returned by Add when the wheel holds as many entries as it was made for. The caller answers its request
// at once instead of waiting.
var ErrFull = errors.New("wheel: full")

// MaxCapacity is the largest number of entries one wheel can hold.
const MaxCapacity = 1<<indexBits - 1<<10

const (
	indexBits      = 24
	indexMask      = 1<<indexBits - 1
	generationMask = 1<<(64-indexBits) - 1
	maxSlots       = 64 // one bit of a word for each bucket of a level
)

// Config sizes a wheel.
type Config struct {
	// TickMS is the resolution in milliseconds, at least 1. An entry is never due before its deadline, and less than
	// one tick after it.
	TickMS int64
	// Slots is the number of buckets of each level: a power of two, 2 to 64.
	Slots int
	// Capacity is the number of entries the wheel can hold, 1 to MaxCapacity. Their memory is taken at once.
	Capacity int
	// NowMS is the time the wheel starts at, in milliseconds since any fixed instant, at least 0.
	NowMS int64
}

// Handle names one entry. It stays safe to use after the entry is gone: a slot's generation changes with every use,
// so an old handle cancels nothing. The zero Handle names no entry.
type Handle uint64

// Wheel holds entries of type P, each with a deadline. It is not safe for concurrent use.
type Wheel[P any] struct {
	slab []slot[P] // sentinels first, then the entries
	// Invariant: bit s of occupied[l] is set exactly when bucket s of level l holds an entry.
	occupied []uint64
	tick     int64
	shift    uint  // log2 of Slots
	now      int64 // in ticks; every entry due at or before it is in the due list
	due      int32 // sentinel of the list of entries that fell due and were not handed out
	free     int32 // first free slot, -1 when there is none; linked through next
	len      int
}

// slot is an entry or the sentinel of a list.
type slot[P any] struct {
	deadline   int64 // in ticks
	generation uint64
	next, prev int32
	payload    P
}

// New makes a wheel. It panics on a Config out of range: sizes are the program's, never a peer's.
func New[P any](c Config) *Wheel[P] {
	if c.TickMS < 1 || c.Slots < 2 || c.Slots > maxSlots || c.Slots&(c.Slots-1) != 0 ||
		c.Capacity < 1 || c.Capacity > MaxCapacity || c.NowMS < 0 {
		panic(fmt.Sprintf("wheel: config out of range: %+v", c))
	}
	shift := uint(bits.TrailingZeros(uint(c.Slots)))
	levels := (63 + int(shift) - 1) / int(shift) // every digit of a positive int64
	sentinels := levels*c.Slots + 1
	w := &Wheel[P]{
		slab:     make([]slot[P], sentinels+c.Capacity),
		occupied: make([]uint64, levels),
		tick:     c.TickMS,
		shift:    shift,
		now:      c.NowMS / c.TickMS,
		due:      int32(sentinels - 1),
		free:     int32(sentinels),
	}
	for i := range sentinels {
		w.slab[i].next, w.slab[i].prev = int32(i), int32(i)
	}
	for i := sentinels; i < len(w.slab); i++ {
		w.slab[i].generation = 1
		w.slab[i].next = int32(i + 1)
	}
	w.slab[len(w.slab)-1].next = -1
	return w
}

// Len is the number of entries in the wheel, those that are due and not yet handed out included.
func (w *Wheel[P]) Len() int { return w.len }

// Cap is the number of entries the wheel can hold.
func (w *Wheel[P]) Cap() int { return len(w.slab) - int(w.due) - 1 }

// Add puts p into the wheel, to be handed out by the first Advance to deadlineMS or later; a deadline that has passed
// is handed out by the next Advance. It returns ErrFull when the wheel is full.
func (w *Wheel[P]) Add(deadlineMS int64, p P) (Handle, error) {
	i := w.free
	if i < 0 {
		return 0, ErrFull
	}
	s := &w.slab[i]
	w.free = s.next
	w.len++
	s.payload = p
	s.deadline = w.ticksUp(deadlineMS)
	w.insert(i)
	return Handle(s.generation<<indexBits | uint64(i)), nil
}

// Cancel takes the entry out and reports whether it was still in the wheel. It is false for an entry that was handed
// out or cancelled before, whatever its slot holds now.
func (w *Wheel[P]) Cancel(h Handle) bool {
	i := int32(h & indexMask)
	if i <= w.due || int(i) >= len(w.slab) || w.slab[i].generation != uint64(h>>indexBits) {
		return false
	}
	w.unlink(i)
	w.release(i)
	return true
}

// Advance moves the wheel to nowMS and fills due with payloads whose deadline has passed, in the order of their ticks
// and within one tick in the order of their adding. It returns how many it filled in; when due is full there may be
// more, and the caller asks again with the same time. It panics when time goes back.
func (w *Wheel[P]) Advance(nowMS int64, due []P) int {
	now := nowMS / w.tick
	if now < w.now {
		panic(fmt.Sprintf("wheel: time went back from %d to %d ms", w.now*w.tick, nowMS))
	}
	n := 0
	for {
		for w.slab[w.due].next != w.due {
			if n == len(due) {
				return n
			}
			i := w.slab[w.due].next
			due[n] = w.slab[i].payload
			n++
			w.unlink(i)
			w.release(i)
		}
		list, at, ok := w.nextBucket()
		if !ok || at > now {
			w.now = now
			return n
		}
		w.now = at
		w.empty(list)
	}
}

// Next is the time in milliseconds to call Advance at: the earliest bucket that holds an entry. It is never after the
// earliest deadline's tick, and may be before it, when that entry still waits in an overflow wheel; so each entry costs
// at most one wake-up for each level it passes. ok is false when the wheel is empty.
func (w *Wheel[P]) Next() (atMS int64, ok bool) {
	if w.slab[w.due].next != w.due {
		return w.now * w.tick, true
	}
	_, at, ok := w.nextBucket()
	if at > math.MaxInt64/w.tick {
		return math.MaxInt64, ok
	}
	return at * w.tick, ok
}

// ticksUp rounds a time up to ticks, so that nothing is due early.
func (w *Wheel[P]) ticksUp(ms int64) int64 {
	if ms <= 0 {
		return 0
	}
	return (ms-1)/w.tick + 1
}

// insert links entry i into the bucket of its deadline.
func (w *Wheel[P]) insert(i int32) {
	deadline := w.slab[i].deadline
	if deadline <= w.now {
		w.link(w.due, i)
		return
	}
	level := uint(bits.Len64(uint64(deadline^w.now))-1) / w.shift
	digit := uint(deadline>>(level*w.shift)) & (1<<w.shift - 1)
	w.occupied[level] |= 1 << digit
	w.link(int32(level<<w.shift|digit), i)
}

// nextBucket finds the earliest bucket that holds an entry, and the tick it begins at. Entries of the bucket the
// current tick lies in are in lower levels, and buckets before it are empty, so the first set bit is the one.
func (w *Wheel[P]) nextBucket() (list int32, at int64, ok bool) {
	for level, occupied := range w.occupied {
		if occupied == 0 {
			continue
		}
		digit := uint(bits.TrailingZeros64(occupied))
		shift := uint(level) * w.shift
		at = w.now >> shift >> w.shift << w.shift << shift // this turn of the level
		return int32(uint(level)<<w.shift | digit), at | int64(digit)<<shift, true
	}
	return 0, 0, false
}

// empty moves the entries of a bucket that has come up into lower levels, or when it is of the lowest, where all have
// one deadline, in one step behind the due list.
func (w *Wheel[P]) empty(list int32) {
	first, last := w.slab[list].next, w.slab[list].prev
	w.slab[list].next, w.slab[list].prev = list, list
	w.occupied[list>>w.shift] &^= 1 << (list & (1<<w.shift - 1))
	if list < 1<<w.shift {
		end := w.slab[w.due].prev
		w.slab[end].next, w.slab[first].prev = first, end
		w.slab[last].next, w.slab[w.due].prev = w.due, last
		return
	}
	for i := first; i != list; {
		next := w.slab[i].next
		w.insert(i)
		i = next
	}
}

// link puts entry i at the end of a list.
func (w *Wheel[P]) link(list, i int32) {
	last := w.slab[list].prev
	w.slab[i].next, w.slab[i].prev = list, last
	w.slab[last].next = i
	w.slab[list].prev = i
}

// unlink takes entry i out of whatever list it is in. An entry whose neighbours are one and the same is the last of
// its list, and that neighbour is the sentinel, whose index says which bucket is empty now.
func (w *Wheel[P]) unlink(i int32) {
	next, prev := w.slab[i].next, w.slab[i].prev
	w.slab[prev].next = next
	w.slab[next].prev = prev
	if next == prev && next < w.due {
		w.occupied[next>>w.shift] &^= 1 << (next & (1<<w.shift - 1))
	}
}

// release returns an unlinked entry to the free list and makes its handle stale.
func (w *Wheel[P]) release(i int32) {
	s := &w.slab[i]
	var none P
	s.payload = none // let the collector have what it pointed to
	if s.generation = (s.generation + 1) & generationMask; s.generation == 0 {
		s.generation = 1
	}
	s.next = w.free
	w.free = i
	w.len--
}
