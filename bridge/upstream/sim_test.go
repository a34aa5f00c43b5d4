package upstream_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
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

var (
	seed   = flag.Uint64("seed", 0, "seed of the one simulation to run; 0: some of their own")
	rounds = flag.Int("rounds", 40, "rounds of each simulation")
)

// quick is a Backoff that has much happen in a short time.
type quick struct{}

func (quick) Next() time.Duration { return 100 * time.Millisecond }
func (quick) Reset()              {}

// board is one life of a board with a link.
type board struct {
	log    *upstreamtest.Log
	client *upstreamtest.Client
	link   *upstream.Link
	cancel context.CancelFunc
	done   chan struct{}
}

// With a wrap the link sees the Kafka through it.
func start(
	t *testing.T, k *upstreamtest.Kafka, log *upstreamtest.Log, cfg upstream.Config, wrap func(upstream.Remote) upstream.Remote,
	scheduler upstream.Scheduler, memory, hint upstream.Memory, change ...func(*upstream.Env),
) *board {
	t.Helper()
	b := &board{log: log, client: k.Client(), done: make(chan struct{})}
	remote := upstream.Remote(b.client)
	if wrap != nil {
		remote = wrap(remote)
	}
	if cfg.Name == "" {
		cfg.Name, cfg.Board, cfg.Topics = "hq", "board1", []string{"s.*"}
	}
	env := upstream.Env{
		Log: log, Clock: upstreamtest.Clock{}, Remote: remote, Scheduler: scheduler, Backoff: quick{}, Memory: memory, Hint: hint, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	for _, fn := range change {
		fn(&env)
	}
	link, err := upstream.New(cfg, env)
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

// kill ends the board as a power cut does: nothing it was about to do happens.
func (b *board) kill() {
	b.client.Kill()
	b.cancel()
	<-b.done
}

// until waits until the link is in one of the states.
func (b *board) until(t *testing.T, states ...upstream.State) upstream.Status {
	t.Helper()
	var s upstream.Status
	for range 36_000 {
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if s = b.link.Status(); slices.Contains(states, s.State) {
			return s
		}
	}
	t.Fatalf("after an hour the link is %s: %s, %d behind", s.State, s.Reason, s.Records)
	return s
}

// drained waits until everything is delivered.
func (b *board) drained(t *testing.T) upstream.Status {
	t.Helper()
	var s upstream.Status
	for range 36_000 {
		time.Sleep(100 * time.Millisecond)
		if s = b.link.Status(); s.State == upstream.StateIdle && s.Records == 0 {
			return s
		}
	}
	t.Fatalf("after an hour the link is %s: %s, %d behind, %+v", s.State, s.Reason, s.Records, s.List)
	return s
}

// history is everything that was ever written to the local log.
type history map[string]map[int64]record.Record // by topic-partition

func (h history) note(p *upstreamtest.Partition, recs []record.Record) {
	name := fmt.Sprintf("%s-%d", p.Topic(), p.Index())
	if h[name] == nil {
		h[name] = map[int64]record.Record{}
	}
	for i, r := range recs {
		h[name][p.High()-int64(len(recs)-i)] = r
	}
}

// peer is what arrived.
type peer interface {
	Committed(topic string, partition int) []upstream.Record
}

// gaps are the offsets that the peer was told of that they will not come.
func gaps(t *testing.T, k peer) map[string][]upstream.Gap {
	t.Helper()
	list := map[string][]upstream.Gap{}
	for _, r := range k.Committed(upstream.DefaultGapTopic, 0) {
		var g upstream.Gap
		if err := json.Unmarshal(r.Value, &g); err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("%s-%d", g.Topic, g.Partition)
		list[name] = append(list[name], g)
	}
	return list
}

// faults compares what arrived with what was written, record by record: lost, twice, out of order, altered, or a gap that
// is none.
func (h history) faults(t *testing.T, k peer) (list []string) {
	t.Helper()
	told := gaps(t, k)
	for name, local := range h {
		topic, index, _ := strings.Cut(name, "-")
		var n int
		fmt.Sscan(index, &n)
		seen := map[int64]int{}
		last := map[string]int64{}
		for _, r := range k.Committed(topic, n) {
			var offset int64
			if _, err := fmt.Sscanf(string(r.Value), "%d ", &offset); err != nil {
				t.Fatalf("%s: %q", name, r.Value)
			}
			lane := ""
			own := r.Headers
			if len(own) > 0 && own[len(own)-1].Key == upstream.HeaderLane {
				lane, own = string(own[len(own)-1].Value), own[:len(own)-1]
			}
			if seen[offset]++; seen[offset] > 1 {
				list = append(list, fmt.Sprintf("%s: %d is there twice", name, offset))
			}
			if before, some := last[lane]; some && offset <= before {
				list = append(list, fmt.Sprintf("%s: %d after %d in lane %q", name, offset, before, lane))
			}
			last[lane] = offset
			if want := local[offset]; !bytes.Equal(want.Key, r.Key) || (want.Key == nil) != (r.Key == nil) || !bytes.Equal(want.Value, r.Value) ||
				want.Timestamp != r.Timestamp || !slices.EqualFunc(want.Headers, own, func(a, b record.Header) bool {
				return a.Key == b.Key && bytes.Equal(a.Value, b.Value)
			}) {
				list = append(list, fmt.Sprintf("%s: %d is %v, want %v", name, offset, r, want))
			}
		}
		for offset := range local {
			in := 0
			for _, g := range told[name] {
				if offset >= g.First && offset <= g.Last {
					in++
				}
			}
			if seen[offset]+in != 1 {
				list = append(list, fmt.Sprintf("%s: %d arrived %d times and is in %d gaps", name, offset, seen[offset], in))
			}
		}
	}
	return list
}

// write appends a batch of random records.
func write(rng *rand.Rand, h history, p *upstreamtest.Partition) {
	if rng.IntN(12) == 0 { // a marker, as transactions leave them
		b := record.NewBuilder(record.None)
		b.Add(0, []byte{0, 0, 0, 1}, []byte("marker"), nil)
		built, _ := b.Build()
		c := slices.Clone(built)
		c[22] |= 0x20
		c.SetProducer(1, 0, 0, false)
		p.AppendBatch(c)
	}
	recs := make([]record.Record, 1+rng.IntN(30))
	for i := range recs {
		r := &recs[i]
		r.Timestamp = time.Now().UnixMilli() - int64(rng.IntN(1000))
		if rng.IntN(3) > 0 {
			r.Key = fmt.Appendf(nil, "key%d", rng.IntN(10))
		}
		r.Value = fmt.Appendf(nil, "%d %x", p.High()+int64(i), bytes.Repeat([]byte{byte(rng.Uint32())}, rng.IntN(300)))
		for range rng.IntN(3) {
			r.Headers = append(r.Headers, record.Header{Key: fmt.Sprint("h", rng.IntN(4)), Value: []byte("v")})
		}
	}
	// A pooled zstd decoder belongs to the bubble it was made in: TestEveryCodec has zstd.
	p.Append(record.Codec(rng.IntN(int(record.Zstd))), recs...)
	h.note(p, recs)
}

// world is one simulation.
type world struct {
	t     *testing.T
	rng   *rand.Rand
	kafka *upstreamtest.Kafka
	log   *upstreamtest.Log
	parts []*upstreamtest.Partition
	all   history
	cfg   upstream.Config
	board *board
	loses bool // retention and damage happen
	// sent is of all lives, lives how many there were.
	sent  upstream.Counters
	lives int
	// wrap is what the link sees the Kafka through, nil for nothing.
	wrap      func(upstream.Remote) upstream.Remote
	scheduler upstream.Scheduler
	memory    upstream.Memory
	hint      upstream.Memory
	// env changes what a link is made with, where it is not nil.
	env func(*upstream.Env)
}

func newWorld(t *testing.T, seed uint64, cfg upstream.Config) *world {
	t.Helper()
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 7)), log: upstreamtest.NewLog(), all: history{}, cfg: cfg}
	w.kafka = upstreamtest.NewKafka(rand.New(rand.NewPCG(seed, 11)))
	w.kafka.Timeout = 20 * time.Second
	w.cfg.Name, w.cfg.Board, w.cfg.Topics, w.cfg.TransactionTimeout = "hq", "board1", []string{"s.*"}, 20*time.Second
	w.parts = append(w.log.Create("s.a", 3, false), w.log.Create("s.b", 1, false)...)
	return w
}

// start begins a life of the board.
func (w *world) start() *board {
	w.t.Helper()
	if w.env == nil {
		return start(w.t, w.kafka, w.log, w.cfg, w.wrap, w.scheduler, w.memory, w.hint)
	}
	return start(w.t, w.kafka, w.log, w.cfg, w.wrap, w.scheduler, w.memory, w.hint, w.env)
}

// end ends it, by a power cut.
func (w *world) end() {
	s := w.board.link.Status().Sent
	w.sent.Transactions += s.Transactions
	w.sent.Unknown += s.Unknown
	w.sent.Connects += s.Connects
	w.sent.Gaps += s.Gaps
	w.lives++
	w.board.kill()
}

// run throws the world about.
func (w *world) run(n int) {
	w.board = w.start()
	for range n {
		w.kafka.Fail(upstreamtest.Faults{
			Lost: w.rng.Float64() * 0.1, Silent: w.rng.Float64() * 0.1, Late: w.rng.Float64() * 0.1, Bumped: w.rng.Float64() * 0.05,
			Latency: time.Duration(w.rng.IntN(1000)) * time.Millisecond,
		})
		for range w.rng.IntN(20) {
			write(w.rng, w.all, w.parts[w.rng.IntN(len(w.parts))])
		}
		time.Sleep(time.Duration(w.rng.IntN(3000)) * time.Millisecond)
		switch w.rng.IntN(12) {
		case 0, 1:
			w.end()
			w.kafka.Arrive()
			w.board = w.start()
		case 2:
			w.board.client.Cut(true)
			time.Sleep(time.Duration(w.rng.IntN(100)) * time.Second)
			w.board.client.Cut(false)
		case 3, 4:
			w.kafka.Arrive()
		case 5:
			w.kafka.Expire()
		case 6:
			w.kafka.Compact(upstream.DefaultCursorTopic)
		case 7:
			w.kafka.Hang(upstream.DefaultCursorTopic, int32(w.rng.IntN(8)))
		case 8:
			if p := w.parts[w.rng.IntN(len(w.parts))]; w.loses {
				p.Retain(1 + w.rng.IntN(10))
			}
		case 9:
			if p := w.parts[w.rng.IntN(len(w.parts))]; w.loses {
				p.Damage(w.rng.IntN(8))
			}
		}
	}
	w.kafka.Fail(upstreamtest.Faults{})
	w.kafka.Arrive()
}

// simulate runs a world, and returns what was wrong in the end.
func simulate(t *testing.T, seed uint64, cfg upstream.Config, change func(*world)) (list []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, seed, cfg)
		if change != nil {
			change(w)
		}
		w.run(*rounds)
		defer w.end()
		w.board.drained(t)
		list = w.all.faults(t, w.kafka)
	})
	return list
}

func seeds(n int) []uint64 {
	if *seed != 0 {
		return []uint64{*seed}
	}
	if testing.Short() {
		n = (n + 4) / 5
	}
	list := make([]uint64, n)
	for i := range list {
		list[i] = rand.Uint64()
	}
	return list
}

func TestNothingIsLostTwiceOrOutOfOrder(t *testing.T) {
	for _, tt := range []struct {
		name  string
		cfg   upstream.Config
		loses bool
	}{
		{"oldest first", upstream.Config{}, false},
		{"oldest first, the log loses", upstream.Config{}, true},
		{"small transactions", upstream.Config{TransactionBytes: 2000}, true},
		{"live first", upstream.Config{Order: upstream.LiveFirst, TransactionBytes: 4000, LiveBehind: time.Millisecond}, false},
		{"live first, the log loses", upstream.Config{Order: upstream.LiveFirst, TransactionBytes: 4000, LiveBehind: time.Millisecond}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var sum upstream.Counters
			lives, backfilled := 0, 0
			for _, seed := range seeds(10) {
				var w *world
				list := simulate(t, seed, tt.cfg, func(made *world) { w, made.loses = made, tt.loses })
				if len(list) > 0 {
					t.Fatalf("-seed=%d: %d faults, %s", seed, len(list), strings.Join(list[:min(3, len(list))], "; "))
				}
				sum.Transactions += w.sent.Transactions
				sum.Unknown += w.sent.Unknown
				sum.Connects += w.sent.Connects
				sum.Gaps += w.sent.Gaps
				lives += w.lives
				for _, p := range w.parts {
					for _, r := range w.kafka.Committed(p.Topic(), int(p.Index())) {
						if n := len(r.Headers); n > 0 && string(r.Headers[n-1].Value) == upstream.Backfill.String() {
							backfilled++
						}
					}
				}
			}
			t.Logf("%d lives, %d connections, %d transactions, %d of an outcome that had to be looked up, %d gaps, %d records by the backfill lane",
				lives, sum.Connects, sum.Transactions, sum.Unknown, sum.Gaps, backfilled)
			if *seed == 0 && !testing.Short() && (lives < 20 || sum.Unknown < 40 || sum.Gaps == 0 == tt.loses || backfilled == 0 == (tt.cfg.Order == upstream.LiveFirst)) {
				t.Error("too little has happened to prove anything")
			}
		})
	}
}

func itoa(n int64) string { return fmt.Sprint(n) }
