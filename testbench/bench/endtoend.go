package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// endToEndRate is how many records a second row 11 sends.
const endToEndRate = 1000

// endToEnd is row 11: franz-go produces so many records of 1 KiB a second, each for itself and with acks=all, and consumes
// them.
func (b *bench) endToEnd() (err error) {
	rounds, seconds := either(b, 5, 2), either(b, 6, 2)
	servers, _, err := b.kafkaDoors("through", 1)
	defer func() { ends(servers, &err) }()
	if err != nil {
		return err
	}
	p50, p99, cost := newFigures("ms"), newFigures("ms"), newFigures("CPU-s per million")
	for round := range rounds + 1 {
		for _, s := range servers {
			var r endToEndResult
			spent, err := s.cost(func() error {
				return b.child("endtoend", endToEndArgs{s.kafka, "through", seconds * endToEndRate}, &r)
			})
			if err != nil {
				return err
			}
			if round == 0 {
				continue
			}
			p50.add(s.peer.name, r.P50)
			p99.add(s.peer.name, r.P99)
			cost.add(s.peer.name, spent.Seconds()/float64(seconds*endToEndRate)*1e6)
		}
	}
	b.table.add("11", fmt.Sprintf("end to end, 1 KiB, %d/s, p50", endToEndRate), p50.String(), verdict(p50.against("kafka", "p50", 0.4, false)...))
	b.table.add("11", "the same, p99", p99.String(), verdict(p99.against("kafka", "p99", 0.25, false)...))
	b.table.add("11", "the same, CPU", cost.String(), verdict(cost.against("kafka", "CPU", 0.25, false)...))
	return nil
}

// endToEndArgs are what the child is told.
type endToEndArgs struct {
	Address, Topic string
	Records        int
}

// endToEndResult is what it found, in milliseconds from the moment a record was due to be sent.
type endToEndResult struct{ P50, P99 float64 }

// childEndToEnd sends records when they are due and notes when they come back. Those that are sent late count from when
// they were due.
func childEndToEnd(in []byte) (any, error) {
	var a endToEndArgs
	if err := json.Unmarshal(in, &a); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	reader, err := kgo.NewClient(kgo.SeedBrokers(a.Address), kgo.ConsumeTopics(a.Topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	writer, err := kgo.NewClient(kgo.SeedBrokers(a.Address), kgo.DefaultProduceTopic(a.Topic), kgo.ProducerLinger(0),
		kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		return nil, err
	}
	defer writer.Close()
	var failed atomic.Pointer[error]
	produce := func(run, n int64) {
		value := make([]byte, 1024)
		binary.BigEndian.PutUint64(value, uint64(run))
		binary.BigEndian.PutUint64(value[8:], uint64(n))
		writer.Produce(ctx, &kgo.Record{Value: value}, func(_ *kgo.Record, err error) {
			if err != nil {
				failed.Store(&err)
				cancel()
			}
		})
	}
	// The first comes back when both are connected and the reader is at the end of what earlier rounds left.
	run := time.Now().UnixNano()
	produce(run, -1)
	next := int64(-1)
	took := make([]time.Duration, 0, a.Records)
	var begin time.Time
	sent := make(chan struct{})
	for next < int64(a.Records) {
		fetched := reader.PollFetches(ctx)
		if err := fetched.Err(); err != nil {
			if cause := failed.Load(); cause != nil {
				err = errors.Join(err, *cause)
			}
			return nil, err
		}
		now := time.Now()
		for it := fetched.RecordIter(); !it.Done(); {
			value := it.Next().Value
			if len(value) < 16 || int64(binary.BigEndian.Uint64(value)) != run {
				continue // of an earlier round
			}
			n := int64(binary.BigEndian.Uint64(value[8:]))
			if n != next {
				return nil, fmt.Errorf("record %d came, want %d", n, next)
			}
			if next++; n >= 0 {
				took = append(took, now.Sub(begin.Add(time.Duration(n)*time.Second/endToEndRate)))
				continue
			}
			begin = now.Add(50 * time.Millisecond)
			go func() {
				defer close(sent)
				for n := range int64(a.Records) {
					time.Sleep(time.Until(begin.Add(time.Duration(n) * time.Second / endToEndRate)))
					produce(run, n)
				}
			}()
		}
	}
	<-sent
	return endToEndResult{quantile(took, 0.5) / 1000, quantile(took, 0.99) / 1000}, nil
}
