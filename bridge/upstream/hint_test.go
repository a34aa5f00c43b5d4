package upstream_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/upstream"
	"millrace/bridge/upstream/upstreamtest"
)

// brittle is a way on which reading cursors breaks off after some.
type brittle struct {
	upstream.Remote
	most int
}

func (r *brittle) Open(ctx context.Context, id string) (upstream.Session, error) {
	s, err := r.Remote.Open(ctx, id)
	return brittleSession{s, r}, err
}

type brittleSession struct {
	upstream.Session
	r *brittle
}

func (s brittleSession) Cursors(
	ctx context.Context, topic string, partition int32, from int64, fn func(key, value []byte) error,
) (int64, error) {
	left := s.r.most
	return s.Session.Cursors(ctx, topic, partition, from, func(key, value []byte) error {
		if left--; left < 0 {
			return errors.New("the link was cut")
		}
		return fn(key, value)
	})
}

// A link that is cut again and again while the cursors are read gets through: what was read is kept.
func TestReadingCursorsGoesOnWhereItWasCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, upstream.Config{}, nil)
		for range 100 {
			plainly(w.all, w.parts[0], 1, "x")
			w.board.drained(t)
		}
		w.board.kill()
		w.wrap = func(r upstream.Remote) upstream.Remote { return &brittle{r, 10} }
		plainly(w.all, w.parts[0], 1, "y")
		w.board = w.start()
		defer func() { w.board.kill() }()
		w.board.drained(t)
		w.exact()
		if n := w.board.client.CursorsRead(); n < 100 || n > 120 {
			t.Errorf("%d cursors were read of 100", n)
		}
	})
}

func TestALifeReadsOnlyTheCursorsThatAreNew(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*world, *memory)
		least  int64 // cursors that are read
		most   int64
	}{
		{"as it was", func(*world, *memory) {}, 0, 5},
		{"lost", func(_ *world, m *memory) { m.p = nil }, 100, 110},
		{"spoilt", func(_ *world, m *memory) { m.p[len(m.p)/2] ^= 0x40 }, 100, 110},
		{"the cursor topic has lost its end", func(w *world, _ *memory) {
			for i := range w.kafka.Partitions(upstream.DefaultCursorTopic) {
				if n := w.kafka.End(upstream.DefaultCursorTopic, i); n > 0 {
					w.kafka.Truncate(upstream.DefaultCursorTopic, i, n-3)
				}
			}
			w.all = nil
		}, 100, 110},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &memory{}
				w := begin(t, upstream.Config{}, func(w *world) { w.hint = m })
				for range 110 {
					plainly(w.all, w.parts[0], 1, "x")
					w.board.drained(t)
				}
				w.board.kill()
				if m.times() > 2 {
					t.Errorf("written down %d times", m.times())
				}
				tt.change(w, m)
				plainly(w.all, w.parts[0], 1, "y")
				w.board = w.start()
				defer func() { w.board.kill() }()
				w.board.drained(t)
				if w.all != nil {
					w.exact()
				}
				if n := w.board.client.CursorsRead(); n < tt.least || n > tt.most {
					t.Errorf("%d cursors were read, want %d to %d", n, tt.least, tt.most)
				}
			})
		})
	}
}

// Of another cluster, and of a topic made anew, what is kept says nothing.
func TestAHintIsOfOneTopicAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		w := begin(t, upstream.Config{}, func(w *world) { w.hint = m })
		plainly(w.all, w.parts[0], 10, "x")
		w.board.drained(t)
		w.board.kill()
		other := upstreamtest.NewKafka(rand.New(rand.NewPCG(3, 3)))
		b := start(t, other, w.log, w.cfg, nil, nil, nil, m)
		defer b.kill()
		b.drained(t)
		if n := len(other.Committed("s.a", 0)); n != 10 {
			t.Errorf("%d arrived at a cluster that had none", n)
		}
	})
}

// older is a Memory that returns any of what it was given: a board whose disk was restored.
type older struct {
	rng *rand.Rand
	all [][]byte
}

func (m *older) Load() ([]byte, error) {
	if len(m.all) == 0 || m.rng.IntN(8) == 0 {
		return nil, nil
	}
	return m.all[m.rng.IntN(len(m.all))], nil
}

func (m *older) Store(p []byte) error {
	m.all = append(m.all, append([]byte(nil), p...))
	return nil
}

// However old what is kept on the board is: nothing that is sent depends on it.
func TestNothingDependsOnTheHint(t *testing.T) {
	kept := 0
	for _, cfg := range []upstream.Config{{}, {Order: upstream.LiveFirst, TransactionBytes: 4000, LiveBehind: time.Millisecond}} {
		for _, seed := range seeds(10) {
			m := &older{rng: rand.New(rand.NewPCG(seed, 13))}
			list := simulate(t, seed, cfg, func(w *world) { w.hint = m })
			if len(list) > 0 {
				t.Fatalf("-seed=%d: %d faults, %s", seed, len(list), strings.Join(list[:min(3, len(list))], "; "))
			}
			kept += len(m.all)
		}
	}
	if *seed == 0 && kept == 0 {
		t.Error("nothing was kept")
	}
}

func TestACursorTopicOfAClusterThatTakesNoSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, upstream.Config{}, func(w *world) { w.kafka.Plain = true })
		defer w.board.kill()
		plainly(w.all, w.parts[0], 3, "x")
		w.board.drained(t)
		w.exact()
	})
}

// An older disk is stopped until a person decides: also when the log has grown past what was delivered, and the record is
// gone that would tell.
func TestAnOlderDiskStaysStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		w := begin(t, upstream.Config{}, nil)
		plainly(nil, w.parts[0], 5, "old")
		w.board.drained(t)
		image := w.log.Image()
		plainly(nil, w.parts[0], 15, "late") // 20 are delivered
		w.board.drained(t)
		w.board.kill()

		b := start(t, w.kafka, image, w.cfg, nil, nil, nil, m)
		q := image.Partition("s.a", 0)
		stopped(t, b, "s.a", 0, upstream.LocalShort)
		if from, _, needed := b.link.Needed("s.a", q.ID(), 0); from != 0 || !needed {
			t.Errorf("from %d on is needed, %v", from, needed)
		}
		plainly(nil, q, 20, "new") // 5 to 24
		time.Sleep(time.Minute)
		b.kill()
		q.Retain(4) // 19, the last that was delivered, is gone
		for range 2 {
			b = start(t, w.kafka, image, w.cfg, nil, nil, nil, m)
			stopped(t, b, "s.a", 0, upstream.LocalShort)
			if n := len(w.kafka.Committed("s.a", 0)); n != 20 {
				t.Errorf("%d arrived", n)
			}
			b.kill()
		}
		b = start(t, w.kafka, image, w.cfg, nil, nil, nil, m)
		stopped(t, b, "s.a", 0, upstream.LocalShort)
		if err := b.link.Resolve(t.Context(), "s.a", 0, upstream.Decision{How: upstream.Earliest}); err != nil {
			t.Fatal(err)
		}
		b.drained(t)
		if from, _, _ := b.link.Needed("s.a", q.ID(), 0); from != 25 {
			t.Errorf("from %d on is needed when it was decided", from)
		}
		b.kill()
		plainly(nil, q, 1, "on")
		b = start(t, w.kafka, image, w.cfg, nil, nil, nil, m)
		defer func() { b.kill() }()
		b.drained(t)
		if list := w.kafka.Committed("s.a", 0); len(list) != 25 || string(list[24].Value) != "25 on" {
			t.Errorf("%d arrived, want 25", len(list))
		}
	})
}

// A log that cannot be read where the last record is does not say that it is another: it waits.
func TestALastRecordThatCannotBeReadHoldsItsPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, upstream.Config{}, nil)
		plainly(w.all, w.parts[0], 5, "x")
		w.board.drained(t)
		w.board.kill()
		w.parts[0].Break(errors.New("input/output error"), 5) // and what is new could be read
		plainly(w.all, w.parts[0], 5, "y")
		plainly(w.all, w.parts[3], 5, "goes on")
		w.board = w.start()
		defer func() { w.board.kill() }()
		if s := stopped(t, w.board, "s.a", 0, upstream.Unreadable); !strings.Contains(s.Reason, "input/output error") {
			t.Errorf("the reason is %q", s.Reason)
		}
		time.Sleep(10 * time.Second)
		if n, held := len(w.kafka.Committed("s.b", 0)), len(w.kafka.Committed("s.a", 0)); n != 5 || held != 5 {
			t.Errorf("%d of the other topic arrived, and %d of this one", n, held)
		}
		w.parts[0].Break(nil, 0)
		w.board.drained(t)
		w.exact()
	})
}
