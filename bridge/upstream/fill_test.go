package upstream_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/upstream"
	"millrace/bridge/upstream/upstreamtest"
	"millrace/broker/record"
)

// begin starts a link in a world that nothing throws about.
func begin(t *testing.T, cfg upstream.Config, change func(*world)) *world {
	t.Helper()
	w := newWorld(t, 1, cfg)
	if change != nil {
		change(w)
	}
	w.board = w.start()
	return w
}

// exact fails where what arrived is not exactly what was written.
func (w *world) exact() {
	w.t.Helper()
	if list := w.all.faults(w.t, w.kafka); len(list) > 0 {
		w.t.Errorf("%d faults, %s", len(list), strings.Join(list[:min(3, len(list))], "; "))
	}
}

// It runs in no bubble, because pooled zstd decoders would belong to it.
func TestEveryCodec(t *testing.T) {
	w := newWorld(t, 1, upstream.Config{Linger: -1, TransactionBytes: 3000})
	p := w.parts[0]
	for codec := record.None; codec <= record.Zstd; codec++ {
		recs := make([]record.Record, 50) // more than a transaction holds: it goes on in the middle
		for i := range recs {
			recs[i] = record.Record{
				Timestamp: int64(i), Key: []byte(codec.String()), Headers: []record.Header{{Key: "h", Value: []byte{byte(i)}}, {Key: "null"}},
				Value: fmt.Appendf(nil, "%d %s", p.High()+int64(i), bytes.Repeat([]byte("x"), 100)),
			}
		}
		p.Append(codec, recs...)
		w.all.note(p, recs)
	}
	b := w.start()
	defer b.kill()
	for deadline := time.Now().Add(time.Minute); ; {
		if s := b.link.Status(); s.State == upstream.StateIdle && s.Records == 0 && s.Sent.Records == 250 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", b.link.Status())
		}
		time.Sleep(time.Millisecond)
	}
	w.exact()
}

func TestWhatIsLostIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, upstream.Config{})
		p := w.parts[0]
		plainly(w.all, p, 30, "x")
		p.Retain(20) // 0 to 9 are gone before the link has seen them
		if first, end, ok := p.Damage(5); !ok || first != 15 || end != 16 {
			t.Fatal(first, end, ok)
		}
		lost := record.NewBuilder(record.None)
		lost.Add(0, []byte{0, 0, 0x7f, 0xff}, []byte("filler"), nil)
		built, err := lost.Build()
		if err != nil {
			t.Fatal(err)
		}
		filler := slices.Clone(built)
		filler[22] |= 0x20
		filler.SetProducer(-1, -1, -1, false)
		p.AppendBatch(filler) // what the journal lost: 30
		plainly(w.all, p, 1, "after")
		w.all["s.a-0"][30] = record.Record{}
		w.board = w.start()
		defer w.board.kill()
		s := w.board.drained(t)
		var told []string
		for _, g := range gaps(t, w.kafka)["s.a-0"] {
			if g.Board != "board1" || g.Link != "hq" || g.Count != g.Last-g.First+1 || g.Time == 0 {
				t.Errorf("gap %+v", g)
			}
			told = append(told, fmt.Sprintf("%d-%d %s", g.First, g.Last, g.Cause))
		}
		if want := []string{"0-9 retention", "15-15 damage", "30-30 damage"}; !slices.Equal(told, want) {
			t.Errorf("told is %v, want %v", told, want)
		}
		if s.Sent.Gaps != 3 || s.Sent.Lost != 12 {
			t.Errorf("counted %+v", s.Sent)
		}
		w.exact()
	})
}

func TestCompactionIsNoLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, upstream.Config{})
		p := w.log.Create("s.compacted", 1, true)[0]
		h := history{}
		plainly(h, p, 10, "x")
		if _, _, ok := p.Damage(4); !ok {
			t.Fatal("nothing was taken")
		}
		p.AppendBatch(record.Filler(0, 2, 0, -1))
		plainly(h, p, 1, "y")
		w.board = w.start()
		defer w.board.kill()
		w.board.drained(t)
		if told := gaps(t, w.kafka); len(told) != 0 {
			t.Errorf("told of %v", told)
		}
		if n := len(w.kafka.Committed("s.compacted", 0)); n != 10 {
			t.Errorf("%d records arrived", n)
		}
	})
}

func TestRecordsOfThePeerDoNotGoBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, upstream.Config{}, nil)
		defer w.board.kill()
		for i := range 6 {
			r := record.Record{Value: fmt.Appendf(nil, "%d x", i)}
			if i%2 == 0 {
				r.Headers = []record.Header{{Key: upstream.HeaderCluster, Value: []byte("fake")}}
			} else {
				r.Headers = []record.Header{{Key: upstream.HeaderCluster, Value: []byte("another")}}
			}
			w.parts[0].Append(record.None, r)
		}
		s := w.board.drained(t)
		if n := len(w.kafka.Committed("s.a", 0)); n != 3 || s.Sent.Looped != 3 {
			t.Errorf("%d arrived, %d did not go", n, s.Sent.Looped)
		}
	})
}

func TestProvenance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, upstream.Config{Provenance: true, Naming: "{cluster}.{topic}", Alias: "plant", Order: upstream.LiveFirst}, nil)
		defer w.board.kill()
		plainly(nil, w.parts[2], 2, "x")
		w.board.drained(t)
		list := w.kafka.Committed("plant.s.a", 2)
		if len(list) != 2 {
			t.Fatalf("%d arrived", len(list))
		}
		var got []string
		for _, h := range list[1].Headers {
			got = append(got, h.Key+"="+string(h.Value))
		}
		want := "millrace.lane=live millrace.board=board1 millrace.topic=s.a millrace.partition=2 millrace.offset=1"
		if strings.Join(got, " ") != want {
			t.Errorf("headers %v, want %s", got, want)
		}
	})
}

func TestOtherPartitionCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, upstream.Config{}, func(w *world) { w.kafka.Create("s.a", 5, false) })
		defer w.board.kill()
		for i := range 40 {
			r := record.Record{Value: fmt.Appendf(nil, "%d x", i)}
			if i%4 > 0 {
				r.Key = fmt.Appendf(nil, "k%d", i%7)
			}
			w.parts[i%3].Append(record.None, r)
		}
		w.board.drained(t)
		n := 0
		for p := range 5 {
			for _, r := range w.kafka.Committed("s.a", p) {
				n++
				if r.Key != nil && record.PartitionForKey(r.Key, 5) != int32(p) {
					t.Errorf("%s is in partition %d", r.Key, p)
				}
			}
		}
		if n != 40 {
			t.Errorf("%d arrived", n)
		}
	})
}

func TestTopicsAndPartitionsThatComeLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, upstream.Config{}, nil)
		defer w.board.kill()
		w.board.until(t, upstream.StateIdle)
		plainly(w.all, w.log.Create("s.late", 2, false)[1], 3, "x")
		plainly(nil, w.log.Create("other", 1, false)[0], 3, "x")
		time.Sleep(time.Second)
		w.board.drained(t)
		w.log.Grow("s.late", 4)
		plainly(w.all, w.log.Partition("s.late", 3), 3, "y")
		time.Sleep(time.Second)
		w.board.drained(t)
		w.exact()
		if n := w.kafka.Partitions("s.late"); n != 4 {
			t.Errorf("upstream there are %d partitions", n)
		}
		if n := w.kafka.Partitions("other"); n != 0 {
			t.Error("a topic went up that nobody chose")
		}
	})
}

func TestTransactionsAreFitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, upstream.Config{})
		for range 400 { // 4 MB
			recs := make([]record.Record, 10)
			for i := range recs {
				recs[i].Value = fmt.Appendf(nil, "%d %s", w.parts[0].High()+int64(i), bytes.Repeat([]byte("x"), 1000))
			}
			w.parts[0].Append(record.None, recs...)
			w.all.note(w.parts[0], recs)
		}
		thin := &thin{rate: 64 << 10}
		w.wrap = func(r upstream.Remote) upstream.Remote { thin.Remote = r; return thin }
		w.board = w.start()
		defer w.board.kill()
		w.board.drained(t)
		w.exact()
		if n := len(thin.took); n < 20 || slices.Max(thin.took[3:]) > 3*time.Second {
			t.Errorf("transactions took %v", thin.took)
		}
		if s := w.board.link.Status(); s.Rate < 50<<10 || s.Rate > 70<<10 {
			t.Errorf("the rate is said to be %.0f", s.Rate)
		}
	})
}

// thin is a link that carries so many bytes a second.
type thin struct {
	upstream.Remote
	rate int
	mu   sync.Mutex
	took []time.Duration
}

func (r *thin) Open(ctx context.Context, id string) (upstream.Session, error) {
	s, err := r.Remote.Open(ctx, id)
	if err != nil {
		return nil, err
	}
	return thinSession{s, r}, nil
}

type thinSession struct {
	upstream.Session
	r *thin
}

func (s thinSession) Send(ctx context.Context, recs []upstream.Record) error {
	n := 0
	for _, r := range recs {
		n += len(r.Key) + len(r.Value)
	}
	took := time.Duration(n) * time.Second / time.Duration(s.r.rate)
	s.r.mu.Lock()
	s.r.took = append(s.r.took, took)
	s.r.mu.Unlock()
	select {
	case <-time.After(took):
	case <-ctx.Done():
		return ctx.Err()
	}
	return s.Session.Send(ctx, recs)
}

// A record that takes longer than a transaction may goes all the same, and holds nobody up for ever: the peer waits longer,
// too. One that allows no long ones is asked for what it allows.
func TestALargeRecordOverAVeryThinLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, upstream.Config{})
		w.cfg.TransactionTimeout = time.Minute
		w.kafka.Longest = 7 * time.Minute
		w.wrap = func(r upstream.Remote) upstream.Remote { r.(*upstreamtest.Client).Thin(1 << 10); return r }
		plainly(w.all, w.parts[0], 3, "before")
		plainly(w.all, w.parts[0], 1, strings.Repeat("x", 200<<10))
		plainly(w.all, w.parts[0], 3, "behind")
		plainly(w.all, w.parts[3], 3, "elsewhere")
		w.board = w.start()
		defer w.board.kill()
		w.board.drained(t)
		w.exact()
		if s := w.board.link.Status().Sent; s.Unknown == 0 {
			t.Errorf("it was no large record: %+v", s)
		}
	})
}

// What the peer has ended for its time is no fence: nobody has taken over, and no person has to come.
func TestATransactionThatIsOverTimeIsNoFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, upstream.Config{})
		slow := &slow{}
		w.wrap = func(r upstream.Remote) upstream.Remote { slow.Remote = r; return slow }
		plainly(w.all, w.parts[0], 10, "x")
		w.board = w.start()
		defer w.board.kill()
		time.Sleep(3 * time.Hour)
		if s := w.board.link.Status(); s.State == upstream.StateFenced || slow.tries.Load() < 10 {
			t.Errorf("after %d tries the link is %s: %s", slow.tries.Load(), s.State, s.Reason)
		}
		slow.over.Store(true)
		w.board.drained(t)
		w.exact()
	})
}

// slow is a board that stands still in the middle of each transaction: its own timers, too.
type slow struct {
	upstream.Remote
	tries atomic.Int64
	over  atomic.Bool
}

func (r *slow) Open(ctx context.Context, id string) (upstream.Session, error) {
	s, err := r.Remote.Open(ctx, id)
	if err != nil {
		return nil, err
	}
	return slowSession{s, r}, nil
}

type slowSession struct {
	upstream.Session
	r *slow
}

func (s slowSession) Send(ctx context.Context, recs []upstream.Record) error {
	if s.r.over.Load() {
		return s.Session.Send(ctx, recs)
	}
	s.r.tries.Add(1)
	time.Sleep(11 * time.Minute)
	return fmt.Errorf("invalid producer epoch: %w", upstream.ErrFenced)
}
