package partition

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"syscall"

	"millrace/broker/catalog"
	"millrace/broker/journal"
	"millrace/broker/record"
)

const (
	// appendMax bounds what waits for the journal, of all partitions together, in bytes. It is half the journal's own
	// limit, so that the journal never has to fail what is already in a segment.
	appendMax = journal.MaxQueue / 2
	// appendsMax bounds how many appends wait.
	appendsMax = journal.MaxGroups / 2
	// joinMax bounds how many duplicates of one partition wait for the first of their kind.
	joinMax = 256
)

// AppendOptions say who appends.
type AppendOptions struct {
	// Epoch is the leader epoch the caller believes in, -1 for any.
	Epoch int32
	// Internal appends may use the disk's reserve, and may hold control batches.
	Internal bool
	// InSync is how many replicas are in sync, where all of them must have the records before the answer (acks=all):
	// fewer than min.insync.replicas refuse them. 0: it does not matter.
	InSync int
}

// AppendResult is what became of an append.
type AppendResult struct {
	Base       int64 // offset of the first record; of a duplicate, the first append's
	AppendTime int64 // with message.timestamp.type=LogAppendTime the time given to all records, ms; else -1
	Start      int64 // first readable offset of the partition
	Err        error
}

// Append checks batches (one or more whole ones), gives them offsets, writes them to the active segment and stages them
// to the journal. They are stamped in place and borrowed until done, which is called exactly once: when they are synced,
// or with the error that kept them out. Where flush.messages is over 1 done may come earlier. done may be called before
// Append returns; after that it is called from the journal's committer and must be quick.
//
// A batch of an idempotent producer must come alone. A duplicate is answered with the offset of the first and shares
// its fate. Errors: those of record.Batch.Check and Validate, and this package's.
func (p *Partition) Append(batches []byte, o AppendOptions, done func(AppendResult)) {
	now := p.store.stampMS()
	c := newCommit(p, o, now, done)
	cfg := p.config.Load()
	if o.InSync > 0 && int64(o.InSync) < cfg.MinInSyncReplicas {
		c.refuse(fmt.Errorf("append to %s: %d in sync, want %d: %w", p, o.InSync, cfg.MinInSyncReplicas, ErrNotEnoughReplicas))
		return
	}
	if err := c.inspect(batches, cfg); err != nil {
		c.refuse(fmt.Errorf("append to %s: %w", p, err))
		return
	}
	p.mu.Lock()
	failed := p.sealLocked() // records that came before keep their place
	out, err := p.appendLocked(c)
	p.mu.Unlock()
	failed.refuse()
	if err != nil {
		c.refuse(fmt.Errorf("append to %s: %w", p, err))
	} else if out.answer != nil {
		out.answer(out.result)
	}
}

// commit is one append on its way through the journal. It is pooled: the path allocates nothing per batch.
type commit struct {
	p       *Partition
	o       AppendOptions
	now     int64 // for stamps
	age     int64 // for all else
	batches []byte
	taken   int64        // of Config.Recompressed, for batches that are not the caller's
	first   record.Batch // aliases batches
	records int64

	group  [2]journal.Entry
	piece  *piece
	pos    int64 // byte position after the batches
	next   int64 // offset after them
	early  bool  // answered before it was durable (flush.messages)
	result AppendResult
	done   func(AppendResult)
	gather *gathering // answers for it, in place of done
	fn     func(error)
	sync   func() error
	sum    func() uint32
}

var commits sync.Pool

func newCommit(p *Partition, o AppendOptions, now int64, done func(AppendResult)) *commit {
	c, ok := commits.Get().(*commit)
	if !ok {
		c = new(commit)
		c.fn, c.sync, c.sum = c.finish, c.syncPiece, c.checksum // made once: a method value is an allocation
	}
	c.p, c.o, c.now, c.age, c.done = p, o, now, p.store.nowMS(), done
	c.result = AppendResult{Base: -1, AppendTime: -1}
	return c
}

func (c *commit) free() {
	if c.taken > 0 {
		c.p.store.cfg.Recompressed.Release(c.taken)
	}
	*c = commit{fn: c.fn, sync: c.sync, sum: c.sum}
	commits.Put(c)
}

// checksum is the batches' CRC32C, from their own: inspect, or the builder, has computed those.
func (c *commit) checksum() uint32 { return record.Sum(c.batches) }

// inspect looks at everything that needs no lock. It stamps the append time, which is inside the checksum.
func (c *commit) inspect(batches []byte, cfg *catalog.TopicConfig) error {
	c.batches = batches
	check := record.ValidateOptions{Compacted: cfg.CleanupCompact, Internal: c.o.Internal, MaxRecord: cfg.MaxMessageBytes}
	if !cfg.LogAppendTime {
		check.Earliest = c.now - min(cfg.TimestampBeforeMaxMS, c.now)
		if cfg.TimestampAfterMaxMS < math.MaxInt64-c.now {
			check.Latest = c.now + cfg.TimestampAfterMaxMS
		}
	}
	n := 0
	for rest := batches; len(rest) > 0; n++ {
		b, after, err := record.Next(rest)
		if err != nil {
			return err
		}
		rest = after
		if int64(len(b)) > cfg.MaxMessageBytes {
			return fmt.Errorf("%d bytes, limit %d: %w", len(b), cfg.MaxMessageBytes, ErrTooLarge)
		}
		if err := b.Check(); err != nil {
			return err
		}
		decompressed, err := b.Measure(check)
		if err != nil {
			if errors.Is(err, record.ErrTimestamp) {
				err = fmt.Errorf("%w: %w", ErrInvalidTimestamp, err)
			}
			return err
		}
		if codec, own := compression(cfg); own && codec != b.Codec() && !b.Control() {
			if len(c.batches) != len(b) {
				return fmt.Errorf("%w: a batch to be compressed anew must come alone", record.ErrInvalid)
			}
			if b, err = c.recompress(b, codec, decompressed, cfg.MaxMessageBytes); err != nil {
				return err
			}
		}
		if cfg.LogAppendTime {
			b.StampAppendTime(c.now)
			c.result.AppendTime = c.now
		}
		if n == 0 {
			c.first = b
		} else if b.ProducerID() >= 0 || c.first.ProducerID() >= 0 {
			return fmt.Errorf("%w: a batch of an idempotent producer must come alone", record.ErrInvalid)
		}
		c.records += int64(b.Count())
	}
	if n == 0 {
		return fmt.Errorf("%w: no batch", record.ErrInvalid)
	}
	return nil
}

// compression is what a topic's batches are compressed with; own is false where that is the producer's to choose.
func compression(cfg *catalog.TopicConfig) (codec record.Codec, own bool) {
	if cfg.Compression == "producer" {
		return record.None, false
	}
	codec, err := record.ParseCodec(cfg.Compression)
	return codec, err == nil
}

// recompress puts a batch into memory of its own, compressed as the topic wants it.
func (c *commit) recompress(b record.Batch, codec record.Codec, decompressed, most int64) (record.Batch, error) {
	var dst []byte
	if codec == record.None {
		if size := record.HeaderSize + decompressed; size > most {
			return nil, fmt.Errorf("%d bytes uncompressed, as the topic wants it, limit %d: %w", size, most, ErrTooLarge)
		}
	}
	room := c.p.store.cfg.Recompressed
	c.taken = min(record.RecompressedMax(decompressed), most, room.Size())
	if err := room.Acquire(context.Background(), c.taken); err != nil {
		c.taken = 0
		return nil, err
	}
	if codec == record.None {
		dst = make([]byte, 0, record.HeaderSize+decompressed)
	}
	out, err := b.Recompress(dst, codec, most)
	if errors.Is(err, record.ErrTooLarge) {
		err = fmt.Errorf("compressed with %s, as the topic wants it: %w: %w", codec, err, ErrTooLarge)
	}
	if err != nil {
		return nil, err
	}
	c.batches = out
	return out, nil
}

// answer is what is left to do when the lock is released: nothing, or to call answer with result.
type answer struct {
	answer func(AppendResult)
	result AppendResult
}

// appendLocked numbers, writes and stages what inspect has passed. Holds mu.
func (p *Partition) appendLocked(c *commit) (answer, error) {
	if err := p.writable(c.o); err != nil {
		return answer{}, err
	}
	cfg := p.config.Load()
	if c.first.ProducerID() >= 0 && !c.first.Control() {
		was, dup, err := p.producers.admit(c.first, c.age, p.store.cfg.ProducerExpireMS)
		if err != nil {
			return answer{}, err
		}
		if dup {
			return p.join(c, was)
		}
	}
	if err := p.admit(int64(len(c.batches)), c.o.Internal, c.age); err != nil {
		return answer{}, err
	}
	if err := p.write(c, cfg); err != nil {
		p.store.pending(-int64(len(c.batches)), -1)
		return answer{}, err
	}
	// Once staged the commit belongs to the committer: what is needed of it is taken before.
	var early answer
	if p.mayAnswerEarly(c, cfg) {
		c.early = true
		early = answer{c.done, c.result}
		early.result.Start = p.Start()
	}
	p.stage(c)
	return early, nil
}

// writable says whether anything may be appended now. Holds mu.
func (p *Partition) writable(o AppendOptions) error {
	switch epoch := p.epoch.Load(); {
	case p.gone.Load():
		return ErrDeleted
	case !p.leading || p.cutting:
		return ErrNotLeader
	case o.Epoch >= 0 && o.Epoch < epoch:
		return fmt.Errorf("epoch %d, now %d: %w", o.Epoch, epoch, ErrFencedEpoch)
	case o.Epoch > epoch:
		return fmt.Errorf("epoch %d, now %d: %w", o.Epoch, epoch, ErrUnknownEpoch)
	}
	if p.broken != nil {
		if err := p.rollbackLocked(); err != nil {
			return fmt.Errorf("%w: %w", ErrPoisoned, err)
		}
	}
	return nil
}

// write rolls when it is time, stamps the batches and writes them to the active segment. On an error the partition is
// as it was before. Holds mu.
func (p *Partition) write(c *commit, cfg *catalog.TopicConfig) error {
	base := p.end.Load()
	if err := p.rollFor(int64(len(c.batches)), c.records, c.age, cfg); err != nil {
		return diskError(err)
	}
	epoch := p.epoch.Load()
	p.epochs.note(epoch, base)
	next := base
	for rest := c.batches; len(rest) > 0; {
		b, after, err := record.Next(rest)
		if err != nil {
			return err
		}
		b.Stamp(next, epoch)
		next, rest = b.NextOffset(), after
	}
	active := p.active()
	pos := active.Size() // Append tells no position when it fails
	if _, err := active.Append(c.batches); err != nil {
		p.broken = err // until the tail is cut, nothing may follow it
		if undo := p.cutLocked(active, active.Base(), base, pos); undo == nil {
			p.broken = nil
		} else {
			err = errors.Join(err, undo)
		}
		return diskError(err)
	}
	active.opened.CompareAndSwap(0, c.age)
	active.arrival.Store(c.age)
	if c.first.ProducerID() >= 0 && !c.first.Control() {
		p.remember(c)
	}
	p.end.Store(next)
	c.result.Base, c.piece, c.pos, c.next = base, active, pos+int64(len(c.batches)), next
	return nil
}

// remember adds the batch to its producer's state and keeps the table within its limit. Holds mu.
func (p *Partition) remember(c *commit) {
	p.state.Lock()
	durable := p.durable
	p.state.Unlock()
	if grown := p.producers.add(c.first, c.now, c.age, durable); grown > 0 {
		if p.store.producers.Add(1) > int64(p.store.cfg.ProducerMax) && p.producers.evict(c.first.ProducerID()) {
			p.store.producers.Add(-1)
		}
	}
}

// stage hands the written batches to the journal. Holds mu, so that staging order is offset order.
func (p *Partition) stage(c *commit) {
	p.store.journal.Stage(p.entries(c), c.fn)
}

// entries is what the journal gets of the written batches. Holds mu.
func (p *Partition) entries(c *commit) []journal.Entry {
	n := 0
	if !p.recorded {
		c.group[0] = p.createdEntry()
		p.recorded, n = true, 1
	}
	c.group[n] = journal.Entry{
		Kind: journal.Append, Topic: p.topic.ID, Partition: p.index,
		Segment: c.piece.Base(), Position: c.pos - int64(len(c.batches)), Base: c.result.Base,
		Length: int32(len(c.batches)), Bytes: c.batches, Sync: c.sync, Sum: c.sum,
	}
	return c.group[:n+1]
}

// createdEntry lets recovery make the partition's directory again: its name may not be durable yet.
func (p *Partition) createdEntry() journal.Entry {
	return journal.Entry{
		Kind: journal.TopicCreated, Topic: p.topic.ID, Partition: p.index,
		Base: int64(p.index) + 1, Bytes: []byte(p.topic.Name),
	}
}

// mayAnswerEarly says whether flush.messages lets the answer come before the sync: fewer than that many records would
// be lost. Holds mu.
func (p *Partition) mayAnswerEarly(c *commit, cfg *catalog.TopicConfig) bool {
	if cfg.FlushMessages <= 1 || c.gather != nil {
		return false
	}
	p.state.Lock()
	defer p.state.Unlock()
	return c.next-p.durable < cfg.FlushMessages
}

// diskError makes a full disk recognisable whichever call met it.
func diskError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrDiskFull, err)
	}
	return err
}
