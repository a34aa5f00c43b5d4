package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/upstream"
	"millrace/bridge/upstream/upstreamtest"
)

// oneLane is memory for one lane.
type oneLane struct {
	have  int64
	taken atomic.Int64
}

func (b *oneLane) Acquire(_ context.Context, n int64) error {
	if b.taken.Add(n) > b.have {
		b.taken.Add(-n)
		return errors.New("more than there ever is")
	}
	return nil
}
func (b *oneLane) Overdraw(n int64) { b.taken.Add(n) }
func (b *oneLane) Release(n int64)  { b.taken.Add(-n) }

// oneID is a peer that lets the link have its live lane's transactional id, and no other before all are allowed.
type oneID struct {
	upstream.Remote
	all *atomic.Bool
}

func (r oneID) Open(ctx context.Context, id string) (upstream.Session, error) {
	if strings.HasSuffix(id, upstream.Backfill.String()) && !r.all.Load() {
		return nil, errors.New("TRANSACTIONAL_ID_AUTHORIZATION_FAILED")
	}
	return r.Remote.Open(ctx, id)
}

// Somebody else's transaction was open for six minutes: a link of one lane goes on after it, with what it needed before.
func TestAfterSomebodyElsesTransaction(t *testing.T) {
	for _, tt := range []string{"memory", "memory given back", "id"} {
		t.Run(tt, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, upstream.Config{TransactionBytes: 100_000})
				w.kafka.Create(upstream.DefaultCursorTopic, 8, true)
				w.kafka.Timeout = time.Hour
				memory := &oneLane{have: 4 * 100_000}
				switch tt {
				case "memory":
					w.env = func(e *upstream.Env) { e.Budget = memory }
				case "memory given back":
					memory.have *= 2
					w.env = func(e *upstream.Env) { e.Budget = memory }
				case "id":
					w.wrap = func(r upstream.Remote) upstream.Remote { return oneID{r, new(atomic.Bool)} }
				}
				plainly(w.all, w.parts[0], 10, "x")
				for i := range int32(8) {
					w.kafka.Hang(upstream.DefaultCursorTopic, i)
				}
				w.board = w.start()
				defer func() { w.board.kill() }()
				time.Sleep(6 * time.Minute)
				w.kafka.Expire()
				for range 3600 {
					time.Sleep(time.Second)
				}
				if s := w.board.link.Status(); s.State != upstream.StateIdle || s.Records > 0 {
					t.Errorf("an hour after the last open transaction it is %s: %s", s.State, s.Reason)
				}
				if n := memory.taken.Load(); n > 4*100_000 {
					t.Errorf("one lane runs, and has memory for %d bytes", n)
				}
			})
		})
	}
}

// tallying counts how often it is asked where partitions end.
type tallying struct {
	upstream.Remote
	ends atomic.Int64
}

func (c *tallying) Open(ctx context.Context, id string) (upstream.Session, error) {
	s, err := c.Remote.Open(ctx, id)
	return tallyingSession{s, c}, err
}

type tallyingSession struct {
	upstream.Session
	c *tallying
}

func (s tallyingSession) Ends(ctx context.Context, list []upstream.Spot) error {
	s.c.ends.Add(1)
	return s.Session.Ends(ctx, list)
}

// A link that has nothing but heartbeats looks once what hangs.
func TestHeartbeatsAreNotLookedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, beating())
		c := &tallying{}
		w.wrap = func(r upstream.Remote) upstream.Remote { c.Remote = r; return c }
		plainly(w.all, w.parts[0], 10, "x")
		w.board = w.start()
		defer w.board.kill()
		w.board.drained(t)
		time.Sleep(5 * time.Minute)
		before := c.ends.Load()
		time.Sleep(time.Hour)
		if n := c.ends.Load() - before; n > 1 {
			t.Errorf("%d looks in an hour of heartbeats alone", n)
		}
	})
}

// cursorsHang has the end of a transaction lost in the cursor partition alone while story runs, and another life comes.
func cursorsHang(t *testing.T, story func(w *world)) {
	t.Helper()
	hung := 0
	for seed := range uint64(12) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, seed+1, upstream.Config{})
			w.kafka.Single, w.hint = true, new(memory)
			w.kafka.Keep = func(topic string) bool { return topic != upstream.DefaultCursorTopic }
			plainly(w.all, w.parts[0], 10, "x")
			story(w)
			w.kafka.Fail(upstreamtest.Faults{})
			hung += len(w.kafka.Hanging())
			w.board.kill()
			w.board = w.start()
			defer w.board.kill()
			w.board.drained(t)
			w.exact()
		})
	}
	if hung == 0 {
		t.Error("nothing hung")
	}
}

// A transaction of a gap and a cursor loses its end in the cursor partition alone: the gap record is committed, and proof.
func TestAGapIsToldOnce(t *testing.T) {
	cursorsHang(t, func(w *world) {
		w.board = w.start()
		w.board.drained(w.t)
		w.board.client.Cut(true)
		plainly(w.all, w.parts[0], 10, "y")
		w.board.until(w.t, upstream.StateConnecting)
		w.parts[0].Retain(0)
		w.kafka.Fail(upstreamtest.Faults{Restart: 1})
		w.board.client.Cut(false)
		for range 600 {
			if time.Sleep(100 * time.Millisecond); w.kafka.Lost() > 0 {
				break
			}
		}
	})
}

// A person ends by hand what hangs, while the link waits for it: with one lane it does not know whose it is, and believes its hint.
func TestTakenBackByHandWhileItWaits(t *testing.T) {
	for _, tt := range []struct {
		name string
		then upstream.Order
		hide bool
		only bool // the live lane's transactional id is allowed only
	}{
		{"one lane", upstream.OldestFirst, false, true},
		{"one lane, and the peer does not tell", upstream.OldestFirst, true, false},
		{"both, and the peer does not tell", upstream.LiveFirst, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, upstream.Config{Order: upstream.LiveFirst, TransactionBytes: 2000, LiveBehind: time.Millisecond})
				w.kafka.Single, w.hint = true, new(memory)
				plainly(w.all, w.parts[0], 500, "x")
				r := &loser{kafka: w.kafka, one: make(chan struct{}, 1), lose: func(lane string, recs []upstream.Record) bool {
					if lane != "backfill" {
						return false
					}
					for _, r := range recs {
						if strings.HasPrefix(string(r.Value), "499 ") {
							return true
						}
					}
					return false
				}}
				w.wrap = func(to upstream.Remote) upstream.Remote { r.Remote = to; return r }
				w.board = w.start()
				w.board.drained(t)
				if !r.lost || len(w.kafka.Hanging()) == 0 {
					t.Fatal("nothing was lost")
				}
				w.board.kill()
				w.cfg.Order = tt.then
				if tt.hide {
					w.kafka.Hide(upstream.DefaultCursorTopic, fmt.Errorf("not now"))
				}
				var all atomic.Bool
				all.Store(!tt.only)
				w.wrap = func(to upstream.Remote) upstream.Remote { return oneID{to, &all} }
				memory := &oneLane{have: 1 << 40}
				w.env = func(e *upstream.Env) { e.Budget = memory }
				w.board = w.start()
				defer func() {
					if w.board.kill(); memory.taken.Load() != 0 {
						t.Errorf("it has kept %d bytes", memory.taken.Load())
					}
				}()
				time.Sleep(time.Minute)
				if n := memory.taken.Load(); tt.only && n != 4*2000 {
					t.Errorf("one lane has memory for %d bytes", n)
				}
				if s := w.board.link.Status(); s.State != upstream.StateConnecting || !strings.Contains(s.Reason, "find-hanging") {
					t.Errorf("%s: %s", s.State, s.Reason)
				}
				s, err := w.kafka.Client().Open(t.Context(), "person")
				if err != nil {
					t.Fatal(err)
				}
				for _, h := range w.kafka.Hanging() {
					var producer int64
					var epoch int16
					name, rest, _ := strings.Cut(h, ":")
					if _, err := fmt.Sscanf(rest, " producer %d epoch %d", &producer, &epoch); err != nil {
						t.Fatal(err)
					}
					for p := range w.kafka.Partitions(name) {
						at := []upstream.Spot{{Topic: name, Partition: int32(p)}}
						if err := s.Ends(t.Context(), at); err != nil || at[0].Stable >= at[0].End {
							continue
						}
						if err := s.Mark(t.Context(), at, upstream.Marker{Producer: producer, Epoch: epoch}); err != nil {
							t.Fatal(err)
						}
					}
				}
				w.kafka.Hide(upstream.DefaultCursorTopic, nil)
				all.Store(true)
				w.board.drained(t)
				w.exact()
			})
		})
	}
}

// A decision is a transaction of a cursor and a gap record, too.
func TestADecisionIsNotTakenBackInPart(t *testing.T) {
	cursorsHang(t, func(w *world) {
		w.kafka.Create("s.a", 3, false)
		w.kafka.Refuse("s.a", func(r upstream.Record) error {
			if strings.HasSuffix(string(r.Value), "bad") {
				return errors.New("bad")
			}
			return nil
		})
		plainly(w.all, w.parts[0], 1, "bad")
		w.board = w.start()
		stopped(w.t, w.board, "s.a", 0, upstream.Refused)
		time.Sleep(time.Minute)
		w.kafka.Fail(upstreamtest.Faults{Restart: 1})
		if err := w.board.link.Resolve(w.t.Context(), "s.a", 0, upstream.Decision{How: upstream.At, Offset: 11}); err != nil {
			w.t.Log(err)
		}
		w.kafka.Refuse("s.a", nil)
	})
}

// The peer does not tell whose transaction is open for a second, as while a partition gets a leader: that does not cost five minutes.
func TestAMomentWithoutALeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, upstream.Config{})
		w.kafka.Single = true
		r := &loser{kafka: w.kafka, one: make(chan struct{}, 1), lose: func(string, []upstream.Record) bool { return true }}
		w.wrap = func(to upstream.Remote) upstream.Remote { r.Remote = to; return r }
		plainly(w.all, w.parts[0], 10, "x")
		w.board = w.start()
		w.board.drained(t)
		w.board.kill()
		w.kafka.Hide(upstream.DefaultCursorTopic, errors.New("NOT_LEADER_OR_FOLLOWER"))
		w.board = w.start()
		defer w.board.kill()
		time.Sleep(time.Second)
		w.kafka.Hide(upstream.DefaultCursorTopic, nil)
		began := time.Now()
		w.board.drained(t)
		if took := time.Since(began); took > time.Minute {
			t.Errorf("it took %v", took)
		}
		w.exact()
	})
}

// Who pauses a link is heard while it waits for what somebody else has open upstream, and for what the link cannot end.
func TestPauseIsHeardWhileALinkTakesOver(t *testing.T) {
	for _, deny := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 1, upstream.Config{})
			w.kafka.Single, w.kafka.DenyMarks, w.kafka.Timeout = true, deny, time.Hour
			plainly(w.all, w.parts[0], 10, "x")
			if deny {
				r := &loser{kafka: w.kafka, one: make(chan struct{}, 1), lose: func(string, []upstream.Record) bool { return true }}
				w.wrap = func(to upstream.Remote) upstream.Remote { r.Remote = to; return r }
				w.board = w.start()
				w.board.drained(t)
				w.board.kill()
			} else {
				w.kafka.Create(upstream.DefaultCursorTopic, 8, true)
				for i := range int32(8) {
					w.kafka.Hang(upstream.DefaultCursorTopic, i)
				}
			}
			w.board = w.start()
			defer w.board.kill()
			time.Sleep(time.Minute)
			if s := w.board.link.Status(); s.State != upstream.StateConnecting {
				t.Fatalf("it is %s: %s", s.State, s.Reason)
			}
			w.board.link.Pause()
			time.Sleep(time.Second)
			if s := w.board.link.Status(); s.State != upstream.StatePaused {
				t.Errorf("a second after it was paused it is %s: %s", s.State, s.Reason)
			}
			w.kafka.Expire()
			w.kafka.Mend()
			w.board.link.Resume()
			w.board.drained(t)
			w.exact()
		})
	}
}

// Beside a neighbour's open transaction what a life before has committed is no open one, though its end comes behind all that is known.
func TestWhatIsCommittedIsNotSuspected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, upstream.Config{Order: upstream.LiveFirst, TransactionBytes: 2000, LiveBehind: time.Millisecond})
		w.kafka.Single, w.kafka.Timeout, w.hint = true, time.Hour, new(memory)
		plainly(w.all, w.parts[0], 10, "x")
		w.board = w.start()
		w.board.drained(t)
		for i := range int32(8) {
			w.kafka.Hang(upstream.DefaultCursorTopic, i)
		}
		w.kafka.Fail(upstreamtest.Faults{Latency: time.Second})
		plainly(w.all, w.parts[0], 2000, "x")
		w.board.drained(t)
		w.kafka.Fail(upstreamtest.Faults{})
		lanes := map[string]int{}
		for _, r := range w.kafka.Committed("s.a", 0) {
			lanes[string(r.Headers[len(r.Headers)-1].Value)]++
		}
		if lanes["backfill"] == 0 {
			t.Fatalf("the other lane has sent nothing: %v", lanes)
		}
		w.end()
		w.cfg.Order = upstream.OldestFirst
		w.board = w.start()
		defer w.board.kill()
		time.Sleep(time.Minute)
		if s := w.board.link.Status(); s.State != upstream.StateConnecting {
			t.Errorf("%s: %s", s.State, s.Reason)
		}
		w.kafka.Expire()
		w.board.drained(t)
		if n := w.board.client.CursorsRead(); n > 0 {
			t.Errorf("%d cursors are read although they are known", n)
		}
		w.exact()
	})
}
