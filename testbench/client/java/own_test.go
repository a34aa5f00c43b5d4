package java

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"millrace/testbench/client/board"
	"millrace/testbench/client/kafka"
)

// Java believes a board by the certificate it has made itself, with its host name checked.
func TestTheBoardsOwnCertificate(t *testing.T) {
	tools := kafka.OpenTools(t)
	b := board.StartOwn(t)
	file := filepath.Join(t.TempDir(), "client.properties")
	lines := append(login("SASL_SSL", "SCRAM-SHA-512", "admin", b.AdminPassword()),
		"ssl.truststore.type=PEM", "ssl.truststore.location="+b.Certificate, "request.timeout.ms=15000", "default.api.timeout.ms=20000")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	boss := &shell{t, tools, []string{"--bootstrap-server", strings.Replace(b.Kafka(), "127.0.0.1", "localhost", 1), "--command-config", file}}
	boss.says("", topics, []string{"--create", "--topic", "mine"}, "Created topic mine.")
}
