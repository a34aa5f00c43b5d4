// Package mqtt is the MQTT door: 3.1.1 and 5 on the log. A publish becomes a record and is acknowledged when it is
// durable; a session is a cursor over the log, not a queue. README.md says what is there and what is not.
package mqtt

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"millrace/bridge/route"
	"millrace/broker/auth"
	"millrace/broker/poll"
)

// Config is all a Server is made of. Zero values mean what the comments say.
type Config struct {
	Log    Log              // required
	Router *route.Router    // nil: the default rules
	Logger *slog.Logger     // nil: discarded
	Now    func() time.Time // nil: time.Now
	Clock  Clock            // nil: one that believes Now
	// After calls f in its own goroutine after d, unless stopped before. nil: time.AfterFunc.
	After func(d time.Duration, f func()) (stop func() bool)
	// Poller is where connections wait without a goroutine that have been silent for Silence, 0: 200 ms. nil: each keeps
	// its own.
	Poller  *poll.Poller
	Silence time.Duration
	// What all connections together may hold, in bytes; nil: only the limits of each bound it. Connections are the
	// connections themselves, one without room is closed at once. Inflight are publishes
	// not yet durable, Reading packets over 64 KiB that are still arriving and ReadingSmall those from 4 KiB to there,
	// Output what waits to be written, and State what is remembered: sessions, subscriptions, wills and the index of
	// retained messages.
	Connections, Inflight, Reading, ReadingSmall, Output, State Budget

	// Who may come in, and what they may do. Without Users nobody can log in, and passwords are not
	// looked at; without an Authorizer everything is allowed.
	Users      auth.Users
	Mechanisms []auth.Mechanism                                // that enhanced authentication may use; of these only SCRAM
	Damper     *auth.Damper                                    // nil: failed logins are answered at once
	Principal  func(*x509.Certificate) (auth.Principal, error) // nil: a certificate says nothing
	Authorizer *auth.Authorizer

	AllowAnonymous  bool // of ServeConn and listeners that are no *Listener
	MaxConnections  int  // 0: as many as Connections has room for
	MaxSessions     int  // with or without a connection; 0: 10000
	MaxGroups       int  // shared subscriptions that differ; 0: 1000
	MaxGroupMembers int  // of one of them, connected or not; 0: 1000
	MaxTopicBytes   int  // of a topic or filter; 0: 1024
	MaxOutput       int  // bytes waiting for one connection before it falls behind on the log; 0: 64 KiB
	Limits               // of each client
	// ResponseInformation is what a client that asks for it is told to build its response topics of, with its client
	// identifier in the place of %c and its user in that of %u; empty: nothing.
	ResponseInformation string
	ConnectTimeout      time.Duration // for CONNECT to arrive; 0: 10 s
	CheckpointInterval  time.Duration // between lazy writes of moved cursors; 0: 1 min
	SysInterval         time.Duration // between new figures under $SYS; 0: 10 s; negative: there are none
	Version             string        // of the program, for $SYS; empty: unknown
	Scans               int           // catch-up readers; 0: 2
}

func (c *Config) fill() error {
	if c.Log == nil {
		return errors.New("mqtt: no log")
	}
	if c.Router == nil {
		r, err := route.New(nil, nil)
		if err != nil {
			return err
		}
		c.Router = r
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Clock == nil {
		c.Clock = believer{c.Now}
	}
	if c.After == nil {
		c.After = func(d time.Duration, f func()) func() bool { return time.AfterFunc(d, f).Stop }
	}
	for _, b := range []*Budget{&c.Connections, &c.Inflight, &c.Reading, &c.ReadingSmall, &c.Output, &c.State} {
		if *b == nil {
			*b = unlimited{}
		}
	}
	for _, b := range []bound{
		{&c.MaxConnections, 1 << 20, 1, 1 << 20, "max_connections"},
		{&c.MaxSessions, 10_000, 1, 1 << 24, "max_sessions"},
		{&c.MaxGroups, 1000, 1, 1 << 20, "max_groups"},
		{&c.MaxGroupMembers, 1000, 1, 1 << 20, "max_group_members"},
		{&c.MaxTopicBytes, 1024, 1, 65535, "max_topic_bytes"}, // [MQTT-4.7.3-3]
		{&c.MaxOutput, 64 << 10, 1024, 1 << 30, "max_output"},
		{&c.Scans, 2, 1, 64, "scans"},
	} {
		if err := b.fill(); err != nil {
			return err
		}
	}
	if err := c.Limits.fill(Limits{
		MaxPacketSize: 1000 << 10, MaxSubscriptions: 256, MaxTopicLevels: 64, ReceiveMaximum: 64, MaxInflight: 64, MaxKeepAlive: -1,
		TopicAliases: 16, TopicAliasesBroker: 16,
	}); err != nil {
		return err
	}
	if c.ConnectTimeout <= 0 {
		c.ConnectTimeout = 10 * time.Second
	}
	if c.Silence <= 0 {
		c.Silence = 200 * time.Millisecond
	}
	if c.SysInterval == 0 {
		c.SysInterval = 10 * time.Second
	}
	if c.Version == "" {
		c.Version = "unknown"
	}
	if c.CheckpointInterval <= 0 {
		c.CheckpointInterval = time.Minute
	}
	return nil
}

// Server is the door. Its methods are safe for concurrent use.
type Server struct {
	cfg    Config
	log    *slog.Logger
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup // every connection, every other goroutine and every append on its way

	mu        sync.Mutex // guards what follows; held for map work only
	closed    bool
	closing   chan struct{} // closed with closed
	listeners map[net.Listener]struct{}
	clients   map[*client]struct{}

	// life serialises attaching, detaching and expiring sessions. Lock order: life, stream.mu, group.mu, session.mu,
	// index.mu, output.mu.
	life     sync.Mutex
	sessions map[string]*session // but those that rest
	resting  resting
	awake    int64             // of the State budget, what sessions hold
	groups   map[string]*group // by the whole filter

	creating sync.Mutex // one topic is made at a time; taken after life

	loading sync.Mutex  // one ready at a time; taken before life
	loaded  atomic.Bool // sessions and retained messages are known

	shaking chan struct{} // holds one while a TLS handshake is computed
	outlets outlets
	// arriving are packets over 64 KiB, and those from 4 KiB to there, that are not whole; reading are the clients that
	// hold memory for one. Both are of large.go.
	arriving  [2]arrivals
	readingMu sync.Mutex
	reading   map[*client]struct{}

	// complained is when complain last wrote a line, in seconds, silent how many it did not write since.
	complained, silent atomic.Int64

	traffic   traffic
	sys       *sys
	index     *index
	streams   *streams
	store     *store
	wills     wills
	retained  *retained
	deadlines *deadlines
}

// New makes a server and loads the sessions and retained messages the log holds. Close ends it.
func New(cfg Config) (*Server, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, log: cfg.Logger,
		closing:   make(chan struct{}),
		shaking:   make(chan struct{}, 1),
		listeners: make(map[net.Listener]struct{}),
		clients:   make(map[*client]struct{}),
		reading:   make(map[*client]struct{}),
		sessions:  make(map[string]*session),
		groups:    make(map[string]*group),
		index:     newIndex(cfg.Router),
	}
	s.arriving[0].budget, s.arriving[1].budget = cfg.Reading, cfg.ReadingSmall
	s.outlets.size = cfg.Output.Size()
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.deadlines = newDeadlines(s.cfg.Now, s.cfg.After)
	s.resting = resting{s: s, all: make(map[string]string), begun: s.cfg.Now()}
	s.sys = &sys{s: s, begun: s.cfg.Now()}
	s.index.sysAdded = s.sys.arm
	s.streams = newStreams(s)
	s.store = &store{s: s, groups: groupRecords{there: make(map[string]*group)}}
	s.store.tables.start(s.store)
	s.wills = wills{s: s, waiting: make(map[string]*will)}
	s.retained = &retained{s: s, byTopic: make(map[string]int)}
	if err := s.ready(); err != nil {
		s.log.Error("mqtt: sessions cannot be read; nobody is let in until they can", "error", err)
	}
	s.checkpointLater()
	return s, nil
}

// ready loads the door's state, the first time it can be: a client that was let in without it would be told that it has
// no session, and miss what its session was promised. A session has positions in any topic.
func (s *Server) ready() error {
	if s.loaded.Load() {
		return nil
	}
	s.loading.Lock()
	defer s.loading.Unlock()
	if s.loaded.Load() {
		return nil
	}
	if names := s.cfg.Log.Offline(); len(names) > 0 {
		return fmt.Errorf("%d partitions cannot be used, of them %s", len(names), names[0])
	}
	if err := errors.Join(s.retained.load(), s.store.load()); err != nil {
		return err
	}
	s.loaded.Store(true)
	return nil
}

// complain logs what a peer did or met, one line a second at most: whoever repeats it must not fill the log, which lies on
// the same flash as the data, nor hold up the commit that calls this.
func (s *Server) complain(what string, args ...any) {
	now, last := s.cfg.Now().Unix(), s.complained.Load()
	if now == last || !s.complained.CompareAndSwap(last, now) {
		s.silent.Add(1)
		return
	}
	s.log.Warn(what, append(args, "unlogged", s.silent.Swap(0))...)
}
