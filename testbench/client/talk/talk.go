// Package talk has foreign MQTT clients talk to a whole board over every transport they can speak: what is published
// arrives with all that belongs to it, and who may not is told so in the way of the protocol's version.
package talk

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"millrace/platform/config"
	"millrace/testbench/client/board"
)

// QoS are the levels a lane goes through.
var QoS = []int{0, 1, 2}

// patience ends a client that hangs.
const patience = 30 * time.Second

// Plan is what a client is told, one line of JSON on its standard input.
type Plan struct {
	Transport string `json:"transport"` // tcp, tls, ws, wss or unix
	Host      string `json:"host"`
	Port      string `json:"port"`
	Path      string `json:"path"` // of a Unix socket
	CA        string `json:"ca"`
	Version   int    `json:"version"` // 4 or 5
	QoS       int    `json:"qos"`
	Base      string `json:"base"` // of the topics Ann may use
	User      string `json:"user"`
	Password  string `json:"password"`
}

// Message is one message as a client got it. Properties of MQTT 5 are empty with 3.1.1.
type Message struct {
	Topic       string `json:"topic"`
	Payload     string `json:"payload"`
	QoS         int    `json:"qos"`
	Retain      bool   `json:"retain"`
	ContentType string `json:"contentType"`
	Response    string `json:"response"`
	Correlation string `json:"correlation"`
	User        string `json:"user"`   // name=value
	Expiry      bool   `json:"expiry"` // there is one
}

// Report is what came of a plan, one line of JSON on the client's standard output:
//
//   - it connects as a reader, subscribes to BASE/# and to shut/#: Granted and Denied;
//   - it connects as a writer whose will is "gone" at BASE/will, publishes "one" to BASE/a with all properties there are, and "two"
//     to BASE/kept, retained; another reader subscribes to that; the writer's socket is destroyed. Got are the first reader's
//     three messages, Kept is the second's;
//   - it publishes to shut/x with QoS 1: Refused, the reason, or -1 where the connection ends instead;
//   - it connects with a wrong password: Wrong.
type Report struct {
	Granted int       `json:"granted"`
	Denied  int       `json:"denied"`
	Got     []Message `json:"got"`
	Kept    Message   `json:"kept"`
	Refused int       `json:"refused"`
	Wrong   int       `json:"wrong"`
}

// Board opens a board where Ann may read and write open/# and nobody shut/#, with a listener of each transport.
func Board(t *testing.T) *board.Secure {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "mqtt")
	return board.StartSecure(t, func(c *config.Config) {
		c.Broker.ClientAuth = "requested"
		c.MQTT.AllowAnonymous = false
		c.MQTT.Listeners = nil
		for _, transport := range Transports[:4] {
			c.MQTT.Listeners = append(c.MQTT.Listeners, transport+"://127.0.0.1:0")
		}
		c.MQTT.Listeners = append(c.MQTT.Listeners, "unix://"+socket)
		for _, topic := range []string{"open", "shut"} {
			c.MQTT.Routes = append(c.MQTT.Routes, config.Route{Filter: topic + "/#", Topic: topic, Key: "{mqtt.topic}", Partition: -1})
		}
	})
}

// Transports are those of Board, in order.
var Transports = []string{"tcp", "tls", "ws", "wss", "unix"}

// NewPlan is a plan for a board of Board.
func NewPlan(t *testing.T, s *board.Secure, transport string, version, qos int) Plan {
	t.Helper()
	p := Plan{
		Transport: transport, Version: version, QoS: qos, CA: filepath.Join(s.Certs, "ca.crt"), Base: fmt.Sprintf("open/%s-%d-%d", transport, version, qos),
		User: board.Ann, Password: board.Password,
	}
	p.Path = s.Addresses().MQTT[slices.Index(Transports, transport)]
	if transport != "unix" {
		_, port, err := net.SplitHostPort(p.Path)
		if err != nil {
			t.Fatal(err)
		}
		p.Host, p.Port, p.Path = "localhost", port, ""
	}
	return p
}

// Run has a client go through its plans and looks at what it reports.
func Run(t *testing.T, args, env, transports []string) {
	s := Board(t)
	for _, transport := range transports {
		for _, version := range []int{4, 5} {
			for _, qos := range QoS {
				t.Run(fmt.Sprint(transport, "/", version, "/", qos), func(t *testing.T) {
					t.Parallel() // most of the time they wait, for a program to start or a refusal to come
					p := NewPlan(t, s, transport, version, qos)
					Check(t, p, run(t, p, args, env))
				})
			}
		}
	}
}

func run(t *testing.T, p Plan, args, env []string) (r Report) {
	t.Helper()
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = bytes.NewReader(append(raw, '\n'))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s%s", err, &out, &errs)
	}
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("%v: %s", err, &out)
	}
	return r
}

// Check holds a report against the plan.
func Check(t *testing.T, p Plan, r Report) {
	t.Helper()
	one := Message{Topic: p.Base + "/a", Payload: "one", QoS: p.QoS}
	denied, refused, wrong := 0x80, -1, 4
	if p.Version == 5 {
		denied, refused, wrong = 0x87, 0x87, 0x86
		one.ContentType, one.Response, one.Correlation, one.User, one.Expiry = "text/plain", "open/answers", "id-7", "name=one", true
	}
	two := Message{Topic: p.Base + "/kept", Payload: "two", QoS: p.QoS}
	kept := two
	kept.Retain = true
	want := []Message{one, two, {Topic: p.Base + "/will", Payload: "gone", QoS: p.QoS}}
	if !slices.Equal(r.Got, want) {
		t.Errorf("got %+v\nwant %+v", r.Got, want)
	}
	if r.Kept != kept {
		t.Errorf("retained: %+v\nwant %+v", r.Kept, kept)
	}
	if r.Granted != p.QoS || r.Denied != denied || r.Refused != refused || r.Wrong != wrong {
		t.Errorf("granted %d, denied %d, refused %d, a wrong password %d; want %d, %d, %d, %d",
			r.Granted, r.Denied, r.Refused, r.Wrong, p.QoS, denied, refused, wrong)
	}
}
