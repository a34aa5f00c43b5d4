package broker

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/broker/catalog"
)

// made creates a topic.
func made(t *testing.T, b *Broker, name string, partitions int, settings map[string]string) {
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
