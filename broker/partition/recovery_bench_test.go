package partition_test

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"millrace/broker/partition"
	"millrace/broker/partition/partitiontest"
)

// BenchmarkRecovery starts a store after a kill with 32 MiB of small batches in the journal that no checkpoint covers,
// their bytes in the segments or, after a power cut, not.
func BenchmarkRecovery(b *testing.B) {
	for _, partitions := range []int{1, 50, 400} {
		b.Run(fmt.Sprintf("partitions=%d", partitions), func(b *testing.B) { benchmarkRecovery(b, partitions) })
	}
}

func benchmarkRecovery(b *testing.B, partitions int) {
	w := partitiontest.New(b)
	w.Real = true
	w.Start()
	parts := make([]*partition.Partition, partitions)
	for i := range parts {
		parts[i] = w.Create(fmt.Sprintf("t%d", i))
	}
	if err := w.Store.Checkpoint(); err != nil {
		b.Fatal(err)
	}
	batch := partitiontest.Batch(string(make([]byte, 128))) // 200 bytes with its headers
	const journalled = 32 << 20
	var staged sync.WaitGroup
	slots := make(chan struct{}, 4096)
	for n := range journalled / len(batch) {
		slots <- struct{}{}
		staged.Add(1)
		parts[n%partitions].Append(append(batch[:0:0], batch...), partition.AppendOptions{Epoch: -1}, func(r partition.AppendResult) {
			if r.Err != nil {
				b.Error(r.Err)
			}
			<-slots
			staged.Done()
		})
	}
	staged.Wait()
	w.Kill()
	var before, after syscall.Rusage
	var cpu time.Duration
	b.ReportAllocs()
	b.SetBytes(journalled)
	for b.Loop() {
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &before); err != nil {
			b.Fatal(err)
		}
		if err := w.TryStart(); err != nil {
			b.Fatal(err)
		}
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &after); err != nil {
			b.Fatal(err)
		}
		cpu += time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
		if n := w.Report.Entries; n != int64(journalled/len(batch)) {
			b.Fatalf("%d entries replayed", n)
		}
		b.StopTimer()
		w.Kill()
		b.StartTimer()
	}
	b.ReportMetric(cpu.Seconds()/float64(b.N), "cpu-s/op")
	w.Start()
}
