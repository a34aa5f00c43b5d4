package budget

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// BinaryPages adds up the mappings of the executable exe in a /proc/self/maps text (proc_pid_maps(5)), in bytes. It is
// the most the binary can add to the resident memory; pages nobody touched are counted too, since any of them may be
// touched later.
func BinaryPages(maps io.Reader, exe string) (int64, error) {
	var sum int64
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		// address perms offset dev inode pathname
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || strings.Join(fields[5:], " ") != exe {
			continue
		}
		from, to, ok := strings.Cut(fields[0], "-")
		start, err := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if !ok || err != nil || err2 != nil || end < start || end-start > 1<<40 {
			return 0, fmt.Errorf("budget: mapping %q", lines.Text())
		}
		sum += int64(end - start)
	}
	return sum, lines.Err()
}
