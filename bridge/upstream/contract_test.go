package upstream_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/upstream"
)

// memory is a Memory that lasts.
type memory struct {
	mu     sync.Mutex
	p      []byte
	writes int
}

func (m *memory) Load() ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.p, nil
}

func (m *memory) Store(p []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.p, m.writes = append([]byte(nil), p...), m.writes+1
	return nil
}

// times is how often it was written.
func (m *memory) times() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.writes
}

func TestABoardRemembersWhatWasDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, upstream.Config{})
		m := &memory{}
		w.memory = m
		p := w.parts[0]
		w.board = w.start()
		for range 100 {
			plainly(w.all, p, 10, "x")
			w.board.drained(t)
			time.Sleep(time.Minute)
		}
		if m.times() < 1 || m.times() > 3 {
			t.Errorf("written down %d times in 100 minutes", m.times())
		}
		w.board.client.Cut(true)
		plainly(w.all, p, 10, "not delivered")
		time.Sleep(time.Hour)
		written := m.times()
		w.board.kill()

		w.board = start(t, w.kafka, w.log, w.cfg, func(r upstream.Remote) upstream.Remote { return unreachable{r} }, nil, m, nil)
		time.Sleep(10 * time.Minute)
		if from, _, needed := w.board.link.Needed("s.a", p.ID(), 0); from != 1000 || !needed {
			t.Errorf("from %d on is needed, %v", from, needed)
		}
		w.board.kill()
		if m.times() != written {
			t.Errorf("%d writes although nothing was delivered", m.times()-written)
		}

		// What is old, or not to be read, does no harm.
		m.p = []byte("{")
		w.board = w.start()
		defer w.board.kill()
		w.board.drained(t)
		w.exact()
	})
}

// unreachable is a peer that is not there.
type unreachable struct{ upstream.Remote }

func (unreachable) Open(context.Context, string) (upstream.Session, error) {
	return nil, errors.New("no route to host")
}

// plain is what Schedulers of tests have in common.
type plain struct{}

func (plain) Linger(_ int, usual time.Duration) time.Duration { return usual }
func (plain) Sent(time.Time, upstream.Lane, int, int)         {}

// single is the one class of a Scheduler.
type single struct{ plain }

func (single) Classes() int     { return 1 }
func (single) Class(string) int { return 0 }
func (single) Priority(int) int { return 0 }

// halves are the two classes of a Scheduler: s.b, and the rest.
type halves struct{ plain }

func (halves) Classes() int { return 2 }
func (halves) Class(topic string) int {
	if topic == "s.b" {
		return 1
	}
	return 0
}

// closed is a Scheduler whose window is closed for some classes until a time.
type closed struct {
	halves
	until time.Time
}

func (*closed) Priority(class int) int { return 1 - class }
func (c *closed) Next(now time.Time, _ upstream.Lane, ready []bool) (class, bytes int, wait time.Duration) {
	if ready[1] {
		return 1, 1 << 20, 0
	}
	if wait := c.until.Sub(now); wait > 0 {
		return -1, 0, wait
	}
	return 0, 1 << 20, 0
}

// counting counts connections.
type counting struct {
	upstream.Remote
	n atomic.Int64
}

func (r *counting) Open(ctx context.Context, id string) (upstream.Session, error) {
	r.n.Add(1)
	return r.Remote.Open(ctx, id)
}

func TestTheSchedulerIsObeyed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, upstream.Config{})
		c := &closed{until: time.Now().Add(10 * time.Hour)}
		w.scheduler = c
		opens := &counting{}
		w.wrap = func(r upstream.Remote) upstream.Remote { opens.Remote = r; return opens }
		plainly(w.all, w.parts[0], 5, "x")
		w.board = w.start()
		defer w.board.kill()
		if w.board.until(t, upstream.StateWaiting); opens.n.Load() != 0 {
			t.Errorf("it connected %d times although nothing may be sent", opens.n.Load())
		}
		w.board.link.Pause() // it sees them at once
		plainly(w.all, w.parts[0], 5, "x")
		plainly(w.all, w.parts[3], 5, "x")
		w.board.link.Resume()
		time.Sleep(9 * time.Hour)
		if s := w.board.until(t, upstream.StateWaiting); opens.n.Load() != 1 || s.Records != 10 {
			t.Errorf("it connected %d times for what may be sent, %d are behind", opens.n.Load(), s.Records)
		}
		if a, b := len(w.kafka.Committed("s.a", 0)), len(w.kafka.Committed("s.b", 0)); a != 0 || b != 5 {
			t.Errorf("%d and %d arrived", a, b)
		}
		if _, priority, _ := w.board.link.Needed("s.a", w.parts[0].ID(), 0); priority != 1 {
			t.Errorf("priority %d", priority)
		}
		time.Sleep(2 * time.Hour)
		w.board.drained(t)
		w.exact()
	})
}
