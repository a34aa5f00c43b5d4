package wear

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWhatADeviceHasWritten(t *testing.T) {
	root, dir := t.TempDir(), t.TempDir()
	if _, err := deviceOf(root, dir); err == nil {
		t.Error("a device that is not in sysfs was found")
	}
	if _, err := deviceOf(root, filepath.Join(dir, "none")); err == nil {
		t.Error("a directory that is not there has a device")
	}
	var s unix.Stat_t
	if err := unix.Stat(dir, &s); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(root, fmt.Sprintf("%d:%d", unix.Major(uint64(s.Dev)), unix.Minor(uint64(s.Dev))))
	if err := os.Mkdir(at, 0o700); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]int64{
		"  4 1 2080 12   7 9   4096 33 0 40 45 0 0 0 0 2 1\n": 4096 * 512, // 17 fields since Linux 5.5
		"1 2 3 4 5 6 7 8 9 10 11":                             7 * 512,    // 11 before 4.18
		"1 2 3 4":                                             -1,
		"1 2 3 4 5 6 many 8":                                  -1,
		"1 2 3 4 5 6 9223372036854775807 8":                   -1, // more bytes than there are numbers
	} {
		if err := os.WriteFile(filepath.Join(at, "stat"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := deviceOf(root, dir)
		if want < 0 {
			if err == nil {
				t.Errorf("%q was taken", text)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if n, err := d.Written(); n != want || err != nil {
			t.Errorf("%q is %d, %v", text, n, err)
		}
	}
}
