package vm

import (
	"archive/tar"
	"bytes"
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"millrace/testbench/lane"
)

// architectures are Debian's names of what there is a package for, and what its program must be.
var architectures = map[string]struct {
	goarch  string
	machine elf.Machine
	class   elf.Class
}{
	"armhf": {"arm", elf.EM_ARM, elf.ELFCLASS32},
	"arm64": {"arm64", elf.EM_AARCH64, elf.ELFCLASS64},
	"amd64": {"amd64", elf.EM_X86_64, elf.ELFCLASS64},
}

// packed are the modes of all that a package puts on a machine, directories without their slash.
var packed = map[string]int64{
	"etc/millrace": 0o755, "etc/millrace/millrace.toml": 0o644,
	"usr/bin/millrace":                               0o755,
	"usr/lib/systemd/system/millrace.service":        0o644,
	"usr/lib/sysusers.d/millrace.conf":               0o644,
	"usr/share/bash-completion/completions/millrace": 0o644,
	"usr/share/doc/millrace":                         0o755, "usr/share/doc/millrace/changelog.gz": 0o644, "usr/share/doc/millrace/copyright": 0o644,
	"usr/share/lintian/overrides/millrace": 0o644, "usr/share/man/man1/millrace.1.gz": 0o644,
}

// quick is a compression that takes a fifth of the time of the default, emulated is one that takes an emulated machine none.
const quick, emulated = "-Zxz -z0", "-Znone"

// program builds the program for an architecture of Debian, under a version.
func program(t *testing.T, arch, version string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "millrace")
	lane.Build(t, file, "-trimpath", "-ldflags", "-s -w -X main.version="+version, "GOOS=linux", "GOARCH="+architectures[arch].goarch, "GOARM=7")
	return file
}

// pack packs a program, compressed as dpkg-deb is told to, with git's version where none is given, and returns the file.
func pack(t *testing.T, arch, program, version, compression string) string {
	t.Helper()
	systemd := filepath.Join("..", "..", "platform", "systemd")
	lane.Uses(t, systemd)
	cmd := exec.Command("bash", filepath.Join(systemd, "debian", "build.sh"), arch, program, t.TempDir())
	cmd.Env = append(os.Environ(), "VERSION="+version, "PACK="+compression)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("pack: %v\n%s", err, complaints.Bytes())
	}
	return strings.TrimSpace(string(out))
}

func TestDebianPackagesAreWellMade(t *testing.T) {
	t.Parallel()
	lane.Need(t, "dpkg-deb", "xz", "gzip", "md5sum")
	for _, arch := range slices.Sorted(maps.Keys(architectures)) {
		t.Run(arch, func(t *testing.T) {
			want := architectures[arch]
			built := program(t, arch, "test")
			file := pack(t, arch, built, "", quick)
			field := func(name string) string { return strings.TrimSpace(run(t, "dpkg-deb", "--field", file, name)) }
			version := field("Version")
			if name := "millrace_" + version + "_" + arch + ".deb"; filepath.Base(file) != name || field("Architecture") != arch || field("Package") != "millrace" {
				t.Errorf("%s is called %s", name, filepath.Base(file))
			}
			if version == "" || version[0] < '0' || version[0] > '9' {
				t.Errorf("a version for Debian begins with a digit: %q", version)
			}

			control := t.TempDir()
			run(t, "dpkg-deb", "--control", file, control)
			conffiles, err := os.ReadFile(filepath.Join(control, "conffiles"))
			if err != nil || string(conffiles) != "/etc/millrace/millrace.toml\n" {
				t.Errorf("the settings of its owner are %q, %v", conffiles, err)
			}
			tree := t.TempDir()
			run(t, "dpkg-deb", "--extract", file, tree)
			sums := exec.Command("md5sum", "--check", "--strict", "--quiet", filepath.Join(control, "md5sums"))
			sums.Dir = tree
			if out, err := sums.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}

			missing := maps.Clone(packed)
			for entries := tar.NewReader(strings.NewReader(run(t, "dpkg-deb", "--fsys-tarfile", file))); ; {
				h, err := entries.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				name := strings.Trim(strings.TrimPrefix(h.Name, "."), "/")
				mode, named := packed[name]
				if !named {
					mode = 0o755
				}
				if h.Uid != 0 || h.Gid != 0 || h.Uname != "root" || h.Gname != "root" || h.Mode&0o7777 != mode || !named && h.Typeflag != tar.TypeDir {
					t.Errorf("%s has mode %#o and is %s:%s's", h.Name, h.Mode, h.Uname, h.Gname)
				}
				delete(missing, name)
			}
			if len(missing) > 0 {
				t.Errorf("not there: %v", missing)
			}

			installed := filepath.Join(tree, "usr", "bin", "millrace")
			binary, err := elf.Open(installed)
			if err != nil {
				t.Fatal(err)
			}
			if libraries, err := binary.ImportedLibraries(); binary.Machine != want.machine || binary.Class != want.class || err != nil || len(libraries) > 0 {
				t.Errorf("its program is for %v, %v, and needs %q, %v", binary.Machine, binary.Class, libraries, err)
			}
			if err := binary.Close(); err != nil {
				t.Error(err)
			}
			info, err := buildinfo.ReadFile(installed)
			if err != nil {
				t.Fatal(err)
			}
			for _, setting := range info.Settings {
				if setting.Key == "GOARM" && setting.Value != "7" || setting.Key == "CGO_ENABLED" && setting.Value != "0" {
					t.Errorf("built with %s=%s", setting.Key, setting.Value)
				}
			}
			terms, err := os.ReadFile(filepath.Join(tree, "usr/share/doc/millrace/copyright"))
			for _, module := range info.Deps {
				if err != nil || !bytes.Contains(terms, []byte("\n== "+module.Path+" "+module.Version+"\n")) {
					t.Errorf("the terms of %s are not there: %v", module.Path, err)
				}
			}

			if arch == "armhf" { // one for all
				again, err := os.ReadFile(pack(t, arch, built, "", quick))
				if err != nil {
					t.Fatal(err)
				}
				if first, err := os.ReadFile(file); err != nil || !bytes.Equal(first, again) {
					t.Errorf("packed again it is not the same: %v", err)
				}
				emulator := lane.Need(t, "qemu-arm-static")[0]
				if out := run(t, emulator, installed, "version"); !strings.Contains(out, "test") {
					t.Errorf("it says %q", out)
				}
			}
		})
	}
}

// Versions in the order they are made in: each is an upgrade of those before.
func TestDebianVersionsSort(t *testing.T) {
	lane.Need(t, "dpkg")
	const first, later = "1767323045", "1767323046"
	last := ""
	for _, tt := range []struct{ described, seconds, want string }{
		{"unknown", "0", "0~git19700101000000.unknown"},
		{"fedcba9", first, "0~git20260102030405.fedcba9"},
		{"fedcba9-dirty", first, "0~git20260102030405.fedcba9.dirty"},
		{"abcdef1", later, "0~git20260102030406.abcdef1"},
		{"v0.1.0-0-gabcdef1", later, "0.1.0"},
		{"v1.2.0-rc1-0-gabcdef1", later, "1.2.0~rc1"},
		{"v1.2.0-rc1-3-gabcdef1", later, "1.2.0~rc1+3.gabcdef1"},
		{"v1.2.0-rc2-0-gabcdef1", later, "1.2.0~rc2"},
		{"v1.2.0-0-gabcdef1", later, "1.2.0"},
		{"v1.2.0-0-gabcdef1-dirty", later, "1.2.0+0.gabcdef1.dirty"},
		{"v1.2.0-9-gabcdef1", later, "1.2.0+9.gabcdef1"},
		{"v1.2.0-10-gabcdef1", later, "1.2.0+10.gabcdef1"},
		{"v1.2.0-10-gabcdef1-dirty", later, "1.2.0+10.gabcdef1.dirty"},
		{"v1.10.0-0-gabcdef1", later, "1.10.0"},
	} {
		got := strings.TrimSpace(run(t, "sh", filepath.Join("..", "..", "platform", "systemd", "debian", "version.sh"), tt.described, tt.seconds))
		if got != tt.want {
			t.Errorf("%s: version %q, want %q", tt.described, got, tt.want)
		}
		if out, err := exec.Command("dpkg", "--compare-versions", got, "gt", last).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s does not come after %q: %v %s", got, last, err, out)
		}
		last = got
	}
}

// service is what systemd says of the broker.
func (m *Machine) service(t *testing.T) map[string]string {
	t.Helper()
	said := map[string]string{}
	for line := range strings.Lines(m.Do("systemctl show millrace.service -p LoadState,ActiveState,SubState,Type,User,NRestarts,MainPID,UnitFileState")) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		said[key] = value
	}
	return said
}

// serves expects that the broker runs, has told systemd so, has never ended by itself, is of a version, and starts with the
// machine. It returns its process.
func (m *Machine) serves(t *testing.T, version string) (pid string) {
	t.Helper()
	got := m.service(t)
	pid = got["MainPID"]
	delete(got, "MainPID")
	want := map[string]string{
		"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "Type": "notify", "User": "millrace", "NRestarts": "0", "UnitFileState": "enabled",
	}
	if !maps.Equal(got, want) {
		t.Fatalf("the service is %v, want %v\n%s", got, want, m.Do("journalctl --no-pager -u millrace"))
	}
	if said := m.Do("millrace status"); !strings.Contains(said, "millrace "+version+", process "+pid) {
		t.Errorf("want version %s, process %s, and not\n%s", version, pid, said)
	}
	return pid
}

// well expects that nothing on the machine has failed.
func (m *Machine) well(t *testing.T, after string) {
	t.Helper()
	if state, _ := m.Try("systemctl is-system-running"); strings.TrimSpace(state) != "running" {
		t.Errorf("after %s the machine is %s%s", after, state, m.Do("systemctl --failed --no-legend"))
	}
	if audit := m.Do("dpkg --audit"); audit != "" {
		t.Errorf("after %s: %s", after, audit)
	}
}

// gone expects that no broker runs and systemd knows of none.
func (m *Machine) gone(t *testing.T, after string) {
	t.Helper()
	if got := m.service(t); got["LoadState"] != "not-found" || got["ActiveState"] != "inactive" || got["MainPID"] != "0" {
		t.Errorf("after %s the service is %v", after, got)
	}
	if out, status := m.Try("pgrep -a millrace"); status != 1 {
		t.Errorf("after %s there runs %s", after, out)
	}
	if out, status := m.Try("command -v millrace"); status == 0 {
		t.Errorf("after %s there is %s", after, out)
	}
	m.well(t, after)
}

// A package goes through its life on a Debian with systemd: it is installed, set up, upgraded, removed, installed again,
// purged. Records, settings and who the broker is live until the purge.
func TestDebianPackageLivesUnderSystemd(t *testing.T) {
	t.Parallel()
	lane.Need(t, machineNeeds...)
	first := pack(t, "arm64", program(t, "arm64", "first"), "", emulated)
	second := pack(t, "arm64", program(t, "arm64", "second"), strings.TrimSpace(run(t, "dpkg-deb", "--field", first, "Version"))+"+next", emulated)
	m := NewMachine(t, first, second)
	booted := m.Took()
	install := func(file string) string { return m.Do("dpkg -i /root/" + filepath.Base(file)) }

	install(first)
	m.serves(t, "first")
	m.well(t, "the installation")
	m.Do("echo by hand | millrace produce lane")
	if got := m.Do("millrace consume lane --until-end"); strings.TrimSpace(got) != "by hand" {
		t.Errorf("the record is %q", got)
	}
	if said, status := m.Try("systemd-analyze security --no-pager --threshold=" + exposureMax + " millrace.service"); status != 0 {
		t.Errorf("it is too exposed:\n%s", said)
	}

	// The settings it comes with show how to open it.
	m.Do(`sed -n 's/^#\t\([[l]\)/\1/p' /etc/millrace/millrace.toml >/root/example.toml && [ "$(wc -l </root/example.toml)" = 4 ]`)
	m.Do("millrace config check /root/example.toml")

	// Its owner opens it to the network.
	for line := range strings.Lines("[broker]\nlisteners = [\"PLAINTEXT://0.0.0.0:9092\"]\nadvertised.listeners = [\"PLAINTEXT://" + m.Kafka +
		"\"]\ninsecure.allow.anyone.on.the.network = true\n[mqtt]\nlisteners = [\"tcp://0.0.0.0:1883\"]\n") {
		m.Do("echo '" + strings.TrimSpace(line) + "' >>/etc/millrace/millrace.toml")
	}
	settings := m.Do("cat /etc/millrace/millrace.toml")
	m.Do("millrace config check /etc/millrace/millrace.toml")
	m.Do("systemctl restart millrace")
	l, plain := newLedger(), door{kafka: m.Kafka, mqtt: m.MQTT}
	load := func(life string) {
		t.Helper()
		client := connect(t.Context(), t, plain)
		defer client.Disconnect(0)
		if err := publish(client, l, life, 100); err != nil {
			t.Fatal(err)
		}
	}
	load("first")
	const who = "cd /var/lib/millrace && cat identity.pem meta.properties"
	identity := m.Do(who)
	whole := func(after string) {
		t.Helper()
		for _, fault := range l.verdict(read(t, plain, topic)) {
			t.Errorf("after %s: %s", after, fault)
		}
		if m.Do(who) != identity {
			t.Errorf("after %s it is somebody else", after)
		}
		if now := m.Do("cat /etc/millrace/millrace.toml"); now != settings {
			t.Errorf("after %s its settings are %s", after, now)
		}
		m.well(t, after)
	}
	whole("a restart")

	process := m.serves(t, "first")
	if printed := install(second); strings.Contains(printed, "conffile") {
		t.Errorf("the upgrade asks something:\n%s", printed)
	}
	if m.serves(t, "second") == process {
		t.Error("the old process lives on")
	}
	whole("an upgrade")
	load("second")
	m.Do("systemctl reload millrace")
	m.serves(t, "second")

	m.Do("dpkg --remove millrace")
	m.gone(t, "a removal")
	if m.Do(who) != identity {
		t.Error("after a removal it is somebody else")
	}
	install(second)
	m.serves(t, "second")
	whole("a new installation")

	// Who does not want it to start is not overruled, and settings that it cannot start with leave the package installed.
	const configure = "DPKG_MAINTSCRIPT_PACKAGE=millrace /var/lib/dpkg/info/millrace.postinst configure 0" // what an upgrade runs
	m.Do("systemctl disable --now millrace")
	m.Do(configure)
	if got := m.service(t); got["ActiveState"] != "inactive" || got["UnitFileState"] != "disabled" {
		t.Errorf("a service that was disabled is %v", got)
	}
	m.Do("systemctl enable --no-reload millrace")
	m.Do("echo 'nonsense = 7' >>/etc/millrace/millrace.toml")
	m.Do(configure)
	if got := m.service(t); got["ActiveState"] == "active" {
		t.Errorf("with wrong settings the service is %v", got)
	}
	if journal := m.Do("journalctl --no-pager -u millrace"); !strings.Contains(journal, "nonsense") {
		t.Errorf("the journal does not say why:\n%s", journal)
	}

	m.Do("dpkg --purge millrace")
	m.gone(t, "a purge")
	if left := m.Do("find / -xdev -name '*millrace*' -not -path '/root/*'"); left != "" {
		t.Errorf("a purge leaves\n%s", left)
	}
	end := m.Took()
	t.Logf("%d messages in all; the machine booted in %.0f s, %.0f s of CPU time, and ran for %.0f s, %.0f s of CPU time",
		l.len(), booted.Wall.Seconds(), booted.CPU.Seconds(), end.Wall.Seconds(), end.CPU.Seconds())
}
