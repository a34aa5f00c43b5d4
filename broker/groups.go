package broker

import (
	"context"
	"errors"
	"fmt"

	"millrace/broker/catalog"
	"millrace/broker/group"
	"millrace/broker/partition"
	"millrace/broker/record"
)

// openGroups starts the coordinator of consumer groups, which reads what it has on the disk while the doors open.
func (b *Broker) openGroups(context.Context) error {
	s := &b.config.Settings.Broker
	b.groups = group.New(group.Config{
		Topic: offsetsTopic{b},
		Limits: group.Limits{
			InitialDelayMS: s.GroupInitialDelay.Milliseconds(),
			MinSessionMS:   s.GroupMinSession.Milliseconds(), MaxSessionMS: s.GroupMaxSession.Milliseconds(),
			Members: s.GroupMaxSize, Offsets: s.GroupMaxOffsets, Groups: s.GroupMaxCount,
			RetentionMS: s.OffsetsRetention.Milliseconds(), SweepMS: s.OffsetsRetentionCheck.Milliseconds(),
		},
		Memory: b.memory.groups, Now: b.clock.Now, NowMS: b.pulse.Now, Wake: b.pulse.Wake, NewID: RandomUUID,
		Logger: b.log.With("component", "group"),
	})
	b.pulse.Register(b.groups)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b.groups.Run(ctx)
	}()
	b.owns(func() error {
		b.pulse.Unregister(b.groups)
		stop()
		<-ended
		return nil
	})
	return nil
}

// offsetsTopic is __consumer_offsets as the coordinator sees it.
type offsetsTopic struct{ b *Broker }

// Partitions implements group.Topic.
func (t offsetsTopic) Partitions() int {
	topic := t.b.Image().Topic(group.TopicName)
	if topic == nil {
		return 0
	}
	return len(topic.Partitions)
}

// Log implements group.Topic.
func (t offsetsTopic) Log(index int) (group.Log, error) {
	topic := t.b.Image().Topic(group.TopicName)
	if topic == nil || topic.Partitions[index].Leader != t.b.meta.NodeID {
		return nil, group.ErrNotCoordinator
	}
	p := t.b.store.Get(topic.ID, int32(index))
	if p == nil { // being opened, or offline
		return nil, group.ErrUnavailable
	}
	return offsetsLog{p}, nil
}

// Ensure implements group.Topic.
func (t offsetsTopic) Ensure(ctx context.Context) error {
	_, err := t.b.Ensure(ctx, group.TopicName)
	return err
}

// Gone implements group.Topic.
func (t offsetsTopic) Gone(name string, id [16]byte) bool {
	topic := t.b.Image().Topic(name)
	return topic == nil || id != [16]byte{} && topic.ID != catalog.TopicID(id)
}

// offsetsLog is one partition of it.
type offsetsLog struct{ *partition.Partition }

// AppendRecords implements group.Log. What is written is small and lets consumers go on: it may use the disk's reserve.
func (l offsetsLog) AppendRecords(recs []record.Record, done func(error)) {
	l.Partition.AppendRecords(recs, partition.AppendOptions{Epoch: -1, Internal: true}, func(r partition.AppendResult) {
		if errors.Is(r.Err, partition.ErrTooLarge) {
			done(fmt.Errorf("%w: %w", group.ErrTooMany, r.Err))
			return
		}
		done(r.Err)
	})
}

// ReadBatches implements group.Log.
func (l offsetsLog) ReadBatches(dst []byte, offset int64, maxBytes int) ([]byte, error) {
	span, err := l.Read(offset, maxBytes)
	if err != nil {
		return dst, err
	}
	defer span.Release()
	return span.Append(dst)
}
