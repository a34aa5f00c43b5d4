// Package upstream copies records of chosen local topics into an Apache Kafka, each exactly once and in order, over links
// that are thin, and away for days. A Link is one way to one cluster. The log is the queue: a link holds cursors, never a
// backlog, and its cursors lie with the records, in the same transactions, on the other side.
//
// platform/adr/0026-exactly-once-upstream.md has the argument, README.md the promise.
package upstream

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// Delivery is what a link promises.
type Delivery int

const (
	// ExactlyOnce is transactions that hold the cursors.
	ExactlyOnce Delivery = iota
	// AtLeastOnce is an idempotent producer whose cursors follow the records: a cut may repeat what was in flight.
	AtLeastOnce
)

// Order is what a link sends first when it is behind.
type Order int

const (
	// OldestFirst is one lane, in the order of the log.
	OldestFirst Order = iota
	// LiveFirst leaves what has piled up to a second lane.
	LiveFirst
)

// Lane is one of a link's streams of transactions. In a partition, records are in order within a lane.
type Lane int

const (
	// Live is the lane of what is written now, and the only one of OldestFirst.
	Live Lane = iota
	// Backfill is the lane of what has piled up.
	Backfill
	lanes
)

var laneNames = [lanes]string{Live: "live", Backfill: "backfill"}

// String is the lane's name in cursors, transactional ids and headers.
func (l Lane) String() string { return laneNames[l] }

// The headers that records may get on the way.
const (
	// HeaderClock is "unsure" on a record whose time was never known: its timestamp is a lower bound.
	HeaderClock = "millrace.clock"
	// HeaderLane is the lane a record came by, with LiveFirst; what that has left over has it with any order.
	HeaderLane = "millrace.lane"
	// HeaderBoard, HeaderTopic, HeaderPartition and HeaderOffset say where a record comes from, with Provenance.
	HeaderBoard     = "millrace.board"
	HeaderTopic     = "millrace.topic"
	HeaderPartition = "millrace.partition"
	HeaderOffset    = "millrace.offset"
	// HeaderCluster is the cluster id of the Kafka a record came down from: it does not go up there again.
	HeaderCluster = "millrace.cluster"
)

// Config is one link. The zero value of what is not required is its default.
type Config struct {
	// Name tells the links of a board apart. Required; it is part of transactional ids and cursors: a link with another
	// name starts from the beginning.
	Name string
	// Board is the board's cluster id. Required; see Name.
	Board string
	// Alias is the {cluster} of Naming, by default Board.
	Alias string
	// Topics are patterns of local topics, in which * stands for any characters. Required. Topics that begin with "__"
	// are chosen only where they are named exactly.
	Topics []string
	// Exclude are patterns of topics that do not go up although Topics has them: what a down link made.
	Exclude []string
	// Naming is what a topic is called upstream: "{topic}", the default, or MirrorMaker's "{cluster}.{topic}".
	Naming string
	// Delivery is what is promised.
	Delivery Delivery
	// Order is what goes first.
	Order Order
	// Provenance adds the headers that say where a record comes from. Mark adds the one that says from which board, so that a
	// link that goes down does not bring it back.
	Provenance, Mark bool
	// CursorTopic and GapTopic are upstream; by default "__millrace_cursors" and "__millrace_gaps".
	CursorTopic, GapTopic string
	// TransactionBytes is the most a transaction holds, in bytes of keys, values and headers: 512 KiB by default, and
	// at least one record.
	TransactionBytes int
	// TransactionTimeout is how long the peer waits for the end of a transaction, 60 s by default. A link gives up before.
	TransactionTimeout time.Duration
	// Linger is how long a link that was not behind gathers records before a transaction that they do not fill, 200 ms by default; none
	// when it is negative.
	Linger time.Duration
	// LiveShare is the part of the bytes the live lane gets while both have something to send, 0.7 by default.
	LiveShare float64
	// LiveBehind is how far behind, in time to catch up, the live lane leaves the rest to the other one, 10 s by default.
	LiveBehind time.Duration
	// UpstreamPartitions is how many partitions a topic has upstream at least; 0, the default: as many as the local one.
	UpstreamPartitions int32
	// Groups are patterns of consumer groups of the board whose offsets are committed upstream, translated; GroupsExclude are
	// taken out of them. Groups that begin with "__" are followed only where they are named exactly. None by default; not
	// with LiveFirst, where records are in no one order.
	Groups, GroupsExclude []string
	// GroupsInterval is how often, 60 s by default.
	GroupsInterval time.Duration
	// Heartbeats is how often the link writes one of MirrorMaker's into "<alias>.heartbeats", so that its tools see the board; 0: never.
	Heartbeats time.Duration
	// FollowSettings has the settings of topics that the link has made follow those of the board. ExcludeSettings are patterns
	// of those that are not carried, neither then nor when the topic is made.
	FollowSettings  bool
	ExcludeSettings []string
	// Partitions is the most partitions a link carries, 4096 by default. Those beyond are left out, and status says so.
	Partitions int
}

// The defaults and limits of a Config.
const (
	DefaultCursorTopic        = "__millrace_cursors"
	DefaultGapTopic           = "__millrace_gaps"
	defaultTransactionBytes   = 512 << 10
	leastTransactionBytes     = 64 << 10
	defaultTransactionTimeout = 60 * time.Second
	defaultLinger             = 200 * time.Millisecond
	defaultLiveShare          = 0.7
	defaultLiveBehind         = 10 * time.Second
	defaultPartitions         = 4096
)

// ErrConfig is returned by New for a link that cannot be.
var ErrConfig = errors.New("link cannot be made")

// whole is the configuration with its defaults filled in.
func (c Config) whole() (Config, error) {
	switch {
	case c.Name == "" || c.Board == "":
		return c, fmt.Errorf("%w: it needs a name and the board's cluster id", ErrConfig)
	case len(c.Topics) == 0:
		return c, fmt.Errorf("%w: %s names no topics", ErrConfig, c.Name)
	case c.TransactionBytes < 0 || c.TransactionTimeout < 0 || c.LiveShare < 0 || c.LiveShare >= 1 || c.Partitions < 0 || c.Heartbeats < 0 || c.GroupsInterval < 0:
		return c, fmt.Errorf("%w: %s has a limit below 0, or a share of 1 and more", ErrConfig, c.Name)
	}
	if len(c.Groups) > 0 && c.Order == LiveFirst {
		return c, fmt.Errorf("%w: %s follows groups, for which records have to be in one order: that is not live first", ErrConfig, c.Name)
	}
	c.Alias = or(c.Alias, c.Board)
	c.Naming = or(c.Naming, "{topic}")
	if !strings.Contains(c.Naming, "{topic}") {
		return c, fmt.Errorf("%w: the naming %q of %s has no {topic}", ErrConfig, c.Naming, c.Name)
	}
	c.CursorTopic = or(c.CursorTopic, DefaultCursorTopic)
	c.GapTopic = or(c.GapTopic, DefaultGapTopic)
	c.TransactionBytes = or(c.TransactionBytes, defaultTransactionBytes)
	c.TransactionTimeout = or(c.TransactionTimeout, defaultTransactionTimeout)
	c.Linger = max(0, or(c.Linger, defaultLinger))
	c.LiveShare = or(c.LiveShare, defaultLiveShare)
	c.GroupsInterval = or(c.GroupsInterval, defaultGroupsInterval)
	c.LiveBehind = or(c.LiveBehind, defaultLiveBehind)
	c.Partitions = or(c.Partitions, defaultPartitions)
	return c, nil
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// transactionalID is the name a lane's producer goes by.
func (c *Config) transactionalID(l Lane) string {
	return "millrace-" + c.Board + "-" + c.Name + "-" + l.String()
}

// Env is what a link works with. Log, Clock and Remote are required.
type Env struct {
	Log       Log
	Clock     Clock
	Remote    Remote
	Scheduler Scheduler    // nil: every topic is of one class, and nothing is held back
	Backoff   Backoff      // nil: from 1 s to 60 s, doubled, with jitter
	Budget    Budget       // nil: bytes are not counted
	Memory    Memory       // nil: what was delivered is known when the cursors are read
	Hint      Memory       // nil: all cursors are read when the link connects first; it may be lost, or old
	Groups    Groups       // nil: none are followed
	Logger    *slog.Logger // nil: slog.Default()
}
