package diskfull

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"millrace/broker"
	"millrace/broker/disk"
	"millrace/platform/config"
	"millrace/testbench/lane"
)

var rounds = flag.Int("rounds", 10, "how often the disk is filled")

const mib = 1 << 20

// volume mounts an ext4 of so many MiB and returns where. It needs root; without it the test is skipped.
func volume(t *testing.T, size int) string {
	if os.Geteuid() != 0 {
		t.Skip("LANE SKIPPED: only root may mount a small filesystem; to run it: go test ./testbench/diskfull as root")
	}
	tools := lane.Need(t, "mkfs.ext4", "mount", "umount")
	dir := t.TempDir()
	image, at := filepath.Join(dir, "image"), filepath.Join(dir, "disk")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, int64(size)*mib); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(tools[0], "-q", "-m", "0", "-F", image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	if out, err := exec.Command(tools[1], "-o", "loop", image, at).CombinedOutput(); err != nil {
		if lane.Required() {
			t.Fatalf("mount: %v: %s", err, out)
		}
		t.Skipf("LANE SKIPPED: no loop device here (%v: %s); to run it: go test ./testbench/diskfull where root may mount", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command(tools[2], at).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return at
}

// board is a running broker that can be started again.
type board struct {
	*broker.Broker
	t   *testing.T
	dir string
	// nospace counts writes that failed with ENOSPC.
	nospace atomic.Int64
}

// counting is the real disk; it counts.
type counting struct {
	disk.OS
	nospace *atomic.Int64
}

// OpenFile opens a file whose writes are counted when they find no space.
func (c counting) OpenFile(name string, flag int, perm os.FileMode) (disk.File, error) {
	f, err := c.OS.OpenFile(name, flag, perm)
	c.count(err)
	if err != nil {
		return nil, err
	}
	return countingFile{f, c}, nil
}

func (c counting) count(err error) {
	if errors.Is(err, syscall.ENOSPC) {
		c.nospace.Add(1)
	}
}

type countingFile struct {
	disk.File
	c counting
}

// WriteAt implements io.WriterAt.
func (f countingFile) WriteAt(p []byte, at int64) (int, error) {
	n, err := f.File.WriteAt(p, at)
	f.c.count(err)
	return n, err
}

// Sync implements disk.File.
func (f countingFile) Sync(point disk.Point) error {
	err := f.File.Sync(point)
	f.c.count(err)
	return err
}

// start brings a board up whose reserve is the smallest there is.
func start(t *testing.T, dir string) *board {
	b := &board{t: t, dir: dir}
	b.open()
	t.Cleanup(func() { b.close() })
	return b
}

func (b *board) open() {
	c := config.Default()
	c.Broker.LogDirs = b.dir
	c.Broker.ClusterAlias = "bench"
	c.Broker.Listeners = []string{"PLAINTEXT://127.0.0.1:0"}
	c.MQTT.Listeners = []string{"tcp://127.0.0.1:0"}
	c.HTTP.Listener = ""
	c.Memory.Limit = 64 * mib
	c.Journal.BytesMax = 2 * mib
	c.Flash.ReserveBytes = 2*c.Journal.BytesMax + 16*mib
	var err error
	if b.Broker, err = broker.Open(context.Background(), broker.Config{Settings: c, FS: counting{nospace: &b.nospace}, Logger: slog.New(slog.DiscardHandler)}); err != nil {
		b.t.Fatalf("open: %v", err)
	}
}

func (b *board) close() {
	if b.Broker == nil {
		return
	}
	if err := b.Close(); err != nil {
		b.t.Errorf("close: %v", err)
	}
	b.Broker = nil
}

// topicSettings are small segments, so that what is deleted is freed.
func topicSettings(full string) map[string]*string {
	set := map[string]*string{}
	for k, v := range map[string]string{"segment.bytes": fmt.Sprint(mib), "full": full, "retention.ms": "-1", "retention.bytes": "-1"} {
		set[k] = &v
	}
	return set
}
