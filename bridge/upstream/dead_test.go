package upstream_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/upstream"
	"millrace/bridge/upstream/upstreamtest"
)

// Topics come and go: those that are gone take no room from others, neither while the link runs nor when it reads what
// they have left upstream, and that does not grow for ever.
func TestTopicsThatWereDeletedLeaveRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, upstream.Config{Partitions: 8}, nil)
		defer func() { w.board.kill() }()
		arrived := func(name string) {
			t.Helper()
			if n := len(w.kafka.Committed(name, 0)); n != 1 {
				t.Fatalf("%d records of %s arrived: %+v", n, name, w.board.link.Status())
			}
		}
		cursors := func() int {
			w.kafka.Compact(upstream.DefaultCursorTopic)
			live := map[string]bool{}
			for i := range w.kafka.Partitions(upstream.DefaultCursorTopic) {
				for _, r := range w.kafka.Committed(upstream.DefaultCursorTopic, i) {
					live[string(r.Key)] = r.Value != nil
					if r.Value == nil {
						delete(live, string(r.Key))
					}
				}
			}
			return len(live)
		}
		for i := range 20 {
			name := fmt.Sprintf("s.t%d", i)
			plainly(nil, w.log.Create(name, 1, false)[0], 1, "x")
			time.Sleep(time.Minute)
			arrived(name)
			w.log.Delete(name)
		}
		if s := w.board.link.Status(); s.Partitions != 4 || s.Left != 0 {
			t.Errorf("%d partitions are carried, %d left out", s.Partitions, s.Left)
		}
		if n := cursors(); n > 4+8+1 { // those that are there, as many of others, and the last one
			t.Errorf("%d cursors are upstream", n)
		}
		// More are deleted while the link is away than it keeps cursors of.
		w.board.kill()
		for i := range 48 {
			name := fmt.Sprintf("s.u%d", i)
			plainly(nil, w.log.Create(name, 1, false)[0], 1, "x")
			if i%4 == 3 {
				w.board = w.start()
				w.board.drained(t)
				w.board.kill()
				for k := i - 3; k <= i; k++ {
					arrived(fmt.Sprintf("s.u%d", k))
					w.log.Delete(fmt.Sprintf("s.u%d", k))
				}
			}
		}
		w.board = w.start()
		for i := range 4 { // each transaction of the link takes some with it
			name := fmt.Sprintf("s.v%d", i)
			plainly(nil, w.log.Create(name, 1, false)[0], 1, "x")
			time.Sleep(time.Minute)
			arrived(name)
			w.log.Delete(name)
		}
		if n := cursors(); n > 4+8+1 {
			t.Errorf("%d cursors are upstream", n)
		}
	})
}

// The cursor of a topic outlives it: made anew the topic stops, whether the link has seen that it was away or not. Only where
// many others were deleted since, it begins anew.
func TestATopicMadeAnewAfterItWasSeenToBeGone(t *testing.T) {
	for _, tt := range []struct {
		others  int
		stopped bool
	}{{1, true}, {20, false}} {
		synctest.Test(t, func(t *testing.T) {
			w := begin(t, upstream.Config{Partitions: 8}, nil)
			defer func() { w.board.kill() }()
			plainly(nil, w.parts[3], 10, "x")
			w.board.drained(t)
			w.log.Delete("s.b")
			for i := range tt.others {
				name := fmt.Sprintf("s.t%d", i)
				plainly(nil, w.log.Create(name, 1, false)[0], 1, "x")
				w.board.drained(t)
				w.log.Delete(name)
			}
			plainly(nil, w.log.Create("s.b", 1, false)[0], 5, "anew")
			if tt.stopped {
				stopped(t, w.board, "s.b", 0, upstream.LocalAnew)
				return
			}
			w.board.drained(t)
			if n := len(w.kafka.Committed("s.b", 0)); n != 15 {
				t.Errorf("%d records arrived", n)
			}
		})
	}
}

// A stopped partition whose topic is deleted needs no decision any more.
func TestAStoppedPartitionWhoseTopicIsDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, upstream.Config{}, nil)
		defer func() { w.board.kill() }()
		plainly(nil, w.parts[0], 10, "x")
		w.board.drained(t)
		w.board.kill()
		w.log.Create("s.a", 3, false)
		w.board = w.start()
		stopped(t, w.board, "s.a", 0, upstream.LocalAnew)
		w.log.Delete("s.a")
		if s := w.board.link.Status(); s.Stopped != 0 || len(s.List) != 0 || s.Partitions != 1 {
			t.Errorf("status says %+v", s)
		}
		if err := w.board.link.Resolve(t.Context(), "s.a", 0, upstream.Decision{}); !errors.Is(err, upstream.ErrUnknownPartition) {
			t.Errorf("a decision about it: %v", err)
		}
	})
}

// Topics are deleted and made anew at random over a bad link, few names for many topics, with tombstones all the time: no record
// comes twice, and all of a topic come that is there in the end, unless it is stopped for it was made anew.
func TestTopicsComeAndGo(t *testing.T) {
	anew, began := 0, 0
	for _, seed := range seeds(10) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, seed, upstream.Config{Partitions: 6, Order: upstream.Order(seed % 2), TransactionBytes: 2000, LiveBehind: time.Millisecond})
			w.log.Delete("s.a")
			w.log.Delete("s.b")
			if w.rng.IntN(2) == 0 {
				w.hint = &older{rng: w.rng}
			}
			w.board = w.start()
			defer func() { w.board.kill() }()
			lives := map[string]int{} // how often each topic was made
			there := map[string]*upstreamtest.Partition{}
			for range 10 * *rounds {
				w.kafka.Fail(upstreamtest.Faults{
					Lost: w.rng.Float64() * 0.05, Silent: w.rng.Float64() * 0.05, Late: w.rng.Float64() * 0.05, Latency: time.Duration(w.rng.IntN(200)) * time.Millisecond,
				})
				name := fmt.Sprintf("s.t%d", w.rng.IntN(40))
				switch p := there[name]; {
				case p == nil && len(there) < 6:
					lives[name]++
					there[name] = w.log.Create(name, 1, false)[0]
					fallthrough
				case p != nil && w.rng.IntN(3) > 0:
					plainly(nil, there[name], 1+w.rng.IntN(20), fmt.Sprintf("life %d", lives[name]))
				default:
					list := slices.Sorted(maps.Keys(there))
					gone := list[w.rng.IntN(len(list))]
					w.log.Delete(gone)
					delete(there, gone)
				}
				time.Sleep(time.Duration(w.rng.IntN(3000)) * time.Millisecond)
				switch w.rng.IntN(20) {
				case 0:
					w.board.kill()
					w.kafka.Arrive()
					w.board = w.start()
				case 1:
					w.kafka.Arrive()
				case 2:
					w.kafka.Compact(upstream.DefaultCursorTopic)
				}
			}
			w.kafka.Fail(upstreamtest.Faults{})
			w.kafka.Arrive()
			time.Sleep(10 * time.Minute)
			stopped := map[string]bool{}
			for _, p := range w.board.link.Status().List {
				stopped[p.Topic] = p.Verdict == upstream.LocalAnew
			}
			for name, life := range lives {
				seen := map[string]int{}
				for _, r := range w.kafka.Committed(name, 0) {
					if seen[string(r.Value)]++; seen[string(r.Value)] > 1 {
						t.Errorf("-seed=%d: %s: %q is there twice", seed, name, r.Value)
					}
				}
				p := there[name]
				if p == nil {
					continue
				}
				if stopped[name] {
					anew++
					continue
				}
				if life > 1 {
					began++
				}
				for offset := range p.High() {
					if seen[fmt.Sprintf("%d life %d", offset, life)] != 1 {
						t.Errorf("-seed=%d: %s: %d of life %d is not there: %+v", seed, name, offset, life, w.board.link.Status())
					}
				}
			}
		})
		if t.Failed() {
			return
		}
	}
	t.Logf("%d topics were stopped, %d began anew", anew, began)
	if *seed == 0 && !testing.Short() && (anew == 0 || began == 0) {
		t.Error("too little has happened to prove anything")
	}
}

// A link that leaves a topic out for a while, and takes it again, goes on where it was: its cursor is kept all the time.
func TestATopicThatIsLeftOutForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5, upstream.Config{})
		w.hint = &memory{}
		for _, topics := range []string{"s.*", "s.b", "s.*"} {
			w.cfg.Topics = []string{topics}
			w.board = w.start()
			plainly(w.all, w.parts[0], 10, "x")
			plainly(w.all, w.parts[3], 10, "x")
			w.board.drained(t)
			w.board.cancel() // it writes down what it knows
			<-w.board.done
		}
		w.exact()
	})
}
