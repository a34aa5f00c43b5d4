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

// Entries below the start are passed by, and their batches met again in the segment that is still there.
func TestBatchesBelowTheStartAreNotedOnce(t *testing.T) {
	for _, inline := range []int{0, 1} {
		w := partitiontest.New(t)
		w.Topic.SegmentBytes = 300
		w.Start()
		w.Journal.InlineMax = inline
		p := w.Create("a")
		partitiontest.Fill(t, p, 1)
		if err := w.Store.Checkpoint(); err != nil {
			t.Fatal(err)
		}
		for seq := range int32(4) {
			if _, err := partitiontest.AppendBatch(p, produced(42, 0, seq, "value")); err != nil {
				t.Fatal(err)
			}
		}
		done := make(chan error, 1)
		p.DeleteRecords(-1, func(_ int64, err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		w.Restart() // asks for the invariants
		if base, err := partitiontest.AppendBatch(w.Partition("a"), produced(42, 0, 3, "value")); err != nil || base != 4 {
			t.Errorf("inline below %d: the last batch again: %d, %v", inline, base, err)
		}
	}
}

func TestARecordThatDecompressesToMoreThanATopicTakesIsRefused(t *testing.T) {
	w := partitiontest.New(t).Start()
	p := w.Create("a")
	for _, codec := range []record.Codec{record.Gzip, record.Snappy, record.LZ4, record.Zstd} {
		b := record.NewBuilder(codec)
		b.Add(1, nil, make([]byte, 10<<20), nil)
		batch, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := partitiontest.AppendBatch(p, batch); !errors.Is(err, record.ErrTooLarge) {
			t.Errorf("%v: %v", codec, err)
		}
	}
	if p.End() != 0 {
		t.Errorf("end %d", p.End())
	}
}

func TestProducersAreTold(t *testing.T) {
	w := partitiontest.New(t).Start()
	p := w.Create("a")
	for seq, id := range []int64{9, 5} {
		if _, err := partitiontest.AppendBatch(p, produced(id, 3, int32(seq), "x", "y")); err != nil {
			t.Fatal(err)
		}
	}
	w.Journal.Hold()
	results := make(chan partition.AppendResult, 1)
	p.Append(produced(7, 0, 0, "not durable"), partition.AppendOptions{Epoch: -1}, func(r partition.AppendResult) { results <- r })
	got := p.Producers()
	if len(got) != 2 || got[0].ID != 5 || got[0].Epoch != 3 || got[0].LastSequence != 2 || got[0].LastOffset != 3 || got[0].TxnFirstOffset != -1 || got[1].ID != 9 {
		t.Errorf("%+v", got)
	}
	if n := p.ProducerCount(); n != 3 {
		t.Errorf("%d producers are remembered, want 3", n)
	}
	w.Journal.Release()
	if r := <-results; r.Err != nil {
		t.Fatal(r.Err)
	}
	if got := p.Producers(); len(got) != 3 || got[1].ID != 7 {
		t.Errorf("when it is durable: %+v", got)
	}
}

// An idle producer is forgotten when producer.id.expiration.ms is over, not before.
func TestIdleProducersAreForgotten(t *testing.T) {
	w := partitiontest.New(t)
	w.Config.ProducerExpireMS = 1000
	w.Start()
	p := w.Create("a")
	if _, err := partitiontest.AppendBatch(p, produced(5, 0, 0, "x")); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		after int64 // ms
		known int
	}{{1000, 1}, {1001, 0}} {
		w.Store.Tick(w.Clock.UnixMilli() + tt.after)
		if n := len(p.Producers()); n != tt.known {
			t.Errorf("%d producers are known after %d ms, want %d", n, tt.after, tt.known)
		}
	}
}

// What clients date their records to says nothing about when a producer was last heard: a crash must not make a retry a
// second record.
func TestAProducerOfOldRecordsIsKnownAfterACrash(t *testing.T) {
	w := partitiontest.New(t).Start()
	p := w.Create("a")
	old := func() record.Batch {
		b := record.NewBuilder(record.None)
		b.Add(1_000, nil, []byte("of 1970"), nil)
		batch, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		batch.SetProducer(5, 0, 0, false)
		return batch
	}
	if _, err := partitiontest.AppendBatch(p, old()); err != nil {
		t.Fatal(err)
	}
	w.Kill()
	w.Start()
	w.Store.Tick(w.Clock.UnixMilli())
	p = w.Partition("a")
	if base, err := partitiontest.AppendBatch(p, old()); err != nil || base != 0 || p.End() != 1 {
		t.Errorf("the batch again: %d, %v; end %d", base, err, p.End())
	}
}
