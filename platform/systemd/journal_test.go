package systemd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/testbench/lane"
)

// The library has the name of the journal's socket in it, so a program is linked with that of another.
func TestLinesReachTheJournalWithTheirFields(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "journal")
	speaker := filepath.Join(dir, "speaker")
	lane.Sources(t, "millrace/platform/systemd/testdata/speaker")
	build := exec.Command("go", "build", "-ldflags", "-X github.com/coreos/go-systemd/v22/journal.journalSocket="+socket,
		"-o", speaker, "./testdata/speaker")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	journald, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer journald.Close()
	stderr, err := os.Create(filepath.Join(dir, "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	speak := func(stream string) string {
		t.Helper()
		cmd := exec.Command(speaker)
		cmd.Env, cmd.Stderr = append(os.Environ(), "JOURNAL_STREAM="+stream), stderr
		if err := errors.Join(stderr.Truncate(0), cmd.Run()); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(stderr.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	var s syscall.Stat_t
	if err := syscall.Fstat(int(stderr.Fd()), &s); err != nil {
		t.Fatal(err)
	}
	ours := fmt.Sprintf("%d:%d", s.Dev, s.Ino)

	if text := speak(ours); text != "" {
		t.Errorf("what went to the journal is on standard error too:\n%s", text)
	}
	for _, want := range []map[string]string{
		{
			"MESSAGE": `a client was refused component=mqtt remote.address=192.0.2.1:5 err="two\nlines" priority=mine`, "PRIORITY": "4",
			"COMPONENT": "mqtt", "REMOTE_ADDRESS": "192.0.2.1:5", "ERR": "two\nlines", "MILLRACE_PRIORITY": "mine", "SYSLOG_IDENTIFIER": "millrace",
		},
		{"MESSAGE": "trouble component=mqtt disk.at.offset=7 disk._x=1", "PRIORITY": "3", "COMPONENT": "mqtt", "DISK_AT_OFFSET": "7", "DISK__X": "1"},
		{"PRIORITY": "6", "VALUE": strings.Repeat("x", valueMax) + "…"},
	} {
		have := receive(t, journald)
		for name, value := range want {
			if have[name] != value {
				t.Errorf("%s is %.100q, want %.100q", name, have[name], value)
			}
		}
	}

	// Another stream than standard error, and a journal that is gone: the lines are text.
	for _, stream := range []string{"", "1:1", "nonsense"} {
		if text := speak(stream); strings.Count(text, "component=mqtt") != 3 {
			t.Errorf("JOURNAL_STREAM=%q: standard error got\n%.300s", stream, text)
		}
	}
	if err := errors.Join(journald.Close(), os.RemoveAll(socket)); err != nil {
		t.Fatal(err)
	}
	if text := speak(ours); strings.Count(text, "component=mqtt") != 3 {
		t.Errorf("without a journal standard error got\n%.300s", text)
	}
}

// receive reads one line in the journal's own protocol.
func receive(t *testing.T, from *net.UnixConn) map[string]string {
	t.Helper()
	if err := from.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	datagram := make([]byte, 256<<10)
	n, err := from.Read(datagram)
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]string{}
	for rest := datagram[:n]; len(rest) > 0; {
		line, after, _ := bytes.Cut(rest, []byte("\n"))
		if name, value, ok := bytes.Cut(line, []byte("=")); ok {
			fields[string(name)], rest = string(value), after
			continue
		}
		size := binary.LittleEndian.Uint64(after)
		fields[string(line)], rest = string(after[8:8+size]), after[8+size+1:]
	}
	return fields
}

func TestFieldNames(t *testing.T) {
	for key, want := range map[string]string{
		"err": "ERR", "remote.address": "REMOTE_ADDRESS", "_pid": "MILLRACE__PID", "2nd": "MILLRACE_2ND", "": "MILLRACE_", "message": "MILLRACE_MESSAGE",
		"Über": "MILLRACE__BER", strings.Repeat("a", 60): "MILLRACE_" + strings.Repeat("A", 48),
	} {
		if have := fieldName(key); have != want {
			t.Errorf("%q is %s, want %s", key, have, want)
		}
	}
	if priority(slog.LevelDebug) != 7 || priority(slog.LevelWarn+1) != 4 {
		t.Error("priorities are not those of syslog")
	}
}
