package partition_test

import (
	"errors"
	"testing"

	"millrace/broker/partition"
	"millrace/broker/partition/partitiontest"
	"millrace/broker/record"
)

func produced(id int64, epoch int16, seq int32, values ...string) record.Batch {
	b := partitiontest.Batch(values...)
	b.SetProducer(id, epoch, seq, false)
	return b
}

func TestIdempotentProducer(t *testing.T) {
	for _, restart := range []string{"", "killed", "stopped"} {
		t.Run("between batches: "+restart, func(t *testing.T) {
			w := partitiontest.New(t).Start()
			p := w.Create("a")
			for i, tt := range []struct {
				name  string
				epoch int16
				seq   int32
				n     int
				base  int64
				err   error
			}{
				{name: "first of an unknown producer", seq: 7, n: 2, base: 0},
				{name: "next", seq: 9, n: 1, base: 2},
				{name: "duplicate of the last", seq: 9, n: 1, base: 2},
				{name: "gap", seq: 11, n: 1, err: partition.ErrOutOfOrderSequence},
				{name: "next again", seq: 10, n: 1, base: 3},
				{name: "new epoch not at zero", epoch: 1, seq: 11, n: 1, err: partition.ErrOutOfOrderSequence},
				{name: "new epoch", epoch: 1, seq: 0, n: 1, base: 4},
				{name: "old epoch", epoch: 0, seq: 11, n: 1, err: partition.ErrFencedProducer},
			} {
				base, err := partitiontest.AppendBatch(p, produced(5, tt.epoch, tt.seq, make([]string, tt.n)...))
				if !errors.Is(err, tt.err) || err == nil && base != tt.base {
					t.Fatalf("%d %s: offset %d, %v; want %d, %v", i, tt.name, base, err, tt.base, tt.err)
				}
				switch restart {
				case "killed":
					w.Restart()
				case "stopped":
					w.Stop()
					w.Start()
				}
				p = w.Partition("a")
			}
		})
	}
}

func TestDuplicateOfAnUnsyncedBatchSharesItsFate(t *testing.T) {
	for _, fails := range []int{0, 1} {
		w := partitiontest.New(t).Start()
		p := w.Create("a")
		w.Journal.Hold()
		w.Journal.Fail(fails)
		results := make(chan partition.AppendResult, 2)
		for range 2 {
			p.Append(produced(5, 0, 0, "x"), partition.AppendOptions{Epoch: -1}, func(r partition.AppendResult) { results <- r })
		}
		if len(results) > 0 {
			t.Fatal("answered before the sync")
		}
		w.Journal.Step()
		for range 2 {
			r := <-results
			if failed := r.Err != nil; failed != (fails > 0) || !failed && r.Base != 0 {
				t.Errorf("with %d failures: %+v", fails, r)
			}
		}
		w.Journal.Fail(0)
		w.Journal.Release()
		if base, err := partitiontest.AppendBatch(p, produced(5, 0, 0, "x")); err != nil || base != 0 {
			t.Errorf("sent again: offset %d, %v", base, err)
		}
		if p.End() != 1 {
			t.Errorf("end %d, want 1", p.End())
		}
	}
}
