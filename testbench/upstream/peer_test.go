package upstream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/bridge/upstream"
	"millrace/broker"
	"millrace/testbench/badlink"
	"millrace/testbench/client/kafka"
	"millrace/testbench/lane"
	"millrace/testbench/process"
)

// A peer that has idempotent producers and no transactions cannot keep exactly-once: that is said, and nothing is sent. It
// keeps at-least-once.
func TestAPeerWithoutTransactions(t *testing.T) {
	t.Parallel()
	c := kafka.Start(t, kafka.Options{Advertise: func(_ int, address string) string {
		return kafka.Without(t, address, kmsg.AddPartitionsToTxn, kmsg.AddOffsetsToTxn, kmsg.EndTxn, kmsg.TxnOffsetCommit)
	}})
	b := stationIn(t, c, "strict", filepath.Join(t.TempDir(), "data"))
	b.write("a", 5, "x")
	b.is("it is refused, with the reason", func(is *broker.LinkStatus) bool {
		return is.State != string(upstream.StateRefused) || !strings.Contains(is.Reason, "exactly-once needs an upstream with transactions") || is.Records != 5
	})
	b.said("EndTxn")
	lax := stationIn(t, c, "lax", filepath.Join(t.TempDir(), "data"), `delivery = "at-least-once"`)
	lax.write("a", 5, "x")
	lax.delivered()
	lax.Kill()
	lax.Start()
	lax.write("a", 5, "y")
	lax.delivered()
	lax.arrived("a", texts(5, "x", 5, "y"))
}

// noise writes records that cannot be compressed: n of them, of a size, to all partitions in turn.
func (s *station) noise(topic string, partitions int32, n, size int, rng *rand.Rand) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), lane.Patience)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(s.Kafka), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerBatchMaxBytes(1<<20))
	if err != nil {
		s.t.Fatal(err)
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	if list, err := admin.ListTopics(ctx, s.topic(topic)); err != nil || !list.Has(s.topic(topic)) {
		if _, err := admin.CreateTopic(ctx, partitions, 1, nil, s.topic(topic)); err != nil {
			s.t.Fatal(err)
		}
	}
	for i := range n {
		value := make([]byte, size)
		for k := 0; k < size; k += 8 {
			v := rng.Uint64()
			for j := range min(8, size-k) {
				value[k+j] = byte(v >> (8 * j))
			}
		}
		client.Produce(ctx, &kgo.Record{Topic: s.topic(topic), Partition: int32(i) % partitions, Value: value}, func(_ *kgo.Record, err error) {
			if err != nil {
				s.t.Errorf("produce: %v", err)
			}
		})
	}
	if err := client.Flush(ctx); err != nil {
		s.t.Fatal(err)
	}
}

// A rate holds on the wire, as the link itself counts it; a pause holds at once, and over kill -9; a window that is shut lets
// nothing through.
func TestTheContractHoldsOnTheWire(t *testing.T) {
	t.Parallel()
	var way *badlink.Link
	c := kafka.Start(t, kafka.Options{Advertise: func(_ int, address string) string {
		way = badlink.New(t, address)
		return way.Addr
	}})
	wire := func() int64 { is := way.Stats(); return is.Up + is.Down }
	// passes is how many bytes pass in a time.
	passes := func(d time.Duration) (bytes int64, in time.Duration) {
		t.Helper()
		from, began := wire(), time.Now()
		timer := time.NewTimer(d)
		defer timer.Stop()
		<-timer.C
		return wire() - from, time.Since(began)
	}
	const rate = 64 << 10
	b := stationIn(t, c, "thin", filepath.Join(t.TempDir(), "data"), `rate.bytes.per.second = "64KiB"`)
	b.noise("a", 3, 3000, 1000, rand.New(rand.NewPCG(1, 1)))
	b.is("it sends", func(is *broker.LinkStatus) bool { return is.Transactions == 0 })
	bytes, in := passes(10 * time.Second)
	share := float64(bytes) / (rate * in.Seconds())
	t.Logf("%d bytes in %v, both ways: %.1f %% of the rate", bytes, in.Round(time.Millisecond), 100*share)
	if share > 1.1 || share < 0.9 {
		t.Errorf("%.1f %% of the rate, want 90 to 110", 100*share)
	}

	process.Run(t, "upstream", "pause", "hq", "--data", b.dir)
	b.is("it is paused", func(is *broker.LinkStatus) bool { return is.State != string(upstream.StatePaused) })
	if bytes, _ := passes(2 * time.Second); bytes > 0 {
		t.Errorf("%d bytes while it is paused", bytes)
	}
	b.Kill()
	b.Start()
	if bytes, _ := passes(2 * time.Second); bytes > 0 {
		t.Errorf("%d bytes while it is paused, after kill -9", bytes)
	}
	process.Run(t, "upstream", "resume", "hq", "--data", b.dir)
	b.is("it sends again", func(is *broker.LinkStatus) bool { return is.Transactions == 0 })
	b.Kill()

	far := time.Now().UTC().Add(6 * time.Hour)
	shut := stationIn(t, c, "shut", filepath.Join(t.TempDir(), "data"), fmt.Sprintf("window = [%q]", far.Format("15:04-")+far.Add(time.Hour).Format("15:04")))
	before := wire()
	shut.write("a", 5, "x")
	shut.is("it waits for its window", func(is *broker.LinkStatus) bool {
		return is.State != string(upstream.StateWaiting) || is.Records != 5 || !strings.Contains(is.Reason, "window")
	})
	if bytes := wire() - before; bytes > 0 {
		t.Errorf("%d bytes while no window is open", bytes)
	}
	t.Run("day", func(t *testing.T) { theDayHolds(t, c, way) })
}

// A record about as large as the board takes goes to a peer with the same limit, which the client by itself would not send; and
// the cursor topic is made so that the peer compacts it.
func TestTheLargestRecordAndTheCursorTopic(t *testing.T) {
	t.Parallel()
	c := kafka.Shared(t)
	b := stationIn(t, c, "large", filepath.Join(t.TempDir(), "data"))
	rng := rand.New(rand.NewPCG(2, 2))
	b.noise("a", 1, 1, 1_048_400, rng)
	b.noise("a", 1, 3, 1000, rng)
	b.delivered()
	ctx, cancel := context.WithTimeout(t.Context(), lane.Patience)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(c.Bootstrap()...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	list, err := kadm.NewClient(client).DescribeTopicConfigs(ctx, upstream.DefaultCursorTopic)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, s := range list[0].Configs {
		got[s.Key] = s.MaybeValue()
	}
	for name, want := range map[string]string{
		"cleanup.policy": "compact", "segment.bytes": "1048576", "segment.ms": "600000", "max.compaction.lag.ms": "600000", "min.cleanable.dirty.ratio": "0.1",
	} {
		if got[name] != want {
			t.Errorf("%s is %s, want %s", name, got[name], want)
		}
	}
}
