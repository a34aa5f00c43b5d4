package hostile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"millrace/testbench/process"
)

// cgroup is a control group of the kernel with little memory, version 1 or 2.
type cgroup struct {
	dir, limit, events string
}

// confine moves the process into a control group with limit bytes of memory, page cache included, or returns nil where
// none can be made: that takes root, and a hierarchy that is writable.
func confine(t *testing.T, p *process.Process, limit int64) *cgroup {
	t.Helper()
	name := fmt.Sprint("millrace-test-", os.Getpid())
	for _, g := range []*cgroup{
		{filepath.Join("/sys/fs/cgroup/memory", name), "memory.limit_in_bytes", "memory.oom_control"},
		{filepath.Join("/sys/fs/cgroup", name), "memory.max", "memory.events"},
	} {
		err := os.Mkdir(g.dir, 0o755)
		if err != nil {
			t.Log(err)
			continue
		}
		t.Cleanup(func() {
			if err := os.Remove(g.dir); err != nil { // the process has ended: its own cleanup runs before
				t.Error(err)
			}
		})
		err = errors.Join(
			os.WriteFile(filepath.Join(g.dir, g.limit), []byte(strconv.FormatInt(limit, 10)), 0),
			os.WriteFile(filepath.Join(g.dir, "cgroup.procs"), []byte(strconv.Itoa(int(p.PID()))), 0))
		if err == nil {
			return g
		}
		t.Log(err)
	}
	t.Logf("no writable control groups: that %d MiB are enough is not shown here", limit>>20)
	return nil
}

// kills is how many processes of the group the kernel has killed for want of memory.
func (g *cgroup) kills(t *testing.T) (n int) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(g.dir, g.events))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if _, err := fmt.Sscanf(line, "oom_kill %d", &n); err == nil {
			return n
		}
	}
	t.Fatalf("%s tells of no kills: %q", g.events, raw)
	return 0
}
