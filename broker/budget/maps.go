package budget

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
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
//
// It reads the headers by itself: debug/elf, which reads debug information and what compresses it too, is 100 KB of program.
func CleanPages(exe io.ReaderAt, pageSize uint64) ([]Range, error) {
	header := make([]byte, 64) // as long as that of 64 bits; no program of 32 bits is shorter either
	if _, err := exe.ReadAt(header, 0); err != nil {
		return nil, fmt.Errorf("budget: header of the program: %w", err)
	}
	const classes, littleEndian = 4, 1
	if string(header[:4]) != "\x7fELF" || header[classes] != 1 && header[classes] != 2 || header[classes+1] != littleEndian {
		return nil, errors.New("budget: the program is no ELF file of a machine this one could be")
	}
	u16, u32, u64 := binary.LittleEndian.Uint16, binary.LittleEndian.Uint32, binary.LittleEndian.Uint64
	at, size, count, wide := uint64(u32(header[28:])), int(u16(header[42:])), int(u16(header[44:])), header[classes] == 2
	if wide {
		at, size, count = u64(header[32:]), int(u16(header[54:])), int(u16(header[56:]))
	}
	const executable, load, writable, most = 2, 1, 2, 1 << 12
	if u16(header[16:]) != executable {
		return nil, nil
	}
	if size < 32 || wide && size < 56 || size > most || at > math.MaxInt32 {
		return nil, fmt.Errorf("budget: the program has headers of %d bytes at %d", size, at)
	}
	var clean []Range
	for i, p := 0, make([]byte, size); i < count; i++ {
		if _, err := exe.ReadAt(p, int64(at)+int64(i*size)); err != nil {
			return nil, fmt.Errorf("budget: program header %d: %w", i, err)
		}
		address, length, flags := uint64(u32(p[8:])), uint64(u32(p[16:])), u32(p[24:])
		if wide {
			address, length, flags = u64(p[16:]), u64(p[32:]), u32(p[4:])
		}
		if u32(p) != load || flags&writable != 0 {
			continue
		}
		start, end := (address+pageSize-1)/pageSize*pageSize, (address+length)/pageSize*pageSize
		if start < end {
			clean = append(clean, Range{start, end - start})
		}
	}
	return clean, nil
}
