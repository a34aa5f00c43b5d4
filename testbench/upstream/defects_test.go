package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/bridge/upstream"
	"millrace/bridge/upstream/upstreamtest"
	"millrace/broker/record"
	"millrace/testbench/badlink"
	"millrace/testbench/client/drill"
	"millrace/testbench/client/kafka"
	"millrace/testbench/lane"
)

// What follows has the engine in the process of the test and an Apache Kafka at the other end of a link, so that the engine
// can be given a defect: what compares both ends must find it, and find nothing without.

// bench is a log in memory that is delivered by one life of a link after the other.
type bench struct {
	t     *testing.T
	rng   *rand.Rand
	kafka *kafka.Cluster
	topic string
	log   *upstreamtest.Log
	parts []*upstreamtest.Partition
	wrap  func(upstream.Remote) upstream.Remote
	count int // records that were written
}

func newBench(t *testing.T, c *kafka.Cluster, topic string, seed uint64, wrap func(upstream.Remote) upstream.Remote) *bench {
	t.Helper()
	b := &bench{t: t, rng: rand.New(rand.NewPCG(seed, 1)), kafka: c, topic: topic, log: upstreamtest.NewLog(), wrap: wrap}
	b.parts = b.log.Create(topic, 2, false)
	return b
}

// life is one life of the link, with its own way to the Kafka. When its connections are reset it is over.
type life struct {
	*upstream.Link
	way *badlink.Link
}

// errOver is what a life gets that would go on after its end.
var errOver = errors.New("this life is over")

// steady is a back-off that has much happen in a short time.
type steady struct{}

func (steady) Next() time.Duration { return 50 * time.Millisecond }
func (steady) Reset()              {}

// start begins a life. It ends with the test at the latest.
func (b *bench) start() *life {
	b.t.Helper()
	l := &life{way: badlink.New(b.t, b.kafka.Node(1).Direct)}
	remote, err := upstream.NewKafka(upstream.KafkaConfig{
		Brokers: []string{l.way.Addr}, TransactionTimeout: 10 * time.Second,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			if l.way.Stats().Resets > 0 {
				return nil, errOver
			}
			return new(net.Dialer).DialContext(ctx, network, l.way.Addr)
		},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	l.Link, err = upstream.New(upstream.Config{
		Name: b.topic, Board: "board of " + b.topic, Topics: []string{b.topic}, TransactionTimeout: 10 * time.Second, Linger: -1,
	}, upstream.Env{
		Log: b.log, Clock: upstreamtest.Clock{}, Remote: b.wrap(remote), Backoff: steady{}, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.Run(ctx)
	}()
	b.t.Cleanup(func() {
		l.way.Cut()
		cancel()
		<-ended
	})
	return l
}

// write appends batches to all partitions.
func (b *bench) write() {
	for _, p := range b.parts {
		recs := make([]record.Record, 1+b.rng.IntN(5))
		for i := range recs {
			recs[i] = record.Record{Timestamp: time.Now().UnixMilli(), Value: fmt.Appendf(nil, "%d %s", b.count, strings.Repeat("x", b.rng.IntN(300)))}
			b.count++
		}
		p.Append(record.None, recs...)
	}
}

// delivered waits until a life has delivered all.
func (b *bench) delivered(l *life) {
	b.t.Helper()
	lane.Until(b.t, "all is delivered", func(context.Context) error {
		if s := l.Status(); s.State != upstream.StateIdle || s.Records != 0 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
}

// fault compares both ends.
func (b *bench) fault() *drill.Difference {
	b.t.Helper()
	var want []drill.Record
	for _, p := range b.parts {
		for _, r := range p.Records() {
			want = append(want, drill.FromClient(&kgo.Record{
				Topic: b.topic, Partition: p.Index(), Offset: r.Offset, Timestamp: time.UnixMilli(r.Timestamp), Key: r.Key, Value: r.Value,
			}))
		}
	}
	var d *drill.Difference
	if err := drill.Compare(want, logOf(b.t, []string{b.topic}, b.kafka.Direct()...)); err != nil && !errors.As(err, &d) {
		b.t.Fatal(err)
	}
	return d
}

// first is the line of a difference that counts.
func first(d *drill.Difference) string {
	line, _, _ := strings.Cut(d.Error(), ";")
	return line
}

// Lives end at a byte that the seed draws, in the middle of a transaction. That leaves nothing lost or twice where cursors
// are in the transaction, and is found out where they are not.
func TestCursorsOutsideTheTransactionAreFound(t *testing.T) {
	t.Parallel()
	c := kafka.Shared(t)
	s := drawn(t)
	for _, tt := range []struct {
		name string
		wrap func(upstream.Remote) upstream.Remote
		want func(*drill.Difference) int // how often it found what it must find
	}{
		{"no defect", func(r upstream.Remote) upstream.Remote { return r }, nil},
		{"cursors after", func(r upstream.Remote) upstream.Remote { return upstreamtest.Split(r, false) }, func(d *drill.Difference) int { return d.Twice }},
		{"cursors before", func(r upstream.Remote) upstream.Remote { return upstreamtest.Split(r, true) }, func(d *drill.Difference) int { return d.Lost }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, c, "defect."+strings.ReplaceAll(tt.name, " ", "."), s, tt.wrap)
			lives, most := 0, 12
			if tt.want != nil {
				most = 60 // it is found by every third
			}
			for lives = range most {
				l := b.start()
				b.write()
				b.delivered(l) // so it is connected
				if d := b.fault(); d != nil {
					if tt.want == nil || tt.want(d) == 0 {
						t.Fatalf("after %d lives: %v", lives, d)
					}
					t.Logf("found after %d lives: %s", lives, first(d))
					return
				}
				b.write()
				l.way.ResetAfter(badlink.Up, 1+b.rng.Int64N(6000))
				b.write()
				lane.Until(t, "the life is over, or has delivered all", func(context.Context) error {
					if is := l.Status(); l.way.Stats().Resets == 0 && is.Records > 0 {
						return fmt.Errorf("%+v", is)
					}
					return nil
				})
				l.way.Cut()
			}
			if tt.want != nil {
				t.Errorf("%d lives have not found it", lives+1)
			}
		})
	}
}

// A life that was thought dead comes back while the next one delivers: its link stood still. It is fenced and can do nothing,
// and sees that another has sent; where nothing fences it, what it does is found.
func TestALifeThatComesBackIsFenced(t *testing.T) {
	t.Parallel()
	c := kafka.Shared(t)
	s := drawn(t)
	for _, tt := range []struct {
		name   string
		wrap   func(upstream.Remote) upstream.Remote
		defect bool
	}{
		{"fenced", func(r upstream.Remote) upstream.Remote { return r }, false},
		{"not fenced", upstreamtest.Unfenced, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, c, "revenant."+strings.ReplaceAll(tt.name, " ", "."), s, tt.wrap)
			old := b.start()
			b.write()
			b.delivered(old)
			old.way.Set(badlink.Conditions{Stall: true})
			b.write()
			next := b.start()
			b.delivered(next)
			old.way.Set(badlink.Conditions{})
			if tt.defect {
				b.delivered(old)
				if d := b.fault(); d == nil || d.Twice == 0 {
					t.Errorf("not found: %v", d)
				} else {
					t.Logf("found: %s", first(d))
				}
				return
			}
			lane.Until(t, "the old life is fenced", func(context.Context) error {
				is := old.Status()
				if is.State != upstream.StateFenced || !strings.Contains(is.Reason, "another process with this board's identity") {
					return fmt.Errorf("%s: %s", is.State, is.Reason)
				}
				return nil
			})
			b.write()
			b.delivered(next)
			if d := b.fault(); d != nil {
				t.Error(d)
			}
		})
	}
}
