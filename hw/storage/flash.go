package storage

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Sys is where the kernel shows its devices.
const Sys = "/sys"

// sectorSize is the unit of the kernel's block statistics, whatever the device's own is (Documentation/block/stat.rst).
const sectorSize = 512

// ErrNoDevice is returned by FlashOf where the filesystem has no block device of its own: a memory or network filesystem,
// an overlay, btrfs.
var ErrNoDevice = errors.New("the filesystem has no block device of its own")

// Kind is what a block device is made of.
type Kind string

// The kinds that are told apart. A virtual disk, or one nobody knows, is Other.
const (
	EMMC  Kind = "eMMC"
	SD    Kind = "SD"
	NVMe  Kind = "NVMe"
	SATA  Kind = "SATA"
	USB   Kind = "USB"
	SCSI  Kind = "SCSI"
	Loop  Kind = "loop"
	Other Kind = "other"
)

// Flash is the block device under a directory, as sysfs shows it. What a device does not tell is not an error: few tell
// their wear.
type Flash struct {
	part string // of the filesystem's own device, a partition as a rule
	disk string // of the whole device that the cells are of

	// Name is the whole device's, as in /dev. Kind is what it is made of.
	Name string
	Kind Kind
	// Model, Manufacturer and Date of making ("05/2019") are what the device says of itself, empty where it does not.
	// Manufacturer is a number for eMMC and SD.
	Model, Manufacturer, Date string
	// Size is the whole device's, in bytes; 0: unknown.
	Size int64
}

// FlashOf finds the device of a directory; sys is Sys, or in a test a tree like it. ErrNoDevice, and errors of stat.
func FlashOf(sys, dir string) (*Flash, error) {
	var s unix.Stat_t
	if err := unix.Stat(dir, &s); err != nil {
		return nil, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	dev := uint64(s.Dev) // 32 bits on some targets
	link := filepath.Join(sys, "dev/block", fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev)))
	part, err := filepath.EvalSymlinks(link)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", dir, ErrNoDevice, err)
	}
	f := &Flash{part: part, disk: whole(part)}
	if _, err := f.Written(); err != nil {
		return nil, err
	}
	f.Name = filepath.Base(f.disk)
	f.Kind = kindOf(f.disk)
	f.Model = cmp.Or(f.text("device/name"), f.text("device/model"))
	f.Manufacturer = cmp.Or(f.text("device/manfid"), f.text("device/vendor"))
	f.Date = f.text("device/date")
	if n, err := strconv.ParseInt(f.text("size"), 10, 54); err == nil && n > 0 {
		f.Size = n * sectorSize
	}
	return f, nil
}

// whole is the device that a partition is of, and that a mapped device (encrypted, say) lies on, where it is one.
func whole(at string) string {
	const depthMax = 8
	for range depthMax {
		if _, err := os.Stat(filepath.Join(at, "partition")); err == nil {
			at = filepath.Dir(at)
			continue
		}
		below, err := os.ReadDir(filepath.Join(at, "slaves"))
		if err != nil || len(below) != 1 {
			return at
		}
		next, err := filepath.EvalSymlinks(filepath.Join(at, "slaves", below[0].Name()))
		if err != nil {
			return at
		}
		at = next
	}
	return at
}

// kindOf goes by the name the kernel's driver gives, and by what it hangs on.
func kindOf(disk string) Kind {
	name := filepath.Base(disk)
	switch {
	case strings.HasPrefix(name, "mmcblk"):
		switch text(filepath.Join(disk, "device/type")) {
		case "MMC":
			return EMMC
		case "SD":
			return SD
		}
	case strings.HasPrefix(name, "nvme"):
		return NVMe
	case strings.HasPrefix(name, "loop"):
		return Loop
	case strings.HasPrefix(name, "sd"):
		switch {
		case strings.Contains(disk, "/usb"):
			return USB
		case strings.Contains(disk, "/ata"):
			return SATA
		}
		return SCSI
	}
	return Other
}

// String names the device for a log.
func (f *Flash) String() string {
	return strings.Join(strings.Fields(fmt.Sprintf("%s %s %s", f.Name, f.Kind, f.Model)), " ")
}

// Written is how many bytes were written to the filesystem's own device since the system started, whoever wrote them.
func (f *Flash) Written() (int64, error) {
	c, err := counters(f.part)
	return c.Written, err
}

// Counters are a whole device's since the system started.
type Counters struct {
	Read, Written int64 // bytes
	Writes        int64 // requests
}

// Counters reads those of the whole device.
func (f *Flash) Counters() (Counters, error) { return counters(f.disk) }

func counters(device string) (c Counters, err error) {
	name := filepath.Join(device, "stat")
	raw, err := os.ReadFile(name)
	if err != nil {
		return c, err
	}
	// Fields 3, 5 and 7 of Documentation/block/stat.rst. There are 11, 15 or 17 of them, by the kernel's age.
	fields := bytes.Fields(raw)
	for _, of := range []struct {
		field int
		unit  int64
		to    *int64
	}{{2, sectorSize, &c.Read}, {4, 1, &c.Writes}, {6, sectorSize, &c.Written}} {
		if len(fields) <= of.field {
			return Counters{}, fmt.Errorf("%s has %d fields", name, len(fields))
		}
		n, err := strconv.ParseInt(string(fields[of.field]), 10, 54) // with the unit it still fits
		if err != nil {
			return Counters{}, fmt.Errorf("%s: %w", name, err)
		}
		*of.to = n * of.unit
	}
	return c, nil
}

// Wear is what a device says about how far it is worn. Zero is: it does not say.
type Wear struct {
	// StepA and StepB are an eMMC's two estimates, by the two kinds of its cells (often pseudo-SLC and MLC): 1 stands for up
	// to 10 % of its life used, 10 for up to 100 %, 11 for more (JESD84-B51, DEVICE_LIFE_TIME_EST_TYP_A and _B).
	StepA, StepB int
	// PreEOL is how much of its reserve of blocks is used: 1 normal, 2 80 % of it, 3 90 % of it (PRE_EOL_INFO).
	PreEOL int
}

// The values of PreEOL.
const (
	PreEOLNormal  = 1
	PreEOLWarning = 2
	PreEOLUrgent  = 3
)

// lifeExceeded is the step of a device that is past the life its maker gave it.
const lifeExceeded = 11

// Worn is the higher of the two steps, 0 when there is none.
func (w Wear) Worn() int { return max(w.StepA, w.StepB) }

// Used is the most that a step stands for, 0.1 to 1.1; false for a step there is not.
func Used(step int) (float64, bool) {
	if step < 1 || step > lifeExceeded {
		return math.NaN(), false
	}
	return float64(step) / 10, true
}

// Wear reads it. The kernel asks an eMMC when it finds it, so what is told is as old as the start of the system.
func (f *Flash) Wear() (w Wear) {
	steps := strings.Fields(f.text("device/life_time")) // "0x02 0x01", eMMC 5.0 and later
	if len(steps) == 2 {
		w.StepA, w.StepB = register(steps[0], lifeExceeded), register(steps[1], lifeExceeded)
	}
	w.PreEOL = register(f.text("device/pre_eol_info"), PreEOLUrgent)
	return w
}

// register is a register's value, 0 where it is none from 1 to most.
func register(text string, most uint64) int {
	n, err := strconv.ParseUint(text, 0, 8)
	if err != nil || n > most {
		return 0
	}
	return int(n)
}

func (f *Flash) text(name string) string { return text(filepath.Join(f.disk, name)) }

// text is an attribute, "" where it is not there. It is bounded by what sysfs gives: one page.
func text(name string) string {
	raw, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}
