package purgatory

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// op is an operation that is ready when told so.
type op struct {
	ready     atomic.Bool
	cost      int64
	completed atomic.Int32
	expired   atomic.Int32
	// asked, if set, is called by Ready with the number of the call, before it answers.
	asked func(call int32)
	calls atomic.Int32
}

func (o *op) Ready() bool {
	call := o.calls.Add(1)
	if o.asked != nil {
		o.asked(call)
	}
	return o.ready.Load()
}

func (o *op) Complete(expired bool) {
	o.completed.Add(1)
	if expired {
		o.expired.Add(1)
	}
}

func (o *op) Cost() int64 { return o.cost }

// want checks how the operation ended.
func (o *op) want(t *testing.T, completed, expired int32) {
	t.Helper()
	if c, e := o.completed.Load(), o.expired.Load(); c != completed || e != expired {
		t.Errorf("completed %d times, %d of them expired; want %d and %d", c, e, completed, expired)
	}
}

// clock is the time of a test.
type clock struct {
	ms     atomic.Int64
	wanted atomic.Int64 // last Wake
}

// purgatory makes one with room for three operations, and checks on the way out that nothing is held.
func purgatory(t *testing.T) (*Purgatory[string], *clock) {
	c := &clock{}
	p := New[string](Config{Ops: 3, Keys: 6, Cost: 100, NowMS: c.ms.Load, Wake: c.wanted.Store})
	t.Cleanup(func() {
		p.Close()
		empty(t, p)
	})
	return p, c
}

func empty[K comparable](t *testing.T, p *Purgatory[K]) {
	t.Helper()
	if p.Len() != 0 || p.Cost() != 0 || p.keys != 0 || len(p.lists) != 0 {
		t.Errorf("%d operations, cost %d, %d keys, %d lists left", p.Len(), p.Cost(), p.keys, len(p.lists))
	}
}

func watch(t *testing.T, p *Purgatory[string], o *op, waitMS int64, keys ...string) Ticket[string] {
	t.Helper()
	ticket, err := p.Watch(o, keys, waitMS)
	if err != nil {
		t.Fatal(err)
	}
	return ticket
}

func TestReadyAtOnceIsNotParked(t *testing.T) {
	p, _ := purgatory(t)
	o := &op{}
	o.ready.Store(true)
	watch(t, p, o, 100, "a")
	o.want(t, 1, 0)
	empty(t, p)
}

func TestNoWaitExpiresAtOnce(t *testing.T) {
	p, _ := purgatory(t)
	o := &op{}
	watch(t, p, o, 0, "a")
	o.want(t, 1, 1)
	empty(t, p)
}

func TestCompletedByAnyOfItsKeysAndGoneFromAll(t *testing.T) {
	p, _ := purgatory(t)
	o, other := &op{cost: 10}, &op{cost: 5}
	watch(t, p, o, 100, "a", "b", "c")
	watch(t, p, other, 100, "b")
	if n := p.Check("b"); n != 0 {
		t.Fatalf("%d completed, none was ready", n)
	}
	o.ready.Store(true)
	if n := p.Check("unknown"); n != 0 {
		t.Fatalf("%d completed under a key nobody watches", n)
	}
	if n := p.Check("b"); n != 1 {
		t.Fatalf("%d completed, want 1", n)
	}
	o.want(t, 1, 0)
	other.want(t, 0, 0)
	if p.Len() != 1 || p.keys != 1 || len(p.lists) != 1 || p.Cost() != 5 {
		t.Errorf("%d operations under %d keys in %d lists at cost %d: only the other should be left",
			p.Len(), p.keys, len(p.lists), p.Cost())
	}
	if p.Check("a") != 0 || p.Check("c") != 0 {
		t.Error("completed again")
	}
}

func TestExpiresAtItsDeadline(t *testing.T) {
	p, c := purgatory(t)
	c.ms.Store(1000)
	o, later := &op{}, &op{}
	watch(t, p, o, 50, "a")
	if c.wanted.Load() != 1050 {
		t.Errorf("the pulse was told %d", c.wanted.Load())
	}
	watch(t, p, later, 1<<62, "a")
	p.Advance(1049)
	o.want(t, 0, 0)
	p.Advance(1050)
	o.want(t, 1, 1)
	later.want(t, 0, 0)
	if f := p.Figures(); f.Ops != 1 || f.Keys != 1 || f.Expired != 1 || f.MaxOps != p.wheel.Cap() || f.MaxKeys != p.config.Keys || f.MaxCost != p.config.Cost {
		t.Errorf("%+v", f)
	}
}

// What an operation waits for may happen after the first check and before it is watched: nobody would wake it.
func TestEventBetweenCheckAndWatchIsNotMissed(t *testing.T) {
	p, _ := purgatory(t)
	o := &op{}
	o.asked = func(call int32) {
		if call == 2 {
			o.ready.Store(true) // after the first answer: its Check has found nobody
		}
	}
	watch(t, p, o, 100, "a")
	o.want(t, 1, 0)
	empty(t, p)
}

func TestFullIsSaidAtOnceAndRoomComesBack(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fills []*op
		keys  []string
	}{
		{"operations", []*op{{}, {}, {}}, []string{"a"}},
		{"keys", []*op{{}, {}}, []string{"a", "b", "c"}},
		{"cost", []*op{{cost: 50}, {cost: 50}}, []string{"a"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, _ := purgatory(t)
			for _, o := range tt.fills {
				watch(t, p, o, 100, tt.keys...)
			}
			o := &op{cost: 1}
			if _, err := p.Watch(o, tt.keys, 100); !errors.Is(err, ErrFull) {
				t.Fatalf("Watch = %v", err)
			}
			o.want(t, 0, 0)
			tt.fills[0].ready.Store(true)
			if n := p.Check("a"); n != 1 {
				t.Fatalf("%d completed", n)
			}
			watch(t, p, o, 100, "a")
		})
	}
}

func TestCancelledIsNeverCompleted(t *testing.T) {
	p, _ := purgatory(t)
	o := &op{}
	ticket := watch(t, p, o, 100, "a", "b")
	if !p.Cancel(ticket) || p.Cancel(ticket) || p.Cancel(Ticket[string]{}) {
		t.Error("want true, then false, and false for none")
	}
	empty(t, p)
	o.ready.Store(true)
	p.Check("a")
	p.Advance(1000)
	o.want(t, 0, 0)
}

func TestCloseCompletesAllAndRefuses(t *testing.T) {
	p, _ := purgatory(t)
	a, b := &op{}, &op{}
	watch(t, p, a, 100, "a", "b")
	watch(t, p, b, 100, "b")
	p.Close()
	a.want(t, 1, 1)
	b.want(t, 1, 1)
	empty(t, p)
	if _, err := p.Watch(&op{}, []string{"a"}, 100); !errors.Is(err, ErrClosed) {
		t.Errorf("Watch after Close = %v", err)
	}
}

// Complete may use the purgatory: the answer to one request is where the next is read.
func TestCompleteMayWatchAgain(t *testing.T) {
	p, c := purgatory(t)
	second := &op{}
	first := &chained{next: func() { watch(t, p, second, 100, "a") }}
	if _, err := p.Watch(first, []string{"a"}, 10); err != nil {
		t.Fatal(err)
	}
	c.ms.Store(10)
	p.Advance(10)
	if p.Len() != 1 {
		t.Errorf("%d wait, want the second", p.Len())
	}
}

type chained struct {
	op
	next func()
}

func (o *chained) Complete(bool) { o.next() }

// Everybody at once: each operation ends exactly once, completed or cancelled, none is left behind, and one whose key
// was checked after it became ready never waits for its deadline.
func TestExactlyOnceUnderStress(t *testing.T) {
	const watchers, each, keys = 4, 3000, 8
	var now atomic.Int64
	p := New[int](Config{Ops: 64, Keys: 256, Cost: 1 << 20, NowMS: now.Load, Wake: func(int64) {}})
	var recent [keys]atomic.Pointer[op]
	var full, cancelled atomic.Int64
	ops := make([][]*op, watchers)
	gone := make([][]bool, watchers) // answered by the caller: cancelled or refused

	stop := make(chan struct{})
	var background sync.WaitGroup
	background.Go(func() { // the pulse
		for {
			select {
			case <-stop:
				return
			default:
				p.Advance(now.Add(1))
			}
		}
	})
	for i := range 2 { // committers
		background.Go(func() {
			rng := rand.New(rand.NewPCG(2, uint64(i)))
			for {
				select {
				case <-stop:
					return
				default:
				}
				k := rng.IntN(keys)
				if o := recent[k].Load(); o != nil {
					o.ready.Store(true)
				}
				p.Check(k)
			}
		})
	}
	var all sync.WaitGroup
	for i := range watchers {
		ops[i], gone[i] = make([]*op, each), make([]bool, each)
		all.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(i)))
			for j := range each {
				o := &op{cost: int64(rng.IntN(50))}
				ops[i][j] = o
				watched := rng.Perm(keys)[:1+rng.IntN(3)]
				for _, k := range watched {
					recent[k].Store(o)
				}
				ticket, err := p.Watch(o, watched, int64(rng.IntN(2000)))
				switch {
				case errors.Is(err, ErrFull):
					full.Add(1)
					gone[i][j] = true
				case err != nil:
					t.Error(err)
				case rng.IntN(8) == 0 && p.Cancel(ticket):
					cancelled.Add(1)
					gone[i][j] = true
				}
			}
		})
	}
	all.Wait()
	close(stop)
	background.Wait()
	p.Close()
	empty(t, p)
	for i := range ops {
		for j, o := range ops[i] {
			want := int32(1)
			if gone[i][j] {
				want = 0
			}
			if got := o.completed.Load(); got != want {
				t.Fatalf("operation %d/%d completed %d times, want %d", i, j, got, want)
			}
		}
	}
	t.Logf("%d operations, %d refused, %d cancelled", watchers*each, full.Load(), cancelled.Load())
}

func BenchmarkCheckNobodyWaits(b *testing.B) {
	for _, waiting := range []int{0, 500} {
		b.Run(fmt.Sprint(waiting), func(b *testing.B) {
			p := New[[20]byte](Config{Ops: 1000, Keys: 1000, Cost: 1 << 20, NowMS: func() int64 { return 0 }, Wake: func(int64) {}})
			for i := range waiting {
				if _, err := p.Watch(&op{}, [][20]byte{{1, byte(i), byte(i >> 8)}}, 1000); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					p.Check([20]byte{2})
				}
			})
		})
	}
}

func BenchmarkWatchAndComplete(b *testing.B) {
	for _, keys := range []int{1, 10, 500} {
		b.Run(fmt.Sprint(keys), func(b *testing.B) {
			p := New[int](Config{Ops: 1000, Keys: 1 << 20, Cost: 1 << 20, NowMS: func() int64 { return 0 }, Wake: func(int64) {}})
			var next atomic.Int64
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				watched := make([]int, keys)
				base := int(next.Add(1)) * 1000
				for i := range watched {
					watched[i] = base + i
				}
				for pb.Next() {
					o := &op{}
					if _, err := p.Watch(o, watched, 1000); err != nil {
						b.Fatal(err)
					}
					o.ready.Store(true)
					if p.Check(base) != 1 {
						b.Fatal("not completed")
					}
				}
			})
		})
	}
}
