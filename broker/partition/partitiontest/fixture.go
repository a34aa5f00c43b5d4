package partitiontest

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"millrace/broker/catalog"
	"millrace/broker/disk"
	"millrace/broker/journal"
	"millrace/broker/partition"
	"millrace/broker/record"
)

// World is one data directory and the broker process on it, which can be stopped in every way and started again.
type World struct {
	t testing.TB
	// FS is what the store gets; replace it before Start to make it fail.
	FS     disk.FS
	Dir    string
	Frames *Frames // of the fake journal
	// Real has the store run on the real journal.
	Real bool
	// Config is changed by tests before Start.
	Config partition.Config
	// Catalog is what the broker would know.
	Catalog map[catalog.TopicID]partition.Topic
	Topic   catalog.TopicConfig
	// Clock is the time. Where the store may look at it meanwhile it is changed by Pass.
	Clock time.Time
	clock sync.Mutex

	Store   *partition.Store
	Journal *Journal // nil when Real
	Report  partition.Report
	err     error
}

// New is an empty data directory with nothing running. When the test ends the store is checked and closed.
func New(t testing.TB) *World {
	w := &World{
		t: t, FS: disk.OS{}, Dir: t.TempDir(), Frames: NewFrames(),
		Catalog: make(map[catalog.TopicID]partition.Topic), Topic: catalog.DefaultTopicConfig(),
		Clock: time.UnixMilli(1_790_000_000_000),
	}
	t.Cleanup(func() {
		if w.Store == nil {
			return
		}
		w.Check()
		if w.Journal != nil {
			w.Journal.Release()
		}
		if err := w.Store.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return w
}

// ID is the topic id that the fixture gives a name.
func ID(name string) (id catalog.TopicID) {
	copy(id[:], name)
	id[15] = 1
	return id
}

// Start opens the store and fails the test when it does not come up.
func (w *World) Start() *World {
	w.t.Helper()
	if err := w.TryStart(); err != nil {
		w.t.Fatalf("open: %v", err)
	}
	w.Check()
	return w
}

// Pass lets time go by.
func (w *World) Pass(d time.Duration) {
	w.clock.Lock()
	defer w.clock.Unlock()
	w.Clock = w.Clock.Add(d)
}

// TryStart opens the store.
func (w *World) TryStart() error {
	c := w.Config
	c.Dir, c.FS = w.Dir, w.FS
	c.Now = func() time.Time {
		w.clock.Lock()
		defer w.clock.Unlock()
		return w.Clock
	}
	c.Known = func(id catalog.TopicID) (partition.Topic, catalog.TopicConfig, bool) {
		t, ok := w.Catalog[id]
		return t, w.Topic, ok
	}
	c.Named = func(name string) (partition.Topic, catalog.TopicConfig, bool) {
		for _, t := range w.Catalog {
			if t.Name == name {
				return t, w.Topic, true
			}
		}
		return partition.Topic{}, w.Topic, false
	}
	c.OpenJournal = func(after journal.Mark) (partition.Journal, error) {
		if w.Real {
			return journal.Open(journal.Options{Dir: filepath.Join(w.Dir, "journal"), FS: w.FS}, after)
		}
		old := 0
		if w.Journal != nil {
			old = w.Journal.InlineMax
		}
		w.Journal = Open(w.Frames, after)
		w.Journal.InlineMax = old
		return w.Journal, nil
	}
	w.Store, w.Report, w.err = partition.Open(c)
	return w.err
}

// Create makes partition 0 of a topic, in the catalog as well.
func (w *World) Create(name string) *partition.Partition {
	w.t.Helper()
	t := partition.Topic{ID: ID(name), Name: name}
	w.Catalog[t.ID] = t
	p, err := w.Store.Create(t, 0, w.Topic)
	if err != nil {
		w.t.Fatalf("create %s: %v", name, err)
	}
	return p
}

// Partition is partition 0 of a topic that must be there.
func (w *World) Partition(name string) *partition.Partition {
	w.t.Helper()
	p := w.Store.Get(ID(name), 0)
	if p == nil {
		w.t.Fatalf("partition %s-0 is not there", name)
	}
	return p
}

// Kill ends the process without a word, as kill -9 does: staged commits are lost, the page cache is not.
func (w *World) Kill() {
	if w.Journal != nil {
		w.Journal.Crash()
	}
	if err := w.Store.Abandon(); err != nil {
		w.t.Errorf("abandon: %v", err)
	}
	w.Store = nil
}

// Stop closes the store properly.
func (w *World) Stop() {
	w.t.Helper()
	if err := w.Store.Close(); err != nil {
		w.t.Fatalf("close: %v", err)
	}
	w.Store = nil
}

// Restart kills the process and starts another.
func (w *World) Restart() *World {
	w.t.Helper()
	w.Kill()
	return w.Start()
}

// Check asks every invariant and reads every offset of every partition.
func (w *World) Check() {
	w.t.Helper()
	if err := w.Store.Check(); err != nil {
		w.t.Error(err)
	}
	for p := range w.Store.All() {
		if _, err := Values(p); err != nil {
			w.t.Errorf("read %s: %v", p, err)
		}
	}
}

// Batch is one batch of the values, a record each.
func Batch(values ...string) record.Batch {
	b := record.NewBuilder(record.None)
	for _, v := range values {
		b.Add(1_790_000_000_000, nil, []byte(v), nil)
	}
	batch, err := b.Build()
	if err != nil {
		panic(err) // no values: a fault of the test
	}
	return batch
}

// Append appends one batch of values and waits for its answer.
func Append(p *partition.Partition, values ...string) (int64, error) {
	return AppendBatch(p, Batch(values...))
}

// AppendBatch appends a batch and waits for its answer.
func AppendBatch(p *partition.Partition, b record.Batch) (int64, error) {
	result := make(chan partition.AppendResult, 1)
	p.Append(b, partition.AppendOptions{Epoch: -1}, func(r partition.AppendResult) { result <- r })
	r := <-result
	return r.Base, r.Err
}

// Fill appends n batches of one record, its value the offset it gets.
func Fill(t testing.TB, p *partition.Partition, n int) {
	t.Helper()
	for range n {
		at := p.End()
		if base, err := Append(p, fmt.Sprint(at)); err != nil || base != at {
			t.Fatalf("append to %s: offset %d, want %d, %v", p, base, at, err)
		}
	}
}

// Values reads every record from the start to the high watermark, as "offset=value".
func Values(p *partition.Partition) ([]string, error) {
	var out []string
	var buf []byte
	for at := p.Start(); at < p.High(); {
		span, err := p.Read(at, 1<<20)
		if err != nil {
			return out, err
		}
		if span.Len() == 0 {
			return out, nil
		}
		buf, err = span.Append(buf[:0])
		span.Release()
		if err != nil {
			return out, err
		}
		for rest := buf; len(rest) > 0; {
			b, after, err := record.Next(rest)
			if err != nil {
				return out, err
			}
			if rest = after; b.NextOffset() <= at && b.Count() > 0 {
				return out, fmt.Errorf("batch %d to %d served again at %d", b.BaseOffset(), b.LastOffset(), at)
			}
			if b.Control() {
				at = b.NextOffset()
				continue
			}
			for r, err := range b.Records(1 << 20) {
				if err != nil {
					return out, err
				}
				if r.Offset >= at {
					out = append(out, fmt.Sprintf("%d=%s", r.Offset, r.Value))
				}
			}
			at = b.NextOffset()
		}
	}
	return out, nil
}
