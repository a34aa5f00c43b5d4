package budget

import (
	"bufio"
	"debug/elf"
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

// CleanPages are the whole pages of the executable exe, an ELF file, that hold nothing but what is in that file: no program
// header lets them be written, and they lie where the header says, so that nobody wrote them before the program began. There
// are none in one that is loaded wherever there is room (ET_DYN). The kernel's own list of mappings says as much, but
// emulators make theirs up: one is off by a page.
func CleanPages(exe io.ReaderAt, pageSize uint64) ([]Range, error) {
	file, err := elf.NewFile(exe)
	if err != nil {
		return nil, err
	}
	if file.Type != elf.ET_EXEC {
		return nil, nil
	}
	var clean []Range
	for _, p := range file.Progs {
		if p.Type != elf.PT_LOAD || p.Flags&elf.PF_W != 0 {
			continue
		}
		start, end := (p.Vaddr+pageSize-1)/pageSize*pageSize, (p.Vaddr+p.Filesz)/pageSize*pageSize
		if start < end {
			clean = append(clean, Range{start, end - start})
		}
	}
	return clean, nil
}
