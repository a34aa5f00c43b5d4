package partition_test

import (
	"errors"
	"iter"
	"testing"
	"time"

	"millrace/broker/cleaner"
	"millrace/broker/disk"
	"millrace/broker/partition"
	"millrace/broker/partition/partitiontest"
)

type usage struct {
	disk.OS
	free int64
}

func (u *usage) Usage(string) (disk.Usage, error) {
	return disk.Usage{Total: 1 << 30, Free: u.free}, nil
}

func TestFullDiskRefusesAndRecoversAlone(t *testing.T) {
	u := &usage{free: 1 << 20}
	w := partitiontest.New(t)
	w.FS = u
	space, err := disk.NewSpace(disk.SpaceConfig{FS: u, Path: w.Dir, Reserve: 1000, Floor: 10})
	if err != nil {
		t.Fatal(err)
	}
	full := 0
	w.Config.Space, w.Config.OnDiskFull = space, func() { full++ }
	w.Topic.SegmentBytes, w.Topic.DropOldest = 300, true
	w.Start()
	p := w.Create("a")
	for range 10 {
		partitiontest.Fill(t, p, 20)
		u.free = 1000
		space.Refresh(0)
		if _, err := partitiontest.Append(p, "no room"); !errors.Is(err, partition.ErrDiskFull) {
			t.Fatalf("append to a full disk: %v", err)
		}
		base := make(chan partition.AppendResult, 1)
		p.Append(partitiontest.Batch("canary"), partition.AppendOptions{Epoch: -1, Internal: true}, func(r partition.AppendResult) { base <- r })
		if r := <-base; r.Err != nil {
			t.Fatalf("internal append to a full disk: %v", r.Err)
		}
		start := p.Start()
		c := cleaner.New(cleaner.Config{
			Partitions: func() iter.Seq[cleaner.Partition] {
				return func(yield func(cleaner.Partition) bool) { yield(p) }
			},
			Space: freeing{space, u}, Now: func() time.Time { return w.Clock },
			Elapsed: func() time.Duration { return 0 },
		})
		if err := c.Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
		if c.Dropped() == 0 || p.Start() != start+c.Dropped() {
			t.Fatalf("start went from %d to %d, dropped %d", start, p.Start(), c.Dropped())
		}
		if at := p.End(); at > 0 {
			if _, err := partitiontest.Append(p, "room"); err != nil {
				t.Fatalf("append after room was made: %v", err)
			}
		}
	}
	if full != 10 {
		t.Errorf("told %d times that the disk is full, want 10", full)
	}
}

// freeing is a disk on which each refresh after a removal finds a little more room.
type freeing struct {
	*disk.Space
	u *usage
}

func (f freeing) Low(n int64) bool {
	low := f.Space.Low(n)
	f.u.free += 5000
	return low || f.Space.Free() < 3000
}
