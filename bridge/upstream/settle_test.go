package upstream_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/upstream"
	"millrace/bridge/upstream/upstreamtest"
)

// besieged is a world whose peer restarts and loses ends of transactions. Where transactions share epochs somebody who knows ends at last what
// the link could not.
func besieged(t *testing.T, seed uint64, cfg upstream.Config, single bool, change func(*world)) (list []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, seed, cfg)
		w.kafka.Single, w.restart, w.hint = single, 0.1, new(memory)
		if !single {
			w.restart = 0.3
		}
		w.each = func() {
			if w.rng.IntN(8) == 0 {
				w.kafka.ForgetProducers()
			}
		}
		change(w)
		w.run(*rounds)
		defer w.end()
		for range 2 * 3600 {
			time.Sleep(time.Second)
			s := w.board.link.Status()
			if s.State == upstream.StateIdle && s.Records == 0 {
				break
			}
		}
		if s := w.board.link.Status(); s.Records > 0 || s.State != upstream.StateIdle {
			if single {
				list = append(list, fmt.Sprintf("after two hours the link is %s: %s, %d behind; it hangs in %v", s.State, s.Reason, s.Records, w.kafka.Hanging()))
				return
			}
			t.Logf("a person comes: %s: %v", s.Reason, w.kafka.Hanging())
			w.kafka.Mend()
			w.board.drained(t)
		}
		for range 600 { // the last one is looked at when there is nothing to send
			if time.Sleep(time.Second); len(w.kafka.Hanging()) == 0 {
				break
			}
		}
		w.board.drained(t)
		list = append(list, w.all.faults(t, w.kafka)...)
	})
	return list
}

func TestLostMarkers(t *testing.T) {
	for _, tt := range []struct {
		name   string
		cfg    upstream.Config
		single bool
		orders bool // each life may have another
		loses  bool // records get lost, and gaps are told of
	}{
		{"oldest first", upstream.Config{}, true, false, false},
		{"small transactions", upstream.Config{TransactionBytes: 2000}, true, false, false},
		{"live first", upstream.Config{Order: upstream.LiveFirst, TransactionBytes: 4000, LiveBehind: time.Millisecond}, true, false, false},
		{"either order", upstream.Config{Order: upstream.LiveFirst, TransactionBytes: 4000, LiveBehind: time.Millisecond}, true, true, false},
		{"the log loses", upstream.Config{TransactionBytes: 2000}, true, false, true},
		{"live first, the log loses", upstream.Config{Order: upstream.LiveFirst, TransactionBytes: 4000, LiveBehind: time.Millisecond}, true, false, true},
		{"shared epochs", upstream.Config{TransactionBytes: 4000}, false, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			lost, settled := 0, int64(0)
			for _, seed := range seeds(10) {
				var w *world
				list := besieged(t, seed, tt.cfg, tt.single, func(made *world) {
					w, made.loses = made, tt.loses
					if each := w.each; tt.orders {
						w.each = func() {
							each()
							w.cfg.Order = [...]upstream.Order{upstream.LiveFirst, upstream.OldestFirst}[w.rng.IntN(2)]
						}
					}
				})
				if len(list) > 0 {
					t.Fatalf("-seed=%d: %d faults, %s", seed, len(list), strings.Join(list[:min(3, len(list))], "; "))
				}
				lost += w.kafka.Lost()
				settled += w.sent.Settled
			}
			t.Logf("%d markers were lost, %d times a transaction was ended by the link", lost, settled)
			if *seed == 0 && !testing.Short() && (lost < 5 || settled < 3) {
				t.Error("too little has happened to prove anything")
			}
		})
	}
}

// What the comparison must find: always aborting, not looking in data, and going on with a new connection without a look.
func TestLostMarkersAreFound(t *testing.T) {
	cursors := func(topic string) bool { return topic == upstream.DefaultCursorTopic }
	for _, tt := range []struct {
		name   string
		change func(*world)
	}{
		{"always abort", func(w *world) {
			w.wrap = func(r upstream.Remote) upstream.Remote { return upstreamtest.Heedless(r, false) }
		}},
		{"no look", func(w *world) {
			w.kafka.Keep = cursors
			w.wrap = func(r upstream.Remote) upstream.Remote { return upstreamtest.Heedless(r, true) }
		}},
		{"no look after a new connection", func(w *world) {
			w.kafka.Unshaken, w.kafka.Keep, w.restart = true, cursors, 0.3
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for tries := range 300 {
				for _, seed := range seeds(1) {
					if list := besieged(t, seed, upstream.Config{TransactionBytes: 2000}, true, tt.change); len(list) > 0 {
						t.Logf("try %d, -seed=%d finds it: %s", tries+1, seed, list[0])
						return
					}
				}
			}
			t.Error("no seed of 300 has found it")
		})
	}
}

// tardyLane has what the network holds back arrive just before the backfill lane is taken over, and, with mute, sends nothing there.
type tardyLane struct {
	upstream.Remote
	kafka *upstreamtest.Kafka
	mute  bool
}

func (r *tardyLane) Open(ctx context.Context, id string) (upstream.Session, error) {
	back := strings.HasSuffix(id, upstream.Backfill.String())
	if back {
		r.kafka.Arrive()
	}
	s, err := r.Remote.Open(ctx, id)
	if err == nil && back && r.mute {
		s = mute{s}
	}
	return s, err
}

type mute struct{ upstream.Session }

func (mute) Send(ctx context.Context, _ []upstream.Record) error {
	<-ctx.Done()
	return ctx.Err()
}

// A link that was live first has something left over. What its backfill lane has under way when a connection ends does not hang:
// the coordinator may yet commit it.
func TestWhatTheOtherLaneHasUnderWayDoesNotHang(t *testing.T) {
	for _, single := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 1, upstream.Config{Order: upstream.LiveFirst, TransactionBytes: 2000, LiveBehind: time.Millisecond})
			w.kafka.Single = single
			plainly(w.all, w.parts[0], 500, "x")
			way := &tardyLane{kafka: w.kafka, mute: true}
			w.wrap = func(r upstream.Remote) upstream.Remote { way.Remote = r; return way }
			w.board = w.start()
			time.Sleep(10 * time.Second)
			w.board.kill()
			w.cfg.Order, way.mute = upstream.OldestFirst, false
			held := 0
			w.kafka.HoldCommits(func(id string) bool {
				if strings.HasSuffix(id, upstream.Backfill.String()) {
					held++
				}
				return held == 1
			})
			w.board = w.start()
			defer w.board.kill()
			w.board.drained(t)
			if s := w.board.link.Status().Sent; held == 0 || s.Connects < 2 {
				t.Fatalf("%d commits of the backfill lane, %d connections", held, s.Connects)
			}
			w.exact()
		})
	}
}

// loser has the peer lose all ends of the first transaction that is to be lost, which is acknowledged.
type loser struct {
	upstream.Remote
	kafka *upstreamtest.Kafka
	lose  func(lane string, recs []upstream.Record) bool

	one  chan struct{} // one transaction at a time
	lost bool
}

func (r *loser) Open(ctx context.Context, id string) (upstream.Session, error) {
	s, err := r.Remote.Open(ctx, id)
	return losing{s, r, id}, err
}

type losing struct {
	upstream.Session
	r  *loser
	id string
}

func (s losing) Send(ctx context.Context, recs []upstream.Record) error {
	s.r.one <- struct{}{}
	defer func() { <-s.r.one }()
	if !s.r.lost && s.r.lose(s.id[strings.LastIndex(s.id, "-")+1:], recs) {
		s.r.lost = true
		s.r.kafka.LoseEnds(true)
		defer s.r.kafka.LoseEnds(false)
	}
	return s.Session.Send(ctx, recs)
}

// One lane goes by what the other was told is committed. Where all ends of that are lost and the board is cut off, too, the other's
// cursors say that it was told.
func TestWhatTheOtherLaneFollowsFromIsCommitted(t *testing.T) {
	end := func(lane string, recs []upstream.Record) bool {
		return lane == "backfill" && slices.ContainsFunc(recs, func(r upstream.Record) bool { return strings.HasPrefix(string(r.Value), "499 ") })
	}
	leap := func(lane string, recs []upstream.Record) bool {
		return lane == "live" && slices.ContainsFunc(recs, func(r upstream.Record) bool { return strings.Contains(string(r.Value), `"ranges":[[`) })
	}
	for _, tt := range []struct {
		name string
		lose func(lane string, recs []upstream.Record) bool
		more int            // records of the live lane then
		then upstream.Order // of the next life
	}{
		{"the end of what was left over", end, 10, upstream.LiveFirst},
		{"the end of what was left over, before there is one lane only", end, 10, upstream.OldestFirst},
		{"what is left over", leap, 0, upstream.LiveFirst},
		{"what is left over, before there is one lane only", leap, 0, upstream.OldestFirst},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, upstream.Config{Order: upstream.LiveFirst, TransactionBytes: 2000, LiveBehind: time.Millisecond})
				w.kafka.Single = true
				plainly(w.all, w.parts[0], 500, "x")
				r := &loser{kafka: w.kafka, lose: tt.lose, one: make(chan struct{}, 1)}
				w.wrap = func(to upstream.Remote) upstream.Remote { r.Remote = to; return r }
				w.board = w.start()
				w.board.drained(t)
				plainly(w.all, w.parts[0], tt.more, "x")
				w.board.drained(t)
				if !r.lost || len(w.kafka.Hanging()) == 0 {
					t.Fatal("nothing was lost")
				}
				w.board.kill()
				w.cfg.Order = tt.then
				w.board = w.start()
				defer w.board.kill()
				w.board.drained(t)
				if s := w.board.link.Status().Sent; s.Settled == 0 {
					t.Error("nothing was ended")
				}
				w.exact()
			})
		})
	}
}
