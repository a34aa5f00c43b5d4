package partition_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/broker/catalog"
	"millrace/broker/disk"
	"millrace/broker/partition"
	"millrace/broker/partition/partitiontest"
)

// Retention and checkpoints hold partitions for a while. One that is deleted meanwhile must not touch the files of a new
// topic that has taken its name, and with it its directory.
func TestADeletedPartitionTouchesNoFileOfItsSuccessor(t *testing.T) {
	w := partitiontest.New(t)
	w.Topic.SegmentBytes = 300
	w.Start()
	old := w.Create("a")
	partitiontest.Fill(t, old, 20)
	low := make(chan error, 1)
	old.DeleteRecords(10, func(_ int64, err error) { low <- err }) // the segments below wait for retention
	if err := <-low; err != nil {
		t.Fatal(err)
	}
	if err := w.Store.DeleteTopic(partitiontest.ID("a")); err != nil {
		t.Fatal(err)
	}
	delete(w.Catalog, partitiontest.ID("a"))
	again := partition.Topic{ID: catalog.TopicID{9}, Name: "a"}
	w.Catalog[again.ID] = again
	p, err := w.Store.Create(again, 0, w.Topic)
	if err != nil {
		t.Fatal(err)
	}
	partitiontest.Fill(t, p, 3)
	for name, pass := range map[string]func() (partition.Retained, error){
		"retain":      func() (partition.Retained, error) { return old.Retain(w.Clock.UnixMilli()) },
		"drop oldest": func() (partition.Retained, error) { return old.DropOldest(partition.Delivered) },
	} {
		if r, err := pass(); err != nil || r.Segments != 0 {
			t.Errorf("%s of the deleted one: %+v, %v", name, r, err)
		}
	}
	if err := w.Store.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	w.Restart()
	if got := values(t, w.Store.Get(again.ID, 0)); !slices.Equal(got, want(0, 3)) {
		t.Errorf("the new topic holds %v: %v", got, w.Report.Lost)
	}
}

// renaming is a disk on which something happens before a deleted directory gets its new name.
type renaming struct {
	disk.OS
	before func()
}

func (r *renaming) Rename(from, to string) error {
	if r.before != nil && strings.HasSuffix(to, "-delete") {
		r.before()
	}
	return r.OS.Rename(from, to)
}

// A checkpoint lets the journal forget a deletion. The directory must not have its old name then: it would be back after
// a power cut, and nothing would say that it was deleted.
func TestACheckpointWaitsForADeletionsNewNames(t *testing.T) {
	fs := &renaming{}
	w := partitiontest.New(t)
	w.FS = fs
	w.Start()
	partitiontest.Fill(t, w.Create("a"), 3)
	done := make(chan error, 1)
	fs.before = func() {
		go func() { done <- w.Store.Checkpoint() }()
		select {
		case err := <-done:
			t.Errorf("a checkpoint went by between the deletion and its rename: %v", err)
			done <- err
		case <-time.After(100 * time.Millisecond): // long enough for a checkpoint that does not wait
		}
	}
	if err := w.Store.DeleteTopic(partitiontest.ID("a")); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
