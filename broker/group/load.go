package group

import (
	"context"
	"fmt"

	"millrace/broker/record"
)

// readSize is how much of the log is read at a time, in bytes; a larger batch is read whole.
const readSize = 64 << 10

// Partition is the partition of __consumer_offsets, of n, that a group belongs to: Java's hash of its id, as Apache
// Kafka has it, so that its tools find the group where they look for it.
func Partition(id string, n int) int {
	var h int32
	for _, r := range id {
		if r >= 0x10000 { // Java's strings are UTF-16
			r -= 0x10000
			h = 31*h + 0xd800 + r>>10
			r = 0xdc00 + r&0x3ff
		}
		h = 31*h + r
	}
	if h == -1<<31 {
		return 0
	}
	return int(max(h, -h)) % n
}

// find learns how many partitions there are, once the topic exists. Holds mu.
func (c *Coordinator) find() {
	if len(c.shards) == 0 {
		for i := range c.config.Topic.Partitions() {
			c.shards = append(c.shards, &shard{index: i})
		}
	}
}

// shardOf is the partition a group belongs to, when it is loaded. Holds mu.
func (c *Coordinator) shardOf(id string) (*shard, error) {
	if c.find(); len(c.shards) == 0 {
		return nil, ErrNotCoordinator // nobody asked where the coordinator is
	}
	s := c.shards[Partition(id, len(c.shards))]
	if s.state == loaded {
		return s, nil
	}
	return nil, c.load(s)
}

// load begins to read a partition, and says why it cannot be used yet. Holds mu.
func (c *Coordinator) load(s *shard) error {
	if s.state != unloaded {
		return ErrLoading
	}
	log, err := c.config.Topic.Log(s.index)
	if err != nil {
		return err
	}
	if now := c.config.NowMS(); now < s.retry {
		return ErrUnavailable
	}
	s.state = loading
	c.loading.Go(func() {
		c.reading.Lock()
		groups, err := read(log, &c.config.Limits, c.ending.Load, func(offset int64, err error) {
			c.log.Error("a record of __consumer_offsets is skipped", "partition", s.index, "offset", offset, "err", err)
		})
		c.reading.Unlock()
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.ending.Load() {
			return
		}
		if err != nil {
			c.log.Error("a partition of __consumer_offsets cannot be read", "partition", s.index, "err", err)
			s.state, s.retry = unloaded, c.config.NowMS()+retryMS
			return
		}
		s.state, s.log = loaded, log
		c.adopt(s, groups)
	})
	return ErrLoading
}

// adopt takes over what was read. Holds mu.
func (c *Coordinator) adopt(s *shard, groups map[string]*group) {
	now := c.moment()
	for id, g := range groups {
		g.loaded(now)
		e := &entry{group: g, shard: s, at: never}
		c.groups[id] = e
		// Topics may have gone between the last write and the stop.
		c.step(e, forget{gone: c.config.Topic.Gone})
	}
	if len(groups) > 0 {
		c.log.Info("groups loaded", "partition", s.index, "groups", len(groups))
	}
}

// read makes the groups of a partition's records, in the memory they take and one batch. skipped is told of records
// that cannot be read: one of them keeps no group from working.
func read(log Log, limits *Limits, over func() bool, skipped func(offset int64, err error)) (map[string]*group, error) {
	groups, topics := map[string]*group{}, map[string]string{}
	var buffer []byte
	for offset := log.Start(); offset < log.High(); {
		if over() {
			return nil, context.Canceled
		}
		var err error
		before := offset
		if buffer, err = log.ReadBatches(buffer[:0], offset, readSize); err != nil {
			return nil, fmt.Errorf("read at offset %d: %w", offset, err)
		}
		if len(buffer) == 0 {
			return groups, nil
		}
		for rest := buffer; len(rest) > 0; {
			var b record.Batch
			if b, rest, err = record.Next(rest); err != nil {
				return nil, err
			}
			if b.NextOffset() > offset {
				offset = b.NextOffset()
			}
			if b.Control() {
				continue
			}
			for r, err := range b.Records(record.DefaultMaxBytes) {
				if err != nil {
					return nil, err
				}
				if err := replay(groups, limits, topics, r.Key, r.Value); err != nil {
					skipped(r.Offset, err)
				}
			}
		}
		if offset == before {
			return nil, fmt.Errorf("read at offset %d: nothing but batches before it", offset)
		}
	}
	return groups, nil
}
