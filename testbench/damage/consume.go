package damage

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/broker"
	"millrace/broker/record"
	"millrace/testbench/fixture"
)

// consume reads every partition with a real Kafka client, which checks every checksum itself, and compares the records
// with those of the batches that partition reads gave.
func (t *trial) consume(b *broker.Broker, served map[string][]fixture.Batch) error {
	type key struct {
		topic  string
		index  int32
		offset int64
	}
	want := make(map[key]record.Record)
	from := make(map[string]map[int32]kgo.Offset)
	for _, p := range t.o.manifest.Partitions {
		if from[p.Topic] == nil {
			from[p.Topic] = make(map[int32]kgo.Offset)
		}
		from[p.Topic][p.Index] = kgo.NewOffset().AtStart()
		start := find(b, p).Start()
		for _, raw := range served[p.String()] {
			batch := record.Batch(raw.Bytes)
			if batch.Control() {
				continue
			}
			for r, err := range batch.Records(record.DefaultMaxBytes) {
				if err != nil {
					return err
				}
				if r.Offset >= start {
					r.Key, r.Value = bytes.Clone(r.Key), bytes.Clone(r.Value)
					want[key{p.Topic, p.Index, r.Offset}] = r
				}
			}
		}
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(b.Addresses().Kafka...), kgo.ConsumePartitions(from),
		kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for len(want) > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("with %d records to come: %w", len(want), err)
		}
		for r := range fetches.RecordsAll() {
			k := key{r.Topic, r.Partition, r.Offset}
			w, ok := want[k]
			if !ok || !bytes.Equal(w.Key, r.Key) || !bytes.Equal(w.Value, r.Value) {
				return fmt.Errorf("%v is not what was written, or came twice", k)
			}
			delete(want, k)
		}
	}
	return nil
}
