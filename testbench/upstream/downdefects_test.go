package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/bridge/upstream"
	"millrace/bridge/upstream/upstreamtest"
	"millrace/testbench/client/drill"
	"millrace/testbench/client/kafka"
	"millrace/testbench/lane"
)

// Lives of a board end in the middle of an append of what came down. That leaves nothing lost or twice where the cursor is in one
// group with the records, and is found out where it is appended after them.
func TestLandingsApartAreFound(t *testing.T) {
	t.Parallel()
	c := kafka.Shared(t)
	s := drawn(t)
	for _, apart := range []bool{false, true} {
		t.Run(fmt.Sprintf("apart %v", apart), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(s, 2))
			topic, log := c.Topic(t, 2), upstreamtest.NewLog()
			client := c.Client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()))
			most := 12
			if apart {
				most = 60 // it is found by every few
			}
			n, cuts := 0, 0
			for lives := range most {
				var recs []*kgo.Record
				for range 1 + rng.IntN(10) {
					n++
					recs = append(recs, &kgo.Record{Topic: topic, Partition: int32(rng.IntN(2)), Timestamp: time.UnixMilli(1_700_000_000_000 + int64(n)), Value: fmt.Append(nil, n)})
				}
				if err := client.ProduceSync(t.Context(), recs...).FirstErr(); err != nil {
					t.Fatal(err)
				}
				life := log.Life(rand.New(rand.NewPCG(s, uint64(10+lives))))
				life.Apart = apart
				life.Fail(0.4, 0.1)
				if land(t, c, topic, life) {
					cuts++
				}
				life = log.Life(rng) // a good one takes the rest
				life.Apart = apart
				if land(t, c, topic, life) {
					t.Fatal("the power went though it was told to stay")
				}
				var got []drill.Record
				for _, part := range log.Partitions(topic) {
					for _, r := range part.(*upstreamtest.Partition).Records() {
						d := drill.Record{Topic: topic, Partition: part.Index(), Offset: r.Offset, Timestamp: r.Timestamp, Key: r.Key, Value: r.Value}
						for _, h := range r.Headers {
							d.Headers = append(d.Headers, drill.Header{Key: h.Key, Value: h.Value})
						}
						got = append(got, d)
					}
				}
				err := descended(logOf(t, []string{topic}, c.Direct()...), got, c.ID)
				var d *drill.Difference
				switch {
				case err == nil:
					continue
				case !apart || !errors.As(err, &d) || d.Twice == 0:
					t.Fatalf("after %d lives: %v", lives, err)
				}
				t.Logf("found after %d lives: %s", lives, first(d))
				return
			}
			if apart || cuts == 0 {
				t.Errorf("%d lives, %d of them cut short, have not found it", most, cuts)
			}
		})
	}
}

// land is a life of a link that takes a topic down, until all is there. It says whether the power went before.
func land(t *testing.T, c *kafka.Cluster, topic string, life *upstreamtest.Life) (cut bool) {
	t.Helper()
	source, err := upstream.NewKafka(upstream.KafkaConfig{Brokers: c.Direct()})
	if err != nil {
		t.Fatal(err)
	}
	link, err := upstream.NewDown(upstream.Config{Name: "hq", Board: "board", Topics: []string{topic}}, upstream.DownEnv{
		Store: life, Clock: upstreamtest.Clock{}, Source: source, Backoff: steady{}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		link.Run(ctx)
	}()
	defer func() {
		end()
		<-ended
	}()
	lane.Until(t, "all is there, or the power is gone", func(context.Context) error {
		if s := link.Status(); !life.Dead() && (s.State != upstream.StateIdle || s.Records > 0) {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	return life.Dead()
}
