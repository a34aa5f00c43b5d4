package config

import (
	"bytes"
	"fmt"
	"slices"
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

// A listener has the limits that are set for it, and for the rest those of [mqtt], which are not its own: what is shown says so.
func TestLimitsOfAListener(t *testing.T) {
	c := parsed(t, `
[[mqtt.listener]]
url = "tcp://127.0.0.1:1884"
max_packet_size = "2KiB"
receive_maximum = 3
max_inflight_messages = 4
max_subscriptions = 5
max_topic_depth = 6
max_topic_alias = 7
max_topic_alias_broker = 8
max_keepalive = 9
[[mqtt.listener]]
url = "tcp://127.0.0.1:1885"
max_keepalive = 0
max_topic_depth = -1
[mqtt]
receive_maximum = 11
max_topic_depth = 12
max_keepalive = 13
`)
	door := MQTTLimits{1000 * kib, 11, 64, 256, 12, 16, 16, 13}
	free := door
	free.MaxKeepAlive = 0
	var got []MQTTLimits
	for _, l := range c.MQTT.All() {
		got = append(got, l.MQTTLimits)
	}
	if want := []MQTTLimits{door, {2 * kib, 3, 4, 5, 6, 7, 8, 9}, free}; !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	var shown bytes.Buffer
	if err := c.Show(&shown); err != nil {
		t.Fatal(err)
	}
	values := fmt.Sprint(c.Values()["mqtt.listener"])
	for _, part := range []string{`max_packet_size = "2KiB"`, "max_packet_size = -1", "max_keepalive = 9", "max_keepalive = 0", "max_topic_depth = -1"} {
		if !strings.Contains(shown.String(), part) {
			t.Errorf("%s is not shown:\n%s", part, &shown)
		}
		if part := strings.ReplaceAll(strings.ReplaceAll(part, " = ", ":"), `"`, ""); !strings.Contains(values, part) {
			t.Errorf("%s is not among %s", part, values)
		}
	}
}
