package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/upstream"
	"millrace/bridge/upstream/upstreamtest"
	"millrace/broker/record"
)

func TestWhatThePeerRefusesHoldsNobodyElseUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, upstream.Config{}, func(w *world) {
			w.kafka.Create("s.a", 3, false)
			w.kafka.Refuse("s.a", func(r upstream.Record) error {
				if r.Partition == 1 {
					return errors.New("not authorized")
				}
				return nil
			})
		})
		defer w.board.kill()
		for _, p := range w.parts {
			plainly(w.all, p, 5, "x")
		}
		s := stopped(t, w.board, "s.a", 1, upstream.Refused)
		if !strings.Contains(s.Reason, "not authorized") {
			t.Errorf("the reason is %q", s.Reason)
		}
		time.Sleep(10 * time.Second)
		for i, n := range []int{5, 0, 5} {
			if got := len(w.kafka.Committed("s.a", i)); got != n {
				t.Errorf("partition %d has %d", i, got)
			}
		}
		w.kafka.Refuse("s.a", nil) // it is mended there, and nobody has to come here
		w.board.drained(t)
		w.exact()
	})
}

// What a topic refuses as such is learnt once, and not at the price of a connection for each partition.
func TestATopicThatIsRefusedIsHeldWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const parts = 300 // more than one transaction holds
		w := begin(t, upstream.Config{}, func(w *world) {
			w.kafka.Create("s.bad", parts, false)
			w.kafka.Refuse("s.bad", func(upstream.Record) error { return fmt.Errorf("%w: not authorized", upstreamtest.ErrTopic) })
			for _, p := range w.log.Create("s.bad", parts, false) {
				plainly(w.all, p, 1, "x")
			}
		})
		defer w.board.kill()
		plainly(w.all, w.parts[3], 1, "y")
		stopped(t, w.board, "s.bad", 0, upstream.Refused)
		time.Sleep(20 * time.Second)
		if s := w.board.link.Status(); s.Refused != parts || s.Sent.Connects > 2 || len(w.kafka.Committed("s.b", 0)) != 1 {
			t.Errorf("%d refused, %d connections, %d of the other topic", s.Refused, s.Sent.Connects, len(w.kafka.Committed("s.b", 0)))
		}
		w.kafka.Refuse("s.bad", nil)
		w.board.drained(t)
		w.exact()
	})
}

func TestBatchesThatAreTooLargeAreDivided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, upstream.Config{}, func(w *world) {
			w.kafka.Create("s.a", 3, false)
			w.kafka.Refuse("s.a", func(r upstream.Record) error {
				if len(r.Value) > 1000 {
					return fmt.Errorf("batch: %w", upstream.ErrTooLarge)
				}
				return nil
			})
		})
		defer w.board.kill()
		p := w.parts[0]
		plainly(w.all, p, 20, "small")
		r := record.Record{Value: fmt.Appendf(nil, "20 %s", strings.Repeat("x", 2000))}
		p.Append(record.None, r)
		plainly(nil, p, 3, "behind it")
		stopped(t, w.board, "s.a", 0, upstream.Refused)
		if n := len(w.kafka.Committed("s.a", 0)); n != 20 {
			t.Errorf("%d of the 20 before it arrived", n)
		}
		// A person leaves it out.
		if err := w.board.link.Resolve(t.Context(), "s.a", 0, upstream.Decision{How: upstream.At, Offset: 21}); err != nil {
			t.Fatal(err)
		}
		w.board.drained(t)
		if n := len(w.kafka.Committed("s.a", 0)); n != 23 {
			t.Errorf("%d arrived in the end", n)
		}
		if g := gaps(t, w.kafka)["s.a-0"]; len(g) != 1 || g[0].First != 20 || g[0].Last != 20 || g[0].Cause != upstream.CauseDecision {
			t.Errorf("told is %+v", g)
		}
	})
}

func TestDecisions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, upstream.Config{}, nil)
		defer func() { w.board.kill() }()
		p := w.parts[0]
		plainly(w.all, p, 10, "x")
		w.board.drained(t)
		link := w.board.link
		for _, d := range []upstream.Decision{{How: upstream.At, Offset: 11}, {How: upstream.At, Offset: -1}, {How: 9}} {
			if err := link.Resolve(t.Context(), "s.a", 0, d); !errors.Is(err, upstream.ErrDecision) {
				t.Errorf("%v: %v", d, err)
			}
		}
		if err := link.Resolve(t.Context(), "s.a", 7, upstream.Decision{}); !errors.Is(err, upstream.ErrUnknownPartition) {
			t.Error(err)
		}
		// While there is no connection a decision waits, and is taken back with its context.
		w.board.client.Cut(true)
		plainly(w.all, p, 5, "y")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if err := link.Resolve(ctx, "s.a", 0, upstream.Decision{How: upstream.Latest}); err == nil {
			t.Error("it was carried out without a connection")
		}
		cancel()
		w.board.client.Cut(false)
		w.board.drained(t)
		w.exact() // so the records came

		w.board.link.Pause()
		w.board.until(t, upstream.StatePaused)
		plainly(nil, p, 5, "z")
		w.board.link.Resume()
		if err := w.board.link.Resolve(t.Context(), "s.a", 0, upstream.Decision{How: upstream.Latest}); err != nil {
			t.Fatal(err)
		}
		w.board.drained(t)
		n := len(w.kafka.Committed("s.a", 0))
		told := gaps(t, w.kafka)["s.a-0"]
		if n == 15 && (len(told) != 1 || told[0].First != 15 || told[0].Last != 19) || n != 15 && n != 20 {
			t.Errorf("%d arrived, told is %+v", n, told)
		}
		if err := w.board.link.Resolve(t.Context(), "s.a", 0, upstream.Decision{How: upstream.Earliest}); err != nil {
			t.Fatal(err)
		}
		w.board.drained(t)
		if again := len(w.kafka.Committed("s.a", 0)); again != n+20 {
			t.Errorf("from the beginning %d arrived, want %d", again-n, 20)
		}
	})
}

func TestAnOlderDiskMayBeAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, upstream.Config{}, nil)
		older := w.log.Image()
		plainly(w.all, w.parts[0], 10, "x")
		w.board.drained(t)
		w.board.kill()
		w.board = start(t, w.kafka, older, w.cfg, nil, nil, nil, nil)
		defer w.board.kill()
		p := older.Partition("s.a", 0)
		plainly(nil, p, 4, "counts as delivered")
		stopped(t, w.board, "s.a", 0, upstream.LocalShort)
		if err := w.board.link.Resolve(t.Context(), "s.a", 0, upstream.Decision{How: upstream.Accept}); err != nil {
			t.Fatal(err)
		}
		plainly(nil, p, 3, "new")
		w.board.drained(t)
		list := w.kafka.Committed("s.a", 0)
		if len(list) != 13 || string(list[10].Value) != "4 new" {
			t.Errorf("%d arrived, the first new one is %s", len(list), list[min(10, len(list)-1)].Value)
		}
	})
}

func TestAtLeastOnceLosesNothing(t *testing.T) {
	twice := 0
	for _, seed := range seeds(10) {
		list := simulate(t, seed, upstream.Config{Delivery: upstream.AtLeastOnce}, func(w *world) { w.kafka.NoTransactions = true })
		for _, fault := range list {
			switch {
			case strings.Contains(fault, "twice"), strings.Contains(fault, " after "): // what was in flight comes again
				twice++
			case strings.Contains(fault, "arrived") && !strings.Contains(fault, "arrived 0 times"):
			default:
				t.Errorf("-seed=%d: %s", seed, fault)
			}
		}
	}
	if twice == 0 {
		t.Error("nothing came twice: then there is nothing here that could go wrong")
	}
}

func TestExactlyOnceIsRefusedWithoutTransactions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, upstream.Config{}, func(w *world) { w.kafka.NoTransactions = true })
		defer w.board.kill()
		plainly(nil, w.parts[0], 1, "x")
		if s := w.board.until(t, upstream.StateRefused); !strings.Contains(s.Reason, "exactly-once needs an upstream with transactions") {
			t.Errorf("the reason is %q", s.Reason)
		}
		w.kafka.Upgrade()
		w.board.drained(t)
	})
}

func TestCursorTopicsThatDoNotDo(t *testing.T) {
	t.Run("not compacted", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := begin(t, upstream.Config{}, func(w *world) { w.kafka.Create(upstream.DefaultCursorTopic, 8, false) })
			defer w.board.kill()
			if s := w.board.until(t, upstream.StateRefused); !strings.Contains(s.Reason, "is not compacted") {
				t.Errorf("the reason is %q", s.Reason)
			}
		})
	})
	t.Run("made anew", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := begin(t, upstream.Config{}, nil)
			defer w.board.kill()
			plainly(w.all, w.parts[0], 1, "x")
			w.board.drained(t)
			w.board.client.Cut(true)
			plainly(w.all, w.parts[0], 1, "y")
			w.board.until(t, upstream.StateConnecting)
			w.kafka.Create(upstream.DefaultCursorTopic, 8, true)
			w.board.client.Cut(false)
			if s := w.board.until(t, upstream.StateRefused); !strings.Contains(s.Reason, "made anew") {
				t.Errorf("the reason is %q", s.Reason)
			}
		})
	})
	t.Run("of a later version", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := begin(t, upstream.Config{}, nil)
			defer func() { w.board.kill() }()
			plainly(w.all, w.parts[0], 1, "x")
			w.board.drained(t)
			w.board.kill()
			w.kafka.Rewrite(upstream.DefaultCursorTopic, func(r upstream.Record) upstream.Record {
				r.Value = []byte(strings.Replace(string(r.Value), `"v":1`, `"v":99`, 1))
				return r
			})
			w.board = w.start()
			if s := w.board.until(t, upstream.StateRefused); !strings.Contains(s.Reason, "later version") {
				t.Errorf("the reason is %q", s.Reason)
			}
		})
	})
}

func TestPauseAndResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, upstream.Config{}, nil)
		defer w.board.kill()
		plainly(w.all, w.parts[0], 3, "x")
		w.board.drained(t)
		w.board.link.Pause()
		w.board.until(t, upstream.StatePaused)
		plainly(w.all, w.parts[0], 3, "y")
		time.Sleep(time.Hour)
		if s := w.board.link.Status(); len(w.kafka.Committed("s.a", 0)) != 3 || s.State != upstream.StatePaused || s.Records != 3 {
			t.Errorf("paused it is %+v", s)
		}
		w.board.link.Resume()
		w.board.drained(t)
		w.exact()
	})
}

func TestLiveGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, upstream.Config{Order: upstream.LiveFirst})
		fill := func(n int) {
			for range n {
				recs := make([]record.Record, 10)
				for i := range recs {
					recs[i] = record.Record{Timestamp: time.Now().UnixMilli(), Value: fmt.Appendf(nil, "%d %s", w.parts[0].High()+int64(i), strings.Repeat("x", 1000))}
				}
				w.parts[0].Append(record.None, recs...)
				w.all.note(w.parts[0], recs)
			}
		}
		fill(1000) // 10 MB: almost three minutes
		thin := &thin{rate: 64 << 10}
		w.wrap = func(r upstream.Remote) upstream.Remote { thin.Remote = r; return thin }
		w.board = w.start()
		defer w.board.kill()
		time.Sleep(5 * time.Second)
		late := map[int64]time.Time{} // when live records were written
		for range 60 {
			late[w.parts[0].High()] = time.Now()
			plainly(w.all, w.parts[0], 1, "live")
			time.Sleep(time.Second)
		}
		s := w.board.link.Status()
		live := 0
		for _, r := range w.kafka.Committed("s.a", 0) {
			if r.Headers[len(r.Headers)-1].Key == upstream.HeaderLane && string(r.Headers[len(r.Headers)-1].Value) == "live" {
				live++
			}
		}
		if live < 55 || s.Records < 1000 {
			t.Errorf("of 60 live records %d are there, while %d are behind", live, s.Records)
		}
		if len(s.List) != 1 || len(s.List[0].Ranges) == 0 {
			t.Errorf("status says %+v", s.List)
		}
		w.board.drained(t)
		w.exact()
		if s := w.board.link.Status(); len(s.List) != 0 {
			t.Errorf("in the end status says %+v", s.List)
		}
	})
}

// A trickle of live records, each of which is waited for until more come, leaves the backlog the link.
func TestATrickleDoesNotHoldTheBacklogUp(t *testing.T) {
	took := func(trickle bool) (took time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 1, upstream.Config{Order: upstream.LiveFirst})
			value := []byte(strings.Repeat("x", 1000))
			for range 1000 { // 20 MB
				recs := make([]record.Record, 20)
				for i := range recs {
					recs[i] = record.Record{Timestamp: time.Now().UnixMilli(), Value: value}
				}
				w.parts[0].Append(record.None, recs...)
			}
			w.kafka.Fail(upstreamtest.Faults{Latency: 5 * time.Millisecond})
			begin := time.Now()
			w.board = w.start()
			defer w.board.kill()
			for w.board.link.Status().Records > 50 {
				time.Sleep(10 * time.Millisecond)
				if trickle {
					w.parts[0].Append(record.None, record.Record{Timestamp: time.Now().UnixMilli(), Value: value[:10]})
				}
			}
			took = time.Since(begin)
		})
		return took
	}
	if alone, beside := took(false), took(true); beside > alone*3/2 {
		t.Errorf("a backlog takes %s, and %s with a live record every 10 ms beside it", alone, beside)
	} else {
		t.Logf("%s alone, %s with a trickle", alone, beside)
	}
}

func TestWhatIsLeftOverOfLiveFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, upstream.Config{Order: upstream.LiveFirst, TransactionBytes: 2000, LiveBehind: time.Millisecond})
		plainly(w.all, w.parts[0], 2000, "x")
		w.kafka.Fail(upstreamtest.Faults{Latency: time.Second})
		w.board = w.start()
		time.Sleep(20 * time.Second)
		if s := w.board.link.Status(); len(s.List) != 1 || len(s.List[0].Ranges) != 1 {
			t.Fatalf("nothing is left: %+v", s.List)
		}
		w.board.kill()
		w.cfg.Order = upstream.OldestFirst // decided otherwise
		w.board = w.start()
		defer w.board.kill()
		w.board.drained(t)
		w.exact()
	})
}

func TestWhatIsNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, upstream.Config{})
		p := w.parts[0]
		plainly(w.all, p, 10, "x")
		w.env = func(e *upstream.Env) { e.Remote.(*upstreamtest.Client).Cut(true) } // from the first moment on
		w.board = w.start()
		defer w.board.kill()
		time.Sleep(time.Minute)
		if from, _, needed := w.board.link.Needed("s.a", p.ID(), 0); from != 0 || !needed {
			t.Errorf("before there are cursors %d, %v", from, needed)
		}
		w.board.client.Cut(false)
		w.board.drained(t)
		if from, _, needed := w.board.link.Needed("s.a", p.ID(), 0); from != 10 || !needed {
			t.Errorf("when all is delivered %d, %v", from, needed)
		}
		if _, _, needed := w.board.link.Needed("s.a", [16]byte{99}, 0); needed {
			t.Error("a topic with another id is needed")
		}
		if _, _, needed := w.board.link.Needed("other", p.ID(), 0); needed {
			t.Error("a topic nobody chose is needed")
		}
	})
}

// The log tells of news, and asks what is needed, with locks held that the link takes when it asks the log: nobody waits for
// the other for ever.
func TestTheLogMayAskWithItsLocksHeld(t *testing.T) {
	w := newWorld(t, 1, upstream.Config{Linger: -1})
	w.board = w.start()
	defer w.board.kill()
	p := w.parts[0]
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 2000 {
			w.board.link.Status()
		}
	}()
	for i := range 2000 {
		plainly(nil, p, 1, "x") // tells with the lock held
		p.Hold(func() {
			if from, _, _ := w.board.link.Needed("s.a", p.ID(), 0); from > int64(i)+1 {
				t.Errorf("%d is needed of %d", from, i)
			}
		})
	}
	<-done
}

// 500 partitions and a backlog: no goroutine each, and nothing that grows with what is behind.
func TestManyPartitions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, upstream.Config{})
		w.parts = w.log.Create("s.many", 500, false)
		w.board = w.start()
		defer w.board.kill()
		w.board.client.Cut(true)
		for _, p := range w.parts {
			plainly(w.all, p, 20, strings.Repeat("x", 100))
		}
		s := w.board.link.Status()
		if s.Partitions != 504 || s.Records != 10_000 || len(s.List) != upstream.PartitionsShown || s.More != 500-upstream.PartitionsShown {
			t.Errorf("status says %d partitions, %d records, %d listed, %d more", s.Partitions, s.Records, len(s.List), s.More)
		}
		before := runtime.NumGoroutine()
		w.board.client.Cut(false)
		w.board.drained(t)
		if n := runtime.NumGoroutine(); n > before+10 {
			t.Errorf("%d goroutines, %d before", n, before)
		}
		if s := w.board.link.Status(); s.Sent.Transactions > 40 {
			t.Errorf("%d transactions for 10,000 records", s.Sent.Transactions)
		}
		w.exact()
	})
}

func TestLinksThatCannotBe(t *testing.T) {
	good := upstream.Config{Name: "hq", Board: "b", Topics: []string{"x"}}
	for _, change := range []func(*upstream.Config){
		func(c *upstream.Config) { c.Name = "" },
		func(c *upstream.Config) { c.Board = "" },
		func(c *upstream.Config) { c.Topics = nil },
		func(c *upstream.Config) { c.Naming = "fixed" },
		func(c *upstream.Config) { c.LiveShare = 1 },
		func(c *upstream.Config) { c.TransactionBytes = -1 },
	} {
		c := good
		change(&c)
		if _, err := upstream.New(c, upstream.Env{}); !errors.Is(err, upstream.ErrConfig) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if _, err := upstream.NewKafka(upstream.KafkaConfig{}); !errors.Is(err, upstream.ErrConfig) {
		t.Errorf("without brokers: %v", err)
	}
	if _, err := upstream.NewKafka(upstream.KafkaConfig{Brokers: []string{"x:1"}, SASL: upstream.SASL{Mechanism: "GSSAPI"}}); !errors.Is(err, upstream.ErrConfig) {
		t.Errorf("with a mechanism nobody knows: %v", err)
	}
}
