package partition

import (
	"fmt"
	"sync"

	"millrace/broker/catalog"
	"millrace/broker/record"
)

const (
	// gatherMax is the size, before compression, at which a batch of gathered records is closed, in bytes: about what has to
	// be read for one record of it.
	gatherMax = 64 << 10
	// gatherKeep is the largest builder that is kept for the next batch. A thousand sensors that meet in a commit fill several,
	// and growing others for each commit was half of what a publish allocated. The collector takes those that rest.
	gatherKeep = gatherMax
	// recordOverhead is more than a record's lengths and deltas take, in bytes.
	recordOverhead = 40
)

// gathering is one batch in the making: records of several callers that meet in one commit.
type gathering struct {
	builder *record.Builder
	codec   record.Codec
	now     int64
	waiters []gathered
}

// gathered is one caller's part of a batch.
type gathered struct {
	first int64 // place of its first record in the batch
	done  func(AppendResult)
}

var gatherings = sync.Pool{New: func() any { return new(gathering) }}

// AppendRecords appends recs as they are, in order and in one batch, which they share with others that meet them in the
// next commit. A timestamp of 0 or less becomes the time of arrival. Nothing of recs is kept. done is called exactly
// once, as Append's is, always after the sync; flush.messages does not hurry it.
//
// Between AppendRecords and Append the order of the calls is the order of the records.
func (p *Partition) AppendRecords(recs []record.Record, o AppendOptions, done func(AppendResult)) {
	refuse := func(err error) {
		done(AppendResult{Base: -1, AppendTime: -1, Start: p.Start(), Err: fmt.Errorf("append to %s: %w", p, err)})
	}
	now := p.store.stampMS()
	size, err := p.measure(recs, o, now)
	if err != nil {
		refuse(err)
		return
	}
	p.mu.Lock()
	failed, err := p.gatherLocked(recs, size, now, o, done)
	p.mu.Unlock()
	failed.refuse()
	if err != nil {
		refuse(err)
	}
}

// measure says whether recs may be appended and how large a batch of them is at most.
func (p *Partition) measure(recs []record.Record, o AppendOptions, now int64) (size int64, err error) {
	cfg := p.config.Load()
	if o.InSync > 0 && int64(o.InSync) < cfg.MinInSyncReplicas {
		return 0, fmt.Errorf("%d in sync, want %d: %w", o.InSync, cfg.MinInSyncReplicas, ErrNotEnoughReplicas)
	}
	size = record.HeaderSize
	for i := range recs {
		r := &recs[i]
		size += recordOverhead + int64(len(r.Key)) + int64(len(r.Value))
		for _, h := range r.Headers {
			size += recordOverhead/4 + int64(len(h.Key)) + int64(len(h.Value))
		}
		switch ts := r.Timestamp; {
		case cfg.CleanupCompact && r.Key == nil:
			return 0, fmt.Errorf("%w: record %d has no key, the topic is compacted", record.ErrInvalid, i)
		case ts > 0 && !cfg.LogAppendTime && (ts < now-cfg.TimestampBeforeMaxMS || ts-now > cfg.TimestampAfterMaxMS):
			return 0, fmt.Errorf("record %d has %d: %w", i, ts, ErrInvalidTimestamp)
		}
	}
	switch {
	case len(recs) == 0:
		return 0, fmt.Errorf("%w: no records", record.ErrInvalid)
	case size > cfg.MaxMessageBytes:
		return 0, fmt.Errorf("%d bytes, limit %d: %w", size, cfg.MaxMessageBytes, ErrTooLarge)
	}
	return size, nil
}

// gatherLocked adds the records to the batch in the making, beginning another when they do not fit. It returns the one
// that failed while being closed. Holds mu.
func (p *Partition) gatherLocked(recs []record.Record, size, now int64, o AppendOptions, done func(AppendResult)) (failed *failure, err error) {
	if err := p.writable(o); err != nil {
		return nil, err
	}
	cfg := p.config.Load()
	if g := p.gathering; g != nil && int64(g.builder.Len())+size > min(gatherMax, cfg.MaxMessageBytes) {
		failed = p.sealLocked()
	}
	if err := p.admit(size, o.Internal, p.store.nowMS()); err != nil {
		return failed, err
	}
	g := p.gathering
	if g == nil {
		g = newGathering(cfg)
		// The next batch is often as large as the last: a buffer that grows leaves four times as much garbage as it holds.
		g.builder.Grow(p.usual)
		p.gathering = g
		p.store.journal.Defer(p.seal)
	}
	g.now = now
	g.waiters = append(g.waiters, gathered{int64(g.builder.Count()), done})
	p.gathered += size
	g.add(recs, now)
	return failed, nil
}

func newGathering(cfg *catalog.TopicConfig) *gathering {
	codec, _ := compression(cfg) // where the producer chooses, what the broker makes itself is left as it is
	g := gatherings.Get().(*gathering)
	if g.builder == nil || g.codec != codec {
		g.builder, g.codec = record.NewBuilder(codec), codec
	}
	return g
}

func (g *gathering) add(recs []record.Record, now int64) {
	for i := range recs {
		r := &recs[i]
		ts := r.Timestamp
		if ts <= 0 {
			ts = now
		}
		g.builder.Add(ts, r.Key, r.Value, r.Headers)
	}
}

// seal closes the batch in the making. The journal calls it at the start of a commit.
func (p *Partition) seal() {
	p.mu.Lock()
	failed := p.sealLocked()
	p.mu.Unlock()
	failed.refuse()
}

// failure is a batch that could not be staged, to be answered when the lock is released.
type failure struct {
	g   *gathering
	err error
}

func (f *failure) refuse() {
	if f != nil {
		f.g.answer(AppendResult{Base: -1, AppendTime: -1, Err: f.err})
	}
}

// sealLocked stages the batch in the making, if there is one. Its room in the queue was taken record by record.
// Holds mu.
func (p *Partition) sealLocked() *failure {
	g := p.gathering
	if g == nil {
		return nil
	}
	p.store.pending(-p.gathered, -int64(len(g.waiters)))
	p.gathering, p.gathered, p.usual = nil, 0, min(g.builder.Len(), gatherMax)
	err := p.stageGathered(g)
	if err != nil {
		return &failure{g, fmt.Errorf("append to %s: %w", p, err)}
	}
	return nil
}

func (p *Partition) stageGathered(g *gathering) error {
	// Leadership may have gone since the records came; their epoch was checked then.
	if err := p.writable(AppendOptions{Epoch: -1}); err != nil {
		return err
	}
	c, err := p.writeGathered(g)
	if err != nil {
		return err
	}
	p.stage(c)
	return nil
}

// writeGathered makes a gathering's batch and writes it to the active segment; Store.pending counts it from here on.
// Holds mu.
func (p *Partition) writeGathered(g *gathering) (*commit, error) {
	b, err := g.builder.Build()
	if err != nil {
		return nil, err
	}
	cfg := p.config.Load()
	c := newCommit(p, AppendOptions{Epoch: -1}, g.now, nil)
	c.batches, c.first, c.records, c.gather = b, b, int64(b.Count()), g
	if cfg.LogAppendTime {
		b.StampAppendTime(g.now)
		c.result.AppendTime = g.now
	}
	if err := p.write(c, cfg); err != nil {
		c.free()
		return nil, err
	}
	p.store.pending(int64(len(b)), 1)
	return c, nil
}

// answer tells every caller its own offset and gives the gathering back.
func (g *gathering) answer(r AppendResult) {
	for _, w := range g.waiters {
		own := r
		if own.Err == nil {
			own.Base += w.first
		}
		w.done(own)
	}
	clear(g.waiters)
	g.waiters = g.waiters[:0]
	if g.builder.Len() <= gatherKeep {
		g.builder.Reset()
		gatherings.Put(g)
	}
}
