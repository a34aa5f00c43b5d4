// Package partition is the heart of the broker: replicas of topic partitions, the store that holds them, the checkpoint
// that lets the journal's front go, and the recovery that brings them back after any stop. README.md beside this file
// has the layout on disk and recovery in one page.
package partition

import (
	"fmt"
	"sync"
	"sync/atomic"

	"millrace/broker/catalog"
	"millrace/broker/journal"
	"millrace/broker/segment"
)

// Journal is what partitions need to make a change durable. *journal.Journal is the real one; partitiontest.Journal is
// the fake, which can lose its unsynced tail, fail on demand and be stepped.
type Journal interface {
	// Replay passes on the frames after the checkpoint's mark, in order, before Start, as often as wanted.
	Replay(fn func(journal.Frame) error) (journal.Report, error)
	// Start ends recovery: commits may run.
	Start() error
	// Stage queues a group for the next commit; it lands whole in one frame or not at all. done is called exactly once,
	// in staging order, from the committer's goroutine. Stage does not block and does not call done itself.
	Stage(group []journal.Entry, done func(error))
	// Defer has seal called once, from the committer's goroutine, at the start of the next commit, when the done of
	// everything committed before has returned.
	Defer(seal func())
	// Mark is the last committed frame.
	Mark() journal.Mark
	// Bytes is what was committed since the last Drop.
	Bytes() (inline, pointed int64)
	// Drop lets go of frames up to and including the mark.
	Drop(journal.Mark) error
	// Close commits what is staged and ends the committer.
	Close() error
}

// Topic names a topic: the id for good, the name as long as it lives.
type Topic struct {
	ID   catalog.TopicID
	Name string
}

// piece is one segment and what the partition knows about it. The last piece is the active one.
type piece struct {
	*segment.Segment
	// arrival is when the segment last grew, an age, ms. After a restart it is what Clock.FileAge makes
	// of the log file's modification time. Retention goes by it and never by the records' own timestamps.
	arrival atomic.Int64
	// opened is when its first batch came, by the same clock, 0 while it is empty: segment.ms counts from it.
	opened atomic.Int64
	// flushed is how many of its bytes are known to be synced by a checkpoint.
	flushed atomic.Int64
}

// Partition is one replica of one topic-partition. All methods are safe for concurrent use.
//
// Lock order: mu, then state, then the journal's own. The committer's goroutine takes only state on success, so that a
// slow write never holds up a commit; after a failed commit it takes mu as well.
type Partition struct {
	store  *Store
	topic  Topic
	index  int32
	dir    string
	config atomic.Pointer[catalog.TopicConfig]

	// mu makes staging order offset order: a batch is numbered, written and staged under it.
	mu        sync.Mutex
	leading   bool
	cutting   bool  // Truncate waits for its journal entry
	broken    error // a rollback the disk refused; the next append tries again
	recorded  bool  // this incarnation's TopicCreated is durable, or staged ahead of whatever comes next
	producers producers
	gathering *gathering // records that wait for the next commit to become one batch
	gathered  int64      // bytes of it that Store.pending counts
	usual     int        // bytes of the last such batch

	gone       atomic.Bool // deleted or closed; set under mu
	recovering atomic.Bool // the list of epochs is not complete yet
	// end is the log end offset, the next to be assigned. Stored under mu after the batch is in the segment.
	end   atomic.Int64
	epoch atomic.Int32 // leader epoch stamped on batches
	// epochs says where each leader epoch starts. Stored under mu; segments load it to check what they read.
	epochs epochs

	// retaining keeps retention and Truncate, which both wait for the journal, out of each other's way. Taken before mu.
	retaining sync.Mutex
	scrub     scrub
	cleaning  cleaning // guarded by retaining

	// state guards what the committer moves. It is held for a few instructions only.
	state sync.Mutex
	// pieces are the segments, ascending and never empty; replaced, never changed, so that a reader may keep one.
	pieces []*piece
	// Invariant: start <= high <= durable <= end.
	// start is the first readable offset. Retention and DeleteRecords move it up, nothing moves it down.
	start int64
	// causes says why what was below the start went.
	causes causes
	// high is the high watermark: nothing at or above it is ever readable.
	high int64
	// durable is the end of what the journal has synced. A failed commit cuts the log back to it.
	durable int64
	// durablePiece and durablePos are where durable lies: the bytes of that segment below it are acknowledged.
	durablePiece *piece
	durablePos   int64
	// followers is the lowest durable end among the other in-sync replicas, MaxInt64 while there are none.
	followers int64
	joined    []joiner // duplicates that wait for the first append of their batch
	// places are the segments that the newest checkpoint slot and the other one name, -1 for none: recovery goes by either,
	// and nothing below both is ever looked at again but to be read. A truncation lowers them. cutTo is the lowest
	// segment one has cut since the last checkpoint began.
	places [2]int64
	cutTo  int64

	gaps atomic.Int64 // damaged stretches that reads have stepped over or recovery has found
	// damagedAt is the last damaged offset logged, so that a reader that comes again is not a log line each time.
	damagedAt atomic.Int64
	// snapshot is the offset of the newest producer snapshot, -1 for none, and savedEpochs the list that is in the file.
	// Guarded by Store.checkpointing.
	snapshot    int64
	sweptFor    int64 // the snapshot that was newest when older ones were last removed
	savedEpochs *[]segment.EpochStart
	savedCauses causes // the list that is in the file, guarded likewise
}

// Topic is the topic's name.
func (p *Partition) Topic() string { return p.topic.Name }

// TopicID is the topic's id.
func (p *Partition) TopicID() catalog.TopicID { return p.topic.ID }

// Index is the partition's number within its topic, from 0.
func (p *Partition) Index() int32 { return p.index }

// String is Kafka's spelling: topic-index.
func (p *Partition) String() string { return fmt.Sprintf("%s-%d", p.topic.Name, p.index) }

// Start is the first readable offset.
func (p *Partition) Start() int64 {
	p.state.Lock()
	defer p.state.Unlock()
	return p.start
}

// High is the high watermark: the offset after the last readable record.
func (p *Partition) High() int64 {
	p.state.Lock()
	defer p.state.Unlock()
	return p.high
}

// Durable is the offset after the last record the journal has synced.
func (p *Partition) Durable() int64 {
	p.state.Lock()
	defer p.state.Unlock()
	return p.durable
}

// End is the offset the next record gets. What lies between Durable and End is not on the disk yet.
func (p *Partition) End() int64 { return p.end.Load() }

// Epoch is the leader epoch that appended batches are stamped with.
func (p *Partition) Epoch() int32 { return p.epoch.Load() }

// Gaps counts the damaged stretches that recovery found or reads stepped over.
func (p *Partition) Gaps() int64 { return p.gaps.Load() }

// Size is the bytes in the partition's log files.
func (p *Partition) Size() int64 {
	p.state.Lock()
	pieces := p.pieces
	p.state.Unlock()
	return size(pieces)
}

func size(pieces []*piece) (n int64) {
	for _, s := range pieces {
		n += s.Size()
	}
	return n
}

// Config is the topic's settings as last set. The caller must not change it.
func (p *Partition) Config() *catalog.TopicConfig { return p.config.Load() }

// SetConfig changes the topic's settings from the next append on.
func (p *Partition) SetConfig(c catalog.TopicConfig) { p.config.Store(&c) }

// SetLeader tells whether this replica leads, and in which leader epoch. An epoch older than the partition's is
// ErrFencedEpoch. A new partition leads in epoch 0.
func (p *Partition) SetLeader(epoch int32, leads bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if epoch < p.epoch.Load() {
		return fmt.Errorf("%s: lead in epoch %d, now %d: %w", p, epoch, p.epoch.Load(), ErrFencedEpoch)
	}
	p.epoch.Store(epoch)
	p.leading = leads
	return nil
}

// SetFollowers tells the lowest durable end among the other in-sync replicas: the high watermark is the lower of it and
// our own. math.MaxInt64, which it is at first, means there are none.
func (p *Partition) SetFollowers(end int64) {
	p.state.Lock()
	p.followers = end
	moved := p.raiseHigh()
	p.state.Unlock()
	if moved {
		p.store.advanced(p)
	}
}

// raiseHigh moves the high watermark to the lowest durable end of the in-sync replicas; it never falls. Holds state.
func (p *Partition) raiseHigh() bool {
	high := min(p.durable, p.followers)
	if high <= p.high {
		return false
	}
	p.high = high
	return true
}

// active is the piece that appends go to. Holds mu or state.
func (p *Partition) active() *piece { return p.pieces[len(p.pieces)-1] }

// check says which invariant is broken, nil when none.
func (p *Partition) check() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state.Lock()
	defer p.state.Unlock()
	end := p.end.Load()
	if p.start > p.high || p.high > p.durable || p.durable > end {
		return fmt.Errorf("partition %s: want start <= high <= durable <= end, have %d, %d, %d, %d", p, p.start, p.high, p.durable, end)
	}
	if p.followers != noFollowers && p.high > p.followers {
		return fmt.Errorf("partition %s: high watermark %d is above the followers' %d", p, p.high, p.followers)
	}
	if len(p.pieces) == 0 {
		return fmt.Errorf("partition %s: no segments", p)
	}
	found := false
	for i, s := range p.pieces {
		if i > 0 && s.Base() <= p.pieces[i-1].Base() {
			return fmt.Errorf("partition %s: segment %d does not follow %d", p, s.Base(), p.pieces[i-1].Base())
		}
		found = found || s == p.durablePiece
	}
	if !found {
		return fmt.Errorf("partition %s: the durable end lies in no segment", p)
	}
	if p.durablePos > p.durablePiece.Size() || p.durable < p.durablePiece.Base() {
		return fmt.Errorf("partition %s: durable end %d at byte %d is outside segment %d of %d bytes",
			p, p.durable, p.durablePos, p.durablePiece.Base(), p.durablePiece.Size())
	}
	if first := p.pieces[0].Base(); p.start < first {
		return fmt.Errorf("partition %s: start %d is before the first segment %d", p, p.start, first)
	}
	if err := p.epochs.check(); err != nil {
		return fmt.Errorf("partition %s: %w", p, err)
	}
	return p.producers.check(end)
}
