package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"millrace/bridge/upstream"
	"millrace/broker/catalog"
	"millrace/broker/partition"
	"millrace/broker/record"
	"millrace/platform/config"
)

// carrier is the engine of a link: upstream.Link or upstream.Down.
type carrier interface {
	Run(ctx context.Context)
	Status() upstream.Status
	Pause()
	Resume()
	Kick()
	Resolve(ctx context.Context, topic string, partition int32, d upstream.Decision) error
	Needed(topic string, id [16]byte, partition int32) (from int64, priority int, needed bool)
}

// carrier makes the engine of a link.
func (l *links) carrier(k *link) (carrier, error) {
	if k.settings.Direction == config.Down {
		c := upstream.Config{
			Name: k.settings.Name, Board: l.b.meta.ClusterID, Topics: k.settings.Topics, Naming: k.settings.Naming,
			TransactionBytes: l.b.memory.transactionBytes(l.lanes),
		}
		d, err := upstream.NewDown(c, upstream.DownEnv{
			Store: linkStore{linkLog{l.b}}, Clock: linkClock{l.b}, Source: k.line, Scheduler: k.line, Backoff: k.backoff,
			Budget: l.b.memory.upstream, Logger: l.log,
		})
		if err != nil {
			return nil, err
		}
		return d, nil
	}
	up, err := upstream.New(l.config(&k.settings), l.env(k))
	if err != nil {
		return nil, err
	}
	return up, nil
}

// comesDown says whether a configuration has a link that goes down: it could bring back what another has sent.
func comesDown(s *config.Config) bool {
	return slices.ContainsFunc(s.Upstreams, func(u config.Upstream) bool { return u.Direction == config.Down })
}

// Read implements upstream.Source. As with Open, a link that may carry nothing now does not log in for it either.
func (k *line) Read(ctx context.Context) (upstream.Reader, error) {
	if why := k.held(k.budget.Day()); why != "" {
		return nil, errors.New(why)
	}
	return k.source.Read(ctx)
}

// Read implements upstream.Source.
func (r *reach) Read(ctx context.Context) (upstream.Reader, error) {
	k, err := r.kafka()
	if err != nil {
		return nil, err
	}
	return k.Read(ctx)
}

// linkStore is the board's topics as a link that goes down writes them.
type linkStore struct{ linkLog }

// Make implements upstream.Store. Of settings it takes those that a link carries in the other direction too.
func (l linkStore) Make(ctx context.Context, topic string, partitions int32, settings map[string]string) error {
	if _, own := internalTopics[topic]; own {
		_, err := l.b.Ensure(ctx, topic)
		return err
	}
	img := l.b.Image()
	t := img.Topic(topic)
	var err error
	switch {
	case t == nil:
		own := map[string]string{}
		for name, value := range settings {
			if slices.Contains(carriedSettings, name) {
				own[name] = value
			}
		}
		var create catalog.CreateTopic
		if create, err = catalog.NewTopic(img, topic, catalog.NewTopicID(), int(partitions), 1, own); err == nil {
			_, err = l.b.Propose(ctx, create)
		}
	case len(t.Partitions) < int(partitions):
		have := len(t.Partitions)
		add := catalog.CreatePartitions{Topic: t.ID, From: int32(have)}
		if add.Add, err = catalog.Assign(img, have, int(partitions)-have, len(t.Partitions[0].Replicas)); err == nil {
			_, err = l.b.Propose(ctx, add)
		}
	default:
		_, err = l.b.Ensure(ctx, topic) // it is there, and has no place on the disk
	}
	return err
}

// Append implements upstream.Store.
func (l linkStore) Append(parts []upstream.Part) error { return AppendParts(parts) }

// AppendParts appends to partitions of PartitionOfLink, as upstream.Store says.
func AppendParts(parts []upstream.Part) error {
	all := make([]partition.Part, len(parts))
	done := make(chan error, len(parts))
	for i, part := range parts {
		p, ok := part.Partition.(linkPartition)
		if !ok {
			return fmt.Errorf("%s-%d is no partition of this board", part.Partition.Topic(), part.Partition.Index())
		}
		all[i] = partition.Part{Partition: p.Partition, Records: part.Records, Done: func(r partition.AppendResult) { done <- r.Err }}
	}
	partition.AppendTogether(all, partition.AppendOptions{Epoch: -1})
	var err error
	for range all {
		err = <-done // the same for all
	}
	for _, known := range []struct{ is, as error }{
		{partition.ErrDiskFull, upstream.ErrFull},
		{partition.ErrOverloaded, upstream.ErrFull},
		{partition.ErrTooLarge, upstream.ErrTooLarge},
		{partition.ErrInvalidTimestamp, upstream.ErrUnwanted},
		{record.ErrInvalid, upstream.ErrUnwanted},
		{partition.ErrDeleted, upstream.ErrGone},
	} {
		if errors.Is(err, known.is) {
			return fmt.Errorf("%w: %w", known.as, err)
		}
	}
	return err
}
