// Package vm runs the device image on an emulated board: 128 MiB, one card, a hardware watchdog, the ports of its broker
// forwarded to loopback. A test starts a Board, reads its console, talks to QEMU, pulls the plug, and looks at the card.
package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"millrace/testbench/lane"
)

// needs are the programs that build an image and run it.
var needs = []string{
	"qemu-system-aarch64", "mmdebstrap", "mksquashfs", "genimage", "mcopy", "/usr/sbin/mkfs.vfat", "mkimage", "/usr/sbin/depmod",
	"/usr/sbin/sfdisk", "cpio", "zstd", "xz",
}

// built is the image of this run of the tests. Its parts from Debian are in the cache of build.sh.
var built struct {
	once sync.Once
	dir  string
	took time.Duration
	err  error
}

// Main runs the tests of a package and removes the image they built: call it from TestMain and exit with its result.
func Main(m *testing.M) int {
	code := m.Run()
	if built.dir != "" {
		if err := os.RemoveAll(built.dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	return code
}

// image is the directory with the image of the tree that is tested. The test is skipped where tools are missing.
func image(t testing.TB) string {
	t.Helper()
	lane.Need(t, needs...)
	lane.Sources(t, lane.Program, "CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm64")
	lane.Uses(t, source(""), filepath.Join("..", "..", "platform", "systemd", "millrace.service")) // what build.sh takes
	built.once.Do(func() {
		begin := time.Now()
		if built.dir, built.err = os.MkdirTemp("", "millrace-vm"); built.err != nil {
			return
		}
		out, err := exec.Command("bash", source("build.sh"), "qemu-arm64", built.dir).CombinedOutput()
		if err != nil {
			built.err = fmt.Errorf("%w: %s", err, out)
		}
		built.took = time.Since(begin)
	})
	if built.err != nil {
		t.Fatalf("build the image: %v", built.err)
	}
	return built.dir
}

// source is a file of image/ as the tests of this package see it.
func source(name string) string { return filepath.Join("..", "..", "image", name) }
