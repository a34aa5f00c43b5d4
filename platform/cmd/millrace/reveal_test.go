package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRevealIsForEyes(t *testing.T) {
	t.Setenv("RUNTIME_DIRECTORY", t.TempDir()) // not asked for where standard error is no journal
	var text, lines bytes.Buffer
	if err := (&command{errs: &text, format: "text"}).reveal("admin", "s3cret"); err != nil || !strings.Contains(text.String(), "secret  s3cret\n") {
		t.Errorf("%v: %s", err, text.String())
	}
	var said map[string]string
	if err := (&command{errs: &lines, format: "json"}).reveal("admin", "s3cret"); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(lines.Bytes(), &said); err != nil || said["secret"] != "s3cret" || said["user"] != "admin" {
		t.Errorf("%v: %s", err, lines.String())
	}
	broken, err := os.Open(os.DevNull) // nothing can be written there
	if err != nil {
		t.Fatal(err)
	}
	if err := (&command{errs: broken, format: "text"}).reveal("admin", "s3cret"); err == nil {
		t.Error("what nobody saw counts as shown")
	}
	if err := broken.Close(); err != nil {
		t.Error(err)
	}
}

// The journal of systemd keeps what it gets: the secret goes to memory then, and to the journal where to find it.
func TestRevealLeavesNothingInTheJournal(t *testing.T) {
	log, err := os.Create(filepath.Join(t.TempDir(), "journal"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	}()
	info, err := log.Stat()
	if err != nil {
		t.Fatal(err)
	}
	s := info.Sys().(*syscall.Stat_t)
	t.Setenv("JOURNAL_STREAM", fmt.Sprintf("%d:%d", s.Dev, s.Ino))
	c := &command{errs: log, format: "text"}
	said := func() string {
		raw, err := os.ReadFile(log.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	dir, err := os.MkdirTemp("/dev/shm", "millrace")
	if err != nil {
		t.Skipf("LANE SKIPPED: no memory filesystem at /dev/shm: %v", err)
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	}()
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC {
		t.Skipf("LANE SKIPPED: /dev/shm is no memory filesystem: %v", err)
	}
	t.Setenv("RUNTIME_DIRECTORY", dir+":/elsewhere")
	name := filepath.Join(dir, "admin.secret")
	if err := os.WriteFile(name, []byte("of an earlier life"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := c.reveal("admin", "s3cret"); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(name)
	if info, statErr := os.Stat(name); err != nil || statErr != nil || string(raw) != "s3cret\n" || info.Mode().Perm() != 0o600 {
		t.Errorf("%q, %v, %v, %v", raw, info, err, statErr)
	}
	if text := said(); strings.Contains(text, "s3cret") || !strings.Contains(text, name) {
		t.Errorf("the journal has: %s", text)
	}
	// A directory that is on the disk is no place, nor one that is not there: then the journal is all there is.
	for _, none := range []string{t.TempDir(), ""} {
		if err := unix.Statfs(none, &fs); none != "" && (err != nil || fs.Type == unix.TMPFS_MAGIC) {
			continue
		}
		t.Setenv("RUNTIME_DIRECTORY", none)
		if err := errors.Join(log.Truncate(0), c.reveal("admin", "s3cret")); err != nil || !strings.Contains(said(), "s3cret") {
			t.Errorf("%v: %s", err, said())
		}
	}
}
