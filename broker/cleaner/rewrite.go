package cleaner

import (
	"millrace/broker/record"
)

// writeBytes is how much of a compacted segment is gathered before it is written.
const writeBytes = 128 << 10

// writer makes the batches of a compacted segment. No offset is left out: consumers, recovery and fsck tell a hole from
// damage because there is none. What was removed is covered by the batch before it, where that has no producer, whose
// sequence numbers follow from its offsets; else by a batch without records. Neither covers offsets of another leader
// epoch.
type writer struct {
	add     func(batches []byte) error
	out     []byte
	pending record.Batch // the last batch, which may yet cover more
	reach   int64        // the last offset it is to cover
}

// keep passes a batch on. It is copied.
func (w *writer) keep(b record.Batch) error {
	if err := w.push(); err != nil {
		return err
	}
	w.pending, w.reach = append(w.pending[:0], b...), b.LastOffset()
	return nil
}

// drop covers the offsets of a batch that is not passed on.
func (w *writer) drop(b record.Batch) error {
	if last := b.LastOffset(); len(w.pending) > 0 && w.pending.LeaderEpoch() == b.LeaderEpoch() && w.pending.Extendable(last) {
		w.reach = last
		return nil
	}
	return w.keep(record.Filler(b.BaseOffset(), b.LastOffset(), b.LeaderEpoch(), -1))
}

// push writes the pending batch.
func (w *writer) push() error {
	if len(w.pending) == 0 {
		return nil
	}
	if w.reach > w.pending.LastOffset() {
		w.pending.Extend(w.reach)
	}
	w.out = append(w.out, w.pending...)
	w.pending = w.pending[:0]
	if len(w.out) < writeBytes {
		return nil
	}
	return w.flush()
}

func (w *writer) flush() error {
	if len(w.out) == 0 {
		return nil
	}
	err := w.add(w.out)
	w.out = w.out[:0]
	return err
}

// end writes what is left.
func (w *writer) end() error {
	if err := w.push(); err != nil {
		return err
	}
	return w.flush()
}
