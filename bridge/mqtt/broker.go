package mqtt

import (
	"context"
	"errors"
	"fmt"

	"millrace/broker/catalog"
	"millrace/broker/partition"
	"millrace/broker/record"
)

// Topics is the broker as FromBroker needs it. All methods are safe for concurrent use.
type Topics interface {
	// Topic finds the partitions of a topic, by number.
	Topic(name string) ([]*partition.Partition, bool)
	// Ensure finds a topic, or creates it where that is allowed.
	Ensure(ctx context.Context, name string) ([]*partition.Partition, error)
	// Names lists all topics.
	Names() []string
	// OnAdvance calls fn after a partition's high watermark moved, until cancel.
	OnAdvance(fn func(*partition.Partition)) (cancel func())
}

// FromBroker makes a Log of the broker's own partitions.
func FromBroker(t Topics) Log { return brokerLog{t} }

type brokerLog struct{ Topics }

// Partitions implements Log.
func (l brokerLog) Partitions(topic string) int {
	list, _ := l.Topic(topic)
	return len(list)
}

// Partition implements Log.
func (l brokerLog) Partition(topic string, index int32) (Partition, bool) {
	list, ok := l.Topic(topic)
	if !ok || index < 0 || int(index) >= len(list) {
		return nil, false
	}
	return brokerPartition{list[index]}, true
}

// Ensure implements Log.
func (l brokerLog) Ensure(ctx context.Context, topic string) error {
	_, err := l.Topics.Ensure(ctx, topic)
	if errors.Is(err, catalog.ErrInvalidTopic) || errors.Is(err, catalog.ErrUnknownTopic) {
		return fmt.Errorf("%w: %w", ErrBadTopic, err)
	}
	return refusal(err)
}

// OnAdvance implements Log.
func (l brokerLog) OnAdvance(fn func(Partition)) (cancel func()) {
	return l.Topics.OnAdvance(func(p *partition.Partition) { fn(brokerPartition{p}) })
}

// brokerPartition is comparable: two values for one partition are equal.
type brokerPartition struct{ *partition.Partition }

// ID implements Partition.
func (p brokerPartition) ID() [16]byte { return p.TopicID() }

// AppendRecords implements Partition.
func (p brokerPartition) AppendRecords(recs []record.Record, internal bool, done func(base int64, err error)) {
	o := partition.AppendOptions{Epoch: -1, Internal: internal}
	p.Partition.AppendRecords(recs, o, func(r partition.AppendResult) { done(r.Base, refusal(r.Err)) })
}

// ReadBatches implements Partition.
func (p brokerPartition) ReadBatches(dst []byte, offset int64, maxBytes int) ([]byte, error) {
	span, err := p.Read(offset, maxBytes)
	if err != nil {
		return dst, refusal(err)
	}
	dst, err = span.Append(dst)
	span.Release()
	return dst, err
}

// refusal gives the broker's errors the meaning this door acts on; the rest pass as they are.
func refusal(err error) error {
	for _, m := range []struct{ is, means error }{
		{partition.ErrDiskFull, ErrFull},
		{partition.ErrOverloaded, ErrFull},
		{catalog.ErrTooMany, ErrFull},
		{partition.ErrTooLarge, ErrTooLarge},
		{record.ErrTooLarge, ErrTooLarge},
		{partition.ErrOffsetOutOfRange, ErrOutOfRange},
		{partition.ErrDeleted, ErrGone},
	} {
		if errors.Is(err, m.is) {
			return fmt.Errorf("%w: %w", m.means, err)
		}
	}
	return err
}
