// Package confluent drives a whole broker with confluent-kafka, and so with a librdkafka of today.
package confluent

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"millrace/testbench/client/board"
	"millrace/testbench/client/python"
	"millrace/testbench/lane"
)

// do runs secure.py and returns the line it prints.
func do(t *testing.T, b *board.Secure, protocol, what, topic string, config ...string) string {
	t.Helper()
	args := append([]string{
		"secure.py", what, topic, "bootstrap.servers=" + b.Address(protocol), "security.protocol=" + protocol,
		"ssl.ca.location=" + filepath.Join(b.Certs, "ca.crt"), "log_level=0",
	}, config...)
	out, err := exec.CommandContext(t.Context(), python.Need(t), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", what, err, out)
	}
	return strings.TrimSpace(string(out))
}

func as(user, password, mechanism string) []string {
	return []string{"sasl.mechanism=" + mechanism, "sasl.username=" + user, "sasl.password=" + password}
}

func certificate(b *board.Secure, name string) []string {
	return []string{"ssl.certificate.location=" + filepath.Join(b.Certs, name+".crt"), "ssl.key.location=" + filepath.Join(b.Certs, name+".key")}
}

func TestSecure(t *testing.T) {
	python.Need(t)
	lane.Uses(t, "secure.py")
	b := board.StartSecure(t, nil)
	for _, tt := range []struct {
		name, protocol string
		who            []string
		refusal        string // empty: let in
	}{
		{"SCRAM-SHA-256", "SASL_SSL", as(board.Ann, board.Password, "SCRAM-SHA-256"), ""},
		{"SCRAM-SHA-512", "SASL_PLAINTEXT", as(board.Ann, board.Password, "SCRAM-SHA-512"), ""},
		{"PLAIN", "SASL_SSL", as(board.Ann, board.Password, "PLAIN"), ""},
		{"certificate", "SSL", certificate(b, board.Ann), ""},
		{"wrong password", "SASL_SSL", as(board.Ann, "wrong password", "SCRAM-SHA-512"), "_AUTHENTICATION"},
		{"unknown user", "SASL_PLAINTEXT", as("nobody", board.Password, "SCRAM-SHA-256"), "_AUTHENTICATION"},
		{"unknown user by PLAIN", "SASL_PLAINTEXT", as("nobody", board.Password, "PLAIN"), "_AUTHENTICATION"},
		{"expired certificate", "SSL", certificate(b, "late"), "expired"},
		{"stranger's certificate", "SSL", certificate(b, "stranger"), "unknown ca"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.refusal != "" {
				if got := do(t, b, tt.protocol, "produce", "open", tt.who...); got != tt.refusal {
					t.Errorf("produce: %s, want %s", got, tt.refusal)
				}
				return
			}
			for _, try := range [][3]string{
				{"produce", "open", "ok"},
				{"consume", "open", "from librdkafka"},
				{"produce", "shut", "TOPIC_AUTHORIZATION_FAILED"},
				{"described", "shut", "TOPIC_AUTHORIZATION_FAILED"},
				{"topics", "", "open"},
			} {
				if got := do(t, b, tt.protocol, try[0], try[1], tt.who...); got != try[2] {
					t.Errorf("%s %s: %s, want %s", try[0], try[1], got, try[2])
				}
			}
		})
	}
}
