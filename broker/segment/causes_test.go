package segment

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"millrace/broker/disk"
)

func TestCausesAreReadAsWritten(t *testing.T) {
	dir := t.TempDir()
	for _, want := range [][]CauseStart{{}, {{0, Unknown}}, {{3, DiskFull}, {4, Retention}, {9, ByClient}, {1 << 62, Damage}}} {
		if err := WriteCauses(disk.OS{}, dir, want); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadCauses(disk.OS{}, dir); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("read %v, %v, want %v", got, err, want)
		}
	}
	if _, err := ReadCauses(disk.OS{}, t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("where there is none: %v", err)
	}
}

func TestCausesRefuseNonsense(t *testing.T) {
	dir := t.TempDir()
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, CausesName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := WriteCauses(disk.OS{}, dir, []CauseStart{{0, Unknown}, {5, Retention}, {7, DiskFull}, {8, ByClient}, {1 << 60, Damage}}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, CausesName))
	if err != nil {
		t.Fatal(err)
	}
	for bit := range len(text) * 8 {
		text[bit/8] ^= 1 << (bit % 8)
		put(string(text))
		if _, err := ReadCauses(disk.OS{}, dir); !errors.Is(err, ErrCheckpoint) {
			t.Fatalf("causes with bit %d flipped: %v", bit, err)
		}
		text[bit/8] ^= 1 << (bit % 8)
	}
	for n := range text {
		put(string(text[:n]))
		if _, err := ReadCauses(disk.OS{}, dir); !errors.Is(err, ErrCheckpoint) {
			t.Fatalf("%d bytes of causes: %v", n, err)
		}
	}
	for _, lines := range []string{"", "0\n", "1\n0\n", "0\n2\n0 damage\n", "0\n1\n0 fate\n", "0\n1\n-1 damage\n", "0\n2\n1 damage\n1 unknown\n", "0\n1\nx damage\n"} {
		put(string(sumCauses([]byte(lines))))
		if _, err := ReadCauses(disk.OS{}, dir); !errors.Is(err, ErrCheckpoint) {
			t.Errorf("causes %q: %v", lines, err)
		}
	}
}
