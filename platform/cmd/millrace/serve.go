package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"

	"millrace/broker"
	"millrace/platform/config"
	"millrace/platform/logbook"
	"millrace/platform/systemd"
)

// serveFlags override the file.
type serveFlags struct {
	file, data        string
	kafka, mqtt, http string
	level             string
	sim, forget       bool
	changed           func(flag string) bool
}

func (c *command) serve() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use: "serve", Short: "Run the broker", Args: cobra.NoArgs,
		Long: "Run the broker until SIGTERM. It needs no file; an empty data directory is formatted. Standard output gets one\nline when it is ready and serves. SIGHUP reads the configuration again.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.changed = cmd.Flags().Changed
			return c.board(cmd.Context(), f)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.data, "data", "", "data directory; default: log.dirs")
	flags.StringVar(&f.file, "config", "", "configuration file")
	flags.StringVar(&f.kafka, "kafka", "", "Kafka address, or PROTOCOL://address; others than loopback get SASL_SSL; default: 127.0.0.1:9092")
	flags.StringVar(&f.mqtt, "mqtt", "", "MQTT address, or tcp://, tls://, ws://, wss://address, or unix:///path; others than loopback get tls; default: 127.0.0.1:1883")
	flags.StringVar(&f.http, "http", "", "HTTP address for records, health and figures, or https://address; others than loopback get https; default: 127.0.0.1:8080; empty: none")
	flags.StringVar(&f.level, "log-level", "info", "debug, info, warn or error; default: level in [log]")
	flags.BoolVar(&f.sim, "sim", false, "read a simulated sensor into sensors.climate")
	flags.BoolVar(&f.forget, "forget-front", false, "once: go on without the records that a missing or foreign FRAM acknowledged")
	c.complete(cmd, "log-level", "debug", "info", "warn", "error")
	return cmd
}

// settings is the file with the flags over it.
func (f *serveFlags) settings() (*config.Config, error) {
	cfg, err := load(f.file)
	if err != nil {
		return nil, err
	}
	if f.changed("data") {
		cfg.Broker.LogDirs = f.data
	}
	if f.changed("log-level") {
		if cfg.Log.Level = strings.ToLower(f.level); !slices.Contains(config.Levels, cfg.Log.Level) {
			return nil, fail(exitUsage, "--log-level %s: there are debug, info, warn and error", f.level)
		}
	}
	if f.changed("kafka") {
		cfg.Broker.Listeners = []string{f.kafka}
		if err := cfg.CheckListeners(); err != nil {
			return nil, fail(exitUsage, "--kafka: %w", err)
		}
	}
	if f.changed("mqtt") {
		cfg.MQTT.Listeners = []string{f.mqtt}
		if err := cfg.CheckListeners(); err != nil {
			return nil, fail(exitUsage, "--mqtt: %w", err)
		}
	}
	if f.changed("http") {
		cfg.HTTP.Listener = f.http
		if err := cfg.CheckListeners(); err != nil {
			return nil, fail(exitUsage, "--http: %w", err)
		}
	}
	return cfg, nil
}

// board runs the broker from open to close.
func (c *command) board(ctx context.Context, f serveFlags) (err error) {
	cfg, err := f.settings()
	if err != nil {
		return err
	}
	book := c.logbook(cfg)
	defer book.Close()
	logger := slog.New(book.Handler())

	// Before the broker opens: a SIGHUP must not end it.
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)

	dogs, err := watchdogs(cfg)
	if err != nil {
		return err
	}
	started := false
	defer func() {
		// A start that failed says so and leaves the rest to the service manager. A board that could not stop is reset.
		if err == nil || !started {
			err = errors.Join(err, dogs.disarm())
		}
	}()
	handed, err := systemd.HandedIn()
	if err != nil {
		return err
	}
	if c.console = handed.Console; c.console != nil {
		defer func() { err = errors.Join(err, c.console.Close()) }()
	}
	var running atomic.Pointer[broker.Broker]
	if dogs.manager != nil {
		defer c.abortable(&running, os.Exit)()
	}
	b, err := broker.Open(ctx, broker.Config{
		Settings: cfg, Sim: f.sim, ForgetFront: f.forget, Version: version, Boot: bootID(), Reset: dogs.reset(),
		Watchdogs: dogs.all, Logger: logger, Logs: book, Reveal: c.reveal, Sockets: handed.Sockets,
	})
	if err != nil {
		return err
	}
	running.Store(b)
	started = true
	if err := c.ready(b.Addresses(), cfg, f); err != nil {
		return closed(err, b)
	}
	tell(logger, systemd.Ready("serving "+strings.Join(b.Addresses().Kafka, " ")))
	dogs.manager.Settled(true)
	for {
		select {
		case <-ctx.Done():
			logger.Info("stopping")
			dogs.manager.Settled(false)
			tell(logger, systemd.Stopping())
			return closed(nil, b)
		case <-hangup:
			tell(logger, systemd.Reloading())
			reload(b, &f, book, logger)
			tell(logger, systemd.Ready("serving "+strings.Join(b.Addresses().Kafka, " ")))
		}
	}
}

func closed(err error, b *broker.Broker) error {
	if closeErr := b.Close(); closeErr != nil {
		return fmt.Errorf("stop: %w", closeErr)
	}
	return err
}

// reload reads the file again and gives the broker what it can take. A bad file changes nothing.
func reload(b *broker.Broker, f *serveFlags, book *logbook.Book, logger *slog.Logger) {
	next, err := f.settings()
	if err != nil {
		logger.Error("configuration refused; the old one stays", "error", err)
		return
	}
	live, restart, err := b.Reload(next)
	if err != nil {
		logger.Error("configuration not taken", "error", err)
		return
	}
	logger.Info("configuration read", "changed", live, "waiting for a restart", restart)
	book.Configure(logSettings(next)) // after it: a higher level is not to hide what was changed
}

// ready prints where it serves, and with a simulated sensor lines to paste.
func (c *command) ready(a broker.Addresses, cfg *config.Config, f serveFlags) error {
	if c.format == "json" {
		return c.json(map[string]any{"ready": true, "kafka": a.Kafka, "mqtt": a.MQTT, "http": a.HTTP})
	}
	line := fmt.Sprintf("millrace is ready: kafka %s, mqtt %s", strings.Join(a.Kafka, " "), strings.Join(a.MQTT, " "))
	if len(a.HTTP) > 0 {
		scheme := "http"
		if cfg.HTTPS() {
			scheme = "https"
		}
		line += ", " + scheme + "://" + a.HTTP[0]
	}
	if _, err := fmt.Fprintln(c.out, line); err != nil || !f.sim {
		return err
	}
	_, err := fmt.Fprint(c.out, paste(a))
	return err
}

// paste is what to type next: one line that publishes, one that consumes, and one for the sensor, each as it stands.
func paste(a broker.Addresses) string {
	if len(a.Kafka) == 0 {
		return ""
	}
	host, port := "", ""
	_, missing := exec.LookPath("mosquitto_pub")
	if len(a.MQTT) > 0 && missing == nil {
		host, port, missing = net.SplitHostPort(a.MQTT[0])
	}
	publish := fmt.Sprintf("mosquitto_pub -h %s -p %s -q 1 -t hello/world -m hi", host, port)
	if host == "" || missing != nil {
		publish = fmt.Sprintf("echo hi | %s produce mqtt -b %s", called(), a.Kafka[0])
	}
	return fmt.Sprintf("publish:  %s\nconsume:  %s consume mqtt -b %s\nsensor:   %s consume sensors.climate -b %s\n",
		publish, called(), a.Kafka[0], called(), a.Kafka[0])
}

// called is how this one was called.
func called() string { return os.Args[0] }

// tell logs that the service manager could not be told: the broker serves all the same.
func tell(logger *slog.Logger, err error) {
	if err != nil {
		logger.Warn("service manager not told", "error", err)
	}
}
