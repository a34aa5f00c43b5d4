package partition_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"millrace/broker/disk"
	"millrace/broker/partition"
	"millrace/broker/partition/partitiontest"
)

// blocks is what the log of partition a takes of the disk, in bytes.
func blocks(t *testing.T, w *partitiontest.World, base string) int64 {
	t.Helper()
	info, err := os.Stat(filepath.Join(w.Dir, "topics", "a-0", base+".log"))
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}

// What is preallocated takes records when the disk is full, before a restart and after, and is given back with the roll.
func TestPreallocatedSpaceTakesRecordsOfAFullDisk(t *testing.T) {
	u := &usage{free: 1 << 30}
	w := partitiontest.New(t)
	w.FS = u
	space, err := disk.NewSpace(disk.SpaceConfig{FS: u, Path: w.Dir, Reserve: 1000, Floor: 10})
	if err != nil {
		t.Fatal(err)
	}
	w.Config.Space, w.Config.OnDiskFull = space, func() {}
	w.Topic.SegmentBytes, w.Topic.Preallocate = 256<<10, true
	w.Start()
	p := w.Create("a")
	const first = "00000000000000000000"
	for life := range 2 {
		u.free = 1 << 30
		space.Refresh(0)
		partitiontest.Fill(t, p, 1)
		if got := blocks(t, w, first); got < 256<<10 {
			t.Skipf("LANE SKIPPED: the filesystem keeps no space (%d bytes): run it on ext4, xfs, btrfs or tmpfs", got)
		}
		u.free = 0
		space.Refresh(0)
		for range 100 {
			if _, err := partitiontest.Append(p, "in the space that is kept"); err != nil {
				t.Fatalf("life %d: %v", life, err)
			}
		}
		w.Stop()
		w.Start()
		p = w.Partition("a")
	}
	// Another partition has nothing kept.
	if _, err := partitiontest.Append(w.Create("b"), "no room"); !errors.Is(err, partition.ErrDiskFull) {
		t.Errorf("a full disk took more than was kept: %v", err)
	}
	u.free = 1 << 30
	space.Refresh(0)
	logs := func() int {
		found, err := filepath.Glob(filepath.Join(w.Dir, "topics", "a-0", "*.log"))
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	for logs() == 1 {
		if _, err := partitiontest.Append(p, string(make([]byte, 10_000))); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(filepath.Join(w.Dir, "topics", "a-0", first+".log"))
	if err != nil {
		t.Fatal(err)
	}
	if got := blocks(t, w, first); got > info.Size()+8192 {
		t.Errorf("the closed segment of %d bytes takes %d of the disk", info.Size(), got)
	}
}
