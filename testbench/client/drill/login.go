package drill

import (
	"path/filepath"
	"strings"
	"testing"

	"millrace/testbench/client/board"
)

// Login has the client prove who it is by each mechanism, once through TLS: it writes and reads what it may, is told so where
// it may not, and a wrong password and an unknown user are refused.
func Login(t *testing.T, lane Lane) {
	t.Helper()
	ctx := within(t)
	b := board.StartSecure(t, board.QuickGroups)
	l := newLedger(lane.Keeps)
	try := func(door Door, topic, value string) error {
		r := Record{Topic: topic, Timestamp: 1_700_000_000_000, Key: []byte("k"), Value: []byte(value)}
		if topic == "open" {
			l.write(r)
		}
		return lane.Produce(t, door, []Batch{{"none", []Record{r}}})
	}
	wrong := func(d *Door) { d.Password = "wrong password" }
	for _, tt := range []struct {
		protocol, mechanism string
		spoil               func(*Door)
	}{
		{"SASL_PLAINTEXT", "SCRAM-SHA-256", wrong},
		{"SASL_SSL", "SCRAM-SHA-512", func(d *Door) { d.User = "nobody" }},
		{"SASL_SSL", "PLAIN", wrong},
	} {
		door := Door{Address: b.Address(tt.protocol), User: board.Ann, Password: board.Password, Mechanism: tt.mechanism}
		if tt.protocol == "SASL_SSL" {
			door.CA = filepath.Join(b.Certs, "ca.crt")
		}
		if err := try(door, "open", tt.mechanism); err != nil {
			t.Fatalf("%s: %v", tt.mechanism, err)
		}
		name := strings.ToLower(tt.mechanism)
		leave := lane.Join(t, door, Member{Group: "g", Name: name, Topics: []string{"open"}}, func(r Record) { l.tell(name, r) })
		l.drain(t, ctx)
		if err := leave(); err != nil {
			t.Errorf("%s: leave: %v", tt.mechanism, err)
		}
		if err := try(door, "shut", "x"); err == nil || !strings.Contains(err.Error(), lane.Denied) {
			t.Errorf("%s: to write where she may not: %v, want %q", tt.mechanism, err, lane.Denied)
		}
		spoilt := door
		tt.spoil(&spoilt)
		if err := try(spoilt, "shut", "x"); err == nil || !strings.Contains(err.Error(), lane.Refused) {
			t.Errorf("%s by %s: %v, want %q", tt.mechanism, spoilt.User, err, lane.Refused)
		}
	}
	l.check(t)
	t.Log("let in by each mechanism, with TLS and without; a wrong password, an unknown user and a denied topic are told as such")
}
