package partition_test

import (
	"errors"
	"testing"

	"millrace/broker/partition"
	"millrace/broker/partition/partitiontest"
	"millrace/broker/record"
)

// Records that all replicas must have are refused while too few are in sync, whichever way they come.
func TestTooFewInSync(t *testing.T) {
	w := partitiontest.New(t)
	w.Topic.MinInSyncReplicas = 2
	p := w.Start().Create("a")
	for inSync, want := range map[int]error{0: nil, 1: partition.ErrNotEnoughReplicas, 2: nil} {
		o := partition.AppendOptions{Epoch: -1, InSync: inSync}
		done := make(chan partition.AppendResult, 2)
		p.Append(partitiontest.Batch("x"), o, func(r partition.AppendResult) { done <- r })
		p.AppendRecords([]record.Record{{Value: []byte("x")}}, o, func(r partition.AppendResult) { done <- r })
		for range 2 {
			if r := <-done; !errors.Is(r.Err, want) || (want == nil) != (r.Err == nil) {
				t.Errorf("%d in sync: %v, want %v", inSync, r.Err, want)
			}
		}
	}
}
