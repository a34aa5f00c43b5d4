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

// A link that gathers records for long hears of what is to be done meanwhile, and does not wait once a transaction is full.
func TestRecordsAreGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, upstream.Config{Linger: time.Minute, TransactionBytes: 10_000})
		w.board = w.start()
		defer w.board.kill()
		w.board.until(t, upstream.StateIdle)
		transactions := func(d time.Duration) int64 {
			time.Sleep(d)
			synctest.Wait()
			return w.board.link.Status().Sent.Transactions
		}
		for range 50 {
			plainly(w.all, w.parts[0], 1, "x")
			time.Sleep(time.Second)
		}
		if s := w.board.link.Status(); s.Sent.Transactions != 0 || s.Records != 50 || s.State != upstream.StateWaiting {
			t.Errorf("after 50 s it has sent %d transactions, is %s, and %d records are behind", s.Sent.Transactions, s.State, s.Records)
		}
		if n := transactions(15 * time.Second); n != 1 {
			t.Errorf("a minute's records are %d transactions", n)
		}
		w.board.drained(t)
		plainly(w.all, w.parts[0], 100, strings.Repeat("x", 1000)) // by the average of the log it is seen
		if n := transactions(time.Second); n < 2 {
			t.Error("it waits for more though a transaction is full")
		}
		w.board.drained(t)
		plainly(w.all, w.parts[0], 1, "x")
		time.Sleep(time.Second)
		w.board.link.Pause()
		time.Sleep(time.Second)
		if s := w.board.link.Status(); s.State != upstream.StatePaused {
			t.Errorf("a second after it was paused it is %s", s.State)
		}
		w.board.link.Resume()
		w.board.drained(t)
		w.exact()
	})
}

// shut lets the topic s.b through after a while only.
type shut struct {
	halves
	later time.Duration
}

func (shut) Priority(int) int { return 0 }
func (s shut) Next(_ time.Time, _ upstream.Lane, ready []bool) (class, bytes int, wait time.Duration) {
	if ready[0] {
		return 0, 1 << 20, 0
	}
	return -1, 0, s.later
}

// hurried is shut, and its other class gathers nothing.
type hurried struct{ shut }

func (hurried) Linger(class int, usual time.Duration) time.Duration {
	if class == 0 {
		return 0
	}
	return usual
}

func (h hurried) Next(now time.Time, lane upstream.Lane, ready []bool) (class, bytes int, wait time.Duration) {
	if h.later == 0 && ready[1] {
		return 1, 1 << 20, 0
	}
	return h.shut.Next(now, lane, ready)
}

// A class that gathers nothing goes at once, also while another one gathers, which goes along; with a connection and without one.
func TestAClassThatGathersNothingGoesAtOnce(t *testing.T) {
	for _, later := range []time.Duration{0, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 1, upstream.Config{Linger: time.Minute})
			w.scheduler = hurried{shut{later: later}}
			w.board = w.start()
			defer w.board.kill()
			w.board.until(t, upstream.StateIdle)
			records := func(d time.Duration) int64 {
				time.Sleep(d)
				synctest.Wait()
				return w.board.link.Status().Sent.Records
			}
			plainly(nil, w.parts[3], 1, "x")
			want := int64(0)
			if n := records(30 * time.Second); n != want {
				t.Fatalf("others wait %s: %d records went that are gathered", later, n)
			}
			if later == 0 {
				want++ // it goes along
			}
			for range 3 {
				want++
				plainly(nil, w.parts[0], 1, "x")
				if n := records(2 * time.Second); n != want {
					t.Errorf("others wait %s: two seconds after it came %d records have gone, want %d", later, n, want)
				}
			}
		})
	}
}

// ajar is closed, and its open class gathers nothing.
type ajar struct{ *closed }

func (ajar) Linger(class int, usual time.Duration) time.Duration {
	return time.Duration(1-class) * usual
}

// It goes at once as well where there is no connection yet, because what others gather needs none.
func TestAClassThatGathersNothingHasALinkConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, upstream.Config{Linger: time.Minute})
		w.scheduler = ajar{&closed{until: time.Now().Add(time.Hour)}}
		w.board = w.start()
		defer w.board.kill()
		w.board.until(t, upstream.StateIdle)
		plainly(nil, w.parts[0], 1, "x")
		time.Sleep(time.Hour + 20*time.Second) // it is open, and gathers
		if s := w.board.link.Status(); s.Sent.Records != 0 || s.State != upstream.StateWaiting || s.Sent.Connects != 1 {
			t.Fatalf("after an hour: %d records, %s, %d connections", s.Sent.Records, s.State, s.Sent.Connects)
		}
		plainly(nil, w.parts[3], 1, "x")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if s := w.board.link.Status(); s.Sent.Records != 2 {
			t.Errorf("two seconds after it came %d records have gone, and the link is %s", s.Sent.Records, s.State)
		}
	})
}

// Records are gathered as well while others wait for the contract, with a connection and without one; heartbeats go meanwhile.
func TestRecordsAreGatheredBesideOthersThatWait(t *testing.T) {
	for _, later := range []time.Duration{0, time.Minute, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 1, upstream.Config{Linger: time.Minute, Heartbeats: 10 * time.Second, Alias: "a"})
			w.scheduler = shut{later: later}
			w.board = w.start()
			defer w.board.kill()
			w.board.until(t, upstream.StateIdle)
			if later > 0 {
				plainly(nil, w.parts[3], 1, "x")
				time.Sleep(5 * time.Minute)
			}
			before := w.board.link.Status().Sent
			for range 30 {
				plainly(nil, w.parts[0], 1, "x")
				time.Sleep(10 * time.Second)
			}
			time.Sleep(2 * time.Minute)
			s := w.board.link.Status().Sent
			if n := s.Transactions - before.Transactions; n < 4 || n > 15 || s.Records-before.Records != 30 || s.Connects-before.Connects > 6 {
				t.Errorf("others wait %s: %d records were %d transactions and %d connections", later, s.Records-before.Records, n, s.Connects-before.Connects)
			}
			if n := s.Heartbeats - before.Heartbeats; later < time.Hour && n < 35 {
				t.Errorf("others wait %s: %d heartbeats in seven minutes", later, n)
			}
		})
	}
}
