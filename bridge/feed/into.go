package feed

import (
	"context"

	"millrace/broker/partition"
	"millrace/broker/record"
)

// Topics is the broker as Into needs it.
type Topics interface {
	// Ensure returns the partitions of a topic, which is created when it is missing and the broker may. A nil one
	// could not be made for lack of room.
	Ensure(ctx context.Context, topic string) ([]*partition.Partition, error)
}

// Into appends to the broker's own partitions.
func Into(t Topics) Append {
	return func(ctx context.Context, topic string, r record.Record, done func(error)) {
		partitions, err := t.Ensure(ctx, topic)
		if err != nil {
			done(err)
			return
		}
		p := partitions[record.PartitionForKey(r.Key, len(partitions))]
		if p == nil {
			done(partition.ErrDiskFull)
			return
		}
		p.AppendRecords([]record.Record{r}, partition.AppendOptions{Epoch: -1}, func(a partition.AppendResult) { done(a.Err) })
	}
}
