package powercut

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"millrace/broker"
	"millrace/broker/catalog"
	"millrace/broker/cleaner"
	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
	"millrace/broker/journal"
	"millrace/broker/partition"
	"millrace/broker/record"
	"millrace/broker/segment"
)

// compacting is a scene of its own: a compacted log in which two compactions join two segments, rewrite others in their
// place, and drop a tombstone; the power is cut inside one disk operation of theirs. The promise is the last value of
// every key, and that what was deleted does not come back.
type compacting struct {
	*scene
	clock  time.Time
	store  *partition.Store
	j      *journal.Journal
	p      *partition.Partition
	values map[string][]byte // last of each key, nil for a tombstone
	end    int64
}

const compactSegment = 3000

func compactConfig() catalog.TopicConfig {
	c := catalog.DefaultTopicConfig()
	c.CleanupDelete, c.CleanupCompact = false, true
	c.SegmentBytes, c.IndexIntervalBytes = compactSegment, 512
	c.MinCleanableRatio, c.MinCompactionLagMS, c.DeleteRetentionMS = 0, 600_000, 3_600_000
	return c
}

// play writes the log, begins to compact it, and cuts in the at-th operation from there, or not at all with 0. ops is how
// many there were.
func (c *compacting) play(at int64) (ops int64, err error) {
	c.values, c.clock = make(map[string][]byte), c.scene.now()
	if c.image, err = catalog.Apply(c.image, catalog.RegisterBroker{ID: 1, Host: "localhost", Port: 9092}); err != nil {
		return 0, err
	}
	create, err := catalog.NewTopic(c.image, "compacting", c.topic, 1, 1, nil)
	if err != nil {
		return 0, err
	}
	if c.image, err = catalog.Apply(c.image, create); err != nil {
		return 0, err
	}
	if c.store, _, err = openStore(c.fs, c.data, c.now, c.image, &c.j); err != nil {
		return 0, err
	}
	if c.p, err = c.store.Create(partition.Topic{ID: c.topic, Name: "compacting"}, 0, compactConfig()); err != nil {
		return 0, err
	}
	id := uint64(0)
	put := func(size int, keys ...string) error {
		b := record.NewBuilder(record.None)
		values := make(map[string][]byte)
		for _, key := range keys {
			values[key] = nil
			if size > 0 {
				id++
				values[key] = value(id, size)
			}
			b.Add(c.clock.UnixMilli(), []byte(key), values[key], nil)
		}
		batch, err := b.Build()
		if err != nil {
			return err
		}
		answer := make(chan partition.AppendResult, 1)
		c.p.Append(batch, partition.AppendOptions{Epoch: -1}, func(r partition.AppendResult) { answer <- r })
		r := <-answer
		if r.Err == nil {
			maps.Copy(c.values, values)
			c.end = r.Base + int64(len(keys))
		}
		return r.Err
	}
	var errs []error
	// So much that the journal's front has gone by then, and begins in the middle.
	for range 10 {
		errs = append(errs, put(2800, "early"))
	}
	errs = append(errs, put(100, "early"))
	errs = append(errs, c.store.Checkpoint())
	// Segments of the same few keys: joined.
	for range 14 {
		errs = append(errs, put(60, "often0", "often1", "often2", "often3"))
	}
	// A value, its tombstone a segment later, and neighbours that are too large to be joined.
	for i := range 3 {
		errs = append(errs, put(300, "deleted"), put(1000, fmt.Sprint("large", i)), put(1200, fmt.Sprint("larger", i)), put(0, "deleted"))
	}
	c.clock = c.clock.Add(11 * time.Minute)
	// Too young for the first compaction, and with nothing for the directory to sync in between.
	for i := range 2 {
		errs = append(errs, put(1300, "larger2"), put(1300, fmt.Sprint("young", i)))
	}
	errs = append(errs, put(10, "active"))
	for range 2 {
		errs = append(errs, c.store.Checkpoint())
	}
	if err := errors.Join(errs...); err != nil {
		return 0, err
	}
	before := c.fs.Ops()
	if at > 0 {
		c.fs.StopAt(at)
	}
	sweeper := c.cleaner(c.store)
	err = sweeper.Pass(context.Background())
	if err == nil {
		c.clock = c.clock.Add(2 * time.Hour)
		err = sweeper.Pass(context.Background())
	}
	if errors.Is(err, disktest.ErrCut) {
		err = nil
	}
	if at == 0 && err == nil && sweeper.Compacted() != 2 {
		err = fmt.Errorf("%d compactions, want 2", sweeper.Compacted())
	}
	return c.fs.Ops() - before, err
}

func (c *compacting) now() time.Time { return c.clock }

func (c *compacting) cleaner(store *partition.Store) *cleaner.Cleaner {
	return cleaner.New(cleaner.Config{
		Partitions: func() iter.Seq[cleaner.Partition] {
			return func(yield func(cleaner.Partition) bool) {
				for p := range store.All() {
					if !yield(p) {
						return
					}
				}
			}
		},
		Now: c.now, Elapsed: func() time.Duration { return c.clock.Sub(c.scene.now()) },
		Checkpoint: func() error { return store.Checkpoint() }, Save: func() error { return store.SaveCleaned() },
	})
}

// unsynced is a filesystem that saves itself every sync: what is durable only the one above it has to know.
func unsynced() *disktest.FS {
	fs := disktest.New(disk.OS{})
	for _, p := range disk.Points() {
		fs.Skip(p)
	}
	return fs
}

// look starts on a disk as a cut left it, and once more after all that can be compacted was.
func (c *compacting) look(data string) error {
	if err := sound(data); err != nil { // as the cut left it, perhaps half way through a swap
		return err
	}
	fs := unsynced()        // nothing is cut any more
	if c.rng.IntN(4) == 0 { // rot beside the cut: recovery then replays whatever the journal has
		for n := range 2 {
			if err := os.Remove(partition.SlotPath(data, n)); err != nil {
				return err
			}
		}
	}
	for round := range 2 {
		store, report, err := openStore(fs, data, c.now, c.image, nil)
		if err != nil {
			return err
		}
		if err := c.check(store); err != nil {
			return errors.Join(fmt.Errorf("start %d: %w", round, err), store.Close())
		}
		if report.Gaps > 0 {
			return errors.Join(fmt.Errorf("start %d tells of losses: %q", round, report.Lost), store.Close())
		}
		store.Get(c.topic, 0).SetConfig(compactConfig())
		if err := errors.Join(c.cleaner(store).Pass(context.Background()), c.check(store), store.Close()); err != nil {
			return fmt.Errorf("start %d, compacted again: %w", round, err)
		}
	}
	return errors.Join(c.files(data), sound(data))
}

// sound says that fsck finds no damage.
func sound(data string) error {
	r, err := broker.Fsck(disk.OS{}, data, nil)
	if err == nil && r.Damaged() {
		err = fmt.Errorf("fsck: %+v", r.Findings)
	}
	return err
}

// check reads the log.
func (c *compacting) check(store *partition.Store) error {
	p := store.Get(c.topic, 0)
	if p == nil {
		return errors.New("LOST: the partition")
	}
	if err := store.Check(); err != nil {
		return err
	}
	if p.High() != c.end {
		return fmt.Errorf("the log ends at %d, want %d", p.High(), c.end)
	}
	have := make(map[string][]byte)
	for at := p.Start(); at < p.High(); {
		span, err := p.Read(at, 64<<10)
		if err != nil {
			return err
		}
		raw, err := span.Append(nil)
		span.Release()
		if err != nil || len(raw) == 0 {
			return fmt.Errorf("LOST: nothing at offset %d: %w", at, err)
		}
		for len(raw) > 0 {
			var b record.Batch
			if b, raw, err = record.Next(raw); err != nil {
				return err
			}
			if b.BaseOffset() != at {
				return fmt.Errorf("LOST: a batch from %d follows offset %d", b.BaseOffset(), at-1)
			}
			for r, err := range b.Records(1 << 20) {
				if err != nil {
					return err
				}
				have[string(r.Key)] = bytes.Clone(r.Value)
			}
			at = b.NextOffset()
		}
	}
	for key, want := range c.values {
		switch got, ok := have[key]; {
		case !ok && want != nil, ok && want != nil && !bytes.Equal(got, want):
			return fmt.Errorf("LOST: the last value of %s", key)
		case want == nil && got != nil:
			return fmt.Errorf("LOST: that %s was deleted", key)
		}
	}
	return nil
}

// files holds the segments against each other: each ends where the next begins, and nothing is left of a compaction.
func (c *compacting) files(data string) error {
	dir := filepath.Join(data, "topics", "compacting-0")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	end := int64(-1)
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); ext == segment.SwapSuffix || ext == segment.CleanedSuffix {
			return fmt.Errorf("%s is left", e.Name())
		}
		base, ok := segment.ParseName(e.Name(), segment.LogSuffix)
		if !ok {
			continue
		}
		if end >= 0 && base != end {
			return fmt.Errorf("segment %d follows one that ends at %d", base, end)
		}
		s, err := segment.Open(disk.OS{}, dir, base, segment.Config{})
		if err != nil {
			return err
		}
		end = base
		_, err = s.Scan(0, func(b record.Batch, _ int64) error {
			end = b.NextOffset()
			return nil
		})
		if err := errors.Join(err, s.Close()); err != nil {
			return err
		}
	}
	return nil
}

// compactCut is one world: a cut in one operation of the compactions.
func compactCut(dir string, seed uint64, skip disk.Point, at int64) (ops int64, err error) {
	s, err := newSceneOn(unsynced(), dir, seed, skip)
	if err != nil {
		return 0, err
	}
	if _, err := broker.Format(s.fs, s.data, "", 1); err != nil {
		return 0, err
	}
	c := &compacting{scene: s}
	if ops, err = c.play(at); err == nil {
		err = s.cut(c.look)
	}
	if c.store != nil {
		err = errors.Join(err, killed(c.store, c.j))
	}
	if err != nil {
		err = fmt.Errorf("cut in operation %d: %w", at, err)
	}
	return ops, errors.Join(err, os.RemoveAll(dir))
}

// compacted is a share of all operations for each seed: sceneSeeds of them have all.
func compacted(dir string, seed uint64, skip disk.Point) (cuts int, err error) {
	ops, err := compactCut(filepath.Join(dir, "0"), seed, skip, 0)
	for at := int64(seed % sceneSeeds); at <= ops && err == nil; at += sceneSeeds {
		_, err = compactCut(filepath.Join(dir, fmt.Sprint(at)), seed, skip, max(at, 1))
		cuts++
	}
	return cuts, err
}

func TestCutAtEveryOperationOfACompaction(t *testing.T) {
	begin := uint64(time.Now().UnixNano())
	if *seed != 0 {
		begin = *seed
	}
	ops, err := compactCut(filepath.Join(scratch(t), "0"), begin, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d operations, seed %d", ops, begin)
	if ops < 20 {
		t.Fatal("too few for a compaction")
	}
	for at := int64(1); at <= ops; at++ {
		if _, err := compactCut(filepath.Join(scratch(t), fmt.Sprint(at)), begin+uint64(at), "", at); err != nil {
			t.Errorf("%v\nagain: go test ./testbench/powercut -run %s -seed %d", err, t.Name(), begin)
		}
	}
}
