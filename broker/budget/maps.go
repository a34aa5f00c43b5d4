package budget

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// mapping is one of the executable's, as the first line of it in proc_pid_maps(5) and proc_pid_smaps(5) tells.
type mapping struct {
	start, end uint64
	writable   bool
}

func (m mapping) size() int64 { return int64(m.end - m.start) }

// mappingOf reads such a line; ok is false for any other line, and for a mapping of something else than exe.
func mappingOf(line, exe string) (m mapping, ok bool, err error) {
	// address perms offset dev inode pathname
	fields := strings.Fields(line)
	if len(fields) < 6 || strings.Join(fields[5:], " ") != exe {
		return m, false, nil
	}
	from, to, ok := strings.Cut(fields[0], "-")
	start, err := strconv.ParseUint(from, 16, 64)
	end, err2 := strconv.ParseUint(to, 16, 64)
	if !ok || err != nil || err2 != nil || end < start || end-start > 1<<40 {
		return m, false, fmt.Errorf("budget: mapping %q", line)
	}
	return mapping{start, end, strings.Contains(fields[1], "w")}, true, nil
}

// BinaryPages adds up the mappings of the executable exe in a /proc/self/maps text (proc_pid_maps(5)), in bytes. It is
// the most the binary can add to the resident memory; pages nobody touched are counted too, since any of them may be
// touched later.
func BinaryPages(maps io.Reader, exe string) (int64, error) {
	var sum int64
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		m, ok, err := mappingOf(lines.Text(), exe)
		if err != nil {
			return 0, err
		}
		if ok {
			sum += m.size()
		}
	}
	return sum, lines.Err()
}

// Range is a part of the address space, in bytes.
type Range struct{ Start, Size uint64 }

// CleanPages are the mappings of the executable exe in a /proc/self/smaps text (proc_pid_smaps(5)) that hold nothing but
// what is in its file: they cannot be written, and no page of them ever was (a linker may have written some first). A text
// in which the process has written nowhere at all is not the kernel's (emulators and sandboxes make one up): then there are none.
func CleanPages(smaps io.Reader, exe string) ([]Range, error) {
	var clean []Range
	counted := false
	var at *mapping // the one whose lines are being read, nil when it is of no interest
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		line := lines.Text()
		if m, ok, err := mappingOf(line, exe); err != nil {
			return nil, err
		} else if ok {
			at = &m
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		if strings.ContainsAny(name, " -") { // the first line of another mapping
			at = nil
		}
		if name != "Anonymous" {
			continue
		}
		if strings.TrimSpace(value) != "0 kB" {
			counted = true
		} else if at != nil && !at.writable {
			clean = append(clean, Range{at.start, at.end - at.start})
		}
	}
	if !counted {
		return nil, lines.Err()
	}
	return clean, lines.Err()
}
