package hostile

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/testbench/process"
)

// depth is the backlog of TestMemoryIsFlat.
var depth = flag.Int64("hostile.backlog", 2<<30, "bytes of backlog that is read under load")

const (
	cgroupMax  = 64 << 20
	restingMax = 4 << 20 // what a backlog may add to a board at rest
	lanes      = 4       // partitions of the backlog, each with its consumer
	recordSize = 16 << 10
	partitions = 500
	groups     = 200
)

// TestMemoryIsFlat is row 5 of the goals: full-speed producers, four consumers on a deep backlog, 500 partitions, 200
// consumer groups and 1,000 idle connections, in a control group of 64 MiB, and everything hostile at the same time, which
// TestHostileClients has beside honest clients.
func TestMemoryIsFlat(t *testing.T) {
	p := process.Start(t, configuration)
	newTopics(t, p)
	p.Stop()
	p.Start()
	fresh := resting(t, p)
	confined := confine(t, p, cgroupMax)
	fill(t, p)

	judge := watchMemory(t, p, rssMax)

	begin := time.Now()
	produceDeep(t, p)
	took := time.Since(begin)
	t.Logf("%d MiB of backlog in %v, %.0f MB/s", *depth>>20, took.Round(time.Millisecond), float64(*depth)/1e6/took.Seconds())

	var members sync.WaitGroup
	joined, leave := context.WithCancel(t.Context())
	var served [groups]atomic.Int64
	for i := range groups {
		members.Go(func() { member(joined, t, p, i, &served[i]) })
	}
	idle := append(idleKafka(t, p, idlers/2), idleMQTT(t, p, idlers/2)...)

	working, done := context.WithCancel(t.Context())
	var producers, rest sync.WaitGroup
	var spread, small atomic.Int64
	producers.Go(func() { produceAll(working, t, p, "wide", partitions, 256, &spread) })
	producers.Go(func() { produceAll(working, t, p, "small", 1, 64, &small) })
	for lane := range int32(lanes) {
		rest.Go(func() { consumeDeep(t, p, lane) })
	}
	rest.Go(func() { attackAll(t, p, attacks(backlog)) })
	rest.Wait()
	for _, c := range idle {
		c.alive(t)
	}
	done()
	producers.Wait()
	for i := range served { // what the groups are behind is little: they are given the time they need
		for limit := time.Now().Add(bound); served[i].Load() == 0 && time.Now().Before(limit); {
			<-time.After(sampling)
		}
		if served[i].Load() == 0 {
			t.Errorf("group %d got nothing", i)
		}
	}
	leave()
	members.Wait()
	t.Logf("%d records into %d partitions, %d for %d groups", spread.Load(), partitions, small.Load(), groups)
	judge()
	if confined != nil {
		if n := confined.kills(t); n != 0 {
			t.Errorf("%d kills for want of memory", n)
		}
	}
	p.Stop()
	p.Start()
	loaded := resting(t, p)
	t.Logf("at rest %.1f MiB with %d MiB of backlog, %.1f without", float64(loaded)/(1<<20), *depth>>20, float64(fresh)/(1<<20))
	if loaded > fresh+restingMax {
		t.Errorf("a backlog of %d MiB adds %.1f MiB, want at most %d", *depth>>20, float64(loaded-fresh)/(1<<20), restingMax>>20)
	}
}

// resting is the memory of a process that does nothing, beside its program, in bytes.
func resting(t *testing.T, p *process.Process) int64 {
	t.Helper()
	n, err := p.PID().Anonymous()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// newClient is a client that is closed with the test at the latest.
func newClient(t *testing.T, p *process.Process, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append(opts, kgo.SeedBrokers(p.Kafka), kgo.ProducerBatchCompression(kgo.NoCompression()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func newTopics(t *testing.T, p *process.Process) {
	t.Helper()
	admin := kadm.NewClient(newClient(t, p))
	defer admin.Close()
	for topic, n := range map[string]int32{"deep": lanes, "wide": partitions, "small": 1} {
		made, err := admin.CreateTopics(t.Context(), n, 1, nil, topic)
		if err != nil || made.Error() != nil {
			t.Fatal(err, made.Error())
		}
	}
}

// produceDeep produces the backlog as fast as it goes: each record begins with its number in its partition.
func produceDeep(t *testing.T, p *process.Process) {
	t.Helper()
	c := newClient(t, p, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedBytes(32<<20), kgo.ProducerLinger(5*time.Millisecond))
	var failed atomic.Pointer[error]
	for n := range uint64(*depth / recordSize) {
		value := make([]byte, recordSize)
		binary.BigEndian.PutUint64(value, n/lanes)
		c.Produce(t.Context(), &kgo.Record{Topic: "deep", Partition: int32(n % lanes), Value: value}, func(_ *kgo.Record, err error) {
			if err != nil {
				failed.Store(&err)
			}
		})
		if err := failed.Load(); err != nil {
			t.Fatal(*err)
		}
	}
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := failed.Load(); err != nil {
		t.Fatal(*err)
	}
	c.Close()
}

// consumeDeep reads one partition of the backlog from its beginning to its end: every record once, in order.
func consumeDeep(t *testing.T, p *process.Process, lane int32) {
	c, err := kgo.NewClient(kgo.SeedBrokers(p.Kafka), kgo.FetchMaxBytes(8<<20), kgo.MaxConcurrentFetches(1),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"deep": {lane: kgo.NewOffset().AtStart()}}))
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	end := uint64(*depth / recordSize / lanes)
	for next := uint64(0); next < end; {
		fetched := c.PollFetches(ctx)
		if err := fetched.Err(); err != nil {
			t.Errorf("partition %d at %d of %d: %v", lane, next, end, err)
			return
		}
		for it := fetched.RecordIter(); !it.Done(); next++ {
			r := it.Next()
			if n := binary.BigEndian.Uint64(r.Value); n != next || r.Offset != int64(next) || len(r.Value) != recordSize {
				t.Errorf("partition %d: record %d of %d bytes at offset %d, want %d", lane, n, len(r.Value), r.Offset, next)
				return
			}
		}
	}
}

// produceAll produces records of so many bytes to each partition in turn, as fast as it goes, until ctx ends.
func produceAll(ctx context.Context, t *testing.T, p *process.Process, topic string, partitions int32, size int, produced *atomic.Int64) {
	c, err := kgo.NewClient(kgo.SeedBrokers(p.Kafka), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedRecords(5000),
		kgo.ProducerLinger(5*time.Millisecond), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	for n := int32(0); ctx.Err() == nil; n = (n + 1) % partitions {
		if topic == "small" { // all groups read it
			<-time.After(sampling)
		}
		c.Produce(t.Context(), &kgo.Record{Topic: topic, Partition: n, Value: make([]byte, size)}, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Errorf("%s: %v", topic, err)
			}
			produced.Add(1)
		})
	}
	if err := c.Flush(t.Context()); err != nil {
		t.Error(err)
	}
}

// member is the one member of a consumer group until ctx ends.
func member(ctx context.Context, t *testing.T, p *process.Process, group int, served *atomic.Int64) {
	c, err := kgo.NewClient(kgo.SeedBrokers(p.Kafka), kgo.ConsumerGroup(fmt.Sprint("group-", group)), kgo.ConsumeTopics("small"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.MaxConcurrentFetches(1))
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	for {
		fetched := c.PollFetches(ctx)
		if ctx.Err() != nil {
			return
		}
		if err := fetched.Err(); err != nil {
			t.Errorf("group %d: %v", group, err)
			return
		}
		served.Add(int64(fetched.NumRecords()))
	}
}
