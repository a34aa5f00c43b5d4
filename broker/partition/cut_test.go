package partition_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
	"millrace/broker/journal"
	"millrace/broker/partition"
	"millrace/broker/partition/partitiontest"
	"millrace/broker/record"
	"millrace/broker/segment"
)

// What power cuts have found, each as the smallest story that tells it.

var errDisk = errors.New("medium error")

// add appends a batch of one record of about size bytes, its value beginning with its offset.
func add(t *testing.T, p *partition.Partition, size int) {
	t.Helper()
	at := p.End()
	if base, err := partitiontest.Append(p, fmt.Sprintf("%d %s", at, strings.Repeat("x", size))); err != nil || base != at {
		t.Fatalf("append at %d: %d, %v", at, base, err)
	}
}

func TestTornCommitIsCancelledWhereTheLogGoesOn(t *testing.T) {
	w := partitiontest.New(t)
	w.Topic.SegmentBytes = 1000
	w.Start()
	w.Journal.InlineMax = 1
	p := w.Create("a")
	add(t, p, 300)
	if err := w.Store.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	add(t, p, 800) // begins a segment
	w.Kill()
	cutFile(t, logFile(w, "a", 1), 0) // its bytes never came to the disk: neither did the commit
	w.Start()
	w.Journal.InlineMax = 0
	add(t, w.Partition("a"), 20) // into the old segment
	add(t, w.Partition("a"), 20)
	want := values(t, w.Partition("a"))
	w.Restart()
	if got := values(t, w.Partition("a")); len(got) != 3 || !slices.Equal(got, want) {
		t.Errorf("holds %v, want %v", got, want)
	}
}

func TestFilesOfADeletedTopicStayUntilItsNewNameIsDurable(t *testing.T) {
	w := partitiontest.New(t)
	fs := disktest.New(disk.OS{})
	w.FS = fs
	w.Start()
	partitiontest.Fill(t, w.Create("a"), 3)
	fs.FailSync("partition.topics", errDisk, 1)
	if err := w.Store.DeleteTopic(partitiontest.ID("a")); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(w.Dir, "topics", "a-0.*-delete", "*"))
	if err != nil || !slices.ContainsFunc(left, func(name string) bool { return filepath.Base(name) == "partition.metadata" }) {
		t.Errorf("left of the directory: %v, %v", left, err)
	}
	delete(w.Catalog, partitiontest.ID("a"))
	w.Restart()
	if left, err = filepath.Glob(filepath.Join(w.Dir, "topics", "*")); err != nil || len(left) > 0 {
		t.Errorf("left after the next start: %v, %v", left, err)
	}
}

func TestPartitionThatNothingWasCommittedToIsEmpty(t *testing.T) {
	w := partitiontest.New(t)
	w.Topic.SegmentBytes = 300
	w.Start()
	p := w.Create("a")
	w.Journal.Hold()
	for range 6 {
		p.Append(partitiontest.Batch("never answered", "nor this one"), partition.AppendOptions{Epoch: -1}, func(partition.AppendResult) {})
	}
	w.Kill()
	if err := os.Remove(logFile(w, "a", 0)); err != nil {
		t.Fatal(err)
	}
	w.Start()
	if p := w.Partition("a"); p.Start() != 0 || p.End() != 0 {
		t.Errorf("log %d to %d", p.Start(), p.End())
	}
	partitiontest.Fill(t, w.Partition("a"), 2)
	w.Restart()
	if got := values(t, w.Partition("a")); !slices.Equal(got, want(0, 2)) {
		t.Errorf("holds %v", got)
	}
}

func TestPartitionThatCouldNotBeMadeIsNotThere(t *testing.T) {
	w := partitiontest.New(t)
	fs := disktest.New(disk.OS{})
	w.FS = fs
	w.Start()
	fs.FailSync("segment.metadata.dir", errDisk, 1)
	topic := partition.Topic{ID: partitiontest.ID("a"), Name: "a"}
	if _, err := w.Store.Create(topic, 0, w.Topic); !errors.Is(err, errDisk) {
		t.Fatal(err)
	}
	if err := w.Store.DeleteTopic(topic.ID); err != nil {
		t.Fatal(err)
	}
	w.Restart()
	if p := w.Store.Get(topic.ID, 0); p != nil {
		t.Error("it is there after a restart")
	}
}

// comeBack puts the end of a file back that a cut took and no sync has made durable.
func comeBack(t *testing.T, name string, was []byte) {
	t.Helper()
	now, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, append(now, was[len(now):]...), 0o644); err != nil {
		t.Fatal(err)
	}
}

// truncated is a log of 20 records in segment 0, cut in its middle by a truncation that the disk has not seen when then
// has been done, the process killed and the log recovered.
func truncated(t *testing.T, then func(p *partition.Partition)) {
	t.Helper()
	w := partitiontest.New(t)
	w.Topic.SegmentBytes = 1500
	w.Start()
	p := w.Create("a")
	partitiontest.Fill(t, p, 20)
	name := logFile(w, "a", 0)
	was, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Truncate(10); err != nil {
		t.Fatal(err)
	}
	then(p)
	want := values(t, p)
	w.Kill()
	comeBack(t, name, was)
	w.Start()
	if err := w.Store.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	w.Restart()
	if got := values(t, w.Partition("a")); !slices.Equal(got, want) {
		t.Errorf("holds %v, want %v", got, want)
	}
	add(t, w.Partition("a"), 10)
}

func TestOlderSegmentIsCutThoughItEndsWhereReplayEnded(t *testing.T) {
	truncated(t, func(p *partition.Partition) {
		add(t, p, 100)
		add(t, p, 1400) // begins a segment
	})
}

func TestTruncationOfTheNextSegmentDoesNotCancelTheOneBefore(t *testing.T) {
	truncated(t, func(p *partition.Partition) {
		add(t, p, 1400) // begins segment 10
		if _, err := p.Truncate(10); err != nil {
			t.Fatal(err)
		}
		add(t, p, 100)
	})
}

func TestFlushThatFailsWhileClosingKeepsTheJournal(t *testing.T) {
	for _, point := range []disk.Point{"segment.log", "segment.epochs"} {
		t.Run(string(point), func(t *testing.T) {
			w := partitiontest.New(t)
			fs := disktest.New(disk.OS{})
			w.FS = fs
			w.Start()
			partitiontest.Fill(t, w.Create("a"), 5)
			fs.FailSync(point, errDisk, 1)
			if err := w.Store.Close(); !errors.Is(err, errDisk) {
				t.Errorf("close: %v", err)
			}
			w.Store = nil
			cutFile(t, logFile(w, "a", 0), 0)
			w.Start()
			if got := values(t, w.Partition("a")); !slices.Equal(got, want(0, 5)) {
				t.Errorf("holds %v", got)
			}
		})
	}
}

func TestSequencesOutliveTheirRecords(t *testing.T) {
	for _, inline := range []int{0, 1} {
		t.Run(fmt.Sprint("inline below ", inline), func(t *testing.T) {
			w := partitiontest.New(t)
			w.Topic.SegmentBytes = 200
			w.Start()
			w.Journal.InlineMax = inline
			p := w.Create("a")
			send := func(sequence int32) {
				t.Helper()
				b := partitiontest.Batch(fmt.Sprint("sequence ", sequence))
				b.SetProducer(42, 0, sequence, false)
				if _, err := partitiontest.AppendBatch(p, b); err != nil {
					t.Errorf("sequence %d: %v", sequence, err)
				}
			}
			send(0)
			if err := w.Store.Checkpoint(); err != nil {
				t.Fatal(err)
			}
			for sequence := range int32(4) {
				send(sequence + 1)
			}
			partitiontest.Fill(t, p, 6)
			done := make(chan error, 1)
			p.DeleteRecords(-1, func(_ int64, err error) { done <- err })
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if r, err := p.Retain(w.Clock.UnixMilli()); err != nil || r.Segments == 0 {
				t.Fatalf("%+v, %v", r, err)
			}
			w.Restart() // removes what is left below the start
			w.Restart() // and finds it gone
			p = w.Partition("a")
			send(5)
		})
	}
}

func TestSnapshotOfACheckpointThatDidNotEndIsNotBelieved(t *testing.T) {
	for _, slot := range []bool{false, true} {
		w := partitiontest.New(t)
		fs := disktest.New(disk.OS{})
		w.FS = fs
		w.Start()
		p := w.Create("a")
		partitiontest.Fill(t, p, 2)
		if slot {
			if err := w.Store.Checkpoint(); err != nil {
				t.Fatal(err)
			}
		}
		send := func(id int64) int64 {
			t.Helper()
			b := partitiontest.Batch("x")
			b.SetProducer(id, 0, 0, false)
			base, err := partitiontest.AppendBatch(p, b)
			if err != nil {
				t.Fatal(err)
			}
			return base
		}
		send(1)
		fs.FailSync("checkpoint.slot", errDisk, 1)
		if err := w.Store.Checkpoint(); !errors.Is(err, errDisk) { // it has written snapshot 3
			t.Fatal(err)
		}
		if _, err := p.Truncate(2); err != nil {
			t.Fatal(err)
		}
		if at := send(2); at != 2 {
			t.Fatalf("appended at %d", at)
		}
		partitiontest.Fill(t, p, 2)
		w.Restart()
		p = w.Partition("a")
		if at := send(2); at != 2 {
			t.Errorf("slot %v: the same batch again is answered with %d", slot, at)
		}
		if at := send(1); at != 5 {
			t.Errorf("slot %v: a batch that was truncated is answered with %d", slot, at)
		}
	}
}

func TestTruncationInsideTheBatchOfTheStartLowersTheStart(t *testing.T) {
	for _, checkpoint := range []bool{false, true} {
		w := partitiontest.New(t).Start()
		p := w.Create("a")
		partitiontest.Fill(t, p, 1)
		if _, err := partitiontest.Append(p, "one", "two", "three"); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		p.DeleteRecords(2, func(_ int64, err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if checkpoint {
			if err := w.Store.Checkpoint(); err != nil {
				t.Fatal(err)
			}
		}
		if end, err := p.Truncate(2); err != nil || end != 1 {
			t.Fatalf("truncated to %d, %v", end, err)
		}
		partitiontest.Fill(t, p, 2)
		w.Restart()
		p = w.Partition("a")
		if got := values(t, p); p.Start() != 1 || !slices.Equal(got, want(1, 3)) {
			t.Errorf("checkpoint %v: start %d, holds %v", checkpoint, p.Start(), got)
		}
	}
}

func TestTruncatedSegmentThatExpiredIsNotMissed(t *testing.T) {
	w := partitiontest.New(t)
	w.Topic.RetentionMS = 1000
	w.Start()
	p := w.Create("a")
	partitiontest.Fill(t, p, 9)
	if err := w.Store.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	p.DeleteRecords(6, func(_ int64, err error) { done <- err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := p.Truncate(6); err != nil {
		t.Fatal(err)
	}
	if r, err := p.Retain(w.Clock.UnixMilli() + 10_000); err != nil || r.Segments != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	w.Restart()
	if len(w.Report.Lost) > 0 {
		t.Errorf("lost: %v", w.Report.Lost)
	}
	partitiontest.Fill(t, w.Partition("a"), 2)
	w.Restart()
	if got := values(t, w.Partition("a")); !slices.Equal(got, want(6, 8)) {
		t.Errorf("holds %v", got)
	}
}

func TestJournalThatDoesNotOpenIsNotClosed(t *testing.T) {
	_, _, err := partition.Open(partition.Config{Dir: t.TempDir(), OpenJournal: func(journal.Mark) (partition.Journal, error) {
		var none *journal.Journal
		return none, errDisk
	}})
	if !errors.Is(err, errDisk) {
		t.Error(err)
	}
}

// The file of leader epochs is older than the log, and the log has a hole that only the journal can mend: the list that is
// made from it must not say that the epoch begins behind the hole.
func TestEpochsReadFromALogWithAHoleAreThoseOfTheJournal(t *testing.T) {
	w := partitiontest.New(t)
	w.Topic.SegmentBytes = 500
	w.Start()
	p := w.Create("a")
	partitiontest.Fill(t, p, 3)
	if err := w.Store.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	epochs, err := os.ReadFile(filepath.Join(w.Dir, "topics", "a-0", "leader-epoch-checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.SetLeader(1, true); err != nil {
		t.Fatal(err)
	}
	low := make(chan error, 1)
	partitiontest.Fill(t, p, 20)
	p.DeleteRecords(8, func(_ int64, err error) { low <- err })
	if err := <-low; err != nil {
		t.Fatal(err)
	}
	if _, err := p.Retain(w.Clock.UnixMilli()); err != nil {
		t.Fatal(err)
	}
	if err := w.Store.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	if err := p.SetLeader(2, true); err != nil {
		t.Fatal(err)
	}
	at := p.End()
	partitiontest.Fill(t, p, 20)
	w.Kill()
	if err := os.WriteFile(filepath.Join(w.Dir, "topics", "a-0", "leader-epoch-checkpoint"), epochs, 0o644); err != nil {
		t.Fatal(err)
	}
	logs, err := filepath.Glob(filepath.Join(w.Dir, "topics", "a-0", "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	hole := ""
	for _, name := range logs {
		if base, ok := segment.ParseName(filepath.Base(name), segment.LogSuffix); ok && base <= at {
			hole = name
		}
	}
	raw, err := os.ReadFile(hole)
	if err != nil {
		t.Fatal(err)
	}
	from := 0
	for b, rest, err := record.Next(raw); err == nil && b.BaseOffset() < at; b, rest, err = record.Next(rest) {
		from += len(b)
	}
	if from == 0 || from == len(raw) {
		t.Fatalf("no hole to be made in %s", hole)
	}
	if err := os.Truncate(hole, int64(from)); err != nil {
		t.Fatal(err)
	}
	w.Start()
	if got, all := values(t, w.Partition("a")), want(8, 43); !slices.Equal(got, all) {
		t.Errorf("after the start\n%v, want\n%v", got, all)
	}
	if epoch, end := w.Partition("a").EpochEnd(1); epoch != 1 || end != at {
		t.Errorf("epoch 1 ends with %d at %d, want %d", epoch, end, at)
	}
}
