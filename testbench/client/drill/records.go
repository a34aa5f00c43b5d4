package drill

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/testbench/client/board"
)

// codecs are Kafka's, each at the number it has in a batch.
var codecs = []string{"none", "gzip", "snappy", "lz4", "zstd"}

// peer is franz-go, the client the lane's own is held against.
func peer(t testing.TB, b *board.Board, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(b.Kafka())}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// send has franz-go write records, each to its partition, with a codec.
func send(t testing.TB, ctx context.Context, b *board.Board, codec string, records []Record) {
	t.Helper()
	codecOf := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	c := peer(t, b, kgo.ProducerBatchCompression(codecOf[codec]), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer c.Close()
	for _, r := range records {
		c.Produce(ctx, r.ToClient(), func(_ *kgo.Record, err error) {
			if err != nil {
				t.Errorf("produce: %v", err)
			}
		})
	}
	if err := c.Flush(ctx); err != nil {
		t.Error(err)
	}
}

// create makes topics.
func create(t testing.TB, ctx context.Context, admin *kadm.Client, partitions int32, topics ...string) {
	t.Helper()
	made, err := admin.CreateTopics(ctx, partitions, 1, nil, topics...)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range made {
		if m.Err != nil {
			t.Fatal(m.Err, m.ErrMessage)
		}
	}
}

// allKinds are records of every kind for one topic: nulls, empties, headers, every byte, large ones, and many small ones.
func allKinds(topic string, partitions int32, random *rand.Rand) []Record {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	noise := make([]byte, 40_000)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	kinds := []Record{
		{Key: []byte("key"), Value: []byte("value")},
		{Key: nil, Value: []byte("null key")},
		{Key: []byte("null value"), Value: nil},
		{Key: nil, Value: nil},
		{Key: []byte{}, Value: []byte{}},
		{Key: []byte("three headers"), Value: []byte("x"), Headers: []Header{{"twice", []byte("1")}, {"twice", []byte("2")}, {"Übergröße", every}}},
		{Key: []byte("null and empty headers"), Value: []byte("x"), Headers: []Header{{"null", nil}, {"empty", []byte{}}, {"", []byte("no key")}}},
		{Key: every, Value: every},
		{Key: []byte("large"), Value: []byte(strings.Repeat("a large value ", 20_000))},
		{Key: []byte("noise"), Value: noise},
	}
	var list []Record
	for p := range partitions {
		for i, r := range kinds {
			r.Topic, r.Partition, r.Timestamp = topic, p, 1_700_000_000_000+int64(p)*1000+int64(i)
			list = append(list, r)
		}
		for i := range 200 {
			list = append(list, Record{
				Topic: topic, Partition: p, Timestamp: 1_700_000_100_000 + int64(i),
				Key: fmt.Appendf(nil, "key %d", i), Value: fmt.Appendf(nil, "partition %d value %d", p, i),
			})
		}
	}
	return list
}

// Records has the client write records of every kind with every codec it has, and read them: they come back as they were,
// once and in order, to franz-go and to the client itself. Those franz-go has written with these codecs come back to the
// client too.
func Records(t *testing.T, lane Lane) {
	t.Helper()
	const partitions, seed = 3, 20
	ctx := within(t)
	b := board.Start(t, board.QuickGroups)
	admin := kadm.NewClient(peer(t, b))
	random := rand.New(rand.NewPCG(seed, 0))
	mine, both := newLedger(nil), newLedger(lane.Keeps)
	var batches []Batch
	var topics, foreign []string
	for _, codec := range lane.Codecs {
		topic := "own-" + codec
		topics, foreign = append(topics, topic), append(foreign, "franz-"+codec)
		batch := Batch{codec, allKinds(topic, partitions, random)}
		if lane.Cannot != nil {
			batch.Records = slices.DeleteFunc(batch.Records, lane.Cannot)
		}
		batches = append(batches, batch)
	}
	create(t, ctx, admin, partitions, slices.Concat(topics, foreign)...)
	for _, batch := range batches {
		mine.write(batch.Records...)
		both.write(batch.Records...)
	}
	if err := lane.Produce(t, Door{Address: b.Kafka()}, batches); err != nil {
		t.Fatalf("produce: %v", err)
	}
	reader := peer(t, b, kgo.ConsumeTopics(topics...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	used := map[string]bool{}
	for mine.check(t) > 0 {
		f := reader.PollFetches(ctx)
		if err := f.Err(); err != nil {
			t.Fatal(err)
		}
		f.EachRecord(func(k *kgo.Record) {
			if got := codecs[k.Attrs.CompressionType()]; "own-"+got == k.Topic {
				used[k.Topic] = true
			} else if got != "none" { // some compress only what gets smaller
				t.Errorf("%s has a batch with %s", k.Topic, got)
			}
			mine.tell("franz-go", FromClient(k))
		})
	}
	if len(used) != len(topics) {
		t.Errorf("of %v only %v have what they are named after", topics, used)
	}
	for i, codec := range lane.Codecs {
		list := allKinds(foreign[i], partitions, random)
		both.write(list...)
		send(t, ctx, b, codec, list)
	}
	leave := lane.Join(t, Door{Address: b.Kafka()}, Member{Group: "g", Name: "reader", Topics: slices.Concat(topics, foreign)}, func(r Record) { both.tell("reader", r) })
	both.drain(t, ctx)
	if err := leave(); err != nil {
		t.Errorf("leave: %v", err)
	}
	both.check(t)
	total := int64(0)
	for _, n := range both.ends() {
		total += n
	}
	t.Logf("%d records with %v and of every kind came back byte for byte, once and in order", total, lane.Codecs)
}
