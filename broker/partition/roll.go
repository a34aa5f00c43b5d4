package partition

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math"

	"millrace/broker/catalog"
	"millrace/broker/disk"
	"millrace/broker/segment"
)

// pointTopics makes the names of the partitions' directories durable, new and deleted ones: pointed bytes need theirs
// before they are acknowledged, and a checkpoint before the journal forgets that they were made or deleted.
var pointTopics = disk.NewPoint("partition.topics")

// segmentConfig is what the partition's segments have in common.
func (p *Partition) segmentConfig() segment.Config {
	return segment.Config{
		IndexIntervalBytes: int(min(p.config.Load().IndexIntervalBytes, math.MaxInt32)),
		Handles:            p.store.handles,
		EpochAt:            p.epochAt,
		TopicsFailed:       p.topicsFailed,
	}
}

// topicsFailed is told of a topic index that the disk refused.
func (p *Partition) topicsFailed(err error) {
	p.store.log.Warn("a topic index cannot be written: sessions that come back read more", "partition", p.String(), "err", err)
}

// epochAt lets segments check the leader epoch of what they read, which is outside the checksum. While recovery runs
// the list is not complete and vouches for nothing.
func (p *Partition) epochAt(offset int64) (int32, bool) {
	if p.recovering.Load() {
		return -1, false
	}
	return p.epochs.at(offset)
}

// dropMax is the largest segment of a topic whose oldest segment goes when the disk is full, in bytes: no more than that
// is lost at a time.
const dropMax = 16 << 20

// rollFor begins a new segment when the active one may not take n more bytes with that many records: segment.bytes,
// segment.ms, and Kafka's 32-bit relative offsets. Holds mu.
func (p *Partition) rollFor(n, records, now int64, cfg *catalog.TopicConfig) error {
	active := p.active()
	if active.Size() == 0 {
		return nil
	}
	end := p.end.Load()
	full := active.Size()+n > segmentMax(cfg)
	far := end+records-active.Base() > math.MaxInt32
	old := active.opened.Load() > 0 && now-active.opened.Load() >= p.segmentMS(active, cfg)
	if !full && !far && !old {
		return nil
	}
	return p.roll()
}

// segmentMax is the size, in bytes, that a segment does not pass but for its first batch.
func segmentMax(cfg *catalog.TopicConfig) int64 {
	if cfg.DropOldest {
		return min(cfg.SegmentBytes, dropMax)
	}
	return cfg.SegmentBytes
}

// segmentMS is the age at which a segment is followed by a new one, ms: segment.ms, less segment.jitter.ms times a share
// that differs from segment to segment, so that partitions made together do not roll together. Kafka draws it anew with
// each start; here a segment keeps its own. What is to be compacted by a time must be in a closed segment by then, as in
// Kafka.
func (p *Partition) segmentMS(s *piece, cfg *catalog.TopicConfig) int64 {
	age := cfg.SegmentMS
	if cfg.CleanupCompact {
		age = min(age, cfg.MaxCompactionLagMS)
	}
	jitter := min(cfg.SegmentJitterMS, age)
	switch {
	case age <= 0:
		return math.MaxInt64
	case jitter <= 0:
		return age
	}
	h := fnv.New64a()
	_, _ = h.Write(p.topic.ID[:]) // a hash takes everything
	_, _ = h.Write(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(nil, uint32(p.index)), uint64(s.Base())))
	return age - int64(h.Sum64()%uint64(jitter))
}

// roll begins a new active segment at the log's end. Its name becomes durable with its first sync; until then the
// journal can make it again. Holds mu.
func (p *Partition) roll() error {
	active := p.active()
	if err := active.Seal(); err != nil {
		return err
	}
	end := p.end.Load()
	next, err := segment.Create(p.store.cfg.FS, p.dir, end, p.segmentConfig())
	if err != nil {
		return err
	}
	p.state.Lock()
	defer p.state.Unlock()
	created := &piece{Segment: next}
	p.pieces = append(p.pieces[:len(p.pieces):len(p.pieces)], created)
	if p.durable == end {
		// An empty active segment is where the next durable byte lies.
		p.durablePiece, p.durablePos = created, 0
	}
	return nil
}

// syncPiece syncs one segment. What an earlier failed sync has left in doubt (clean in memory, perhaps absent on the disk)
// is checked and written again first. Where memory does not hold it any more the error stays: it keeps the journal's
// front, and recovery writes the segment from there.
func (p *Partition) syncPiece(s *piece) error {
	err := s.Sync()
	if !errors.Is(err, segment.ErrUnsynced) {
		return err
	}
	if err := s.Rewrite(); err != nil {
		return fmt.Errorf("write again what failed to sync: %w", err)
	}
	p.store.log.Warn("a segment that failed to sync was written again", "partition", p.String(), "segment", s.Base())
	return s.Sync()
}

// syncTopics makes the names of the partitions' directories durable where they are not yet.
func (s *Store) syncTopics() error {
	s.names.Lock()
	defer s.names.Unlock()
	if s.newTopics.Swap(false) {
		if err := s.cfg.FS.SyncDir(s.topics, pointTopics); err != nil {
			s.newTopics.Store(true)
			return err
		}
	}
	return nil
}

// closePieces closes every segment's files.
func closePieces(pieces []*piece) error {
	var errs []error
	for _, s := range pieces {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}
