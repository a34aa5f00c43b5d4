package cleaner_test

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/broker/catalog"
	"millrace/broker/cleaner"
	"millrace/broker/partition"
	"millrace/broker/partition/partitiontest"
	"millrace/broker/record"
)

// keyed is one batch of records, "key=value" each; without "=" it is a tombstone.
func keyed(at time.Time, records ...string) record.Batch {
	b := record.NewBuilder(record.None)
	for _, r := range records {
		key, value, ok := strings.Cut(r, "=")
		var v []byte
		if ok {
			v = []byte(value)
		}
		b.Add(at.UnixMilli(), []byte(key), v, nil)
	}
	batch, err := b.Build()
	if err != nil {
		panic(err) // no records: a fault of the test
	}
	return batch
}

func put(t testing.TB, w *partitiontest.World, p *partition.Partition, records ...string) {
	t.Helper()
	if _, err := partitiontest.AppendBatch(p, keyed(w.Clock, records...)); err != nil {
		t.Fatal(err)
	}
}

// roll closes the active segment and lets both slots see it.
func roll(t testing.TB, w *partitiontest.World, p *partition.Partition) {
	t.Helper()
	cfg := *p.Config()
	small := cfg
	small.SegmentBytes = 1
	p.SetConfig(small)
	put(t, w, p, "active=")
	p.SetConfig(cfg)
	for range 2 {
		if err := w.Store.Checkpoint(); err != nil {
			t.Fatal(err)
		}
	}
}

// list is what a reader sees, "offset key=value" each, without the records that roll leaves.
func list(t testing.TB, p *partition.Partition) (out []string) {
	t.Helper()
	var buf []byte
	for at := p.Start(); at < p.High(); {
		span, err := p.Read(at, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		buf, err = span.Append(buf[:0])
		span.Release()
		if err != nil {
			t.Fatal(err)
		}
		for rest := buf; len(rest) > 0; {
			var b record.Batch
			if b, rest, err = record.Next(rest); err != nil {
				t.Fatal(err)
			}
			for r := range b.Records(1 << 20) {
				switch {
				case string(r.Key) == "active":
				case r.Value == nil:
					out = append(out, fmt.Sprintf("%d %s", r.Offset, r.Key))
				default:
					out = append(out, fmt.Sprintf("%d %s=%s", r.Offset, r.Key, r.Value))
				}
			}
			at = b.NextOffset()
		}
	}
	return out
}

func pass(t testing.TB, c *cleaner.Cleaner) {
	t.Helper()
	if err := c.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func begin(t *testing.T, topic catalog.TopicConfig) (*partitiontest.World, *partition.Partition) {
	w := partitiontest.New(t)
	w.Topic = topic
	w.Start()
	return w, w.Create("a")
}

func expect(t *testing.T, p *partition.Partition, want ...string) {
	t.Helper()
	if got := list(t, p); !slices.Equal(got, want) {
		t.Errorf("the log has %v, want %v", got, want)
	}
}

// One pass over a log whose keys, and whose records in one segment, are many times what memory has room for leaves each key
// once, in few segments.
func TestOnePassLeavesEachKeyOnce(t *testing.T) {
	for _, tt := range []struct{ memory, logs int }{
		{160, 8},   // 6 keys, 64 records
		{2000, 3},  // 48 keys, all records of several segments
		{20000, 3}, // all keys
	} {
		t.Run(fmt.Sprint(tt.memory), func(t *testing.T) { testOnePass(t, tt.memory, tt.logs) })
	}
}

func testOnePass(t *testing.T, memory, most int) {
	topic := compacted()
	topic.SegmentBytes = 20_000
	w, p := begin(t, topic)
	last := make(map[string]string)
	const keys, rounds = 300, 12
	for round := range rounds {
		for from := 0; from < keys; from += 20 {
			var records []string
			for k := from; k < from+20; k++ {
				key, value := fmt.Sprint("key", (k*7+round*13)%keys), fmt.Sprint("value", round, "-", k)
				records = append(records, key+"="+value)
				last[key] = value
			}
			put(t, w, p, records...)
		}
	}
	roll(t, w, p)
	before := p.Size()
	c := sweeper(w, memory, 1<<30)
	pass(t, c)
	seen := make(map[string]bool)
	for _, line := range list(t, p) {
		_, kv, _ := strings.Cut(line, " ")
		key, value, _ := strings.Cut(kv, "=")
		if seen[key] || last[key] != value {
			t.Fatalf("%s is there, the last value of %s is %s, seen before: %v", line, key, last[key], seen[key])
		}
		seen[key] = true
	}
	logs, err := filepath.Glob(filepath.Join(w.Dir, "topics", "a-0", "*.log"))
	if err != nil || len(seen) != keys || len(logs) > most || p.Size() > before/5 {
		t.Errorf("%d keys in %d segments of %d bytes, before %d, %v", len(seen), len(logs), p.Size(), before, err)
	}
	if c.Compacted() != 1 || c.Saved() < before/2 {
		t.Errorf("%d compactions, %d bytes saved", c.Compacted(), c.Saved())
	}
	pass(t, c) // nothing new: nothing to do
	if c.Compacted() != 1 {
		t.Error("compacted again")
	}
}

// sampled is a partition that looks at the heap while it is compacted.
type sampled struct {
	*partition.Partition
	n       int
	highest *uint64
}

func (s *sampled) Scan(c partition.Closed, fn func(record.Batch) error) (bool, error) {
	return s.Partition.Scan(c, func(b record.Batch) error {
		if s.n++; s.n%200 == 0 {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			*s.highest = max(*s.highest, m.HeapAlloc)
		}
		return fn(b)
	})
}

func TestAMillionKeysInOneMebibyte(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	topic := compacted()
	topic.SegmentBytes = 8 << 20
	w, p := begin(t, topic)
	const keys, again = 1_000_000, 250_000
	b := record.NewBuilder(record.None)
	write := func(k, v int) {
		b.Add(w.Clock.UnixMilli(), fmt.Appendf(nil, "k%d", k), fmt.Appendf(nil, "v%d", v), nil)
		if b.Count() == 5000 {
			batch, err := b.Build()
			if err == nil {
				_, err = partitiontest.AppendBatch(p, bytes.Clone(batch))
			}
			if err != nil {
				t.Fatal(err)
			}
			b.Reset()
		}
	}
	for k := range keys {
		write(k, 1)
	}
	for i := range again {
		write(i*37%keys, 2)
	}
	roll(t, w, p)
	w.Frames = nil // the fake journal keeps them in memory
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	idle, highest := m.HeapAlloc, uint64(0)
	c := cleaner.New(cleaner.Config{
		Partitions: func() iter.Seq[cleaner.Partition] {
			return func(yield func(cleaner.Partition) bool) { yield(&sampled{Partition: p, highest: &highest}) }
		},
		Now: func() time.Time { return w.Clock }, Elapsed: func() time.Duration { return 0 }, Budget: 1 << 40,
	})
	took := time.Now()
	pass(t, c)
	used := int64(highest) - int64(idle)
	t.Logf("%v for %d records, %d KiB of heap at the most, what waits for the collector included; %d bytes saved",
		time.Since(took).Round(time.Millisecond), keys+again, used>>10, c.Saved())
	if used > 12<<20 {
		t.Errorf("compaction took %d bytes of heap", used)
	}
	n := 0
	for line := range slices.Values(list(t, p)) {
		_, kv, _ := strings.Cut(line, " ")
		key, value, _ := strings.Cut(kv, "=")
		k := 0
		if _, err := fmt.Sscanf(key, "k%d", &k); err != nil {
			t.Fatal(err)
		}
		// 37 has an inverse modulo a million: k was written again when k/37 is below the number of those.
		if want := map[bool]string{true: "v2", false: "v1"}[k*inverse37%keys < again]; value != want {
			t.Fatalf("%s is %s, want %s", key, value, want)
		}
		n++
	}
	if n != keys {
		t.Errorf("%d keys are left, want %d", n, keys)
	}
}

const inverse37 = 972_973

// A tombstone goes when its time has come, counted from its first compaction, and never while something older of its key
// could come back.
func TestTombstones(t *testing.T) {
	topic := compacted()
	topic.DeleteRetentionMS, topic.MinCleanableRatio = 3_600_000, 0
	w, p := begin(t, topic)
	put(t, w, p, "gone=1", "stays=1")
	put(t, w, p, "gone")
	w.Clock = w.Clock.Add(10 * time.Hour) // as old as that, and not compacted once
	roll(t, w, p)
	c := sweeper(w, 0, 0)
	pass(t, c)
	expect(t, p, "1 stays=1", "2 gone")
	for _, tt := range []struct {
		after time.Duration
		want  []string
	}{
		{59 * time.Minute, []string{"1 stays=1", "2 gone"}},
		{2 * time.Minute, []string{"1 stays=1"}},
	} {
		w.Clock = w.Clock.Add(tt.after)
		roll(t, w, p)
		pass(t, c)
		expect(t, p, tt.want...)
	}
}

// A board that learned in this life that it had been off dates tombstones by the right time. By its ages, which only run,
// they stay for longer, and in the next life, whose ages begin with the right time, they go when theirs has come.
func TestATombstoneIsDatedByTheRightTime(t *testing.T) {
	topic := compacted()
	topic.DeleteRetentionMS, topic.MinCleanableRatio = 3_600_000, 0
	w, p := begin(t, topic)
	off := 1000 * time.Hour
	c := cleaner.New(cleaner.Config{
		Partitions: func() iter.Seq[cleaner.Partition] {
			return func(yield func(cleaner.Partition) bool) { yield(p) }
		},
		Now: func() time.Time { return w.Clock }, Elapsed: func() time.Duration { return 0 },
		Date: func(now time.Time) time.Time { return now.Add(off) },
	})
	step := func(ran time.Duration) {
		t.Helper()
		w.Clock = w.Clock.Add(ran)
		roll(t, w, p)
		pass(t, c)
	}
	put(t, w, p, "gone=1")
	put(t, w, p, "gone")
	step(0)
	expect(t, p, "1 gone")
	step(2 * time.Hour)
	expect(t, p, "1 gone")
	w.Clock, off = w.Clock.Add(off), 0
	step(-61 * time.Minute)
	expect(t, p, "1 gone")
	step(2 * time.Minute)
	expect(t, p)
}

// The file that says how far a log is compacted is not synced, and may say too much.
func TestACheckpointFileThatLies(t *testing.T) {
	topic := compacted()
	topic.DeleteRetentionMS, topic.MinCleanableRatio = 3_600_000, 0
	w, p := begin(t, topic)
	put(t, w, p, "gone=1", "kept=1")
	put(t, w, p, "gone")
	roll(t, w, p)
	text := fmt.Sprintf("0\n2\na 0 %d\nelsewhere 7 12\n", p.End()-1)
	w.Stop()
	if err := os.WriteFile(filepath.Join(w.Dir, partition.CleanedName), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	w.Start()
	p = w.Partition("a")
	if p.CleanedTo() != p.End()-1 {
		t.Fatalf("the file says %d, read was %d", p.End()-1, p.CleanedTo())
	}
	c := sweeper(w, 0, 0)
	for range 3 {
		put(t, w, p, "other=1")
		roll(t, w, p)
		pass(t, c)
		w.Clock = w.Clock.Add(2 * time.Hour)
	}
	for _, line := range list(t, p) {
		if strings.Contains(line, "gone") {
			t.Errorf("what was deleted is back: %v", list(t, p))
		}
	}
	// And one that is told the truth is believed after a restart.
	was := p.CleanedTo()
	w.Stop()
	w.Start()
	if p = w.Partition("a"); p.CleanedTo() != was || was == 0 {
		t.Errorf("compacted to %d, after a restart it says %d", was, p.CleanedTo())
	}
}

// A segment that has rotted is left as it is, and so are the tombstones of what may be in it.
func TestADamagedSegmentIsNotRewritten(t *testing.T) {
	topic := compacted()
	topic.DeleteRetentionMS, topic.MinCleanableRatio = 1000, 0
	w, p := begin(t, topic)
	put(t, w, p, "gone=1", "x=1")
	put(t, w, p, "y=1")
	roll(t, w, p)
	put(t, w, p, "x=2")
	put(t, w, p, "gone")
	roll(t, w, p)
	w.Stop()
	path := filepath.Join(w.Dir, "topics", "a-0", "00000000000000000000.log")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)-1] ^= 1 // y
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	w.Start()
	p = w.Partition("a")
	c := sweeper(w, 0, 0)
	for range 3 {
		roll(t, w, p)
		pass(t, c)
		w.Clock = w.Clock.Add(time.Hour)
	}
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, raw) {
		t.Errorf("the damaged segment was changed: %d bytes of %d, %v", len(now), len(raw), err)
	}
	if got := list(t, p); !slices.ContainsFunc(got, func(l string) bool { return strings.HasSuffix(l, " gone") }) {
		t.Errorf("the tombstone went, its key is in a segment nobody can rewrite: %v", got)
	}
}

// Records without a key are of before the topic was compacted; they go, as in Kafka.
func TestRecordsWithoutAKeyGo(t *testing.T) {
	w, p := begin(t, catalog.DefaultTopicConfig())
	if _, err := partitiontest.Append(p, "no key"); err != nil {
		t.Fatal(err)
	}
	put(t, w, p, "k=1")
	p.SetConfig(compacted())
	if _, err := partitiontest.Append(p, "no key"); !errors.Is(err, record.ErrInvalid) {
		t.Errorf("without a key into a compacted topic: %v", err)
	}
	roll(t, w, p)
	pass(t, sweeper(w, 0, 0))
	expect(t, p, "1 k=1")
}

// A topic that is compacted and deleted keeps the last value of a key until retention.ms is over; one that is compacted
// keeps it for good, whatever retention says.
func TestBothPolicies(t *testing.T) {
	for _, both := range []bool{false, true} {
		topic := compacted()
		topic.CleanupDelete, topic.MinCleanableRatio, topic.RetentionMS, topic.RetentionBytes = both, 0, 3_600_000, -1
		w, p := begin(t, topic)
		c := sweeper(w, 0, 0)
		put(t, w, p, "once=1", "twice=1", "twice=2")
		roll(t, w, p)
		pass(t, c)
		w.Clock = w.Clock.Add(50 * time.Minute)
		put(t, w, p, "young=1")
		pass(t, c)
		expect(t, p, "0 once=1", "2 twice=2", "4 young=1")
		w.Clock = w.Clock.Add(20 * time.Minute)
		pass(t, c)
		want := []string{"0 once=1", "2 twice=2", "4 young=1"}
		if both {
			want = want[2:]
		}
		expect(t, p, want...)
	}
}

// A full disk does not wait for the end of a compaction.
func TestRetentionHasItsTurnInTheMiddleOfACompaction(t *testing.T) {
	topic := compacted()
	topic.SegmentBytes = 1 << 20
	w, p := begin(t, topic)
	for i := range 6 {
		put(t, w, p, fmt.Sprintf("k%d=%s", i, strings.Repeat("v", 900_000)))
	}
	roll(t, w, p)
	asked, served := 0, 0
	var c *cleaner.Cleaner
	c = cleaner.New(cleaner.Config{
		Partitions: func() iter.Seq[cleaner.Partition] {
			return func(yield func(cleaner.Partition) bool) {
				yield(&asking{p, func() { asked++; c.Sweep() }, func() { served++ }})
			}
		},
		Now: func() time.Time { return w.Clock }, Elapsed: func() time.Duration { return 0 },
	})
	pass(t, c)
	if asked == 0 || served < 3 {
		t.Errorf("asked %d times, retention ran %d times", asked, served)
	}
}

// asking asks for a sweep while it is compacted, and tells of every retention.
type asking struct {
	*partition.Partition
	read, retained func()
}

func (a *asking) Scan(c partition.Closed, fn func(record.Batch) error) (bool, error) {
	a.read()
	return a.Partition.Scan(c, fn)
}

func (a *asking) Retain(now int64) (partition.Retained, error) {
	a.retained()
	return a.Partition.Retain(now)
}
