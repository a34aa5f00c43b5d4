package upstream

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/bridge/upstream"
	"millrace/testbench/client/drill"
	"millrace/testbench/client/kafka"
)

// sources are the topics upstream that come down, and how many partitions they have.
var sources = map[string]int32{"site.one": 1, "site.three": 3}

// authors are Kafka clients that write upstream all the time, beside all bad links: transactions that are committed, taken
// back or left open, and records without one, in every codec. They live through restarts of the Kafka. What they have
// written the Kafka knows: an answer that is lost with a node says nothing.
type authors struct {
	stop context.CancelFunc
	work sync.WaitGroup
	// written are records that were handed to a client, trouble what clients have failed with.
	written, trouble atomic.Int64
}

// authorsMax is how many there are.
const authorsMax = 2

// startAuthors makes the topics, and begins.
func startAuthors(t *testing.T, c *kafka.Cluster, seed uint64) *authors {
	t.Helper()
	for topic, n := range sources {
		c.Create(t, topic, n)
	}
	ctx, stop := context.WithCancel(t.Context())
	a := &authors{stop: stop}
	for i := range authorsMax {
		w := &scribe{authors: a, whole: t.Context(), servers: c.Direct(), id: fmt.Sprint("author-", i), rng: rand.New(rand.NewPCG(seed, uint64(300+i)))}
		a.work.Go(func() { w.run(ctx) })
	}
	t.Cleanup(a.end)
	return a
}

// end has the authors end.
func (a *authors) end() {
	a.stop()
	a.work.Wait()
}

// scribe is one of them.
type scribe struct {
	*authors
	whole   context.Context // ends with the test
	servers []string
	id      string
	rng     *rand.Rand
	n       int
}

// run is one client after the other: the next one ends what the last has left open. The last leaves nothing.
func (a *scribe) run(ctx context.Context) {
	beat := time.NewTicker(pace)
	defer beat.Stop()
	for life := 0; ; life++ {
		last := ctx.Err() != nil
		err := a.live(ctx, life, beat.C)
		if err != nil {
			a.trouble.Add(1)
		}
		if last && err == nil || a.whole.Err() != nil {
			return
		}
	}
}

// live is one client, and one without transactions beside it.
func (a *scribe) live(ctx context.Context, life int, beat <-chan time.Time) error {
	opts := []kgo.Opt{
		kgo.SeedBrokers(a.servers...), kgo.ClientID(a.id), kgo.ProducerBatchCompression(codecs[life%len(codecs)]), kgo.ProducerLinger(0),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }),
		kgo.MetadataMinAge(50 * time.Millisecond),
	}
	bare, err := kgo.NewClient(opts...)
	if err != nil {
		return err
	}
	defer bare.Close()
	transactional, err := kgo.NewClient(append(opts, kgo.TransactionalID(a.id))...)
	if err != nil {
		return err
	}
	defer transactional.Close()
	for times := 20 + a.rng.IntN(40); times > 0 && ctx.Err() == nil; times-- {
		select {
		case <-beat:
		case <-ctx.Done():
		}
		if a.rng.IntN(3) == 0 {
			err = bare.ProduceSync(a.whole, a.some()...).FirstErr()
		} else {
			err = a.transact(transactional, times > 1)
		}
		if err != nil {
			return err
		}
	}
	if ctx.Err() != nil { // nobody comes after
		return a.transact(transactional, true)
	}
	return nil
}

// transact writes some records in a transaction, and may end it.
func (a *scribe) transact(client *kgo.Client, end bool) error {
	if err := client.BeginTransaction(); err != nil {
		return err
	}
	if err := client.ProduceSync(a.whole, a.some()...).FirstErr(); err != nil || !end {
		return err
	}
	return client.EndTransaction(a.whole, kgo.TransactionEndTry(a.rng.IntN(4) > 0))
}

// some are a few records of every kind.
func (a *scribe) some() []*kgo.Record {
	recs := make([]*kgo.Record, 1+a.rng.IntN(8))
	for i := range recs {
		a.n++
		r := &kgo.Record{Topic: "site.three", Partition: a.rng.Int32N(3), Timestamp: time.UnixMilli(1_700_000_000_000 + int64(a.n))}
		if a.rng.IntN(4) == 0 {
			r.Topic, r.Partition = "site.one", 0
		}
		if a.rng.IntN(3) > 0 {
			r.Key = fmt.Appendf(nil, "key %d", a.rng.IntN(10))
		}
		if r.Key == nil || a.rng.IntN(50) > 0 {
			size := a.rng.IntN(400)
			if a.rng.IntN(60) == 0 {
				size = a.rng.IntN(60 << 10)
			}
			r.Value = fmt.Appendf(nil, "%s %d %s", a.id, a.n, strings.Repeat("x", size))
		}
		if a.rng.IntN(4) == 0 {
			r.Headers = []kgo.RecordHeader{{Key: "kind", Value: fmt.Append(nil, a.n)}, {Key: "null"}}
		}
		recs[i] = r
	}
	a.written.Add(int64(len(recs)))
	return recs
}

// descended compares what is upstream with what a link has made of it on the board: the same topics and partitions, record by
// record, each with the cluster it came from.
func descended(far, local []drill.Record, cluster string) error {
	for i := range local {
		r := &local[i]
		n := len(r.Headers) - 1
		if n < 0 || r.Headers[n].Key != upstream.HeaderCluster || string(r.Headers[n].Value) != cluster {
			return fmt.Errorf("it does not say where it came from: %v", r)
		}
		if r.Headers = r.Headers[:n]; n == 0 {
			r.Headers = nil
		}
	}
	return drill.Compare(far, local)
}

// judgeDown compares what the authors have left upstream with what the board has of it, when that is all.
func (s *siege) judgeDown() {
	t := s.t
	t.Helper()
	topics := slices.Collect(maps.Keys(sources))
	far := logOf(t, topics, s.cluster.Direct()...)
	if err := descended(far, awaited(t, s.board, s.dir, topics, len(far)), s.cluster.ID); err != nil {
		t.Errorf("%s: %v", taken, err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(s.board.Kafka))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if all, err := kadm.NewClient(client).ListTopicsWithInternal(t.Context()); err != nil || all.Has(upstream.LocalGapTopic) {
		t.Errorf("gaps are told of what came down: %v", err)
	}
	written := int(s.authors.written.Load())
	t.Logf("%d records of %d that were written upstream came down; the clients that wrote them failed %d times", len(far), written, s.authors.trouble.Load())
	if s.ran >= 40 && (len(far) < 20*s.ran || written-len(far) < s.ran) {
		t.Error("too little has come down to prove anything")
	}
}
