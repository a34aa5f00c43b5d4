package upstream

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/bridge/upstream"
	"millrace/broker"
	"millrace/testbench/client/drill"
	"millrace/testbench/client/kafka"
	"millrace/testbench/lane"
)

// copied is a record that a link has delivered, taken apart.
type copied struct {
	drill.Record        // without the headers of the link
	unsure       bool   // nobody knew the time when it was stamped
	lane         string // "" without lanes
	// Where it comes from, with provenance; offset is -1 without.
	board, topic string
	partition    int32
	offset       int64
}

// takeApart takes the link's headers off. It is an error where they are not what a link adds.
func takeApart(r drill.Record) (copied, error) {
	c := copied{Record: r, offset: -1, partition: -1}
	c.Headers = nil
	for _, h := range r.Headers {
		name, ours := strings.CutPrefix(h.Key, "millrace.")
		if !ours {
			c.Headers = append(c.Headers, h)
			continue
		}
		var err error
		switch value := string(h.Value); "millrace." + name {
		case upstream.HeaderClock:
			c.unsure = true
		case upstream.HeaderLane:
			c.lane = value
		case upstream.HeaderBoard:
			c.board = value
		case upstream.HeaderTopic:
			c.topic = value
		case upstream.HeaderPartition:
			var n int64
			n, err = strconv.ParseInt(value, 10, 32)
			c.partition = int32(n)
		case upstream.HeaderOffset:
			c.offset, err = strconv.ParseInt(value, 10, 64)
		default:
			err = fmt.Errorf("header %q", h.Key)
		}
		if err != nil {
			return c, fmt.Errorf("%s-%d at %d: %w", r.Topic, r.Partition, r.Offset, err)
		}
	}
	return c, nil
}

// source is where a record is on the board.
type source struct {
	topic     string
	partition int32
	offset    int64
}

// mirrored compares what a board has with what a link has made of it. The topics upstream are renamed, with so many
// partitions; where they have as many as on the board, here is 0. It says how many records came by the backfill lane.
//
// With provenance each place where order is promised is compared by itself: the records of one partition of the board, in
// one partition upstream, by one lane. Without, topics and partitions must be the same.
func mirrored(local, far []drill.Record, rename func(string) string, partitions int32, provenance bool) (backfilled int, err error) {
	list := make([]copied, len(far))
	timeless := false
	lanes := map[source]string{} // by which a record came first
	for i, r := range far {
		if list[i], err = takeApart(r); err != nil {
			return 0, err
		}
		c := &list[i]
		timeless = timeless || c.unsure
		at := source{c.topic, c.partition, c.offset}
		if _, some := lanes[at]; !some {
			lanes[at] = c.lane
		}
		if c.lane == upstream.Backfill.String() {
			backfilled++
		}
	}
	place := func(r *drill.Record, at source, lane string) {
		if provenance {
			r.Topic = fmt.Sprintf("%s, of %s-%d by lane %q", r.Topic, at.topic, at.partition, lane)
			r.Headers = append(r.Headers[:len(r.Headers):len(r.Headers)], drill.Header{Key: "offset", Value: []byte(strconv.FormatInt(at.offset, 10))})
		}
		if timeless {
			r.Timestamp = 0
		}
	}
	byKey := kgo.StickyKeyPartitioner(nil).ForTopic("") // as Kafka's own clients do
	want := slices.Clone(local)
	for i := range want {
		r := &want[i]
		at := source{r.Topic, r.Partition, r.Offset}
		r.Topic = rename(r.Topic)
		switch {
		case partitions == 0:
		case r.Key != nil:
			r.Partition = int32(byKey.Partition(r.ToClient(), int(partitions)))
		default:
			r.Partition %= partitions
		}
		place(r, at, lanes[at])
	}
	got := make([]drill.Record, len(list))
	for i, c := range list {
		got[i] = c.Record
		place(&got[i], source{c.topic, c.partition, c.offset}, c.lane)
	}
	return backfilled, drill.Compare(want, got)
}

// logOf is all that a reader of a Kafka gets of topics, or of those that are there.
func logOf(t *testing.T, topics []string, servers ...string) []drill.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), lane.Patience)
	defer cancel()
	list, err := drill.Committed(ctx, topics, kgo.SeedBrokers(servers...))
	if err != nil {
		t.Fatalf("%v: %v", topics, err)
	}
	slices.SortStableFunc(list, func(a, b drill.Record) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return list
}

// drained waits until the links of a board have nothing to do.
func drained(t *testing.T, dir string) map[string]broker.LinkStatus {
	t.Helper()
	var all map[string]broker.LinkStatus
	lane.Until(t, "all is delivered", func(ctx context.Context) (err error) {
		if all, err = linksOf(ctx, dir); err != nil {
			return err
		}
		for _, s := range all {
			if s.State != string(upstream.StateIdle) || s.Records != 0 || s.Trouble != "" {
				return fmt.Errorf("%+v", s)
			}
		}
		return nil
	})
	return all
}

// markers counts the ends of transactions in the cursor topic: committed, and aborted because they were cut short.
func markers(t *testing.T, c *kafka.Cluster) (committed, aborted int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), lane.Patience)
	defer cancel()
	client := c.Client(t, kgo.KeepControlRecords(), kgo.ConsumeTopics(upstream.DefaultCursorTopic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, upstream.DefaultCursorTopic)
	if err := errors.Join(err, ends.Error()); err != nil {
		t.Fatal(err)
	}
	left := map[int32]bool{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left[o.Partition] = true
		}
	})
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			switch {
			case !r.Attrs.IsControl():
			case kmsg.ControlRecordKeyType(binary.BigEndian.Uint16(r.Key[2:])) == kmsg.ControlRecordKeyTypeAbort:
				aborted++
			default:
				committed++
			}
			if end, _ := ends.Lookup(r.Topic, r.Partition); r.Offset >= end.Offset-1 {
				delete(left, r.Partition)
			}
		})
	}
	return committed, aborted
}
