package broker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"millrace/broker/disk"
)

func TestFormattedDirectoryKeepsItsIdentity(t *testing.T) {
	dir := t.TempDir()
	if _, err := ReadMeta(disk.OS{}, dir); !errors.Is(err, ErrNotFormatted) {
		t.Fatalf("empty directory: %v, want %v", err, ErrNotFormatted)
	}
	made, err := Format(disk.OS{}, dir, "", 7)
	if err != nil {
		t.Fatal(err)
	}
	read, err := ReadMeta(disk.OS{}, dir)
	if err != nil || read != made {
		t.Fatalf("read back %+v, %v; want %+v", read, err, made)
	}
	if _, err := Format(disk.OS{}, dir, "", 7); err == nil || !strings.Contains(err.Error(), made.ClusterID) {
		t.Fatalf("formatting twice: %v, want a refusal that names the cluster", err)
	}
}

func TestOnlyAnEmptyDirectoryIsFormatted(t *testing.T) {
	for _, tt := range []struct {
		holds, cluster string
		good           bool
	}{
		{holds: lockName, good: true},
		{holds: "lost+found", good: true}, // of a filesystem of its own
		{holds: metaCopy + tempSuffix, good: true},
		{holds: "passwd"},
		{holds: "passwd", cluster: RandomUUID()},
		{holds: "topics"},
		{holds: "topics", cluster: RandomUUID(), good: true},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, tt.holds), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := Format(disk.OS{}, dir, tt.cluster, 1)
		if (err == nil) != tt.good || !tt.good && !errors.Is(err, ErrOccupied) {
			t.Errorf("with %s in it, cluster %q: %v", tt.holds, tt.cluster, err)
		}
		if _, err := os.Stat(filepath.Join(dir, metaName)); (err == nil) != tt.good {
			t.Errorf("with %s in it, cluster %q: %s: %v", tt.holds, tt.cluster, metaName, err)
		}
	}
}

func TestNewerFormatIsRefusedByName(t *testing.T) {
	dir := t.TempDir()
	if err := WriteMeta(disk.OS{}, dir, Meta{ClusterID: RandomUUID(), DirectoryID: RandomUUID(), Format: FormatVersion + 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadMeta(disk.OS{}, dir); !errors.Is(err, ErrNewerFormat) || !strings.Contains(err.Error(), fmt.Sprint("format.version ", FormatVersion+1)) {
		t.Fatalf("have %v, want %v with the version", err, ErrNewerFormat)
	}
}

// Both files must say it, or a cut that leaves the copy would let an older build in.
func TestOlderDirectoryIsBroughtForward(t *testing.T) {
	dir := t.TempDir()
	old := Meta{ClusterID: RandomUUID(), NodeID: 3, DirectoryID: RandomUUID(), Format: 1}
	if err := WriteMeta(disk.OS{}, dir, old); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		want := old
		want.Format = FormatVersion
		if got, err := bringForward(disk.OS{}, dir, old); err != nil || got != want {
			t.Fatalf("brought forward to %+v, %v; want %+v", got, err, want)
		}
		for _, name := range []string{metaName, metaCopy} {
			if got, err := readMetaFile(disk.OS{}, filepath.Join(dir, name)); err != nil || got != want {
				t.Errorf("%s says %+v, %v; want %+v", name, got, err, want)
			}
		}
		old = want
	}
}

func TestAnyFlippedBitOfMetaIsNoticedAndTheCopyServes(t *testing.T) {
	dir := t.TempDir()
	made, err := Format(disk.OS{}, dir, "", 1)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, metaName)
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for bit := range len(good) * 8 {
		bad := append([]byte(nil), good...)
		bad[bit/8] ^= 1 << (bit % 8)
		if m, err := parseMeta(bad); err == nil {
			t.Fatalf("bit %d flipped: read as %+v", bit, m)
		}
		if bit%97 != 0 {
			continue
		}
		if err := os.WriteFile(name, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		if m, err := ReadMeta(disk.OS{}, dir); err != nil || m != made {
			t.Fatalf("bit %d flipped: the copy gave %+v, %v; want %+v", bit, m, err, made)
		}
	}
}

func TestRandomUUIDsAreValidClusterIDs(t *testing.T) {
	for range 1000 {
		if id := RandomUUID(); ValidClusterID(id) != nil || len(id) != 22 || id[0] == '-' {
			t.Fatalf("RandomUUID = %q", id)
		}
	}
}

func TestDirectoryHasOneOwner(t *testing.T) {
	dir := t.TempDir()
	first, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockDir(dir); err == nil || !strings.Contains(err.Error(), "--data") {
		t.Fatalf("second owner: %v, want a refusal that names the flag", err)
	}
	// A child of the process that is forked and not yet another program has all its files.
	child, err := unix.Dup(int(first.file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(child) }()
	if err := first.release(); err != nil {
		t.Fatal(err)
	}
	again, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.release(); err != nil {
		t.Fatal(err)
	}
}
