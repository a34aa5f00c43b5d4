package powercut

import (
	"fmt"
	"slices"

	"millrace/broker/partition"
	"millrace/broker/record"
	"millrace/broker/segment"
)

// writer is one idempotent producer of a partition. It has one batch on its way at a time, sends it twice now and then,
// and goes on after a cut where the partition says it is.
type writer struct {
	id    int64
	epoch int16
	next  int32 // sequence number of its next batch

	// The last batch it sent.
	batch record.Batch // nil for none
	first uint64       // id of its first record
	n     int
	base  int64 // where it is, -1 as long as nobody knows
	open  int   // answers that have not come
}

// begin has it go on in a new epoch: what it wrote last may be there or not, and it never learns which.
func (r *writer) begin() {
	r.epoch++
	r.next, r.batch, r.base = 0, nil, -1
}

// settle looks for its last batch in what a cut has left. gone says whether it may have been there and be not any more.
func (r *writer) settle(log []seen, gone bool) {
	sent := r.open > 0
	r.open = 0
	if !sent || r.batch == nil {
		return
	}
	for _, s := range log {
		if s.id == r.first {
			r.done(s.offset)
			return
		}
	}
	if gone {
		r.begin()
		return
	}
	r.batch = nil // nobody has it: the same sequence again
}

// done notes where its last batch is.
func (r *writer) done(base int64) {
	r.base, r.next = base, r.batch.BaseSequence()+int32(r.n)
}

// check holds what a partition remembers of the writer after a cut against what it was told. A partition may have
// forgotten it, but must not take an older batch for its last: it would refuse the next for ever.
func (r *writer) check(p *part, known []segment.ProducerState) error {
	i := slices.IndexFunc(known, func(s segment.ProducerState) bool { return s.ID == r.id })
	if i < 0 || r.next == 0 {
		return nil
	}
	s, doubted := known[i], r.batch != nil && r.base < 0
	if s.Epoch == r.epoch && (s.LastSequence == r.next-1 || doubted && s.LastSequence == r.next+int32(r.n)-1) {
		return nil
	}
	return fmt.Errorf("%s: the last batch of producer %d is epoch %d up to sequence %d, remembered is epoch %d up to %d",
		p, r.id, r.epoch, r.next-1, s.Epoch, s.LastSequence)
}

// produce has an idempotent producer send a batch, once or twice, or its last one once more.
func (w *World) produce() error {
	p, live := w.pick()
	if live == nil {
		return nil
	}
	w.mu.Lock()
	if len(p.writers) < 2 {
		w.model.nextID++
		p.writers = append(p.writers, &writer{id: int64(w.model.nextID), base: -1})
	}
	r := p.writers[w.rng.IntN(len(p.writers))]
	open, known := r.open, r.batch != nil && r.base >= p.startMax
	w.mu.Unlock()
	switch {
	case open > 0:
		return nil
	case known && w.rng.IntN(2) == 0:
		w.again(p, live, r)
		return nil
	}
	n := 1 + w.rng.IntN(3)
	first, recs := w.records(p, n, 20+w.rng.IntN(2000))
	b, err := w.batch(recs)
	if err != nil {
		return err
	}
	w.mu.Lock()
	b.SetProducer(r.id, r.epoch, r.next, false)
	r.batch, r.first, r.n, r.base = b, first, n, -1
	w.mu.Unlock()
	w.send(p, live, r)
	if w.rng.IntN(3) == 0 {
		w.again(p, live, r)
	}
	return nil
}

// again sends the writer's last batch once more: its records are on their way twice.
func (w *World) again(p *part, live *partition.Partition, r *writer) {
	w.tally.Repeats++
	w.mu.Lock()
	for i := range r.n {
		id := r.first + uint64(i)
		p.twice[id] = p.pending[id]
		p.pending[id] = true
	}
	w.mu.Unlock()
	w.send(p, live, r)
}

// send appends the writer's last batch.
func (w *World) send(p *part, live *partition.Partition, r *writer) {
	w.mu.Lock()
	r.open++
	epoch := r.epoch
	b := append(record.Batch(nil), r.batch...) // each is stamped by itself
	w.cfg.Trace("produce %s: records %d to %d, producer %d epoch %d sequence %d, at %d", p, r.first, r.first+uint64(r.n)-1, r.id, r.epoch, b.BaseSequence(), r.base)
	answer := w.answer(p, r.first, r.n)
	w.mu.Unlock()
	live.Append(b, partition.AppendOptions{Epoch: -1}, func(a partition.AppendResult) {
		w.mu.Lock()
		stopped := w.stopped()
		if a.Err == nil && r.epoch == epoch {
			if r.base >= 0 && a.Base != r.base {
				w.fail(fmt.Errorf("%s: the batch of producer %d at offset %d is answered with %d", p, r.id, r.base, a.Base))
			}
			r.done(a.Base)
		}
		if a.Err == nil || !stopped {
			r.open--
		}
		w.mu.Unlock()
		answer(a)
	})
}
