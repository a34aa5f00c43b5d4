// Package api answers the Kafka requests that broker/wire lists: one file for each, named by its key, headed by what
// it promises. It holds no data of its own but fetch sessions and a block of producer ids; what is asked for lies in
// the catalog's image and in the partitions' logs.
package api

import (
	"context"
	"log/slog"
	"net"
	"strconv"
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/budget"
	"millrace/broker/catalog"
	"millrace/broker/group"
	"millrace/broker/partition"
	"millrace/broker/purgatory"
	"millrace/broker/segment"
	"millrace/broker/server"
	"millrace/broker/wire"
)

// Catalog is what the cluster agreed on, and how it agrees on more. *quorum.Quorum is the real one.
type Catalog interface {
	Image() *catalog.Image
	// Propose returns after the command was made durable and applied. The catalog's errors come back as they are.
	Propose(ctx context.Context, c catalog.Command) (*catalog.Image, error)
}

// Logs finds the logs this board holds. FromStore makes one of a *partition.Store.
type Logs interface {
	// Log is the log of a partition, nil when this board holds none.
	Log(id catalog.TopicID, index int32) Log
	// Offline says whether the board holds one that cannot be used, as Apache Kafka's brokers do after a disk failed.
	Offline(id catalog.TopicID, index int32) bool
}

// Log is one partition's replica. It is safe for concurrent use.
type Log interface {
	// Append takes one or more whole batches, which stay untouched by the caller until done was called, once.
	Append(batches []byte, o partition.AppendOptions, done func(partition.AppendResult))
	// Read returns whole batches from offset on, at least one if there is one below the high watermark. The caller
	// releases the span.
	Read(offset int64, maxBytes int) (wire.Span, error)
	// Start, High and End: the first offset, the high watermark and the next offset to be given.
	Start() int64
	High() int64
	End() int64
	// Epoch is the leader epoch.
	Epoch() int32
	// Size is the log's size in bytes.
	Size() int64
	// ListOffset finds an offset by time in milliseconds, or -1 the latest, -2 the earliest, -3 that of the greatest
	// timestamp; -1 when there is none.
	ListOffset(ms int64) (offset, timestamp int64, epoch int32, err error)
	// EpochEnd is the greatest epoch not above epoch and the offset after its last record, -1 and -1 if there is none.
	EpochEnd(epoch int32) (int32, int64)
	// DeleteRecords moves the start up to before, or to the high watermark where before is -1.
	DeleteRecords(before int64, done func(low int64, err error))
	// Producers are the idempotent producers it remembers, by id; ProducerCount is about how many there are.
	Producers() []segment.ProducerState
	ProducerCount() int
}

// Key is what an operation waits for: the advance of one partition, or the end of one produce request.
type Key struct {
	Topic     catalog.TopicID
	Partition int32
	// produce is the number of a waiting produce request; the rest is zero then.
	produce uint64
}

// Endpoint is an address clients are told.
type Endpoint struct {
	Host string
	Port int32
}

// Config is what a Handler needs. Everything but Ensure, Defaults, Static, Advertised, Usage, Answers and Logger is
// required; zero limits stand for the defaults named.
type Config struct {
	Catalog Catalog
	Logs    Logs
	Waits   *purgatory.Purgatory[Key]
	// Groups coordinates consumer groups. It runs until the server has closed.
	Groups *group.Coordinator
	// Ensure creates a topic with the defaults unless it exists, when `auto.create.topics.enable` says so; else its
	// error wraps catalog.ErrUnknownTopic. nil: topics are never created by asking.
	Ensure func(ctx context.Context, topic string) error
	// Defaults is what the configuration file says about topics now; nil: nothing. Static is what it says about this
	// broker.
	Defaults func() *catalog.Defaults
	Static   map[string]string

	ClusterID string
	NodeID    int32
	// Advertised is where clients are told this broker is, by the protocol they speak; none: the address they connected to.
	Advertised map[auth.Protocol]Endpoint
	// Mechanisms are `sasl.enabled.mechanisms`, MaxReauthMS is `connections.max.reauth.ms`. Damper slows guessing
	// down, by `connection.failed.authentication.delay.ms`; nil: it does not.
	Mechanisms []auth.Mechanism
	// Authorizer decides who may do what; nil: everybody everything.
	Authorizer  *auth.Authorizer
	MaxReauthMS int64
	Damper      *auth.Damper

	// LogDir is the data directory as DescribeLogDirs names it, and Usage its filesystem's total and free bytes.
	LogDir string
	Usage  func() (total, free int64, err error)

	// FetchMax is `fetch.max.bytes`: the most bytes of records in one response; default 16 MiB.
	FetchMax int
	// MetadataMax is `offset.metadata.max.bytes`, default 4096.
	MetadataMax int
	// Sessions is `max.incremental.fetch.session.cache.slots`, default 1000; SessionBytes the most memory the partitions
	// of all sessions may take, default 8 MiB.
	Sessions     int
	SessionBytes int64
	// Answers is where large answers come from; default: 4 MiB of their own.
	Answers *budget.Share
	// NowMS tells the time in milliseconds since any fixed instant, and never goes back: (*pulse.Pulse).Now.
	NowMS  func() int64
	Logger *slog.Logger
}

// Handler answers requests. It is safe for concurrent use.
type Handler struct {
	config   Config
	sessions *sessions
	log      *slog.Logger

	produce produceNumbers
	damper  *auth.Damper
	hush    hush
	// asked is told every permission that is asked for; only tests set it.
	asked func(permission)

	idMu sync.Mutex
	// idNext to idEnd are the producer ids of this broker's block that were not given out.
	idNext, idEnd int64
}

var _ server.Handler = (*Handler)(nil)

// New makes a Handler. It panics on a Config that lacks what is required.
func New(c Config) *Handler {
	if c.Catalog == nil || c.Logs == nil || c.Waits == nil || c.Groups == nil || c.NowMS == nil {
		panic("api: config without catalog, logs, waits, groups or clock")
	}
	if c.FetchMax <= 0 {
		c.FetchMax = 16 << 20
	}
	if c.MetadataMax <= 0 {
		c.MetadataMax = 4096
	}
	if c.Sessions <= 0 {
		c.Sessions = 1000
	}
	if c.SessionBytes <= 0 {
		c.SessionBytes = 8 << 20
	}
	if c.Answers == nil {
		share, err := budget.New(answersMax).Share("answers", answersMax)
		if err != nil {
			panic("api: " + err.Error())
		}
		c.Answers = share
	}
	if c.Defaults == nil {
		c.Defaults = func() *catalog.Defaults { return nil }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Damper == nil {
		c.Damper = auth.NewDamper(0)
	}
	return &Handler{config: c, sessions: newSessions(c.Sessions, c.SessionBytes, c.NowMS), log: c.Logger, damper: c.Damper}
}

// Advance completes what waited for a partition's high watermark, or its end, to move. It is quick enough for the
// goroutine that commits: answers are built and written by the connections.
func (h *Handler) Advance(topic catalog.TopicID, index int32) {
	h.config.Waits.Check(Key{Topic: topic, Partition: index})
}

// Serve implements server.Handler. Produce, Fetch and what members of groups ask reply when they are ready; everything
// else before Serve returns.
func (h *Handler) Serve(req *server.Request, reply func(server.Answer)) (cancel func() bool) {
	if h.expired(req) {
		reply(func() *wire.Response { return &wire.Response{Close: true} })
		return nil
	}
	var body kmsg.Response
	var room int64
	switch b := req.Body.(type) {
	case *kmsg.ProduceRequest:
		h.Produce(req, b, reply)
		return nil
	case *kmsg.FetchRequest:
		return h.Fetch(req, b, reply)
	case *kmsg.ApiVersionsRequest:
		reply(answer(apiVersions(req.Header, b)))
		return nil
	case *kmsg.SASLHandshakeRequest:
		reply(h.SaslHandshake(req, b))
		return nil
	case *kmsg.SASLAuthenticateRequest:
		reply(h.SaslAuthenticate(req, b))
		return nil
	case *kmsg.DescribeACLsRequest:
		room, body = h.DescribeAcls(req, b)
	case *kmsg.DeleteACLsRequest:
		room, body = h.DeleteAcls(req, b)
	case *kmsg.DescribeUserSCRAMCredentialsRequest:
		room, body = h.DescribeUserScramCredentials(req, b)
	case *kmsg.DescribeProducersRequest:
		room, body = h.DescribeProducers(req, b)
	case *kmsg.OffsetCommitRequest:
		h.OffsetCommit(req, b, reply)
		return nil
	case *kmsg.JoinGroupRequest:
		return h.JoinGroup(req, b, reply)
	case *kmsg.HeartbeatRequest:
		h.Heartbeat(req, b, reply)
		return nil
	case *kmsg.LeaveGroupRequest:
		h.LeaveGroup(req, b, reply)
		return nil
	case *kmsg.SyncGroupRequest:
		return h.SyncGroup(req, b, reply)
	case *kmsg.OffsetFetchRequest:
		room, body = h.OffsetFetch(req, b)
	case *kmsg.DescribeGroupsRequest:
		room, body = h.DescribeGroups(req, b)
	case *kmsg.ListGroupsRequest:
		room, body = h.ListGroups(req, b)
	case *kmsg.MetadataRequest:
		room, body = h.Metadata(req, b)
	case *kmsg.CreateTopicsRequest:
		room, body = h.CreateTopics(req, b)
	case *kmsg.DescribeConfigsRequest:
		room, body = h.DescribeConfigs(req, b)
	case *kmsg.DescribeLogDirsRequest:
		room, body = h.DescribeLogDirs(req, b)
	case *kmsg.DescribeTopicPartitionsRequest:
		room, body = h.DescribeTopicPartitions(req, b)
	default:
		var err error
		if room, err = h.room(req.Context, answerGrowth*req.Size); err == nil {
			body = h.small(req)
		}
	}
	if body == nil { // no room for the answer before the server closed
		reply(func() *wire.Response { return &wire.Response{Close: true} })
		return nil
	}
	r := h.withRoom(wire.Encode(req.Header, body), room)
	reply(func() *wire.Response { return r })
	return nil
}

// answerGrowth is by how much the answer to a request that small answers is larger than the request at most, roughly.
const answerGrowth = 16

// small answers requests whose answer is bounded by the request.
func (h *Handler) small(req *server.Request) kmsg.Response {
	switch b := req.Body.(type) {
	case *kmsg.ListOffsetsRequest:
		return h.ListOffsets(req, b)
	case *kmsg.DeleteTopicsRequest:
		return h.DeleteTopics(req, b)
	case *kmsg.DeleteRecordsRequest:
		return h.DeleteRecords(req, b)
	case *kmsg.InitProducerIDRequest:
		return h.InitProducerID(req, b)
	case *kmsg.OffsetForLeaderEpochRequest:
		return h.OffsetForLeaderEpoch(req, b)
	case *kmsg.AlterConfigsRequest:
		return h.AlterConfigs(req, b)
	case *kmsg.CreatePartitionsRequest:
		return h.CreatePartitions(req, b)
	case *kmsg.IncrementalAlterConfigsRequest:
		return h.IncrementalAlterConfigs(req, b)
	case *kmsg.CreateACLsRequest:
		return h.CreateAcls(req, b)
	case *kmsg.AlterUserSCRAMCredentialsRequest:
		return h.AlterUserScramCredentials(req, b)
	case *kmsg.FindCoordinatorRequest:
		return h.FindCoordinator(req, b)
	case *kmsg.DeleteGroupsRequest:
		return h.DeleteGroups(req, b)
	case *kmsg.OffsetDeleteRequest:
		return h.OffsetDelete(req, b)
	case *kmsg.DescribeClientQuotasRequest:
		return h.DescribeClientQuotas(req, b)
	case *kmsg.DescribeClusterRequest:
		return h.DescribeCluster(req, b)
	}
	return nil
}

// withRoom gives room back when the response was written, or could not be.
func (h *Handler) withRoom(r *wire.Response, room int64) *wire.Response {
	if room > 0 {
		r.Then = func() { h.config.Answers.Release(room) }
	}
	return r
}

func answer(h wire.Header, body kmsg.Response) server.Answer {
	return func() *wire.Response { return wire.Encode(h, body) }
}

// answersMax is the default size of Config.Answers, in bytes.
const answersMax = 4 << 20

// smallAnswer is what an answer may take, in bytes, without asking for room.
const smallAnswer = 16 << 10

// room waits until an answer of about n bytes may be built, and returns what is to be released after it was written:
// ten clients that describe everything at once are served one after the other. It is an error when the server closes.
func (h *Handler) room(ctx context.Context, n int) (int64, error) {
	if n <= smallAnswer {
		return 0, nil
	}
	taken := min(int64(n), h.config.Answers.Size())
	return taken, h.config.Answers.Acquire(ctx, taken)
}

// endpoint is where the client of req is told a broker is.
func (h *Handler) endpoint(req *server.Request, b catalog.Broker) Endpoint {
	if b.ID != h.config.NodeID {
		return Endpoint{b.Host, b.Port}
	}
	if e, ok := h.config.Advertised[peerOf(req).Protocol]; ok {
		return e
	}
	if req.Local != nil {
		host, port, err := net.SplitHostPort(req.Local.String())
		if n, bad := strconv.ParseUint(port, 10, 16); err == nil && bad == nil {
			return Endpoint{host, int32(n)}
		}
	}
	return Endpoint{b.Host, b.Port}
}

// setting is the value of a broker setting as a number.
func (h *Handler) setting(img *catalog.Image, name string) int {
	for _, e := range catalog.DescribeBroker(img.BrokerConfig(h.config.NodeID), img.BrokerConfig(catalog.AllBrokers), h.config.Static) {
		if e.Setting.Name == name {
			n, err := strconv.Atoi(e.Value)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}

// noOperations says that nobody asked which operations are allowed (Kafka's MIN_VALUE).
const noOperations = -1 << 31

func text(s string) *string { return &s }

func textOrNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
