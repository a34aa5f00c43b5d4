package doctor

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Years a clock may plausibly be in: this program is younger than the first, and nobody plans for the second.
const (
	yearMin = 2025
	yearMax = 2100
)

func (b *Board) clock(say func(State, string, string)) {
	_, err := os.Stat(b.path("/sys/class/rtc/rtc0"))
	battery := "there is a battery clock"
	if err != nil {
		battery = "there is no battery clock"
	}
	if year := b.Now.UTC().Year(); year < yearMin || year > yearMax {
		say(Bad, fmt.Sprintf("the clock says it is the year %d; %s", year, battery), "let systemd-timesyncd, chrony or ntpd set it, or fit a battery clock: "+
			"certificates and the timestamps of records depend on it")
		return
	}
	right, err := b.Synchronised()
	switch {
	case err != nil:
		say(Warn, fmt.Sprintf("it cannot be seen whether the clock is kept right: %v", err), "")
	case right:
		say(OK, "the clock is kept right; "+battery, "")
	default:
		say(Warn, "nothing keeps the clock right; "+battery, "run systemd-timesyncd, chrony or ntpd")
	}
}

// meminfo is a line of /proc/meminfo, in bytes.
func (b *Board) meminfo(name string) (int64, bool) {
	for line := range strings.Lines(b.read("/proc/meminfo")) {
		if fields := strings.Fields(line); len(fields) >= 2 && fields[0] == name+":" {
			n, err := strconv.ParseInt(fields[1], 10, 53)
			return n << 10, err == nil
		}
	}
	return 0, false
}

// unitGroup is where systemd keeps the memory of the service.
const unitGroup = "/sys/fs/cgroup/system.slice/millrace.service/memory.max"

func (b *Board) memory(say func(State, string, string)) {
	total, ok := b.meminfo("MemTotal")
	switch {
	case !ok:
		say(Warn, "it cannot be seen how much memory there is", "mount /proc")
	case b.Memory > total*9/10:
		say(Bad, fmt.Sprintf("limit is %s of %s", amount(b.Memory), amount(total)), "lower limit in [memory]: the kernel ends what takes more than there is")
	case b.Memory > total*6/10:
		say(Warn, fmt.Sprintf("limit is %s of %s", amount(b.Memory), amount(total)), "lower limit in [memory]: the system and its cache need the rest")
	default:
		say(OK, fmt.Sprintf("limit is %s of %s", amount(b.Memory), amount(total)), "")
	}
	groups := []string{unitGroup}
	if b.PID > 0 {
		if _, name, ok := strings.Cut(b.read(fmt.Sprintf("/proc/%d/cgroup", b.PID)), "::"); ok {
			groups = []string{filepath.Join("/sys/fs/cgroup", strings.SplitN(name, "\n", 2)[0], "memory.max")}
		}
	}
	for _, name := range groups {
		if most, ok := b.number(name); ok && b.Memory > most*9/10 {
			say(Bad, fmt.Sprintf("limit is %s, and the service may have %s", amount(b.Memory), amount(most)),
				"lower limit in [memory], or raise MemoryMax in the unit, to a quarter above it")
		}
	}
	if n, ok := b.number("/proc/sys/vm/overcommit_memory"); ok && n == 2 {
		say(Warn, "vm.overcommit_memory is 2: memory that is only reserved counts", "set vm.overcommit_memory to 0 or 1")
	}
	for i, line := range strings.Split(b.read("/proc/swaps"), "\n") {
		if fields := strings.Fields(line); i > 0 && len(fields) > 0 && !strings.Contains(fields[0], "zram") {
			say(Warn, "there is swap on "+fields[0], "swap wears out flash and makes every deadline a matter of luck: swapoff, or zram")
		}
	}
}

// beside is how many files are open beside connections: segments, the journal, listeners.
const beside = 200

func (b *Board) files(say func(State, string, string)) {
	who := "self"
	if b.PID > 0 {
		who = strconv.Itoa(b.PID)
	}
	need := int64(b.Connections) + beside
	for line := range strings.Lines(b.read("/proc/" + who + "/limits")) {
		rest, ok := strings.CutPrefix(line, "Max open files")
		fields := strings.Fields(rest)
		if !ok || len(fields) < 2 {
			continue
		}
		// The program raises the soft limit to the hard one by itself.
		have, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil && fields[1] == "unlimited" {
			have, err = need, nil
		}
		switch {
		case err != nil:
		case have < need:
			say(Warn, fmt.Sprintf("%d files may be open, %d connections may need %d", have, b.Connections, need),
				fmt.Sprintf("LimitNOFILE=%d in the unit, or lower max.connections and max_connections", need))
			return
		default:
			say(OK, fmt.Sprintf("%s files may be open, %d connections may need %d", fields[1], b.Connections, need), "")
			return
		}
	}
	say(Warn, "it cannot be seen how many files may be open", "mount /proc")
}

func (b *Board) network(say func(State, string, string)) {
	const name = "net.core.somaxconn"
	n, ok := b.number("/proc/sys/net/core/somaxconn")
	switch {
	case !ok:
		say(OK, name+" cannot be seen", "")
	case n < 128:
		say(Warn, fmt.Sprintf("%s is %d: clients that all come back at once wait for seconds", name, n), "set "+name+" to 1024")
	default:
		say(OK, fmt.Sprintf("%s is %d", name, n), "")
	}
}

// units are where the service's unit is looked for, the one that counts first; drop-ins lie beside it.
var units = []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}

func (b *Board) unit(say func(State, string, string)) {
	if _, err := os.Stat(b.path("/run/systemd/system")); err != nil {
		if b.Watchdog {
			say(OK, "no systemd; the broker has a watchdog of its own", "")
			return
		}
		say(Warn, "no systemd, and no watchdog: nothing starts the broker again when it hangs", "name a device in [watchdog], or run it under systemd with WatchdogSec")
		return
	}
	settings := b.unitSettings()
	switch {
	case settings == nil:
		say(Warn, "systemd runs, and there is no millrace.service", "install the unit, so that the broker starts with the board")
	case settings["WatchdogSec"] == "" && !b.Watchdog:
		say(Warn, "nothing resets a board whose broker hangs", "WatchdogSec=20s and FailureAction=reboot-force in the unit, or a device in [watchdog]")
	default:
		say(OK, fmt.Sprintf("millrace.service, WatchdogSec=%s", settings["WatchdogSec"]), "")
	}
	if kind := settings["Type"]; settings != nil && !strings.HasPrefix(kind, "notify") {
		say(Warn, fmt.Sprintf("the unit's Type is %q", kind), "Type=notify-reload, so that systemd knows when the broker serves")
	}
}

// unitSettings are those of [Service]; later ones, and those of drop-ins, count. nil: there is no unit.
func (b *Board) unitSettings() map[string]string {
	for _, dir := range units {
		name := b.path(dir + "/millrace.service")
		if _, err := os.Stat(name); err != nil {
			continue
		}
		settings := map[string]string{}
		files := []string{name}
		for _, above := range units {
			more, err := filepath.Glob(b.path(above + "/millrace.service.d/*.conf"))
			if err == nil {
				files = append(files, more...)
			}
		}
		for _, file := range files {
			section := ""
			lines := bufio.NewScanner(strings.NewReader(readFile(file)))
			for lines.Scan() {
				line := strings.TrimSpace(lines.Text())
				if strings.HasPrefix(line, "[") {
					section = line
				}
				if key, value, ok := strings.Cut(line, "="); ok && section == "[Service]" {
					settings[strings.TrimSpace(key)] = strings.TrimSpace(value)
				}
			}
		}
		return settings
	}
	return nil
}
