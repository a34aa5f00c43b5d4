package kcat

import (
	"bytes"
	"net"
	"os/exec"
	"strings"
	"testing"

	"millrace/testbench/client/board"
	"millrace/testbench/lane"
)

// Foreign programs believe a board by the certificate it has made itself, with every check they have switched on, and by no
// other.
func TestTheBoardsOwnCertificate(t *testing.T) {
	programs := lane.Need(t, "kcat", "mosquitto_pub", "curl")
	b := board.StartOwn(t)
	other := board.StartOwn(t)
	run := func(program string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), program, args...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		return out.String(), err
	}
	kafka := "localhost" + strings.TrimPrefix(b.Kafka(), "127.0.0.1")
	_, port, err := net.SplitHostPort(b.Addresses().MQTT[0])
	if err != nil {
		t.Fatal(err)
	}
	web := "https://localhost" + strings.TrimPrefix(b.Addresses().HTTP[0], "127.0.0.1") + "/topics/mqtt/records"
	secret := b.AdminPassword()
	for _, tt := range []struct {
		certificate, pin string
		good             bool
	}{{b.Certificate, b.Pin, true}, {other.Certificate, other.Pin, false}} {
		for _, words := range [][]string{
			{programs[1], "-h", "localhost", "-p", port, "--cafile", tt.certificate, "-u", "admin", "-P", secret, "-q", "1", "-t", "a", "-m", "by the certificate"},
			append([]string{
				programs[0], "-b", kafka, "-X", "security.protocol=SASL_SSL", "-X", "ssl.ca.location=" + tt.certificate,
				"-X", "enable.ssl.certificate.verification=true", "-X", "ssl.endpoint.identification.algorithm=https", "-m", "4", "-L",
			}, as("admin", secret, "PLAIN")...),
			{programs[2], "-sS", "--fail", "--max-time", "10", "--cacert", tt.certificate, "-u", "admin:" + secret, web},
			{programs[2], "-sS", "--fail", "--max-time", "10", "--insecure", "--pinnedpubkey", tt.pin, "-u", "admin:" + secret, web},
		} {
			out, err := run(words[0], words[1:]...)
			if (err == nil) != tt.good {
				t.Errorf("%s, good is %v: %v\n%s", words[0], tt.good, err, out)
			}
			if tt.good && words[0] == programs[0] && !strings.Contains(out, `topic "mqtt"`) {
				t.Errorf("kcat: %s", out)
			}
		}
	}
}
