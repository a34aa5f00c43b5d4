package broker

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/broker/wear"
	"millrace/hw/storage"
	"millrace/platform/config"
)

// spend has a board write a little more every ten seconds of its clock, which starts an hour from now.
func spend(t *testing.T, b *Broker, from, steps int) {
	t.Helper()
	for i := range steps {
		appendOne(t, b, "climate", strings.Repeat("x", 2000))
		b.flash.step(int64(3600+10*(from+i)) * 1000)
	}
}

func TestABoardKeepsItsFlashBudget(t *testing.T) {
	b := board(t, t.TempDir(), func(s *config.Config) {
		s.Flash.WriteBudget, s.Flash.CommitIntervalMax = 1<<20, 40*time.Millisecond
	})
	appendOne(t, b, "climate", "the topic is made")
	b.flash.mu.Lock() // whatever this machine's device tells, others write to it too
	b.flash.device = nil
	b.flash.governor = wear.NewGovernor(flashBudget(b.config.Settings))
	b.flash.from = b.flash.own()
	b.flash.mu.Unlock()
	b.flash.step(3590 * 1000)
	spend(t, b, 0, 30)
	f := b.flash.figures()
	if f.measure != "broker" || f.interval != 40*time.Millisecond || f.perDay < 10<<20 || f.written < 30*2000 || f.spent > f.written {
		t.Errorf("%+v", f)
	}
	begun := time.Now()
	appendOne(t, b, "climate", "waits")
	appendOne(t, b, "climate", "for its interval")
	if waited := time.Since(begun); waited < 40*time.Millisecond { // the journal was told
		t.Errorf("two commits took %v", waited)
	}
	var text bytes.Buffer
	if err := b.writeMetrics(&text); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"millrace_journal_commit_interval_seconds 0.04",
		`millrace_flash_written_bytes_per_day{measure="broker"} `,
		"millrace_flash_budget_bytes_per_day 1048576",
	} {
		if !strings.Contains(text.String(), line) {
			t.Errorf("no %s in\n%s", line, text.String())
		}
	}

	next := *b.config.Settings
	next.Flash.WriteBudget = 0
	live, restart, err := b.Reload(&next)
	if err != nil || len(live) != 1 || restart != nil || b.flash.figures().interval != 0 {
		t.Errorf("without a budget: %v, %v, %v, %+v", live, restart, err, b.flash.figures())
	}
}

func TestADeviceThatStopsTelling(t *testing.T) {
	b := board(t, t.TempDir(), nil)
	appendOne(t, b, "climate", "21.5")
	var log bytes.Buffer
	f := b.flash
	f.mu.Lock()
	f.log = slog.New(slog.NewTextHandler(&log, nil))
	f.mu.Unlock()
	if f.device == nil {
		t.Skip("the data directory is on no block device here")
	}
	before := f.figures()
	if before.measure != "device" {
		t.Errorf("%+v", before)
	}
	if _, err := f.device.Written(); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	f.device = new(storage.Flash) // reads nothing
	f.mu.Unlock()
	f.step(3600 * 1000)
	after := f.figures()
	if after.measure != "broker" || after.written < before.written || after.spent != before.spent || !strings.Contains(log.String(), "from now on") {
		t.Errorf("%+v, then %+v\n%s", before, after, log.String())
	}
}

// What a board says about its measure it says once, at the start.
func TestTheMeasureIsToldAtTheStart(t *testing.T) {
	var log bytes.Buffer
	s := config.Default()
	s.Broker.LogDirs, s.Broker.ClusterAlias = filepath.Join(t.TempDir(), "data"), "test"
	s.Broker.Listeners, s.MQTT.Listeners, s.HTTP.Listener = []string{"PLAINTEXT://127.0.0.1:0"}, []string{"tcp://127.0.0.1:0"}, ""
	s.Flash.WriteBudget = 1 << 30
	if err := os.MkdirAll(s.Broker.LogDirs, 0o750); err != nil {
		t.Fatal(err)
	}
	b, err := Open(context.Background(), Config{Settings: s, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	closed(t, b)
	if n := strings.Count(log.String(), "component=flash"); n != 1 {
		t.Errorf("told %d times:\n%s", n, log.String())
	}
}
