// Package franz drives a whole broker with franz-go, the way its users do.
package franz

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/platform/config"
	"millrace/testbench/client/board"
)

func client(t *testing.T, b *board.Board, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(b.Kafka())}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// consume reads n records of a topic from its start, without a group, in the order of each partition.
func consume(t *testing.T, b *board.Board, topic string, n int, opts ...kgo.Opt) []*kgo.Record {
	t.Helper()
	c := client(t, b, append(opts, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
	ctx := within(t)
	var got []*kgo.Record
	for len(got) < n {
		f := c.PollFetches(ctx)
		if err := f.Err(); err != nil {
			t.Fatalf("after %d of %d records: %v", len(got), n, err)
		}
		got = append(got, f.Records()...)
	}
	return got
}

func TestRecordsComeBackAsTheyWere(t *testing.T) {
	b := board.Start(t)
	for name, codec := range map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	} {
		for _, size := range []int{10, 5000, 200_000} {
			topic := fmt.Sprintf("%s.%d", name, size)
			c := client(t, b, kgo.ProducerBatchCompression(codec), kgo.AllowAutoTopicCreation(), kgo.DefaultProduceTopic(topic))
			ctx := within(t)
			const n = 20
			at := time.UnixMilli(1_700_000_000_000)
			for i := range n {
				r := &kgo.Record{
					Key: fmt.Appendf(nil, "k%d", i), Value: []byte(strings.Repeat(string(rune('a'+i)), size)), Timestamp: at.Add(time.Duration(i) * time.Second),
					Headers: []kgo.RecordHeader{{Key: "h", Value: []byte{byte(i)}}, {Key: "null"}},
				}
				c.Produce(ctx, r, func(_ *kgo.Record, err error) {
					if err != nil {
						t.Errorf("%s: %v", topic, err)
					}
				})
			}
			if err := c.Flush(ctx); err != nil {
				t.Fatal(err)
			}
			for i, r := range consume(t, b, topic, n) {
				want := strings.Repeat(string(rune('a'+i)), size)
				if r.Offset != int64(i) || string(r.Key) != fmt.Sprintf("k%d", i) || string(r.Value) != want ||
					!r.Timestamp.Equal(at.Add(time.Duration(i)*time.Second)) || len(r.Headers) != 2 || r.Headers[0].Value[0] != byte(i) {
					t.Fatalf("%s: record %d is %v %q of %d bytes at %v", topic, i, r.Offset, r.Key, len(r.Value), r.Timestamp)
				}
			}
		}
	}
	t.Log("records of three sizes came back byte for byte, once and in order, with every codec")
}

// A reader with sessions over many partitions sees every record once, while they are written and after a restart.
func TestManyPartitionsAndARestart(t *testing.T) {
	b := board.Start(t)
	const partitions, n = 20, 2000
	admin := kadm.NewClient(client(t, b))
	if _, err := admin.CreateTopic(within(t), partitions, 1, nil, "wide"); err != nil {
		t.Fatal(err)
	}
	produced := make(chan error, 1)
	writer := client(t, b, kgo.DefaultProduceTopic("wide"))
	ctx := within(t)
	go func() {
		var first error
		for i := range n {
			if err := writer.ProduceSync(ctx, kgo.StringRecord(fmt.Sprint(i))).FirstErr(); err != nil && first == nil {
				first = err
			}
		}
		produced <- first
	}()
	for range 2 {
		seen := map[string]int{}
		next := map[int32]int64{}
		for _, r := range consume(t, b, "wide", n) {
			if r.Offset != next[r.Partition] {
				t.Fatalf("partition %d: offset %d after %d", r.Partition, r.Offset, next[r.Partition]-1)
			}
			next[r.Partition]++
			seen[string(r.Value)]++
		}
		if len(seen) != n {
			t.Fatalf("%d different records of %d", len(seen), n)
		}
		if produced != nil {
			if err := <-produced; err != nil {
				t.Fatal(err)
			}
			produced = nil
			writer.Close()
			b.Restart()
		}
	}
}

func TestAdmin(t *testing.T) {
	b := board.Start(t)
	admin := kadm.NewClient(client(t, b))
	ctx := within(t)
	made, err := admin.CreateTopic(ctx, 2, 1, map[string]*string{"retention.ms": kadm.StringPtr("123456")}, "a.b")
	if err != nil || made.ID == (kadm.TopicID{}) {
		t.Fatalf("%+v, %v", made, err)
	}
	for name, want := range map[string]error{"a.b": kerr.TopicAlreadyExists, "a_b": kerr.InvalidTopicException, "a b": kerr.InvalidTopicException} {
		if _, err := admin.CreateTopic(ctx, 1, 1, nil, name); !errors.Is(err, want) {
			t.Errorf("create %q: %v, want %v", name, err, want)
		}
	}
	if _, err := admin.CreateTopic(ctx, 1, 2, nil, "two"); !errors.Is(err, kerr.InvalidReplicationFactor) {
		t.Errorf("two replicas on one board: %v", err)
	}
	if r, err := admin.CreatePartitions(ctx, 1, "a.b"); err != nil || r["a.b"].Err != nil {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Name: "max.message.bytes", Value: kadm.StringPtr("1000")}}, "a.b"); err != nil {
		t.Error(err)
	}
	configs, err := admin.DescribeTopicConfigs(ctx, "a.b")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, c := range configs[0].Configs {
		found[c.Key] = c.MaybeValue()
	}
	if found["retention.ms"] != "123456" || found["max.message.bytes"] != "1000" {
		t.Errorf("%v", found)
	}
	writer := client(t, b, kgo.DefaultProduceTopic("a.b"), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err := writer.ProduceSync(ctx, kgo.StringRecord(strings.Repeat("x", 3000))).FirstErr(); !errors.Is(err, kerr.MessageTooLarge) {
		t.Errorf("a record of 3,000 bytes where 1,000 are allowed: %v", err)
	}
	for range 5 {
		if err := writer.ProduceSync(ctx, kgo.StringRecord("x")).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := admin.DeleteRecords(ctx, kadm.Offsets{"a.b": {0: {Topic: "a.b", Partition: 0, At: 3}}}); err != nil || r.Error() != nil {
		t.Errorf("%+v, %v", r, err)
	}
	start, err := admin.ListStartOffsets(ctx, "a.b")
	if o, ok := start.Lookup("a.b", 0); err != nil || !ok || o.Offset != 3 {
		t.Errorf("%+v, %v", start, err)
	}
	end, err := admin.ListEndOffsets(ctx, "a.b")
	if o, ok := end.Lookup("a.b", 0); err != nil || !ok || o.Offset != 5 || len(end["a.b"]) != 3 {
		t.Errorf("%+v, %v", end, err)
	}
	if dirs, err := admin.DescribeAllLogDirs(ctx, nil); err != nil || dirs[b.Meta().NodeID].Size() == 0 {
		t.Errorf("%+v, %v", dirs, err)
	}
	if r, err := admin.DeleteTopics(ctx, "a.b"); err != nil || r.Error() != nil {
		t.Errorf("%+v, %v", r, err)
	}
	again, err := admin.CreateTopic(ctx, 1, 1, nil, "a.b")
	if err != nil || again.ID == made.ID {
		t.Errorf("made anew it has the id %v, as before; %v", again.ID, err)
	}
	if end, err := admin.ListEndOffsets(ctx, "a.b"); err != nil || end["a.b"][0].Offset != 0 {
		t.Errorf("made anew it is not empty: %+v, %v", end, err)
	}
}

// What the board answers at once is bounded by itself, and by the client where it asks for less.
func TestFetchesAreBounded(t *testing.T) {
	b := board.Start(t, func(c *config.Config) { c.Broker.FetchMaxBytes = 100 << 10 })
	w := client(t, b, kgo.DefaultProduceTopic("t"), kgo.AllowAutoTopicCreation(), kgo.ProducerBatchCompression(kgo.NoCompression()))
	ctx := within(t)
	const n, size = 10, 30 << 10
	for i := range n {
		if err := w.ProduceSync(ctx, &kgo.Record{Value: bytes.Repeat([]byte{byte(i)}, size)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		client kgo.Opt
		most   int
	}{{kgo.FetchMaxBytes(50 << 20), 3}, {kgo.FetchMaxBytes(70 << 10), 2}, {kgo.FetchMaxPartitionBytes(1), 1}} {
		r := client(t, b, tt.client, kgo.ConsumeTopics("t"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
		var got []*kgo.Record
		for len(got) < n {
			f := r.PollFetches(ctx)
			if err := f.Err(); err != nil {
				t.Fatal(err)
			}
			if f.NumRecords() > tt.most {
				t.Errorf("%d records in one answer, want at most %d", f.NumRecords(), tt.most)
			}
			got = append(got, f.Records()...)
		}
		for i, r := range got {
			if r.Offset != int64(i) || !bytes.Equal(r.Value, bytes.Repeat([]byte{byte(i)}, size)) {
				t.Fatalf("record %d is at %d, %d bytes", i, r.Offset, len(r.Value))
			}
		}
	}
}

// What is not served is refused.
func TestNoTransactions(t *testing.T) {
	b := board.Start(t)
	c := client(t, b, kgo.TransactionalID("x"), kgo.DefaultProduceTopic("t"), kgo.AllowAutoTopicCreation())
	if err := c.BeginTransaction(); err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := c.ProduceSync(ctx, kgo.StringRecord("x")).FirstErr(); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a transactional record: %v", err)
	}
}
