package config

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bounds of [[upstream]]: each link has a connection, buffers and a table of cursors.
const (
	UpstreamsMax        = 8
	upstreamClassesMax  = 8
	upstreamPatternsMax = 64 // of topics, in a link and in a class
	upstreamServersMax  = 16
	upstreamWindowsMax  = 24
	upstreamNameMax     = 64  // bytes; it is part of a transactional id
	topicNameMax        = 249 // bytes, Kafka's
	groupNameMax        = 249
)

// Directions, deliveries and orders of a link.
const (
	Up, Down                 = "up", "down"
	ExactlyOnce, AtLeastOnce = "exactly-once", "at-least-once"
	OldestFirst, LiveFirst   = "oldest-first", "live-first"
)

// Mechanism that takes a token in place of a password.
const oauthBearer = "OAUTHBEARER"

// Upstream is one [[upstream]]: a link between this board and an Apache Kafka. Secrets are in files, which are read when
// the link connects.
type Upstream struct {
	Name    string   // unique; letters, digits, dots, dashes and underscores
	Servers []string // host:port
	// Protocol is Kafka's security.protocol: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.
	Protocol string
	CAFile   string // PEM, who signs the certificates of the servers; "": those the system knows
	CertFile string // PEM, what this board shows; "": nothing
	KeyFile  string // PEM, its key

	Mechanism    string // of SASL; "" without SASL
	Username     string
	PasswordFile string
	// One of the two is where the token for OAUTHBEARER comes from.
	TokenFile, TokenURL    string
	ClientID, ClientSecret string // at TokenURL; the latter is a file's name
	Scope                  string // asked of TokenURL; "": none

	Direction   string        // Up or Down
	Topics      []string      // patterns as in [topic.*]
	Naming      string        // of topics at the other end: {topic}, {cluster}
	Delivery    string        // ExactlyOnce or AtLeastOnce
	Order       string        // OldestFirst or LiveFirst
	Partitions  int32         // of a topic that the link makes; 0: as many as at this end
	Replication int16         // of the same; -1: what the other end has by default
	CursorTopic string        // where the link keeps how far it is
	GapTopic    string        // where it tells what was lost
	Provenance  bool          // headers say which board, topic, partition and offset
	Groups      []string      // patterns of consumer groups whose offsets are committed at the other end, translated; empty: none
	NoGroups    []string      // patterns of those that are not
	GroupsEvery time.Duration // how often
	// Linger is how long a link that is not behind gathers records before it sends them.
	Linger time.Duration
	// Heartbeats is how often MirrorMaker's tools see the board; 0: never.
	Heartbeats time.Duration
	// SyncConfigs has settings of topics that the link has made follow the board's, ConfigsExclude are patterns of those that
	// the link does not carry.
	SyncConfigs    bool
	ConfigsExclude []string
	Compression    string // Kafka's compression.type
	Backoff        time.Duration
	BackoffMax     time.Duration // Invariant: BackoffMax >= Backoff
	RateSecond     int64         // bytes on the wire; 0: any
	RateDay        int64         // the same, of a day in TimeZone
	TimeZone       string        // IANA's name
	Windows        []string      // when it may send; empty: always
	Metered        bool          // bytes cost money
	Classes        []UpstreamClass
	Line           int // in the file, for messages
}

// UpstreamClass is one [[upstream.class]]: topics of a link that go before or after others.
type UpstreamClass struct {
	Topics       []string       // patterns; the first class that has a topic counts
	Priority     int            // 0 goes first
	MinimumShare float64        // of the link's bytes, also while a class with a lower number has something to send
	Windows      []string       // nil: those of the link; empty: always
	Metered      bool           // goes over a link that is metered, as a class of priority 0 does in any case
	Linger       *time.Duration // how long it gathers records; nil: as long as the link
	Line         int            // in the file, for messages
}

// TLS says whether the link is encrypted, SASL whether the board logs in.
func (u *Upstream) TLS() bool  { return u.Protocol == "SSL" || u.Protocol == "SASL_SSL" }
func (u *Upstream) SASL() bool { return strings.HasPrefix(u.Protocol, "SASL_") }

// Local says whether all servers of the list are on this machine.
func (u *Upstream) Local() bool {
	return !slices.ContainsFunc(u.Servers, func(s string) bool { return Loopback(s) != nil })
}

// Files are those the link's settings name.
func (u *Upstream) Files() []string {
	return slices.DeleteFunc([]string{u.CAFile, u.CertFile, u.KeyFile, u.PasswordFile, u.TokenFile, u.ClientSecret}, func(s string) bool { return s == "" })
}

// Secrets are those of Files that nobody but the broker's user should be able to read.
func (u *Upstream) Secrets() []string {
	return slices.DeleteFunc([]string{u.KeyFile, u.PasswordFile, u.TokenFile, u.ClientSecret}, func(s string) bool { return s == "" })
}

// Same says whether nothing differs between two links but where they stand in the file.
func (u *Upstream) Same(v *Upstream) bool {
	bare := func(u *Upstream) Upstream {
		c := *u
		c.Line, c.Classes = 0, slices.Clone(u.Classes)
		for i := range c.Classes {
			c.Classes[i].Line = 0
		}
		return c
	}
	return reflect.DeepEqual(bare(u), bare(v))
}

func newUpstream(line int) Upstream {
	return Upstream{
		Servers: []string{}, Protocol: "PLAINTEXT", Direction: Up, Topics: []string{}, Naming: "{topic}", Delivery: ExactlyOnce, Order: OldestFirst,
		Replication: -1, CursorTopic: "__millrace_cursors", GapTopic: "__millrace_gaps", Compression: "zstd", SyncConfigs: true, ConfigsExclude: []string{},
		Groups: []string{}, NoGroups: []string{}, GroupsEvery: minute,
		Linger: 200 * time.Millisecond, Backoff: second, BackoffMax: 5 * minute, TimeZone: "UTC", Windows: []string{}, Line: line,
	}
}

// lingerMax is how long records may be gathered at most.
const lingerMax = 10 * minute

func newUpstreamClass(line int) UpstreamClass { return UpstreamClass{Topics: []string{}, Line: line} }

// lastUpstream is the link that an [[upstream.class]] belongs to: the one above it.
func lastUpstream(c *Config, line int) *Upstream {
	if len(c.Upstreams) == 0 {
		c.Upstreams = append(c.Upstreams, newUpstream(line))
	}
	return &c.Upstreams[len(c.Upstreams)-1]
}

func upstreamSettings(u *Upstream) []setting {
	return []setting{
		{"name", text(&u.Name, upstreamName), true},
		{"bootstrap.servers", texts(&u.Servers, server), true},
		{"security.protocol", choice(&u.Protocol, protocols...), true},
		{"ssl.ca.location", text(&u.CAFile), true},
		{"ssl.certificate.location", text(&u.CertFile), true},
		{"ssl.key.location", text(&u.KeyFile), true},
		{"sasl.mechanism", choice(&u.Mechanism, "", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", oauthBearer), true},
		{"sasl.username", text(&u.Username), true},
		{"sasl.password.file", text(&u.PasswordFile), true},
		{"sasl.oauthbearer.token.file", text(&u.TokenFile), true},
		{"sasl.oauthbearer.token.endpoint.url", text(&u.TokenURL, tokenURL), true},
		{"sasl.oauthbearer.client.id", text(&u.ClientID), true},
		{"sasl.oauthbearer.client.secret.file", text(&u.ClientSecret), true},
		{"sasl.oauthbearer.scope", text(&u.Scope), true},
		{"direction", choice(&u.Direction, Up, Down), true},
		{"topics", texts(&u.Topics, patternOfTopics), true},
		{"naming", text(&u.Naming, naming), true},
		{"delivery", choice(&u.Delivery, ExactlyOnce, AtLeastOnce), true},
		{"order", choice(&u.Order, OldestFirst, LiveFirst), true},
		{"num.partitions", number(&u.Partitions, 0, 10_000), true},
		{"replication.factor", number(&u.Replication, -1, 1<<15-1), true},
		{"cursor.topic", text(&u.CursorTopic, topicName), true},
		{"gap.topic", text(&u.GapTopic, topicName), true},
		{"provenance", flag(&u.Provenance), true},
		{"groups", texts(&u.Groups, patternOfGroups), true},
		{"exclude.groups", texts(&u.NoGroups, patternOfGroups), true},
		{"sync.group.offsets.interval", span(&u.GroupsEvery, second, day), true},
		{"emit.heartbeats.interval", span(&u.Heartbeats, 0, day), true},
		{"sync.topic.configs", flag(&u.SyncConfigs), true},
		{"config.properties.exclude", texts(&u.ConfigsExclude, patternOfSettings), true},
		{"compression.type", choice(&u.Compression, "none", "gzip", "snappy", "lz4", "zstd"), true},
		{"linger.ms", millis(&u.Linger, 0, lingerMax), true},
		{"reconnect.backoff.ms", millis(&u.Backoff, 50*time.Millisecond, hour), true},
		{"reconnect.backoff.max.ms", millis(&u.BackoffMax, 50*time.Millisecond, day), true},
		{"rate.bytes.per.second", sizeOrNone(&u.RateSecond, 4*kib, 10*gib), true},
		{"rate.bytes.per.day", sizeOrNone(&u.RateDay, mib, 1<<50), true},
		{"time.zone", text(&u.TimeZone, filled), true},
		{"window", texts(&u.Windows, filled), true},
		{"metered", flag(&u.Metered), true},
	}
}

func upstreamClassSettings(k *UpstreamClass) []setting {
	return []setting{
		{"topics", texts(&k.Topics, patternOfTopics), true},
		{"priority", number(&k.Priority, 0, 99), true},
		{"minimum.share", share(&k.MinimumShare), true},
		{"window", ownOrNone(&k.Windows, filled), true},
		{"metered", flag(&k.Metered), true},
		{"linger.ms", ownMillis(&k.Linger, 0, lingerMax), true},
	}
}

// sizeOrNone is a size that has a floor, or 0 for no limit.
func sizeOrNone(p *int64, low, high int64) binding {
	b := size(p, low, high)
	return binding{
		set: func(v any) error {
			if v == int64(0) || v == "0" || v == "" {
				*p = 0
				return nil
			}
			if err := b.set(v); err != nil {
				return fmt.Errorf("%w; 0: no limit", err)
			}
			return nil
		},
		get: b.get,
	}
}

// share is a part of a whole.
func share(p *float64) binding {
	return binding{
		set: func(v any) error {
			f, ok := v.(float64)
			if n, whole := v.(int64); whole {
				f, ok = float64(n), true
			}
			if !ok || !(f >= 0 && f <= 1) {
				return errors.New("want a share from 0 to 1, like 0.2")
			}
			*p = f
			return nil
		},
		get: func() any { return *p },
	}
}

// ownOrNone is a list of strings that is nil where the file does not say it, and is then not shown.
func ownOrNone(p *[]string, checks ...func(string) error) binding {
	b := texts(p, checks...)
	return binding{set: b.set, get: func() any {
		if *p == nil {
			return nil
		}
		return *p
	}}
}

// ownMillis is a time that is nil where the file does not say it, and is then not shown.
func ownMillis(p **time.Duration, low, high time.Duration) binding {
	return binding{
		set: func(v any) error {
			var d time.Duration
			if err := millis(&d, low, high).set(v); err != nil {
				return err
			}
			*p = &d
			return nil
		},
		get: func() any {
			if *p == nil {
				return nil
			}
			return millis(*p, low, high).get()
		},
	}
}

var upstreamNames = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`) // it names files too

func upstreamName(s string) error {
	if !upstreamNames.MatchString(s) || len(s) > upstreamNameMax {
		return fmt.Errorf("%q is not a name of up to %d letters, digits, dots, dashes and underscores", s, upstreamNameMax)
	}
	return nil
}

// server checks one of bootstrap.servers.
func server(s string) error {
	if scheme, _, ok := strings.Cut(s, "://"); ok {
		return fmt.Errorf("%q: a server is host:port, and security.protocol = %q says how it is spoken to", s, strings.ToUpper(scheme))
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" || strings.ContainsAny(host, " /,@") {
		return fmt.Errorf("%q is not a server like kafka.example:9093; several are a list", s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q: the port is a number from 1 to 65535", s)
	}
	return nil
}

func patternOfTopics(s string) error {
	if !topicPattern.MatchString(s) || len(s) > topicNameMax {
		return fmt.Errorf("%q matches no topic: names have up to %d letters, digits, dots, dashes and underscores; * stands for any of them", s, topicNameMax)
	}
	return nil
}

func patternOfGroups(s string) error {
	if s == "" || len(s) > groupNameMax {
		return fmt.Errorf("%q matches no group: names have up to %d bytes; * stands for any of them", s, groupNameMax)
	}
	return nil
}

// patternOfSettings checks one of Kafka's names of settings, or several by *.
func patternOfSettings(s string) error {
	if patternOfTopics(s) != nil {
		return fmt.Errorf("%q matches no setting: they are called like retention.ms; * stands for any part of a name", s)
	}
	return nil
}

// topicName checks the name of one topic.
func topicName(s string) error {
	if strings.Contains(s, "*") || patternOfTopics(s) != nil || s == "." || s == ".." {
		return fmt.Errorf("%q is not a name Kafka allows: up to %d letters, digits, dots, dashes and underscores", s, topicNameMax)
	}
	return nil
}

// naming checks how topics are called at the other end. {serial} {mac} {node} have been filled in.
func naming(s string) error {
	if strings.Count(s, "{topic}") != 1 {
		return fmt.Errorf("%q needs {topic} once: without it, all topics would be one", s)
	}
	rest := strings.NewReplacer("{topic}", "t", "{cluster}", "c").Replace(s)
	if word := placeholder.FindString(rest); word != "" {
		return fmt.Errorf("%s stands for nothing; there are {topic}, {cluster}, {serial}, {mac} and {node}", word)
	}
	return topicName(rest)
}

// tokenURL checks where tokens are asked for: with the client's secret.
func tokenURL(s string) error {
	if s == "" {
		return nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.Fragment != "" {
		return fmt.Errorf("%q is not a URL like https://login.example/oauth2/token", s)
	}
	if u.Scheme == "http" && Loopback(net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "80"))) != nil {
		return fmt.Errorf("%q would carry the client's secret in clear: use https://", s)
	}
	return nil
}

// kafkaNames are keys of Kafka's clients that have another name here, because files are PEM and secrets are in files.
var kafkaNames = map[string]string{
	"ssl.truststore.location":             "ssl.ca.location, a PEM file",
	"ssl.keystore.location":               "ssl.certificate.location and ssl.key.location, two PEM files",
	"sasl.password":                       "sasl.password.file: secrets are in files",
	"sasl.jaas.config":                    "sasl.username and sasl.password.file",
	"sasl.oauthbearer.client.secret":      "sasl.oauthbearer.client.secret.file: secrets are in files",
	"compression":                         "compression.type",
	"groups.exclude":                      "exclude.groups, for groups is a key of its own",
	"sync.group.offsets.enabled":          "groups: those it names are followed",
	"sync.group.offsets.interval.seconds": "sync.group.offsets.interval, a time like 1m",
	"emit.heartbeats.enabled":             "emit.heartbeats.interval, a time like 1m; 0s: none",
	"emit.heartbeats.interval.seconds":    "emit.heartbeats.interval, a time like 1m; 0s: none",
	"sync.topic.configs.enabled":          "sync.topic.configs",
	"sasl.mechanisms":                     "sasl.mechanism",
	"sasl.oauthbearer.token.endpoint.uri": "sasl.oauthbearer.token.endpoint.url",
}
