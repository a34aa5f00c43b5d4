package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/upstream"
	"millrace/bridge/upstream/upstreamtest"
	"millrace/broker/record"
)

// readBack verifies all of a link.
func (w *world) readBack(what upstream.Verify) (list []upstream.Verified, err error) {
	w.t.Helper()
	err = w.board.link.Verify(w.t.Context(), what, func(v upstream.Verified) { list = append(list, v) }, func(upstream.VerifyAt) {})
	return list, err
}

// allGood wants nothing to be wrong, and something to have been compared.
func (w *world) allGood(what upstream.Verify) (compared int64) {
	w.t.Helper()
	list, err := w.readBack(what)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, v := range list {
		if !v.Good() || v.Compacted > 0 {
			w.t.Errorf("%+v", v)
		}
		compared += v.Compared
	}
	return compared
}

func TestVerifyAfterEverything(t *testing.T) {
	for _, tt := range []struct {
		name   string
		cfg    upstream.Config
		change func(*world)
	}{
		{"oldest first", upstream.Config{}, nil},
		{"with provenance", upstream.Config{Provenance: true}, nil},
		{"live first", upstream.Config{Order: upstream.LiveFirst, TransactionBytes: 4000, LiveBehind: time.Millisecond}, nil},
		{"live first, with provenance", upstream.Config{Provenance: true, Order: upstream.LiveFirst, TransactionBytes: 4000, LiveBehind: time.Millisecond}, nil},
		{"the log loses", upstream.Config{}, func(w *world) { w.loses = true }},
		{"by key", upstream.Config{}, func(w *world) { w.kafka.Create("s.a", 5, false) }},
		{"by key, with provenance", upstream.Config{Provenance: true}, func(w *world) { w.kafka.Create("s.a", 2, false) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, seed := range seeds(2) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, seed, tt.cfg)
					if tt.change != nil {
						tt.change(w)
					}
					w.run(*rounds)
					defer w.end()
					w.board.drained(t)
					all := w.allGood(upstream.Verify{})
					some := w.allGood(upstream.Verify{Last: 50})
					if all == 0 || some == 0 || some > all || t.Failed() {
						t.Errorf("-seed=%d: %d compared, of the last %d", seed, all, some)
					}
				})
			}
		})
	}
}

// settled is a world in which one partition has n records, all of them delivered.
func settled(t *testing.T, cfg upstream.Config, n int) *world {
	t.Helper()
	w := newWorld(t, 1, cfg)
	w.kafka.Create("s.b", 1, false)
	for i := range n {
		w.parts[3].Append(record.None, record.Record{Timestamp: time.Now().UnixMilli() + int64(i), Value: fmt.Append(nil, "v", i)})
	}
	w.board = w.start()
	w.board.drained(t)
	return w
}

// ofB is what is said of s.b.
func (w *world) ofB(what upstream.Verify) upstream.Verified {
	w.t.Helper()
	what.Topics = "s.b"
	list, err := w.readBack(what)
	if err != nil || len(list) != 1 {
		w.t.Fatalf("%+v, %v", list, err)
	}
	return list[0]
}

func TestVerifyFinds(t *testing.T) {
	fault := func(count, first int64) upstream.Fault { return upstream.Fault{Count: count, First: first} }
	alter := func(value string, by func(*upstream.Record)) func(*world) {
		return func(w *world) {
			w.kafka.Rewrite("s.b", func(r upstream.Record) upstream.Record {
				if string(r.Value) == value {
					by(&r)
				}
				return r
			})
		}
	}
	again := func(w *world, i int) upstream.Record {
		list := w.kafka.Committed("s.b", 0)
		return list[i]
	}
	for _, tt := range []struct {
		name   string
		tamper func(*world)
		right  func(upstream.Verified) bool
	}{
		{"nothing", func(*world) {}, func(v upstream.Verified) bool { return v.Good() && v.Compared == 100 && v.Foreign == 0 }},
		{"somebody else", func(w *world) {
			w.kafka.Write(upstream.Record{Topic: "s.b", Value: []byte("x")})
			w.kafka.Transact(upstream.Record{Topic: "s.b", Value: []byte("y")})(true)
			w.kafka.Transact(again(w, 5))(false) // taken back: it is not there
		}, func(v upstream.Verified) bool { return v.Good() && v.Foreign == 2 }},
		{"twice", func(w *world) { w.kafka.Transact(again(w, 5))(true) }, func(v upstream.Verified) bool { return !v.Good() && v.Doubled == fault(1, 5) }},
		{"another value", alter("v7", func(r *upstream.Record) { r.Value = []byte{} }), func(v upstream.Verified) bool {
			return v.Different == fault(1, 7) && v.Missing.Count == 0 && v.Foreign == 0 && v.Compared == 100
		}},
		{"a key", alter("v8", func(r *upstream.Record) { r.Key = []byte{} }), func(v upstream.Verified) bool { return v.Different == fault(1, 8) && v.Missing.Count == 0 }},
		{"a header", alter("v9", func(r *upstream.Record) { r.Headers = append(r.Headers, record.Header{Key: "h"}) }), func(v upstream.Verified) bool {
			return v.Different == fault(1, 9) && v.Missing.Count == 0
		}},
		{"a header of ours", alter("v9", func(r *upstream.Record) { r.Headers = append(r.Headers, record.Header{Key: "millrace.x"}) }), func(v upstream.Verified) bool { return v.Good() }},
		{"let go", func(w *world) { w.kafka.Retain("s.b", 0, 50) }, func(v upstream.Verified) bool {
			return v.Missing.First == 0 && v.Missing.Count > 40 && v.Missing.Count < 60 && strings.Contains(v.Note, "let go") && v.Doubled.Count+v.Disordered.Count+v.Different.Count == 0
		}},
		{"made anew", func(w *world) { w.kafka.Create("s.b", 1, false) }, func(v upstream.Verified) bool { return strings.Contains(v.Reason, "made anew") }},
		{"another leader", func(w *world) { w.kafka.Elect() }, func(v upstream.Verified) bool { return v.Good() && v.Compared == 100 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, cfg := range []upstream.Config{{}, {Provenance: true}} {
				synctest.Test(t, func(t *testing.T) {
					w := settled(t, cfg, 100)
					defer w.end()
					tt.tamper(w)
					if v := w.ofB(upstream.Verify{}); !tt.right(v) {
						t.Errorf("provenance %v: %+v", cfg.Provenance, v)
					}
				})
			}
		})
	}
}

// The default range is read from about where it begins, and what lies before is nobody else's.
func TestVerifyReadsNoMoreThanItNeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := settled(t, upstream.Config{}, 3000)
		defer w.end()
		v := w.ofB(upstream.Verify{Last: 100})
		if !v.Good() || v.Compared != 100 || v.First != 2900 || v.End != 3000 || v.ReadFrom < 2899 || v.Foreign > 1 {
			t.Errorf("%+v", v)
		}
		if v = w.ofB(upstream.Verify{}); !v.Good() || v.Compared != 3000 || v.ReadFrom != 0 {
			t.Errorf("%+v", v)
		}
	})
}

// What a person decided to leave out is lost, not missing: a gap record says so.
func TestVerifyKnowsGaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := settled(t, upstream.Config{}, 10)
		defer w.end()
		w.board.client.Cut(true)
		for i := range 10 {
			w.parts[3].Append(record.None, record.Record{Timestamp: time.Now().UnixMilli(), Value: fmt.Append(nil, "w", i)})
		}
		w.board.client.Cut(false)
		w.board.link.Pause()
		w.board.until(t, upstream.StatePaused)
		w.parts[3].Append(record.None, record.Record{Timestamp: time.Now().UnixMilli(), Value: []byte("left out")})
		decided := make(chan error, 1)
		go func() {
			decided <- w.board.link.Resolve(t.Context(), "s.b", 0, upstream.Decision{How: upstream.Latest})
		}()
		synctest.Wait()
		w.board.link.Resume()
		if err := <-decided; err != nil {
			t.Fatal(err)
		}
		w.board.drained(t)
		if v := w.ofB(upstream.Verify{}); !v.Good() || v.Lost == 0 || v.Compared+v.Lost != 21 {
			t.Errorf("%+v", v)
		}
	})
}

// A pause, a peer that is away and an open transaction hold it up, and it says so; ctx ends it.
func TestVerifyIsHeldUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := settled(t, upstream.Config{}, 100)
		defer w.end()
		held := make(chan string, 1000)
		begin := func(ctx context.Context) <-chan error {
			done := make(chan error, 1)
			go func() {
				done <- w.board.link.Verify(ctx, upstream.Verify{}, func(v upstream.Verified) {
					if !v.Good() {
						t.Errorf("%+v", v)
					}
				}, func(at upstream.VerifyAt) {
					if at.Held != "" {
						select {
						case held <- at.Held:
						default:
						}
					}
				})
			}()
			return done
		}
		says := func(want string) {
			t.Helper()
			for {
				select {
				case why := <-held:
					if strings.Contains(why, want) {
						return
					}
				case <-time.After(time.Hour):
					t.Fatalf("nothing says %q", want)
				}
			}
		}
		w.board.link.Pause()
		ctx, cancel := context.WithCancel(t.Context())
		done := begin(ctx)
		says("paused")
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		done = begin(t.Context())
		says("paused")
		w.board.link.Resume()
		if err := <-done; err != nil {
			t.Error(err)
		}

		w.kafka.Timeout = time.Hour
		end := w.kafka.Transact(upstream.Record{Topic: "s.b", Value: []byte("open")})
		done = begin(t.Context())
		says("a transaction that is open")
		end(true)
		if err := <-done; err != nil {
			t.Error(err)
		}

		w.board.client.Cut(true)
		done = begin(t.Context())
		says("connection lost")
		if err := <-done; err == nil || !strings.Contains(err.Error(), "given up") {
			t.Errorf("%v", err)
		}
		w.board.client.Cut(false)
	})
}

// shutting is a contract that lets one in three requests wait for a while.
type shutting struct {
	single
	asked atomic.Int64
}

func (s *shutting) Next(time.Time, upstream.Lane, []bool) (class, bytes int, wait time.Duration) {
	return 0, 1 << 20, 0
}

func (s *shutting) Held(int) (why string, bytes int) {
	if s.asked.Add(1)%3 == 0 {
		return "shut", 0
	}
	return "", 2000
}

// While it is held up, which may be until a window of the night opens, links have the memory; then it goes on where it was.
func TestVerifyGivesItsMemoryBackWhileItIsHeld(t *testing.T) {
	for _, cfg := range []upstream.Config{{}, {Provenance: true}} {
		synctest.Test(t, func(t *testing.T) {
			memory, gate := &scarce{some: make(chan struct{})}, &shutting{}
			close(memory.some)
			w := newWorld(t, 1, cfg)
			w.scheduler, w.env = gate, func(e *upstream.Env) { e.Budget = memory }
			w.kafka.Create("s.b", 1, false)
			for i := range 3000 {
				w.parts[3].Append(record.None, record.Record{Timestamp: time.Now().UnixMilli(), Value: fmt.Append(nil, "v", i)})
			}
			w.board = w.start()
			w.board.drained(t)
			w.kafka.Write(w.kafka.Committed("s.b", 0)[2000])
			own := memory.taken.Load()
			held, got := 0, upstream.Verified{}
			if err := w.board.link.Verify(t.Context(), upstream.Verify{Topics: "s.b"}, func(v upstream.Verified) { got = v }, func(at upstream.VerifyAt) {
				took := memory.taken.Load() - own
				if at.Held == "shut" {
					held++
				}
				if (took > 0) != (at.Held == "") {
					t.Errorf("it has %d bytes, and is held by %q", took, at.Held)
				}
			}); err != nil {
				t.Fatal(err)
			}
			if held < 10 || got.Compared != 3000 || got.Doubled != (upstream.Fault{Count: 1, First: 2000}) || got.Missing.Count+got.Disordered.Count+got.Foreign > 0 {
				t.Errorf("held %d times: %+v", held, got)
			}
			if took := memory.taken.Load() - own; took != 0 {
				t.Errorf("it has kept %d", took)
			}
			w.end()
		})
	}
}

// What cannot be said is refused.
func TestVerifyRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, upstream.Config{})
		w.kafka.Fail(upstreamtest.Faults{Latency: time.Second})
		w.board = w.start()
		defer w.end()
		if _, err := w.readBack(upstream.Verify{}); !errors.Is(err, upstream.ErrCannotVerify) {
			t.Errorf("before it is connected: %v", err)
		}
		w.board.drained(t)
		if _, err := w.readBack(upstream.Verify{Topics: "x"}); !errors.Is(err, upstream.ErrUnknownPartition) {
			t.Errorf("another topic: %v", err)
		}
		w.log.Create("s.a", 3, false)
		w.parts = w.log.Create("s.b", 1, false)
		w.parts[0].Append(record.None, record.Record{Value: []byte("anew")})
		list, err := w.readBack(upstream.Verify{})
		if err != nil || slices.ContainsFunc(list, func(v upstream.Verified) bool { return v.Compared > 0 }) {
			t.Errorf("%+v, %v", list, err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := settled(t, upstream.Config{}, 10)
		defer w.end()
		w.log.Create("s.b", 1, false)
		w.log.Partition("s.b", 0).Append(record.None, record.Record{Value: []byte("anew")})
		w.board.until(t, upstream.StateIdle)
		if v := w.ofB(upstream.Verify{}); v.Good() || !strings.Contains(v.Reason, "made anew") {
			t.Errorf("%+v", v)
		}
	})
}

// Partitions that are too many to be compared at once are said to be, one line each; where they are not spread by key they are compared.
func TestVerifyOfVeryManyPartitions(t *testing.T) {
	for _, tt := range []struct {
		have int
		good bool
	}{{700, false}, {600, true}} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 1, upstream.Config{})
			w.kafka.Create("s.many", tt.have, false)
			for i, p := range w.log.Create("s.many", 600, false) {
				if i%100 == 0 {
					plainly(nil, p, 1, "x")
				}
			}
			w.board = w.start()
			defer w.end()
			w.board.drained(t)
			list, err := w.readBack(upstream.Verify{Topics: "s.many"})
			if err != nil || len(list) != 600 {
				t.Fatalf("%d lines, %v", len(list), err)
			}
			for _, v := range list {
				if v.Good() != tt.good || !tt.good && !strings.Contains(v.Reason, "its 600 partitions go to 700 there by key") {
					t.Fatalf("%+v", v)
				}
			}
		})
	}
}

// source is a Remote with a defect, and the way to read past it.
type source struct {
	upstream.Remote
	upstream.Source
}

// What a link does wrong is found, too: cursors that are outside the transaction, and nobody who is fenced.
func TestVerifyFindsDefects(t *testing.T) {
	for _, tt := range []struct {
		name string
		wrap func(upstream.Remote) upstream.Remote
		in   func(*upstream.Verified) int64
	}{
		{"cursors after", func(r upstream.Remote) upstream.Remote { return upstreamtest.Split(r, false) }, func(v *upstream.Verified) int64 { return v.Doubled.Count }},
		{"cursors before", func(r upstream.Remote) upstream.Remote { return upstreamtest.Split(r, true) }, func(v *upstream.Verified) int64 { return v.Missing.Count }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			found := int64(0)
			look := func(seed uint64) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, seed, upstream.Config{})
					w.wrap = func(r upstream.Remote) upstream.Remote { return source{tt.wrap(r), r.(upstream.Source)} }
					w.run(*rounds)
					defer w.end()
					w.board.drained(t)
					list, err := w.readBack(upstream.Verify{})
					if err != nil {
						t.Fatal(err)
					}
					told := int64(0)
					for i := range list {
						told += tt.in(&list[i])
					}
					faults := w.all.faults(t, w.kafka)
					if (told > 0) != (len(faults) > 0) {
						t.Errorf("-seed=%d: %d are told, and there are %d: %+v", seed, told, len(faults), list)
					}
					found += told
				})
			}
			for _, seed := range seeds(5) {
				look(seed)
			}
			for tries := 0; found == 0 && *seed == 0; tries++ {
				if tries == 40 {
					t.Fatal("nothing was wrong")
				}
				look(rand.Uint64())
			}
		})
	}
}

var _ upstream.Source = (*upstreamtest.Client)(nil)
