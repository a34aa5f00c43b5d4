// Package config is the one strict configuration file of a board.
//
// Every key is optional; Default is what an empty file means, and millrace.toml beside this file, which the program
// prints with `millrace config show --defaults`, says the same with comments. A key that does not exist, or a value
// out of its range, is an error that names the file, the line and the nearest name there is: a typing mistake must not
// turn into a default on a board nobody looks at for a year.
//
// Names inside [broker] and [topic] are Kafka's own. Numbers are in the unit of the name (ms, bytes); strings may carry
// one ("7d", "64MiB"). {serial} {mac} {node} expand in strings, so that one file serves a fleet.
package config

import (
	_ "embed"
	"time"
)

// defaults is the complete commented file; a test holds it against Default.
//
//go:embed millrace.toml
var defaults []byte

// DefaultFile is the complete configuration file, commented, with every default written out.
func DefaultFile() []byte { return append([]byte(nil), defaults...) }

// Config is one checked configuration. It is not changed after Parse: a reload makes a new one.
type Config struct {
	Broker  Broker
	Journal Journal
	Memory  Memory
	Flash   Flash
	Clock   Clock
	// Topics are the patterns in the order of the file, with "*", the defaults of all topics, first.
	Topics   []Topic
	MQTT     MQTT
	Security Security
	HTTP     HTTP
	Watchdog Watchdog
	Log      Log
	Buses    []Bus
	Sensors  []Sensor
	FRAMs    []FRAM
	// Upstreams are at most UpstreamsMax links, each of its own name.
	Upstreams []Upstream
}

// Broker holds the keys of Kafka's server.properties.
type Broker struct {
	NodeID              int32
	ClusterID           string // of a directory that is formatted; "": a random one, and whichever a formatted one has
	ClusterAlias        string
	Listeners           []string // "PLAINTEXT://127.0.0.1:9092"; SSL, SASL_PLAINTEXT and SASL_SSL too
	AdvertisedListeners []string // empty: what the client connected to
	LogDirs             string   // the data directory
	NumPartitions       int32    // of a topic created without a count
	ReplicationFactor   int16
	AutoCreateTopics    bool
	ProcessRoles        string

	MaxConnections     int           // open at once, all listeners together
	RequestMaxBytes    int           // one request frame
	FetchMaxBytes      int           // records in one answer
	ConnectionsMaxIdle time.Duration // a connection that says nothing for so long is closed
	RetentionCheck     time.Duration // between two looks for segments that have aged out
	ProducerExpiration time.Duration // an idle idempotent producer is forgotten after this

	GroupInitialDelay time.Duration // the first rebalance of an empty group waits so long for company
	GroupMinSession   time.Duration // session timeouts a member may ask for
	GroupMaxSession   time.Duration
	GroupMaxSize      int // members of one group
	GroupMaxCount     int // groups
	GroupMaxOffsets   int // partitions one group keeps offsets of

	OffsetsPartitions     int32         // of __consumer_offsets, when it is made
	OffsetsRetention      time.Duration // offsets of a group without members are kept so long
	OffsetsRetentionCheck time.Duration
	OffsetMetadataMax     int // bytes a client may keep with an offset

	Mechanisms   []string      // of SASL
	MaxReauth    time.Duration // a login is good for so long; 0: for ever
	FailureDelay time.Duration // before the answer to a failed login; it grows for an address that goes on failing
	ClientAuth   string        // certificates of clients: "none", "requested" or "required"
	MappingRules []string      // from their subjects to principals
	SuperUsers   []string      // may do everything
	Authorizer   string        // "auto", "on" or "off", see Authorizes
	// Insecure permits listeners that ask nobody who they are on addresses that others can reach.
	Insecure bool
}

// Security names the files that secrets and certificates lie in.
type Security struct {
	AdminScramFile string // how the first admin logs in; "": a secret is drawn and shown once
	CertFile       string // PEM, the chain of this board's certificate; "": the one it has made itself
	KeyFile        string // PEM, its key
	ClientCAFile   string // PEM, who signs the certificates of clients
}

// Journal bounds the write-ahead log.
type Journal struct {
	CommitInterval time.Duration // 0: a commit starts as soon as the last one is over
	BytesMax       int64         // journalled bytes after which a checkpoint drops the front
	Front          string        // name of the FRAM that small commits are acknowledged from; empty: none
}

// Memory bounds the process.
type Memory struct {
	Limit int64 // bytes, everything: GOMEMLIMIT and the budgets follow from it
}

// Flash bounds what is written.
type Flash struct {
	// ReserveBytes is the free space below which client data is refused.
	//
	// Invariant: ReserveBytes >= 2*Journal.BytesMax + 16 MiB, so that the journal and a checkpoint always fit.
	ReserveBytes int64
	// WriteBudget is what may be written to the device in a day, in bytes; 0: no limit. To keep it the commit interval
	// grows from Journal.CommitInterval up to CommitIntervalMax.
	//
	// Invariant: WriteBudget == 0 or CommitIntervalMax >= Journal.CommitInterval.
	WriteBudget       int64
	CommitIntervalMax time.Duration
	// Endurance is how many bytes can be written to the device in its whole life, by its maker's word; 0: unknown.
	Endurance int64
}

// Clock says who is believed about the time.
type Clock struct {
	RTC    string // a path below /dev, or a chip: "ds3231"; empty: there is none
	RTCBus string // the I2C bus of the chip
	NTP    bool   // the kernel, where it says that its clock is disciplined
	SetRTC bool   // where NTP knows the time
	// SetSystemTime has the system's clock set from the RTC at the start.
	SetSystemTime bool
}

// Topic is one [topic."PATTERN"] table.
type Topic struct {
	Pattern string            // of the whole topic name: * stands for any run of characters
	Config  map[string]string // Kafka's topic settings; times in ms, sizes in bytes
}

// MQTT bounds the MQTT door.
type MQTT struct {
	Listeners         []string // "tcp://127.0.0.1:1883", tls:// ws:// wss:// too, "unix:///run/millrace/mqtt.sock"
	AllowAnonymous    bool     // at loopback and Unix sockets; elsewhere Broker.Insecure too
	MaxConnections    int      // 0: what memory.limit allows
	MaxConnectionRate int      // each listener, in a second; 0: any
	MaxSessions       int      // with or without a connection
	MQTTLimits
	ResponseInformation string // what response topics are built of; %c and %u stand for client identifier and user
	ConnectTimeout      time.Duration
	SocketMode          string         // of Unix sockets, octal
	Origins             []string       // hosts whose pages may use WebSocket beside the listener's own
	Places              []MQTTListener // with limits of their own, beside Listeners
	SysInterval         time.Duration  // between figures under $SYS; 0: none
	Routes              []Route        // in order, before the built-in "#" to topic "mqtt"
	Reverses            []Reverse      // in order, before the built-in ones
}

// MQTTListener is a listener of the MQTT door with limits of its own.
type MQTTListener struct {
	URL               string // as in MQTT.Listeners
	MaxConnections    int    // 0: only MQTT.MaxConnections bounds it
	MaxConnectionRate int    // -1: as MQTT.MaxConnectionRate; 0: any
	AllowAnonymous    string // "true", "false", or "" as MQTT.AllowAnonymous
	MQTTLimits               // -1: as in MQTT
	Line              int    // in the file, for messages
}

// MQTTLimits bound each client of the MQTT door, or of one of its listeners.
type MQTTLimits struct {
	MaxPacketSize       int // bytes
	ReceiveMaximum      int // unacknowledged publishes a client may have in flight
	MaxInflight         int // messages to a client it has not acknowledged
	MaxSubscriptions    int // of one session
	MaxTopicDepth       int // levels of a topic or filter
	MaxTopicAlias       int // topics a client may set a number for
	MaxTopicAliasBroker int // for how many topics a client is sent a number, at most
	MaxKeepAlive        int // seconds; 0: any, and none
}

// Route sends what matches an MQTT filter to a topic.
type Route struct {
	Filter    string            // "sensors/{site}/+/{kind}": captures in braces
	Topic     string            // "sensors.{kind}"
	Key       string            // "" is "{mqtt.topic}"
	Partition int32             // -1: by the key
	Headers   map[string]string // added to the record
	Line      int               // in the file, for messages
}

// Reverse names the MQTT topic of records that did not come over MQTT.
type Reverse struct {
	Topic     string // "sensors.{kind}": captures in braces
	MQTTTopic string // "sensors/{kafka.key}/{kind}"
	Line      int    // in the file, for messages
}

// HTTP is the door for plain HTTP: records, health and figures.
type HTTP struct {
	Listener       string // "127.0.0.1:8080", "https://0.0.0.0:8443"; empty: none
	Authentication string // "auto", "basic" or "none", see HTTPLogin
	MaxConnections int    // open at once
}

// Watchdog is what resets a board whose data path is dead, and how that is found out. With systemd's WatchdogSec the
// service manager is one more, fed without being named here.
type Watchdog struct {
	Device     string        // "/dev/watchdog"; "": none of ours
	Timeout    time.Duration // without a feed; 0: what the driver has
	Pretimeout time.Duration // before the reset, for the kernel to tell; 0: none
	GPIO       string        // the line an external one is kicked by; "": none
	Interval   time.Duration // between two canaries
	Deadline   time.Duration // for one canary
}

// Log bounds what the program says of itself.
type Log struct {
	Level       string            // "debug", "info", "warn" or "error"
	Components  map[string]string // levels of their own, by component
	MessageRate int               // lines a minute of one message of one component; 0: any
	WriteBudget int64             // bytes that are written in a day; 0: no limit
	Memory      int               // bytes of the last lines, kept for `millrace support`
}

// Levels are those of Log.
var Levels = []string{"debug", "info", "warn", "error"}

// Bus is one [[bus]].
type Bus struct {
	Name    string        // as the kernel has it: "I2C1"
	Timeout time.Duration // of one transfer
	Line    int           // in the file, for messages
}

// Sensor is one [[sensor]].
type Sensor struct {
	Name     string
	Driver   string
	Bus      string
	Address  uint16
	Every    time.Duration
	Topic    string
	Format   string             // "senml+json", "senml+cbor", "json" or "raw"
	Deadband map[string]float64 // by quantity: a smaller change is not recorded
	Line     int                // in the file, for messages
}

// FRAM is one [[fram]].
type FRAM struct {
	Name   string
	Bus    string // "SPI0.0"; a [[bus]] of that name sets its timeout
	Driver string
	Line   int // in the file, for messages
}

// BusTimeout is how long a transfer on a bus may take, where no [[bus]] says it.
const BusTimeout = 200 * time.Millisecond

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30

	second = time.Second
	minute = time.Minute
	hour   = time.Hour
	day    = 24 * time.Hour
)

// Default is what an empty file means. ClusterAlias is "{node}" unexpanded: Parse expands it.
func Default() *Config {
	c := &Config{
		Broker: Broker{
			NodeID: 1, ClusterAlias: "{node}", Listeners: []string{"PLAINTEXT://127.0.0.1:9092"},
			AdvertisedListeners: []string{}, LogDirs: "/var/lib/millrace",
			NumPartitions: 1, ReplicationFactor: 1, AutoCreateTopics: true, ProcessRoles: "broker,controller",
			MaxConnections: 1000, RequestMaxBytes: 100 * mib, FetchMaxBytes: 16 * mib, ConnectionsMaxIdle: 10 * minute,
			RetentionCheck: 5 * minute, ProducerExpiration: day,
			Mechanisms:   []string{"SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"},
			FailureDelay: 100 * time.Millisecond, ClientAuth: "none", MappingRules: []string{"DEFAULT"},
			SuperUsers: []string{"User:admin"}, Authorizer: "auto",
			GroupInitialDelay: 3 * second, GroupMinSession: 6 * second, GroupMaxSession: 30 * minute,
			GroupMaxSize: 1000, GroupMaxCount: 1000, GroupMaxOffsets: 10_000,
			OffsetsPartitions: 5, OffsetsRetention: 7 * day, OffsetsRetentionCheck: 10 * minute, OffsetMetadataMax: 4 * kib,
		},
		Journal: Journal{BytesMax: 32 * mib},
		Memory:  Memory{Limit: 48 * mib},
		Clock:   Clock{RTCBus: "I2C1", NTP: true, SetRTC: true},
		MQTT: MQTT{
			Listeners: []string{"tcp://127.0.0.1:1883"}, AllowAnonymous: true,
			MaxConnectionRate: 1000, MaxSessions: 10_000,
			MQTTLimits: MQTTLimits{
				MaxPacketSize: 1000 * kib, ReceiveMaximum: 64, MaxInflight: 64,
				MaxSubscriptions: 256, MaxTopicDepth: 64, MaxTopicAlias: 16, MaxTopicAliasBroker: 16,
			},
			ConnectTimeout: 10 * second, SysInterval: 10 * second, SocketMode: "0660", Origins: []string{},
		},
		HTTP:     HTTP{Listener: "127.0.0.1:8080", Authentication: "auto", MaxConnections: 64},
		Watchdog: Watchdog{Timeout: 15 * time.Second, Interval: 30 * time.Second, Deadline: 5 * time.Second},
		Log:      Log{Level: "info", MessageRate: 30, WriteBudget: 16 * mib, Memory: 128 * kib},
		Topics: []Topic{{Pattern: "*", Config: map[string]string{
			"retention.ms":    "604800000",
			"retention.bytes": "1073741824",
			"segment.bytes":   "16777216",
			"flush.messages":  "1",
			"full":            "reject",
		}}},
	}
	c.Flash = Flash{ReserveBytes: c.reserveFloor(), CommitIntervalMax: second}
	return c
}

func (c *Config) reserveFloor() int64 { return 2*c.Journal.BytesMax + 16*mib }
