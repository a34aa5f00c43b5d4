package crash

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/testbench/process"
)

// mark is how far the offset of a partition was acknowledged, and how far it was tried.
type mark struct{ acked, tried int64 }

// TestKill9KeepsOffsets commits offsets for a group, kills the process while commits run, and asks each time for all of
// them: none acknowledged is lost, none is there that nobody sent.
func TestKill9KeepsOffsets(t *testing.T) {
	s := *seed
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("-crash.seed=%d -crash.kills=%d", s, *kills)
	rng := rand.New(rand.NewPCG(s, 1))
	p := process.Start(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	createTopic(ctx, t, p)
	client, err := kgo.NewClient(kgo.SeedBrokers(p.Kafka), kgo.RetryTimeout(5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	admin := kadm.NewClient(client)

	const partitions = 3
	var mu sync.Mutex
	var marks [partitions]mark
	rounds := make(chan struct{}, 1) // signalled after each acknowledged commit
	var committing sync.WaitGroup
	committing.Go(func() {
		for n := int64(1); ctx.Err() == nil; n++ {
			offsets := kadm.Offsets{}
			mu.Lock()
			for i := range marks {
				marks[i].tried = n
				offsets.Add(kadm.Offset{Topic: kafkaTopic, Partition: int32(i), At: n, LeaderEpoch: -1})
			}
			mu.Unlock()
			answers, err := admin.CommitOffsets(ctx, "g", offsets)
			if err != nil {
				continue // killed under it
			}
			mu.Lock()
			answers.Each(func(o kadm.OffsetResponse) {
				if o.Err == nil {
					marks[o.Partition].acked = n
				}
			})
			mu.Unlock()
			select {
			case rounds <- struct{}{}:
			default:
			}
		}
	})
	defer committing.Wait()
	defer cancel()

	for range *kills {
		for range 5 {
			select {
			case <-rounds:
			case <-time.After(time.Minute):
				t.Fatal("nothing was acknowledged for a minute")
			}
		}
		time.Sleep(time.Duration(rng.Int64N(int64(50 * time.Millisecond)))) // any instant will do, so it is drawn
		p.Kill()
		mu.Lock()
		before := marks
		mu.Unlock()
		p.Start()
		got, err := admin.FetchOffsets(ctx, "g")
		for deadline := time.Now().Add(time.Minute); err != nil; got, err = admin.FetchOffsets(ctx, "g") {
			if time.Now().After(deadline) { // until then a connection of the last life may say so
				t.Fatal(err)
			}
		}
		mu.Lock()
		after := marks
		mu.Unlock()
		for i := range marks {
			o, _ := got.Lookup(kafkaTopic, int32(i))
			if o.Err != nil || o.At < before[i].acked || o.At > after[i].tried {
				t.Errorf("partition %d is at %d, %v; acknowledged %d, tried %d", i, o.At, o.Err, before[i].acked, after[i].tried)
			}
		}
	}
	t.Logf("%d commits acknowledged over %d kills", marks[0].acked, *kills)
}
