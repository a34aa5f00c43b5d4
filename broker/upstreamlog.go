package broker

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"millrace/bridge/upstream"
	"millrace/broker/partition"
)

// linkLog is the board's topics as a link has them.
type linkLog struct{ b *Broker }

// Names implements upstream.Log.
func (l linkLog) Names() []string { return l.b.Names() }

// Partitions implements upstream.Log.
func (l linkLog) Partitions(topic string) []upstream.Partition {
	list, _ := l.b.Topic(topic)
	all := make([]upstream.Partition, 0, len(list))
	for _, p := range list {
		if p != nil {
			all = append(all, linkPartition{p})
		}
	}
	return all
}

// Count implements upstream.Log.
func (l linkLog) Count(topic string) int32 {
	if t := l.b.Image().Topic(topic); t != nil {
		return int32(len(t.Partitions))
	}
	return 0
}

// carriedSettings are those that the copy of a topic gets where the topic has them of its own. How long the other end keeps
// records, and how it lays them out, is not this board's affair: here both are a matter of flash.
var carriedSettings = []string{
	"cleanup.policy", "compression.type", "delete.retention.ms", "max.compaction.lag.ms", "max.message.bytes", "min.cleanable.dirty.ratio", "min.compaction.lag.ms",
}

// Configs implements upstream.Log.
func (l linkLog) Configs(topic string) map[string]string {
	t := l.b.Image().Topic(topic)
	if t == nil {
		return nil
	}
	var settings map[string]string
	for name, value := range t.Config {
		if slices.Contains(carriedSettings, name) {
			if settings == nil {
				settings = map[string]string{}
			}
			settings[name] = value
		}
	}
	return settings
}

// OnAdvance implements upstream.Log.
func (l linkLog) OnAdvance(fn func(topic string, id [16]byte, partition int32)) (cancel func()) {
	return l.b.OnAdvance(func(p *partition.Partition) { fn(p.Topic(), p.TopicID(), p.Index()) })
}

// PartitionOfLink is a partition as a link has it.
func PartitionOfLink(p *partition.Partition) upstream.Partition { return linkPartition{p} }

// linkPartition is a partition as a link has it. Values are comparable.
type linkPartition struct{ *partition.Partition }

// ID implements upstream.Partition.
func (p linkPartition) ID() [16]byte { return p.TopicID() }

// Compacted implements upstream.Partition.
func (p linkPartition) Compacted() bool { return p.Config().CleanupCompact }

// Gone implements upstream.Witness.
func (p linkPartition) Gone(from int64) []upstream.Lost {
	var list []upstream.Lost
	for _, g := range p.Partition.Gone(from) {
		list = append(list, upstream.Lost{Range: upstream.Range{First: g.First, End: g.Last + 1}, Cause: g.Cause.String()})
	}
	return list
}

// ReadBatches implements upstream.Partition.
func (p linkPartition) ReadBatches(dst []byte, offset int64, maxBytes int) ([]byte, error) {
	span, err := p.Read(offset, maxBytes)
	switch {
	case errors.Is(err, partition.ErrOffsetOutOfRange):
		return dst, fmt.Errorf("%w: %w", upstream.ErrOutOfRange, err)
	case errors.Is(err, partition.ErrDeleted):
		return dst, fmt.Errorf("%w: %w", upstream.ErrGone, err)
	case err != nil:
		return dst, err
	}
	defer span.Release()
	return span.Append(dst)
}

// linkClock is the board's clock as a link has it.
type linkClock struct{ b *Broker }

// Now implements upstream.Clock.
func (c linkClock) Now() time.Time { return c.b.clock.Now() }

// Known implements upstream.Clock.
func (c linkClock) Known() bool { return c.b.clock.Known() }

// Export implements upstream.Clock.
func (c linkClock) Export(topic [16]byte, index int32, offset, stampMS int64) (atMS int64, unsure bool) {
	return c.b.Export(topic, index, offset, stampMS)
}
