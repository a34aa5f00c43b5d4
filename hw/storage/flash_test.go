package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// tree makes files below root: their names, and what is in them; a value that begins with -> is a link.
func tree(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, link := strings.CutPrefix(text, "->"); link {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// number is the name of dir's device in /sys/dev/block.
func number(t *testing.T, dir string) string {
	t.Helper()
	var s unix.Stat_t
	if err := unix.Stat(dir, &s); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("dev/block/%d:%d", unix.Major(uint64(s.Dev)), unix.Minor(uint64(s.Dev)))
}

const (
	stat17 = "  279 100 2494 67  23541 991  3481040 78812 0 34212 78912 10 0 8 2 310 22\n" // since Linux 5.5
	stat11 = "1 2 3 4 5 6 7 8 9 10 11"                                                     // before 4.18
)

// Boards as sysfs shows them.
var boards = map[string]struct {
	files map[string]string
	want  Flash // without paths
	wear  Wear
	// written and counters are the filesystem's device's and the whole device's
	written  int64
	counters Counters
}{
	"eMMC, a partition": {
		map[string]string{
			"NUMBER": "->../../devices/platform/soc/3f300000.mmc/mmc_host/mmc0/mmc0:0001/block/mmcblk0/mmcblk0p3",
			"devices/platform/soc/3f300000.mmc/mmc_host/mmc0/mmc0:0001/block/mmcblk0/mmcblk0p3/partition":      "3\n",
			"devices/platform/soc/3f300000.mmc/mmc_host/mmc0/mmc0:0001/block/mmcblk0/mmcblk0p3/stat":           stat11,
			"devices/platform/soc/3f300000.mmc/mmc_host/mmc0/mmc0:0001/block/mmcblk0/stat":                     stat17,
			"devices/platform/soc/3f300000.mmc/mmc_host/mmc0/mmc0:0001/block/mmcblk0/size":                     "15269888\n",
			"devices/platform/soc/3f300000.mmc/mmc_host/mmc0/mmc0:0001/block/mmcblk0/device":                   "->../..",
			"devices/platform/soc/3f300000.mmc/mmc_host/mmc0/mmc0:0001/type":                                   "MMC\n",
			"devices/platform/soc/3f300000.mmc/mmc_host/mmc0/mmc0:0001/name":                                   "DG4008\n",
			"devices/platform/soc/3f300000.mmc/mmc_host/mmc0/mmc0:0001/manfid":                                 "0x000045\n",
			"devices/platform/soc/3f300000.mmc/mmc_host/mmc0/mmc0:0001/date":                                   "05/2019\n",
			"devices/platform/soc/3f300000.mmc/mmc_host/mmc0/mmc0:0001/life_time":                              "0x02 0x0b\n",
			"devices/platform/soc/3f300000.mmc/mmc_host/mmc0/mmc0:0001/pre_eol_info":                           "0x02\n",
			"devices/platform/soc/3f300000.mmc/mmc_host/mmc0/mmc0:0001/block/mmcblk0/mmcblk0boot0/ignored/end": "",
		},
		Flash{Name: "mmcblk0", Kind: EMMC, Model: "DG4008", Manufacturer: "0x000045", Date: "05/2019", Size: 15269888 * 512},
		Wear{StepA: 2, StepB: 11, PreEOL: 2},
		7 * 512,
		Counters{Read: 2494 * 512, Written: 3481040 * 512, Writes: 23541},
	},
	"SD, whole, of an old kernel": {
		map[string]string{
			"NUMBER":                               "->../../devices/mmc0:aaaa/block/mmcblk1",
			"devices/mmc0:aaaa/block/mmcblk1/stat": stat11, "devices/mmc0:aaaa/block/mmcblk1/size": "62333952\n",
			"devices/mmc0:aaaa/block/mmcblk1/device": "->../..", "devices/mmc0:aaaa/type": "SD\n", "devices/mmc0:aaaa/name": "SC32G\n",
			"devices/mmc0:aaaa/manfid": "0x000003\n", "devices/mmc0:aaaa/date": "11/2021\n",
			"devices/mmc0:aaaa/ssr": strings.Repeat("0", 128) + "\n",
		},
		Flash{Name: "mmcblk1", Kind: SD, Model: "SC32G", Manufacturer: "0x000003", Date: "11/2021", Size: 62333952 * 512},
		Wear{},
		7 * 512,
		Counters{Read: 3 * 512, Written: 7 * 512, Writes: 5},
	},
	"an encrypted partition of an eMMC that tells nothing": {
		map[string]string{
			"NUMBER":                          "->../../devices/virtual/block/dm-0",
			"devices/virtual/block/dm-0/stat": stat11,
			"devices/virtual/block/dm-0/slaves/mmcblk0p2":         "->../../../../mmc1:0001/block/mmcblk0/mmcblk0p2",
			"devices/mmc1:0001/block/mmcblk0/mmcblk0p2/partition": "2\n",
			"devices/mmc1:0001/block/mmcblk0/stat":                stat17,
			"devices/mmc1:0001/block/mmcblk0/device":              "->../..",
			"devices/mmc1:0001/type":                              "MMC\n",
			"devices/mmc1:0001/life_time":                         "0x00 0x00\n",
			"devices/mmc1:0001/pre_eol_info":                      "0x00\n",
		},
		Flash{Name: "mmcblk0", Kind: EMMC},
		Wear{},
		7 * 512,
		Counters{Read: 2494 * 512, Written: 3481040 * 512, Writes: 23541},
	},
	"two disks under one": {
		map[string]string{
			"NUMBER": "->../../devices/virtual/block/md0", "devices/virtual/block/md0/stat": stat11,
			"devices/virtual/block/md0/slaves/sda": "->/none", "devices/virtual/block/md0/slaves/sdb": "->/none",
		},
		Flash{Name: "md0", Kind: Other},
		Wear{},
		7 * 512,
		Counters{Read: 3 * 512, Written: 7 * 512, Writes: 5},
	},
	"NVMe": {
		map[string]string{
			"NUMBER": "->../../devices/pci0/nvme/nvme0/nvme0n1", "devices/pci0/nvme/nvme0/nvme0n1/stat": stat17,
			"devices/pci0/nvme/nvme0/nvme0n1/device": "->..", "devices/pci0/nvme/nvme0/model": "KBG40ZNS256G                            \n",
		},
		Flash{Name: "nvme0n1", Kind: NVMe, Model: "KBG40ZNS256G"},
		Wear{},
		3481040 * 512,
		Counters{Read: 2494 * 512, Written: 3481040 * 512, Writes: 23541},
	},
	"SATA": {
		map[string]string{
			"NUMBER": "->../../devices/pci0/ata1/host0/block/sda", "devices/pci0/ata1/host0/block/sda/stat": stat11,
			"devices/pci0/ata1/host0/block/sda/device/vendor": "ATA     \n",
		},
		Flash{Name: "sda", Kind: SATA, Manufacturer: "ATA"},
		Wear{},
		7 * 512,
		Counters{Read: 3 * 512, Written: 7 * 512, Writes: 5},
	},
	"a USB stick": {
		map[string]string{"NUMBER": "->../../devices/pci0/usb1/1-1/host2/block/sdb", "devices/pci0/usb1/1-1/host2/block/sdb/stat": stat11},
		Flash{Name: "sdb", Kind: USB},
		Wear{},
		7 * 512,
		Counters{Read: 3 * 512, Written: 7 * 512, Writes: 5},
	},
	"a file": {
		map[string]string{"NUMBER": "->../../devices/virtual/block/loop3", "devices/virtual/block/loop3/stat": stat11},
		Flash{Name: "loop3", Kind: Loop},
		Wear{},
		7 * 512,
		Counters{Read: 3 * 512, Written: 7 * 512, Writes: 5},
	},
	"a register nobody knows": {
		map[string]string{
			"NUMBER": "->../../devices/mmc0/block/mmcblk0", "devices/mmc0/block/mmcblk0/stat": stat11, "devices/mmc0/block/mmcblk0/device": "->../..",
			"devices/mmc0/type": "SDIO\n", "devices/mmc0/life_time": "0x0c -1\n", "devices/mmc0/pre_eol_info": "0x0f\n",
			"devices/mmc0/block/mmcblk0/size": "many\n",
		},
		Flash{Name: "mmcblk0", Kind: Other},
		Wear{},
		7 * 512,
		Counters{Read: 3 * 512, Written: 7 * 512, Writes: 5},
	},
}

func TestWhatSysfsTellsOfADevice(t *testing.T) {
	for name, tt := range boards {
		t.Run(name, func(t *testing.T) {
			sys, dir := t.TempDir(), t.TempDir()
			files := map[string]string{}
			for name, text := range tt.files {
				if name == "NUMBER" {
					name = number(t, dir)
				}
				files[name] = text
			}
			tree(t, sys, files)
			f, err := FlashOf(sys, dir)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := f.Written(); n != tt.written || err != nil {
				t.Errorf("written %d, %v; want %d", n, err, tt.written)
			}
			if c, err := f.Counters(); c != tt.counters || err != nil {
				t.Errorf("counters %+v, %v; want %+v", c, err, tt.counters)
			}
			if w := f.Wear(); w != tt.wear {
				t.Errorf("wear %+v, want %+v", w, tt.wear)
			}
			got := *f
			got.part, got.disk = "", ""
			if got != tt.want {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestWhatHasNoDevice(t *testing.T) {
	sys, dir := t.TempDir(), t.TempDir()
	if _, err := FlashOf(sys, dir); !errors.Is(err, ErrNoDevice) {
		t.Errorf("a device that is not in sysfs: %v", err)
	}
	if _, err := FlashOf(sys, filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory that is not there: %v", err)
	}
	tree(t, sys, map[string]string{number(t, dir): "->../../devices/vda", "devices/vda/other": ""})
	if _, err := FlashOf(sys, dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a device without counters: %v", err)
	}
	for _, text := range []string{
		"1 2 3 4",
		"1 2 3 4 5 6 many 8",
		"1 2 3 4 5 6 9223372036854775807 8", // more bytes than there are numbers
	} {
		if err := os.WriteFile(filepath.Join(sys, "devices/vda/stat"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if f, err := FlashOf(sys, dir); err == nil {
			t.Errorf("%q was taken: %v", text, f)
		}
	}
}

func TestHowMuchAStepIs(t *testing.T) {
	for step, want := range map[int]float64{1: 0.1, 10: 1, 11: 1.1} {
		if used, ok := Used(step); !ok || used != want {
			t.Errorf("step %d: %v, %v", step, used, ok)
		}
	}
	for _, step := range []int{-1, 0, 12} {
		if _, ok := Used(step); ok {
			t.Errorf("step %d is one", step)
		}
	}
}
