package upstream

import (
	"context"
	"errors"

	"millrace/broker/record"
)

// Settler is what a Session can do about transactions whose end did not come to every partition: see settle.go.
type Settler interface {
	// Identity is who the session writes as. What another transaction of that producer has open anywhere, with an earlier epoch,
	// nobody at the peer will end.
	Identity(ctx context.Context) (Identity, error)
	// Shaken says whether a connection to the peer has ended since the session began, or since the last time it said so. Only one
	// that has ended can have hidden that a partition was without a leader: then ends of transactions may be lost. A Send fails
	// that would need a new one in the place of one that has ended.
	Shaken() bool
	// Counts are how many partitions topics have, none for those that are not there.
	Counts(ctx context.Context, topics []string) (map[string]int32, error)
	// Ends fills in Stable and End, or Err.
	Ends(ctx context.Context, list []Spot) error
	// Standing fills in Standings, of some producers, or Err.
	Standing(ctx context.Context, list []Spot, producers []int64) error
	// Scan calls fn with the batches of a partition, decided or not, from an offset on, or where it is negative from the first record
	// with a stamp or a later one, until fn has enough, or up to the end as of the call. whole is false when it was given up after about
	// most bytes, and where the partition may have let go of what was as late. A batch is good until fn returns.
	Scan(ctx context.Context, topic string, partition int32, from, stamp int64, most int, fn func(record.Batch) (enough bool, err error)) (whole bool, err error)
	// Mark ends what a producer has open in partitions. It returns ErrDenied where the peer does not let us.
	Mark(ctx context.Context, list []Spot, m Marker) error
}

// ErrDenied is returned by Settler for what the peer does not let the link do.
var ErrDenied = errors.New("the peer does not allow it")

// Identity is who a session writes as.
type Identity struct {
	Producer int64
	Epoch    int16
	// Single says that each transaction has an epoch of its own, and its marker the next one (transaction.version 2).
	Single bool
}

// Spot is a partition upstream.
type Spot struct {
	Topic     string
	Partition int32
	// Stable is the offset up to which everything is decided, End where it ends.
	Stable, End int64
	Standings   []Standing
	// Err is why the peer does not tell.
	Err error
}

// Standing is what a partition knows of a producer.
type Standing struct {
	Producer int64
	// Epoch is that of the last batch or marker.
	Epoch int16
	// Coordinator is the epoch of the coordinator that wrote the last marker, -1 where there was none.
	Coordinator int32
	// Open is where its open transaction begins, -1 for none.
	Open int64
	// Stamp is that of the last batch or marker, in ms.
	Stamp int64
}

// Marker ends a transaction in a partition.
type Marker struct {
	Producer int64
	// Epoch is that of the records: lower than the session's, so that a marker that comes late is refused where the session has written.
	Epoch  int16
	Commit bool
}

// of is what the partition knows of a producer.
func (s *Spot) of(producer int64) (Standing, bool) {
	for _, st := range s.Standings {
		if st.Producer == producer {
			return st, true
		}
	}
	return Standing{Epoch: -1, Coordinator: -1, Open: -1}, false
}
