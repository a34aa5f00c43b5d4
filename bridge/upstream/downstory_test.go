package upstream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/upstream"
	"millrace/bridge/upstream/upstreamtest"
	"millrace/broker/record"
)

// calm is a sea in which nothing goes wrong, with a board that has taken what there is.
func calm(t *testing.T, change func(*sea)) *sea {
	t.Helper()
	s := newSea(t, 1)
	s.calm = true
	if change != nil {
		change(s)
	}
	s.start()
	s.board.idle(t)
	return s
}

// post writes values upstream.
func (s *sea) post(topic string, partition int, values ...string) {
	for _, v := range values {
		s.n++
		s.kafka.Write(upstream.Record{
			Topic: topic, Partition: int32(partition), Timestamp: 1_700_000_000_000 + int64(s.n), Value: []byte(v),
		})
	}
}

// Whether all is there is known as soon as there is a connection, though the peer would wait for records.
func TestAllIsThereIsKnownAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := calm(t, nil)
		s.post("c.a", 0, "one")
		s.wants("c.a", 0, "one")
		s.end()
		s.start()
		began := time.Now()
		s.board.until(t, "idle", func(is *upstream.Status) bool { return is.State == upstream.StateIdle })
		if took := time.Since(began); took > time.Second {
			t.Errorf("known after %v", took)
		}
		s.end()
	})
}

// A broker that has just begun does not know what it leads: it is asked again soon, and not after a minute, as a partition is that the
// peer does not give.
func TestABrokerThatHasJustBegunIsAskedAgainSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := calm(t, nil)
		s.end()
		s.kafka.Elect()
		s.kafka.Forget(8) // twice all partitions
		s.post("c.a", 0, "one")
		s.start()
		began := time.Now()
		s.board.until(t, "idle", func(is *upstream.Status) bool { return is.State == upstream.StateIdle && is.Sent.Records == 1 })
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("taken after %v", took)
		}
		s.end()
	})
}

// values are those the board has.
func (s *sea) values(topic string, index int) (list []string) {
	for _, part := range s.log.Partitions(topic) {
		if int(part.Index()) == index {
			for _, r := range part.(*upstreamtest.Partition).Records() {
				list = append(list, string(r.Value))
			}
		}
	}
	return list
}

func (s *sea) wants(topic string, partition int, values ...string) {
	s.t.Helper()
	s.board.idle(s.t)
	if got := s.values(topic, partition); !slices.Equal(got, values) {
		s.t.Errorf("%s-%d holds %q, want %q", topic, partition, got, values)
	}
}

// stops waits until a partition has stopped.
func (s *sea) stops(why string) upstream.PartitionStatus {
	s.t.Helper()
	st := s.board.until(s.t, "stopped", func(st *upstream.Status) bool { return st.Stopped == 1 })
	if p := st.List[0]; !p.Verdict.Stopped() || !strings.Contains(p.Reason, why) {
		s.t.Errorf("%+v", p)
	}
	return st.List[0]
}

func TestWhatIsGoneUpstreamIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := calm(t, func(s *sea) { s.post("c.b", 0, "0", "1") })
		s.end()
		s.post("c.b", 0, "2", "3", "4", "5")
		s.kafka.Retain("c.b", 0, 1)
		s.start()
		s.wants("c.b", 0, "0", "1", "5")
		if c := s.board.link.Status().Sent; c.Gaps != 1 || c.Lost != 3 {
			t.Errorf("%+v", c)
		}
		g := s.gaps(place{"c.b", 0})
		if len(g) != 1 || g[0].Board != "board1" || g[0].Link != "hq" || g[0].First != 2 || g[0].Last != 4 || g[0].Count != 3 || g[0].Cause != upstream.CauseRetention {
			t.Errorf("%+v", g)
		}
		// So is what goes while the link is there.
		s.board.life.Fill(true)
		s.post("c.b", 0, "6")
		s.board.until(t, "waiting for the disk", func(st *upstream.Status) bool { return st.State == upstream.StateWaiting && st.Reason != "" })
		s.post("c.b", 0, "7", "8")
		s.kafka.Retain("c.b", 0, 1)
		s.board.life.Fill(false)
		s.wants("c.b", 0, "0", "1", "5", "6", "8")
		if g = s.gaps(place{"c.b", 0}); len(g) != 2 || g[1].First != 7 || g[1].Last != 7 {
			t.Errorf("%+v", g)
		}
		if n := s.board.link.Status().Sent.Connects; n != 1 {
			t.Errorf("%d connections, and the disk was full", n)
		}
		s.end()
	})
}

func TestDecisionsAboutWhatComesDown(t *testing.T) {
	for _, tt := range []struct {
		how  upstream.Decision
		want []string
		gap  bool
	}{
		{upstream.Decision{How: upstream.Accept}, []string{"0", "1", "2", "n3", "later"}, false},
		{upstream.Decision{How: upstream.Earliest}, []string{"0", "1", "2", "n0", "n1", "n2", "n3", "later"}, false},
		{upstream.Decision{How: upstream.Latest}, []string{"0", "1", "2", "later"}, true},
		{upstream.Decision{How: upstream.At, Offset: 2}, []string{"0", "1", "2", "n2", "n3", "later"}, true},
	} {
		t.Run(fmt.Sprint(tt.how), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := calm(t, func(s *sea) { s.post("c.b", 0, "0", "1", "2") })
				defer s.end()
				s.kafka.Create("c.b", 1, false)
				s.post("c.b", 0, "n0", "n1", "n2", "n3")
				s.stops("made anew")
				for _, bad := range []upstream.Decision{{How: upstream.At, Offset: 5}, {How: upstream.At, Offset: -1}, {How: 9}} {
					if err := s.board.link.Resolve(t.Context(), "c.b", 0, bad); !errors.Is(err, upstream.ErrDecision) {
						t.Errorf("%v: %v", bad, err)
					}
				}
				if err := s.board.link.Resolve(t.Context(), "c.b", 0, tt.how); err != nil {
					t.Fatal(err)
				}
				s.post("c.b", 0, "later")
				s.wants("c.b", 0, tt.want...)
				if g := s.gaps(place{"c.b", 0}); len(g) == 0 == tt.gap || tt.gap && (g[0].Cause != upstream.CauseDecision || g[0].First != 0) {
					t.Errorf("%+v", g)
				}
			})
		})
	}
}

// A record that is another one upstream than the one that was taken stops its partition, though the offsets are there.
func TestAReplacedRecordUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := calm(t, func(s *sea) { s.post("c.b", 0, "0", "1") })
		s.kafka.Elect() // without anything else all goes on
		s.post("c.b", 0, "2")
		s.wants("c.b", 0, "0", "1", "2")
		s.kafka.Rewrite("c.b", func(r upstream.Record) upstream.Record {
			r.Value = append([]byte("other "), r.Value...)
			return r
		})
		s.kafka.Elect()
		s.post("c.b", 0, "3")
		s.stops("is not the one that was taken")
		s.kafka.Elect() // it stays so
		time.Sleep(time.Hour)
		s.stops("is not the one that was taken")
		s.end()
		if got := s.values("c.b", 0); len(got) != 3 {
			t.Errorf("%q", got)
		}
	})
}

// switchable is a contract that lets everything through, or nothing for so long.
type switchable struct {
	single
	shut atomic.Int64
}

func (s *switchable) Next(time.Time, upstream.Lane, []bool) (class, bytes int, wait time.Duration) {
	if wait := time.Duration(s.shut.Load()); wait > 0 {
		return -1, 0, wait
	}
	return 0, 2000, 0
}

func TestTheContractHoldsForWhatComesDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSea(t, 1)
		scheduler := new(switchable)
		scheduler.shut.Store(int64(time.Hour))
		s.post("c.b", 0, "0")
		s.board = startDown(t, s.kafka, s.log.Life(rand.New(rand.NewPCG(1, 1))), s.cfg, scheduler)
		time.Sleep(30 * time.Minute)
		if st := s.board.link.Status(); st.State != upstream.StateWaiting || st.Sent.Connects != 0 {
			t.Errorf("%+v", st)
		}
		scheduler.shut.Store(0)
		s.board.link.Kick()
		s.wants("c.b", 0, "0")
		scheduler.shut.Store(int64(10 * time.Second)) // a short wait is waited out with the connection
		time.Sleep(time.Minute)
		s.post("c.b", 0, "1")
		time.Sleep(time.Minute)
		if st := s.board.link.Status(); st.State != upstream.StateWaiting || st.Sent.Connects != 1 || len(s.values("c.b", 0)) != 1 {
			t.Errorf("%+v", st)
		}
		scheduler.shut.Store(0)
		s.wants("c.b", 0, "0", "1")
		s.board.link.Pause()
		s.board.until(t, "paused", func(st *upstream.Status) bool { return st.State == upstream.StatePaused })
		s.post("c.b", 0, "2")
		time.Sleep(time.Hour)
		if got := s.values("c.b", 0); len(got) != 2 {
			t.Errorf("%q came while it was paused", got)
		}
		s.board.link.Resume()
		s.wants("c.b", 0, "0", "1", "2")
		s.end()
		if st := s.board.link.Status(); st.State != upstream.StateStopped {
			t.Errorf("%+v", st)
		}
		if err := s.board.link.Resolve(t.Context(), "c.b", 0, upstream.Decision{}); err == nil {
			t.Error("somebody decided about a link that has ended")
		}
	})
}

// More partitions than are asked for at once, and batches that are larger than what is asked for.
func TestManyPartitionsComeDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSea(t, 1)
		s.calm = true
		const n = 2*512 + 76
		s.kafka.Create("c.many", n, false)
		large := strings.Repeat("large ", 10_000)
		for i := range n {
			s.post("c.many", i, fmt.Sprint(i))
		}
		s.post("c.b", 0, large, "0", large)
		s.start()
		s.wants("c.b", 0, large, "0", large)
		s.board.idle(t)
		for i := range n {
			if got := s.values("c.many", i); len(got) != 1 || got[0] != fmt.Sprint(i) {
				t.Fatalf("%d: %q", i, got)
			}
		}
		s.end()
		s.cfg.Partitions = 400
		s.start()
		s.board.idle(t)
		if st := s.board.link.Status(); st.Left != n || st.Partitions != 4 {
			t.Errorf("%d partitions, %d left out", st.Partitions, st.Left)
		}
		s.end()
	})
}

// What a link cannot carry it says, and carries the rest.
func TestTopicsThatDoNotComeDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSea(t, 1)
		s.calm = true
		s.cfg.Topics = []string{"*", "__consumer_offsets"}
		s.kafka.Create("__consumer_offsets", 1, true)
		s.kafka.Create("__another", 1, true)
		s.post("c.b", 0, "0")
		s.post("__consumer_offsets", 0, "?")
		s.start()
		s.wants("c.b", 0, "0")
		st := s.board.link.Status()
		if st.Refused != 1 || st.Partitions != 6 || len(st.List) != 1 || st.List[0].Topic != "__consumer_offsets" || st.List[0].Verdict != upstream.Refused {
			t.Errorf("%+v", st)
		}
		if len(s.values("__consumer_offsets", 0)) > 0 {
			t.Error("a topic of the board's own was written to")
		}
		// A cursor of a later version holds everything up.
		s.end()
		mark := s.log.Partition(upstream.LandingTopic, 0)
		mark.Append(record.None, record.Record{Key: []byte(`{"link":"hq","topic":"c.b","partition":0}`), Value: []byte(`{"v":9}`)})
		s.start()
		s.board.until(t, "refused", func(st *upstream.Status) bool {
			return st.State == upstream.StateRefused && strings.Contains(st.Reason, "later version")
		})
		mark.Append(record.None, record.Record{Key: []byte(`{"link":"hq","topic":"c.b","partition":0}`), Value: []byte(`{"v":1,"next":-1}`)})
		s.board.until(t, "refused for another reason", func(st *upstream.Status) bool { return strings.Contains(st.Reason, upstream.ErrCursor.Error()) })
		mark.Append(record.None, record.Record{Key: []byte(`{"link":"hq","topic":"c.b","partition":0}`)}) // from the beginning
		s.wants("c.b", 0, "0", "0")
		s.end()
	})
}

// shifted is a clock that takes every stamp for its own, and for wrong.
type shifted struct{ upstreamtest.Clock }

func (shifted) Export(_ [16]byte, _ int32, _, stamp int64) (int64, bool) { return stamp + 1000, true }

// The stamp of what came down from one Kafka and goes up to another is not of the board's clock.
func TestStampsOfOthersStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, k := upstreamtest.NewLog(), upstreamtest.NewKafka(rand.New(rand.NewPCG(1, 1)))
		p := log.Create("s.a", 1, false)[0]
		p.Append(record.None, record.Record{Timestamp: 5, Value: []byte("own")},
			record.Record{Timestamp: 5, Value: []byte("other"), Headers: []record.Header{{Key: upstream.HeaderCluster, Value: []byte("another")}}})
		link, err := upstream.New(upstream.Config{Name: "hq", Board: "board1", Topics: []string{"s.*"}, Mark: true},
			upstream.Env{Log: log, Clock: shifted{}, Remote: k.Client(), Backoff: quick{}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			link.Run(ctx)
		}()
		time.Sleep(time.Minute)
		cancel()
		<-done
		got := k.Committed("s.a", 0)
		if len(got) != 2 || got[0].Timestamp != 1005 || got[1].Timestamp != 5 {
			t.Fatalf("%+v", got)
		}
		for _, r := range got {
			n := len(r.Headers) - 1
			if h := r.Headers[n]; h.Key != upstream.HeaderBoard || !bytes.Equal(h.Value, []byte("board1")) {
				t.Errorf("nothing says which board it is of: %+v", r.Headers)
			}
		}
	})
}
