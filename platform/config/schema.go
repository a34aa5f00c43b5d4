package config

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Formats are the encodings a sensor's readings can have.
var Formats = []string{"senml+json", "senml+cbor", "json", "raw"}

// quantities are what a deadband can name.
var quantities = []string{"temperature", "humidity", "pressure"}

// tables are the plain tables in the order of millrace.toml.
var tables = []struct {
	name     string
	settings func(c *Config) []setting
}{
	{"broker", brokerSettings},
	{"journal", func(c *Config) []setting {
		return []setting{
			{"commit.interval.ms", millis(&c.Journal.CommitInterval, 0, minute), true},
			{"bytes.max", size(&c.Journal.BytesMax, 2*mib, 4*gib), false},
			{"front", text(&c.Journal.Front), false},
		}
	}},
	{"memory", func(c *Config) []setting {
		return []setting{{"limit", size(&c.Memory.Limit, 24*mib, 64*gib), false}}
	}},
	{"flash", func(c *Config) []setting {
		return []setting{
			{"reserve.bytes", size(&c.Flash.ReserveBytes, 0, math.MaxInt64), false},
			{"write.budget", perDay(&c.Flash.WriteBudget, mib, 1<<50), true},
			{"commit.interval.max.ms", millis(&c.Flash.CommitIntervalMax, time.Millisecond, minute), true},
			{"endurance.bytes", size(&c.Flash.Endurance, 0, 1<<60), false},
		}
	}},
	{"clock", func(c *Config) []setting {
		k := &c.Clock
		return []setting{
			{"rtc", text(&k.RTC, realTimeClock), false},
			{"rtc_bus", text(&k.RTCBus, filled), false},
			{"ntp", flag(&k.NTP), false},
			{"set_rtc", flag(&k.SetRTC), false},
			{"set_system_time", flag(&k.SetSystemTime), false},
		}
	}},
	{"mqtt", func(c *Config) []setting {
		m := &c.MQTT
		return slices.Concat([]setting{
			{"listeners", texts(&m.Listeners, mqttAddress), false},
			{"allow_anonymous", flag(&m.AllowAnonymous), false},
			{"max_connections", number(&m.MaxConnections, 0, 1_000_000), false},
			{"max_connection_rate", number(&m.MaxConnectionRate, 0, 1_000_000), false},
			{"max_sessions", number(&m.MaxSessions, 1, 1_000_000), false},
		}, m.limitSettings(), []setting{
			{"response_information", text(&m.ResponseInformation), false},
			{"connect_timeout", span(&m.ConnectTimeout, 100*time.Millisecond, 10*minute), false},
			{"socket_mode", text(&m.SocketMode, fileMode), false},
			{"websockets_origin", texts(&m.Origins, filled, originPattern), false},
			{"sys_interval", span(&m.SysInterval, 0, day), false},
		})
	}},
	{"security", func(c *Config) []setting {
		s := &c.Security
		return []setting{
			{"admin.scram.file", text(&s.AdminScramFile), false},
			{"tls.cert.file", text(&s.CertFile), true},
			{"tls.key.file", text(&s.KeyFile), true},
			{"client.ca.file", text(&s.ClientCAFile), true},
		}
	}},
	{"http", func(c *Config) []setting {
		h := &c.HTTP
		return []setting{
			{"listener", text(&h.Listener, func(s string) error {
				if s == "" {
					return nil
				}
				return bare("http", "https")(s)
			}), false},
			{"authentication", choice(&h.Authentication, "auto", "basic", "none"), false},
			{"max_connections", number(&h.MaxConnections, 8, 10_000), false},
		}
	}},
	{"watchdog", func(c *Config) []setting {
		w := &c.Watchdog
		return []setting{
			{"device", text(&w.Device), false},
			{"timeout", span(&w.Timeout, 0, hour), false},
			{"pretimeout", span(&w.Pretimeout, 0, hour), false},
			{"gpio", text(&w.GPIO), false},
			{"canary.interval", span(&w.Interval, 10*time.Millisecond, hour), false},
			{"canary.deadline", span(&w.Deadline, 10*time.Millisecond, hour), false},
		}
	}},
	{"log", func(c *Config) []setting {
		l := &c.Log
		return []setting{
			{"level", choice(&l.Level, Levels...), true},
			{"components", named(&l.Components, oneOf(Levels...)), true},
			{"message.rate", number(&l.MessageRate, 0, 1_000_000), true},
			{"write.budget", perDay(&l.WriteBudget, 64*kib, 1<<40), true},
			{"memory", size(&l.Memory, 16*kib, 16*mib), false},
		}
	}},
}

func brokerSettings(c *Config) []setting {
	b := &c.Broker
	return []setting{
		{"node.id", number(&b.NodeID, 0, math.MaxInt32), false},
		{"cluster.id", text(&b.ClusterID, clusterID), false},
		{"cluster.alias", text(&b.ClusterAlias, filled), false},
		{"listeners", texts(&b.Listeners, bare(protocols...)), false},
		{"advertised.listeners", texts(&b.AdvertisedListeners, address(protocols...)), false},
		{"log.dirs", text(&b.LogDirs, filled), false},
		{"num.partitions", number(&b.NumPartitions, 1, 1000), false},
		{"default.replication.factor", number(&b.ReplicationFactor, 1, 1), false},
		{"auto.create.topics.enable", flag(&b.AutoCreateTopics), true},
		{"process.roles", choice(&b.ProcessRoles, "broker,controller"), false},
		{"max.connections", number(&b.MaxConnections, 1, 100_000), false},
		{"socket.request.max.bytes", size(&b.RequestMaxBytes, 64*kib, 256*mib), false},
		{"fetch.max.bytes", size(&b.FetchMaxBytes, kib, 64*mib), false},
		{"connections.max.idle.ms", millis(&b.ConnectionsMaxIdle, second, 30*day), false},
		{"log.retention.check.interval.ms", millis(&b.RetentionCheck, 10*time.Millisecond, day), false},
		{"producer.id.expiration.ms", millis(&b.ProducerExpiration, minute, 365*day), false},
		{"group.initial.rebalance.delay.ms", millis(&b.GroupInitialDelay, 0, hour), false},
		{"group.min.session.timeout.ms", millis(&b.GroupMinSession, time.Millisecond, day), false},
		{"group.max.session.timeout.ms", millis(&b.GroupMaxSession, second, 7*day), false},
		{"group.max.size", number(&b.GroupMaxSize, 1, 100_000), false},
		{"group.max.count", number(&b.GroupMaxCount, 1, 100_000), false},
		{"group.max.offsets", number(&b.GroupMaxOffsets, 1, 1_000_000), false},
		{"offsets.topic.num.partitions", number(&b.OffsetsPartitions, 1, 50), false},
		{"offsets.retention.minutes", minutes(&b.OffsetsRetention, minute, 3650*day), false},
		{"offsets.retention.check.interval.ms", millis(&b.OffsetsRetentionCheck, 100*time.Millisecond, day), false},
		{"offset.metadata.max.bytes", size(&b.OffsetMetadataMax, 0, 64*kib), false},
		{"sasl.enabled.mechanisms", texts(&b.Mechanisms, oneOf("SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN")), false},
		{"connections.max.reauth.ms", millis(&b.MaxReauth, 0, 365*day), false},
		{"connection.failed.authentication.delay.ms", millis(&b.FailureDelay, 0, 10*second), false},
		{"ssl.client.auth", choice(&b.ClientAuth, "none", "requested", "required"), false},
		{"ssl.principal.mapping.rules", texts(&b.MappingRules, filled), false},
		{"super.users", texts(&b.SuperUsers, principal), false},
		{"authorizer", choice(&b.Authorizer, "auto", "on", "off"), false},
		{"insecure.allow.anyone.on.the.network", flag(&b.Insecure), false},
	}
}

// lists are the [[tables]], and the settings of one element of each, which is made when it is not there yet.
var lists = map[string]func(c *Config, index, line int) []setting{
	"mqtt.listener": func(c *Config, index, line int) []setting {
		return placeSettings(grow(&c.MQTT.Places, index, newPlace(line)))
	},
	"mqtt.route": func(c *Config, index, line int) []setting {
		return routeSettings(grow(&c.MQTT.Routes, index, Route{Key: "{mqtt.topic}", Partition: -1, Line: line}))
	},
	"mqtt.reverse": func(c *Config, index, line int) []setting {
		return reverseSettings(grow(&c.MQTT.Reverses, index, Reverse{Line: line}))
	},
	"bus": func(c *Config, index, line int) []setting {
		return busSettings(grow(&c.Buses, index, Bus{Timeout: BusTimeout, Line: line}))
	},
	"fram": func(c *Config, index, line int) []setting {
		return framSettings(grow(&c.FRAMs, index, FRAM{Line: line}))
	},
	"upstream": func(c *Config, index, line int) []setting {
		return upstreamSettings(grow(&c.Upstreams, index, newUpstream(line)))
	},
	"upstream.class": func(c *Config, index, line int) []setting {
		return upstreamClassSettings(grow(&lastUpstream(c, line).Classes, index, newUpstreamClass(line)))
	},
	"sensor": func(c *Config, index, line int) []setting {
		return sensorSettings(grow(&c.Sensors, index, Sensor{Every: 10 * second, Format: Formats[0], Line: line}))
	},
}

func placeSettings(p *MQTTListener) []setting {
	list := []setting{
		{"url", text(&p.URL, mqttAddress), false},
		{"max_connections", number(&p.MaxConnections, 0, 1_000_000), false},
		{"max_connection_rate", number(&p.MaxConnectionRate, -1, 1_000_000), false},
		{"allow_anonymous", perhaps(&p.AllowAnonymous), false},
	}
	limits := p.limitSettings()
	for i, n := range p.numbers() {
		limits[i].bind = orAsDoor(n, limits[i].bind)
	}
	return append(list, limits...)
}

func routeSettings(r *Route) []setting {
	return []setting{
		{"filter", text(&r.Filter, filled), false},
		{"topic", text(&r.Topic, filled), false},
		{"key", text(&r.Key), false},
		{"partition", number(&r.Partition, -1, math.MaxInt32), false},
		{"headers", named(&r.Headers), false},
	}
}

func reverseSettings(r *Reverse) []setting {
	return []setting{
		{"topic", text(&r.Topic, filled), false},
		{"mqtt_topic", text(&r.MQTTTopic, filled), false},
	}
}

func busSettings(b *Bus) []setting {
	return []setting{
		{"name", text(&b.Name, filled), false},
		{"timeout", span(&b.Timeout, time.Millisecond, minute), false},
	}
}

func framSettings(f *FRAM) []setting {
	return []setting{
		{"name", text(&f.Name, filled), false},
		{"bus", text(&f.Bus, filled), false},
		{"driver", text(&f.Driver, filled), false},
	}
}

func sensorSettings(s *Sensor) []setting {
	list := []setting{
		{"name", text(&s.Name, filled), false},
		{"driver", text(&s.Driver, filled), false},
		{"bus", text(&s.Bus, filled), false},
		{"address", number(&s.Address, 0x03, 0x77), false}, // 7-bit addresses that are not reserved, UM10204 3.1.12
		{"every", span(&s.Every, 10*time.Millisecond, 366*day), false},
		{"topic", text(&s.Topic, filled), false},
		{"format", choice(&s.Format, Formats...), false},
	}
	for _, q := range quantities {
		list = append(list, setting{"deadband." + q, bound(&s.Deadband, q), false})
	}
	return list
}

// grow makes sure list has an element at index, which is its length or below, and returns it.
func grow[T any](list *[]T, index int, fresh T) *T {
	if index == len(*list) {
		*list = append(*list, fresh)
	}
	return &(*list)[index]
}

// settingsOf are the settings of a plain table, or of one element of a list; nil when there is no such section.
func settingsOf(c *Config, section string, index, line int) []setting {
	if list, ok := lists[section]; ok {
		return list(c, index, line)
	}
	for _, t := range tables {
		if t.name == section {
			return t.settings(c)
		}
	}
	return nil
}

// keysOf lists the keys of a section, for the nearest-name message.
func keysOf(section string) []string {
	var keys []string
	for _, s := range settingsOf(&Config{}, section, 0, 0) {
		keys = append(keys, s.key)
	}
	return keys
}

// sections lists every table there is.
func sections() []string {
	names := []string{"topic"}
	for _, t := range tables {
		names = append(names, t.name)
	}
	return append(names, slices.Sorted(maps.Keys(lists))...)
}

func filled(s string) error {
	if strings.TrimSpace(s) == "" {
		return errors.New("must not be empty")
	}
	return nil
}

// realTimeClock checks what [clock] rtc may be.
func realTimeClock(s string) error {
	if s == "" || s == "ds3231" || strings.HasPrefix(s, "/dev/") {
		return nil
	}
	return fmt.Errorf(`%q is neither a device like "/dev/rtc0" nor a chip there is a driver for, "ds3231"`, s)
}

// principal checks the name of one, which is all this package can know of it.
func principal(s string) error {
	if name, ok := strings.CutPrefix(s, "User:"); !ok || name == "" || name == "*" {
		return fmt.Errorf("%q is not a principal like User:admin", s)
	}
	return nil
}

// address checks "SCHEME://host:port".
func address(schemes ...string) func(string) error {
	return func(s string) error {
		scheme, rest, ok := strings.Cut(s, "://")
		if !ok || rest == "" || strings.ContainsAny(rest, "/?#@") {
			return fmt.Errorf("%q is not an address like %s://127.0.0.1:1234", s, schemes[0])
		}
		if !slices.ContainsFunc(schemes, func(k string) bool { return strings.EqualFold(k, scheme) }) {
			return fmt.Errorf("%q: this version speaks %s:// only", s, strings.Join(schemes, "://, "))
		}
		if _, _, err := net.SplitHostPort(rest); err != nil {
			return fmt.Errorf("%q has no port", s)
		}
		return nil
	}
}

// bare checks an address that may do without its scheme: Config.complete gives it one.
func bare(schemes ...string) func(string) error {
	return func(s string) error {
		if !strings.Contains(s, "://") {
			s = schemes[0] + "://" + s
		}
		return address(schemes...)(s)
	}
}

// clusterID checks 16 bytes in base64url, or nothing.
func clusterID(s string) error {
	if raw, err := base64.RawURLEncoding.Strict().DecodeString(s); s != "" && (err != nil || len(raw) != 16) {
		return fmt.Errorf("%q is not 22 characters of base64url; `millrace random-uuid` prints some", s)
	}
	return nil
}

// HostPort is the address without its scheme: "PLAINTEXT://127.0.0.1:9092" gives "127.0.0.1:9092".
func HostPort(listener string) string {
	if _, rest, ok := strings.Cut(listener, "://"); ok {
		return rest
	}
	return listener
}

// splitAddress is the host of a host:port that can be listened at.
func splitAddress(hostPort string) (host string, err error) {
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil || port == "" {
		return "", fmt.Errorf("%q is not an address like 127.0.0.1:1234", hostPort)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", fmt.Errorf("%q: the port is a number from 0, for any that is free, to 65535", hostPort)
	}
	return host, nil
}

// Loopback refuses an address that is not on this machine alone.
func Loopback(hostPort string) error {
	host, err := splitAddress(hostPort)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("%q is not loopback", hostPort)
}
