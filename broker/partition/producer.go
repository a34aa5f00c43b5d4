package partition

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"millrace/broker/record"
	"millrace/broker/segment"
)

// producerBatches is how many of a producer's last batches are remembered for duplicates (Kafka's
// ProducerStateEntry.NUM_BATCHES_TO_RETAIN); it is why a client may have five requests in flight.
const producerBatches = 5

// producedBatch is one batch of an idempotent producer.
type producedBatch struct {
	base  int64 // offset of its first record
	at    int64 // when it was appended, by the stamps of that time, ms since 1970
	first int32 // sequence number of its first record
	delta int32 // records after the first
	epoch int16
}

func (b producedBatch) next() int64 { return b.base + int64(b.delta) + 1 }

// last is the sequence number of the batch's last record. Sequences wrap after 2^31-1 to 0.
func (b producedBatch) last() int32 { return int32((int64(b.first) + int64(b.delta)) & math.MaxInt32) }

// producer is what a partition remembers of one producer id: its last batches, oldest first, never empty. More than five
// are kept only while that is needed to have a durable one to fall back to.
type producer struct {
	batches []producedBatch
	// seen is the age, ms, at which the newest came. After a restart the silence counts anew.
	seen int64
}

func (p *producer) newest() producedBatch { return p.batches[len(p.batches)-1] }

// producers is the idempotence state of one partition. Guarded by Partition.mu.
type producers struct {
	byID map[int64]*producer
	// dirty is set when the state differs from the newest snapshot.
	dirty bool
	// doubt is the offset at which batches were lost last that may have been anybody's. A producer whose newest batch lies
	// before it may have written more than is known.
	doubt int64
}

// admit says whether batch b may follow what its producer wrote before. dup is true when it was written already, and
// then first is that batch. The rules are Kafka's ProducerAppendInfo and ProducerStateManager:
//
//   - an older epoch is fenced, a newer one starts at sequence 0;
//   - one of the last five batches again is a duplicate;
//   - a producer that is not known (new, expired, evicted or lost with its records) may start anywhere (KIP-360).
//
// Ours is that one in doubt may go on anywhere as well, for it would be refused for ever otherwise.
func (s *producers) admit(b record.Batch, ageMS, expireMS int64) (first producedBatch, dup bool, err error) {
	p := s.byID[b.ProducerID()]
	if p == nil {
		return producedBatch{}, false, nil
	}
	newest := p.newest()
	if expireMS > 0 && ageMS-p.seen > expireMS {
		return producedBatch{}, false, nil
	}
	epoch, seq, unsure := b.ProducerEpoch(), b.BaseSequence(), newest.base < s.doubt
	switch {
	case epoch < newest.epoch:
		return producedBatch{}, false, fmt.Errorf("producer %d at epoch %d, now %d: %w", b.ProducerID(), epoch, newest.epoch, ErrFencedProducer)
	case epoch > newest.epoch:
		if seq != 0 && !unsure {
			return producedBatch{}, false, fmt.Errorf("producer %d starts epoch %d at sequence %d: %w", b.ProducerID(), epoch, seq, ErrOutOfOrderSequence)
		}
		return producedBatch{}, false, nil
	}
	for _, old := range p.batches[max(0, len(p.batches)-producerBatches):] {
		if old.epoch == epoch && old.first == seq && old.delta == b.LastOffsetDelta() {
			return old, true, nil
		}
	}
	if want := (newest.last() + 1) & math.MaxInt32; seq != want && !unsure {
		return producedBatch{}, false, fmt.Errorf("producer %d at sequence %d, want %d: %w", b.ProducerID(), seq, want, ErrOutOfOrderSequence)
	}
	return producedBatch{}, false, nil
}

// add remembers b, already numbered. durable is the end that a failed commit falls back to. It returns by how many
// producers the table grew.
func (s *producers) add(b record.Batch, nowMS, ageMS, durable int64) int {
	return s.remember(b.ProducerID(), producedBatch{
		base: b.BaseOffset(), at: nowMS, first: b.BaseSequence(), delta: b.LastOffsetDelta(), epoch: b.ProducerEpoch(),
	}, ageMS, durable)
}

func (s *producers) remember(id int64, b producedBatch, ageMS, durable int64) int {
	s.dirty = true
	p, grown := s.byID[id], 0
	if p == nil {
		if s.byID == nil {
			s.byID = make(map[int64]*producer)
		}
		p, grown = &producer{}, 1
		s.byID[id] = p
	}
	for len(p.batches) >= producerBatches && p.batches[1].next() <= durable {
		p.batches = append(p.batches[:0], p.batches[1:]...)
	}
	p.batches, p.seen = append(p.batches, b), ageMS
	return grown
}

// rollback forgets every batch that does not end by offset end, and returns by how many producers the table shrank.
func (s *producers) rollback(end int64) (gone int) {
	for id, p := range s.byID {
		n := len(p.batches)
		for n > 0 && p.batches[n-1].next() > end {
			n--
		}
		if n < len(p.batches) {
			s.dirty = true
		}
		if p.batches = p.batches[:n]; n == 0 {
			delete(s.byID, id)
			gone++
		}
	}
	s.doubt = min(s.doubt, end)
	return gone
}

// suspect forgets every batch from offset at on and doubts that the others are all there were, for batches at that offset
// are lost. It returns by how many producers the table shrank.
func (s *producers) suspect(at int64) int {
	gone := s.rollback(at)
	s.doubt, s.dirty = at, s.dirty || len(s.byID) > 0
	return gone
}

// expire forgets producers that have been silent for longer than expireMS, and returns how many.
func (s *producers) expire(ageMS, expireMS int64) (gone int) {
	for id, p := range s.byID {
		if ageMS-p.seen > expireMS {
			delete(s.byID, id)
			s.dirty = true
			gone++
		}
	}
	return gone
}

// forget forgets them all, and returns how many.
func (s *producers) forget() int {
	n := len(s.byID)
	s.byID, s.dirty, s.doubt = nil, s.dirty || n > 0, 0
	return n
}

// evict makes room by forgetting the producer that has been silent longest, but not id. It is the price of a bounded
// table: that producer starts anew as KIP-360 lets it.
func (s *producers) evict(id int64) bool {
	victim, oldest := int64(-1), (*producer)(nil)
	for other, p := range s.byID {
		if other != id && (oldest == nil || cmp.Or(cmp.Compare(p.seen, oldest.seen), cmp.Compare(p.newest().at, oldest.newest().at)) < 0) {
			victim, oldest = other, p
		}
	}
	if victim < 0 {
		return false
	}
	delete(s.byID, victim)
	s.dirty = true
	return true
}

// snapshot is the state as Kafka's .snapshot file has it: of each producer the last batch that ends by offset end. The
// format has no room for doubt, so one in doubt is left out.
func (s *producers) snapshot(end int64) []segment.ProducerState {
	states := make([]segment.ProducerState, 0, len(s.byID))
	for id, p := range s.byID {
		n := len(p.batches)
		for n > 0 && p.batches[n-1].next() > end {
			n--
		}
		if n == 0 || p.batches[n-1].base < s.doubt {
			continue
		}
		b := p.batches[n-1]
		states = append(states, segment.ProducerState{
			ID: id, Epoch: b.epoch, LastSequence: b.last(), LastOffset: b.next() - 1, OffsetDelta: b.delta,
			LastTime: b.at, CoordinatorEpoch: -1, TxnFirstOffset: -1,
		})
	}
	slices.SortFunc(states, func(a, b segment.ProducerState) int { return cmp.Compare(a.ID, b.ID) })
	return states
}

// restore takes over a snapshot, and returns how many producers it has.
func (s *producers) restore(states []segment.ProducerState, ageMS int64) int {
	s.byID, s.doubt = nil, 0
	n := 0
	for _, st := range states {
		if st.LastSequence < 0 || st.OffsetDelta < 0 {
			continue // a producer with nothing but a transaction marker
		}
		n += s.remember(st.ID, producedBatch{
			base: st.LastOffset - int64(st.OffsetDelta), at: st.LastTime,
			first: int32((int64(st.LastSequence) - int64(st.OffsetDelta)) & math.MaxInt32),
			delta: st.OffsetDelta, epoch: st.Epoch,
		}, ageMS, math.MaxInt64)
	}
	s.dirty = false
	return n
}

func (s *producers) check(end int64) error {
	for id, p := range s.byID {
		if len(p.batches) == 0 {
			return fmt.Errorf("producer %d has no batches", id)
		}
		for i, b := range p.batches {
			if b.next() > end {
				return fmt.Errorf("producer %d remembers a batch up to %d, past the end %d", id, b.next(), end)
			}
			if i > 0 && b.base < p.batches[i-1].next() {
				return fmt.Errorf("producer %d: batch %d overlaps the one before", id, b.base)
			}
		}
	}
	return nil
}

// LastProducerID is the highest producer id the partition remembers, -1 when it remembers none.
func (p *Partition) LastProducerID() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := int64(-1)
	for id := range p.producers.byID {
		last = max(last, id)
	}
	return last
}

// Producers are the producers the partition remembers, by id, each with its last batch below the high watermark.
func (p *Partition) Producers() []segment.ProducerState {
	high := p.High()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.producers.snapshot(high)
}

// ProducerCount is how many producers the partition remembers.
func (p *Partition) ProducerCount() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.producers.byID)
}
