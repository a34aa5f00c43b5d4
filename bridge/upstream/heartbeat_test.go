package upstream_test

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/upstream"
	"millrace/bridge/upstream/upstreamtest"
)

// beats are the heartbeats that arrived, as MirrorMaker's Heartbeat reads them.
func beats(t *testing.T, k *upstreamtest.Kafka, topic string) (times []int64) {
	t.Helper()
	for _, r := range k.Committed(topic, 0) {
		source, target, at, err := parseHeartbeat(r.Key, r.Value)
		if err != nil || source != "plant" || target != "hq" || at != r.Timestamp || len(r.Headers) > 0 {
			t.Fatalf("%q, %q, %d, %v at %d", source, target, at, err, r.Timestamp)
		}
		times = append(times, at)
	}
	return times
}

// parseHeartbeat takes a heartbeat apart.
func parseHeartbeat(key, value []byte) (source, target string, at int64, err error) {
	text := func() string {
		if len(key) < 2 || len(key)-2 < int(binary.BigEndian.Uint16(key)) {
			err = errors.New("the key ends early")
			return ""
		}
		n := 2 + int(binary.BigEndian.Uint16(key))
		s := string(key[2:n])
		key = key[n:]
		return s
	}
	source, target = text(), text()
	switch {
	case err != nil:
	case len(key) > 0 || len(value) != 10 || value[0] != 0 || value[1] != 0:
		err = fmt.Errorf("%d bytes after the key, the value is %x", len(key), value)
	default:
		at = int64(binary.BigEndian.Uint64(value[2:]))
	}
	return source, target, at, err
}

// The bytes are those of MirrorMaker's class of 4.3.1: Heartbeat("shed-7", "hq", 1700000000123), as testbench/upstream has it
// make them anew.
func TestHeartbeatsAreMirrorMakers(t *testing.T) {
	key, value := upstream.AppendHeartbeatKey(nil, "shed-7", "hq"), upstream.AppendHeartbeatValue(nil, 1_700_000_000_123)
	if k, v := hex.EncodeToString(key), hex.EncodeToString(value); k != "0006736865642d3700026871" || v != "00000000018bcfe5687b" {
		t.Errorf("%s %s", k, v)
	}
}

func FuzzHeartbeat(f *testing.F) {
	f.Add("shed-7", "hq", int64(1_700_000_000_123))
	f.Add("", strings.Repeat("é", 300), int64(-1))
	f.Fuzz(func(t *testing.T, source, target string, at int64) {
		if len(source) > 32767 || len(target) > 32767 {
			return
		}
		s, g, a, err := parseHeartbeat(upstream.AppendHeartbeatKey(nil, source, target), upstream.AppendHeartbeatValue(nil, at))
		if err != nil || s != source || g != target || a != at {
			t.Errorf("%q, %q, %d, %v", s, g, a, err)
		}
	})
}

// beating is a link with a heartbeat a minute.
func beating() upstream.Config {
	return upstream.Config{Name: "hq", Board: "board1", Alias: "plant", Topics: []string{"s.*"}, Heartbeats: time.Minute}
}

// Heartbeats go one an interval, alone or with records, and neither a pause nor an idle link sees more.
func TestHeartbeatsGoOnceAnInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, beating(), nil)
		defer w.board.kill()
		time.Sleep(10*time.Minute + 30*time.Second)
		if n := len(beats(t, w.kafka, "plant.heartbeats")); n != 11 {
			t.Errorf("%d heartbeats in 10 minutes", n)
		}
		s := w.board.link.Status()
		if s.State != upstream.StateIdle || s.Sent.Heartbeats != 11 || s.Sent.Transactions != 0 || len(s.Notes) > 0 || s.LastSuccess.IsZero() {
			t.Errorf("%+v", s)
		}
		if got := w.kafka.Settings("plant.heartbeats"); got["cleanup.policy"] != "compact" || w.kafka.Partitions("plant.heartbeats") != 1 {
			t.Errorf("the topic was made with %v", got)
		}
		for range 600 { // a record a second has no transaction more for it
			plainly(w.all, w.parts[0], 1, "x")
			time.Sleep(time.Second)
		}
		w.board.drained(t)
		w.exact()
		list := beats(t, w.kafka, "plant.heartbeats")
		if n := len(list); n < 20 || n > 22 {
			t.Errorf("%d heartbeats in 20 minutes", n)
		}
		for i := 1; i < len(list); i++ {
			if d := list[i] - list[i-1]; d < 60_000 {
				t.Errorf("%d ms between two", d)
			}
		}
		w.board.link.Pause()
		w.board.until(t, upstream.StatePaused)
		time.Sleep(10 * time.Minute)
		if n := len(beats(t, w.kafka, "plant.heartbeats")); n != len(list) {
			t.Errorf("%d heartbeats while it is paused", n-len(list))
		}
	})
}

// Where nobody asks for them there is no topic either, and where nobody knows the time, or nothing may be sent, no heartbeat.
func TestNoHeartbeats(t *testing.T) {
	for _, tt := range []struct {
		name string
		env  func(*upstream.Config, *upstream.Env)
		made int
	}{
		{"not asked for", func(c *upstream.Config, _ *upstream.Env) { c.Heartbeats = 0 }, 0},
		{"no time", func(_ *upstream.Config, e *upstream.Env) { e.Clock = timeless{} }, 1},
		{"not let through", func(_ *upstream.Config, e *upstream.Env) {
			s := &switchable{}
			s.shut.Store(int64(time.Hour))
			e.Scheduler = s
		}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k, cfg := upstreamtest.NewKafka(rand.New(rand.NewPCG(1, 1))), beating()
				env := upstream.Env{Log: upstreamtest.NewLog(), Clock: upstreamtest.Clock{}, Remote: k.Client(), Logger: slog.New(slog.DiscardHandler)}
				tt.env(&cfg, &env)
				link, err := upstream.New(cfg, env)
				if err != nil {
					t.Fatal(err)
				}
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					link.Run(ctx)
				}()
				defer func() {
					stop()
					<-ended
				}()
				time.Sleep(time.Hour)
				if s := link.Status(); s.State != upstream.StateIdle {
					t.Errorf("%+v", s)
				}
				if n, made := link.Status().Sent.Heartbeats, k.Partitions("plant.heartbeats"); n != 0 || made != tt.made {
					t.Errorf("%d heartbeats, the topic has %d partitions", n, made)
				}
			})
		})
	}
}

// writing is a Scheduler that has to write to flash before it can say anything.
type writing struct {
	single
	asked, let chan struct{}
}

func (w writing) Next(time.Time, upstream.Lane, []bool) (class, bytes int, wait time.Duration) {
	w.asked <- struct{}{}
	<-w.let
	return 0, 1 << 20, 0
}

// Status does not wait for a contract that is asked about a heartbeat, and waits for flash.
func TestStatusWaitsForNoContract(t *testing.T) {
	k := upstreamtest.NewKafka(rand.New(rand.NewPCG(1, 1)))
	w := writing{asked: make(chan struct{}), let: make(chan struct{})}
	b := start(t, k, upstreamtest.NewLog(), beating(), nil, w, nil, nil)
	<-w.asked
	told := make(chan upstream.Status, 1)
	go func() { told <- b.link.Status() }()
	select {
	case s := <-told:
		if s.State != upstream.StateIdle {
			t.Errorf("%+v", s)
		}
	case <-time.After(30 * time.Second):
		t.Error("it waits")
	}
	close(w.let)
	b.kill()
}

// timeless is a clock that does not know the time.
type timeless struct{ upstreamtest.Clock }

func (timeless) Known() bool { return false }

// stuck is a Remote where nobody learns what becomes of transactions with a heartbeat.
type stuck struct{ upstream.Remote }

type stuckSession struct{ upstream.Session }

func (r stuck) Open(ctx context.Context, id string) (upstream.Session, error) {
	s, err := r.Remote.Open(ctx, id)
	return stuckSession{s}, err
}

func (s stuckSession) Send(ctx context.Context, recs []upstream.Record) error {
	for _, r := range recs {
		if strings.HasSuffix(r.Topic, ".heartbeats") {
			return errors.New("no leader")
		}
	}
	return s.Session.Send(ctx, recs)
}

// What is wrong with heartbeats holds up no record, and what the peer refuses is said.
func TestHeartbeatsThatDoNotGetThrough(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*world)
		note   string
	}{
		{"refused", func(w *world) {
			w.kafka.Refuse("plant.heartbeats", func(upstream.Record) error { return fmt.Errorf("%w: not authorized", upstreamtest.ErrTopic) })
		}, "not authorized"},
		{"no leader", func(w *world) { w.wrap = func(r upstream.Remote) upstream.Remote { return stuck{r} } }, ""},
		{"a topic of the board is called so", func(w *world) {
			w.cfg.Topics, w.cfg.Naming = []string{"s.*", "heartbeats"}, "{cluster}.{topic}"
			w.log.Create("heartbeats", 1, false)
		}, "goes to plant.heartbeats"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, beating())
				w.cfg.Heartbeats = time.Second
				tt.change(w)
				w.board = w.start()
				defer w.board.kill()
				for range 600 {
					plainly(w.all, w.parts[0], 1, "x")
					time.Sleep(time.Second)
				}
				s := w.board.drained(t)
				if s.Sent.Records != 600 || s.Sent.Heartbeats != 0 || s.Sent.Connects > 8 {
					t.Errorf("%+v", s)
				}
				if notes := strings.Join(s.Notes, "; "); !strings.Contains(notes, tt.note) {
					t.Errorf("it says %q", notes)
				}
			})
		})
	}
}

// A topic of the board that is made later and goes where heartbeats go has that topic for itself, before the link connects again.
func TestHeartbeatsMakeWayForATopicOfTheBoard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, beating())
		w.cfg.Topics, w.cfg.Naming, w.cfg.Heartbeats = []string{"s.*", "heartbeats"}, "{cluster}.{topic}", time.Second
		w.board = w.start()
		defer w.board.kill()
		time.Sleep(10 * time.Second)
		p := w.log.Create("heartbeats", 1, false)[0]
		for range 10 {
			plainly(w.all, p, 1, "ours")
			time.Sleep(3 * time.Second)
		}
		s := w.board.drained(t)
		own, before, after := 0, 0, 0
		for _, r := range w.kafka.Committed("plant.heartbeats", 0) {
			switch {
			case strings.HasSuffix(string(r.Value), " ours"):
				own++
			case own == 0:
				before++
			default:
				after++
			}
		}
		if own != 10 || before == 0 || after > 0 || s.Sent.Connects != 1 || !strings.Contains(strings.Join(s.Notes, ""), "the board's topic heartbeats goes to plant.heartbeats") {
			t.Errorf("%d heartbeats, then %d records with %d heartbeats between: %+v", before, own, after, s)
		}
	})
}

// A board and its copy that are both idle are told apart, though each has its heartbeats: one of them stops, and says so.
func TestACopyOfAnIdleBoardIsFenced(t *testing.T) {
	for _, every := range []time.Duration{time.Second, time.Minute, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			cfg := beating()
			cfg.Heartbeats = every
			w := newWorld(t, 1, cfg)
			w.board = w.start()
			defer w.board.kill()
			plainly(w.all, w.parts[0], 10, "before")
			w.board.drained(t)
			clone := start(t, w.kafka, w.log.Image(), w.cfg, nil, nil, nil, nil)
			defer clone.kill()
			time.Sleep(max(time.Hour, 12*every))
			a, b := w.board.link.Status(), clone.link.Status()
			if (a.State == upstream.StateFenced) == (b.State == upstream.StateFenced) {
				t.Errorf("a heartbeat each %v: one is %s after %d connections, the other %s after %d", every, a.State, a.Sent.Connects, b.State, b.Sent.Connects)
			}
			for _, s := range []upstream.Status{a, b} {
				if s.State == upstream.StateFenced && !strings.Contains(s.Reason, "takes over again and again") {
					t.Errorf("it says %q", s.Reason)
				}
			}
		})
	}
}

// What fences an idle link now and then, and is not there again soon, is no copy: no person has to come for it.
func TestNowAndThenAFenceStopsNoIdleLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, beating(), nil)
		defer w.board.kill()
		for range 10 {
			time.Sleep(2 * time.Hour)
			s, err := w.kafka.Client().Open(t.Context(), "millrace-board1-hq-live")
			if err != nil {
				t.Fatal(err)
			}
			s.Close()
		}
		time.Sleep(2 * time.Hour)
		if s := w.board.link.Status(); s.State != upstream.StateIdle || s.Sent.Connects != 11 {
			t.Errorf("%+v", s)
		}
	})
}
