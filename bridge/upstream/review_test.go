package upstream_test

import (
	"context"
	"errors"
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

// oneID is a peer that lets the link have its live lane's transactional id, and no other.
type oneID struct{ upstream.Remote }

func (r oneID) Open(ctx context.Context, id string) (upstream.Session, error) {
	if strings.HasSuffix(id, upstream.Backfill.String()) {
		return nil, errors.New("TRANSACTIONAL_ID_AUTHORIZATION_FAILED")
	}
	return r.Remote.Open(ctx, id)
}

func hangAll(w *world, d time.Duration) { // somebody else's, in every partition of the cursor topic
	for i := range int32(8) {
		w.kafka.Hang(upstream.DefaultCursorTopic, i)
	}
}

// Somebody else's transaction was open for six minutes: a link of one lane goes on after it, with what it needed before.
func TestReviewAfterSomebodyElsesTransaction(t *testing.T) {
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
					w.wrap = func(r upstream.Remote) upstream.Remote { return oneID{r} }
				}
				plainly(w.all, w.parts[0], 10, "x")
				hangAll(w, 0)
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

type tallying struct {
	upstream.Remote
	ends, standing atomic.Int64
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

func TestReviewHeartbeatsAreNotLookedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, beating())
		cfg := beating()
		w.cfg.Alias, w.cfg.Heartbeats = cfg.Alias, cfg.Heartbeats
		c := &tallying{}
		w.wrap = func(r upstream.Remote) upstream.Remote { c.Remote = r; return c }
		plainly(w.all, w.parts[0], 10, "x")
		w.board = w.start()
		defer w.board.kill()
		w.board.drained(t)
		time.Sleep(5 * time.Minute)
		before := c.ends.Load()
		time.Sleep(time.Hour)
		t.Logf("%d looks in an hour of heartbeats alone", c.ends.Load()-before)
		if n := c.ends.Load() - before; n > 1 {
			t.Errorf("%d looks in an hour of heartbeats alone", n)
		}
	})
}

var _ = upstreamtest.NewKafka
