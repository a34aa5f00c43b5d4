package config

import (
	"strings"
	"testing"
)

// What a listener of the MQTT door takes: its own settings before those of [mqtt], and nobody unasked from the network
// unless that is said twice.
func TestMQTTListeners(t *testing.T) {
	const file = `
[broker]
insecure.allow.anyone.on.the.network = INSECURE
[mqtt]
listeners = ["tcp://127.0.0.1:1883", "tls://0.0.0.0:8883", "unix:///run/m.sock"]
allow_anonymous = true
max_connection_rate = 50
[security]
tls.cert.file = "c"
tls.key.file = "k"
[[mqtt.listener]]
url = "WSS://[::]:8884"
max_connections = 7
max_connection_rate = 0
[[mqtt.listener]]
url = "ws://localhost:8083"
allow_anonymous = false
`
	for insecure, want := range map[string]string{
		"false": "tcp://127.0.0.1:1883 anonymous 50/s\ntls://0.0.0.0:8883 tls 50/s\nunix:///run/m.sock anonymous 50/s\nWSS://[::]:8884 tls web 0/s 7\nws://localhost:8083 web 50/s",
		"true":  "tcp://127.0.0.1:1883 anonymous 50/s\ntls://0.0.0.0:8883 tls anonymous 50/s\nunix:///run/m.sock anonymous 50/s\nWSS://[::]:8884 tls web anonymous 0/s 7\nws://localhost:8083 web 50/s",
	} {
		c, err := Parse("m.toml", []byte(strings.Replace(file, "INSECURE", insecure, 1)), Names{Node: "n"}, Checks{})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, l := range c.MQTT.All() {
			words := []string{l.URL}
			for _, of := range []struct {
				word string
				is   bool
			}{{"tls", l.TLS()}, {"web", l.WebSocket()}, {"anonymous", c.MQTTAnonymous(&l)}, {decimal(int64(l.MaxConnectionRate)) + "/s", true}, {decimal(int64(l.MaxConnections)), l.MaxConnections > 0}} {
				if of.is {
					words = append(words, of.word)
				}
			}
			got = append(got, strings.Join(words, " "))
		}
		if g := strings.Join(got, "\n"); g != want {
			t.Errorf("insecure is %s: got\n%s\nwant\n%s", insecure, g, want)
		}
		if c.MQTT.Mode() != 0o660 {
			t.Errorf("sockets are made with %o", c.MQTT.Mode())
		}
	}
}
