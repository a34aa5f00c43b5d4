package config

import (
	"slices"
	"strings"
	"testing"
)

// A listener that does not say how it speaks is plain where only this machine hears it. Elsewhere it encrypts and asks who
// clients are, with no certificate file named.
func TestWhatOthersCanReachEncrypts(t *testing.T) {
	for _, tt := range []struct {
		file, kafka, mqtt, http string
		logins                  bool
	}{
		{"", "PLAINTEXT://127.0.0.1:9092", "tcp://127.0.0.1:1883", "127.0.0.1:8080", false},
		{
			"[broker]\nlisteners = ['0.0.0.0:9093']\n[mqtt]\nlisteners = ['0.0.0.0:8883']\n[http]\nlistener = '0.0.0.0:8443'",
			"SASL_SSL://0.0.0.0:9093", "tls://0.0.0.0:8883", "https://0.0.0.0:8443", true,
		},
		{
			"[broker]\nlisteners = ['board.example:9093', '[::1]:1', 'localhost:2']\n[mqtt]\nlisteners = ['[::]:8883', 'localhost:1']\n[http]\nlistener = ':8443'",
			"SASL_SSL://board.example:9093 PLAINTEXT://[::1]:1 PLAINTEXT://localhost:2", "tls://[::]:8883 tcp://localhost:1", "https://:8443", true,
		},
		{
			"[broker]\nlisteners = ['0.0.0.0:9093']\nssl.client.auth = 'required'\n[security]\nclient.ca.file = 'ca'\n[[mqtt.listener]]\nurl = '192.0.2.1:1'",
			"SSL://0.0.0.0:9093", "tcp://127.0.0.1:1883 tls://192.0.2.1:1", "127.0.0.1:8080", true,
		},
		// What says that it wants to be plain is.
		{
			"[broker]\nlisteners = ['SASL_PLAINTEXT://0.0.0.0:9093']\n[mqtt]\nlisteners = ['tcp://0.0.0.0:1883', 'unix:///run/m']",
			"SASL_PLAINTEXT://0.0.0.0:9093", "tcp://0.0.0.0:1883 unix:///run/m", "127.0.0.1:8080", true,
		},
		{"[mqtt]\nallow_anonymous = false", "PLAINTEXT://127.0.0.1:9092", "tcp://127.0.0.1:1883", "127.0.0.1:8080", true},
		{"[http]\nauthentication = 'basic'", "PLAINTEXT://127.0.0.1:9092", "tcp://127.0.0.1:1883", "127.0.0.1:8080", true},
		{"[http]\nauthentication = 'basic'\nlistener = ''", "PLAINTEXT://127.0.0.1:9092", "tcp://127.0.0.1:1883", "", false},
	} {
		c := parsed(t, tt.file)
		var mqtt []string
		for _, l := range c.MQTT.All() {
			mqtt = append(mqtt, l.URL)
		}
		if k, m := strings.Join(c.Broker.Listeners, " "), strings.Join(mqtt, " "); k != tt.kafka || m != tt.mqtt || c.HTTP.Listener != tt.http || c.Logins() != tt.logins || !c.OwnCertificate() {
			t.Errorf("%s\n%s, %s, %s, logins %v", tt.file, k, m, c.HTTP.Listener, c.Logins())
		}
	}
}

// Flags get the same reading as the file.
func TestListenersOfFlagsAreCompleted(t *testing.T) {
	c := Default()
	c.Broker.Listeners, c.MQTT.Listeners, c.HTTP.Listener = []string{"0.0.0.0:1"}, []string{"127.0.0.1:2"}, "0.0.0.0:3"
	if err := c.CheckListeners(); err != nil || c.Broker.Listeners[0] != "SASL_SSL://0.0.0.0:1" || c.MQTT.Listeners[0] != "tcp://127.0.0.1:2" || !c.HTTPS() {
		t.Errorf("%v, %v", c, err)
	}
	if d := Default(); d.Broker.Listeners[0] != "PLAINTEXT://127.0.0.1:9092" {
		t.Errorf("the defaults were changed: %v", d.Broker.Listeners)
	}
}

// One file is for every board of a fleet: what is a board's own is found by its names.
func TestOneFileForAFleet(t *testing.T) {
	const file = "[broker]\ncluster.alias = '{node}'\nlisteners = ['{node}.example:9093']\n[security]\nadmin.scram.file = '/boot/{serial}.scram'\n" +
		"tls.cert.file = '/boot/{mac}.crt'\ntls.key.file = '/boot/{mac}.key'"
	for node, want := range map[string][]string{
		"a": {"a", "/boot/Sa.scram", "/boot/Ma.crt", "/boot/Ma.key", "SASL_SSL://a.example:9093", "a.example"},
		"b": {"b", "/boot/Sb.scram", "/boot/Mb.crt", "/boot/Mb.key", "SASL_SSL://b.example:9093", "b.example"},
	} {
		c, err := Parse("m.toml", []byte(file), Names{Serial: "S" + node, MAC: "M" + node, Node: node}, Checks{})
		if err != nil {
			t.Fatal(err)
		}
		s := c.Security
		if got := []string{c.Broker.ClusterAlias, s.AdminScramFile, s.CertFile, s.KeyFile, c.Broker.Listeners[0], c.Hosts()[0]}; !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	}
}
