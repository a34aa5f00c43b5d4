package upstream_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/upstream"
	"millrace/bridge/upstream/upstreamtest"
	"millrace/broker/record"
)

// downlink is one life of a board with a link that goes down.
type downlink struct {
	life   *upstreamtest.Life
	client *upstreamtest.Client
	link   *upstream.Down
	cancel context.CancelFunc
	done   chan struct{}
}

func startDown(t *testing.T, k *upstreamtest.Kafka, life *upstreamtest.Life, cfg upstream.Config, scheduler upstream.Scheduler) *downlink {
	t.Helper()
	b := &downlink{life: life, client: k.Client(), done: make(chan struct{})}
	if cfg.Name == "" {
		cfg.Name, cfg.Board, cfg.Topics = "hq", "board1", []string{"c.*"}
	}
	link, err := upstream.NewDown(cfg, upstream.DownEnv{
		Store: life, Clock: upstreamtest.Clock{}, Source: b.client, Scheduler: scheduler, Backoff: quick{}, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	b.link = link
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel = cancel
	go func() {
		defer close(b.done)
		link.Run(ctx)
	}()
	return b
}

// kill ends the board as a power cut does.
func (b *downlink) kill() {
	b.life.Kill()
	b.client.Kill()
	b.cancel()
	<-b.done
}

// until waits for something to come about.
func (b *downlink) until(t *testing.T, what string, is func(*upstream.Status) bool) upstream.Status {
	t.Helper()
	var s upstream.Status
	for range 36_000 {
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if s = b.link.Status(); is(&s) {
			return s
		}
	}
	t.Fatalf("after an hour not %s: %+v", what, s)
	return s
}

// idle waits until all is taken.
func (b *downlink) idle(t *testing.T) upstream.Status {
	t.Helper()
	time.Sleep(time.Minute) // what was written a moment ago is known by then
	return b.until(t, "idle", func(s *upstream.Status) bool { return s.State == upstream.StateIdle && s.Records == 0 })
}

// place is a partition upstream.
type place struct {
	topic     string
	partition int
}

// sea is one simulation of a link that goes down.
type sea struct {
	t     *testing.T
	rng   *rand.Rand
	kafka *upstreamtest.Kafka
	log   *upstreamtest.Log
	size  map[string]int // partitions upstream
	open  []func(bool)   // transactions upstream
	n     int            // records written
	board *downlink
	cfg   upstream.Config
	apart bool
	most  int
	calm  bool // the power stays

	// before is what a partition held when it was begun anew, told how many gaps were told of it then, from where it went on.
	before map[place][]string
	told   map[place]int
	found  []string // what was wrong by then
	from   map[place]int64

	lives, anew, truncated, stopped, went int // went: on after it was truncated
	sent                                  upstream.Counters
}

func newSea(t *testing.T, seed uint64) *sea {
	s := &sea{
		t: t, rng: rand.New(rand.NewPCG(seed, 3)), kafka: upstreamtest.NewKafka(rand.New(rand.NewPCG(seed, 5))), log: upstreamtest.NewLog(),
		size: map[string]int{"c.a": 3, "c.b": 1, "x": 1}, before: map[place][]string{}, told: map[place]int{}, from: map[place]int64{},
	}
	s.cfg = upstream.Config{Name: "hq", Board: "board1", Topics: []string{"c.*"}, TransactionBytes: 4000}
	s.kafka.Timeout = 20 * time.Second
	for _, topic := range []string{"c.a", "c.b", "x"} {
		s.kafka.Create(topic, s.size[topic], false)
	}
	return s
}

// start begins a life of the board.
func (s *sea) start() {
	s.t.Helper()
	life := s.log.Life(rand.New(rand.NewPCG(s.rng.Uint64(), 1)))
	life.Apart, life.Most = s.apart, s.most
	if !s.calm {
		life.Fail(0.03, 0.03)
	}
	s.board = startDown(s.t, s.kafka, life, s.cfg, nil)
	s.lives++
}

// end ends it.
func (s *sea) end() {
	c := s.board.link.Status().Sent
	s.sent.Records += c.Records
	s.sent.Looped += c.Looped
	s.sent.Gaps += c.Gaps
	s.sent.Unknown += c.Unknown
	s.sent.Connects += c.Connects
	s.board.kill()
}

// some are random records for a partition.
func (s *sea) some(p place) []upstream.Record {
	recs := make([]upstream.Record, 1+s.rng.IntN(12))
	for i := range recs {
		r := &recs[i]
		s.n++
		r.Topic, r.Partition, r.Timestamp = p.topic, int32(p.partition), 1_700_000_000_000+int64(s.n)
		if s.rng.IntN(3) > 0 {
			r.Key = fmt.Appendf(nil, "key%d", s.rng.IntN(10))
		}
		if s.rng.IntN(20) > 0 {
			r.Value = fmt.Appendf(nil, "%d %x", s.n, bytes.Repeat([]byte{byte(s.n)}, s.rng.IntN(200)))
		}
		for range s.rng.IntN(3) {
			r.Headers = append(r.Headers, record.Header{Key: fmt.Sprint("h", s.rng.IntN(4)), Value: []byte("v")})
		}
		switch s.rng.IntN(8) {
		case 0:
			r.Headers = append(r.Headers, record.Header{Key: upstream.HeaderBoard, Value: []byte("board1")})
		case 1:
			r.Headers = append(r.Headers, record.Header{Key: upstream.HeaderBoard, Value: []byte("another")})
		}
	}
	return recs
}

func (s *sea) anywhere() place {
	topic := []string{"c.a", "c.b", "x"}[s.rng.IntN(3)]
	return place{topic, s.rng.IntN(s.size[topic])}
}

// write has something written upstream.
func (s *sea) write() {
	p := s.anywhere()
	switch s.rng.IntN(4) {
	case 0:
		s.kafka.Write(s.some(p)...)
	case 1:
		s.kafka.Transact(append(s.some(p), s.some(s.anywhere())...)...)(true)
	case 2:
		s.kafka.Transact(append(s.some(p), s.some(s.anywhere())...)...)(false)
	case 3:
		s.open = append(s.open, s.kafka.Transact(s.some(p)...))
	}
	if n := len(s.open); n > 2 {
		i := s.rng.IntN(n)
		s.open[i](s.rng.IntN(2) == 0)
		s.open = slices.Delete(s.open, i, i+1)
	}
}

// run throws the sea about.
func (s *sea) run(n int) {
	s.start()
	for range n {
		s.kafka.Fail(upstreamtest.Faults{
			Lost: s.rng.Float64() * 0.1, Silent: s.rng.Float64() * 0.1, Late: s.rng.Float64() * 0.05,
			Latency: time.Duration(s.rng.IntN(1000)) * time.Millisecond,
		})
		for range s.rng.IntN(20) {
			s.write()
		}
		time.Sleep(time.Duration(s.rng.IntN(3000)) * time.Millisecond)
		if s.board.life.Dead() {
			s.end()
			s.start()
		}
		switch s.rng.IntN(14) {
		case 0, 1:
			s.end()
			s.start()
		case 2:
			s.board.client.Cut(true)
			time.Sleep(time.Duration(s.rng.IntN(100)) * time.Second)
			s.board.client.Cut(false)
		case 3:
			s.kafka.Expire()
		case 4, 5:
			s.kafka.Elect()
			s.kafka.Forget(s.rng.IntN(10))
		case 6, 7:
			if p := s.anywhere(); s.begun(p) { // what went before is nobody's loss
				s.kafka.Retain(p.topic, p.partition, s.rng.IntN(20))
			}
		case 8:
			if s.rng.IntN(3) == 0 {
				s.size["c.b"]++
				s.kafka.Grow("c.b", s.size["c.b"])
			}
		case 9:
			s.board.life.Fill(true)
			time.Sleep(time.Duration(s.rng.IntN(100)) * time.Second)
			s.board.life.Fill(false)
		case 10:
			if s.rng.IntN(3) == 0 {
				s.recreate()
			}
		case 11, 12:
			s.truncate()
		}
	}
	s.kafka.Fail(upstreamtest.Faults{})
	s.settle()
}

// settle has the board live, and nothing be under way upstream.
func (s *sea) settle() {
	for _, end := range s.open {
		end(true)
	}
	s.open = nil
	s.kafka.Expire()
	s.board.life.Fail(0, 0)
	if s.calm = true; s.board.life.Dead() {
		s.end()
		s.start()
	}
}

// next is the cursor of a partition as it is on flash, ok false where there is none.
func (s *sea) next(p place) (next int64, ok bool) {
	for _, part := range s.log.Partitions(upstream.LandingTopic) {
		for _, r := range part.(*upstreamtest.Partition).Records() {
			var k struct {
				Topic     string
				Partition int
			}
			var v struct{ Next int64 }
			if json.Unmarshal(r.Key, &k) != nil || json.Unmarshal(r.Value, &v) != nil {
				s.t.Fatalf("cursor %s %s", r.Key, r.Value)
			}
			if (place{k.Topic, k.Partition}) == p {
				next, ok = v.Next, true
			}
		}
	}
	return next, ok
}

// begun says that a partition has a cursor.
func (s *sea) begun(p place) bool {
	_, ok := s.next(p)
	return ok
}

// begin notes that a partition goes on in another way. The board is dead.
func (s *sea) begin(p place) {
	next, _ := s.next(p)
	s.found = append(s.found, s.faultsOf(p, next)...)
	s.before[p], s.told[p], s.from[p] = s.held(p), len(s.gaps(p)), next
}

// recreate makes a topic upstream anew.
func (s *sea) recreate() {
	s.anew++
	s.end()
	for i := range s.size["c.a"] {
		s.begin(place{"c.a", i})
	}
	s.kafka.Create("c.a", s.size["c.a"], false)
	for range s.rng.IntN(10) {
		s.write()
	}
	s.resume("c.a", upstream.Earliest)
}

// truncate has a leader elected that lacks records.
func (s *sea) truncate() {
	p := place{"c.a", s.rng.IntN(3)}
	s.end()
	for _, end := range s.open { // what is open would be decided elsewhere
		end(true)
	}
	s.open = nil
	s.begin(p)
	s.truncated++
	end := s.kafka.End(p.topic, p.partition)
	s.kafka.Truncate(p.topic, p.partition, max(0, end-int64(s.rng.IntN(40))))
	for range s.rng.IntN(4) {
		s.kafka.Write(s.some(p)...)
	}
	was := s.stopped
	if s.resume("c.a", upstream.Accept); s.stopped == was {
		s.went++
	}
}

// resume begins a life in which a person decides about what has stopped.
func (s *sea) resume(topic string, how upstream.How) {
	s.kafka.Fail(upstreamtest.Faults{})
	s.kafka.Forget(0) // so all are judged at once
	s.calm = true
	s.start()
	s.calm = false
	s.board.until(s.t, "judged", func(st *upstream.Status) bool {
		return st.State == upstream.StateIdle || st.State == upstream.StateSending
	})
	st := s.board.link.Status()
	stopped := map[int]bool{}
	for _, p := range st.List {
		if !p.Verdict.Stopped() {
			continue
		}
		if p.Topic != topic {
			s.t.Errorf("%s-%d stopped: %s", p.Topic, p.Partition, p.Reason)
		}
		s.stopped++
		stopped[int(p.Partition)] = true
		at := place{p.Topic, int(p.Partition)}
		if s.from[at] = min(s.from[at], s.kafka.End(at.topic, at.partition)); how == upstream.Earliest {
			s.from[at] = 0
		}
		if got := s.held(at); !slices.Equal(got, s.before[at]) {
			s.t.Errorf("%v has stopped, and took %d records", at, len(got)-len(s.before[at]))
		}
		if err := s.board.link.Resolve(context.Background(), p.Topic, p.Partition, upstream.Decision{How: how}); err != nil {
			s.t.Fatal(err)
		}
	}
	if how == upstream.Earliest {
		for i := range s.size[topic] {
			if at := (place{topic, i}); s.from[at] > 0 && !stopped[i] {
				s.t.Errorf("%v goes on, and was made anew", at)
			}
		}
	}
	s.board.life.Fail(0.03, 0.03)
}

// voyage runs a sea, and returns what was wrong in the end.
func voyage(t *testing.T, seed uint64, change func(*sea)) (list []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newSea(t, seed)
		if change != nil {
			change(s)
		}
		s.run(*rounds)
		time.Sleep(10 * time.Minute) // new partitions are seen
		s.board.idle(t)
		s.end()
		list = s.faults()
	})
	return list
}

func TestWhatComesDownIsThereOnceAndInOrder(t *testing.T) {
	for _, tt := range []struct {
		name string
		most int
	}{{"as it comes", 0}, {"a board that takes little at once", 3}} {
		t.Run(tt.name, func(t *testing.T) {
			var sum upstream.Counters
			lives, anew, truncated, stopped, went := 0, 0, 0, 0, 0
			for _, seed := range seeds(15) {
				var s *sea
				list := voyage(t, seed, func(made *sea) { s, made.most = made, tt.most })
				if len(list) > 0 || t.Failed() {
					t.Fatalf("-seed=%d: %d faults, %s", seed, len(list), strings.Join(list[:min(3, len(list))], "; "))
				}
				sum.Records += s.sent.Records
				sum.Looped += s.sent.Looped
				sum.Gaps += s.sent.Gaps
				sum.Unknown += s.sent.Unknown
				sum.Connects += s.sent.Connects
				lives, anew, truncated, stopped, went = lives+s.lives, anew+s.anew, truncated+s.truncated, stopped+s.stopped, went+s.went
			}
			t.Logf("%d lives, %d connections, %d records, %d of the board's own, %d gaps, %d appends nobody knew of, topics made anew %d times, truncated %d, of which %d went on, %d stopped",
				lives, sum.Connects, sum.Records, sum.Looped, sum.Gaps, sum.Unknown, anew, truncated, went, stopped)
			if *seed == 0 && !testing.Short() && (lives < 50 || sum.Unknown < 20 || sum.Gaps == 0 || sum.Looped == 0 || anew == 0 || stopped == 0 || went == 0) {
				t.Error("too little has happened to prove anything")
			}
		})
	}
}

// The comparison finds a cursor that is not appended together with its records.
func TestACursorApartIsCaught(t *testing.T) {
	for range 20 {
		if len(voyage(t, rand.Uint64(), func(s *sea) { s.apart = true })) > 0 {
			return
		}
	}
	t.Error("20 simulations found nothing wrong with cursors that are appended by themselves")
}
