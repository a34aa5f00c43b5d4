package mqtt

import (
	"context"
	"errors"
	"fmt"

	"millrace/broker/catalog"
	"millrace/broker/partition"
	"millrace/broker/record"
	"millrace/broker/segment"
)

// Broker is the part of the broker the door stands on.
type Broker interface {
	// Topic returns a topic's partitions in order.
	Topic(name string) ([]*partition.Partition, bool)
	// Ensure is Topic, after the topic was created when it did not exist and may be.
	Ensure(ctx context.Context, name string) ([]*partition.Partition, error)
	// Names lists all topics.
	Names() []string
	// Offline names partitions that are on the disk and cannot be used now.
	Offline() []string
	// OnAdvance calls fn after a high watermark moved, until cancel.
	OnAdvance(fn func(*partition.Partition)) (cancel func())
}

// FromBroker makes a Log of a broker.
func FromBroker(b Broker) Log { return broker{b} }

type broker struct{ b Broker }

func (l broker) Partitions(topic string) int {
	ps, _ := l.b.Topic(topic)
	return len(ps)
}

func (l broker) Partition(topic string, index int32) (Partition, bool) {
	ps, ok := l.b.Topic(topic)
	if !ok || index < 0 || int(index) >= len(ps) || ps[index] == nil {
		return nil, false
	}
	return replica{ps[index]}, true
}

func (l broker) Ensure(ctx context.Context, topic string) error {
	_, err := l.b.Ensure(ctx, topic)
	switch {
	case errors.Is(err, catalog.ErrUnknownTopic), errors.Is(err, catalog.ErrInvalidTopic):
		return fmt.Errorf("%w: %w", ErrBadTopic, err)
	}
	return translate(err)
}

func (l broker) AppendTogether(parts []Part) {
	all := make([]partition.Part, len(parts))
	for i, part := range parts {
		all[i] = partition.Part{
			Partition: part.Partition.(replica).p, Records: part.Records,
			Done: func(a partition.AppendResult) { part.Done(a.Base, translate(a.Err)) },
		}
	}
	partition.AppendTogether(all, partition.AppendOptions{Epoch: -1})
}

func (l broker) Names() []string { return l.b.Names() }

func (l broker) Offline() []string { return l.b.Offline() }

func (l broker) OnAdvance(fn func(Partition)) func() {
	return l.b.OnAdvance(func(p *partition.Partition) { fn(replica{p}) })
}

// replica is a Partition of the broker.
type replica struct{ p *partition.Partition }

func (r replica) Topic() string { return r.p.Topic() }
func (r replica) ID() [16]byte  { return r.p.TopicID() }
func (r replica) Index() int32  { return r.p.Index() }
func (r replica) Start() int64  { return r.p.Start() }
func (r replica) High() int64   { return r.p.High() }

func (r replica) AppendRecords(recs []record.Record, internal bool, done func(int64, error)) {
	r.p.AppendRecords(recs, partition.AppendOptions{Epoch: -1, Internal: internal}, func(a partition.AppendResult) {
		done(a.Base, translate(a.Err))
	})
}

func (r replica) ReadBatches(dst []byte, offset int64, maxBytes int) ([]byte, error) {
	span, err := r.p.Read(offset, maxBytes)
	if err != nil {
		return dst, translate(err)
	}
	defer span.Release()
	return span.Append(dst)
}

func (r replica) Skip(offset int64, w *segment.Wanted) (int64, bool) { return r.p.Skip(offset, w) }

// translate puts the door's own sentinel before the broker's error, where one says what the door has to do.
func translate(err error) error {
	for _, known := range []struct{ is, as error }{
		{partition.ErrDiskFull, ErrFull},
		{partition.ErrOverloaded, ErrFull},
		{partition.ErrTooLarge, ErrTooLarge},
		{partition.ErrOffsetOutOfRange, ErrOutOfRange},
		{partition.ErrDeleted, ErrGone},
	} {
		if errors.Is(err, known.is) {
			return fmt.Errorf("%w: %w", known.as, err)
		}
	}
	return err
}
