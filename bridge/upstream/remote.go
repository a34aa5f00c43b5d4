package upstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"millrace/broker/record"
)

// Remote is the way to a Kafka cluster. Kafka is the real one; upstreamtest.Kafka the fake.
type Remote interface {
	// Open begins a session. With a transactional id, whoever else used it is fenced when Open returns, and its open
	// transaction is over and decided; without one the session's producer is idempotent only. It returns
	// ErrNoTransactions where the peer has none.
	Open(ctx context.Context, transactionalID string) (Session, error)
}

// Patient is a Remote whose transactions can be given longer: what has to go over a thin link may not fit in the time.
type Patient interface {
	// Patience is how long the peer waits for the end of a transaction, of sessions opened from now on. Open returns
	// ErrImpatient where the peer does not wait so long.
	Patience(d time.Duration)
}

// Session is one life of one producer. After an error of Send or Cursors it is good for nothing but Close. It is used by
// one goroutine at a time.
type Session interface {
	// Cluster is the peer's cluster id, "" where it has none. It is known after Ensure.
	Cluster() string
	// Ensure creates topics that are missing, adds partitions where there are too few, and fills in what there is.
	Ensure(ctx context.Context, topics []Topic) error
	// Follow sets settings of topics that are as they were left to what they are to be now, and fills in what they are. An
	// error is about the session; what the peer refuses is in the list.
	Follow(ctx context.Context, list []Setting) error
	// Cursors calls fn with every record of a partition from an offset on, in order, that is committed, up to the end the
	// partition has at the call. It waits for transactions that are open there, and gives up when that gets nowhere for minutes.
	// next is where to go on: the end, or with an error how far it came; records from there on may have been told, too.
	// Key and value are good until fn returns.
	Cursors(ctx context.Context, topic string, partition int32, from int64, fn func(key, value []byte) error) (next int64, err error)
	// Send writes records in one transaction, if the session has them, and commits it: in order within each partition.
	// Nil says that all are there for good. ErrFenced and *RefusedError say that none is; with any other error nobody knows.
	// It fills in the offsets, where it learns them. recs and what they point to are the session's until Send returns; after an error nothing of it may be written to again.
	Send(ctx context.Context, recs []Record) error
	Follower
	Settler
	// Close ends the session at once.
	Close()
}

// Record is one record on its way up.
type Record struct {
	Topic      string
	Partition  int32
	Timestamp  int64 // ms
	Key, Value []byte
	Headers    []record.Header
	// Offset is where it is upstream, -1 while that is not known.
	Offset int64
}

// Topic is a topic upstream.
type Topic struct {
	Name string
	// Partitions is how many it should have at least, Configs what it is created with, and Optional the same for settings
	// that the peer may not know.
	Partitions        int32
	Configs, Optional map[string]string

	// ID is what it has, zero where the peer knows no ids; Have is how many partitions.
	ID   [16]byte
	Have int32
	// Made says that Ensure has made it just now.
	Made bool
	// Compacted says that its cleanup.policy is compact; it is looked at where Configs has it.
	Compacted bool
	// Err is why the topic cannot be used.
	Err error
}

var (
	// ErrFenced is returned when another process took the transactional id over.
	ErrFenced = errors.New("another process has taken over the transactional id")
	// ErrNoTransactions is returned by Open for a peer that cannot do them.
	ErrNoTransactions = errors.New("the peer has no transactions")
	// ErrImpatient is returned by Open for a peer that allows no transactions as long as Patience says.
	ErrImpatient = errors.New("the peer allows no transactions that take so long")
	// ErrTooLarge is in a RefusedError about a batch that is larger than the peer takes.
	ErrTooLarge = errors.New("larger than the peer takes")
)

// RefusedError is what the peer says of records it will not have. None of the transaction is visible.
type RefusedError struct {
	Topic     string
	Partition int32
	// Whole says that it is the topic that is refused: every partition of it would be.
	Whole bool
	Err   error
}

func (e *RefusedError) Error() string {
	if e.Whole {
		return fmt.Sprintf("refused by the peer: %s: %v", e.Topic, e.Err)
	}
	return fmt.Sprintf("refused by the peer: %s-%d: %v", e.Topic, e.Partition, e.Err)
}

// Unwrap is the peer's reason.
func (e *RefusedError) Unwrap() error { return e.Err }
