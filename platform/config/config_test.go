package config

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var board = Names{Serial: "1000abcd", MAC: "02-42-ac-11-00-02", Node: "shed"}

func parsed(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse("m.toml", []byte(text), board, Checks{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTheCommentedFileSaysTheDefaults(t *testing.T) {
	want := Default()
	want.Broker.ClusterAlias = "shed"
	if got := parsed(t, string(DefaultFile())); !reflect.DeepEqual(got, want) {
		t.Errorf("millrace.toml means %+v, the code %+v", got, want)
	}
	if got := parsed(t, ""); !reflect.DeepEqual(got, want) {
		t.Errorf("no file means %+v, the code %+v", got, want)
	}
}

func TestTheCommentedFileNamesEveryKey(t *testing.T) {
	uncommented := strings.NewReplacer("\n# [", "\n[", "\n# ", "\n").Replace(string(DefaultFile()))
	start := strings.Index(uncommented, "\n[broker]")
	entries, err := document("m.toml", []byte(uncommented[start:]))
	if err != nil {
		t.Fatal(err)
	}
	for _, section := range sections() {
		for _, key := range keysOf(section) {
			if key == "deadband.pressure" { // one deadband stands for the others
				continue
			}
			if !slices.ContainsFunc(entries, func(e entry) bool {
				return e.section == section && (e.key == key || key == "headers" && strings.HasPrefix(e.key, "headers."))
			}) {
				t.Errorf("millrace.toml does not show %s in [%s]", key, section)
			}
		}
	}
	if _, err := Parse("m.toml", []byte(uncommented[start:]), board, Checks{}); err != nil {
		t.Errorf("with its examples uncommented: %v", err)
	}
}

func TestAFileIsRead(t *testing.T) {
	c := parsed(t, `
[broker]
node.id = 7
"cluster.alias" = "site-{node}-{serial}"
log.dirs = "/data/{mac}"
listeners = ["PLAINTEXT://[::1]:9192"]
[journal]
bytes.max = "8MiB"
commit.interval.ms = "1s"
[topic."sensors.*"]
retention.ms = "30d"
cleanup.policy = ["compact", "delete"]
[topic."sensors.hot"]
retention.ms = 5
[topic."*"]
segment.bytes = "1MiB"
[mqtt]
route = [
  { filter = "a/{x}", topic = "t.{x}" },
  { filter = "b/#", topic = "b.{node}", key = "", headers = { site = "{x}", "a.b" = "{node}" } },
]
[[mqtt.reverse]]
topic = "k.{x}"
mqtt_topic = "k/{node}/{x}"
[[bus]]
name = "I2C1"
[[sensor]]
name = "cabinet"
driver = "bme280"
bus = "I2C1"
address = 0x76
every = "1s"
topic = "climate"
deadband = { temperature = 0.1 }
[[sensor]]
name = "roof"
driver = "bme280"
bus = "I2C1"
address = 0x77
topic = "climate"
[sensor.deadband]
humidity = 1
`[1:])
	if c.Broker.NodeID != 7 || c.Broker.ClusterAlias != "site-shed-1000abcd" || c.Broker.LogDirs != "/data/02-42-ac-11-00-02" {
		t.Errorf("broker: %+v", c.Broker)
	}
	if c.Journal.BytesMax != 8*mib || c.Journal.CommitInterval != time.Second || c.Flash.ReserveBytes != 32*mib {
		t.Errorf("journal %+v, flash %+v", c.Journal, c.Flash)
	}
	routes := []Route{
		{Filter: "a/{x}", Topic: "t.{x}", Key: "{mqtt.topic}", Partition: -1, Line: 18},
		{Filter: "b/#", Topic: "b.shed", Key: "", Partition: -1, Line: 19, Headers: map[string]string{"site": "{x}", "a.b": "shed"}},
	}
	if !reflect.DeepEqual(c.MQTT.Routes, routes) {
		t.Errorf("routes: %+v", c.MQTT.Routes)
	}
	if !slices.Equal(c.MQTT.Reverses, []Reverse{{Topic: "k.{x}", MQTTTopic: "k/shed/{x}", Line: 21}}) {
		t.Errorf("reverses: %+v", c.MQTT.Reverses)
	}
	if len(c.Sensors) != 2 || c.Sensors[0].Deadband["temperature"] != 0.1 || c.Sensors[1].Deadband["humidity"] != 1 ||
		c.Sensors[0].Every != time.Second || c.Sensors[1].Every != 10*time.Second || c.Sensors[1].Address != 0x77 {
		t.Errorf("sensors: %+v", c.Sensors)
	}
	if len(c.Topics) != 3 || c.Topics[0].Config["segment.bytes"] != "1048576" || c.Topics[0].Config["retention.ms"] != "604800000" ||
		c.Topics[1].Pattern != "sensors.*" || c.Topics[1].Config["retention.ms"] != "2592000000" ||
		c.Topics[1].Config["cleanup.policy"] != "compact,delete" || c.Topics[2].Config["retention.ms"] != "5" {
		t.Errorf("topics: %v", c.Topics)
	}
	kafka := c.BrokerSettings()
	if kafka["node.id"] != "7" || kafka["socket.request.max.bytes"] != "104857600" || kafka["connections.max.idle.ms"] != "600000" ||
		kafka["listeners"] != "PLAINTEXT://[::1]:9192" {
		t.Errorf("as Kafka writes it: %v", kafka)
	}
}

func TestMistakesAreNamedWithTheirLine(t *testing.T) {
	checks := Checks{
		TopicKeys: []string{"retention.ms", "retention.bytes", "cleanup.policy"},
		Topic: func(key, value string) error {
			if key == "cleanup.policy" && value != "delete" {
				return errors.New("want delete")
			}
			return nil
		},
		Routes: func(m *MQTT, wrong func(bool, int, error)) {
			for i, r := range m.Routes {
				wrong(false, i, errors.New("bad filter "+r.Filter))
			}
			for i, r := range m.Reverses {
				wrong(true, i, errors.New("bad topic "+r.Topic))
			}
		},
		Mapping: func(rule string) error {
			if rule == "DEFAULT" {
				return nil
			}
			return errors.New("bad rule " + rule)
		},
		Component: func(name string) error {
			if name == "mqtt" {
				return nil
			}
			return errors.New("no such part")
		},
		Driver: func(string) error { return errors.New("no such driver") },
		FRAM:   func(string) error { return errors.New("no such chip") },
	}
	for _, tt := range []struct{ name, file, want string }{
		{"key", "[broker]\n\nnode.idd = 1", "m.toml:3: broker.node.idd: unknown key; nearest is node.id"},
		{"key of another table", "[journal]\nnum.partitions = 1", "m.toml:2: journal.num.partitions: unknown key; it belongs in [broker]"},
		{"table", "[brocker]\nnode.id = 1", "m.toml:1: brocker: unknown table; nearest is [broker]"},
		{"table of a later version", "[[bridge]]\nname = 'hq'", "m.toml:1: bridge: is a single table or none"},
		{"no table", "node.id = 1", "m.toml:1: node.id: unknown key; it belongs in [broker]"},
		{"range", "[broker]\nnum.partitions = 0", "m.toml:2: broker.num.partitions: 0 is out of range: 1 to 1000"},
		{"size", "[memory]\nlimit = '1MiB'", "m.toml:2: memory.limit: 1MiB is out of range: 24MiB to 64GiB"},
		{"unit", "[memory]\nlimit = '64 parsecs'", `m.toml:2: memory.limit: "64 parsecs" is not a size like "64MiB"`},
		{"part of the program", "[log]\nlevel = 'warn'\n[log.components]\nmqtt = 'info'\nmqqt = 'info'", "m.toml:5: log.components.mqqt: no such part"},
		{"level", "[log]\ncomponents = { mqtt = 'loud' }", `m.toml:2: log.components.mqtt: "loud" is not one of: debug, info, warn, error`},
		{"type", "[broker]\nnode.id = '1'", "m.toml:2: broker.node.id: want a whole number, have a string"},
		{"time", "[mqtt]\nconnect_timeout = 10", `m.toml:2: mqtt.connect_timeout: want a time like "10s", have a whole number`},
		{"not TOML", "[broker]\nnode.id = ", "m.toml:2: "},
		{"twice", "[broker]\nnode.id = 1\nnode.id = 2", "m.toml:3: "},
		{"reserve", "[flash]\nreserve.bytes = '64MiB'", "m.toml:2: flash.reserve.bytes: 64MiB is too small: 2 x journal.bytes.max + 16MiB is 80MiB"},
		{"MQTT scheme", "[mqtt]\nlisteners = ['mqtt://127.0.0.1:1883']", `this version speaks tcp://, tls://, ws://, wss://, unix:// only`},
		{"MQTT port", "[mqtt]\nlisteners = ['tcp://127.0.0.1:port']", `m.toml:2: mqtt.listeners: "127.0.0.1:port": the port is a number`},
		{"a relative socket", "[mqtt]\nlisteners = ['unix://mqtt.sock']", `"unix://mqtt.sock" is not like unix:///run/millrace/mqtt.sock`},
		{"a long socket", "[mqtt]\nlisteners = ['unix:///" + strings.Repeat("x", 107) + "']", `has at most 107 bytes`},
		{"an MQTT listener twice", "[mqtt]\nlisteners = ['unix:///a']\n[[mqtt.listener]]\nurl = 'unix:///a'", `m.toml:3: mqtt.listener: "unix:///a" is there twice`},
		{"a limit of a listener", "[[mqtt.listener]]\nurl = 'tcp://127.0.0.1:1'\nmax_packet_size = 0", `m.toml:3: mqtt.listener.max_packet_size: 0 is out of range: 1KiB to 256MiB; -1, or without this line: as in [mqtt]`},
		{"another", "[[mqtt.listener]]\nurl = 'tcp://127.0.0.1:1'\nreceive_maximum = 65536", `m.toml:3: mqtt.listener.receive_maximum: 65536 is out of range: 1 to 65535; -1, or`},
		{"no number", "[[mqtt.listener]]\nurl = 'tcp://127.0.0.1:1'\nmax_keepalive = '60s'", `m.toml:3: mqtt.listener.max_keepalive: want a whole number, have a string; -1, or`},
		{"-1 of the door", "[mqtt]\nmax_keepalive = -1", `m.toml:2: mqtt.max_keepalive: -1 is out of range: 0 to 65535`},
		{"more connections than the door has", "[mqtt]\nmax_connections = 10\n[[mqtt.listener]]\nurl = 'tcp://127.0.0.1:1'\nmax_connections = 11", `m.toml:3: mqtt.listener: max_connections = 11 can never be reached: [mqtt] has max_connections = 10 for all its listeners; lower`},
		{"half a listener", "\n[[mqtt.listener]]\nmax_connections = 1", `m.toml:2: mqtt.listener: needs a url`},
		{"listener key", "[[mqtt.listener]]\nurl = 'tcp://127.0.0.1:1'\nmax_conections = 1", `m.toml:3: mqtt.listener.max_conections: unknown key; nearest is max_connections`},
		{"socket mode", "[mqtt]\nsocket_mode = '0066'", `m.toml:2: mqtt.socket_mode: "0066" is not a file mode like "0660" that lets its owner in`},
		{"socket mode in decimal", "[mqtt]\nsocket_mode = '999'", `is not a file mode`},
		{"origin", "[mqtt]\nwebsockets_origin = ['[']", `m.toml:2: mqtt.websockets_origin: "[" is not a pattern`},
		{"keep alive", "[mqtt]\nmax_keepalive = 65536", `m.toml:2: mqtt.max_keepalive: 65536 is out of range: 0 to 65535`},
		{"scheme", "[broker]\nlisteners = ['HTTP://127.0.0.1:9092']", "this version speaks PLAINTEXT://, SSL://, SASL_PLAINTEXT://, SASL_SSL:// only"},
		{"open Kafka listener", "[broker]\nnode.id = 1\nlisteners = ['PLAINTEXT://0.0.0.0:9092']", "m.toml:3: broker.listeners: \"PLAINTEXT://0.0.0.0:9092\" is not loopback and asks nobody who they are"},
		{"open TLS listener", "[broker]\nlisteners = ['SSL://[::]:9092']\n[security]\ntls.cert.file = 'c'\ntls.key.file = 'k'", "asks nobody who they are"},
		{"a certificate without its key", "\n[security]\ntls.cert.file = 'c'", "m.toml:3: security.tls.cert.file: needs tls.key.file beside it"},
		{"a key without its certificate", "[security]\ntls.key.file = 'k'", "m.toml:2: security.tls.key.file: needs tls.cert.file beside it"},
		{"cluster id", "[broker]\ncluster.id = 'AAAAAAAAAAAAAAAAAAAAAB'", "m.toml:2: broker.cluster.id: \"AAAAAAAAAAAAAAAAAAAAAB\" is not 22 characters of base64url"},
		{"a listener without a scheme", "[broker]\nlisteners = ['127.0.0.1']", "has no port"},
		{"client certificates of nobody", "[broker]\nssl.client.auth = 'required'", "m.toml:2: broker.ssl.client.auth: \"required\" needs client.ca.file"},
		{"super user", "[broker]\nsuper.users = ['admin']", `"admin" is not a principal like User:admin`},
		{"mechanism", "[broker]\nsasl.enabled.mechanisms = ['GSSAPI']", `"GSSAPI" is not one of: SCRAM-SHA-256`},
		{"mapping rule", "[broker]\nssl.principal.mapping.rules = ['RULE:x']", "m.toml:2: broker.ssl.principal.mapping.rules: bad rule RULE:x"},
		{"placeholder", "[broker]\nlog.dirs = '/x/{nod}'", "m.toml:2: broker.log.dirs: {nod} stands for nothing"},
		{"topic key", "[topic.'*']\nretention.mss = 1", "m.toml:2: topic.*.retention.mss: unknown topic setting; nearest is retention.ms"},
		{"topic value", "[topic.'*']\ncleanup.policy = 'shred'", "m.toml:2: topic.*.cleanup.policy: want delete"},
		{"topic pattern", "[topic.'[']\nretention.ms = 1", `m.toml:1: topic.[: "[" matches no topic`},
		{"topic without pattern", "[topic]\nretention = 1", "m.toml:2: "},
		{"route", "\n[[mqtt.route]]\nfilter = 'a/#/b'\ntopic = 'x'", "m.toml:2: mqtt.route: bad filter a/#/b"},
		{"half a route", "[[mqtt.route]]\nfilter = 'a'", "m.toml:1: mqtt.route: needs a filter and a topic"},
		{"second route", "[[mqtt.route]]\nfilter = 'a'\ntopic = 'x'\n[[mqtt.route]]\nfilter = 'b'\ntopic = 'x'", "m.toml:4: mqtt.route: bad filter b"},
		{"headers", "[[mqtt.route]]\nheaders = 'a'", `m.toml:2: mqtt.route.headers: want a table like { name = "value" }, have a string`},
		{"header", "[[mqtt.route]]\n[mqtt.route.headers]\na = 1", "m.toml:3: mqtt.route.headers.a: want a string, have a whole number"},
		{"reverse route", "\n[[mqtt.reverse]]\ntopic = 'a/b'\nmqtt_topic = 'x'", "m.toml:2: mqtt.reverse: bad topic a/b"},
		{"half a reverse route", "[[mqtt.reverse]]\ntopic = 'a'", "m.toml:1: mqtt.reverse: needs a topic and an mqtt_topic"},
		{"bus", "[[sensor]]\nname='a'\ndriver='b'\nbus='c'\naddress=0x76\ntopic='t'", `m.toml:1: sensor.a: there is no [[bus]] named "c"`},
		{"driver", "[[bus]]\nname='c'\n[[sensor]]\nname='a'\ndriver='b'\nbus='c'\naddress=0x76\ntopic='t'", "m.toml:3: sensor.a: no such driver"},
		{"deadband", "[[sensor]]\ndeadband = { temprature = 1 }", "m.toml:2: sensor.deadband.temprature: unknown key; nearest is deadband.temperature"},
		{"bus without name", "[[bus]]", "m.toml:1: bus: needs a name of its own"},
		{"budget without a day", "[flash]\nwrite.budget = '2GiB'", `m.toml:2: flash.write.budget: want bytes a day, like "2GiB/day", or "" for no limit`},
		{"budget", "[flash]\nwrite.budget = '2GiBB/day'", `m.toml:2: flash.write.budget: "2GiBB" is not a size like "64MiB"`},
		{"small budget", "[flash]\nwrite.budget = '2kB/day'", "m.toml:2: flash.write.budget: 2000/day is out of range: 1MiB/day to 1024TiB/day"},
		{"budget and interval", "[journal]\ncommit.interval.ms = 2000\n[flash]\nwrite.budget = '1GiB/day'", "m.toml:4: flash.commit.interval.max.ms: 1s is below journal.commit.interval.ms, which is 2s"},
		{"front", "[journal]\nfront = 'fm25'", `m.toml:2: journal.front: there is no [[fram]] named "fm25"`},
		{"half an FRAM", "[[fram]]\nname = 'a'", "m.toml:1: fram: needs name, bus and driver"},
		{"chip", "\n[[fram]]\nname = 'a'\nbus = 'SPI0.0'\ndriver = 'b'", "m.toml:2: fram.a: no such chip"},
		{"two names", "[[fram]]\nname='a'\nbus='c'\ndriver='b'\n[[fram]]\nname='a'\nbus='d'\ndriver='b'", "m.toml:5: fram.a: there are two FRAMs of this name"},
		{"two on a port", "[[fram]]\nname='a'\nbus='c'\ndriver='b'\n[[fram]]\nname='b'\nbus='c'\ndriver='b'", "m.toml:5: fram.b: another FRAM is on c"},
		{"date", "[broker]\nnode.id = 2026-01-01", "m.toml:2: broker.node.id: want a whole number, have a date"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Parse("m.toml", []byte(tt.file), board, checks)
			if c != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func TestAnUnknownNameOfTheBoardIsAnErrorOnlyWhereItIsUsed(t *testing.T) {
	c, err := Parse("m.toml", nil, Names{}, Checks{})
	if err != nil || c.Broker.ClusterAlias != "millrace" {
		t.Errorf("no names: %v, %v", c, err)
	}
	_, err = Parse("m.toml", []byte("[broker]\n\ncluster.alias = '{serial}'"), Names{}, Checks{})
	if err == nil || err.Error() != "m.toml:3: broker.cluster.alias: {serial} is not known on this board" {
		t.Errorf("got %v", err)
	}
}

func TestShowReadsBackTheSame(t *testing.T) {
	c := parsed(t, `
[topic."a_*"]
full = "reject"
[mqtt]
listeners = ["unix:///run/a"]
websockets_origin = ["*.example.com"]
max_keepalive = 60
[[mqtt.listener]]
url = "ws://127.0.0.1:8083"
[[mqtt.listener]]
url = "tcp://127.0.0.1:1884"
max_connections = 3
max_connection_rate = 4
allow_anonymous = false
max_packet_size = "1536"
receive_maximum = 1
max_keepalive = 0
[[mqtt.route]]
filter = "a"
topic = "b"
headers = { "a.b" = "\"c\"", d = "" }
[[mqtt.reverse]]
topic = "{a}"
mqtt_topic = "{a}"
[[bus]]
name = "I2C1"
timeout = "1500ms"
[[sensor]]
name = "a"
driver = "bme280"
bus = "I2C1"
address = 118
topic = "t"
deadband = { pressure = 0.25 }
[[fram]]
name = "f"
bus = "SPI0.0"
driver = "mb85rs64v"
[journal]
front = "f"
[flash]
write.budget = "1.5GiB/day"
`)
	var b bytes.Buffer
	if err := c.Show(&b); err != nil {
		t.Fatal(err)
	}
	again := parsed(t, b.String())
	if live, restart := Diff(c, again); live != nil || restart != nil {
		t.Errorf("differs in %v %v:\n%s", live, restart, b.String())
	}
}

func TestReloadTakesWhatItCan(t *testing.T) {
	old := parsed(t, "")
	next := parsed(t, `
[broker]
node.id = 2
auto.create.topics.enable = false
[journal]
commit.interval.ms = 100
bytes.max = "16MiB"
front = "f"
[[fram]]
name = "f"
bus = "SPI0.0"
driver = "mb85rs64v"
[flash]
write.budget = "2GiB/day"
commit.interval.max.ms = 2000
[topic."*"]
retention.ms = "1d"
[mqtt]
max_keepalive = 60
[[mqtt.listener]]
url = "ws://127.0.0.1:8083"
[[mqtt.route]]
filter = "a"
topic = "b"
[[mqtt.reverse]]
topic = "c"
mqtt_topic = "d"
`)
	live, restart := Diff(old, next)
	if !slices.Equal(live, []string{"broker.auto.create.topics.enable", "journal.commit.interval.ms", "flash.write.budget", "flash.commit.interval.max.ms", "topic"}) {
		t.Errorf("live: %v", live)
	}
	if !slices.Equal(restart, []string{"broker.node.id", "journal.bytes.max", "journal.front", "flash.reserve.bytes", "mqtt.max_keepalive", "mqtt.listener", "mqtt.route", "mqtt.reverse", "fram"}) {
		t.Errorf("restart: %v", restart)
	}
	merged := Merge(old, next)
	if live, restart = Diff(old, merged); len(live) != 5 || restart != nil {
		t.Errorf("merged: %v %v", live, restart)
	}
	if live, restart = Diff(merged, next); live != nil || len(restart) != 9 {
		t.Errorf("left: %v %v", live, restart)
	}
}

func TestLoadNamesTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "m.toml")
	if _, err := Load(file, board, Checks{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(file, bytes.Repeat([]byte("#"), FileMax+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(file, board, Checks{}); err == nil || !strings.Contains(err.Error(), file+":1: longer than 1MiB") {
		t.Errorf("a long file: %v", err)
	}
}

func TestUnitsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64().Draw(t, "bytes")
		if got, err := parseSize(formatSize(n)); err != nil || got != n {
			t.Fatalf("%d as %s is %d, %v", n, formatSize(n), got, err)
		}
		d := time.Duration(rapid.Int64Range(0, 1<<40).Draw(t, "ms")) * time.Millisecond
		if got, err := parseTime(formatTime(d)); err != nil || got != d {
			t.Fatalf("%v as %s is %v, %v", d, formatTime(d), got, err)
		}
	})
	for s, want := range map[string]time.Duration{"1h30m": 90 * minute, "1.5h": 90 * minute, "2w": 14 * day, "7 d": 7 * day} {
		if got, err := parseTime(s); err != nil || got != want {
			t.Errorf("%s is %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "10", "d", "1y", "99999999999999d", "NaNs"} {
		if got, err := parseTime(s); err == nil {
			t.Errorf("%q is %v", s, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(string(DefaultFile()))
	f.Add("[mqtt]\nroute=[{filter={a=1}}]\n[[sensor]]\n[sensor.deadband]\na.b=1")
	f.Add("upstream=[{name='a',bootstrap.servers=['a:1'],topics=['*'],naming='{cluster}.{topic}',class=[{topics=['a'],window=[]}]}]\n[[upstream.class]]")
	f.Add("[[topic]]\n[topic.a]\n[[broker.x]]")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse("m.toml", []byte(text), board, Checks{})
		if (c == nil) == (err == nil) {
			t.Fatalf("%v and %v", c, err)
		}
		if c == nil {
			return
		}
		var b bytes.Buffer
		if err := c.Show(&b); err != nil {
			t.Fatal(err)
		}
		again, err := Parse("shown.toml", b.Bytes(), board, Checks{})
		if err != nil {
			t.Fatalf("%v:\n%s", err, b.String())
		}
		if live, restart := Diff(c, again); live != nil || restart != nil {
			t.Fatalf("differs in %v %v:\n%s", live, restart, b.String())
		}
	})
}

// An HTTP listener that others can reach encrypts and asks, or says loudly that it does not.
func TestWhoIsAskedOverHTTP(t *testing.T) {
	const tls = "\n[security]\ntls.cert.file = 'c'\ntls.key.file = 'k'\nclient.ca.file = 'ca'"
	sasl, insecure := "[broker]\nlisteners = ['SASL_SSL://0.0.0.0:1']\n", "[broker]\ninsecure.allow.anyone.on.the.network = true\n"
	for _, tt := range []struct {
		file  string
		login bool
		part  string // of the mistake
	}{
		{"[http]\nlistener = '127.0.0.1:0'", false, ""},
		{"[http]\nlistener = 'http://[::1]:0'", false, ""},
		{"[http]\nlistener = ''", false, ""},
		{"[http]\nauthentication = 'basic'", true, ""},
		{sasl + tls, true, ""},
		{sasl + "[http]\nauthentication = 'none'" + tls, false, ""},
		{sasl + "[http]\nlistener = 'https://0.0.0.0:1'" + tls, true, ""},
		{"[http]\nlistener = 'https://0.0.0.0:1'\nauthentication = 'basic'" + tls, true, ""},
		{"[broker]\nssl.client.auth = 'required'\n[http]\nlistener = 'https://0.0.0.0:1'" + tls, false, ""},
		{insecure + "[http]\nlistener = '0.0.0.0:1'", false, ""},
		{insecure + "[http]\nlistener = 'http://0.0.0.0:1'\nauthentication = 'basic'", true, ""},
		{"[http]\nlistener = '0.0.0.0:1'", true, ""}, // https
		{"[http]\nlistener = 'http://0.0.0.0:1'", true, "is not loopback and does not encrypt"},
		{sasl + "[http]\nlistener = 'http://0.0.0.0:1'" + tls, true, "is not loopback and does not encrypt"},
		{"[http]\nlistener = 'https://0.0.0.0:1'", true, ""},
		{"[http]\nlistener = 'https://0.0.0.0:1'\nauthentication = 'none'", false, "is not loopback and asks nobody who they are"},
		{sasl + "[http]\nlistener = 'https://0.0.0.0:1'\nauthentication = 'none'" + tls, false, "asks nobody who they are"},
		{"[http]\nlistener = 'https://127.0.0.1:1'", false, ""},
		{"[http]\nlistener = 'ftp://127.0.0.1:1'", false, "speaks http://, https:// only"},
		{"[http]\nlistener = '127.0.0.1:http'", false, "the port is a number"},
		{"[http]\nlistener = '127.0.0.1'", false, "no port"},
	} {
		c, err := Parse("m.toml", []byte(tt.file), board, Checks{})
		switch {
		case tt.part != "":
			if err == nil || !strings.Contains(err.Error(), "http.listener: ") || !strings.Contains(err.Error(), tt.part) {
				t.Errorf("%s: %v, want %s", tt.file, err, tt.part)
			}
		case err != nil || c.HTTPLogin() != tt.login:
			t.Errorf("%s: login %v, %v", tt.file, c != nil && c.HTTPLogin(), err)
		}
	}
}

func TestWhoIsAskedAndWhoNeedsPermission(t *testing.T) {
	tls := "\n[security]\ntls.cert.file = 'c'\ntls.key.file = 'k'\nclient.ca.file = 'ca'"
	for _, tt := range []struct {
		file             string
		asks, authorizes bool
	}{
		{"[broker]", false, false},
		{"[broker]\nauthorizer = 'on'", false, true},
		{"[broker]\nlisteners = ['SASL_PLAINTEXT://0.0.0.0:1']", true, true},
		{"[broker]\nlisteners = ['SASL_PLAINTEXT://0.0.0.0:1']\nauthorizer = 'off'", true, false},
		{"[broker]\nlisteners = ['SSL://127.0.0.1:1']" + tls, false, false},
		{"[broker]\nlisteners = ['ssl://127.0.0.1:1']\nssl.client.auth = 'requested'" + tls, false, true},
		{"[broker]\nlisteners = ['SSL://0.0.0.0:1']\nssl.client.auth = 'required'" + tls, true, true},
		{"[broker]\nlisteners = ['PLAINTEXT://0.0.0.0:1']\ninsecure.allow.anyone.on.the.network = true", false, false},
	} {
		c := parsed(t, tt.file)
		if asks, authorizes := c.Broker.Asks(c.Broker.Listeners[0]), c.Broker.Authorizes(); asks != tt.asks || authorizes != tt.authorizes {
			t.Errorf("%s: asks %v, authorizes %v", tt.file, asks, authorizes)
		}
	}
}
