package board

import (
	"os"
	"path/filepath"
	"testing"

	"millrace/broker"
	"millrace/broker/disk"
	"millrace/platform/config"
	"millrace/platform/identity"
)

// Own is a board with TLS and passwords at every door and no file of anybody's: it shows the certificate it has made.
type Own struct {
	*Board
	// Certificate is the file that its clients were given.
	Certificate string
	// Pin is that of its public key.
	Pin string
}

// StartOwn opens one.
func StartOwn(t testing.TB) *Own {
	t.Helper()
	b := &Own{Certificate: filepath.Join(t.TempDir(), "board.crt")}
	b.Board = Start(t, func(c *config.Config) {
		c.Broker.Listeners = []string{"SASL_SSL://127.0.0.1:0"}
		c.MQTT.Listeners, c.MQTT.AllowAnonymous = []string{"tls://127.0.0.1:0"}, false
		c.HTTP.Listener = "https://127.0.0.1:0"
	})
	i, err := identity.Load(broker.IdentityFiles(disk.OS{}, b.Dir()))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.Certificate, i.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	b.Pin = i.Pin()
	return b
}
