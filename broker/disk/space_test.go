package disk_test

import (
	"errors"
	"testing"

	"millrace/broker/disk"
)

type smallDisk struct {
	disk.OS
	free int64
}

func (d *smallDisk) Usage(string) (disk.Usage, error) {
	return disk.Usage{Total: 1 << 20, Free: d.free}, nil
}

func TestSpaceKeepsItsReserveForInternalWrites(t *testing.T) {
	d := &smallDisk{free: 1000}
	s, err := disk.NewSpace(disk.SpaceConfig{FS: d, Path: "/", Reserve: 500, Floor: 100})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Admit(500, false, 0); err != nil {
		t.Errorf("down to the reserve: %v", err)
	}
	if err := s.Admit(1, false, 0); !errors.Is(err, disk.ErrFull) {
		t.Errorf("into the reserve: %v", err)
	}
	if err := s.Admit(400, true, 0); err != nil {
		t.Errorf("internal, down to the floor: %v", err)
	}
	if err := s.Admit(1, true, 0); !errors.Is(err, disk.ErrFull) {
		t.Errorf("internal, into the floor: %v", err)
	}
	if err := s.Admit(1, false, 999); !errors.Is(err, disk.ErrFull) {
		t.Errorf("before the answer is old: %v", err)
	}
	if err := s.Admit(1, false, 1000); err != nil {
		t.Errorf("when the disk says there is room: %v", err)
	}
}

func TestSpaceRefusesAFloorAboveTheReserve(t *testing.T) {
	if _, err := disk.NewSpace(disk.SpaceConfig{FS: disk.OS{}, Path: "/", Reserve: 1, Floor: 2}); err == nil {
		t.Error("accepted")
	}
}
