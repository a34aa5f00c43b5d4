package config

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

const aLink = "[[upstream]]\nname = 'hq'\nbootstrap.servers = ['kafka.example:9093']\ntopics = ['sensors.*']\n"

func TestALinkIsRead(t *testing.T) {
	c := parsed(t, `
[[upstream]]
name = "hq-{node}"
bootstrap.servers = ["kafka-1.example:9093", "[2001:db8::1]:9093"]
security.protocol = "SASL_SSL"
ssl.ca.location = "/etc/{serial}.pem"
sasl.mechanism = "SCRAM-SHA-512"
sasl.username = "{serial}"
sasl.password.file = "/etc/hq.secret"
topics = ["sensors.*", "alarms"]
naming = "{cluster}.{topic}"
order = "live-first"
emit.heartbeats.interval = "1m"
sync.topic.configs = false
config.properties.exclude = ["max.*"]
linger.ms = "5s"
rate.bytes.per.second = "64KiB"
rate.bytes.per.day = 104857600
time.zone = "Europe/Berlin"
window = ["00:00-06:00"]
[[upstream.class]]
topics = ["alarms"]
minimum.share = 0.2
window = []
[[upstream.class]]
topics = ["sensors.slow"]
priority = 7
linger.ms = 0
[[upstream]]
name = "down"
bootstrap.servers = ["127.0.0.1:9092"]
direction = "down"
topics = ["commands.{node}"]
naming = "{node}.{topic}"
reconnect.backoff.ms = "2s"
reconnect.backoff.max.ms = 3000
[[upstream]]
name = "third"
bootstrap.servers = ["localhost:9092", "kafka.example:9092"]
topics = ["a"]
[[upstream.class]]
topics = ["b"]
minimum.share = 1
`[1:])
	want := []Upstream{newUpstream(1), newUpstream(28), newUpstream(36)}
	u := &want[0]
	u.Name, u.Servers, u.Protocol, u.CAFile = "hq-shed", []string{"kafka-1.example:9093", "[2001:db8::1]:9093"}, "SASL_SSL", "/etc/1000abcd.pem"
	u.Mechanism, u.Username, u.PasswordFile = "SCRAM-SHA-512", "1000abcd", "/etc/hq.secret"
	u.Topics, u.Naming, u.Order, u.RateSecond, u.RateDay = []string{"sensors.*", "alarms"}, "{cluster}.{topic}", LiveFirst, 64*kib, 100*mib
	u.Heartbeats, u.SyncConfigs, u.ConfigsExclude, u.Linger = time.Minute, false, []string{"max.*"}, 5*time.Second
	u.TimeZone, u.Windows = "Europe/Berlin", []string{"00:00-06:00"}
	u.Classes = []UpstreamClass{
		{Topics: []string{"alarms"}, MinimumShare: 0.2, Windows: []string{}, Line: 20},
		{Topics: []string{"sensors.slow"}, Priority: 7, Linger: new(time.Duration), Line: 24},
	}
	u = &want[1]
	u.Name, u.Servers, u.Direction, u.Topics, u.Naming = "down", []string{"127.0.0.1:9092"}, Down, []string{"commands.shed"}, "shed.{topic}"
	u.Backoff, u.BackoffMax = 2*time.Second, 3*time.Second
	u = &want[2]
	u.Name, u.Servers, u.Topics = "third", []string{"localhost:9092", "kafka.example:9092"}, []string{"a"}
	u.Classes = []UpstreamClass{{Topics: []string{"b"}, MinimumShare: 1, Line: 40}}
	if !reflect.DeepEqual(c.Upstreams, want) {
		t.Errorf("got\n%+v\nwant\n%+v", c.Upstreams, want)
	}
	inline := parsed(t, `upstream = [{ name = "a", bootstrap.servers = ["a:1"], topics = ["t"], class = [{ topics = ["x"] }, { topics = ["y"] }] },
{ name = "b", bootstrap.servers = ["b:1"], topics = ["t"], class = [{ topics = ["z"] }] }]`)
	if len(inline.Upstreams) != 2 || len(inline.Upstreams[0].Classes) != 2 || len(inline.Upstreams[1].Classes) != 1 || inline.Upstreams[1].Classes[0].Topics[0] != "z" {
		t.Errorf("inline: %+v", inline.Upstreams)
	}
	first, second, third := &c.Upstreams[0], &c.Upstreams[1], &c.Upstreams[2]
	if !first.TLS() || !first.SASL() || second.TLS() || second.SASL() || first.Local() || !second.Local() || third.Local() {
		t.Errorf("%+v", c.Upstreams)
	}
	if got := first.Files(); !slices.Equal(got, []string{"/etc/1000abcd.pem", "/etc/hq.secret"}) || !slices.Equal(first.Secrets(), got[1:]) {
		t.Errorf("files %v, secrets %v", got, first.Secrets())
	}
}

func TestLinksAreShownAsTheyAre(t *testing.T) {
	c := parsed(t, aLink+"[[upstream.class]]\ntopics = ['a']\n[[upstream.class]]\ntopics = ['b']\nwindow = []\nminimum.share = 0.125\nlinger.ms = '1m'\n[[upstream]]\n"+
		"name = 'b'\nbootstrap.servers = ['a:1']\ntopics = ['*']\nprovenance = true\nrate.bytes.per.second = '4.5KiB'\nwindow = ['x']\n[[upstream.class]]\ntopics = ['c']\n")
	var shown bytes.Buffer
	if err := c.Show(&shown); err != nil {
		t.Fatal(err)
	}
	again := parsed(t, shown.String())
	if live, restart := Diff(c, again); live != nil || restart != nil {
		t.Errorf("differs in %v %v:\n%s", live, restart, &shown)
	}
	if k := again.Upstreams[0].Classes; k[0].Windows != nil || k[1].Windows == nil || k[0].Linger != nil || k[1].Linger == nil || *k[1].Linger != time.Minute {
		t.Errorf("what is its own and what the link's is lost: %+v", k)
	}
	if values := fmt.Sprint(c.Values()["upstream"]); !strings.Contains(values, "class:[map[linger.ms:<nil> metered:false minimum.share:0 priority:0 topics:[a] window:<nil>]") || !strings.Contains(values, "topics:[c]") {
		t.Errorf("values: %s", values)
	}
}

// A link that changes is told of by a reload, which takes it; where it stands in the file is no change.
func TestALinkIsTakenByAReload(t *testing.T) {
	old := parsed(t, aLink+"[[upstream.class]]\ntopics = ['a']\n")
	if live, restart := Diff(old, parsed(t, "\n\n"+aLink+"\n[[upstream.class]]\ntopics = ['a']\n")); live != nil || restart != nil {
		t.Errorf("moved: %v %v", live, restart)
	}
	for _, next := range []string{"", aLink, aLink + "[[upstream.class]]\ntopics = ['a']\nwindow = []\n", aLink + "[[upstream.class]]\ntopics = ['a']\nlinger.ms = 1\n", aLink + "metered = true\n[[upstream.class]]\ntopics = ['a']\n"} {
		n := parsed(t, next)
		live, restart := Diff(old, n)
		if !slices.Equal(live, []string{"upstream"}) || restart != nil {
			t.Errorf("%s: %v %v", next, live, restart)
		}
		if live, _ := Diff(Merge(old, n), n); live != nil {
			t.Errorf("%s: not taken: %v", next, live)
		}
	}
}

func TestMistakesOfALinkAreNamedWithTheirLine(t *testing.T) {
	checks := Checks{
		Zone: func(name string) error {
			if name == "UTC" {
				return nil
			}
			return errors.New("no such zone as " + name)
		},
		Window: func(text string) error {
			if text == "00:00-06:00" {
				return nil
			}
			return errors.New("no window: " + text)
		},
	}
	const class = "[[upstream.class]]\ntopics = ['a']\n"
	tls := strings.Replace(aLink, "topics", "security.protocol = 'SASL_SSL'\ntopics", 1)
	for _, tt := range []struct{ name, file, want string }{
		{"empty", "\n[[upstream]]", "m.toml:2: upstream: needs name, bootstrap.servers and topics"},
		{"class of no link", "[[upstream.class]]\ntopics = ['a']", "m.toml:1: upstream: needs name"},
		{"name", "[[upstream]]\nname = 'a b'", `m.toml:2: upstream.name: "a b" is not a name of up to 64 letters`},
		{"two of a name", aLink + aLink, "m.toml:5: upstream.hq: there are two links of this name"},
		{"many", strings.Repeat(aLink, 9), "m.toml:33: upstream: there are more than 8 links"},
		{"key", aLink + "topcis = []", "m.toml:5: upstream.topcis: unknown key; nearest is topics"},
		{"key of Java", aLink + "ssl.truststore.location = 'a'", "m.toml:5: upstream.ssl.truststore.location: unknown key; here it is ssl.ca.location, a PEM file"},
		{"a password", aLink + "sasl.password = 'a'", "m.toml:5: upstream.sasl.password: unknown key; here it is sasl.password.file: secrets are in files"},
		{"key of a class", aLink + class + "prio = 1", "m.toml:7: upstream.class.prio: unknown key; nearest is priority"},
		{"scheme", "[[upstream]]\nbootstrap.servers = ['SSL://a:1']", `m.toml:2: upstream.bootstrap.servers: "SSL://a:1": a server is host:port, and security.protocol = "SSL" says`},
		{"list in a string", "[[upstream]]\nbootstrap.servers = ['a:1,b:2']", `"a:1,b:2" is not a server like kafka.example:9093; several are a list`},
		{"no port", "[[upstream]]\nbootstrap.servers = ['a']", `"a" is not a server`},
		{"port", "[[upstream]]\nbootstrap.servers = ['a:0']", `"a:0": the port is a number from 1 to 65535`},
		{"servers", strings.Replace(aLink, "'kafka", strings.Repeat("'a:1', ", 16)+"'kafka", 1), "m.toml:3: upstream.hq.bootstrap.servers: has 17, and there may be 16"},
		{"protocol", aLink + "security.protocol = 'ssl'", `m.toml:5: upstream.security.protocol: "ssl" is not one of: PLAINTEXT, SSL`},
		{"CA without TLS", aLink + "ssl.ca.location = 'a'", `m.toml:5: upstream.hq.ssl.ca.location: does nothing with security.protocol = "PLAINTEXT": use SSL, or remove it`},
		{"SASL without SASL", aLink + "sasl.mechanism = 'PLAIN'", `m.toml:5: upstream.hq.sasl.mechanism: does nothing with security.protocol = "PLAINTEXT": use SASL_SSL`},
		{"half a certificate", aLink + "security.protocol = 'SSL'\nssl.key.location = 'a'", "m.toml:6: upstream.hq.ssl.key.location: needs ssl.certificate.location beside it"},
		{"no mechanism", tls, `m.toml:4: upstream.hq.security.protocol: "SASL_SSL" needs sasl.mechanism: PLAIN, `},
		{"mechanism", tls + "sasl.mechanism = 'GSSAPI'", `"GSSAPI" is not one of: , PLAIN, SCRAM-SHA-256`},
		{"no password", tls + "sasl.mechanism = 'PLAIN'\nsasl.username = 'a'", `m.toml:6: upstream.hq.sasl.mechanism: "PLAIN" needs sasl.username and sasl.password.file`},
		{"a token for SCRAM", tls + "sasl.mechanism = 'PLAIN'\nsasl.username = 'a'\nsasl.password.file = 'a'\nsasl.oauthbearer.scope = 's'", `"PLAIN" takes no sasl.oauthbearer settings`},
		{"no token", tls + "sasl.mechanism = 'OAUTHBEARER'", `"OAUTHBEARER" needs one of sasl.oauthbearer.token.file and sasl.oauthbearer.token.endpoint.url`},
		{"two tokens", tls + "sasl.mechanism = 'OAUTHBEARER'\nsasl.oauthbearer.token.file = 'a'\nsasl.oauthbearer.token.endpoint.url = 'https://a/'", `needs one of`},
		{"a password for a token", tls + "sasl.mechanism = 'OAUTHBEARER'\nsasl.username = 'a'", `"OAUTHBEARER" takes a token, no sasl.username`},
		{"token of whom", tls + "sasl.mechanism = 'OAUTHBEARER'\nsasl.oauthbearer.token.endpoint.url = 'https://a/b'", `m.toml:7: upstream.hq.sasl.oauthbearer.token.endpoint.url: needs sasl.oauthbearer.client.id`},
		{"token file and client", tls + "sasl.mechanism = 'OAUTHBEARER'\nsasl.oauthbearer.token.file = 'a'\nsasl.oauthbearer.client.id = 'c'", "is the token itself"},
		{"secret in clear", tls + "sasl.oauthbearer.token.endpoint.url = 'http://a.example/'", `"http://a.example/" would carry the client's secret in clear: use https://`},
		{"no URL", tls + "sasl.oauthbearer.token.endpoint.url = 'a.example'", `"a.example" is not a URL like https://`},
		{"direction", aLink + "direction = 'sideways'", `m.toml:5: upstream.direction: "sideways" is not one of: up, down`},
		{"pattern", "[[upstream]]\ntopics = ['a/b']", `m.toml:2: upstream.topics: "a/b" matches no topic`},
		{"patterns", strings.Replace(aLink, "'sensors.*'", strings.Repeat("'a', ", 65), 1), "m.toml:4: upstream.hq.topics: has 65 patterns, and there may be 64"},
		{"naming", aLink + "naming = 'all'", `m.toml:5: upstream.naming: "all" needs {topic} once`},
		{"naming by what is not", aLink + "naming = '{site}.{topic}'", "m.toml:5: upstream.naming: {site} stands for nothing; there are {topic}, {cluster}, {serial}"},
		{"naming by what Kafka refuses", aLink + "naming = '{topic}/x'", `"t/x" is not a name Kafka allows`},
		{"other captures", aLink + "cursor.topic = '{topic}'", "m.toml:5: upstream.cursor.topic: {topic} stands for nothing; there are {serial}"},
		{"partitions", aLink + "num.partitions = -1", "m.toml:5: upstream.num.partitions: -1 is out of range: 0 to 10000"},
		{"replicas", aLink + "replication.factor = 0", "m.toml:5: upstream.hq.replication.factor: 0 is no number of replicas: 1 or more, or -1"},
		{"cursors and gaps", aLink + "gap.topic = '__millrace_cursors'", `m.toml:5: upstream.hq.gap.topic: "__millrace_cursors" is the cursor.topic`},
		{"into the cursors", strings.Replace(aLink, "sensors.*", "__millrace_cursors", 1), `m.toml:4: upstream.hq.topics: "__millrace_cursors" would be sent into a topic in which the link keeps its own records`},
		{"rate", aLink + "rate.bytes.per.second = 10", "m.toml:5: upstream.rate.bytes.per.second: 10 is out of range: 4KiB to 10GiB; 0: no limit"},
		{"day", aLink + "rate.bytes.per.day = '1KiB'", "m.toml:5: upstream.rate.bytes.per.day: 1KiB is out of range: 1MiB to 1024TiB; 0: no limit"},
		{"backoff", aLink + "reconnect.backoff.ms = '10m'", "m.toml:1: upstream.hq.reconnect.backoff.max.ms: 5m is below reconnect.backoff.ms, which is 10m"},
		{"zone", aLink + "time.zone = 'Mars'", "m.toml:5: upstream.hq.time.zone: no such zone as Mars"},
		{"window", aLink + "window = ['00:00-06:00', 'noon']", "m.toml:5: upstream.hq.window: no window: noon"},
		{"windows", aLink + "window = [" + strings.Repeat("'00:00-06:00', ", 25) + "]", "m.toml:5: upstream.hq.window: has 25, and there may be 24"},
		{"window of a class", aLink + class + "window = ['noon']", "m.toml:7: upstream.hq.class.window: no window: noon"},
		{"the second link's", aLink + strings.Replace(aLink, "hq", "b", 1) + "window = ['noon']\n" + strings.Replace(aLink, "hq", "c", 1), "m.toml:9: upstream.b.window: no window: noon"},
		{"priority", aLink + class + "priority = 100", "m.toml:7: upstream.class.priority: 100 is out of range: 0 to 99"},
		{"share", aLink + class + "minimum.share = 20", "m.toml:7: upstream.class.minimum.share: want a share from 0 to 1, like 0.2"},
		{"shares", aLink + class + "minimum.share = 0.6\n" + strings.Replace(class, "'a'", "'b'", 1) + "minimum.share = 0.5", "m.toml:10: upstream.hq.class.minimum.share: the classes of the link are promised 1.1 of its bytes"},
		{"class of nothing", aLink + "[[upstream.class]]\npriority = 1", "m.toml:5: upstream.hq.class: needs topics"},
		{"a pattern in two classes", aLink + class + class, `m.toml:8: upstream.hq.class.topics: "a" is in the class on line 5 already`},
		{"classes", aLink + strings.Repeat(class, 9), "m.toml:21: upstream.hq.class: there are 9, and there may be 8"},
		{"classes down", aLink + "direction = 'down'\n" + class, `m.toml:5: upstream.hq.direction: "down" has no classes`},
		{"num down", aLink + "direction = 'down'\nnum.partitions = 3", `m.toml:6: upstream.hq.num.partitions: is for links that go up`},
		{"delivery down", aLink + "direction = 'down'\ndelivery = 'at-least-once'", `m.toml:6: upstream.hq.delivery: is for links that go up`},
		{"replication down", aLink + "direction = 'down'\nreplication.factor = 3", `m.toml:6: upstream.hq.replication.factor: is for links that go up`},
		{"cursor down", aLink + "direction = 'down'\ncursor.topic = 'c'", `m.toml:6: upstream.hq.cursor.topic: is for links that go up`},
		{"gap down", aLink + "direction = 'down'\ngap.topic = 'g'", `m.toml:6: upstream.hq.gap.topic: is for links that go up`},
		{"provenance down", aLink + "direction = 'down'\nprovenance = true", `m.toml:6: upstream.hq.provenance: is for links that go up`},
		{"groups down", aLink + "direction = 'down'\ngroups = ['g']", `m.toml:6: upstream.hq.groups: is for links that go up`},
		{"exclude.groups down", aLink + "direction = 'down'\nexclude.groups = ['g']", `m.toml:6: upstream.hq.exclude.groups: is for links that go up`},
		{"interval down", aLink + "direction = 'down'\nsync.group.offsets.interval = '5s'", `m.toml:6: upstream.hq.sync.group.offsets.interval: is for links that go up`},
		{"groups live first", aLink + "order = 'live-first'\ngroups = ['g']", `m.toml:6: upstream.hq.groups: need order = "oldest-first"`},
		{"no group", aLink + "groups = ['']", `m.toml:5: upstream.groups: "" matches no group`},
		{"no interval", aLink + "sync.group.offsets.interval = '0s'", `m.toml:5: upstream.sync.group.offsets.interval: `},
		{"MirrorMaker's switch", aLink + "sync.group.offsets.enabled = true", `groups: those it names are followed`},
		{"MirrorMaker's exclusion", aLink + "groups.exclude = ['g']", `exclude.groups`},
		{"heartbeats", aLink + "emit.heartbeats.interval = '100ms'", "m.toml:5: upstream.hq.emit.heartbeats.interval: 100ms is too short: 1s and more, or 0s"},
		{"rare heartbeats", aLink + "emit.heartbeats.interval = '2d'", "m.toml:5: upstream.emit.heartbeats.interval: 2d is out of range: 0s to 1d"},
		{"heartbeats of a dotted cluster", aLink + "emit.heartbeats.interval = '1m'\n[broker]\ncluster.alias = 'a.b'", `m.toml:5: upstream.hq.emit.heartbeats.interval: needs a broker.cluster.alias of letters, digits`},
		{"MirrorMaker's heartbeats", aLink + "emit.heartbeats.interval.seconds = 1", "m.toml:5: upstream.emit.heartbeats.interval.seconds: unknown key; here it is emit.heartbeats.interval, a time"},
		{"MirrorMaker's sync", aLink + "sync.topic.configs.enabled = true", "m.toml:5: upstream.sync.topic.configs.enabled: unknown key; here it is sync.topic.configs"},
		{"sync", aLink + "sync.topic.configs = 'yes'", "m.toml:5: upstream.sync.topic.configs: want true or false"},
		{"excluded settings", aLink + "config.properties.exclude = ['a b']", `m.toml:5: upstream.config.properties.exclude: "a b" matches no setting`},
		{"many excluded settings", aLink + "config.properties.exclude = [" + strings.Repeat("'a', ", 65) + "]", "m.toml:5: upstream.hq.config.properties.exclude: has 65 patterns, and there may be 64"},
		{"heartbeats down", aLink + "direction = 'down'\nemit.heartbeats.interval = '1m'", `m.toml:6: upstream.hq.emit.heartbeats.interval: is for links that go up`},
		{"sync down", aLink + "direction = 'down'\nsync.topic.configs = false", `m.toml:6: upstream.hq.sync.topic.configs: is for links that go up`},
		{"exclude down", aLink + "direction = 'down'\nconfig.properties.exclude = ['a']", `m.toml:6: upstream.hq.config.properties.exclude: is for links that go up`},
		{"compression down", aLink + "direction = 'down'\ncompression.type = 'none'", `m.toml:6: upstream.hq.compression.type: is for links that go up`},
		{"live first down", aLink + "direction = 'down'\norder = 'live-first'", `m.toml:6: upstream.hq.order: "live-first" is for links that go up`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Parse("m.toml", []byte(tt.file), board, checks)
			if c != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}
