// Package procfs reads what Linux says of a process from outside: proc(5).
package procfs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// PID is a process, by its number. An error is returned once it has ended and was reaped.
type PID int

// userHZ is the unit of CPU time in /proc/PID/stat; it is 100 on every Linux architecture Go runs on.
const userHZ = 100

// CPU is the user and system time the process has used, in steps of 10 ms.
func (p PID) CPU() (time.Duration, error) {
	raw, err := os.ReadFile(p.path("stat"))
	if err != nil {
		return 0, err
	}
	// The name, in brackets, may hold blanks; utime and stime are the 12th and 13th fields after it.
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("stat has %d fields", len(fields))
	}
	user, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * time.Second / userHZ, err
}

// Machine is the time of all CPUs together since the machine started, and what of it was used by anybody: other guests of
// its host count. In steps of 10 ms.
func Machine() (all, busy time.Duration, err error) {
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	fields := strings.Fields(line) // cpu user nice system idle iowait irq softirq steal, and guests, which user has in it
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, 0, fmt.Errorf("stat begins with %q", line)
	}
	for i, f := range fields[1:9] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, 0, err
		}
		d := time.Duration(n) * time.Second / userHZ
		if all += d; i != 3 && i != 4 { // idle, and idle while a disk is waited for
			busy += d
		}
	}
	return all, busy, nil
}

// RSS is the process's resident memory in bytes.
func (p PID) RSS() (int64, error) { return field(p.path("status"), "VmRSS") }

// Anonymous is the part of RSS that is the process's own, in bytes: its heap and stacks, not the pages of its program, of
// which more are mapped the more of it runs.
func (p PID) Anonymous() (int64, error) { return field(p.path("status"), "RssAnon") }

// Switches is how often each thread of the process, by its number, has been put on and off a CPU, wanted or not.
func (p PID) Switches() (map[int]int64, error) {
	threads, err := os.ReadDir(p.path("task"))
	if err != nil {
		return nil, err
	}
	switches := make(map[int]int64, len(threads))
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			return nil, err
		}
		for _, name := range []string{"voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"} {
			n, err := field(p.path(filepath.Join("task", t.Name(), "status")), name)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
				break // it has ended
			}
			if err != nil {
				return nil, err
			}
			switches[id] += n
		}
	}
	return switches, nil
}

func (p PID) path(file string) string {
	return filepath.Join("/proc", strconv.Itoa(int(p)), file)
}

// field reads a number of a status file, in bytes where it says kB.
func field(path, name string) (int64, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		rest, ok := strings.CutPrefix(line, name+":")
		if !ok {
			continue
		}
		words := strings.Fields(rest)
		if len(words) == 0 {
			break
		}
		n, err := strconv.ParseInt(words[0], 10, 64)
		if len(words) > 1 && words[1] == "kB" {
			n *= 1024
		}
		return n, err
	}
	return 0, fmt.Errorf("%s: no %s", path, name)
}
