package mqtt_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/xdg-go/scram"

	"millrace/bridge/mqtt/packet"
	"millrace/broker/auth"
)

// people are users and their passwords.
type people map[string]string

var credentials = map[string]auth.Credential{} // hashing takes a while; salts do not matter here

func (p people) Credential(user string, m auth.Mechanism) (auth.Credential, bool) {
	password, ok := p[user]
	key := fmt.Sprint(password, m)
	c, made := credentials[key]
	if ok && !made {
		var err error
		if c, err = auth.NewCredential(m, password, auth.IterationsMin); err != nil {
			panic(err)
		}
		credentials[key] = c
	}
	return c, ok
}

var mechanisms = []auth.Mechanism{auth.ScramSHA256, auth.ScramSHA512, auth.Plain}

// guarded is a server that asks everybody who they are.
func (w *world) guarded() {
	w.cfg.AllowAnonymous = false
	w.cfg.Users = people{"ann": "open sesame", "bob": "hunter two"}
	w.cfg.Mechanisms = mechanisms
	w.cfg.Damper = auth.NewDamper(100 * time.Millisecond)
}

func as(user, password string) func(*packet.Connect) {
	return func(c *packet.Connect) {
		c.HasUsername, c.Username = user != "", user
		c.HasPassword, c.Password = password != "", []byte(password)
	}
}

func TestLogins(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		w.guarded()
		var log bytes.Buffer
		w.cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		bad, asked := "connack 0x86", "connack 0x87"
		if v == packet.V311 {
			bad, asked = "connack 0x04", "connack 0x05"
		}
		w.connect(v, "a", as("ann", "open sesame")).wants("connack 0x00")
		w.connect(v, "nobody").wants(asked, "closed")
		w.connect(v, "nobody", as("ann", "")).wants(asked, "closed") // a name alone is no login
		for _, login := range [][2]string{
			{"ann", "wrong password"},
			{"carl", "open sesame"},
			{"", "open sesame"},
			{strings.Repeat("x", 300), "y"},
			{"ann", strings.Repeat("y", 1100)},
			{"ann", "open sesame\xff"},
		} {
			if v == packet.V311 && login[0] == "" {
				continue // no packet of 3.1.1 has a password without a user
			}
			p := w.connect(v, "b", as(login[0], login[1]))
			p.wants() // whoever guesses waits
			time.Sleep(10 * time.Second)
			p.wants(bad, "closed")
		}
		for _, secret := range []string{"sesame", "wrong password", "yyyy"} {
			if log.Len() == 0 || strings.Contains(log.String(), secret) {
				t.Errorf("the log has %q, or nothing at all:\n%s", secret, &log)
			}
		}
	})
}

// TestAGuesserHoldsUpNobody: a hundred wrong logins that wait for their answers, and a right one between them.
func TestAGuesserHoldsUpNobody(t *testing.T) {
	story(t, func(w *world) {
		w.guarded()
		for i := range 100 {
			w.connect(packet.V5, fmt.Sprint("g", i), as("ann", "guess")).wants()
		}
		began := time.Now()
		w.connect(packet.V5, "a", as("ann", "open sesame")).wants("connack 0x00")
		if took := time.Since(began); took != 0 {
			t.Errorf("a right login waited %v", took)
		}
	})
}

func TestAnonymousWhereItIsAllowed(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		w.guarded()
		w.cfg.AllowAnonymous = true
		w.connect(v, "a").wants("connack 0x00")
		// Who shows a wrong password is not let in as nobody.
		p := w.connect(v, "b", as("ann", "wrong"))
		time.Sleep(time.Second)
		p.wants(map[packet.Version]string{packet.V311: "connack 0x04", packet.V5: "connack 0x86"}[v], "closed")
	})
}

func method(name string, data []byte) func(*packet.Connect) {
	return func(c *packet.Connect) {
		props(c, packet.AuthMethod).AuthMethod = name
		if data != nil {
			props(c, packet.AuthData).AuthData = data
		}
	}
}

func authPacket(reason packet.Reason, name string, data []byte) *packet.Auth {
	p := &packet.Properties{Present: packet.Of(packet.AuthMethod), AuthMethod: name}
	if data != nil {
		p.Present, p.AuthData = p.Present|packet.Of(packet.AuthData), data
	}
	return &packet.Auth{Reason: reason, Properties: p}
}

// conversation is a client's side of SCRAM.
func conversation(t *testing.T, name, user, password string) (*scram.ClientConversation, []byte) {
	hash := map[string]scram.HashGeneratorFcn{"SCRAM-SHA-256": scram.SHA256, "SCRAM-SHA-512": scram.SHA512}[name]
	client, err := hash.NewClient(user, password, "")
	if err != nil {
		t.Fatal(err)
	}
	talk := client.NewConversation()
	first, err := talk.Step("")
	if err != nil {
		t.Fatal(err)
	}
	return talk, []byte(first)
}

// challenge is the data of the AUTH 0x18 that comes next.
func (p *peer) challenge() []byte {
	p.t.Helper()
	synctest.Wait()
	select {
	case pkt := <-p.got:
		if a, ok := pkt.(*packet.Auth); ok && a.Reason == packet.ContinueAuthentication && a.Properties.AuthMethod != "" &&
			a.Properties.Present&^packet.Of(packet.AuthMethod, packet.AuthData) == 0 {
			return a.Properties.AuthData
		}
		p.t.Fatalf("got %#v, want AUTH", pkt)
	default:
		p.t.Fatal("nothing came, want AUTH")
	}
	return nil
}

func answered(t *testing.T, talk *scram.ClientConversation, challenge []byte) []byte {
	t.Helper()
	data, err := talk.Step(string(challenge))
	if err != nil {
		t.Fatal(err)
	}
	return []byte(data)
}

// [MQTT-4.12.0-2] [MQTT-4.12.0-5]; AUTH has the method and data and nothing else [MQTT-3.15.2-2] [MQTT-3.15.2-3].
func TestEnhancedAuthentication(t *testing.T) {
	for _, name := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
		for _, late := range []bool{false, true} { // the client's first message in CONNECT, or in an AUTH of its own
			story(t, func(w *world) {
				w.guarded()
				talk, first := conversation(t, name, "ann", "open sesame")
				data := first
				if late {
					data = nil
				}
				p := w.connect(packet.V5, "a", method(name, data), func(c *packet.Connect) {
					c.Will = &packet.Will{Topic: "w/ann", Payload: []byte("gone"), QoS: 1}
				})
				if late {
					if c := p.challenge(); len(c) > 0 {
						t.Fatalf("challenged with %q before the first message", c)
					}
					p.send(authPacket(packet.ContinueAuthentication, name, first))
				}
				p.send(authPacket(packet.ContinueAuthentication, name, answered(t, talk, p.challenge())))
				synctest.Wait()
				ack, ok := (<-p.got).(*packet.Connack)
				if !ok || ack.Reason != packet.Success || ack.Properties.AuthMethod != name {
					t.Fatalf("got %+v", ack)
				}
				// The server proves itself too.
				if answered(t, talk, ack.Properties.AuthData); !talk.Valid() {
					t.Error("the server has not shown that it knows the user")
				}

				// Again (4.12.1), while messages go on.
				for range 2 {
					talk, first = conversation(t, name, "ann", "open sesame")
					p.send(authPacket(packet.Reauthenticate, name, first))
					challenge := p.challenge()
					p.send(pub("x", "1", 1, 1))
					p.wants("puback 1 0x00")
					p.send(authPacket(packet.ContinueAuthentication, name, answered(t, talk, challenge)))
					synctest.Wait()
					done, ok := (<-p.got).(*packet.Auth)
					if !ok || done.Reason != packet.Success || done.Properties.AuthMethod != name {
						t.Fatalf("got %+v", done)
					}
					if answered(t, talk, done.Properties.AuthData); !talk.Valid() {
						t.Error("the server has not shown that it knows the user")
					}
				}
				// The will was in the packet that the others took the place of.
				watch := w.connect(packet.V5, "watch", as("bob", "hunter two")).send(sub(1, "w/#"))
				watch.wants("connack 0x00", "suback 1 [0x01]")
				p.conn.Close()
				watch.wants(`publish w/ann "gone" q1 id1`)
			})
		}
	}
}

// [MQTT-4.12.0-1] [MQTT-4.12.0-4] [MQTT-4.12.0-6] [MQTT-4.12.1-2]
func TestEnhancedAuthenticationThatFails(t *testing.T) {
	const name = "SCRAM-SHA-256"
	// in is a client that is logged in by it.
	in := func(w *world) *peer {
		talk, first := conversation(w.t, name, "ann", "open sesame")
		p := w.connect(packet.V5, "a", method(name, first))
		p.send(authPacket(packet.ContinueAuthentication, name, answered(w.t, talk, p.challenge())))
		p.wants("connack 0x00")
		return p
	}
	again := func(user, password string) func(w *world) *peer {
		return func(w *world) *peer {
			p := in(w)
			talk, first := conversation(w.t, name, user, password)
			p.send(authPacket(packet.Reauthenticate, name, first))
			return p.send(authPacket(packet.ContinueAuthentication, name, answered(w.t, talk, p.challenge())))
		}
	}
	begun := func(w *world) *peer {
		_, first := conversation(w.t, name, "ann", "open sesame")
		p := w.connect(packet.V5, "a", method(name, first))
		p.challenge()
		return p
	}
	for _, tt := range []struct {
		what string
		do   func(w *world) *peer
		want string
	}{
		{"a method nobody knows", func(w *world) *peer { return w.connect(packet.V5, "a", method("KERBEROS", nil)) }, "connack 0x8C"},
		{"PLAIN", func(w *world) *peer {
			return w.connect(packet.V5, "a", method("PLAIN", []byte("\x00ann\x00open sesame")))
		}, "connack 0x8C"},
		{"one that is not enabled", func(w *world) *peer {
			w.cfg.Mechanisms = []auth.Mechanism{auth.ScramSHA512}
			return w.connect(packet.V5, "a", method(name, nil))
		}, "connack 0x8C"},
		{"no users", func(w *world) *peer {
			w.cfg.Users = nil
			return w.connect(packet.V5, "a", method(name, nil))
		}, "connack 0x8C"},
		{"garbage", func(w *world) *peer { return w.connect(packet.V5, "a", method(name, []byte("x"))) }, "connack 0x86"},
		{"a wrong password", func(w *world) *peer {
			talk, first := conversation(w.t, name, "ann", "wrong")
			p := w.connect(packet.V5, "a", method(name, first))
			return p.send(authPacket(packet.ContinueAuthentication, name, answered(w.t, talk, p.challenge())))
		}, "connack 0x86"},
		{"a user nobody knows", func(w *world) *peer {
			talk, first := conversation(w.t, name, "carl", "open sesame")
			p := w.connect(packet.V5, "a", method(name, first))
			return p.send(authPacket(packet.ContinueAuthentication, name, answered(w.t, talk, p.challenge())))
		}, "connack 0x86"},
		{"silence where data is due", func(w *world) *peer { return begun(w).send(authPacket(packet.ContinueAuthentication, name, nil)) }, "connack 0x86"},
		{"another method half way", func(w *world) *peer {
			return begun(w).send(authPacket(packet.ContinueAuthentication, "SCRAM-SHA-512", []byte("c=biws")))
		}, "connack 0x82"},
		{"beginning again before the end", func(w *world) *peer { return begun(w).send(authPacket(packet.Reauthenticate, name, []byte("n,,"))) }, "connack 0x82"},
		{"a publish before the end", func(w *world) *peer { return begun(w).send(pub("x", "1", 1, 1)) }, "connack 0x82"},
		{"another CONNECT before the end", func(w *world) *peer { return begun(w).send(&packet.Connect{Version: packet.V5}) }, "connack 0x82"},
		{"leaving", func(w *world) *peer { return begun(w).send(&packet.Disconnect{}) }, ""},
		{"falling silent", begun, ""},
		{"again, with a wrong password", again("ann", "wrong"), "disconnect 0x87"},
		{"again, as somebody else", again("bob", "hunter two"), "disconnect 0x87"},
		{"again, with another method", func(w *world) *peer {
			return in(w).send(authPacket(packet.Reauthenticate, "SCRAM-SHA-512", []byte("n,,n=ann,r=x")))
		}, "disconnect 0x82"},
		{"going on with what was not begun", func(w *world) *peer {
			return in(w).send(authPacket(packet.ContinueAuthentication, name, []byte("n,,n=ann,r=x")))
		}, "disconnect 0x82"},
		{"beginning twice", func(w *world) *peer {
			_, first := conversation(w.t, name, "ann", "open sesame")
			p := in(w).send(authPacket(packet.Reauthenticate, name, first))
			p.challenge()
			return p.send(authPacket(packet.Reauthenticate, name, first))
		}, "disconnect 0x82"},
		{"success from a client", func(w *world) *peer { return in(w).send(authPacket(packet.Success, name, nil)) }, "disconnect 0x82"},
		{"without a method in CONNECT", func(w *world) *peer {
			p := w.connect(packet.V5, "a", as("ann", "open sesame"))
			p.wants("connack 0x00")
			return p.send(authPacket(packet.Reauthenticate, name, []byte("n,,n=ann,r=x")))
		}, "disconnect 0x82"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			story(t, func(w *world) {
				w.guarded()
				p := tt.do(w)
				time.Sleep(11 * time.Second)
				want := []string{tt.want, "closed"}
				if tt.want == "" {
					want = want[1:]
				}
				p.wants(want...)
			})
		})
	}
}
