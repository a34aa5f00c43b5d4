package broker

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/catalog"
	"millrace/broker/record"
)

// made creates a topic.
func made(t testing.TB, b *Broker, name string, partitions int, settings map[string]string) {
	t.Helper()
	c, err := catalog.NewTopic(b.Image(), name, catalog.NewTopicID(), partitions, 1, settings)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Propose(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

// franz-go gathers what it has for all partitions into one request, up to 100 MiB: 14 MiB here.
func TestAProducerWithDefaultsAndManyPartitions(t *testing.T) {
	b := board(t, t.TempDir(), nil)
	made(t, b, "wide", 16, nil)
	client, err := kgo.NewClient(kgo.SeedBrokers(b.Addresses().Kafka[0]), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerLinger(500*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var all []*kgo.Record
	for i := range 16 {
		for range 9 {
			all = append(all, &kgo.Record{Topic: "wide", Partition: int32(i), Value: bytes.Repeat([]byte{byte(i)}, 100<<10)})
		}
	}
	if err := client.ProduceSync(ctx, all...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// TestWhatATopicCompressesAnewIsReadAsItWasWritten: every codec of a producer into every compression.type, read by a
// client that knows nothing of it.
func TestWhatATopicCompressesAnewIsReadAsItWasWritten(t *testing.T) {
	b := board(t, t.TempDir(), nil)
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, target := range []string{"producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"} {
		made(t, b, target, 1, map[string]string{"compression.type": target})
		var sent []*kgo.Record
		for name, codec := range codecs {
			client, err := kgo.NewClient(kgo.SeedBrokers(b.Addresses().Kafka[0]), kgo.ProducerBatchCompression(codec))
			if err != nil {
				t.Fatal(err)
			}
			var batch []*kgo.Record
			for i := range 30 {
				batch = append(batch, &kgo.Record{
					Topic: target, Key: fmt.Appendf(nil, "%s %d", name, i), Value: bytes.Repeat(fmt.Appendf(nil, "%d ", i), 100*i),
					Headers: []kgo.RecordHeader{{Key: "codec", Value: []byte(name)}, {Key: "null"}}, Timestamp: time.UnixMilli(1_790_000_000_000 + int64(i)),
				})
			}
			batch[0].Key = nil
			err = client.ProduceSync(ctx, batch...).FirstErr()
			client.Close()
			if err != nil {
				t.Fatalf("%s into %s: %v", name, target, err)
			}
			sent = append(sent, batch...)
		}
		client, err := kgo.NewClient(kgo.SeedBrokers(b.Addresses().Kafka[0]), kgo.ConsumeTopics(target), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		if err != nil {
			t.Fatal(err)
		}
		var got []*kgo.Record
		for len(got) < len(sent) {
			f := client.PollFetches(ctx)
			if err := f.Err(); err != nil {
				t.Fatalf("%s: %d of %d: %v", target, len(got), len(sent), err)
			}
			got = append(got, f.Records()...)
		}
		client.Close()
		for i, r := range got {
			s := sent[i]
			if r.Offset != int64(i) || !bytes.Equal(r.Key, s.Key) || (r.Key == nil) != (s.Key == nil) || !bytes.Equal(r.Value, s.Value) ||
				!r.Timestamp.Equal(s.Timestamp) || len(r.Headers) != 2 || string(r.Headers[0].Value) != string(s.Headers[0].Value) || r.Headers[1].Value != nil {
				t.Fatalf("%s: record %d at %d is another: %q, %d bytes, %v", target, i, r.Offset, r.Key, len(r.Value), r.Headers)
			}
			if codec := r.Attrs.CompressionType(); target != "producer" && codec != map[string]uint8{"uncompressed": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}[target] {
				t.Fatalf("%s: record %d is stored with codec %d", target, i, codec)
			}
		}
	}
}

func TestAcksAllWantsMinInsyncReplicas(t *testing.T) {
	b := board(t, t.TempDir(), nil)
	made(t, b, "two", 1, map[string]string{"min.insync.replicas": "2"})
	builder := record.NewBuilder(record.None)
	builder.Add(1, nil, []byte("v"), nil)
	batch, err := builder.Build()
	if err != nil {
		t.Fatal(err)
	}
	for acks, want := range map[int16]int16{-1: 19, 1: 0} {
		required := kgo.AllISRAcks()
		if acks == 1 {
			required = kgo.LeaderAck()
		}
		client, err := kgo.NewClient(kgo.SeedBrokers(b.Addresses().Kafka[0]), kgo.RequiredAcks(required), kgo.DisableIdempotentWrite())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		req := kmsg.NewPtrProduceRequest()
		req.Acks, req.TimeoutMillis = acks, 5000
		req.Topics = []kmsg.ProduceRequestTopic{{Topic: "two", TopicID: b.Image().Topic("two").ID, Partitions: []kmsg.ProduceRequestTopicPartition{{Records: batch}}}}
		resp, err := req.RequestWith(t.Context(), client)
		if err != nil {
			t.Fatal(err)
		}
		if code := resp.Topics[0].Partitions[0].ErrorCode; code != want {
			t.Errorf("acks %d: error %d, want %d", acks, code, want)
		}
	}
}
