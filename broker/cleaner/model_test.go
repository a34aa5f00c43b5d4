package cleaner_test

import (
	"bytes"
	"fmt"
	"iter"
	"testing"
	"time"

	"pgregory.net/rapid"

	"millrace/broker/catalog"
	"millrace/broker/cleaner"
	"millrace/broker/partition"
	"millrace/broker/partition/partitiontest"
	"millrace/broker/record"
)

// sweeper is a cleaner over a world.
func sweeper(w *partitiontest.World, memory int, budget int64) *cleaner.Cleaner {
	began := w.Clock
	return cleaner.New(cleaner.Config{
		Partitions: func() iter.Seq[cleaner.Partition] {
			return func(yield func(cleaner.Partition) bool) {
				for p := range w.Store.All() {
					if !yield(p) {
						return
					}
				}
			}
		},
		Now: func() time.Time { return w.Clock }, Elapsed: func() time.Duration { return w.Clock.Sub(began) },
		Checkpoint: func() error { return w.Store.Checkpoint() }, Save: func() error { return w.Store.SaveCleaned() },
		Memory: memory, Budget: budget,
	})
}

func compacted() catalog.TopicConfig {
	c := catalog.DefaultTopicConfig()
	c.CleanupDelete, c.CleanupCompact = false, true
	return c
}

type kept struct {
	key   string
	value []byte // nil: a tombstone
	ts    int64
	came  time.Time
}

type found struct {
	offset, ts int64
	key        string
	value      []byte
}

// readAll reads a log as a consumer does, and fails on a hole.
func readAll(p *partition.Partition) (all []found, err error) {
	var buf []byte
	for at := p.Start(); at < p.High(); {
		span, err := p.Read(at, 1<<20)
		if err != nil {
			return nil, err
		}
		buf, err = span.Append(buf[:0])
		span.Release()
		if err != nil {
			return nil, err
		}
		if len(buf) == 0 {
			return nil, fmt.Errorf("nothing to read at %d of %d", at, p.High())
		}
		first := true
		for rest := buf; len(rest) > 0; first = false {
			var b record.Batch
			if b, rest, err = record.Next(rest); err != nil {
				return nil, err
			}
			if b.BaseOffset() > at || !first && b.BaseOffset() != at {
				return nil, fmt.Errorf("a batch from %d follows offset %d", b.BaseOffset(), at-1)
			}
			for r, err := range b.Records(1 << 20) {
				if err != nil {
					return nil, err
				}
				if r.Offset >= at {
					if len(r.Headers) != 1 || r.Headers[0].Key != "at" || string(r.Headers[0].Value) != string(r.Key) {
						return nil, fmt.Errorf("offset %d has headers %v", r.Offset, r.Headers)
					}
					all = append(all, found{r.Offset, r.Timestamp, string(r.Key), bytes.Clone(r.Value)})
				}
			}
			at = b.NextOffset()
		}
	}
	return all, nil
}

type compactModel struct {
	w        *partitiontest.World
	p        *partition.Partition
	c        *cleaner.Cleaner
	memory   int
	budget   int64
	log      []kept // by offset
	start    int64
	next     int
	seq      int32
	producer int64
	again    record.Batch // the producer's last batch
	base     int64
	removed  int
	touched  bool // something may have been compacted that a truncation exposed again
}

func (m *compactModel) append(t *rapid.T) {
	for range rapid.IntRange(1, 5).Draw(t, "batches") {
		m.appendBatch(t)
	}
}

func (m *compactModel) appendBatch(t *rapid.T) {
	b := record.NewBuilder(rapid.SampledFrom([]record.Codec{record.None, record.None, record.Gzip, record.Snappy, record.LZ4, record.Zstd}).Draw(t, "codec"))
	n := rapid.IntRange(1, 6).Draw(t, "records")
	at := m.p.End()
	for range n {
		key := fmt.Sprint("k", rapid.IntRange(0, 12).Draw(t, "key"))
		var value []byte
		if rapid.IntRange(0, 4).Draw(t, "tombstone") > 0 {
			m.next++
			value = fmt.Appendf(nil, "%d %s", m.next, bytes.Repeat([]byte("v"), rapid.IntRange(0, 60).Draw(t, "size")))
		}
		ts := m.w.Clock.UnixMilli() - rapid.Int64Range(0, 1000).Draw(t, "ago")
		b.Add(ts, []byte(key), value, []record.Header{{Key: "at", Value: []byte(key)}})
		m.log = append(m.log, kept{key, value, ts, m.w.Clock})
	}
	batch, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	batch = bytes.Clone(batch)
	produced := rapid.IntRange(0, 2).Draw(t, "producer") == 0
	if produced {
		batch.SetProducer(77+m.producer, 0, m.seq, false)
		m.seq += int32(n)
		m.again, m.base = bytes.Clone(batch), at
	}
	if base, err := partitiontest.AppendBatch(m.p, batch); err != nil || base != at {
		t.Fatalf("append: %d, want %d, %v", base, at, err)
	}
}

func (m *compactModel) clean(t *rapid.T) {
	if err := m.c.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (m *compactModel) later(t *rapid.T) {
	m.w.Clock = m.w.Clock.Add(time.Duration(rapid.IntRange(1, 40).Draw(t, "minutes")) * time.Minute)
}

func (m *compactModel) checkpoint(t *rapid.T) {
	if err := m.w.Store.Checkpoint(); err != nil {
		t.Fatal(err)
	}
}

func (m *compactModel) deleteRecords(t *rapid.T) {
	before := rapid.Int64Range(m.start, m.p.High()).Draw(t, "before")
	result := make(chan error, 1)
	m.p.DeleteRecords(before, func(_ int64, err error) { result <- err })
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	m.start = before
}

func (m *compactModel) truncate(t *rapid.T) {
	to := rapid.Int64Range(max(m.start, m.p.High()-10), m.p.High()).Draw(t, "to")
	end, err := m.p.Truncate(to)
	if err != nil {
		t.Fatal(err)
	}
	m.log, m.start = m.log[:end], min(m.start, end)
	m.producer, m.seq, m.again = m.producer+1, 0, nil // the old one's batches may be cut
	m.touched = true
}

func (m *compactModel) restart(t *rapid.T) {
	if rapid.Bool().Draw(t, "killed") && !m.w.Real {
		m.w.Kill()
	} else {
		m.w.Stop()
	}
	if err := m.w.TryStart(); err != nil {
		t.Fatal(err)
	}
	if m.w.Report.Gaps > 0 {
		t.Fatalf("recovery lost something: %v", m.w.Report.Lost)
	}
	m.p = m.w.Partition("a")
	m.c = sweeper(m.w, m.memory, m.budget)
}

func (m *compactModel) check(t *rapid.T) {
	if err := m.w.Store.Check(); err != nil {
		t.Fatal(err)
	}
	if m.p.Start() != m.start || m.p.High() != int64(len(m.log)) {
		t.Fatalf("log is %d to %d, want %d to %d", m.p.Start(), m.p.High(), m.start, len(m.log))
	}
	all, err := readAll(m.p)
	if err != nil {
		t.Fatal(err)
	}
	have := make(map[int64]bool)
	last := int64(-1)
	for _, f := range all {
		want := m.log[f.offset]
		if f.offset <= last || f.key != want.key || !bytes.Equal(f.value, want.value) || (f.value == nil) != (want.value == nil) || f.ts != want.ts {
			t.Fatalf("offset %d after %d holds %q=%q at %d, want %q=%q at %d", f.offset, last, f.key, f.value, f.ts, want.key, want.value, want.ts)
		}
		last, have[f.offset] = f.offset, true
	}
	cfg := m.p.Config()
	newest := make(map[string]int64)
	for o := m.start; o < int64(len(m.log)); o++ {
		newest[m.log[o].key] = o
		if lag := m.w.Clock.Sub(m.log[o].came); !have[o] && cfg.MinCompactionLagMS > 0 && lag.Milliseconds() <= cfg.MinCompactionLagMS {
			t.Fatalf("offset %d of %v ago is gone, min.compaction.lag.ms is %d", o, lag, cfg.MinCompactionLagMS)
		}
	}
	m.removed = len(m.log) - int(m.start) - len(all)
	for key, o := range newest {
		r := m.log[o]
		switch {
		case have[o]:
		case r.value != nil && !m.touched:
			t.Fatalf("the last value of %s, at offset %d, is gone", key, o)
		case r.value == nil && m.w.Clock.Sub(r.came).Milliseconds() < cfg.DeleteRetentionMS && !m.touched:
			t.Fatalf("the tombstone of %s, at offset %d, is gone after %v", key, o, m.w.Clock.Sub(r.came))
		case r.value == nil && !m.touched:
			for at, e := range m.log[:o] {
				if e.key == key && have[int64(at)] {
					t.Fatalf("the tombstone of %s, at offset %d, is gone, and an older value at %d is not", key, o, at)
				}
			}
		}
	}
	if m.again != nil && m.base >= m.start {
		base, err := partitiontest.AppendBatch(m.p, bytes.Clone(m.again))
		if err != nil || base != m.base {
			t.Fatalf("the producer's last batch again: %d, want %d, %v", base, m.base, err)
		}
	}
}

func testCompaction(t *testing.T, real bool) {
	removed := 0
	rapid.Check(t, func(rt *rapid.T) {
		w := partitiontest.New(t)
		w.Real = real
		w.Topic = compacted()
		w.Topic.SegmentBytes = rapid.Int64Range(300, 3000).Draw(rt, "segment.bytes")
		w.Topic.IndexIntervalBytes = 200
		w.Topic.DeleteRetentionMS = 3_600_000
		w.Topic.MinCleanableRatio = rapid.SampledFrom([]float64{0, 0.3, 0.5}).Draw(rt, "ratio")
		w.Topic.MinCompactionLagMS = rapid.SampledFrom([]int64{0, 0, 600_000}).Draw(rt, "min lag")
		w.Topic.MaxCompactionLagMS = max(w.Topic.MinCompactionLagMS, rapid.SampledFrom([]int64{900_000, 1 << 60}).Draw(rt, "max lag"))
		m := &compactModel{
			w: w, memory: rapid.SampledFrom([]int{160, 500, 1 << 20}).Draw(rt, "memory"),
			budget: rapid.SampledFrom([]int64{1, 3000, 1 << 30}).Draw(rt, "budget"),
		}
		w.Start()
		defer func() {
			if w.Store != nil {
				w.Stop()
			}
		}()
		if !real {
			w.Journal.InlineMax = rapid.SampledFrom([]int{0, 1, 100}).Draw(rt, "inline")
		}
		m.p = w.Create("a")
		m.c = sweeper(w, m.memory, m.budget)
		actions := map[string]func(*rapid.T){
			"append": m.append, "append2": m.append, "append3": m.append, "clean": m.clean, "clean2": m.clean, "later": m.later,
			"checkpoint": m.checkpoint, "restart": m.restart, "delete": m.deleteRecords, "": m.check,
		}
		if rapid.IntRange(0, 3).Draw(rt, "truncates") == 0 {
			actions["truncate"] = m.truncate
		}
		rt.Repeat(actions)
		removed += m.removed
	})
	if removed == 0 && !t.Failed() {
		t.Error("nothing was ever compacted")
	}
	t.Logf("%d records were compacted away", removed)
}

func TestCompactionKeepsTheLastValueOfEveryKey(t *testing.T) { testCompaction(t, false) }

func TestCompactionKeepsTheLastValueOfEveryKeyOnTheRealJournal(t *testing.T) { testCompaction(t, true) }
