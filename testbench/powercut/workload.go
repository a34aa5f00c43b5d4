package powercut

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"syscall"
	"time"

	"millrace/broker/catalog"
	"millrace/broker/cleaner"
	"millrace/broker/disk"
	"millrace/broker/journal"
	"millrace/broker/partition"
	"millrace/broker/record"
)

// step does one thing to the store. It returns an error only for a broken promise.
func (w *World) step() error {
	w.mu.Lock()
	w.now = w.now.Add(time.Second)
	w.mu.Unlock()
	n := w.rng.IntN(107)
	switch {
	case len(w.model.order) == 0 || n < 3 && len(w.model.order) < 4:
		return w.create()
	case n < 32:
		return w.append(1+w.rng.IntN(4), 20+w.rng.IntN(300))
	case n < 40:
		return w.produce()
	case n < 52: // pointed
		return w.append(1+w.rng.IntN(6), 2000+w.rng.IntN(4000))
	case n < 68:
		return w.appendRecords()
	case n < 78:
		return w.serve()
	case n < 84:
		w.settle()
		return nil
	case n < 87:
		return w.deleteRecords()
	case n < 90:
		return w.retain()
	case n < 92:
		return w.truncate()
	case n < 93 && len(w.model.order) > 1:
		return w.delete(w.model.order[w.rng.IntN(len(w.model.order))])
	case n < 97:
		return w.checkpoint()
	case n < 100:
		return w.compact()
	case n < 106:
		return w.appendTogether()
	}
	w.fault()
	return nil
}

// pick is any partition of a topic that is not going away.
func (w *World) pick() (*part, *partition.Partition) {
	t := w.model.order[w.rng.IntN(len(w.model.order))]
	p := t.parts[w.rng.IntN(len(t.parts))]
	return p, w.store.Get(t.id, p.index)
}

// surprise is err unless the cut or a fault of this session explains it.
func (w *World) surprise(what string, err error) error {
	if err == nil || w.faulted || w.stopped() {
		return nil
	}
	return fmt.Errorf("%s refused for no reason: %w", what, err)
}

// settle waits until everything appended so far is answered.
func (w *World) settle() {
	w.cfg.Trace("settle")
	w.answered.Wait()
}

func (w *World) create() error {
	n := uint64(w.tally.Creates)
	w.tally.Creates++
	t := &topic{id: topicID(w.cfg.Seed, n), name: fmt.Sprintf("topic%d", w.rng.IntN(4)), config: catalog.DefaultTopicConfig()}
	for _, other := range w.model.order {
		if other.name == t.name {
			t.name = fmt.Sprintf("topic-%d", n)
		}
	}
	t.config.SegmentBytes = logSegment
	t.config.RetentionBytes = retainBytes
	t.config.IndexIntervalBytes = 512
	if n%2 == 1 {
		t.config.CleanupDelete, t.config.CleanupCompact, t.config.MinCleanableRatio = false, true, 0.2
	}
	w.cfg.Trace("create %s", t.name)
	for i := range int32(1 + w.rng.IntN(2)) {
		t.parts = append(t.parts, t.part(i))
	}
	w.model.add(t) // the catalog is durable before the store hears of it
	for _, p := range t.parts {
		if _, err := w.store.Create(partition.Topic{ID: t.id, Name: t.name}, p.index, t.config); err != nil {
			t.deleting = true // as far as it came it goes again
			return w.surprise("create", err)
		}
	}
	return nil
}

func (w *World) delete(t *topic) error {
	w.settle()
	w.cfg.Trace("delete %s", t.name)
	w.mu.Lock()
	t.deleting = true
	w.mu.Unlock()
	if err := w.store.DeleteTopic(t.id); err != nil {
		return w.surprise("delete", err)
	}
	w.model.remove(t)
	w.tally.Deletes++
	return nil
}

// records makes n records nobody made before, and notes that they are on their way.
func (w *World) records(p *part, n, size int) (first uint64, recs []record.Record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	first = w.model.nextID
	w.model.nextID += uint64(n)
	for i := range n {
		id := first + uint64(i)
		p.pending[id] = true
		recs = append(recs, record.Record{Timestamp: w.now.UnixMilli(), Key: []byte(p.key(id)), Value: value(id, size)})
	}
	return first, recs
}

// answer is the done of an append of n records.
func (w *World) answer(p *part, first uint64, n int) func(partition.AppendResult) {
	w.answered.Add(1)
	faulted := w.faulted
	return func(r partition.AppendResult) {
		defer w.answered.Done()
		stopped := w.stopped()
		w.mu.Lock()
		defer w.mu.Unlock()
		w.cfg.Trace("answer %s: records %d to %d at %d: %v", p, first, first+uint64(n)-1, r.Base, r.Err)
		for i := range n {
			id := first + uint64(i)
			switch {
			case r.Err == nil:
				w.tally.Acked++
				if err := p.promise(r.Base+int64(i), id); err != nil {
					w.fail(err)
				}
			case !stopped: // when the power is cut nobody hears the answer
				w.tally.Refused++
				if !errors.Is(r.Err, journal.ErrUnavailable) { // else in doubt until the next one is acknowledged
					if !p.twice[id] {
						delete(p.pending, id)
					}
					delete(p.twice, id)
				}
			}
		}
		if r.Err == nil {
			for id := range p.pending {
				if id < first {
					delete(p.pending, id)
				}
			}
		}
		if r.Err != nil && !stopped && !faulted && !w.faulted {
			w.fail(fmt.Errorf("append to %s refused for no reason: %w", p, r.Err))
		}
	}
}

func (w *World) append(n, size int) error {
	p, live := w.pick()
	if live == nil {
		return nil
	}
	first, recs := w.records(p, n, size)
	b, err := w.batch(recs)
	if err != nil {
		return err
	}
	w.cfg.Trace("append %s: records %d to %d, %d bytes", p, first, first+uint64(n)-1, len(b))
	live.Append(b, partition.AppendOptions{Epoch: -1}, w.answer(p, first, n))
	return nil
}

// batch is one batch of recs.
func (w *World) batch(recs []record.Record) (record.Batch, error) {
	w.builder.Reset()
	for _, r := range recs {
		w.builder.Add(r.Timestamp, r.Key, r.Value, nil)
	}
	b, err := w.builder.Build()
	if len(b) >= inlineMax {
		w.tally.Pointed++
	}
	// The builder's memory is used again; the batch is borrowed until it is answered.
	return bytes.Clone(b), err
}

func (w *World) appendRecords() error {
	p, live := w.pick()
	if live == nil {
		return nil
	}
	n := 1 + w.rng.IntN(3)
	first, recs := w.records(p, n, 20+w.rng.IntN(200))
	w.cfg.Trace("append records %s: %d to %d", p, first, first+uint64(n)-1)
	live.AppendRecords(recs, partition.AppendOptions{Epoch: -1}, w.answer(p, first, n))
	return nil
}

// appendTogether appends to two partitions at once; one part in three goes as a pointer.
func (w *World) appendTogether() error {
	a, liveA := w.pick()
	b, liveB := w.pick()
	if liveA == nil || liveB == nil || a == b {
		return nil
	}
	size := 20 + w.rng.IntN(200)
	if w.rng.IntN(3) == 0 {
		size = 2000 + w.rng.IntN(4000)
	}
	firstA, recsA := w.records(a, 1, size)
	firstB, recsB := w.records(b, 1, 20+w.rng.IntN(200))
	w.ties = append(w.ties, tie{a, b, firstA, firstB})
	w.cfg.Trace("append together %s: %d, %s: %d", a, firstA, b, firstB)
	partition.AppendTogether([]partition.Part{
		{Partition: liveA, Records: recsA, Done: w.answer(a, firstA, 1)},
		{Partition: liveB, Records: recsB, Done: w.answer(b, firstB, 1)},
	}, partition.AppendOptions{Epoch: -1})
	return nil
}

// tie is two records that were appended together: no cut leaves one of them alone.
type tie struct {
	a, b   *part
	ra, rb uint64
}

// open are the ties of which neither record was answered: those a cut may have met.
func (w *World) open() (ties []tie) {
	for _, t := range w.ties {
		if t.a.pending[t.ra] && t.b.pending[t.rb] {
			ties = append(ties, t)
		}
	}
	return ties
}

// checkTies holds what was found after a cut against them.
func (w *World) checkTies(ties []tie, found map[*part][]seen) error {
	has := func(p *part, id uint64) bool {
		return slices.ContainsFunc(found[p], func(s seen) bool { return s.id == id })
	}
	for _, t := range ties {
		_, okA := found[t.a]
		_, okB := found[t.b]
		if !okA || !okB { // the topic is gone
			continue
		}
		a, b := has(t.a, t.ra), has(t.b, t.rb)
		if a != b {
			return fmt.Errorf("record %d of %s is there: %v; record %d of %s, appended together with it: %v", t.ra, t.a, a, t.rb, t.b, b)
		}
		if w.tally.Ties++; a {
			w.tally.TiesKept++
		}
	}
	return nil
}

// serve reads below the high watermark, beside the commits: what a reader has seen is promised.
func (w *World) serve() error {
	p, live := w.pick()
	if live == nil {
		return nil
	}
	start, high := live.Start(), live.High()
	from := start
	if high > start {
		from += w.rng.Int64N(high - start)
	}
	log, err := w.read(p, from, high)
	if err != nil {
		if errors.Is(err, partition.ErrOffsetOutOfRange) && live.Start() > from {
			return nil // records were deleted meanwhile
		}
		return w.surprise("read", err)
	}
	w.cfg.Trace("serve %s: %d to %d", p, from, high)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range log {
		if have, ok := p.log[s.offset]; ok && have != s.id || !ok && !p.pending[s.id] {
			return fmt.Errorf("%s: record %d was served at offset %d, promised is %d", p, s.id, s.offset, have)
		}
		if err := p.promise(s.offset, s.id); err != nil {
			return err
		}
		w.tally.Served++
	}
	return nil
}

func (w *World) deleteRecords() error {
	p, live := w.pick()
	if live == nil {
		return nil
	}
	start, high := live.Start(), live.High()
	before := start + w.rng.Int64N(high-start+1)
	w.cfg.Trace("delete records of %s before %d", p, before)
	w.mu.Lock()
	p.startMax = max(p.startMax, before)
	w.mu.Unlock()
	w.answered.Add(1)
	live.DeleteRecords(before, func(low int64, err error) {
		defer w.answered.Done()
		w.mu.Lock()
		defer w.mu.Unlock()
		if err == nil {
			p.start = max(p.start, low)
			w.tally.Starts++
		}
	})
	return nil
}

func (w *World) retain() error {
	p, live := w.pick()
	if live == nil {
		return nil
	}
	full := !live.Config().CleanupCompact && w.rng.IntN(6) == 0
	w.cfg.Trace("retain %s, full disk %v", p, full)
	w.mu.Lock()
	p.startMax = max(p.startMax, live.High())
	if full {
		p.startMax = max(p.startMax, live.End()) // it waits for what is on its way
	}
	now := w.now.UnixMilli()
	w.mu.Unlock()
	retain := func() (partition.Retained, error) { return live.Retain(now) }
	if full {
		retain = func() (partition.Retained, error) { return live.DropOldest(0) }
	}
	kept, err := retain()
	if err != nil {
		return w.surprise("retention", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	p.start = max(p.start, kept.To)
	w.tally.Rolls += kept.Segments
	return nil
}

// compact compacts every topic that wants it.
func (w *World) compact() error {
	w.cfg.Trace("compact")
	began := w.clock()
	c := cleaner.New(cleaner.Config{
		Partitions: func() iter.Seq[cleaner.Partition] {
			return func(yield func(cleaner.Partition) bool) {
				for p := range w.store.All() {
					if p.Config().CleanupCompact && !yield(p) { // retention is another step's
						return
					}
				}
			}
		},
		Now: w.clock, Elapsed: func() time.Duration { return w.clock().Sub(began) },
		Checkpoint: func() error { return w.store.Checkpoint() }, Save: func() error { return w.store.SaveCleaned() },
		Memory: 1 << 10, // several parts
	})
	err := c.Pass(context.Background())
	w.tally.Compactions += int(c.Compacted())
	w.tally.Compacted += c.Saved()
	return w.surprise("compact", err)
}

func (w *World) truncate() error {
	p, live := w.pick()
	if live == nil || p.topic.config.CleanupCompact { // what a compaction has taken, a cut would bring back
		return nil
	}
	w.settle() // what is on its way has no known place
	start, high := live.Start(), live.High()
	if high == start {
		return nil
	}
	// A batch goes whole, also where the start lies inside it.
	at := start + w.rng.Int64N(high-start)
	span, err := live.Read(at, 1)
	if err != nil {
		return w.surprise("read", err)
	}
	raw, err := span.Append(nil)
	span.Release()
	if err != nil {
		return w.surprise("read", err)
	}
	b, _, err := record.Next(raw)
	if err != nil {
		return w.surprise("read", err)
	}
	w.cfg.Trace("truncate %s to %d in the batch at %d", p, at, b.BaseOffset())
	w.mu.Lock()
	p.cutTo = min(p.cutTo, b.BaseOffset())
	for _, r := range p.writers {
		r.begin() // what it wrote may be gone
	}
	w.mu.Unlock()
	end, err := live.Truncate(at)
	if err != nil {
		return w.surprise("truncate", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	p.truncated(end)
	w.tally.Truncations++
	return nil
}

func (w *World) checkpoint() error {
	w.cfg.Trace("checkpoint")
	w.tally.Checkpoints++
	return w.surprise("checkpoint", w.store.Checkpoint())
}

// fault makes a disk fail once or twice at one of the syncs that were asked for, or in a write to a log.
func (w *World) fault() {
	w.tally.Faults++
	w.faulted = true
	if w.rng.IntN(3) == 0 {
		w.cfg.Trace("fault: no space")
		w.fs.FailWrite(func(name string) bool { return strings.HasSuffix(name, ".log") }, syscall.ENOSPC, 1)
		return
	}
	var points []disk.Point
	synced := w.fs.Synced()
	for _, p := range disk.Points() {
		if synced[p] > 0 {
			points = append(points, p)
		}
	}
	if len(points) == 0 {
		return
	}
	point := points[w.rng.IntN(len(points))]
	w.cfg.Trace("fault: %s", point)
	w.fs.FailSync(point, syscall.EIO, 1+w.rng.IntN(2))
}
