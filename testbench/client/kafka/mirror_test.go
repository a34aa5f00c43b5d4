package kafka_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/testbench/client/drill"
	"millrace/testbench/client/kafka"
	"millrace/testbench/lane"
)

// records are n for one topic of several partitions: some without a key, some without a value, all with headers.
func records(random *rand.Rand, topic string, partitions int32, n int) []drill.Record {
	var list []drill.Record
	for i := range n {
		r := drill.Record{
			Topic: topic, Partition: random.Int32N(partitions), Timestamp: 1_700_000_000_000 + int64(i),
			Key: fmt.Append(nil, i), Value: fmt.Appendf(nil, "value %d %0*d", i, random.IntN(400), i), Headers: []drill.Header{{Key: "n", Value: fmt.Append(nil, i)}, {Key: "null"}},
		}
		switch random.IntN(10) {
		case 0:
			r.Key = nil
		case 1:
			r.Value = nil
		}
		list = append(list, r)
	}
	return list
}

// write writes records to their partitions, and waits for all acknowledgements.
func write(t *testing.T, c *kafka.Cluster, list []drill.Record) {
	t.Helper()
	client := c.Client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer client.Close()
	for _, r := range list {
		client.Produce(within(t), r.ToClient(), func(_ *kgo.Record, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	if err := client.Flush(within(t)); err != nil {
		t.Fatal(err)
	}
}

func TestMirrorMaker(t *testing.T) {
	const partitions, seed = 3, 11
	random := rand.New(rand.NewPCG(seed, 0))
	from, to := kafka.Shared(t), kafka.Start(t, kafka.Options{})
	topic := from.Topic(t, partitions)
	list := records(random, topic, partitions, 1000)
	write(t, from, list)
	begin := time.Now()
	m := kafka.StartMirrorMaker(t, kafka.Side{Alias: "near", Bootstrap: from.Direct()}, kafka.Side{Alias: "far", Bootstrap: to.Direct()}, "near->far.topics="+topic)
	t.Logf("its connectors run after %v", time.Since(begin).Round(time.Millisecond))
	mirrored := func() {
		t.Helper()
		lane.Until(t, "all is mirrored", func(ctx context.Context) error {
			got, err := drill.Committed(ctx, []string{"near." + topic}, kgo.SeedBrokers(to.Direct()...))
			if err != nil {
				return err
			}
			for i := range got {
				got[i].Topic = topic
			}
			return drill.Compare(list, got)
		})
	}
	mirrored()
	t.Logf("the records were there after %v", time.Since(begin).Round(time.Millisecond))
	cpu, err := m.PID().CPU()
	if err != nil {
		t.Fatal(err)
	}
	rss, err := m.PID().RSS()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("it has %d MiB and has used %v of CPU time", rss>>20, cpu)
	if cpu <= 0 || rss <= 0 {
		t.Error("what does it run on?")
	}
	m.Stop(t)
	more := records(random, topic, partitions, 100)
	write(t, from, more)
	list = append(list, more...)
	begin = time.Now()
	m.Start(t)
	t.Logf("its connectors run again after %v", time.Since(begin).Round(time.Millisecond))
	mirrored()
	if err := m.Alive(); err != nil {
		t.Error(err)
	}
	m.Kill(t)
	if m.Alive() == nil {
		t.Error("it lives on")
	}
}
