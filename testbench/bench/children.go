package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// produceArgs are what the producing child is told.
type produceArgs struct {
	Address, Topic    string
	Partitions        int
	Records, ValueLen int
	BatchMax          int // bytes
}

// produceResult is what it found.
type produceResult struct {
	Seconds float64
	Bytes   int64 // of values
}

// childProduce produces noise.
func childProduce(in []byte) (any, error) {
	var a produceArgs
	if err := json.Unmarshal(in, &a); err != nil {
		return nil, err
	}
	values := make([][]byte, 64)
	random := rand.NewChaCha8([32]byte{1})
	for i := range values {
		values[i] = make([]byte, a.ValueLen)
		if _, err := random.Read(values[i]); err != nil {
			return nil, err
		}
	}
	return produceAll(a, func(i int) []byte { return values[i%len(values)] })
}

// childReadings produces readings of 50 sources.
func childReadings(in []byte) (any, error) {
	var a produceArgs
	if err := json.Unmarshal(in, &a); err != nil {
		return nil, err
	}
	return produceAll(a, func(i int) []byte { return senML(i%50, int64(i)) })
}

// produceAll produces with franz-go, idempotent and acks=all as it does by default, without compression, round robin
// over the partitions, and waits for every acknowledgement.
func produceAll(a produceArgs, value func(i int) []byte) (any, error) {
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(a.Address), kgo.DefaultProduceTopic(a.Topic), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerBatchMaxBytes(int32(a.BatchMax)),
		kgo.ProducerLinger(5*time.Millisecond), kgo.MaxBufferedRecords(16<<10),
	)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := cl.Ping(ctx); err != nil {
		return nil, err
	}
	var failed atomic.Pointer[error]
	done := func(_ *kgo.Record, err error) {
		if err != nil {
			failed.Store(&err)
		}
	}
	begin := time.Now()
	var bytes int64
	for i := range a.Records {
		v := value(i)
		bytes += int64(len(v))
		cl.Produce(ctx, &kgo.Record{Value: v, Partition: int32(i % a.Partitions)}, done)
	}
	if err := cl.Flush(ctx); err != nil {
		return nil, err
	}
	if err := failed.Load(); err != nil {
		return nil, *err
	}
	return produceResult{time.Since(begin).Seconds(), bytes}, nil
}

// fetchArgs are what the fetching child is told.
type fetchArgs struct {
	Address, Topic       string
	Partitions, Consumer int // every consumer reads every partition, each on its own connection
}

// fetchResult is what it found.
type fetchResult struct {
	Seconds float64
	Bytes   int64 // of batches
}

// childFetch reads a topic from its beginning with as many consumers at a time.
func childFetch(in []byte) (any, error) {
	var a fetchArgs
	if err := json.Unmarshal(in, &a); err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	var total atomic.Int64
	errs := make(chan error, a.Consumer)
	begin := time.Now()
	for range a.Consumer {
		wg.Go(func() {
			n, err := consumeAll(a)
			total.Add(n)
			if err != nil {
				errs <- err
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	return fetchResult{time.Since(begin).Seconds(), total.Load()}, nil
}

func consumeAll(a fetchArgs) (total int64, err error) {
	k, err := connectKafka(a.Address)
	if err != nil {
		return 0, err
	}
	defer k.Close()
	for p := range a.Partitions {
		n, err := k.consume(a.Topic, int32(p), 0)
		total += n
		if err != nil {
			return total, err
		}
	}
	return total, nil
}
