package mqtt

import (
	"context"
	"errors"
	"math"

	"millrace/broker/record"
	"millrace/broker/segment"
)

// Log is what the door needs of the broker's topics. FromBroker makes one of the broker; mqtttest.Log is the fake.
// All methods are safe for concurrent use.
type Log interface {
	// Partitions is the number of the topic's partitions, 0 for a topic that does not exist.
	Partitions(topic string) int
	// Partition returns one partition. Two values for the same partition are equal.
	Partition(topic string, index int32) (Partition, bool)
	// Ensure creates the topic when it does not exist and may be created.
	Ensure(ctx context.Context, topic string) error
	// AppendTogether appends to several partitions, no two of them the same: all or nothing, whatever cut comes. What holds
	// for AppendRecords holds for each part; every Done is called, in the order of parts, with the same error or with none.
	AppendTogether(parts []Part)
	// Names lists all topics.
	Names() []string
	// Offline names partitions that exist and cannot be used now, because the disk failed; they come back by themselves.
	Offline() []string
	// OnAdvance calls fn after a partition's high watermark moved, until cancel. fn is quick and does not block.
	OnAdvance(fn func(Partition)) (cancel func())
}

// Part is what AppendTogether appends to one partition.
type Part struct {
	Partition Partition
	Records   []record.Record
	Done      func(base int64, err error)
}

// Partition is one partition's log. Values are comparable.
type Partition interface {
	Topic() string
	// ID tells a topic from a later one of the same name.
	ID() [16]byte
	Index() int32
	// Start is the first readable offset, High the end of what may be read.
	Start() int64
	High() int64
	// AppendRecords appends recs in order, keeping nothing of them. done is called exactly once, when they are durable or
	// refused, possibly before AppendRecords returns; it is quick and does not block. internal may use the disk's reserve.
	AppendRecords(recs []record.Record, internal bool, done func(base int64, err error))
	// ReadBatches appends whole checked batches to dst, the first of which holds offset or is the next after it: at least
	// one batch, and none past High. At High it appends nothing.
	ReadBatches(dst []byte, offset int64, maxBytes int) ([]byte, error)
	// Skip is the first offset at or after the given one that may have something wanted, at most High, as far as the log can
	// tell without being read. more says that the next call may go on from there. It never fails: what it does not know
	// has to be read.
	Skip(offset int64, w *segment.Wanted) (next int64, more bool)
}

// What a Log's errors are recognised by.
var (
	// ErrFull is returned by appends the disk or a quota has no room for now.
	ErrFull = errors.New("no room for the message now")
	// ErrTooLarge is returned by appends of a record over the topic's limit.
	ErrTooLarge = errors.New("message is larger than its topic allows")
	// ErrOutOfRange is returned by reads below the partition's start.
	ErrOutOfRange = errors.New("offset is no longer in the log")
	// ErrGone is returned for a partition whose topic was deleted.
	ErrGone = errors.New("partition is gone")
	// ErrBadTopic is returned by Ensure for a topic that cannot be made: its name, or creation is turned off.
	ErrBadTopic = errors.New("topic cannot be created")
)

// Budget bounds bytes over all clients. A broker/budget Share is one.
type Budget interface {
	// Size is the number of bytes there are.
	Size() int64
	// Acquire waits for n bytes.
	Acquire(ctx context.Context, n int64) error
	// Later calls granted, once, when n bytes are taken, in line with those that wait; perhaps at once. granted is quick and
	// asks nothing of the budget. cancel takes the place in line back; false: the bytes were granted. An error says that they
	// never will be.
	Later(n int64, granted func()) (cancel func() bool, err error)
	// TryAcquire takes n bytes if they are there.
	TryAcquire(n int64) bool
	// Overdraw takes n bytes whether they are there or not.
	Overdraw(n int64)
	// Release gives them back.
	Release(n int64)
}

type unlimited struct{}

func (unlimited) Size() int64                          { return math.MaxInt64 }
func (unlimited) Acquire(context.Context, int64) error { return nil }
func (unlimited) TryAcquire(int64) bool                { return true }
func (unlimited) Overdraw(int64)                       {}
func (unlimited) Later(_ int64, granted func()) (func() bool, error) {
	granted()
	return func() bool { return false }, nil
}
func (unlimited) Release(int64) {}
