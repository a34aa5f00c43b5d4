package partition_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"millrace/broker/catalog"
	"millrace/broker/journal"
	"millrace/broker/partition"
	"millrace/broker/partition/partitiontest"
)

// want is what Fill wrote at offsets from to to-1, but those in lost.
func want(from, to int64, lost ...int64) (v []string) {
	for o := from; o < to; o++ {
		if !slices.Contains(lost, o) {
			v = append(v, fmt.Sprintf("%d=%d", o, o))
		}
	}
	return v
}

func values(t *testing.T, p *partition.Partition) []string {
	t.Helper()
	v, err := partitiontest.Values(p)
	if err != nil {
		t.Fatalf("read %s: %v", p, err)
	}
	return v
}

// cutFile leaves the first n bytes of a file, counted from the end when n is negative.
func cutFile(t *testing.T, name string, n int64) {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if n < 0 {
		n += info.Size()
	}
	if err := os.Truncate(name, n); err != nil {
		t.Fatal(err)
	}
}

// flip turns one bit of a file.
func flip(t *testing.T, name string, at int64) {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	raw[at] ^= 0x10
	if err := os.WriteFile(name, raw, 0o644); err != nil {
		t.Fatal(err)
	}
}

func logFile(w *partitiontest.World, topic string, base int64) string {
	return filepath.Join(w.Dir, "topics", topic+"-0", fmt.Sprintf("%020d.log", base))
}

func TestReopenAfterAnyStop(t *testing.T) {
	for _, tt := range []struct {
		name   string
		inline int // InlineMax of the journal
		before func(w *partitiontest.World, p *partition.Partition)
		damage func(t *testing.T, w *partitiontest.World)
		want   []string
		gaps   int64
	}{
		{name: "clean", want: want(0, 20)},
		{name: "log lost from the checkpoint on", damage: func(t *testing.T, w *partitiontest.World) {
			cutFile(t, logFile(w, "a", 0), -700)
		}, want: want(0, 20)},
		{name: "tail never synced", damage: func(t *testing.T, w *partitiontest.World) { w.Frames.Lose(3) }, want: want(0, 17)},
		{name: "batch torn in half", damage: func(t *testing.T, w *partitiontest.World) {
			w.Frames.Lose(1)
			cutFile(t, logFile(w, "a", 0), -30)
		}, want: want(0, 19)},
		{name: "log gone altogether before a checkpoint", before: func(w *partitiontest.World, p *partition.Partition) {}, damage: func(t *testing.T, w *partitiontest.World) {
			if err := os.RemoveAll(filepath.Join(w.Dir, "topics")); err != nil {
				t.Fatal(err)
			}
		}, want: want(0, 20)},
		{name: "pointed bytes of the last commit missing", inline: 1, damage: func(t *testing.T, w *partitiontest.World) {
			cutFile(t, logFile(w, "a", 0), -1)
		}, want: want(0, 19)},
		{name: "pointed bytes of an earlier commit rotten", inline: 1, damage: func(t *testing.T, w *partitiontest.World) {
			flip(t, logFile(w, "a", 0), 10*69+5*70+65)
		}, want: want(0, 20, 15), gaps: 2},
		{name: "journal frame rotten, segment whole", damage: func(t *testing.T, w *partitiontest.World) { w.Frames.Damage(5) }, want: want(0, 20), gaps: 1},
		{name: "journal frame rotten, segment lost too", damage: func(t *testing.T, w *partitiontest.World) {
			w.Frames.Damage(5)
			cutFile(t, logFile(w, "a", 0), 10*70)
		}, want: want(0, 20, 15), gaps: 2},
		{name: "newer slot torn", damage: func(t *testing.T, w *partitiontest.World) { cutFile(t, partition.SlotPath(w.Dir, 1), 40) }, want: want(0, 20), gaps: 1},
		{name: "both slots torn", damage: func(t *testing.T, w *partitiontest.World) {
			flip(t, partition.SlotPath(w.Dir, 0), 20)
			flip(t, partition.SlotPath(w.Dir, 1), 20)
		}, want: want(0, 20), gaps: 2},
		{name: "both slots torn, journal empty", before: func(w *partitiontest.World, p *partition.Partition) {
			if err := w.Store.Checkpoint(); err != nil {
				panic(err)
			}
		}, damage: func(t *testing.T, w *partitiontest.World) {
			flip(t, partition.SlotPath(w.Dir, 0), 20)
			flip(t, partition.SlotPath(w.Dir, 1), 20)
		}, want: want(0, 20), gaps: 2},
		{name: "indexes lost", damage: func(t *testing.T, w *partitiontest.World) {
			for _, s := range []string{".index", ".timeindex"} {
				if err := os.Remove(strings.TrimSuffix(logFile(w, "a", 0), ".log") + s); err != nil && !os.IsNotExist(err) {
					t.Fatal(err)
				}
			}
		}, want: want(0, 20)},
		{name: "metadata lost, the catalog knows the name", damage: func(t *testing.T, w *partitiontest.World) {
			if err := os.Remove(filepath.Join(w.Dir, "topics", "a-0", "partition.metadata")); err != nil {
				t.Fatal(err)
			}
		}, want: want(0, 20)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := partitiontest.New(t)
			w.Start()
			w.Journal.InlineMax = tt.inline
			p := w.Create("a")
			partitiontest.Fill(t, p, 10)
			if tt.before == nil {
				if err := w.Store.Checkpoint(); err != nil {
					t.Fatal(err)
				}
			}
			partitiontest.Fill(t, p, 10)
			if tt.before != nil {
				tt.before(w, p)
			}
			w.Kill()
			if tt.damage != nil {
				tt.damage(t, w)
			}
			w.Start()
			if got := values(t, w.Partition("a")); !slices.Equal(got, tt.want) {
				t.Errorf("after restart:\n%v, want\n%v\nlost: %v", got, tt.want, w.Report.Lost)
			}
			if w.Report.Gaps != tt.gaps {
				t.Errorf("%d gaps, want %d: %v", w.Report.Gaps, tt.gaps, w.Report.Lost)
			}
			// Whatever was lost, it goes on, and a second stop changes nothing.
			at := w.Partition("a").End()
			partitiontest.Fill(t, w.Partition("a"), 3)
			w.Restart()
			p = w.Partition("a")
			if got := values(t, p); p.End() != at+3 || !slices.Equal(got, append(tt.want, want(at, at+3)...)) {
				t.Errorf("after the second restart, end %d: %v", p.End(), got)
			}
		})
	}
}

func TestDeletedTopicStaysDeletedAndItsNameIsFree(t *testing.T) {
	w := partitiontest.New(t).Start()
	partitiontest.Fill(t, w.Create("a"), 5)
	dir := filepath.Join(w.Dir, "topics", "a-0")
	saved := t.TempDir()
	if err := os.CopyFS(saved, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Store.DeleteTopic(partitiontest.ID("a")); err != nil {
		t.Fatal(err)
	}
	delete(w.Catalog, partitiontest.ID("a"))
	w.Kill()
	// The rename was not durable: the old directory is back.
	if err := os.CopyFS(dir, os.DirFS(saved)); err != nil {
		t.Fatal(err)
	}
	w.Start()
	if p := w.Store.Get(partitiontest.ID("a"), 0); p != nil {
		t.Fatalf("a deleted topic came back with %v", values(t, p))
	}
	again := partition.Topic{ID: catalog.TopicID{9}, Name: "a"}
	w.Catalog[again.ID] = again
	p, err := w.Store.Create(again, 0, w.Topic)
	if err != nil {
		t.Fatal(err)
	}
	partitiontest.Fill(t, p, 2)
	w.Restart()
	if got := values(t, w.Store.Get(again.ID, 0)); !slices.Equal(got, want(0, 2)) {
		t.Errorf("recreated topic holds %v", got)
	}
}

func TestOrphansAreToldAndKept(t *testing.T) {
	w := partitiontest.New(t).Start()
	partitiontest.Fill(t, w.Create("a"), 5)
	if err := w.Store.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	delete(w.Catalog, partitiontest.ID("a"))
	w.Restart()
	o := w.Report.Orphans
	if len(o) != 1 || o[0].Topic.Name != "a" || o[0].Topic.ID != partitiontest.ID("a") || o[0].Partitions != 1 {
		t.Fatalf("orphans %+v", o)
	}
	if got := values(t, w.Create("a")); !slices.Equal(got, want(0, 5)) {
		t.Errorf("adopted orphan holds %v", got)
	}
}

func TestEntriesOfUnknownTopicsAreQuarantined(t *testing.T) {
	w := partitiontest.New(t).Start()
	partitiontest.Fill(t, w.Create("a"), 2)
	w.Kill()
	b := partitiontest.Batch("lost")
	w.Frames.Add(journal.Entry{Kind: journal.Append, Topic: catalog.TopicID{1}, Length: int32(len(b)), Bytes: b})
	w.Start()
	files, err := filepath.Glob(filepath.Join(w.Dir, "quarantine", "*"))
	if w.Report.Quarantined != 1 || err != nil || len(files) != 1 {
		t.Errorf("quarantined %d in %v, %v", w.Report.Quarantined, files, err)
	}
	if got := values(t, w.Partition("a")); !slices.Equal(got, want(0, 2)) {
		t.Errorf("the known topic holds %v", got)
	}
}

func TestStartMovedSurvivesWhatItUnlinked(t *testing.T) {
	w := partitiontest.New(t)
	w.Topic.SegmentBytes = 300
	w.Start()
	p := w.Create("a")
	partitiontest.Fill(t, p, 20)
	low := make(chan int64, 1)
	p.DeleteRecords(10, func(l int64, err error) {
		if err != nil {
			t.Error(err)
		}
		low <- l
	})
	if got := <-low; got != 10 {
		t.Fatalf("start %d", got)
	}
	r, err := p.Retain(w.Clock.UnixMilli())
	if err != nil || r.Segments == 0 {
		t.Fatalf("retained %+v, %v", r, err)
	}
	w.Restart()
	p = w.Partition("a")
	if got := values(t, p); p.Start() != 10 || !slices.Equal(got, want(10, 20)) {
		t.Errorf("start %d, holds %v", p.Start(), got)
	}
	if _, err := os.Stat(logFile(w, "a", 0)); !os.IsNotExist(err) {
		t.Errorf("the first segment is back: %v", err)
	}
}

// The checksum in a pointer is joined from the batches' own. With a wrong one the last commit would be taken for torn.
func TestThePointersOfTheLastCommitAreBelieved(t *testing.T) {
	w := partitiontest.New(t)
	w.Real = true
	w.Start()
	p := w.Create("a")
	batches := append(partitiontest.Batch(strings.Repeat("x", 80<<10)), partitiontest.Batch("small")...)
	if _, err := partitiontest.AppendBatch(p, batches); err != nil {
		t.Fatal(err)
	}
	w.Kill()
	w.Start()
	if p = w.Partition("a"); p.High() != 2 || len(w.Report.Lost) != 0 {
		t.Errorf("high watermark %d, want 2; lost %v", p.High(), w.Report.Lost)
	}
}
