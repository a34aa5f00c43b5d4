package partition_test

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
	"millrace/broker/partition"
	"millrace/broker/partition/partitiontest"
	"millrace/broker/record"
)

func TestAppendsReadsRetentionAndCheckpointsTogether(t *testing.T) {
	for _, real := range []bool{false, true} {
		t.Run(fmt.Sprintf("real journal %v", real), func(t *testing.T) {
			w := partitiontest.New(t)
			w.Real = real
			w.Topic.SegmentBytes, w.Topic.RetentionBytes = 2000, 6000
			w.Config.JournalBytesMax = 4000
			var advanced atomic.Int64
			w.Config.OnAdvance = func(*partition.Partition) { advanced.Add(1) }
			w.Start()
			p := w.Create("a")
			var writers, others sync.WaitGroup
			stop := make(chan struct{})
			for i := range 4 {
				writers.Go(func() {
					for n := range 50 {
						if i%2 == 0 {
							if _, err := partitiontest.Append(p, fmt.Sprintf("%d.%d", i, n)); err != nil {
								t.Errorf("append: %v", err)
							}
							continue
						}
						result := make(chan error, 1)
						p.AppendRecords([]record.Record{{Value: []byte("g")}}, partition.AppendOptions{Epoch: -1},
							func(r partition.AppendResult) { result <- r.Err })
						if err := <-result; err != nil {
							t.Errorf("append records: %v", err)
						}
					}
				})
			}
			loop := func(fn func() error) {
				others.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
						}
						if err := fn(); err != nil && !errors.Is(err, partition.ErrOffsetOutOfRange) {
							t.Error(err)
							return
						}
					}
				})
			}
			loop(func() error { _, err := partitiontest.Values(p); return err })
			loop(func() error { _, err := p.Retain(w.Clock.UnixMilli()); return err })
			loop(w.Store.Checkpoint)
			loop(w.Store.Check)
			writers.Wait()
			close(stop)
			others.Wait()
			if p.High() != 200 || advanced.Load() == 0 {
				t.Errorf("high watermark %d after 200 records, moved %d times", p.High(), advanced.Load())
			}
		})
	}
}

func TestFailedSyncsLoseNothing(t *testing.T) {
	for _, tt := range []struct {
		point  disk.Point
		inline int // InlineMax
		append bool
	}{
		{"segment.log", 1, true}, // a pointed commit
		{"segment.log", 0, false},
		{"checkpoint.slot", 0, false},
		{"partition.topics", 0, false},
		{"segment.epochs", 0, false},
	} {
		t.Run(fmt.Sprintf("%s, inline %v", tt.point, tt.inline == 0), func(t *testing.T) {
			fs := disktest.New(disk.OS{})
			w := partitiontest.New(t)
			w.FS = fs
			w.Start()
			p := w.Create("a")
			w.Journal.InlineMax = tt.inline
			if !tt.append {
				partitiontest.Fill(t, p, 5)
			}
			fs.FailSync(tt.point, io.ErrShortWrite, 1)
			var failed error
			if tt.append {
				_, failed = partitiontest.Append(p, "refused")
			} else {
				failed = w.Store.Checkpoint()
			}
			if !errors.Is(failed, io.ErrShortWrite) {
				t.Fatalf("the failed sync was answered with %v", failed)
			}
			w.Journal.Hold() // what is staged before the failed commit is over shares its fate
			w.Journal.Release()
			at := p.End()
			partitiontest.Fill(t, p, 5)
			if !tt.append && w.Frames.Len() == 0 {
				t.Error("the journal's front was dropped")
			}
			if err := w.Store.Checkpoint(); err != nil {
				t.Errorf("the next checkpoint: %v", err)
			}
			w.Restart()
			if got := values(t, w.Partition("a")); !slices.Equal(got, want(0, at+5)) {
				t.Errorf("after restart: %v", got)
			}
		})
	}
}

func BenchmarkAppend(b *testing.B) {
	w := partitiontest.New(b)
	w.Start()
	p := w.Create("a")
	batch := partitiontest.Batch(string(make([]byte, 200)))
	done := make(chan partition.AppendResult, 1)
	answer := func(r partition.AppendResult) { done <- r }
	b.ReportAllocs()
	b.SetBytes(int64(len(batch)))
	for b.Loop() {
		p.Append(batch, partition.AppendOptions{Epoch: -1}, answer)
		if r := <-done; r.Err != nil {
			b.Fatal(r.Err)
		}
	}
}
