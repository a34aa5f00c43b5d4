package partition

import "errors"

// What partitions answer. Each is wrapped with the partition's name; test with errors.Is.
var (
	// ErrOffsetOutOfRange is returned by Read, DeleteRecords and Truncate for an offset before the start or past the end.
	ErrOffsetOutOfRange = errors.New("offset out of range")
	// ErrNotLeader is returned by Append and DeleteRecords when this replica does not lead, or is cutting its tail.
	ErrNotLeader = errors.New("not the leader")
	// ErrFencedEpoch is returned when the caller names an older leader epoch than the partition's.
	ErrFencedEpoch = errors.New("leader epoch is fenced")
	// ErrUnknownEpoch is returned when the caller names a newer leader epoch than the partition's.
	ErrUnknownEpoch = errors.New("leader epoch is not known yet")
	// ErrPoisoned is returned while the disk refuses to undo a failed write.
	// The next append tries again.
	ErrPoisoned = errors.New("storage failed and is not repaired yet")
	// ErrOffline is returned for a partition whose files could not be opened. It is tried again by itself; what it holds
	// is kept meanwhile, the part that was only in the journal too.
	ErrOffline = errors.New("partition is offline: its files cannot be opened")
	// ErrNameTaken is returned by Create while a topic of the same name and another id is not deleted yet.
	ErrNameTaken = errors.New("a deleted topic of that name is still on the disk")
	// ErrDeleted is returned for a partition whose topic is deleted, and after Close.
	ErrDeleted = errors.New("partition is deleted or closed")
	// ErrDiskFull is returned by appends while free space is down to the reserve.
	ErrDiskFull = errors.New("disk is full")
	// ErrTooLarge is returned for a batch over max.message.bytes.
	ErrTooLarge = errors.New("batch is larger than max.message.bytes")
	// ErrNotEnoughReplicas is returned for an append that all replicas must have while fewer than min.insync.replicas are
	// in sync.
	ErrNotEnoughReplicas = errors.New("fewer replicas are in sync than min.insync.replicas")
	// ErrInvalidTimestamp is returned for a timestamp outside message.timestamp.before.max.ms or after.max.ms.
	ErrInvalidTimestamp = errors.New("timestamp is out of the allowed range")
	// ErrOutOfOrderSequence is returned for an idempotent batch that leaves a gap or goes back.
	ErrOutOfOrderSequence = errors.New("out of order sequence number")
	// ErrFencedProducer is returned for a batch of an older producer epoch than the partition has seen.
	ErrFencedProducer = errors.New("producer epoch is fenced")
	// ErrChanged is returned by Scan and Rewrite when the segments are not the log's any more: deleted, truncated or closed.
	ErrChanged = errors.New("the log has changed meanwhile")
	// ErrOverloaded is returned when too much waits for the next commit; nothing was written and a retry is welcome.
	ErrOverloaded = errors.New("too much is waiting for the disk")
)
