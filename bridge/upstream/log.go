package upstream

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Log is what a link needs of the broker's topics. Methods are safe for concurrent use.
type Log interface {
	// Names lists all topics.
	Names() []string
	// Partitions are the partitions of a topic that can be used now, none where there is no such topic.
	Partitions(topic string) []Partition
	// Count is how many partitions a topic has, with those that cannot be used now; 0 where there is no such topic.
	Count(topic string) int32
	// Configs are settings of a topic, in Kafka's names, that its copy upstream is made with. Nil is none.
	Configs(topic string) map[string]string
	// OnAdvance calls fn after a partition's high watermark moved, until cancel, with its topic and the ID of that. fn is quick
	// and does not block.
	OnAdvance(fn func(topic string, id [16]byte, partition int32)) (cancel func())
}

// Partition is one partition's log.
type Partition interface {
	Topic() string
	// ID tells a topic from a later one of the same name.
	ID() [16]byte
	Index() int32
	// Start is the first readable offset, High the end of what may be read.
	Start() int64
	High() int64
	// Size is about how many bytes there are from Start to High.
	Size() int64
	// Compacted says that offsets may be missing because a later record has the same key: that is no loss.
	Compacted() bool
	// ReadBatches appends whole checked batches to dst, the first of which holds offset or is the next after it: at least
	// one batch, and none past High. At High it appends nothing. It returns ErrOutOfRange and ErrGone.
	ReadBatches(dst []byte, offset int64, maxBytes int) ([]byte, error)
}

// Witness is a Partition that knows why records below its start went. Of one that is none it is taken to be retention.
type Witness interface {
	// Gone tells of the offsets from from on that are below the start, in order.
	Gone(from int64) []Lost
}

// Lost is offsets that went for a reason, as a Gap has it.
type Lost struct {
	Range
	Cause string
}

// What a Log's errors are recognised by.
var (
	// ErrOutOfRange is returned by reads below the partition's start.
	ErrOutOfRange = errors.New("offset is no longer in the log")
	// ErrGone is returned for a partition whose topic was deleted.
	ErrGone = errors.New("partition is gone")
)

// Clock is the board's.
type Clock interface {
	// Now is the time, as well as it is known.
	Now() time.Time
	// Known says whether the time is known.
	Known() bool
	// Export is the stamp, in ms, that a record leaves the board with, and whether that is only a lower bound.
	Export(topic [16]byte, partition int32, offset, stampMS int64) (atMS int64, unsure bool)
}

// Budget bounds bytes over all links. A broker/budget Share is one.
type Budget interface {
	// Acquire waits for n bytes.
	Acquire(ctx context.Context, n int64) error
	// Overdraw takes n bytes whether they are there or not.
	Overdraw(n int64)
	// Release gives them back.
	Release(n int64)
}

const (
	// laneCost is how many times the bytes of a transaction a lane takes: what was read, copies of it, records, and what the
	// client makes of them.
	laneCost = 4
	// memoryWait is how long a connection that is to be begun waits for memory, before that counts as a failure.
	memoryWait = 30 * time.Second
	// reasonMemory is what a link says meanwhile.
	reasonMemory = "waiting for memory"
)

// errMemory is returned when there is no memory for a connection.
var errMemory = errors.New("there is no memory for it now: other links have it")

// room takes memory for so many lanes, and gives it back with release.
func (c *Config) room(ctx context.Context, b Budget, lanes int) (release func(), err error) {
	n := int64(lanes) * laneCost * int64(c.TransactionBytes)
	wait, cancel := context.WithTimeout(ctx, memoryWait)
	defer cancel()
	if err := b.Acquire(wait, n); err != nil {
		if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			err = errMemory
		}
		return nil, fmt.Errorf("memory for %d bytes: %w", n, err)
	}
	return func() { b.Release(n) }, nil
}

type unlimited struct{}

func (unlimited) Acquire(context.Context, int64) error { return nil }
func (unlimited) Overdraw(int64)                       {}
func (unlimited) Release(int64)                        {}
