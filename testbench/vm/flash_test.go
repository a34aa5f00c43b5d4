package vm

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"millrace/testbench/lane"
)

// The flash verb must not touch the disk of whoever runs it. The devices here are files, and what the kernel says of them
// is made up.
func TestFlashRefusesWhatIsNoCard(t *testing.T) {
	lane.Need(t, "bash", "dd")
	lane.Uses(t, source("flash.sh"))
	image := bytes.Repeat([]byte("image"), 1<<18)
	for _, tt := range []struct {
		name   string
		kernel map[string]string // files of /sys/class/block/NAME
		want   string
	}{
		{"no block device", nil, "is no block device"},
		{"fixed disk", map[string]string{"removable": "0", "ro": "0", "size": "8388608"}, "is not removable"},
		{"eMMC", map[string]string{"removable": "0", "ro": "0", "size": "8388608", "device/type": "MMC"}, "is not removable"},
		{"partition", map[string]string{"removable": "1", "ro": "0", "size": "8388608", "partition": "1"}, "is a partition"},
		{"locked card", map[string]string{"removable": "1", "ro": "1", "size": "8388608"}, "is write-protected"},
		{"small card", map[string]string{"removable": "1", "ro": "0", "size": "2048"}, "is too small"},
		{"in use", map[string]string{"removable": "1", "ro": "0", "size": "8388608", "card1/holders/dm-0": ""}, "is in use"},
		{"stick", map[string]string{"removable": "1", "ro": "0", "size": "8388608"}, ""},
		{"card in a slot", map[string]string{"removable": "0", "ro": "0", "size": "8388608", "device/type": "SD"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			from, card := filepath.Join(dir, "disk.img"), filepath.Join(dir, "card")
			before := bytes.Repeat([]byte("kept"), 1<<19)
			write(t, from, image)
			write(t, card, before)
			for name, text := range tt.kernel {
				write(t, filepath.Join(dir, "class", "block", "card", name), []byte(text+"\n"))
			}
			cmd := exec.Command("bash", source("flash.sh"), from, card)
			cmd.Env = append(os.Environ(), "SYSFS="+dir)
			out, err := cmd.CombinedOutput()
			after, readErr := os.ReadFile(card)
			if readErr != nil {
				t.Fatal(readErr)
			}
			if tt.want == "" {
				if err != nil || !bytes.HasPrefix(after, image) {
					t.Errorf("a card is not written: %v: %s", err, out)
				}
				return
			}
			if err == nil || !strings.Contains(string(out), tt.want) || !bytes.Equal(before, after) {
				t.Errorf("%v: %s, want a refusal that it %s", err, out, tt.want)
			}
		})
	}
}

func write(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
