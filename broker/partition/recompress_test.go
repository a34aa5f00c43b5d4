package partition_test

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/broker/budget"
	"millrace/broker/partition"
	"millrace/broker/partition/partitiontest"
	"millrace/broker/record"
	"millrace/broker/segment"
)

// packed is a batch of n records that compress well, of an idempotent producer.
func packed(t *testing.T, codec record.Codec, seq int32, n int) record.Batch {
	t.Helper()
	b := record.NewBuilder(codec)
	for i := range n {
		b.Add(1_790_000_000_000+int64(i), fmt.Appendf(nil, "key %d", i), bytes.Repeat([]byte("value "), 50), []record.Header{{Key: "h", Value: []byte("v")}})
	}
	batch, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	batch = bytes.Clone(batch)
	batch.SetProducer(7, 0, seq, false)
	return batch
}

// stored are the batches of a partition.
func stored(t *testing.T, p *partition.Partition) (list []record.Batch) {
	t.Helper()
	span, err := p.Read(p.Start(), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := span.Append(nil)
	span.Release()
	for rest := raw; err == nil && len(rest) > 0; {
		var b record.Batch
		if b, rest, err = record.Next(rest); err == nil {
			list = append(list, b)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestATopicsCompressionHolds(t *testing.T) {
	codecs := []record.Codec{record.None, record.Gzip, record.Snappy, record.LZ4, record.Zstd}
	for _, name := range []string{"producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"} {
		t.Run(name, func(t *testing.T) {
			room, err := budget.New(1<<20).Share("recompressed", 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			w := partitiontest.New(t)
			w.Topic.Compression, w.Config.Recompressed = name, room
			w.Start()
			p := w.Create("a")
			var sent []record.Batch
			for i, codec := range codecs {
				b := packed(t, codec, int32(10*i), 10)
				sent = append(sent, bytes.Clone(b))
				if base, err := partitiontest.AppendBatch(p, b); err != nil || base != int64(10*i) {
					t.Fatalf("%v: offset %d, %v", codec, base, err)
				}
				// The same again is a duplicate, compressed anew or not.
				if base, err := partitiontest.AppendBatch(p, bytes.Clone(sent[i])); err != nil || base != int64(10*i) {
					t.Fatalf("%v again: offset %d, %v", codec, base, err)
				}
			}
			if _, err := partitiontest.AppendBatch(p, packed(t, record.Zstd, 77, 1)); !errors.Is(err, partition.ErrOutOfOrderSequence) {
				t.Errorf("a gap in the sequence: %v", err)
			}
			if p.End() != 50 || room.Used() != 0 {
				t.Errorf("end %d, %d bytes still taken", p.End(), room.Used())
			}
			w.Restart()
			p = w.Partition("a")
			for i, b := range stored(t, p) {
				want := codecs[i]
				if name != "producer" {
					if want, err = record.ParseCodec(name); err != nil {
						t.Fatal(err)
					}
				}
				if b.Codec() != want || b.Check() != nil || b.BaseOffset() != int64(10*i) || b.BaseSequence() != int32(10*i) || b.ProducerID() != 7 {
					t.Errorf("batch %d is of codec %v at %d with sequence %d", i, b.Codec(), b.BaseOffset(), b.BaseSequence())
				}
				if want == codecs[i] && !bytes.Equal(b[record.ChecksumStart:], sent[i][record.ChecksumStart:]) {
					t.Errorf("batch %d came with the topic's codec and was changed", i)
				}
			}
			if base, err := partitiontest.AppendBatch(p, sent[4]); err != nil || base != 40 {
				t.Errorf("the last one again after a restart: offset %d, %v", base, err)
			}
		})
	}
}

// What max.message.bytes bounds is the batch as it is stored, and before that as it comes.
func TestMaxMessageBytesHoldsForWhatIsStored(t *testing.T) {
	w := partitiontest.New(t)
	w.Topic.Compression, w.Topic.MaxMessageBytes = "uncompressed", 2000
	w.Start()
	p := w.Create("a")
	b := packed(t, record.Zstd, 0, 20)
	if len(b) > 1000 {
		t.Fatalf("%d bytes", len(b))
	}
	if _, err := partitiontest.AppendBatch(p, b); !errors.Is(err, partition.ErrTooLarge) || !strings.Contains(err.Error(), "bytes uncompressed, as the topic wants it, limit 2000") {
		t.Errorf("6 KB of records in a batch of %d: %v", len(b), err)
	}
	if base, err := partitiontest.AppendBatch(p, packed(t, record.Zstd, 0, 3)); err != nil || base != 0 {
		t.Errorf("one that fits: %d, %v", base, err)
	}
	w.Topic.Compression = "zstd"
	p.SetConfig(w.Topic)
	if _, err := partitiontest.AppendBatch(p, packed(t, record.None, 3, 20)); !errors.Is(err, partition.ErrTooLarge) {
		t.Errorf("one that would fit when compressed: %v", err)
	}
}

func TestAppendTimeOfABatchCompressedAnew(t *testing.T) {
	w := partitiontest.New(t)
	w.Topic.Compression, w.Topic.LogAppendTime = "lz4", true
	w.Start()
	p := w.Create("a")
	if _, err := partitiontest.AppendBatch(p, packed(t, record.Gzip, 0, 5)); err != nil {
		t.Fatal(err)
	}
	b := stored(t, p)[0]
	if b.Codec() != record.LZ4 || !b.LogAppendTime() || b.MaxTimestamp() != w.Clock.UnixMilli() || b.Check() != nil {
		t.Errorf("codec %v, append time %v, %d, %v", b.Codec(), b.LogAppendTime(), b.MaxTimestamp(), b.Check())
	}
}

// segments counts a partition's logs on the disk.
func segments(t *testing.T, w *partitiontest.World, p *partition.Partition) int {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(w.Dir, "topics", p.String(), "*"+segment.LogSuffix))
	if err != nil {
		t.Fatal(err)
	}
	return len(logs)
}

// TestSegmentJitter: partitions that were made together roll within segment.jitter.ms before segment.ms, not together.
func TestSegmentJitter(t *testing.T) {
	const hour, jitter = 3_600_000, 600_000
	for _, by := range []string{"append", "retention"} {
		w := partitiontest.New(t)
		w.Topic.SegmentMS, w.Topic.SegmentJitterMS = hour, jitter
		w.Start()
		var all []*partition.Partition
		for i := range 40 {
			p := w.Create(fmt.Sprint("topic", i))
			partitiontest.Fill(t, p, 1)
			all = append(all, p)
		}
		rolled := make(map[*partition.Partition]time.Duration)
		begin := w.Clock
		for w.Clock.Sub(begin) < 2*time.Hour-time.Minute {
			w.Clock = w.Clock.Add(30 * time.Second)
			for _, p := range all {
				if _, ok := rolled[p]; ok {
					continue
				}
				if by == "append" {
					partitiontest.Fill(t, p, 1)
				} else if _, err := p.Retain(w.Clock.UnixMilli()); err != nil {
					t.Fatal(err)
				}
				if segments(t, w, p) > 1 {
					rolled[p] = w.Clock.Sub(begin)
				}
			}
		}
		times := make(map[time.Duration]int)
		for _, at := range rolled {
			times[at]++
			if at < (hour-jitter)*time.Millisecond || at > hour*time.Millisecond {
				t.Errorf("%s: rolled after %v", by, at)
			}
		}
		if len(rolled) != len(all) || len(times) < 10 {
			t.Errorf("%s: %d of %d rolled, at %d different times", by, len(rolled), len(all), len(times))
		}
	}
}
