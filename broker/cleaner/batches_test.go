package cleaner_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"millrace/broker/partition"
	"millrace/broker/partition/partitiontest"
	"millrace/broker/record"
)

// batches is what of a log lies before its active segment: offsets, leader epoch, records and producer of each batch.
func batches(t *testing.T, p *partition.Partition) (out []string) {
	t.Helper()
	for _, c := range p.Cleanable().Closed {
		if whole, err := p.Scan(c, func(b record.Batch) error {
			out = append(out, fmt.Sprintf("%d-%d epoch %d: %d of %d at %d", b.BaseOffset(), b.LastOffset(), b.LeaderEpoch(), b.Count(), b.ProducerID(), b.BaseSequence()))
			return nil
		}); err != nil || !whole {
			t.Fatal(whole, err)
		}
	}
	return out
}

// The last batch of a producer stays, without records; a batch with a producer is not stretched, since its sequence numbers
// go by its offsets; and no batch covers offsets of two leader epochs.
func TestWhatCoversTheOffsetsOfRemovedRecords(t *testing.T) {
	w, p := begin(t, compacted())
	produce := func(id int64, sequence int32, records ...string) {
		t.Helper()
		b := record.Batch(bytes.Clone(keyed(w.Clock, records...)))
		if id >= 0 {
			b.SetProducer(id, 0, sequence, false)
		}
		if _, err := partitiontest.AppendBatch(p, b); err != nil {
			t.Fatal(err)
		}
	}
	produce(-1, 0, "old=1")            // 0: a filler, there is nothing to stretch
	produce(7, 0, "kept=1", "old=2")   // 1-2
	produce(7, 2, "old=3")             // 3: not the producer's last
	produce(8, 0, "old=4", "old=5")    // 4-5: the last of 8
	produce(7, 3, "old=6")             // 6: the last of 7
	produce(-1, 0, "plain=1", "old=7") // 7-8: stretched
	produce(-1, 0, "old=8")            // 9
	if err := p.SetLeader(1, true); err != nil {
		t.Fatal(err)
	}
	produce(-1, 0, "old=9")  // 10: of the next epoch
	produce(-1, 0, "old=10") // 11
	produce(-1, 0, "last=1") // 12
	produce(-1, 0, "old=11") // 13
	roll(t, w, p)
	pass(t, sweeper(w, 0, 0))
	want := []string{
		"0-0 epoch 0: 0 of -1 at -1", "1-2 epoch 0: 1 of 7 at 0", "3-3 epoch 0: 0 of -1 at -1", "4-5 epoch 0: 0 of 8 at 0",
		"6-6 epoch 0: 0 of 7 at 3", "7-9 epoch 0: 1 of -1 at -1", "10-11 epoch 1: 0 of -1 at -1", "12-12 epoch 1: 1 of -1 at -1",
		"13-13 epoch 1: 1 of -1 at -1",
	}
	if got := batches(t, p); !slices.Equal(got, want) {
		t.Errorf("the log has\n%q, want\n%q", got, want)
	}
	if epoch, end := p.EpochEnd(0); epoch != 0 || end != 10 {
		t.Errorf("epoch 0 ends at %d, %d", epoch, end)
	}
}
