package doctor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// machine is a board with nothing wrong: eMMC that is new, ext4 with noatime, a clock that is kept right, a unit.
var machine = map[string]string{
	"/sys/devices/mmc0/block/mmcblk0/device/type":          "MMC\n",
	"/sys/devices/mmc0/block/mmcblk0/device/life_time":     "0x02 0x01\n",
	"/sys/devices/mmc0/block/mmcblk0/device/pre_eol_info":  "0x01\n",
	"/sys/devices/mmc0/block/mmcblk0/ro":                   "0\n",
	"/sys/devices/mmc0/block/mmcblk0/mmcblk0p2/partition":  "2\n",
	"/sys/class/rtc/rtc0/name":                             "rtc-ds1307\n",
	"/proc/self/mountinfo":                                 "1 0 179:1 / / ro,noatime - squashfs /dev/root ro\n2 1 179:2 / DIR rw,noatime shared:1 - ext4 /dev/mmcblk0p2 rw\n",
	"/proc/meminfo":                                        "MemTotal:         120000 kB\nMemFree: 1 kB\n",
	"/proc/self/limits":                                    "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 524288               files\n",
	"/proc/sys/net/core/somaxconn":                         "4096\n",
	"/proc/sys/vm/overcommit_memory":                       "0\n",
	"/proc/swaps":                                          "Filename Type Size Used Priority\n/dev/zram0 partition 1 0 1\n",
	"/run/systemd/system/x":                                "",
	"/usr/lib/systemd/system/millrace.service":             "[Unit]\nWatchdogSec=1\n[Service]\nType=notify-reload\nWatchdogSec=20s\n",
	"/etc/systemd/system/millrace.service.d/override.conf": "[Service]\nMemoryMax=80M\n",
	unitGroup: "83886080\n",
}

// built makes a machine with other files in place of some, "-" for none, and looks at it.
func built(t *testing.T, change map[string]string, adjust func(*Board)) []Finding {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "var", "millrace")
	files := map[string]string{}
	for name, text := range machine {
		files[name] = text
	}
	for name, text := range change {
		files[name] = text
	}
	for name, text := range files {
		path := filepath.Join(root, name)
		if text == "-" {
			continue
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(strings.ReplaceAll(text, "DIR", dir)), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.MkdirAll(filepath.Join(root, "/sys/dev/block"), 0o755),
		os.Symlink("../../devices/mmc0/block/mmcblk0/mmcblk0p2", filepath.Join(root, "/sys/dev/block/179:2"))); err != nil {
		t.Fatal(err)
	}
	b := &Board{
		Root: root, Dir: filepath.Join(dir, "not", "there", "yet"), Memory: 48 << 20, Reserve: 80 << 20, Connections: 3000,
		Now:          time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC),
		Device:       func(string) (uint32, uint32, error) { return 179, 2, nil },
		Space:        func(string) (int64, int64, error) { return 1 << 30, 100_000, nil },
		Synchronised: func() (bool, error) { return true, nil },
		Resolve: func(_ context.Context, host string) error {
			if host == "lost.example" {
				return errors.New("lookup lost.example: no such host")
			}
			return nil
		},
		Dial: func(_ context.Context, address string) error {
			if address == "far.example:9093" {
				return errors.New("dial far.example:9093: timed out")
			}
			return nil
		},
	}
	if adjust != nil {
		adjust(b)
	}
	return b.Examine()
}

func TestAFitMachineIsFit(t *testing.T) {
	all := built(t, nil, nil)
	if Worst(all) != OK || len(all) != 8 {
		t.Errorf("%d findings: %+v", len(all), all)
	}
	for _, f := range all {
		if f.Text == "" || f.Change != "" {
			t.Errorf("%+v", f)
		}
	}
}

// A link that its servers can be reached by is well; one that is metered calls nobody.
func TestLinksAreLookedAt(t *testing.T) {
	all := built(t, map[string]string{"/etc/hq.secret": "x"}, func(b *Board) {
		b.Links = []Link{
			{Name: "hq", Servers: []string{"far.example:9093", "near.example:9093"}, TLS: true, Files: []string{"/etc/hq.secret"}},
			{Name: "sat", Servers: []string{"far.example:9093"}, Metered: true},
		}
	})
	var said []string
	for _, f := range all {
		if f.Check == "upstream" {
			said = append(said, string(f.State)+" "+f.Text)
		}
	}
	if want := []string{"ok link hq: near.example:9093 answers", "ok link sat: it is metered, so its servers are not called; their names are found"}; !slices.Equal(said, want) {
		t.Errorf("%q, want %q", said, want)
	}
}

// linked is a board with one link.
func linked(l Link) func(*Board) {
	return func(b *Board) {
		l.Name = "hq"
		b.Links = []Link{l}
	}
}

func TestWhatIsWrongIsFound(t *testing.T) {
	const emmc = "/sys/devices/mmc0/block/mmcblk0/"
	file := func(name, text string) map[string]string { return map[string]string{name: text} }
	mounted := func(options, kind, super string) map[string]string {
		return file("/proc/self/mountinfo", "1 0 0:1 / / rw - ext4 x rw\n2 1 179:2 / DIR "+options+" - "+kind+" /dev/x "+super+"\n")
	}
	for _, tt := range []struct {
		name   string
		change map[string]string
		adjust func(*Board)
		state  State
		check  string
		text   string // of what is found
	}{
		{"SD card", file(emmc+"device/type", "SD"), nil, Warn, "device", "SD card"},
		{"worn eMMC", file(emmc+"device/life_time", "0x01 0x09"), nil, Warn, "device", "up to 90 %"},
		{"spare blocks used", file(emmc+"device/pre_eol_info", "0x02"), nil, Warn, "device", "eMMC"},
		{"eMMC at its end", file(emmc+"device/life_time", "0x0b 0x01"), nil, Bad, "device", "end of its life"},
		{"read-only chip", file(emmc+"ro", "1"), nil, Bad, "device", "read-only"},
		{"no device", nil, func(b *Board) { b.Device = func(string) (uint32, uint32, error) { return 0, 30, nil } }, Warn, "device", "no block device"},
		{"memory filesystem", mounted("rw,noatime", "tmpfs", "rw"), nil, Bad, "filesystem", "tmpfs"},
		{"container", mounted("rw,relatime", "overlay", "rw"), nil, Bad, "filesystem", "overlay"},
		{"network", mounted("rw,relatime", "nfs4", "rw"), nil, Warn, "filesystem", "nfs4"},
		{"remounted after an error", mounted("rw,noatime", "ext4", "ro,errors=remount-ro"), nil, Bad, "filesystem", "read-only"},
		{"no barriers", mounted("rw,noatime", "ext4", "rw,nobarrier"), nil, Bad, "filesystem", "barriers"},
		{"access times", mounted("rw", "ext4", "rw"), nil, Warn, "filesystem", "every read"},
		{"sync", mounted("rw,noatime,sync", "ext4", "rw"), nil, Warn, "filesystem", "syncs every write"},
		{"full", nil, func(b *Board) { b.Space = func(string) (int64, int64, error) { return 79 << 20, -1, nil } }, Bad, "space", "writes are refused"},
		{"nearly full", nil, func(b *Board) { b.Space = func(string) (int64, int64, error) { return 100 << 20, -1, nil } }, Warn, "space", "100 MiB free"},
		{"few inodes", nil, func(b *Board) { b.Space = func(string) (int64, int64, error) { return 1 << 40, 12, nil } }, Warn, "space", "12 more files"},
		{"1970", nil, func(b *Board) { b.Now = time.Unix(300, 0) }, Bad, "clock", "year 1970; there is a battery clock"},
		{"no battery", file("/sys/class/rtc/rtc0/name", "-"), func(b *Board) { b.Now = time.Unix(1<<40, 0) }, Bad, "clock", "no battery clock"},
		{"nobody sets it", nil, func(b *Board) { b.Synchronised = func() (bool, error) { return false, nil } }, Warn, "clock", "nothing keeps"},
		{"little memory", file("/proc/meminfo", "MemTotal: 50000 kB"), nil, Bad, "memory", "limit is 48 MiB of 48 MiB"},
		{"memory for the rest", file("/proc/meminfo", "MemTotal: 70000 kB"), nil, Warn, "memory", "limit"},
		{"cgroup", file(unitGroup, "50331648"), nil, Bad, "memory", "the service may have 48 MiB"},
		{
			"cgroup of the broker",
			map[string]string{"/proc/77/cgroup": "0::/a.slice/b\n", "/sys/fs/cgroup/a.slice/b/memory.max": "1000000", "/proc/77/limits": machine["/proc/self/limits"]},
			func(b *Board) { b.PID = 77 }, Bad, "memory", "the service may have 976 KiB",
		},
		{"overcommit", file("/proc/sys/vm/overcommit_memory", "2"), nil, Warn, "memory", "overcommit"},
		{"swap", file("/proc/swaps", "Filename\n/dev/mmcblk0p3 partition 1 1 1\n"), nil, Warn, "memory", "swap on /dev/mmcblk0p3"},
		{"few files", file("/proc/self/limits", "Max open files  1024  1024  files\n"), nil, Warn, "files", "1024 files may be open"},
		{"few waiting", file("/proc/sys/net/core/somaxconn", "16"), nil, Warn, "network", "somaxconn is 16"},
		{"no unit", file("/usr/lib/systemd/system/millrace.service", "-"), nil, Warn, "unit", "no millrace.service"},
		{"no watchdog", file("/etc/systemd/system/millrace.service.d/override.conf", "[Service]\nWatchdogSec=\n"), nil, Warn, "unit", "nothing resets"},
		{"unit of another type", file("/usr/lib/systemd/system/millrace.service", "[Service]\nType=simple\nWatchdogSec=20s\n"), nil, Warn, "unit", `Type is "simple"`},
		{"no systemd", file("/run/systemd/system/x", "-"), nil, Warn, "unit", "no systemd"},
		{"a link's name", nil, linked(Link{Servers: []string{"lost.example:9093", "near.example:9093"}}), Warn, "upstream", "link hq: a name is not found: lookup lost.example"},
		{"a metered link's name", nil, linked(Link{Servers: []string{"lost.example:9093"}, Metered: true}), Warn, "upstream", "link hq: a name is not found"},
		{"a link's servers", nil, linked(Link{Servers: []string{"far.example:9093"}}), Warn, "upstream", "link hq: no server answers: dial far.example:9093: timed out"},
		{"a link's file", nil, linked(Link{Servers: []string{"a:1"}, Files: []string{"/etc/hq.pem"}}), Warn, "upstream", "a file it needs cannot be used"},
		{"a link's secret", file("/etc/hq.secret", "x"), linked(Link{Servers: []string{"a:1"}, Files: []string{"/etc/hq.secret"}, Secrets: []string{"/etc/hq.secret"}}), Warn, "upstream", "everybody on this machine can read /etc/hq.secret"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			all := built(t, tt.change, tt.adjust)
			if Worst(all) != tt.state {
				t.Errorf("the worst is %s, want %s: %+v", Worst(all), tt.state, all)
			}
			for _, f := range all {
				switch {
				case f.State == tt.state && (f.Check != tt.check || !strings.Contains(f.Text, tt.text) || f.Change == ""):
					t.Errorf("found %+v, want %s in %s and what to change", f, tt.text, tt.check)
				case f.State != tt.state && f.State != OK:
					t.Errorf("found %+v beside it", f)
				}
			}
		})
	}
}

func TestThisMachineIsLookedAt(t *testing.T) {
	b := New(t.TempDir())
	b.Memory, b.Reserve = 1<<20, 1
	if all := b.Examine(); len(all) < 8 {
		t.Errorf("%+v", all)
	}
	if _, files, err := b.Space("/nowhere/at/all"); err == nil {
		t.Errorf("a directory that is not there has room for %d files", files)
	}
}
