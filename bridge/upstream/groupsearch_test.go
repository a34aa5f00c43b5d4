package upstream_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/upstream"
)

// looking is a way there that notes what is looked for, and may fail.
type looking struct {
	upstream.Remote
	mu    sync.Mutex
	fail  error
	looks []look
}

type look struct {
	topic string
	at    time.Time
	most  int
}

func (l *looking) Open(ctx context.Context, id string) (upstream.Session, error) {
	s, err := l.Remote.Open(ctx, id)
	if err != nil {
		return nil, err
	}
	return lookingSession{s, l}, nil
}

// list are the looks so far.
func (l *looking) list() []look {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.looks)
}

type lookingSession struct {
	upstream.Session
	l *looking
}

func (s lookingSession) Visible(
	ctx context.Context, topic string, partition int32, from int64, most int, fn func(upstream.Seen) error,
) (int64, int, error) {
	s.l.mu.Lock()
	s.l.looks = append(s.l.looks, look{topic, time.Now(), most})
	err := s.l.fail
	s.l.mu.Unlock()
	if err != nil {
		return from, 0, err
	}
	return s.Session.Visible(ctx, topic, partition, from, most, fn)
}

// searching is a board whose link has to look for what g1 needs, of a topic. foreign is what somebody else
// has written in between, in KiB.
func searching(t *testing.T, topic string, foreign int) (w *followers, l *looking) {
	t.Helper()
	w, l = newFollowers(t, 3, upstream.Config{}), &looking{}
	w.board = w.start()
	p := w.log.Partition(topic, 0)
	plainly(w.all, p, 10, "x")
	w.board.drained(t)
	for range foreign {
		w.kafka.Write(upstream.Record{Topic: topic, Value: []byte("foreign " + strings.Repeat("x", 1<<10)), Timestamp: 1})
	}
	plainly(w.all, p, 10, "y")
	plainly(w.all, w.log.Partition("s.c", 0), 10, "x")
	w.board.drained(t)
	w.stop()
	w.read("g1", p, 15)
	w.wrap = func(r upstream.Remote) upstream.Remote { l.Remote = r; return l }
	return w, l
}

// What cannot be found of one partition holds up no group but its own.
func TestASearchThatFailsHoldsNoOtherGroupUp(t *testing.T) {
	for name, tt := range map[string]struct {
		fail  func(w *followers, l *looking)
		looks int
	}{
		"let go there":  {func(w *followers, _ *looking) { w.kafka.Retain("s.b", 0, 1) }, 1},
		"not allowed":   {func(w *followers, _ *looking) { w.kafka.Hide("s.b", errors.New("not authorized")) }, 1},
		"does not come": {func(_ *followers, l *looking) { l.fail = errors.New("cut") }, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, l := searching(t, "s.b", 0)
				tt.fail(w, l)
				w.board = w.start()
				defer func() { w.stop() }()
				p := w.log.Partition("s.c", 0)
				w.board.drained(t)
				plainly(w.all, p, 10, "y")
				w.read("g2", p, 12)
				w.synced()
				if got := w.reads("g2", "s.c"); got != "12 y" {
					t.Errorf("another group would read on at %q", got)
				}
				time.Sleep(3 * time.Hour)
				if got := len(l.list()); got != tt.looks {
					t.Errorf("%d looks upstream, want %d", got, tt.looks)
				}
				if s := w.board.link.Status().Groups; s.Waiting != 1 || !strings.Contains(s.Problem, "g1: s.b-0: it has read less") {
					t.Errorf("it says %+v", s)
				}
				p = w.log.Partition("s.b", 0)
				plainly(w.all, p, 10, "z")
				w.read("g1", p, 22)
				w.synced()
				if got := w.reads("g1", "s.b"); got != "22 z" {
					t.Errorf("when it has read on, it would read on at %q", got)
				}
			})
		})
	}
}

// A search is bounded, by what was asked for: in one go and in all.
func TestASearchEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, l := searching(t, "s.b", 6<<10)
		w.board = w.start()
		defer func() { w.stop() }()
		w.board.drained(t)
		time.Sleep(3 * time.Hour)
		all, rounds, largest := 0, map[time.Time]int{}, 0
		for _, k := range l.list() {
			all, largest = all+k.most, max(largest, k.most)
			rounds[k.at.Truncate(groupsEvery/2)] += k.most
		}
		if first := l.list()[0].most; first != 16<<10 || largest < 64<<10 || largest > 512<<10 {
			t.Errorf("it asks for %d at first, and %d at most", first, largest)
		}
		if all > 4<<20 || all < 3<<20 || len(rounds) < 4 {
			t.Errorf("%d bytes are asked for in all, in %d rounds", all, len(rounds))
		}
		for at, n := range rounds {
			if n > 1<<20 {
				t.Errorf("%d bytes are asked for at %v", n, at)
			}
		}
		if s := w.board.link.Status().Groups; !strings.Contains(s.Problem, "it has read less") {
			t.Errorf("it says %+v", s)
		}
	})
}

// On a thin link records go meanwhile, and a pause is heard.
func TestASearchMakesRoomForRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, l := searching(t, "s.b", 400)
		w.board = w.start()
		w.board.client.Thin(2 << 10)
		defer func() { w.stop() }()
		w.board.drained(t)
		p, longest := w.log.Partition("s.c", 0), time.Duration(0)
		began := time.Now()
		for w.reads("g1", "s.b") != "15 y" {
			if time.Since(began) > 3*time.Hour {
				t.Fatalf("after %v it is not found: %+v", time.Since(began), w.board.link.Status().Groups)
			}
			wrote := time.Now()
			plainly(w.all, p, 1, "on")
			w.board.drained(t)
			longest = max(longest, time.Since(wrote))
			time.Sleep(time.Second)
		}
		if n := len(l.list()); longest > 25*time.Second || n < 20 {
			t.Errorf("a record took %v, with %d looks", longest, n)
		}
		t.Logf("found after %v, %d looks; a record took %v at most", time.Since(began), len(l.list()), longest)
	})
}

// Records of a class that may not go now are not read either; and nothing is while the link is paused.
func TestASearchKeepsTheContract(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, l := searching(t, "s.b", 400)
		gate := &classes{}
		w.scheduler = gate
		gate.shut.Store(true)
		w.board = w.start()
		w.board.client.Thin(2 << 10)
		defer func() { w.stop() }()
		p := w.log.Partition("s.c", 0)
		w.read("g2", p, 10)
		plainly(w.all, p, 5, "on")
		time.Sleep(time.Hour)
		if got := w.reads("g2", "s.c"); len(l.list()) > 0 || got != "10 on" {
			t.Fatalf("%d looks of a class that may not go; another one's group would read on at %q", len(l.list()), got)
		}
		gate.shut.Store(false)
		for len(l.list()) == 0 {
			time.Sleep(time.Second)
		}
		w.board.link.Pause()
		w.board.until(t, upstream.StatePaused)
		if since := time.Since(l.list()[0].at); since > 25*time.Second {
			t.Errorf("a pause is heard after %v", since)
		}
		n := len(l.list())
		time.Sleep(time.Hour)
		if got := len(l.list()); got != n {
			t.Errorf("%d looks while it is paused", got-n)
		}
		w.board.link.Resume()
		time.Sleep(2 * time.Hour)
		if got := w.reads("g1", "s.b"); got != "15 y" || gate.sent.Load() < 400<<10 {
			t.Errorf("it would read on at %q; %d bytes are counted", got, gate.sent.Load())
		}
	})
}

// classes is a Scheduler that may hold back s.b, and counts what goes of it.
type classes struct {
	gate
	sent atomic.Int64
}

func (*classes) Classes() int           { return halves{}.Classes() }
func (*classes) Class(topic string) int { return halves{}.Class(topic) }

func (c *classes) Next(_ time.Time, _ upstream.Lane, ready []bool) (class, bytes int, wait time.Duration) {
	switch {
	case ready[0]:
		return 0, 1 << 30, 0
	case ready[1] && !c.shut.Load():
		return 1, 1 << 30, 0
	}
	return -1, 0, time.Minute
}

func (c *classes) Sent(_ time.Time, _ upstream.Lane, class, bytes int) {
	c.sent.Add(int64(class * bytes))
}
