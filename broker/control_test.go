package broker

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheOwnerIsTold(t *testing.T) {
	// Longer than a socket's name may be, and with what a killed process left in it.
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if _, err := Ask(t.Context(), filepath.Join(dir, "nowhere"), "status"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of a directory that is not there: %v", err)
	}
	if _, err := Ask(t.Context(), dir, "status"); !errors.Is(err, ErrNotRunning) {
		t.Errorf("of a directory without a broker: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, controlName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := Open(t.Context(), Config{Settings: boardSettings(dir), Version: "1.2.3", Logs: page("a line\n")})
	if err != nil {
		t.Fatal(err)
	}
	appendOne(t, b, "climate", "21.5")
	raw, err := Ask(t.Context(), dir, "status")
	var s Status
	if err := errors.Join(err, json.Unmarshal(raw, &s)); err != nil {
		t.Fatal(err)
	}
	if s.State != Serving || s.Version != "1.2.3" || s.PID != os.Getpid() || s.Topics == 0 || s.Records == 0 || s.Dead+s.NotReady != "" ||
		s.Disk.Free <= 0 || s.Memory.Used <= 0 || len(s.Listeners.Kafka) != 1 || len(s.Troubles) != 1 {
		t.Errorf("%+v", s)
	}
	for what, want := range map[string]string{"logs": "a line\n", "metrics": "millrace_journal_commits_total", "catalog": `"name":"climate"`, "config": "[broker]"} {
		if text, err := Ask(t.Context(), dir, what); err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s: %v, %.300s", what, err, text)
		}
	}
	if _, err := Ask(t.Context(), dir, "nonsense"); err == nil {
		t.Error("nonsense was answered")
	}
	if info, err := os.Stat(filepath.Join(dir, controlName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("who may ask: %v, %v", info, err)
	}
	// Those who ask nothing hold up neither the stop nor, for longer than they may take, anybody.
	var silent []net.Conn
	for range controlAtOnce + 2 {
		at, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("unix", within(at))
		if err := errors.Join(err, at.Close()); err != nil {
			t.Fatal(err)
		}
		silent = append(silent, c)
	}
	b.control.turn(Stopping)
	closed(t, b)
	for _, c := range silent {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, controlName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a stop leaves its socket: %v", err)
	}
}

// page is a log of one line.
type page string

func (p page) Recent() []byte     { return []byte(p) }
func (p page) Troubles() []string { return []string{string(p)} }

func TestABoardThatDoesNotServeSaysSo(t *testing.T) {
	dir := t.TempDir()
	b, err := Open(t.Context(), Config{Settings: boardSettings(dir)})
	if err != nil {
		t.Fatal(err)
	}
	for _, state := range []string{Starting, Stopping} {
		b.control.turn(state)
		raw, err := Ask(t.Context(), dir, "status")
		var s Status
		if err := errors.Join(err, json.Unmarshal(raw, &s)); err != nil || s.State != state || s.Cluster == "" {
			t.Errorf("%v, %+v", err, s)
		}
		if _, err := Ask(t.Context(), dir, "metrics"); err == nil || !strings.Contains(err.Error(), state) {
			t.Errorf("metrics while it is %s: %v", state, err)
		}
	}
	closed(t, b)
	outline, err := ReadOutline(b.config.FS, dir)
	if err != nil || len(outline.Brokers) != 1 {
		t.Errorf("%+v, %v", outline, err)
	}
}
