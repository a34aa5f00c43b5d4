package kcat

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"millrace/testbench/client/board"
	"millrace/testbench/lane"
)

// with runs kcat at a secure board and returns what it prints, errors included.
func with(t *testing.T, b *board.Secure, protocol, input string, args ...string) string {
	t.Helper()
	program := lane.Need(t, "kcat")[0]
	args = append([]string{"-b", b.Address(protocol), "-X", "security.protocol=" + protocol, "-X", "ssl.ca.location=" + filepath.Join(b.Certs, "ca.crt"), "-m", "3", "-X", "message.timeout.ms=4000"}, args...)
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Stdin = strings.NewReader(input)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	_ = cmd.Run() // what it prints is what is asked about
	return out.String()
}

func as(user, password, mechanism string) []string {
	return []string{"-X", "sasl.mechanisms=" + mechanism, "-X", "sasl.username=" + user, "-X", "sasl.password=" + password}
}

func certificate(b *board.Secure, name string) []string {
	return []string{"-X", "ssl.certificate.location=" + filepath.Join(b.Certs, name+".crt"), "-X", "ssl.key.location=" + filepath.Join(b.Certs, name+".key")}
}

func TestSecure(t *testing.T) {
	lane.Need(t, "kcat")
	b := board.StartSecure(t, nil)
	for _, tt := range []struct {
		name, protocol string
		who            []string
		refusal        string // empty: let in
	}{
		{"PLAIN", "SASL_PLAINTEXT", as(board.Ann, board.Password, "PLAIN"), ""},
		{"PLAIN through TLS", "SASL_SSL", as(board.Ann, board.Password, "PLAIN"), ""},
		{"certificate", "SSL", certificate(b, board.Ann), ""},
		{"wrong password", "SASL_SSL", as(board.Ann, "wrong password", "PLAIN"), "authentication failed"},
		{"unknown user", "SASL_SSL", as("nobody", board.Password, "PLAIN"), "authentication failed"},
		{"unknown user by SCRAM", "SASL_PLAINTEXT", as("nobody", board.Password, "SCRAM-SHA-256"), "authentication failed"},
		{"expired certificate", "SSL", certificate(b, "late"), "expired"},
		{"stranger's certificate", "SSL", certificate(b, "stranger"), "unknown ca"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.refusal != "" {
				if out := with(t, b, tt.protocol, "", append(tt.who, "-L")...); !strings.Contains(strings.ToLower(out), tt.refusal) {
					t.Errorf("want %q in: %s", tt.refusal, out)
				}
				return
			}
			line := "from " + tt.name + "\n"
			if out := with(t, b, tt.protocol, line, append(tt.who, "-P", "-t", "open")...); out != "" {
				t.Errorf("produce: %s", out)
			}
			if out := with(t, b, tt.protocol, "", append(tt.who, "-C", "-t", "open", "-o", "-1", "-e", "-q")...); out != line {
				t.Errorf("consume: %q", out)
			}
			if out := with(t, b, tt.protocol, "x\n", append(tt.who, "-P", "-t", "shut")...); !strings.Contains(out, "Topic authorization failed") {
				t.Errorf("produce where she may not: %s", out)
			}
			if out := with(t, b, tt.protocol, "", append(tt.who, "-C", "-t", "shut", "-o", "beginning", "-e")...); !strings.Contains(out, "Topic authorization failed") {
				t.Errorf("consume where she may not: %s", out)
			}
			if out := with(t, b, tt.protocol, "", append(tt.who, "-L")...); strings.Contains(out, `"shut"`) || !strings.Contains(out, `"open"`) {
				t.Errorf("she sees: %s", out)
			}
		})
	}
}
