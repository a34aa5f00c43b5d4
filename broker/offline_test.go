package broker

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"millrace/broker/catalog"
	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
	"millrace/broker/partition"
)

func TestATopicThatCannotBeOpenedIsOfflineAndComesBack(t *testing.T) {
	dir := t.TempDir()
	b := board(t, dir, nil)
	appendOne(t, b, "failing", "value")
	appendOne(t, b, "well", "value")
	id := b.Image().Topic("failing").ID
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	var fails atomic.Bool
	fails.Store(true)
	failing := &disktest.Failing{FS: disk.OS{}, Fault: func(op, name string) error {
		if fails.Load() && strings.Contains(name, "failing-0") {
			return fmt.Errorf("%s: %w", op, syscall.EIO)
		}
		return nil
	}}
	b = boardOn(t, failing, dir, nil)
	if _, ok := b.Topic("failing"); ok {
		t.Error("a topic that is offline is found")
	}
	if _, err := b.Ensure(t.Context(), "failing"); !errors.Is(err, partition.ErrOffline) || !errors.Is(err, syscall.EIO) {
		t.Errorf("Ensure = %v, want %v", err, partition.ErrOffline)
	}
	appendOne(t, b, "well", "another")
	appendOne(t, b, "new", "value") // a new topic is none of its business
	if list, ok := b.Topic("well"); !ok || list[0].High() != 2 {
		t.Error("the other topic is not served")
	}
	if b.Image().Topic("failing").ID != id {
		t.Error("it was made anew")
	}
	kept, err := filepath.Glob(filepath.Join(dir, partition.OfflineDir, "*"+partition.EntriesSuffix))
	if err != nil || len(kept) != 1 {
		t.Fatalf("kept: %v, %v", kept, err)
	}
	if err := Dump(disk.OS{}, kept[0], false, func(Line) error { return nil }); err != nil {
		t.Errorf("dump: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if r := checked(t, dir); r.Damaged() {
		t.Errorf("fsck takes a partition that is offline for damage: %+v", r.Findings)
	}
	b = boardOn(t, failing, dir, nil)
	fails.Store(false)
	b.store.Tick(time.Now().Add(time.Hour).UnixMilli())
	for deadline := time.After(time.Minute); ; {
		if list, ok := b.Topic("failing"); ok {
			if list[0].High() != 1 || list[0].TopicID() != id {
				t.Errorf("it came back with %d records", list[0].High())
			}
			break
		}
		select {
		case <-deadline:
			t.Fatal("it does not come back")
		case <-time.After(time.Millisecond):
		}
	}
	appendOne(t, b, "failing", "another")
}

// A deletion that the disk refuses must not cost the old topic's files when the name is used again.
func TestATopicIsNotMadeOverOneWhoseDeletionFailed(t *testing.T) {
	var fails atomic.Bool
	failing := &disktest.Failing{FS: disk.OS{}, Fault: func(op, name string) error {
		if fails.Load() && strings.Contains(name, "journal") && op != "read" {
			return fmt.Errorf("%s: %w", op, syscall.EIO)
		}
		return nil
	}}
	b := boardOn(t, failing, t.TempDir(), nil)
	appendOne(t, b, "again", "value")
	old := b.Image().Topic("again").ID
	fails.Store(true)
	if _, err := b.Propose(t.Context(), catalog.DeleteTopic{Topic: old}); err != nil {
		t.Fatal(err) // the catalog is on another part of the disk
	}
	if b.store.Get(old, 0) == nil {
		t.Fatal("the deletion did not fail")
	}
	create, err := catalog.NewTopic(b.Image(), "again", catalog.NewTopicID(), 1, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Propose(t.Context(), create); !errors.Is(err, partition.ErrNameTaken) {
		t.Errorf("create = %v, want %v", err, partition.ErrNameTaken)
	}
	fails.Store(false)
	list, err := b.Ensure(t.Context(), "again")
	for deadline := time.After(time.Minute); err != nil; list, err = b.Ensure(t.Context(), "again") { // the journal mends itself
		select {
		case <-deadline:
			t.Fatal(err)
		case <-time.After(time.Millisecond):
		}
	}
	if list[0].TopicID() != create.ID || list[0].High() != 0 || b.store.Get(old, 0) != nil {
		t.Errorf("topic %v with %d records", list[0].TopicID(), list[0].High())
	}
	appendOne(t, b, "again", "value")
}
