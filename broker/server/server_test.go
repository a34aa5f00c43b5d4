package server

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/wire"
)

func TestAnswersComeInOrder(t *testing.T) {
	h := hold()
	_, addr := open(t, &fake{h.serve}, nil)
	c := dial(t, addr)
	c.send(bytes.Join([][]byte{produce(10, 1), produce(10, 2), produce(10, 3)}, nil))
	h.wait(t, 1, 2, 3)
	h.reply(3)
	h.reply(2)
	h.reply(1)
	c.expect(1, 2, 3)
}

func TestOnlyProducesShareAConnection(t *testing.T) {
	h := hold()
	_, addr := open(t, &fake{h.serve}, nil)
	c := dial(t, addr)
	c.send(bytes.Join([][]byte{produce(10, 1), metadata(2), produce(10, 3), metadata(4)}, nil))
	h.wait(t, 1)
	if len(h.came) > 0 {
		t.Error("a Metadata is served beside a Produce")
	}
	for i := int32(1); i <= 4; i++ {
		h.reply(i)
		c.expect(i)
		if i < 4 {
			h.wait(t, i+1)
		}
	}
}

// A connection with InFlight requests is not read from, and what is not read is not held.
func TestAFullConnectionIsMuted(t *testing.T) {
	h := hold()
	bodies := share(t, 4<<20)
	_, addr := open(t, &fake{func(req *Request, reply func(Answer)) func() bool {
		release := req.Hold()
		return h.serve(req, func(a Answer) { release(); reply(a) })
	}}, func(c *Config) { c.InFlight, c.Bodies = 2, bodies })
	c := dial(t, addr)
	for i := range int32(4) {
		c.send(produce(64<<10, i))
	}
	h.wait(t, 0, 1)
	// The third is not served, and holds no body, whatever time passes: it is taken up by the reply alone.
	if used := bodies.Used(); used != 2*80<<10 { // 64 KiB and the frame's head
		t.Errorf("%d bytes are held for two requests", used)
	}
	h.reply(0)
	h.wait(t, 2)
	h.reply(1)
	h.wait(t, 3)
	h.reply(2)
	h.reply(3)
	c.expect(0, 1, 2, 3)
}

func TestBodiesOfManySizesArrive(t *testing.T) {
	var mu sync.Mutex
	var sizes []int
	_, addr := open(t, &fake{func(req *Request, reply func(Answer)) func() bool {
		if b, ok := req.Body.(*kmsg.ProduceRequest); ok {
			mu.Lock()
			sizes = append(sizes, len(b.Topics[0].Partitions[0].Records))
			mu.Unlock()
		}
		return respond(req, reply)
	}}, nil)
	c := dial(t, addr)
	var want []int
	var stream []byte
	for i, n := range []int{0, 1, 100, smallMax - 60, smallMax - 40, smallMax, smallMax + 1, 10_000, 1 << 20, 3 << 20, 0} {
		want = append(want, n)
		stream = append(stream, produce(n, int32(i))...)
		stream = append(stream, metadata(int32(100+i))...)
	}
	done := make(chan struct{})
	go func() { // in pieces that end anywhere
		defer close(done)
		for len(stream) > 0 {
			n := min(len(stream), 7777)
			if _, err := c.Write(stream[:n]); err != nil {
				t.Errorf("send: %v", err)
				return
			}
			stream = stream[n:]
		}
	}()
	for i := range want {
		c.expect(int32(i), int32(100+i))
	}
	<-done
	mu.Lock()
	defer mu.Unlock()
	if fmt.Sprint(sizes) != fmt.Sprint(want) {
		t.Errorf("records of %v bytes arrived, want %v", sizes, want)
	}
}

// fileSpan lies in a file, from a position on.
type fileSpan struct {
	f        *os.File
	at       int64
	n        int
	released chan struct{}
	inMemory bool
}

func (s *fileSpan) Len() int { return s.n }
func (s *fileSpan) Append(dst []byte) ([]byte, error) {
	p := make([]byte, s.n)
	_, err := s.f.ReadAt(p, s.at)
	return append(dst, p...), err
}
func (s *fileSpan) File() (uintptr, int64, bool) { return s.f.Fd(), s.at, !s.inMemory }
func (s *fileSpan) Release()                     { s.released <- struct{}{} }

func fetch(correlation int32) []byte { return frame(kmsg.NewPtrFetchRequest(), 12, correlation) }

// Several connections send from one *os.File at once, each from its own position.
func TestSpansAreSentFromFilesAndCopies(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	content := make([]byte, 3<<20)
	for i := range content {
		content[i] = byte(i * 7 >> 8)
	}
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
	released := make(chan struct{}, 1000)
	_, addr := open(t, &fake{func(req *Request, reply func(Answer)) func() bool {
		at := int64(req.Correlation) * 1000
		reply(func() *wire.Response {
			return wire.EncodeFetch(req.Header, &wire.Fetch{Topics: []wire.FetchTopic{{Name: "t", Partitions: []wire.FetchPartition{
				{Records: &fileSpan{f, at, 2 << 20, released, false}},
				{Records: &fileSpan{f, at + 1, 100, released, true}},
			}}}})
		})
		return nil
	}}, nil)
	var wg sync.WaitGroup
	for worker := range 4 {
		c := dial(t, addr)
		wg.Go(func() {
			for i := range 5 {
				correlation := int32(worker*100 + i)
				c.send(fetch(correlation))
				got, body := c.receive()
				if got != correlation {
					t.Errorf("response %d, want %d", got, correlation)
					return
				}
				resp := kmsg.NewPtrFetchResponse()
				resp.SetVersion(12)
				if err := resp.ReadFrom(body[1:]); err != nil {
					t.Errorf("response %d: %v", correlation, err)
					return
				}
				at := int(correlation) * 1000
				p := resp.Topics[0].Partitions
				if !bytes.Equal(p[0].RecordBatches, content[at:at+2<<20]) || !bytes.Equal(p[1].RecordBatches, content[at+1:at+101]) {
					t.Errorf("response %d carries other bytes", correlation)
				}
			}
		})
	}
	wg.Wait()
	for range 4 * 5 * 2 {
		<-released
	}
}

// A file that is shorter than was promised ends the connection: the peer was told a length.
func TestAShortFileEndsTheConnection(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	released := make(chan struct{}, 10)
	for _, inMemory := range []bool{false, true} {
		_, addr := open(t, &fake{func(req *Request, reply func(Answer)) func() bool {
			reply(func() *wire.Response {
				return wire.EncodeFetch(req.Header, &wire.Fetch{Topics: []wire.FetchTopic{{Partitions: []wire.FetchPartition{
					{Records: &fileSpan{f, 0, 1 << 10, released, inMemory}},
				}}}})
			})
			return nil
		}}, nil)
		c := dial(t, addr)
		c.send(fetch(1))
		c.closed()
		<-released
	}
}

func TestNotLoopback(t *testing.T) {
	s := New(Config{Handler: &fake{respond}, Bodies: share(t, 1<<20), Copies: share(t, 1<<20)})
	for _, addr := range []string{":0", "0.0.0.0:0", "[::]:0", "192.0.2.1:0"} {
		if _, err := s.Listen(Listener{Address: addr}); !errors.Is(err, ErrNotLoopback) {
			t.Errorf("listen on %s: %v", addr, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.Listen(Listener{Address: "127.0.0.1:0"}); !errors.Is(err, ErrClosed) {
		t.Errorf("listen after the close: %v", err)
	}
}

func TestCloseAnswersWhatIsBegun(t *testing.T) {
	h := hold()
	s, addr := open(t, &fake{h.serve}, nil)
	c := dial(t, addr)
	c.send(produce(10, 1))
	h.wait(t, 1)
	closed := make(chan error)
	go func() { closed <- s.Close() }()
	<-s.ctx.Done()
	h.reply(1)
	c.expect(1)
	c.closed()
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

// A fetch that only waits is given up when its reader goes, or the server closes.
func TestWaitingRequestsAreCancelled(t *testing.T) {
	cancelled, served := make(chan struct{}, 1), make(chan struct{}, 1)
	s, addr := open(t, &fake{func(*Request, func(Answer)) func() bool {
		served <- struct{}{}
		return func() bool { cancelled <- struct{}{}; return true }
	}}, nil)
	c := dial(t, addr)
	c.send(fetch(1))
	<-served
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	<-cancelled
	c = dial(t, addr)
	c.send(fetch(1))
	<-served
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	<-cancelled
}

// A cancel that comes too late leaves the reply to whoever is about to make it.
func TestLateCancelWaitsForTheReply(t *testing.T) {
	h := hold()
	asked := make(chan struct{})
	s, addr := open(t, &fake{func(req *Request, reply func(Answer)) func() bool {
		h.serve(req, reply)
		return func() bool { close(asked); return false }
	}}, nil)
	c := dial(t, addr)
	c.send(fetch(1))
	h.wait(t, 1)
	closed := make(chan error)
	go func() { closed <- s.Close() }()
	<-asked
	h.reply(1)
	if err := <-closed; err != nil {
		t.Error(err)
	}
	c.expect(1)
}

func TestCloseAfterAnAnswer(t *testing.T) {
	_, addr := open(t, &fake{func(req *Request, reply func(Answer)) func() bool {
		reply(func() *wire.Response { return &wire.Response{Close: true} })
		return nil
	}}, nil)
	c := dial(t, addr)
	c.send(produce(10, 1))
	c.closed()
}

// acks=0: nothing is sent, and the connection goes on.
func TestNoAnswer(t *testing.T) {
	_, addr := open(t, &fake{func(req *Request, reply func(Answer)) func() bool {
		if req.Key == keyProduce {
			reply(nil)
			return nil
		}
		return respond(req, reply)
	}}, nil)
	c := dial(t, addr)
	c.send(append(produce(10, 1), metadata(2)...))
	c.expect(2)
}

func TestCloseDoesNotWaitForSlowReaders(t *testing.T) {
	began := make(chan struct{}, 1)
	s, addr := open(t, &fake{func(req *Request, reply func(Answer)) func() bool {
		reply(func() *wire.Response {
			began <- struct{}{}
			p := wire.FetchPartition{Records: zeros(8 << 20)}
			return wire.EncodeFetch(req.Header, &wire.Fetch{Topics: []wire.FetchTopic{{Partitions: []wire.FetchPartition{p, p}}}})
		})
		return nil
	}}, func(c *Config) { c.Copies = share(t, 16<<20) })
	c := dial(t, addr)
	if err := c.Conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	c.send(fetch(1))
	<-began
	at := time.Now()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(at); took >= hurried { // what a peer had for every piece of an answer
		t.Errorf("closing took %v", took)
	}
}

// Buffers that are kept for the next request and those in use never take more than the share together, whatever sizes
// come after another.
func TestKeptBodiesAreOfTheShare(t *testing.T) {
	room := share(t, 1<<20)
	b := &bodies{share: room}
	take := func(n int) (bodies [][]byte) {
		for room.TryAcquire(int64(b.cost(n))) {
			p := b.get(n)
			if len(p) != n || cap(p) != b.cost(n) || cap(p) > max(classMin, n+n/4) {
				t.Fatalf("a buffer of %d for %d, cost %d", cap(p), n, b.cost(n))
			}
			bodies = append(bodies, p)
			if all := room.Used() + int64(b.kept); all > room.Size() {
				t.Fatalf("%d of %d bytes with buffers of %d", all, room.Size(), n)
			}
		}
		return bodies
	}
	for _, n := range []int{1, 100 << 10, 513, 300 << 10, 1 << 20, 64<<10 + 60} {
		for _, p := range take(n) {
			b.put(p)
		}
		if b.kept == 0 {
			t.Errorf("none of %d bytes is kept", n)
		}
	}
}
