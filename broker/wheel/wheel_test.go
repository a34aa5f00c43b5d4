package wheel_test

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"millrace/broker/wheel"
)

// advance collects what falls due in portions of n.
func advance[P any](w *wheel.Wheel[P], now int64, n int) (all []P) {
	due := make([]P, n)
	for {
		k := w.Advance(now, due)
		all = append(all, due[:k]...)
		if k < n {
			return all
		}
	}
}

func TestEntryExpiresAtItsDeadline(t *testing.T) {
	w := wheel.New[string](wheel.Config{TickMS: 10, Slots: 8, Capacity: 4})
	add(t, w, 30_000, "session")
	if due := advance(w, 29_999, 1); len(due) != 0 {
		t.Fatalf("due before the deadline: %v", due)
	}
	if due := advance(w, 30_000, 1); !slices.Equal(due, []string{"session"}) {
		t.Fatalf("at the deadline: %v", due)
	}
}

func TestDeadlineBetweenTicksIsNeverEarly(t *testing.T) {
	w := wheel.New[int](wheel.Config{TickMS: 10, Slots: 8, Capacity: 4})
	add(t, w, 101, 1)
	if due := advance(w, 109, 4); len(due) != 0 {
		t.Fatalf("due %v at 109", due)
	}
	if due := advance(w, 110, 4); len(due) != 1 {
		t.Fatalf("due %v at 110, within a tick of 101", due)
	}
}

func TestDueInOrder(t *testing.T) {
	w := wheel.New[int64](wheel.Config{TickMS: 1, Slots: 4, Capacity: 100})
	for _, at := range []int64{70, 5, 70, 4096, 17, -3, 5} {
		add(t, w, at, at)
	}
	if due := advance(w, 5000, 2); !slices.Equal(due, []int64{-3, 5, 5, 17, 70, 70, 4096}) {
		t.Errorf("due %v", due)
	}
}

func TestFullIsErrFullAndRoomComesBack(t *testing.T) {
	w := wheel.New[int](wheel.Config{TickMS: 1, Slots: 64, Capacity: 2})
	a := add(t, w, 10, 1)
	add(t, w, 20, 2)
	if _, err := w.Add(30, 3); !errors.Is(err, wheel.ErrFull) {
		t.Fatalf("third of two: %v", err)
	}
	if !w.Cancel(a) {
		t.Fatal("Cancel of a waiting entry")
	}
	b := add(t, w, 30, 3)
	if w.Cancel(a) {
		t.Error("the old handle cancelled the slot's next entry")
	}
	if !w.Cancel(b) || w.Cancel(b) {
		t.Error("an entry is cancelled once")
	}
	if w.Cancel(0) || w.Cancel(math.MaxUint64) {
		t.Error("cancelled an entry that never was")
	}
	if w.Len() != 1 || w.Cap() != 2 {
		t.Errorf("Len %d, Cap %d", w.Len(), w.Cap())
	}
}

func TestCancelOfADueEntryThatWasNotHandedOut(t *testing.T) {
	w := wheel.New[int](wheel.Config{TickMS: 1, Slots: 8, Capacity: 3})
	add(t, w, 5, 1)
	b := add(t, w, 5, 2)
	var due [1]int
	if n := w.Advance(6, due[:]); n != 1 || due[0] != 1 {
		t.Fatalf("due %v, %d", due, n)
	}
	if at, ok := w.Next(); !ok || at > 6 {
		t.Errorf("Next = %d, %v with an entry overdue", at, ok)
	}
	if !w.Cancel(b) {
		t.Error("not cancelled")
	}
	if n := w.Advance(6, due[:]); n != 0 || w.Len() != 0 {
		t.Errorf("%d due, %d left", n, w.Len())
	}
}

func TestFarthestDeadlines(t *testing.T) {
	for _, slots := range []int{2, 8, 64} {
		w := wheel.New[int](wheel.Config{TickMS: 1, Slots: slots, Capacity: 2, NowMS: 1_700_000_000_000})
		add(t, w, math.MaxInt64, 1)
		if due := advance(w, math.MaxInt64-1, 1); len(due) != 0 {
			t.Errorf("%d slots: due %v", slots, due)
		}
		if at, ok := w.Next(); at != math.MaxInt64 || !ok {
			t.Errorf("%d slots: Next = %d, %v", slots, at, ok)
		}
		if due := advance(w, math.MaxInt64, 1); len(due) != 1 {
			t.Errorf("%d slots: not due at the end of time", slots)
		}
	}
}

func TestTimeDoesNotGoBack(t *testing.T) {
	w := wheel.New[int](wheel.Config{TickMS: 1, Slots: 8, Capacity: 1, NowMS: 100})
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	w.Advance(99, nil)
}

func TestNothingIsAllocated(t *testing.T) {
	w := wheel.New[*int](wheel.Config{TickMS: 1, Slots: 64, Capacity: 1000})
	var now int64
	var due [64]*int
	p := new(int)
	if n := testing.AllocsPerRun(1000, func() {
		h, err := w.Add(now+100_000, p)
		if err != nil || !w.Cancel(h) {
			t.Fatal(err)
		}
		for i := range int64(20) {
			if _, err := w.Add(now+i*i, p); err != nil {
				t.Fatal(err)
			}
		}
		now += 400
		w.Advance(now, due[:])
		w.Next()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func add[P any](t *testing.T, w *wheel.Wheel[P], at int64, p P) wheel.Handle {
	t.Helper()
	h, err := w.Add(at, p)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// model is the wheel as a sorted list.
type model struct {
	tick    int64
	entries []entry
}

type entry struct {
	at, id int64 // at in ticks
	handle wheel.Handle
}

// due removes what is due at now, in the order promised.
func (m *model) due(now int64) (ids []int64) {
	slices.SortStableFunc(m.entries, func(a, b entry) int { return cmp.Compare(a.at, b.at) })
	n, _ := slices.BinarySearchFunc(m.entries, now/m.tick+1, func(e entry, at int64) int { return cmp.Compare(e.at, at) })
	for _, e := range m.entries[:n] {
		ids = append(ids, e.id)
	}
	m.entries = slices.Delete(m.entries, 0, n)
	return ids
}

// run drives a wheel and the model with the same steps, read from next(n) in [0, n), until more is false.
func run(t interface{ Fatalf(string, ...any) }, c wheel.Config, next func(n int) int, more func() bool) {
	w := wheel.New[int64](c)
	m := model{tick: c.TickMS}
	now, id := c.NowMS, int64(0)
	stale := []wheel.Handle{0}
	for more() {
		switch next(4) {
		case 0, 1:
			at := max(now+int64(next(3)-1)*int64(next(1<<next(31))), 0)
			h, err := w.Add(at, id)
			if full := len(m.entries) == c.Capacity; full != errors.Is(err, wheel.ErrFull) {
				t.Fatalf("Add with %d of %d: %v", len(m.entries), c.Capacity, err)
			}
			if err == nil {
				// What is past is due by the next tick's order: behind everything that fell due earlier.
				m.entries = append(m.entries, entry{max((at+c.TickMS-1)/c.TickMS, now/c.TickMS), id, h})
			}
			id++
		case 2:
			if len(m.entries) > 0 && next(3) > 0 {
				i := next(len(m.entries))
				e := m.entries[i]
				if !w.Cancel(e.handle) {
					t.Fatalf("entry %d is gone before its time", e.id)
				}
				m.entries = slices.Delete(m.entries, i, i+1)
				stale = append(stale, e.handle)
			} else if h := stale[next(len(stale))]; w.Cancel(h) {
				t.Fatalf("stale handle %x cancelled something", h)
			}
		case 3:
			if at, ok := w.Next(); ok != (len(m.entries) > 0) {
				t.Fatalf("Next says %v with %d entries", ok, len(m.entries))
			} else if ok && next(2) == 0 {
				now = max(now, at) // as the pulse does
			} else {
				now += int64(next(1 << next(31)))
			}
			if got, want := advance(w, now, 1+next(5)), m.due(now); !slices.Equal(got, want) {
				t.Fatalf("due at %d: %v, want %v", now, got, want)
			}
		}
		if w.Len() != len(m.entries) {
			t.Fatalf("Len = %d, want %d", w.Len(), len(m.entries))
		}
		at, ok := w.Next()
		for _, e := range m.entries {
			if !ok || at > e.at*c.TickMS {
				t.Fatalf("Next = %d, %v: an entry is due at %d", at, ok, e.at*c.TickMS)
			}
		}
	}
}

func TestAgainstASortedList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := wheel.Config{
			TickMS:   rapid.Int64Range(1, 20).Draw(t, "tick"),
			Slots:    rapid.SampledFrom([]int{2, 4, 8, 64}).Draw(t, "slots"),
			Capacity: rapid.IntRange(1, 40).Draw(t, "capacity"),
			NowMS:    rapid.SampledFrom([]int64{0, 1, 63, 1_700_000_000_000}).Draw(t, "now"),
		}
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		steps := rapid.IntRange(1, 300).Draw(t, "steps")
		run(t, c, rng.IntN, func() bool { steps--; return steps >= 0 })
	})
}

func FuzzWheel(f *testing.F) {
	f.Add(byte(1), byte(3), []byte("\x00\x02\x09\xff\x03\x00\x02\x09\xff\x03"))
	f.Fuzz(func(t *testing.T, tick, slots byte, steps []byte) {
		c := wheel.Config{TickMS: int64(tick)%20 + 1, Slots: 2 << (slots % 6), Capacity: 20}
		next := func(n int) int {
			v := 0
			for k := n - 1; k > 0 && len(steps) > 0; k >>= 8 {
				v = v<<8 | int(steps[0])
				steps = steps[1:]
			}
			return v % n
		}
		run(t, c, next, func() bool { return len(steps) > 0 })
	})
}

// The figures of goals.md row 14: one operation is an add and a cancel, or an add and its expiry, with n entries in
// the wheel.
func BenchmarkWheel(b *testing.B) {
	for _, n := range []int{1000, 100_000, 1_000_000} {
		fill := func() (*wheel.Wheel[int64], *rand.Rand) {
			w := wheel.New[int64](wheel.Config{TickMS: 1, Slots: 64, Capacity: n + 1})
			rng := rand.New(rand.NewPCG(1, 2))
			for i := range n {
				if _, err := w.Add(30_000+rng.Int64N(60_000), int64(i)); err != nil {
					b.Fatal(err)
				}
			}
			return w, rng
		}
		b.Run(fmt.Sprintf("add+cancel/%d", n), func(b *testing.B) {
			w, _ := fill()
			b.ReportAllocs()
			for i := range int64(b.N) {
				h, err := w.Add(30_000+i&0xffff, i)
				if err != nil || !w.Cancel(h) {
					b.Fatal(err)
				}
			}
		})
		// A steady state of entries with one timeout of 30 s, as sessions or requests of one kind have: each that
		// expires is added again.
		b.Run(fmt.Sprintf("add+expire/%d", n), func(b *testing.B) {
			expiring(b, n, func(i int) int64 { return int64(i) * 30_000 / int64(n) }, func() int64 { return 30_000 })
		})
		// The worst: timeouts anywhere between 15 and 45 s, so that neighbours in time are strangers in memory.
		b.Run(fmt.Sprintf("add+expire-scattered/%d", n), func(b *testing.B) {
			rng := rand.NewPCG(1, 2)
			timeout := func() int64 { return 15_000 + int64(rng.Uint64()>>32*30_000>>32) }
			expiring(b, n, func(int) int64 { return timeout() }, timeout)
		})
	}
}

// expiring measures adds and expiries with n entries in the wheel.
func expiring(b *testing.B, n int, first func(i int) int64, timeout func() int64) {
	w := wheel.New[int64](wheel.Config{TickMS: 1, Slots: 64, Capacity: n})
	for i := range n {
		if _, err := w.Add(first(i), int64(i)); err != nil {
			b.Fatal(err)
		}
	}
	var due [256]int64
	var now int64
	expire := func(n int) {
		for done := 0; done < n; {
			if at, ok := w.Next(); ok {
				now = max(now, at)
			}
			k := w.Advance(now, due[:])
			for _, p := range due[:k] {
				if _, err := w.Add(now+timeout(), p); err != nil {
					b.Fatal(err)
				}
			}
			done += k
		}
	}
	expire(2 * n) // into the steady state
	b.ReportAllocs()
	b.ResetTimer()
	expire(b.N)
}

// The same with the Go runtime's timers.
func BenchmarkRuntime(b *testing.B) {
	for _, n := range []int{1000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("add+cancel/%d", n), func(b *testing.B) {
			rng := rand.New(rand.NewPCG(1, 2))
			timers := make([]*time.Timer, n)
			for i := range timers {
				timers[i] = time.AfterFunc(time.Hour+time.Duration(rng.Int64N(int64(time.Hour))), func() {})
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				if !time.AfterFunc(time.Hour+time.Duration(i&0xffff)*time.Millisecond, func() {}).Stop() {
					b.Fatal("went off")
				}
			}
			b.StopTimer()
			for _, t := range timers {
				t.Stop()
			}
		})
		b.Run(fmt.Sprintf("add+expire/%d", n), func(b *testing.B) {
			rng := rand.New(rand.NewPCG(1, 2))
			timers := make([]*time.Timer, n)
			for i := range timers {
				timers[i] = time.AfterFunc(time.Hour+time.Duration(rng.Int64N(int64(time.Hour))), func() {})
			}
			due := make(chan struct{}, 1024)
			b.ReportAllocs()
			b.ResetTimer()
			for done := 0; done < b.N; done += cap(due) {
				for range cap(due) {
					time.AfterFunc(0, func() { due <- struct{}{} })
				}
				for range cap(due) {
					<-due
				}
			}
			b.StopTimer()
			for _, t := range timers {
				t.Stop()
			}
		})
	}
}
