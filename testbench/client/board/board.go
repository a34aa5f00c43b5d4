// Package board starts a whole broker inside a test, for the lanes that drive it with foreign clients.
package board

import (
	"log/slog"
	"testing"

	"millrace/broker"
	"millrace/platform/config"
	"millrace/testbench/lane"
)

// Board is a running broker with its data in a directory of the test.
type Board struct {
	t testing.TB
	*broker.Broker
	dir    string
	change []func(*config.Config)
	kafka  string // where to listen
	log    *slog.Logger
	// secrets are those of first admins that were shown: one, whatever happens.
	secrets []string
	// settings are those the broker was opened with.
	settings *config.Config
}

// QuickGroups has the first rebalance of a group wait for nobody.
func QuickGroups(c *config.Config) { c.Broker.GroupInitialDelay = 0 }

// Start opens a broker on free ports of loopback, with the default settings as change leaves them. It is closed when the test ends, and must close without complaint.
func Start(t testing.TB, change ...func(*config.Config)) *Board {
	t.Helper()
	return StartLogging(t, nil, change...)
}

// StartLogging is Start, and hands in the logger; nil for none.
func StartLogging(t testing.TB, log *slog.Logger, change ...func(*config.Config)) *Board {
	t.Helper()
	b := &Board{t: t, dir: t.TempDir(), change: change, kafka: lane.FreeAddress(t), log: log}
	b.open()
	t.Cleanup(b.close)
	return b
}

// Restart closes the broker and opens it again: the Kafka door at its port, so that its clients find it again, and the
// others at new ones.
func (b *Board) Restart() {
	b.t.Helper()
	b.close()
	b.open()
}

// Settings are what the broker was opened with.
func (b *Board) Settings() *config.Config { return b.settings }

// Dir is the data directory.
func (b *Board) Dir() string { return b.dir }

// AdminPassword is the secret that the first start has shown, once.
func (b *Board) AdminPassword() string {
	b.t.Helper()
	if len(b.secrets) != 1 {
		b.t.Fatalf("a first secret was shown %d times", len(b.secrets))
	}
	return b.secrets[0]
}

// Kafka is the address of the Kafka door.
func (b *Board) Kafka() string { return b.Addresses().Kafka[0] }

func (b *Board) open() {
	b.t.Helper()
	settings := config.Default()
	settings.Broker.LogDirs = b.dir
	settings.Broker.Listeners = []string{"PLAINTEXT://" + b.kafka}
	settings.MQTT.Listeners = []string{"tcp://127.0.0.1:0"}
	settings.HTTP.Listener = ""
	for _, change := range b.change {
		change(settings)
	}
	b.settings = settings
	opened, err := broker.Open(b.t.Context(), broker.Config{Settings: settings, Logger: b.log, Reveal: func(_, secret string) error {
		b.secrets = append(b.secrets, secret)
		return nil
	}})
	if err != nil {
		b.t.Fatalf("open the broker: %v", err)
	}
	b.Broker = opened
}

func (b *Board) close() {
	b.t.Helper()
	if err := b.Close(); err != nil {
		b.t.Errorf("close the broker: %v", err)
	}
}
