package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// liveEvery is how often a live record is written, liveSize how long it is.
	liveEvery = 10 * time.Millisecond
	liveSize  = 200
	// livePartitions is over how many partitions the backlog is spread. Live records go to the first of them.
	livePartitions = 8
)

// liveMark begins a live record; the time it was written at follows.
var liveMark = []byte("live\x00\x01\x02\x03")

// liveFigures are how long live records took until they were acknowledged on the board, and until they could be read upstream.
type liveFigures struct{ acked, age []time.Duration }

// whileBehind measures how live records fare while a backlog drains, against how they fare without one: for both orders of a link.
func (b *bench) whileBehind() error {
	hub, err := b.hub()
	if hub == nil || err != nil {
		return err
	}
	const size = 200
	records := either(b, 1<<30/size, 32<<20/size)
	for _, order := range []string{"oldest-first", "live-first"} {
		if err := b.behindIn(hub, order, records); err != nil {
			return fmt.Errorf("%s: %w", order, err)
		}
	}
	return nil
}

func (b *bench) behindIn(hub *server, order string, records int) (err error) {
	topic := "behind-" + order
	board, err := b.serve(b.peers[0], options{config: linkTo(hub.kafka, topic, fmt.Sprintf("order = %q", order))})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, board.end()) }()
	if err := board.create(topic, livePartitions); err != nil {
		return err
	}
	if _, err := board.delivered(livePartitions); err != nil {
		return err
	}
	alone, err := b.live(board, hub, topic, func(ctx context.Context) error {
		select {
		case <-ctx.Done():
		case <-time.After(either(b, 20*time.Second, 5*time.Second)):
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := board.decide("pause"); err != nil {
		return err
	}
	if err := b.backlog(board, topic, livePartitions, records); err != nil {
		return err
	}
	var took time.Duration
	draining, err := b.live(board, hub, topic, func(context.Context) error {
		if err := board.decide("resume"); err != nil {
			return err
		}
		begin := time.Now()
		err := board.within(drainMax, func() error { // live records go on, so that it is never idle for long
			is, err := board.link()
			if err == nil && is.Records > int64(records)/1000 {
				err = fmt.Errorf("%d records are behind, %s %s", is.Records, is.State, is.Reason)
			}
			return err
		})
		took = time.Since(begin)
		return err
	})
	if err != nil {
		return err
	}
	say := func(what string, alone, draining []time.Duration) {
		line := ""
		for _, q := range []float64{0.5, 0.99} {
			before, then := quantile(alone, q)/1000, quantile(draining, q)/1000
			line += fmt.Sprintf("p%.0f %.3g, without a backlog %.3g (×%.2f); ", 100*q, then, before, then/before)
		}
		b.table.add("live", what, us+" "+line[:len(line)-2]+" ms", "")
	}
	say(fmt.Sprintf("upstream, order %s: a produce of 200 B, %d/s, while %d MiB of backlog drain (%.0f s)", order, time.Second/liveEvery, records*200>>20, took.Seconds()), alone.acked, draining.acked)
	say("the same, from the produce until it can be read upstream", alone.age, draining.age)
	return nil
}

// live writes live records until during returns, and gathers how they fared. It returns when all of them are upstream.
func (b *bench) live(board, hub *server, topic string, during func(context.Context) error) (f liveFigures, err error) {
	ctx, cancel := context.WithTimeout(b.ctx, drainMax+time.Minute)
	defer cancel()
	end, err := hub.endOf(topic, 0) // not "the end", which the reader would ask for when some are there already
	if err != nil {
		return f, err
	}
	reader, err := kgo.NewClient(kgo.SeedBrokers(hub.kafka), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxWait(100*time.Millisecond),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(end)}}))
	if err != nil {
		return f, err
	}
	defer reader.Close()
	writer, err := connectKafka(board.kafka)
	if err != nil {
		return f, err
	}
	defer writer.Close()
	begin := time.Now().UnixNano()
	var work sync.WaitGroup
	var mu sync.Mutex
	written, whole := 0, false
	enough := make(chan struct{})
	var failed [3]error
	work.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-enough:
				mu.Lock()
				whole = true
				mu.Unlock()
				return
			case <-ctx.Done():
				return
			case <-time.After(time.Until(time.Unix(0, begin).Add(time.Duration(n) * liveEvery))):
			}
			value := append(make([]byte, 0, liveSize), liveMark...)
			value = binary.BigEndian.AppendUint64(value, uint64(time.Now().UnixNano()))
			batch, err := oneRecord(value[:liveSize])
			if err != nil {
				failed[0] = err
				return
			}
			mu.Lock()
			written++ // before it can be read
			mu.Unlock()
			took, err := writer.produce(topic, 0, batch)
			if err != nil {
				failed[0] = err
				cancel()
				return
			}
			f.acked = append(f.acked, took)
		}
	})
	work.Go(func() {
		for {
			mu.Lock()
			done := whole && len(f.age) == written
			mu.Unlock()
			if done {
				return
			}
			wait, stop := context.WithTimeout(ctx, 200*time.Millisecond) // to see that it is done
			got := reader.PollFetches(wait)
			stop()
			now := time.Now()
			if ctx.Err() != nil {
				failed[1] = ctx.Err()
				return
			}
			for it := got.RecordIter(); !it.Done(); {
				v := it.Next().Value
				if len(v) != liveSize || !bytes.HasPrefix(v, liveMark) {
					continue
				}
				if at := int64(binary.BigEndian.Uint64(v[len(liveMark):])); at >= begin {
					f.age = append(f.age, now.Sub(time.Unix(0, at)))
				}
			}
		}
	})
	failed[2] = during(ctx)
	close(enough)
	if failed[2] != nil {
		cancel()
	}
	work.Wait()
	return f, errors.Join(failed[:]...)
}
