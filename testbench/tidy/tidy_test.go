// Package tidy holds the tree to its rules: which package may import which, one door per library, the top level, names,
// and files a person can hold in the head. platform/adr/0001-layout-and-import-lines.md says why.
package tidy

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "millrace/"

// lines says how high a package stands; a pattern ending in /... is the package and everything below it. The longest
// pattern that matches counts. A package imports only lower lines.
var lines = map[string]int{
	"platform/cmd/millrace": 7, "image/cmd/mkimage": 7,

	"broker": 6,

	"broker/api": 5,

	"broker/server": 4, "broker/rest": 4, "broker/quorum": 4, "broker/cleaner": 4, "broker/canary": 4, "broker/replica": 4, "broker/group": 4, "broker/txn": 4,
	"bridge/mqtt": 4, "bridge/remote": 4, "bridge/feed": 4, "bridge/rule": 4, "bridge/upstream": 4,

	"broker/partition": 3, "broker/purgatory": 3, "hw/sensor": 3, "hw/gpio": 3, "bridge/mqtt/packet": 3, "bridge/upstream/contract": 3,

	"broker/journal": 2, "broker/segment": 2, "broker/poll": 2, "broker/wire": 2, "broker/boot": 2, "broker/catalog": 2, "bridge/route": 2,
	"hw/storage": 2, "hw/watchdog": 2, "hw/clock": 2, "hw/board": 2,

	"broker/disk": 1, "broker/record": 1, "broker/wheel": 1, "broker/budget": 1, "broker/auth": 1, "broker/wear": 1, "bridge/payload": 1, "hw/bus/...": 1,

	"platform/config": 0, "platform/pulse": 0, "platform/systemd": 0, "platform/health": 0, "platform/identity": 0,
	"platform/update": 0, "platform/console": 0, "platform/metrics": 0, "platform/logbook": 0, "platform/doctor": 0,
}

// same are the imports on one line that the table draws side by side: both are read from left to right.
var same = map[string][]string{
	"hw/bus/sim":    {"hw/bus"},
	"broker/record": {"broker/budget"},
}

// doors says which packages may import a library with a large surface.
var doors = map[string][]string{
	"github.com/tidwall/wal":            {"broker/journal", "broker/quorum"},
	"github.com/hashicorp/raft":         {"broker/quorum"},
	"periph.io/x":                       {"hw/...", "bridge/feed"}, // feed: units and the bus interface
	"github.com/eclipse/paho":           {"bridge/remote"},
	"github.com/coreos/go-systemd":      {"platform/systemd"},
	"github.com/twmb/franz-go/pkg/kgo":  {"bridge/upstream", "platform/cmd/millrace"},
	"github.com/twmb/franz-go/pkg/kadm": {"bridge/upstream", "platform/cmd/millrace"},
	"github.com/xdg-go/scram":           {"broker/auth"},
	"github.com/IBM/sarama":             {}, // for the lanes only
	"github.com/segmentio/kafka-go":     {}, // for the lanes only
	"github.com/spf13/cobra":            {"platform/cmd/millrace", "image/cmd/mkimage"},
	"github.com/pelletier/go-toml":      {"platform/config"},
	"github.com/fxamacker/cbor":         {"bridge/feed", "bridge/rule"},
}

// topLevel is all there may be at the top, beside names that start with a dot.
var topLevel = []string{"broker", "bridge", "hw", "platform", "image", "testbench", "go.mod", "go.sum", "Makefile", "README.md"}

// vague are names that say nothing about what is inside.
var vague = []string{"util", "utils", "common", "helper", "helpers", "misc", "types", "shared", "lib", "pkg", "base"}

// linesMax is how long a file may be.
const linesMax = 500

// sizeMax is how large any file may be, in bytes.
const sizeMax = 256 << 10

// pkg is what `go list -json` says about one.
type pkg struct {
	ImportPath string
	Name       string
	Imports    []string
}

// fake reports whether a package is a test's: it ends in test, or lies under testbench.
func fake(name string) bool {
	return strings.HasPrefix(name, "testbench/") || strings.HasSuffix(path.Base(name), "test")
}

// lineOf is the line of the longest pattern that matches.
func lineOf(name string) (line int, ok bool) {
	if line, ok = lines[name]; ok {
		return line, true
	}
	for dir := name; dir != "."; dir = path.Dir(dir) {
		if line, ok = lines[dir+"/..."]; ok {
			return line, true
		}
	}
	return 0, false
}

func allowed(name string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		below, tree := strings.CutSuffix(p, "/...")
		return name == p || tree && (name == below || strings.HasPrefix(name, below+"/"))
	})
}

// faults says what is wrong with the imports of a package.
func faults(p pkg) (list []string) {
	name := strings.TrimPrefix(p.ImportPath, module)
	if p.ImportPath+"/" == module || fake(name) {
		return nil
	}
	line, ok := lineOf(name)
	if !ok {
		return []string{name + " stands on no line: give it one here and in the decision record"}
	}
	for _, path := range p.Imports {
		for library, in := range doors {
			if (path == library || strings.HasPrefix(path, library+"/") || strings.HasPrefix(path, library+".")) && !allowed(name, in) {
				list = append(list, name+" imports "+path+", whose door is "+strings.Join(in, ", "))
			}
		}
		other, ours := strings.CutPrefix(path, module)
		if !ours {
			continue
		}
		below, known := lineOf(other)
		switch {
		case fake(other):
			list = append(list, name+" imports "+other+", which is for tests")
		case strings.HasPrefix(name, "hw/") && !strings.HasPrefix(other, "hw/"):
			list = append(list, name+" imports "+other+": hw imports nothing but itself")
		case known && below >= line && !slices.Contains(same[name], other):
			list = append(list, name+" imports "+other+", which stands no lower")
		}
	}
	return list
}

func TestImportsGoDown(t *testing.T) {
	for _, arch := range []string{"amd64", "arm"} {
		seen := 0
		for _, p := range listed(t, arch) {
			seen++
			for _, f := range faults(p) {
				t.Errorf("%s: %s", arch, f)
			}
		}
		if seen < 20 {
			t.Errorf("%s: saw only %d packages", arch, seen)
		}
	}
}

// The rules must bite: each of these breaks one.
func TestFaultsAreFound(t *testing.T) {
	for _, p := range []pkg{
		{ImportPath: "millrace/broker/wheel", Imports: []string{"millrace/broker"}},
		{ImportPath: "millrace/broker/wheel", Imports: []string{"millrace/broker/record"}},
		{ImportPath: "millrace/broker/partition", Imports: []string{"millrace/broker/quorum"}},
		{ImportPath: "millrace/hw/sensor", Imports: []string{"millrace/platform/config"}},
		{ImportPath: "millrace/broker", Imports: []string{"github.com/hashicorp/raft"}},
		{ImportPath: "millrace/broker/segment", Imports: []string{"github.com/tidwall/wal"}},
		{ImportPath: "millrace/bridge/mqtt", Imports: []string{"github.com/eclipse/paho.mqtt.golang"}},
		{ImportPath: "millrace/broker", Imports: []string{"periph.io/x/conn/v3/physic"}},
		{ImportPath: "millrace/bridge/upstream", Imports: []string{"github.com/IBM/sarama"}},
		{ImportPath: "millrace/broker", Imports: []string{"millrace/testbench/lane"}},
		{ImportPath: "millrace/broker", Imports: []string{"millrace/broker/disk/disktest"}},
		{ImportPath: "millrace/broker/novelty"},
	} {
		if len(faults(p)) != 1 {
			t.Errorf("%s importing %v: %v", p.ImportPath, p.Imports, faults(p))
		}
	}
	fine := pkg{ImportPath: "millrace/bridge/feed", Imports: []string{"periph.io/x/conn/v3/i2c", "millrace/hw/sensor", "millrace/broker/partition"}}
	if f := faults(fine); f != nil {
		t.Errorf("what is allowed is refused: %v", f)
	}
}

func TestPackagesAreNamedByANoun(t *testing.T) {
	for _, p := range listed(t, "amd64") {
		for part := range strings.SplitSeq(strings.TrimPrefix(p.ImportPath, module), "/") {
			if slices.Contains(vague, part) {
				t.Errorf("%s: %q says nothing", p.ImportPath, part)
			}
		}
		if base := path.Base(p.ImportPath); p.Name != "main" && p.Name != base {
			t.Errorf("%s is called %s", p.ImportPath, p.Name)
		}
	}
}

func TestTheTopLevel(t *testing.T) {
	for _, file := range tracked(t) {
		top, _, _ := strings.Cut(file, "/")
		if !strings.HasPrefix(top, ".") && !slices.Contains(topLevel, top) {
			t.Errorf("%s: the top level is %v", file, topLevel)
		}
	}
}

func TestFilesFitInAHead(t *testing.T) {
	seen := 0
	for _, file := range tracked(t) {
		if !strings.HasSuffix(file, ".go") {
			continue
		}
		seen++
		raw, err := os.ReadFile(filepath.Join(root(t), file))
		if errors.Is(err, os.ErrNotExist) { // removed, not yet committed
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(raw, []byte("\n")); n > linesMax {
			t.Errorf("%s has %d lines, at most %d fit in a head", file, n, linesMax)
		}
	}
	if seen < 50 {
		t.Errorf("saw only %d files", seen)
	}
}

// What a build leaves in the tree is easily committed, and never gets out of the history again.
func TestNoProgramsAreKept(t *testing.T) {
	for _, file := range tracked(t) {
		f, err := os.Open(filepath.Join(root(t), file))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		var magic [4]byte
		n, err := f.ReadAt(magic[:], 0)
		info, statErr := f.Stat()
		if err := errors.Join(statErr, f.Close()); err != nil {
			t.Fatal(err)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if size := info.Size(); string(magic[:n]) == "\x7fELF" || size > sizeMax {
			t.Errorf("%s, %d bytes, does not belong into the tree: no programs, and at most %d bytes", file, size, sizeMax)
		}
	}
}

// root is the repository.
func root(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(strings.TrimSpace(string(out)))
}

// listed are the packages of the module for one target, with what their own files import; tests are freer.
func listed(t *testing.T, arch string) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Name,Imports", "./...")
	cmd.Dir = root(t)
	cmd.Env = append(os.Environ(), "GOARCH="+arch, "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var list []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		if p.Name != "" { // a folder with tests only has no package of its own
			list = append(list, p)
		}
	}
}

// tracked are the files git knows, or all files where there is no git.
func tracked(t *testing.T) []string {
	t.Helper()
	cmd := exec.Command("git", "ls-files")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	var list []string
	if err != nil { // an unpacked release
		err = filepath.WalkDir(root(t), func(file string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				rel, relErr := filepath.Rel(root(t), file)
				list = append(list, filepath.ToSlash(rel))
				return relErr
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return slices.DeleteFunc(list, func(f string) bool { return strings.HasPrefix(f, "bin/") || strings.HasPrefix(f, "data/") })
	}
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		list = append(list, s.Text())
	}
	return list
}
