package rest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"millrace/broker/auth"
	"millrace/broker/budget"
	"millrace/broker/catalog"
	"millrace/broker/disk"
	"millrace/broker/partition"
	"millrace/broker/partition/partitiontest"
	"millrace/broker/purgatory"
	"millrace/broker/record"
	"millrace/platform/pulse"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const node = 1

// Errors of boards in tests, and their codes.
var errStrange = errors.New("nobody foresaw this")

func codeFor(err error) int16 {
	for _, known := range []struct {
		err  error
		code int16
	}{
		{partition.ErrDiskFull, 56},
		{partition.ErrTooLarge, 10},
		{partition.ErrInvalidTimestamp, 32},
		{partition.ErrNotLeader, 6},
		{partition.ErrOffline, 56},
		{record.ErrInvalid, 87},
		{record.ErrCorrupt, 2},
		{catalog.ErrUnknownTopic, 3},
		{catalog.ErrUnknownPartition, 3},
		{catalog.ErrInvalidTopic, 17},
		{auth.ErrAuthentication, 58},
		{purgatory.ErrFull, 7},
		{context.Canceled, 8},
	} {
		if errors.Is(err, known.err) {
			return known.code
		}
	}
	return -1
}

type place struct {
	topic catalog.TopicID
	index int32
}

// world is a door before real partitions, whose journal is a fake. Its network is in memory, so that a test may have the
// time of its own.
type world struct {
	t      testing.TB
	logs   *partitiontest.World
	Config Config // changed by tests before open
	server *Server
	pulse  *pulse.Pulse
	waits  *purgatory.Purgatory[place]
	shares *budget.Budget
	client *http.Client
	dial   func() (net.Conn, error)
	// look is told every answer.
	look func(method, url string, a reply)

	mu     sync.Mutex
	img    *catalog.Image
	refuse error // of Ensure
	lost   map[place]error
}

// begin is a world with nothing running yet.
func begin(t testing.TB) *world {
	w := &world{t: t, logs: partitiontest.New(t), img: &catalog.Image{}, lost: make(map[place]error), shares: budget.New(8 << 20)}
	share := func(name string, size int64) *budget.Share {
		s, err := w.shares.Share(name, size)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	w.Config = Config{
		Board: w, NodeID: node, Code: codeFor, Memory: share("http", 4<<20), Connections: share("connections", 4<<20),
		NowMS: func() int64 { return time.Now().UnixMilli() },
	}
	return w
}

// open starts the door. When the test ends nothing of the budget is taken any more.
func (w *world) open() *world {
	w.t.Helper()
	w.pulse = pulse.New(time.Now)
	w.waits = purgatory.New[place](purgatory.Config{Ops: 16, Keys: 16, Cost: 15 * WaitCost, NowMS: w.pulse.Now, Wake: w.pulse.Wake})
	w.pulse.Register(w.waits)
	w.logs.Config.OnAdvance = func(p *partition.Partition) { w.waits.Check(place{p.TopicID(), p.Index()}) }
	w.logs.Start()
	w.apply(catalog.RegisterBroker{ID: node, Host: "board", Port: 9092})
	w.server = New(w.Config)
	pipes := newPipes()
	w.dial = pipes.dial
	served := make(chan error, 1)
	go func() { served <- w.server.Serve(pipes, nil) }()
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return pipes.dial() }}
	w.client = &http.Client{Transport: transport}
	w.t.Cleanup(func() {
		transport.CloseIdleConnections()
		if err := errors.Join(w.server.Close(), <-served); err != nil {
			w.t.Error(err)
		}
		w.waits.Close()
		w.pulse.Close()
		if n := w.server.Connections(); n != 0 {
			w.t.Errorf("%d connections are open", n)
		}
		for _, g := range w.shares.Gauges() {
			if g.Used != 0 {
				w.t.Errorf("%d bytes of %s are not given back", g.Used, g.Name)
			}
		}
	})
	return w
}

func (w *world) apply(c catalog.Command) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	next, err := catalog.Apply(w.img, c)
	if err != nil {
		w.t.Fatal(err)
	}
	w.img = next
}

// topic makes a topic with the settings that logs.Topic has.
func (w *world) topic(name string, partitions int) {
	w.t.Helper()
	if err := w.create(name, partitions); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) create(name string, partitions int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	c, err := catalog.NewTopic(w.img, name, partitiontest.ID(name), partitions, 1, nil)
	if err != nil {
		return err
	}
	next, err := catalog.Apply(w.img, c)
	if err != nil {
		return err
	}
	t := partition.Topic{ID: c.ID, Name: name}
	w.logs.Catalog[t.ID] = t
	for i := range partitions {
		if _, err := w.logs.Store.Create(t, int32(i), w.logs.Topic); err != nil {
			return err
		}
	}
	w.img = next
	return nil
}

// Image implements Board.
func (w *world) Image() *catalog.Image {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.img
}

// Get implements Board.
func (w *world) Get(id catalog.TopicID, index int32) *partition.Partition {
	if w.Offline(id, index) != nil {
		return nil
	}
	return w.logs.Store.Get(id, index)
}

// Offline implements Board.
func (w *world) Offline(id catalog.TopicID, index int32) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost[place{id, index}]
}

// Ensure implements Board.
func (w *world) Ensure(_ context.Context, name string) error {
	w.mu.Lock()
	refuse := w.refuse
	w.mu.Unlock()
	if refuse != nil {
		return refuse
	}
	return w.create(name, 1)
}

// Watch implements Board.
func (w *world) Watch(op purgatory.Op, id catalog.TopicID, index int32, waitMS int64) (func() bool, error) {
	ticket, err := w.waits.Watch(op, []place{{id, index}}, waitMS)
	return func() bool { return w.waits.Cancel(ticket) }, err
}

// reply is an answer, read.
type reply struct {
	status int
	header http.Header
	body   string
}

func (r reply) read(t testing.TB, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.body), into); err != nil {
		t.Fatalf("%v in %s", err, r.body)
	}
}

// option changes a request.
type option func(*http.Request)

func header(key, value string) option { return func(r *http.Request) { r.Header.Set(key, value) } }

func basic(user, password string) option {
	return func(r *http.Request) { r.SetBasicAuth(user, password) }
}

// do sends a request.
func (w *world) do(method, path string, body io.Reader, opts ...option) reply {
	w.t.Helper()
	r, err := w.try(method, path, body, opts...)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) try(method, path string, body io.Reader, opts ...option) (reply, error) {
	r, err := http.NewRequestWithContext(w.t.Context(), method, "http://board"+path, body)
	if err != nil {
		return reply{}, err
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", jsonType)
	}
	for _, o := range opts {
		o(r)
	}
	resp, err := w.client.Do(r)
	if err != nil {
		return reply{}, err
	}
	text, err := io.ReadAll(resp.Body)
	a := reply{resp.StatusCode, resp.Header, string(text)}
	if w.look != nil && err == nil {
		w.look(method, path, a)
	}
	return a, errors.Join(err, resp.Body.Close())
}

func (w *world) get(query string, opts ...option) reply {
	w.t.Helper()
	return w.do(http.MethodGet, "/topics/t/records"+query, nil, opts...)
}

func (w *world) post(body string, opts ...option) reply {
	w.t.Helper()
	return w.do(http.MethodPost, "/topics/t/records", strings.NewReader(body), opts...)
}

// want fails the test unless the answer has a status and contains some text.
func (w *world) want(r reply, status int, part string) {
	w.t.Helper()
	if r.status != status || !strings.Contains(r.body, part) {
		w.t.Errorf("answered %d %s, want %d and %s", r.status, r.body, status, part)
	}
}

// pipes is a listener in memory.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

// peer gives a pipe the address of loopback.
type peer struct{ net.Conn }

func (peer) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

func (p *pipes) dial() (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.conns <- peer{theirs}:
		return ours, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2} }

// raw sends bytes as they are and reads what comes back, until the connection ends or a whole answer is there.
func (w *world) raw(text string) (string, error) {
	w.t.Helper()
	c, err := w.dial()
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			w.t.Error(err)
		}
	}()
	go func() { _, _ = io.WriteString(c, text) }() // ends with the connection
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(resp.Body)
	return fmt.Sprintf("%d %s", resp.StatusCode, body), errors.Join(err, resp.Body.Close())
}

// full has the disk at its reserve.
func (w *world) full() {
	w.t.Helper()
	u := &tiny{}
	w.logs.FS = u
	space, err := disk.NewSpace(disk.SpaceConfig{FS: u, Path: w.logs.Dir, Reserve: 1000, Floor: 10})
	if err != nil {
		w.t.Fatal(err)
	}
	w.logs.Config.Space = space
}

type tiny struct{ disk.OS }

func (*tiny) Usage(string) (disk.Usage, error) { return disk.Usage{Total: 1 << 30, Free: 1000}, nil }

// records is n records in JSON, each of a value of so many bytes.
func records(n, size int) string {
	var b bytes.Buffer
	b.WriteString(`{"records":[`)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"value":"%s"}`, strings.Repeat("x", size))
	}
	b.WriteString(`]}`)
	return b.String()
}
