package kafka_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/testbench/badlink"
	"millrace/testbench/client/drill"
	"millrace/testbench/client/kafka"
	"millrace/testbench/lane"
)

// inTransaction is how many records a transaction has.
const inTransaction = 40

// careful writes records in transactions, and looks what is there when it does not know how one ended. Records are in the
// order of list, and so those that are there are its first.
type careful struct {
	cluster *kafka.Cluster
	list    []drill.Record
	// stop has it end after the transaction at hand.
	stop atomic.Bool
	// failures is signalled when a transaction has failed, and progress when one was committed.
	failures, progress chan struct{}
	// written are records that were committed; of the goroutine of run until it has ended.
	written, lives int
}

// run writes until it is stopped.
func (w *careful) run(ctx context.Context) error {
	for {
		w.lives++
		err := w.life(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		signal(w.failures)
	}
}

func signal(to chan struct{}) {
	select {
	case to <- struct{}{}:
	default:
	}
}

// life is that of one client: until it is stopped, or does not know how a transaction has ended.
func (w *careful) life(ctx context.Context) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(w.cluster.Bootstrap()...), kgo.TransactionalID("careful"), kgo.TransactionTimeout(time.Minute),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		return err
	}
	defer client.Close()
	limited := func(what func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		return what(ctx)
	}
	// The last life's transaction is over when this one has a producer id; then what is there stays so.
	if err := limited(func(ctx context.Context) error { _, _, err := client.ProducerID(ctx); return err }); err != nil {
		return err
	}
	there, err := drill.Committed(ctx, []string{"careful"}, kgo.SeedBrokers(w.cluster.Direct()...), kgo.RequestRetries(0))
	if err != nil {
		return err
	}
	for w.written = len(there); !w.stop.Load(); w.written += inTransaction {
		if w.written+inTransaction > len(w.list) {
			return fmt.Errorf("it has no more than %d records", len(w.list))
		}
		if err := limited(func(ctx context.Context) error { return w.transaction(ctx, client) }); err != nil {
			return err
		}
		signal(w.progress)
	}
	return nil
}

func (w *careful) transaction(ctx context.Context, client *kgo.Client) error {
	if err := client.BeginTransaction(); err != nil {
		return err
	}
	// ProduceSync is not for this: the client does not give up a record that it has sent, whatever the context says.
	acknowledged := make(chan error, inTransaction)
	for _, r := range w.list[w.written : w.written+inTransaction] {
		client.Produce(ctx, r.ToClient(), func(_ *kgo.Record, err error) { acknowledged <- err })
	}
	for range inTransaction {
		select {
		case err := <-acknowledged:
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return client.EndTransaction(ctx, kgo.TryCommit)
}

// TestExactlyOnceOverABadLink has all of the fixture work together: a writer of transactions goes to Kafka through a slow
// link that is reset, swallows, loses an end and is cut, and Kafka is killed; and the judge finds every record once.
func TestExactlyOnceOverABadLink(t *testing.T) {
	const partitions = 3
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var link *badlink.Link
	c := kafka.Start(t, kafka.Options{Advertise: func(_ int, address string) string {
		link = badlink.NewSeeded(t, address, seed)
		return link.Addr
	}})
	c.Create(t, "careful", partitions)
	slow := badlink.Conditions{Latency: 10 * time.Millisecond, Jitter: 10 * time.Millisecond, Up: 512 << 10, Down: 512 << 10}
	link.Set(slow)
	w := &careful{cluster: c, list: records(random, "careful", partitions, 40_000), failures: make(chan struct{}, 1), progress: make(chan struct{}, 1)}
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	defer writing.Wait()
	defer cancel()
	writing.Go(func() { ended <- w.run(ctx) })
	await := func(what string, c <-chan struct{}) {
		t.Helper()
		select {
		case <-c:
		case err := <-ended:
			t.Fatalf("%s: the writer has ended: %v", what, err)
		case <-time.After(lane.Patience):
			t.Fatalf("%s: nothing happens; %+v", what, link.Stats())
		}
	}
	faults := []struct {
		name string
		do   func()
	}{
		{"reset", link.Reset},
		{"reset after some bytes up", func() { link.ResetAfter(badlink.Up, 1+random.Int64N(10_000)) }},
		{"reset after some bytes down", func() { link.ResetAfter(badlink.Down, 1+random.Int64N(200)) }},
		{"hole", func() { link.Set(badlink.Conditions{Hole: true}) }},
		{"the server is gone", func() { link.HalfOpen(badlink.Up) }},
		{"the client is gone", func() { link.HalfOpen(badlink.Down) }},
		{"cut", link.Cut},
		{"kill", func() { c.Kill(t) }},
	}
	random.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
	for _, f := range faults {
		await(f.name, w.progress)
		await(f.name, link.After(badlink.Up, 1+random.Int64N(20_000)))
		begin := time.Now()
		drain(w.failures)
		f.do()
		switch f.name {
		case "hole", "cut", "kill": // until the writer gives up
			await(f.name, w.failures)
		}
		link.Set(slow)
		if err := link.Heal(); err != nil {
			t.Fatal(err)
		}
		c.Start(t)
		drain(w.progress)
		await(f.name, w.progress)
		t.Logf("%s: writes again after %v", f.name, time.Since(begin).Round(time.Millisecond))
	}
	w.stop.Store(true)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	got, err := drill.Committed(within(t), []string{"careful"}, kgo.SeedBrokers(c.Direct()...))
	if err != nil {
		t.Fatal(err)
	}
	if err := drill.Compare(w.list[:w.written], got); err != nil {
		t.Error(err)
	}
	if err := drill.Compare(w.list[:w.written], slices.Concat(got[:50], got[51:])); err == nil {
		t.Error("the judge finds nothing")
	}
	t.Logf("%d records in lives of %d clients: %+v", w.written, w.lives, link.Stats())
}

func drain(c chan struct{}) {
	select {
	case <-c:
	default:
	}
}
