package upstream_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/upstream"
)

// tardy holds the first transaction of the backfill lane back, until the next life takes the lane over: just before.
type tardy struct {
	upstream.Remote
	mu   sync.Mutex
	held func() error
}

func (r *tardy) Open(ctx context.Context, id string) (upstream.Session, error) {
	backfill := strings.HasSuffix(id, upstream.Backfill.String())
	r.mu.Lock()
	held := r.held
	if backfill {
		r.held = nil
	}
	r.mu.Unlock()
	if held != nil && backfill {
		if err := held(); err != nil {
			return nil, err
		}
	}
	s, err := r.Remote.Open(ctx, id)
	if err != nil {
		return nil, err
	}
	if backfill && held == nil {
		return tardySession{s, r}, nil
	}
	return s, nil
}

// waits says that a transaction is held back.
func (r *tardy) waits() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.held != nil
}

type tardySession struct {
	upstream.Session
	r *tardy
}

func (s tardySession) Send(ctx context.Context, recs []upstream.Record) error {
	recs = copied(recs)
	s.r.mu.Lock()
	s.r.held = func() error { return s.Session.Send(context.Background(), recs) }
	s.r.mu.Unlock()
	<-ctx.Done()
	return ctx.Err()
}

func copied(recs []upstream.Record) (list []upstream.Record) {
	for _, r := range recs {
		r.Key, r.Value = append([]byte(nil), r.Key...), append([]byte(nil), r.Value...)
		list = append(list, r)
	}
	return list
}

// The former life's other lane commits after the first one was taken over, and its cursors were read: that is no stranger,
// and its records do not come twice.
func TestTheOtherLaneCommitsWhileALifeBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, upstream.Config{Order: upstream.LiveFirst, TransactionBytes: 2000, LiveBehind: time.Millisecond})
		plainly(w.all, w.parts[0], 500, "x")
		first := &tardy{Remote: w.kafka.Client()}
		w.wrap = func(upstream.Remote) upstream.Remote { return first }
		w.board = w.start()
		time.Sleep(10 * time.Second)
		if s := w.board.link.Status(); len(s.List) != 1 || len(s.List[0].Ranges) != 1 || !first.waits() {
			t.Fatalf("no backfill is under way: %+v", s)
		}
		w.board.kill()
		w.board = w.start()
		defer w.board.kill()
		w.board.drained(t)
		if first.waits() {
			t.Error("nothing was committed in between")
		}
		w.exact()
	})
}
