package cleaner_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"millrace/broker/partition"
	"millrace/broker/partition/partitiontest"
)

// Readers, writers, checkpoints and lookups by time go on while segments are replaced under them, with so few open files
// that each is opened again all the time. The writer and the passes meet now and then: neither gets far ahead.
func TestNobodyNoticesACompaction(t *testing.T) {
	topic := compacted()
	topic.SegmentBytes, topic.IndexIntervalBytes, topic.MinCleanableRatio = 2000, 200, 0
	w := partitiontest.New(t)
	w.Topic = topic
	w.Config.Handles = 3
	w.Start()
	p := w.Create("a")
	c := sweeper(w, 2000, 1<<30)
	var wrote atomic.Int64
	var failed atomic.Bool
	fail := func(format string, args ...any) {
		failed.Store(true)
		t.Errorf(format, args...)
	}
	const (
		records     = 600 // between two meetings: many segments
		compactions = 5
		meetings    = 20 // at most; a pass compacts what was written before it, unless the one before has
	)
	done, passed := make(chan struct{}), make(chan struct{})
	var workers sync.WaitGroup
	workers.Go(func() {
		defer close(done)
		for i := 0; i < meetings*records && (i < compactions*records || c.Compacted() < compactions); i++ {
			if failed.Load() {
				return
			}
			if _, err := partitiontest.AppendBatch(p, keyed(w.Clock, fmt.Sprintf("k%d=%d", i%17, i))); err != nil {
				fail("append: %v", err)
				return
			}
			if wrote.Store(int64(i) + 1); i%records == records-1 {
				<-passed
			}
		}
	})
	until := func(fn func(rng *rand.Rand)) {
		workers.Go(func() {
			for rng := rand.New(rand.NewPCG(1, 2)); ; {
				select {
				case <-done:
					return
				default:
					fn(rng)
				}
			}
		})
	}
	for range 3 {
		until(func(rng *rand.Rand) {
			from := rng.Int64N(p.High() + 1)
			least := wrote.Load()
			span, err := p.Read(from, 4<<10)
			if err != nil {
				fail("read at %d: %v", from, err)
				return
			}
			raw, err := span.Append(nil)
			span.Release()
			if err != nil || len(raw) == 0 && from < least {
				fail("read at %d of %d: %d bytes, %v", from, least, len(raw), err)
			}
		})
	}
	until(func(*rand.Rand) { // the last value of each of 17 keys, whatever happens meanwhile
		least := wrote.Load()
		all, err := readValues(p)
		if err != nil {
			fail("read all: %v", err)
		}
		for k := range min(17, least) {
			want := least - 1 - (least-1-k)%17
			if have, ok := all[fmt.Sprint("k", k)]; !ok || have < want {
				fail("key %d is %d, want %d or later", k, have, want)
			}
		}
	})
	until(func(rng *rand.Rand) {
		if _, _, _, err := p.ListOffset(w.Clock.UnixMilli() - rng.Int64N(2)); err != nil {
			fail("list offset: %v", err)
		}
	})
	until(func(*rand.Rand) {
		if err := w.Store.Checkpoint(); err != nil {
			fail("checkpoint: %v", err)
		}
	})
	until(func(*rand.Rand) {
		if err := c.Pass(t.Context()); err != nil {
			fail("pass: %v", err)
		}
		select {
		case passed <- struct{}{}:
		case <-done:
		}
	})
	workers.Wait()
	pass(t, c)
	t.Logf("%d compactions, %d bytes saved", c.Compacted(), c.Saved())
	if c.Compacted() < compactions {
		t.Errorf("%d compactions, want %d", c.Compacted(), compactions)
	}
}

// readValues is the last value of each key, as a number.
func readValues(p *partition.Partition) (map[string]int64, error) {
	values, err := partitiontest.Values(p)
	all := make(map[string]int64)
	for _, v := range values {
		var offset, n int64
		if _, err := fmt.Sscanf(v, "%d=%d", &offset, &n); err != nil {
			return nil, errors.Join(err, errors.New(string(bytes.TrimSpace([]byte(v)))))
		}
		all[fmt.Sprint("k", n%17)] = n
	}
	return all, err
}
