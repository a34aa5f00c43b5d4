package upstream

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/bridge/upstream"
	"millrace/testbench/client/kafka"
)

const (
	// stuckWait is how long the Kafka of a test that has failed may take to say how it is.
	stuckWait = 20 * time.Second
	// stuckBefore and stuckMost are how many offsets before the last stable one are shown, and how many in all.
	stuckBefore, stuckMost = 60, 150
	// coordinated is where the coordinator keeps the state of transactions: in a Kafka of ours in one partition.
	coordinated = "__transaction_state"
)

// transactions is what a Kafka says of its transactions, and of what is undecided in the partitions of topics whose last
// stable offset is not their end: for who has to find out why a link waits.
func transactions(t *testing.T, c *kafka.Cluster) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), stuckWait) // the test's own is over
	defer cancel()
	var said strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&said, format+"\n", args...) }
	admin := kadm.NewClient(c.Client(t))
	if list, err := admin.DescribeTransactions(ctx); err != nil {
		say("transactions: %v", err)
	} else {
		for _, x := range list.Sorted() {
			say("%s: %s, producer %d epoch %d, began %v with %d ms, in %v, %v", x.TxnID, x.State, x.ProducerID, x.ProducerEpoch,
				time.UnixMilli(x.StartTimestamp).Format(time.TimeOnly), x.TimeoutMillis, x.Topics.Sorted(), x.Err)
		}
	}
	ends, err := admin.ListEndOffsets(ctx)
	if err != nil {
		say("ends: %v", err)
		return said.String()
	}
	if end, is := ends.Lookup(coordinated, 0); is {
		say("what the coordinator wrote down of links:")
		for _, line := range tail(ctx, t, c, end, 0) {
			say("  %s", line)
		}
	}
	stable, err := admin.ListCommittedOffsets(ctx)
	if err != nil {
		say("last stable offsets: %v", err)
		return said.String()
	}
	ends.Each(func(end kadm.ListedOffset) {
		at, is := stable.Lookup(end.Topic, end.Partition)
		if !is || at.Offset >= end.Offset {
			return
		}
		say("%s-%d: it is stable up to %d of %d", end.Topic, end.Partition, at.Offset, end.Offset)
		set := kadm.TopicsSet{}
		set.Add(end.Topic, end.Partition)
		producers, err := admin.DescribeProducers(ctx, set)
		if err != nil {
			say("  producers: %v", err)
		}
		for _, p := range producers.SortedProducers() {
			say("  producer %d epoch %d, sequence %d at %v, coordinator epoch %d, its transaction is open from %d on", p.ProducerID, p.ProducerEpoch, p.LastSequence,
				time.UnixMilli(p.LastTimestamp).Format("15:04:05.000"), p.CoordinatorEpoch, p.CurrentTxnStartOffset)
		}
		if end.Topic == upstream.DefaultCursorTopic {
			for _, line := range tail(ctx, t, c, end, max(0, at.Offset-stuckBefore)) {
				say("  %s", line)
			}
		}
	})
	return said.String()
}

// tail is what is in a partition from an offset on, decided or not.
func tail(ctx context.Context, t *testing.T, c *kafka.Cluster, end kadm.ListedOffset, from int64) (list []string) {
	client := c.Client(t, kgo.KeepControlRecords(), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{
		end.Topic: {end.Partition: kgo.NewOffset().At(from)},
	}))
	for next := from; next < end.Offset && len(list) < stuckMost; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return append(list, err.Error())
		}
		fetches.EachRecord(func(r *kgo.Record) {
			next = r.Offset + 1
			if r.Topic == coordinated {
				if said := state(r); said != "" {
					list = append(list[max(0, len(list)-stuckMost+2):], said)
				}
				return
			}
			what := fmt.Sprintf("%s %s", r.Key, r.Value)
			var marker kmsg.EndTxnMarker
			if r.Attrs.IsControl() && len(r.Key) >= 4 && marker.ReadFrom(r.Value) == nil {
				what = fmt.Sprintf("%v, coordinator epoch %d", kmsg.ControlRecordKeyType(r.Key[3]), marker.CoordinatorEpoch)
			}
			list = append(list, fmt.Sprintf("%d %v: producer %d epoch %d: %s", r.Offset, r.Timestamp.Format("15:04:05.000"), r.ProducerID, r.ProducerEpoch, what))
		})
	}
	return list
}

// state is what a record of the coordinator says, if it is of a link.
func state(r *kgo.Record) string {
	var key kmsg.TxnMetadataKey
	if key.ReadFrom(r.Key) != nil || !strings.HasPrefix(key.TransactionalID, "millrace-") {
		return ""
	}
	_, link, _ := strings.Cut(strings.TrimPrefix(key.TransactionalID, "millrace-"), "-")
	var is kmsg.TxnMetadataValue
	if err := is.ReadFrom(r.Value); err != nil {
		return fmt.Sprintf("%d %s: %v", r.Offset, link, err)
	}
	said := fmt.Sprintf("%d %v %s: %v, producer %d epoch %d", r.Offset, r.Timestamp.Format("15:04:05.000"), link, is.State, is.ProducerID, is.ProducerEpoch)
	for _, topic := range is.Topics {
		said += fmt.Sprintf(" %s %v", topic.Topic, topic.Partitions)
	}
	return said
}
