// Speaker logs to the journal what the test waits for. The socket's name is set when it is linked.
package main

import (
	"errors"
	"log/slog"
	"os"
	"strings"

	"millrace/platform/systemd"
)

func main() {
	text := slog.NewTextHandler(os.Stderr, nil)
	log := slog.New(slog.Handler(text))
	if systemd.StderrIsJournal() {
		log = slog.New(systemd.NewJournal(text))
	}
	log = log.With("component", "mqtt")
	log.Warn("a client was refused", "remote.address", "192.0.2.1:5", "err", errors.New("two\nlines"), "priority", "mine")
	log.WithGroup("disk").Error("trouble", slog.Group("at", "offset", 7), "_x", 1)
	log.Info("long", "value", strings.Repeat("x", 100_000))
}
