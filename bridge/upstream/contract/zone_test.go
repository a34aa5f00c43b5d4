package contract

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write zones.txt anew from the toolchain's database")

// database is the toolchain's time zones by name, and the version of the tz database they are of.
func database(t *testing.T) (files map[string][]byte, version string) {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(strings.TrimSpace(string(out)), "lib", "time")
	archive, err := zip.OpenReader(filepath.Join(dir, "zoneinfo.zip"))
	if err != nil {
		t.Skipf("LANE SKIPPED: this toolchain comes without time zones: %v", err)
	}
	defer archive.Close()
	files = make(map[string][]byte)
	for _, f := range archive.File {
		if f.FileInfo().IsDir() {
			continue
		}
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		if files[f.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	script, err := os.ReadFile(filepath.Join(dir, "update.bash"))
	if err != nil {
		t.Skipf("LANE SKIPPED: this toolchain does not say which time zones it has: %v", err)
	}
	found := regexp.MustCompile(`(?m)^DATA=(\w+)$`).FindSubmatch(script)
	if found == nil {
		t.Skip("LANE SKIPPED: this toolchain does not say which time zones it has")
	}
	return files, string(found[1])
}

// last is the POSIX rule at the end of a zone's file.
func last(file []byte) string {
	lines := bytes.Split(bytes.TrimRight(file, "\n"), []byte("\n"))
	return string(lines[len(lines)-1])
}

// listed are the moments from 2026 on at which the file of a zone lists a change.
func listed(file []byte) (times []int64) {
	count := func(at, n int) int { return int(binary.BigEndian.Uint32(file[at+20+4*n:])) }
	second := 44 + count(0, 0) + count(0, 1) + count(0, 2)*8 + count(0, 3)*5 + count(0, 4)*6 + count(0, 5)
	for i := range count(second, 3) {
		if at := int64(binary.BigEndian.Uint64(file[second+44+8*i:])); at > rulesFrom {
			times = append(times, at)
		}
	}
	return times
}

// written is zones.txt as it should be.
func written(t *testing.T, files map[string][]byte, version string) string {
	t.Helper()
	lines := make(map[string][]string) // the names by what comes before them
	for name, file := range files {
		zone, err := time.LoadLocationFromTZData(name, file)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		rule := last(file)
		if times := listed(file); len(times) > 0 {
			for _, at := range append([]int64{rulesFrom}, times...) {
				abbreviation, offset := time.Unix(at, 0).In(zone).Zone()
				rule += fmt.Sprintf(" %d/%d/%s", at, offset, abbreviation)
			}
		}
		lines[rule] = append(lines[rule], name)
	}
	var list []string
	for rule, names := range lines {
		slices.Sort(names)
		list = append(list, rule+" "+strings.Join(names, " "))
	}
	slices.Sort(list)
	return "# tzdata " + version + ", public domain; zone.go says how to read it, TestZones writes it\n" + strings.Join(list, "\n") + "\n"
}

func TestZones(t *testing.T) {
	files, version := database(t)
	if *update {
		if err := os.WriteFile("zones.txt", []byte(written(t, files, version)), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Skip("zones.txt is written")
	}
	if want := "# tzdata " + version + ","; !strings.HasPrefix(rules, want) {
		head, _, _ := strings.Cut(rules, ",")
		t.Skipf("LANE SKIPPED: the toolchain has tzdata %s, and zones.txt is %q: go test ./bridge/upstream/contract -run TestZones -update", version, head)
	}
	if rules != written(t, files, version) {
		t.Error("zones.txt is not what the toolchain's database says")
	}
	if len(files) < 500 {
		t.Errorf("only %d zones", len(files))
	}
	end := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
	seen := make(map[string]bool)
	for name, file := range files {
		got, err := ownZone(name)
		if err != nil {
			t.Error(err)
			continue
		}
		want, err := time.LoadLocationFromTZData(name, file)
		if err != nil {
			t.Fatal(err)
		}
		same := func(at time.Time) bool {
			aName, aOffset := at.In(got).Zone()
			bName, bOffset := at.In(want).Zone()
			if aName != bName || aOffset != bOffset {
				t.Errorf("%s: at %v: %s %d, want %s %d", name, at.UTC(), aName, aOffset, bName, bOffset)
				return false
			}
			return true
		}
		fine := true
		for _, at := range listed(file) {
			fine = fine && same(time.Unix(at-1, 0)) && same(time.Unix(at, 0))
		}
		rule := fmt.Sprint(last(file), listed(file))
		for at := time.Unix(rulesFrom, 0); fine && !seen[rule] && at.Before(end); at = at.Add(19 * time.Hour) {
			fine = same(at)
		}
		seen[rule] = true
	}
}

func TestZonesThatThereAreNot(t *testing.T) {
	for _, name := range []string{"Local", "Europe/Berli", "Europe", "Berlin", "../etc/passwd", "/etc/passwd", "1767225600/0/+00", "<+01>-1", "#", "tzdata", "Europe/Berlin ", " "} {
		if zone, err := Zone(name); err == nil {
			t.Errorf("%q is %v", name, zone)
		}
	}
	for _, name := range []string{"", "UTC", "Europe/Berlin", "America/St_Johns", "Etc/GMT+12", "Asia/Kathmandu"} {
		if _, err := Zone(name); err != nil {
			t.Error(err)
		}
	}
}

func TestStandardTimeOfARule(t *testing.T) {
	for rule, want := range map[string]string{
		"UTC0": "UTC 0", "CET-1CEST,M3.5.0,M10.5.0/3": "CET 3600", "<+0545>-5:45": "+0545 20700", "<-02>2<-01>,M3.5.0/-1,M10.5.0/0": "-02 -7200",
		"X+1:02:03": "X -3723", "": "", "CET": "", "<+01>": "", "A1:2:3:4": "", "A-": "",
	} {
		name, offset, err := standard(rule)
		if got := fmt.Sprint(name, " ", offset); want == "" && err == nil || want != "" && got != want {
			t.Errorf("%q: %s, %v; want %q", rule, got, err, want)
		}
	}
}
