package upstream

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"slices"
	"time"

	"millrace/broker/record"
)

// Source is a Kafka cluster that records come down from. Kafka is the real one; upstreamtest.Client the fake.
type Source interface {
	// Read begins to read. It leaves nothing at the peer: no group, no transaction.
	Read(ctx context.Context) (Reader, error)
}

// Reader is one connection of a down link. After an error of one of its methods, but its
// context's, it is good for nothing but Close. Fetch may
// be called concurrently for different leaders.
type Reader interface {
	// Cluster is the peer's cluster id, "" where it has none. It is known after the first Look.
	Cluster() string
	// Look lists the topics that match a pattern, with what the peer says of them.
	Look(ctx context.Context, patterns []string) ([]Origin, error)
	// Settings are those of topics that somebody has set, in Kafka's names. A topic the peer tells nothing of is left out.
	Settings(ctx context.Context, topics []string) (map[string]map[string]string, error)
	// Bounds fills in where partitions begin and end.
	Bounds(ctx context.Context, list []Bound) error
	// Fetch fills in what partitions of one leader have that is decided, from an offset on: about maxBytes in all, and a whole
	// batch at least where there is one. It waits so long for the first.
	Fetch(ctx context.Context, leader int32, list []Portion, maxBytes int, wait time.Duration) error
	// Close ends it at once.
	Close()
}

// Origin is a topic upstream that records come down from.
type Origin struct {
	Name string
	ID   [16]byte
	// Leaders and Epochs are of its partitions, by number; a leader of -1 is none, an epoch of -1 is not known.
	Leaders, Epochs []int32
	// Err is why it cannot be read.
	Err error
}

// Bound is where a partition begins and ends.
type Bound struct {
	Topic     string
	Partition int32
	Leader    int32
	// Epoch is the leader epoch up to which Same is asked for, -1 for none.
	Epoch int32
	// Since is the stamp, in ms, for which From is asked for, 0 for none.
	Since int64

	// Start is the first offset, End the one after the last, Same the end of what was written up to Epoch. From is the first
	// with a stamp of Since or later, -1 for none.
	Start, End, Same, From int64
	// Err is ErrMoved, or why the peer does not tell.
	Err error
}

// Portion is what is asked of a partition, and what came.
type Portion struct {
	Topic     string
	ID        [16]byte
	Partition int32
	Epoch     int32 // the leader's, so that another one says so; -1: any
	From      int64

	Batches []byte // of the peer's log, the last perhaps cut off; good until the next Fetch for the leader
	Aborted []Aborted
	// Stable is the offset up to which everything is decided.
	Stable int64
	// Err is ErrOutOfRange, ErrMoved, or why the peer does not give it.
	Err error
}

// Aborted is a transaction in a Portion that was taken back: the records of a producer from an offset on, up to its marker.
type Aborted struct{ Producer, First int64 }

// ErrMoved is in a Portion or a Bound whose leader, epoch or topic is not what was asked for: Look knows better.
var ErrMoved = errors.New("the partition is not where it was")

// visible yields the batches of raw that hold records which no transaction took back, and the others with their records
// hidden: a reader passes over their offsets. A last batch that is cut off is not there. An error is the last thing yielded.
func visible(raw []byte, aborted []Aborted) iter.Seq2[passage, error] {
	return func(yield func(passage, error) bool) {
		aborted = slices.SortedFunc(slices.Values(aborted), func(a, b Aborted) int { return cmp.Compare(a.First, b.First) })
		taken := map[int64]bool{} // producers whose records from here on were taken back
		for len(raw) > 0 {
			b, rest, err := record.Next(raw)
			if errors.Is(err, record.ErrShort) {
				return // the peer cuts where its limit is
			}
			if err == nil {
				err = b.Check()
			}
			if err != nil {
				yield(passage{}, err)
				return
			}
			raw = rest
			for len(aborted) > 0 && aborted[0].First <= b.LastOffset() {
				taken[aborted[0].Producer] = true
				aborted = aborted[1:]
			}
			hidden := b.Control() || b.Transactional() && taken[b.ProducerID()]
			if b.Control() && abort(b) {
				delete(taken, b.ProducerID())
			}
			if !yield(passage{b, hidden}, nil) {
				return
			}
		}
	}
}

// passage is a batch, and whether its records are not for readers.
type passage struct {
	record.Batch
	hidden bool
}
