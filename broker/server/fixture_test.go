package server

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"millrace/broker/budget"
	"millrace/broker/poll/polltest"
	"millrace/broker/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a handler whose answers a test decides about.
type fake struct {
	serve func(req *Request, reply func(Answer)) func() bool
}

func (f *fake) Serve(req *Request, reply func(Answer)) func() bool { return f.serve(req, reply) }

// respond answers at once: Produce and Metadata with empty answers.
func respond(req *Request, reply func(Answer)) func() bool {
	reply(func() *wire.Response { return empty(req) })
	return nil
}

func empty(req *Request) *wire.Response {
	return wire.Encode(req.Header, req.Body.ResponseKind())
}

func share(t testing.TB, n int64) *budget.Share {
	t.Helper()
	s, err := budget.New(n).Share("test", n)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// open serves with the fake and checks on the way out that every connection is gone and every byte given back.
func open(t testing.TB, f *fake, change func(*Config)) (*Server, string) {
	t.Helper()
	// Whoever says nothing for a millisecond waits without a goroutine: every test is one of that too.
	c := Config{Handler: f, Bodies: share(t, 4<<20), Copies: share(t, 1<<20), Poller: polltest.Open(t), Silence: time.Millisecond}
	if change != nil {
		change(&c)
	}
	s := New(c)
	addr, err := s.Listen(Listener{Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if n := s.Connections(); n != 0 {
			t.Errorf("%d connections after the close", n)
		}
		for _, b := range []*budget.Share{c.Bodies, c.Copies} {
			if n := b.Used(); n != 0 {
				t.Errorf("%d bytes of the budget are not given back", n)
			}
		}
	})
	return s, addr.String()
}

// client is the other end of a connection.
type client struct {
	testing.TB
	net.Conn
}

func dial(t testing.TB, addr string) *client {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Errorf("close the client: %v", err)
		}
	})
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil { // so that a hang is a failure
		t.Fatal(err)
	}
	return &client{t, c}
}

// frame is a request on the wire.
func frame(req kmsg.Request, version int16, correlation int32) []byte {
	req.SetVersion(version)
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID("test")).AppendRequest(nil, req, correlation)
}

func metadata(correlation int32) []byte { return frame(kmsg.NewPtrMetadataRequest(), 12, correlation) }

// produce is a Produce request that carries n bytes.
func produce(n int, correlation int32) []byte {
	req := kmsg.NewPtrProduceRequest()
	req.Acks = 1
	req.Topics = []kmsg.ProduceRequestTopic{{Topic: "t", Partitions: []kmsg.ProduceRequestTopicPartition{{Records: make([]byte, n)}}}}
	return frame(req, 12, correlation)
}

func (c *client) send(p []byte) {
	c.Helper()
	if _, err := c.Write(p); err != nil {
		c.Fatalf("send: %v", err)
	}
}

// receive reads one response and returns its correlation id and size.
func (c *client) receive() (correlation int32, body []byte) {
	c.Helper()
	correlation, body, err := c.next()
	if err != nil {
		c.Fatalf("receive: %v", err)
	}
	return correlation, body
}

func (c *client) next() (correlation int32, body []byte, err error) {
	var head [8]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return 0, nil, err
	}
	body = make([]byte, binary.BigEndian.Uint32(head[:])-4)
	_, err = io.ReadFull(c, body)
	return int32(binary.BigEndian.Uint32(head[4:])), body, err
}

// expect wants the next responses to be those.
func (c *client) expect(correlations ...int32) {
	c.Helper()
	for _, want := range correlations {
		if got, _ := c.receive(); got != want {
			c.Fatalf("response %d, want %d", got, want)
		}
	}
}

// closed wants the connection to end without another response.
func (c *client) closed() {
	c.Helper()
	if correlation, _, err := c.next(); err == nil {
		c.Fatalf("response %d, want the end", correlation)
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		c.Fatal("the connection stays open")
	}
}

// held collects replies for a test to give out of order.
type held struct {
	mu      sync.Mutex
	replies map[int32]func(Answer)
	reqs    map[int32]*Request
	came    chan int32
}

func hold() *held {
	return &held{replies: make(map[int32]func(Answer)), reqs: make(map[int32]*Request), came: make(chan int32, 100)}
}

func (h *held) serve(req *Request, reply func(Answer)) func() bool {
	h.mu.Lock()
	h.replies[req.Correlation], h.reqs[req.Correlation] = reply, req
	h.mu.Unlock()
	h.came <- req.Correlation
	return nil
}

func (h *held) reply(correlation int32) {
	h.mu.Lock()
	reply, req := h.replies[correlation], h.reqs[correlation]
	h.mu.Unlock()
	reply(func() *wire.Response { return empty(req) })
}

func (h *held) wait(t testing.TB, correlations ...int32) {
	t.Helper()
	for _, want := range correlations {
		select {
		case got := <-h.came:
			if got != want {
				t.Fatalf("request %d is served, want %d", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("request %d is not served", want)
		}
	}
}

// heap is the live heap in bytes.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}
