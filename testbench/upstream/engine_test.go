// Package upstream holds the lanes in which a board and an Apache Kafka are two programs.
package upstream

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
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
)

// engineRounds is how often something goes wrong.
const engineRounds = 24

// prompt is a Backoff that has much happen in a short time.
type prompt struct{}

func (prompt) Next() time.Duration { return 50 * time.Millisecond }
func (prompt) Reset()              {}

// carrier is an engine over a log in memory, whose lives follow one another.
type carrier struct {
	t      *testing.T
	log    *upstreamtest.Log
	parts  []*upstreamtest.Partition
	random *rand.Rand
	all    []drill.Record
	link   *badlink.Link
	up     *upstream.Link
	stop   context.CancelFunc
	ended  chan struct{}
	sent   upstream.Counters // of the lives before
}

func (c *carrier) begin() {
	c.t.Helper()
	remote, err := upstream.NewKafka(upstream.KafkaConfig{
		Brokers: []string{c.link.Addr}, TransactionTimeout: 10 * time.Second,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) { // whatever the Kafka says of itself
			return new(net.Dialer).DialContext(ctx, network, c.link.Addr)
		},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.up, err = upstream.New(upstream.Config{
		Name: "hq", Board: "board", Topics: []string{"engine.*"}, TransactionBytes: 20_000, TransactionTimeout: 10 * time.Second,
		Order: upstream.LiveFirst, LiveBehind: time.Millisecond,
	}, upstream.Env{Log: c.log, Clock: upstreamtest.Clock{}, Remote: remote, Backoff: prompt{}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	c.stop, c.ended = stop, make(chan struct{})
	go func() {
		defer close(c.ended)
		c.up.Run(ctx)
	}()
}

func (c *carrier) end() {
	c.stop()
	<-c.ended
	s := c.up.Status().Sent
	c.sent.Transactions += s.Transactions
	c.sent.Unknown += s.Unknown
	c.sent.Connects += s.Connects
}

// write appends records of every kind and codec.
func (c *carrier) write() {
	p := c.parts[c.random.IntN(len(c.parts))]
	recs := make([]record.Record, 1+c.random.IntN(30))
	for i := range recs {
		r := &recs[i]
		r.Timestamp = time.Now().UnixMilli()
		if c.random.IntN(20) == 0 { // of a client whose clock is ahead: the board takes it, and so must a topic that the link makes
			r.Timestamp += 48 * time.Hour.Milliseconds()
		}
		if c.random.IntN(3) > 0 {
			r.Key = fmt.Appendf(nil, "key %d", c.random.IntN(10))
		}
		r.Value = fmt.Appendf(nil, "%d %s", p.High()+int64(i), strings.Repeat("x", c.random.IntN(300)))
		if c.random.IntN(4) == 0 {
			r.Headers = []record.Header{{Key: "kind", Value: []byte("sometimes")}, {Key: "null"}}
		}
	}
	for i, r := range recs {
		d := drill.Record{Topic: p.Topic(), Partition: p.Index(), Offset: p.High() + int64(i), Timestamp: r.Timestamp, Key: r.Key, Value: r.Value}
		for _, h := range r.Headers {
			d.Headers = append(d.Headers, drill.Header{Key: h.Key, Value: h.Value})
		}
		c.all = append(c.all, d)
	}
	p.Append(record.Codec(c.random.IntN(int(record.Zstd)+1)), recs...)
}

// trouble has something go wrong.
func (c *carrier) trouble() {
	switch c.random.IntN(6) {
	case 0:
		c.link.Reset()
	case 1, 2:
		c.link.ResetAfter(badlink.Direction(c.random.IntN(2)), int64(c.random.IntN(30_000)))
	case 3:
		c.link.Cut()
		c.end()
		if err := c.link.Heal(); err != nil {
			c.t.Fatal(err)
		}
		c.begin()
	case 4:
		c.end()
		c.begin()
	case 5:
		c.link.Set(badlink.Conditions{Latency: time.Duration(c.random.IntN(20)) * time.Millisecond})
	}
}

// The engine alone, over a bad link to an Apache Kafka: what is there in the end is what was written, record by record, in order
// within each lane.
func TestTheEngineOverABadLink(t *testing.T) {
	t.Parallel()
	cluster := kafka.Shared(t)
	c := &carrier{t: t, log: upstreamtest.NewLog(), link: badlink.New(t, cluster.Node(1).Direct), random: rand.New(rand.NewPCG(drawn(t), 0))}
	c.parts = append(c.log.Create("engine.a", 3, false), c.log.Create("engine.b", 1, false)...)
	c.begin()
	for range engineRounds {
		for range c.random.IntN(40) {
			c.write()
		}
		time.Sleep(time.Duration(c.random.IntN(400)) * time.Millisecond) // how long a round is, not what is waited for
		c.trouble()
	}
	c.link.Set(badlink.Conditions{})
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		s := c.up.Status()
		if s.State == upstream.StateIdle && s.Records == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %s, %d behind", s.State, s.Reason, s.Records)
		}
	}
	c.end()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	got, err := drill.Committed(ctx, []string{"engine.a", "engine.b"}, kgo.SeedBrokers(cluster.Direct()...))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d records in %d transactions over %d connections, %d of an outcome that had to be looked up",
		len(got), c.sent.Transactions, c.sent.Connects, c.sent.Unknown)
	c.compare(got)
}

// compare holds each lane against what was written in the order in which it came, and both together against all of it.
func (c *carrier) compare(got []drill.Record) {
	c.t.Helper()
	written := map[string]drill.Record{}
	for _, r := range c.all {
		written[fmt.Sprint(r.Topic, r.Partition, string(r.Value))] = r
	}
	last := map[string]int64{}
	for i := range got {
		r := &got[i]
		n := len(r.Headers) - 1
		if n < 0 || r.Headers[n].Key != upstream.HeaderLane {
			c.t.Fatalf("no lane is named: %v", r)
		}
		lane := fmt.Sprint(r.Topic, r.Partition, string(r.Headers[n].Value))
		if r.Headers = r.Headers[:n]; n == 0 {
			r.Headers = nil
		}
		r.Offset = written[fmt.Sprint(r.Topic, r.Partition, string(r.Value))].Offset
		if before, some := last[lane]; some && r.Offset <= before {
			c.t.Errorf("%s-%d: %d after %d in one lane", r.Topic, r.Partition, r.Offset, before)
		}
		last[lane] = r.Offset
	}
	slices.SortStableFunc(got, func(a, b drill.Record) int { return cmp.Compare(a.Offset, b.Offset) })
	if err := drill.Compare(c.all, got); err != nil {
		c.t.Error(err)
	}
}
