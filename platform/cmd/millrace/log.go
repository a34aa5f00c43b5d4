package main

import (
	"log/slog"

	"millrace/platform/config"
	"millrace/platform/logbook"
	"millrace/platform/systemd"
)

// logbook is where the broker's lines go: to the journal where standard error is that, else to standard error.
func (c *command) logbook(cfg *config.Config) *logbook.Book {
	every := &slog.HandlerOptions{Level: slog.LevelDebug}
	var out slog.Handler = slog.NewTextHandler(c.errs, every)
	switch {
	case c.format == "json":
		out = slog.NewJSONHandler(c.errs, every)
	case systemd.StderrIsJournal():
		out = systemd.NewJournal(out)
	}
	return logbook.New(out, cfg.Log.Memory, logSettings(cfg))
}

// logSettings is [log] as the logbook takes it.
func logSettings(cfg *config.Config) logbook.Settings {
	s := logbook.Settings{
		Level: level(cfg.Log.Level), Components: make(map[string]slog.Level, len(cfg.Log.Components)),
		Rate: cfg.Log.MessageRate, Budget: cfg.Log.WriteBudget,
	}
	for name, l := range cfg.Log.Components {
		s.Components[name] = level(l)
	}
	return s
}

// level is one of config.Levels, which was checked.
func level(name string) (l slog.Level) {
	if err := l.UnmarshalText([]byte(name)); err != nil {
		panic(err)
	}
	return l
}

// plainLog is for commands that start a board's parts by themselves: what they complain about.
func (c *command) plainLog() *slog.Logger {
	return slog.New(slog.NewTextHandler(c.errs, &slog.HandlerOptions{Level: slog.LevelWarn}))
}
