package wear

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// sysBlock has a directory for each block device and partition, named by its numbers.
const sysBlock = "/sys/dev/block"

// sectorSize is the unit of the kernel's block statistics, whatever the device's own is (Documentation/block/stat.rst).
const sectorSize = 512

// Device reads what the kernel has written to the block device that a directory's filesystem is on.
type Device struct{ stat string }

// DeviceOf finds the device of a directory. It is an error where the filesystem has no block device of its own in sysfs:
// a memory or network filesystem, an overlay, btrfs.
func DeviceOf(dir string) (*Device, error) { return deviceOf(sysBlock, dir) }

func deviceOf(root, dir string) (*Device, error) {
	var s unix.Stat_t
	if err := unix.Stat(dir, &s); err != nil {
		return nil, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	dev := uint64(s.Dev) // 32 bits on some targets
	d := &Device{filepath.Join(root, fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev)), "stat")}
	_, err := d.Written()
	return d, err
}

// String names the file that is read.
func (d *Device) String() string { return d.stat }

// Written is how many bytes were written to the device since the system started, whoever wrote them.
func (d *Device) Written() (int64, error) {
	raw, err := os.ReadFile(d.stat)
	if err != nil {
		return 0, err
	}
	const writtenField = 6
	fields := bytes.Fields(raw)
	if len(fields) <= writtenField {
		return 0, fmt.Errorf("%s has %d fields", d.stat, len(fields))
	}
	sectors, err := strconv.ParseInt(string(fields[writtenField]), 10, 54)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", d.stat, err)
	}
	return sectors * sectorSize, nil
}
