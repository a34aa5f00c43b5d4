package powercut

import (
	"context"
	"iter"
	"time"

	"millrace/broker/catalog"
	"millrace/broker/cleaner"
	"millrace/broker/partition"
	"millrace/broker/record"
)

// configOf is what a topic of that name is made with: some are compacted.
func configOf(name string) catalog.TopicConfig {
	c := topicConfig()
	if name == "topic3" || name == "topic4" {
		c.CleanupDelete, c.CleanupCompact, c.MinCleanableRatio = false, true, 0.2
	}
	return c
}

// keyOf is the key of record id.
func keyOf(p *partition.Partition, id uint64) []byte {
	return []byte((&part{topic: &topic{name: p.Topic(), config: configOf(p.Topic())}, index: p.Index()}).key(id))
}

func (c *child) records(p *partition.Partition, n, size int) (e event, recs []record.Record) {
	e = event{Kind: evAppend, Topic: p.TopicID(), Part: p.Index(), N: n, First: c.nextID}
	c.nextID += uint64(n)
	for i := range n {
		recs = append(recs, record.Record{
			Timestamp: c.clock().UnixMilli(), Key: keyOf(p, e.First+uint64(i)), Value: value(e.First+uint64(i), size),
		})
	}
	return e, recs
}

// batch is the batch of an append. Its memory is its own: it is borrowed until it is answered.
func batch(builder *record.Builder, recs []record.Record, e event) (record.Batch, error) {
	builder.Reset()
	for _, r := range recs {
		builder.Add(r.Timestamp, r.Key, r.Value, nil)
	}
	built, err := builder.Build()
	if err != nil {
		return nil, err
	}
	b := append(record.Batch(nil), built...)
	if e.Producer != 0 {
		b.SetProducer(e.Producer, 0, e.Sequence, false)
	}
	return b, nil
}

// compact compacts every topic that wants it.
func (c *child) compact() error {
	began := c.clock()
	sweeper := cleaner.New(cleaner.Config{
		Partitions: func() iter.Seq[cleaner.Partition] {
			return func(yield func(cleaner.Partition) bool) {
				for p := range c.board.store.All() {
					if p.Config().CleanupCompact && !yield(p) { // retention is another step's
						return
					}
				}
			}
		},
		Now: c.clock, Elapsed: func() time.Duration { return c.clock().Sub(began) },
		Checkpoint: func() error { return c.board.store.Checkpoint() }, Save: func() error { return c.board.store.SaveCleaned() },
		Memory: 1 << 10, // several parts
	})
	err := sweeper.Pass(context.Background())
	if sweeper.Compacted() > 0 {
		c.tell(event{Kind: evCompacted, N: int(sweeper.Compacted())})
	}
	return c.surprise("compact", err)
}
