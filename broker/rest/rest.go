// Package rest is the HTTP door: records of a topic are written and read with nothing but HTTP and JSON. It appends to
// and reads from the same logs as every other door, asks the same users, passwords, certificates and ACLs, and takes the
// memory of requests and answers from the same shares. README.md says what clients meet, openapi.json says it to
// programs.
//
// Everything is bounded: connections, requests that are answered at once, the bytes of a body (taken from a budget before
// it is read), its records, its depth, the bytes of an answer (rendered whole in memory of a budget before the first is
// sent, so that nothing of the log is held for a slow reader), and the time a peer may take for each.
package rest

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"millrace/broker/auth"
	"millrace/broker/budget"
	"millrace/broker/catalog"
	"millrace/broker/partition"
	"millrace/broker/purgatory"
)

// Board is the broker as the door needs it. Its methods are safe for concurrent use.
type Board interface {
	// Image is the catalog as it is now.
	Image() *catalog.Image
	// Get is a partition this board holds, nil when it holds none that can be used; Offline says why not.
	Get(id catalog.TopicID, index int32) *partition.Partition
	Offline(id catalog.TopicID, index int32) error
	// Ensure creates a topic unless it exists, where topics are created by asking; else its error wraps
	// catalog.ErrUnknownTopic.
	Ensure(ctx context.Context, topic string) error
	// Watch parks op until it is ready, which it is asked whenever the partition's high watermark has moved, or until waitMS
	// milliseconds have passed. cancel reports whether op was still waiting. The errors are the purgatory's.
	Watch(op purgatory.Op, id catalog.TopicID, index int32, waitMS int64) (cancel func() bool, err error)
}

// Config is what a Server needs, and its limits. Zero limits stand for the defaults named.
type Config struct {
	Board  Board
	NodeID int32
	// Code is Kafka's code for an error: (api).CodeOf.
	Code func(error) int16

	// Login has everybody asked who they are who did not show a certificate (HTTP Basic); else they are User:ANONYMOUS.
	Login bool
	// Users are who may log in, Damper slows guessing down; needed with Login.
	Users  auth.Users
	Damper *auth.Damper
	// NowMS is the Damper's clock, in milliseconds since any fixed instant; needed with Login.
	NowMS func() int64
	// Principal is who the holder of a verified certificate is; nil: nobody in particular.
	Principal func(*x509.Certificate) (auth.Principal, error)
	// Authorizer decides who may do what; nil: everybody everything.
	Authorizer *auth.Authorizer

	// Memory is where the memory of requests and answers comes from, Connections that of connections (nil: not bounded).
	Memory, Connections *budget.Share
	// MaxConnections is how many may be open; default 64. A few of them are kept for what is not records.
	MaxConnections int
	// MaxWaiting is how many requests may wait for records at once, each holding WaitCost of what Board.Watch has; default:
	// all that may be answered at once.
	MaxWaiting int
	// Stall is how long a peer may neither send nor take bytes that are due; default 10 s.
	Stall time.Duration
	// Commit is how long records may take to become durable before that is told; default 30 s.
	Commit time.Duration

	Logger *slog.Logger
}

const (
	// kept are connections that requests for records leave to health and figures.
	kept = 4
	// transferMax bounds how long a body, or an answer, may be on its way, in stalls.
	transferMax = 6
)

// Server is the door. It is safe for concurrent use.
type Server struct {
	config Config
	log    *slog.Logger
	mux    *http.ServeMux
	http   *http.Server
	room   *room
	logins *logins
	// operations are what Handle was told, "GET, HEAD /metrics".
	operations []string

	// slots holds one for each request for records that is being answered.
	slots chan struct{}
	// turn spreads records without a key over partitions, a request at a time.
	turn atomic.Uint32
	// closing is closed when nothing waits for records any more.
	closing chan struct{}
	// working counts what waits at its end.
	working sync.WaitGroup
	// refused counts connections closed for being too many.
	refused atomic.Int64
	// complained is when complain last wrote a line, in seconds, and silent how many it did not write since.
	complained, silent atomic.Int64
	// waits holds one for each request that waits for records.
	waits chan struct{}

	mu     sync.Mutex
	closed bool
	open   int // connections
	idle   map[*conn]struct{}
}

// New makes a server that listens nowhere yet. It panics on a Config that lacks what is required.
func New(c Config) *Server {
	if c.Board == nil || c.Code == nil || c.Memory == nil || c.Login && (c.Users == nil || c.Damper == nil || c.NowMS == nil) {
		panic("rest: config without board, codes, budgets or users")
	}
	if c.MaxConnections <= 0 {
		c.MaxConnections = 64
	}
	if c.MaxWaiting <= 0 {
		c.MaxWaiting = c.MaxConnections
	}
	if c.Stall <= 0 {
		c.Stall = 10 * time.Second
	}
	if c.Commit <= 0 {
		c.Commit = 30 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		config: c, log: c.Logger, mux: http.NewServeMux(),
		room: newRoom(c.Memory), logins: newLogins(),
		slots: make(chan struct{}, max(1, c.MaxConnections-kept)), waits: make(chan struct{}, c.MaxWaiting), closing: make(chan struct{}), idle: make(map[*conn]struct{}),
	}
	s.http = s.newHTTP()
	s.Handle("/topics/{topic}/records", map[string]http.HandlerFunc{http.MethodGet: s.records(s.fetch), http.MethodPost: s.records(s.produce)})
	s.Handle("/openapi.json", map[string]http.HandlerFunc{http.MethodGet: s.openAPI})
	s.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		s.fail(w, bad(http.StatusNotFound, "there is nothing at this path; /openapi.json lists what there is"))
	})
	return s
}

// Handle adds a path, before Serve. Methods that are not among its handlers are answered with those that are.
func (s *Server) Handle(path string, methods map[string]http.HandlerFunc) {
	s.operations = append(s.operations, allow(methods)+" "+path)
	s.mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		method := r.Method
		if method == http.MethodHead {
			method = http.MethodGet
		}
		if h, ok := methods[method]; ok {
			h(w, r)
			return
		}
		w.Header().Set("Allow", allow(methods))
		s.fail(w, bad(http.StatusMethodNotAllowed, "%.20q is not among the methods of this path: %s", r.Method, allow(methods)))
	})
}

func allow(methods map[string]http.HandlerFunc) (list string) {
	for _, m := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
		if _, ok := methods[m]; ok || m == http.MethodHead && methods[http.MethodGet] != nil {
			if list != "" {
				list += ", "
			}
			list += m
		}
	}
	return list
}

// Guard has a handler served only to who may do op to r.
func (s *Server) Guard(op auth.Operation, r auth.Resource, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		session, err := s.who(req)
		if err == nil && !s.config.Authorizer.Allowed(session, op, r) {
			err = &fault{status: http.StatusForbidden, code: codeClusterAuthorization, text: "not authorized for the cluster"}
		}
		if err != nil {
			s.fail(w, err)
			return
		}
		next(w, req)
	}
}

// Operations are the paths that are served, each behind its methods: "GET, HEAD /healthz".
func (s *Server) Operations() []string { return slices.Clone(s.operations) }

// Refused is the number of connections closed for being too many, since the start.
func (s *Server) Refused() int64 { return s.refused.Load() }

// Connections is the number of open connections.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

// records is the frame around what is done with a topic: a place among those that are answered, and who is there.
func (s *Server) records(serve func(http.ResponseWriter, *http.Request, *auth.Session) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case s.slots <- struct{}{}:
		default:
			s.fail(w, &fault{status: http.StatusServiceUnavailable, code: codeBrokerNotAvailable, text: "too many requests are being answered"})
			return
		}
		defer func() { <-s.slots }()
		if !s.work() {
			s.fail(w, &fault{status: http.StatusServiceUnavailable, code: codeBrokerNotAvailable, text: "the board is stopping"})
			return
		}
		defer s.working.Done()
		session, err := s.who(r)
		if err == nil {
			err = serve(w, r, session)
		}
		if err != nil {
			s.fail(w, err)
		}
	}
}
