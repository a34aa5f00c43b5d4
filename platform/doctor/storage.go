package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// disk is the block device that a directory lies on, as sysfs shows it.
type disk struct {
	name string // mmcblk0
	dir  string // its directory in sysfs
}

// find follows a partition to its disk, and what is stacked to what it is stacked on.
func (b *Board) find() (disk, error) {
	major, minor, err := b.Device(b.existing())
	if err != nil {
		return disk{}, err
	}
	dir, err := filepath.EvalSymlinks(b.path(fmt.Sprintf("/sys/dev/block/%d:%d", major, minor)))
	if err != nil {
		return disk{}, fmt.Errorf("the data is on no block device of its own (%d:%d)", major, minor)
	}
	for range 8 { // encryption on a volume on a partition: no more
		if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
			dir = filepath.Dir(dir)
		}
		below, err := os.ReadDir(filepath.Join(dir, "slaves"))
		if err != nil || len(below) == 0 {
			break
		}
		next, err := filepath.EvalSymlinks(filepath.Join(dir, "slaves", below[0].Name()))
		if err != nil {
			break
		}
		dir = next
	}
	return disk{filepath.Base(dir), dir}, nil
}

func (b *Board) device(say func(State, string, string)) {
	d, err := b.find()
	if err != nil {
		say(Warn, err.Error(), "what wears out, and whether it keeps what is synced, cannot be seen from here: put the data on a partition of eMMC, SSD or NVMe")
		return
	}
	of := func(name string) string { return readFile(filepath.Join(d.dir, name)) }
	kind := strings.ToUpper(of("device/type"))
	switch {
	case strings.HasPrefix(d.name, "mmcblk") && kind == "SD":
		say(Warn, d.name+" is an SD card", "SD cards seldom say when they wear out, and cheap ones lose what was written before: use one made for industry, "+
			`and bound what is written with write.budget in [flash]; eMMC or NVMe last longer`)
	case strings.HasPrefix(d.name, "mmcblk"):
		b.worn(d, of("device/life_time"), of("device/pre_eol_info"), say)
	case strings.HasPrefix(d.name, "nvme"):
		say(OK, d.name+" is NVMe", "")
	case of("queue/rotational") == "1" && !strings.HasPrefix(d.name, "vd"):
		say(OK, d.name+" is a disk that turns: every commit waits for it", "commit.interval.ms in [journal] takes more records into one commit")
	case of("removable") == "1":
		say(Warn, d.name+" can be taken out", "sticks wear out soon and do not say so: use eMMC, SSD or NVMe")
	case strings.HasPrefix(d.name, "loop"), strings.HasPrefix(d.name, "ram"), strings.HasPrefix(d.name, "zram"):
		say(Warn, d.name+" is no device of its own", "put the data on a partition of eMMC, SSD or NVMe")
	default:
		say(OK, d.name+" is a solid-state or virtual disk", "")
	}
	if of("ro") == "1" {
		say(Bad, d.name+" is read-only", "a card or chip at the end of its life turns read-only: replace it")
	}
}

// worn reads what an eMMC says of its life (JEDEC JESD84-B51, EXT_CSD 267 to 269): two estimates in steps of a tenth, 11
// for more than all of it, and how much of the reserve of blocks is used.
func (b *Board) worn(d disk, life, reserve string, say func(State, string, string)) {
	tenths := int64(0)
	for word := range strings.FieldsSeq(life) {
		if n, err := strconv.ParseInt(word, 0, 64); err == nil {
			tenths = max(tenths, n)
		}
	}
	end, _ := strconv.ParseInt(strings.TrimSpace(reserve), 0, 64)
	const replace = "make a backup (`millrace backup`) and replace it"
	switch {
	case tenths == 0 && end == 0:
		say(OK, d.name+" is eMMC that does not say how worn it is", "")
	case tenths > 10 || end >= 3:
		say(Bad, d.name+" is eMMC at the end of its life", replace)
	case tenths >= 9 || end == 2:
		say(Warn, fmt.Sprintf("%s is eMMC, up to %d %% of its life are used", d.name, tenths*10), replace+"; until then bound what is written with write.budget in [flash]")
	default:
		say(OK, fmt.Sprintf("%s is eMMC, up to %d %% of its life are used", d.name, tenths*10), "")
	}
}

// mount is a line of mountinfo (proc_pid_mountinfo(5)).
type mount struct {
	at, kind string
	options  []string // of the mount and of the filesystem
}

// mounted finds the mount that holds a directory: the longest path, and of equals the last one.
func (b *Board) mounted(dir string) (m mount, ok bool) {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(b.read("/proc/self/mountinfo")) {
		left, right, cut := strings.Cut(strings.TrimSpace(line), " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !cut || len(l) < 6 || len(r) < 3 {
			continue
		}
		at := unescape.Replace(l[4])
		if at != "/" && dir != at && !strings.HasPrefix(dir, at+"/") || len(at) < len(m.at) {
			continue
		}
		m, ok = mount{at, r[0], append(strings.Split(l[5], ","), strings.Split(r[2], ",")...)}, true
	}
	return m, ok
}

func (b *Board) filesystem(say func(State, string, string)) {
	m, ok := b.mounted(b.existing())
	if !ok {
		say(Warn, "it cannot be seen what filesystem the data is on", "mount /proc")
		return
	}
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return slices.Contains(m.options, w) })
	}
	where := fmt.Sprintf("%s at %s", m.kind, m.at)
	switch m.kind {
	case "ext4", "f2fs":
		say(OK, where, "")
	case "tmpfs", "ramfs":
		say(Bad, where+": all is gone with the power", "put the data on a partition with ext4 or f2fs")
	case "overlay":
		say(Bad, where+": what is written may be gone with the container or the restart", "mount a partition or a volume at the data directory")
	case "xfs", "btrfs":
		say(OK, where+": it works; ext4 and f2fs are what power cuts were tried on", "")
	default:
		say(Warn, where+": nobody tried power cuts on it", "put the data on a partition with ext4 or f2fs")
	}
	if has("ro") {
		say(Bad, where+" is read-only", "mount it rw; if the kernel made it read-only after an error, check the device and the filesystem")
	}
	if has("nobarrier", "barrier=0", "fsync_mode=nobarrier") {
		say(Bad, where+" is mounted without barriers: what is acknowledged can be lost", "mount it without nobarrier, barrier=0 and fsync_mode=nobarrier")
	}
	if has("sync", "dirsync") {
		say(Warn, where+" syncs every write", "mount it without sync and dirsync: millrace syncs what it must")
	}
	if !has("noatime", "relatime", "ro") {
		say(Warn, where+" writes with every read", "mount it with noatime")
	}
}

func (b *Board) space(say func(State, string, string)) {
	free, files, err := b.Space(b.existing())
	switch {
	case err != nil:
		say(Bad, err.Error(), "")
		return
	case free < b.Reserve:
		say(Bad, fmt.Sprintf("%s free, %s of it are kept back: writes are refused", amount(free), amount(b.Reserve)),
			"lower retention.ms or retention.bytes, delete topics, or give the data a larger partition")
	case free < 2*b.Reserve:
		say(Warn, fmt.Sprintf("%s free, %s of it are kept back", amount(free), amount(b.Reserve)), "lower retention.bytes before it is full, or use full = \"drop-oldest\"")
	default:
		say(OK, fmt.Sprintf("%s free, %s of it are kept back", amount(free), amount(b.Reserve)), "")
	}
	if files >= 0 && files < 2000 {
		say(Warn, fmt.Sprintf("room for %d more files", files), "make the filesystem with more inodes, or use larger segments (segment.bytes)")
	}
}
