// Package doctor looks at the machine a board runs on and says what to change: flash that wears out, a filesystem that
// does not keep what it was told to keep, a clock that is wrong, limits that are too low. It changes nothing.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// State says how bad a finding is.
type State string

// States of a finding.
const (
	OK   State = "ok"
	Warn State = "warn" // it works, and will not for ever, or not at its best
	Bad  State = "bad"  // acknowledged records can be lost, or the board will not serve
)

// Finding is one thing that was looked at.
type Finding struct {
	Check string `json:"check"`
	State State  `json:"state"`
	Text  string `json:"text"`
	// Change says what to do about it; empty where nothing need be done.
	Change string `json:"change,omitempty"`
}

// Board is what is looked at. The functions are the kernel's answers, so that a test can give others; New fills them in.
type Board struct {
	// Root is where the kernel's files are found: /proc, /sys, /run, /etc below it. "" is the root.
	Root string
	// Dir is the data directory, or where it will be.
	Dir string
	// Memory is memory.limit, Reserve flash.reserve.bytes, in bytes; Connections is how many there may be, all doors together.
	Memory, Reserve int64
	Connections     int
	// Watchdog says that the configuration names a watchdog of the broker's own.
	Watchdog bool
	// PID is the running broker's, 0 where none runs: its limits count then, else this process's.
	PID int
	// Links are those of the configuration.
	Links []Link

	Now time.Time
	// Device is the number of the device the data lies on.
	Device func(dir string) (major, minor uint32, err error)
	// Space are the bytes, and the files, that may still be written; files is -1 where the filesystem has no limit.
	Space func(dir string) (bytes, files int64, err error)
	// Synchronised says whether something keeps the clock right.
	Synchronised func() (bool, error)
	// Resolve finds a host by its name, Dial sees whether somebody listens at host:port.
	Resolve, Dial func(ctx context.Context, what string) error
}

// New is a Board of this machine.
func New(dir string) *Board {
	return &Board{Dir: dir, Now: time.Now(), Device: device, Space: space, Synchronised: synchronised, Resolve: resolve, Dial: dial}
}

// Examine looks at everything. What cannot be looked at is a finding too.
func (b *Board) Examine() (all []Finding) {
	for _, check := range []struct {
		name string
		look func(say func(State, string, string))
	}{
		{"device", b.device},
		{"filesystem", b.filesystem},
		{"space", b.space},
		{"clock", b.clock},
		{"memory", b.memory},
		{"files", b.files},
		{"network", b.network},
		{"unit", b.unit},
		{"upstream", b.links},
	} {
		check.look(func(s State, text, change string) { all = append(all, Finding{check.name, s, text, change}) })
	}
	return all
}

// Worst is the worst state among findings.
func Worst(all []Finding) State {
	worst := OK
	for _, f := range all {
		if f.State == Bad || f.State == Warn && worst == OK {
			worst = f.State
		}
	}
	return worst
}

// path is a file of the kernel's.
func (b *Board) path(name string) string { return filepath.Join("/", b.Root, name) }

// readMax bounds what is read of one of the kernel's files, in bytes.
const readMax = 1 << 20

// read is a small file without the newline at its end, "" where there is none.
func (b *Board) read(name string) string { return readFile(b.path(name)) }

func readFile(name string) string {
	f, err := os.Open(name)
	if err != nil {
		return ""
	}
	text, err := io.ReadAll(io.LimitReader(f, readMax))
	if err := errors.Join(err, f.Close()); err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// number reads a file that holds one.
func (b *Board) number(name string) (int64, bool) {
	n, err := strconv.ParseInt(b.read(name), 0, 64)
	return n, err == nil
}

// existing is the directory itself, or the nearest above it that there is.
func (b *Board) existing() string {
	dir, err := filepath.Abs(b.Dir)
	if err != nil {
		return b.Dir
	}
	for {
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			return real
		}
		if dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

func device(dir string) (major, minor uint32, err error) {
	var s unix.Stat_t
	if err := unix.Stat(dir, &s); err != nil {
		return 0, 0, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	dev := uint64(s.Dev) // 32 bits on some targets
	return unix.Major(dev), unix.Minor(dev), nil
}

func space(dir string) (bytes, files int64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	files = -1
	if s.Files > 0 {
		files = int64(s.Ffree)
	}
	return int64(s.Bavail) * int64(s.Bsize), files, nil
}

// synchronised asks the kernel whether a time daemon disciplines its clock (adjtimex(2)).
func synchronised() (bool, error) {
	var t unix.Timex
	if _, err := unix.Adjtimex(&t); err != nil {
		return false, fmt.Errorf("adjtimex: %w", err)
	}
	return t.Status&unix.STA_UNSYNC == 0, nil
}

// amount is bytes for people.
func amount(n int64) string {
	if n >= 10<<20 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}
