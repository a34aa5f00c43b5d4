package server

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/broker/wire"
)

// prefix is a frame's length and the beginning of its header.
func prefix(size uint32, key, version int16) []byte {
	p := binary.BigEndian.AppendUint32(nil, size)
	p = binary.BigEndian.AppendUint16(p, uint16(key))
	return binary.BigEndian.AppendUint16(p, uint16(version))
}

// Whatever a peer sends, it is answered or its connection ends, and others are served.
func TestHostilePeers(t *testing.T) {
	garbage := make([]byte, 64<<10)
	for i := range garbage {
		garbage[i] = byte(rand.Uint32())
	}
	garbage[0] |= 0x80 // a negative length
	tags := append(prefix(22, 3, 12), 0, 0, 0, 1, 0xff, 0xff)
	counts := frame2(3, 9, append(binary.AppendUvarint(nil, 2_000_000_001), make([]byte, 100)...))
	for name, p := range map[string][]byte{
		"garbage":                        garbage,
		"an HTTP request":                []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
		"a TLS hello":                    append([]byte{0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3}, make([]byte, 512)...),
		"an empty frame":                 {0, 0, 0, 0},
		"a frame of two billion bytes":   prefix(2_000_000_000, 0, 9),
		"a negative frame":               prefix(0xffffffff, 0, 9),
		"an unknown key":                 append(prefix(100, 999, 0), make([]byte, 96)...),
		"a negative key":                 append(prefix(100, -1, 0), make([]byte, 96)...),
		"a key that is not served":       append(prefix(100, 34, 1), make([]byte, 96)...),
		"a version from the future":      append(prefix(100, 3, 99), make([]byte, 96)...),
		"Produce v2":                     append(prefix(100, 0, 2), make([]byte, 96)...),
		"a count of two billion":         counts,
		"two billion tags in the header": append(tags, append(binary.AppendUvarint(nil, 2_000_000_000), make([]byte, 7)...)...),
		"Metadata of 2 MiB":              append(prefix(2<<20, 3, 12), make([]byte, 1000)...),
	} {
		t.Run(name, func(t *testing.T) {
			_, addr := open(t, &fake{respond}, nil)
			bad, good := dial(t, addr), dial(t, addr)
			// The server may end the connection while we are still writing.
			if _, err := bad.Write(p); err == nil {
				bad.closed()
			}
			good.send(metadata(1))
			good.expect(1)
		})
	}
}

// frame2 is a whole frame with a v2 header and a body of our own making.
func frame2(key, version int16, body []byte) []byte {
	p := prefix(uint32(4+4+2+1+len(body)), key, version)
	p = append(p, 0, 0, 0, 1, 0xff, 0xff, 0)
	return append(p, body...)
}

// Half requests hold the memory that was reserved for them only until somebody else needs it.
func TestHalfRequestsGiveWay(t *testing.T) {
	bodies := share(t, 2<<20)
	_, addr := open(t, &fake{respond}, func(c *Config) { c.Bodies, c.Stall = bodies, 10*time.Minute })
	for range 6 {
		c := dial(t, addr)
		c.send(produce(1<<20-200, 1)[:64<<10])
	}
	// A small request needs no memory of the budget.
	small := dial(t, addr)
	small.send(metadata(1))
	small.expect(1)
	// A large one gets it when those that deliver nothing have been cut off.
	large := dial(t, addr)
	if err := large.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	large.send(produce(1<<20-200, 7))
	large.expect(7)
}

// A frame's first bytes alone reserve nothing.
func TestAPrefixReservesNothing(t *testing.T) {
	bodies := share(t, 1<<20)
	s, addr := open(t, &fake{respond}, func(c *Config) { c.Bodies = bodies })
	for range 50 {
		dial(t, addr).send(produce(900<<10, 1)[:100])
	}
	c := dial(t, addr)
	c.send(produce(900<<10, 1))
	c.expect(1)
	if used := bodies.Used(); used > 1<<20 {
		t.Errorf("%d bytes reserved", used)
	}
	if n := s.Connections(); n != 51 {
		t.Errorf("%d connections, want 51", n)
	}
}

func TestStalledPeersAreCutOff(t *testing.T) {
	_, addr := open(t, &fake{respond}, func(c *Config) { c.Stall = 50 * time.Millisecond })
	for name, p := range map[string][]byte{
		"in the prefix": {0, 0},
		"in the header": prefix(100, 3, 12),
		"in the body":   produce(100<<10, 1)[:50<<10],
	} {
		c := dial(t, addr)
		c.send(p)
		t.Log(name)
		c.closed()
	}
}

func TestIdlePeersAreCutOff(t *testing.T) {
	h := hold()
	_, addr := open(t, &fake{h.serve}, func(c *Config) { c.Idle = 50 * time.Millisecond })
	dial(t, addr).closed()
	// Who waits for an answer is not idle.
	c := dial(t, addr)
	c.send(fetch(1))
	h.wait(t, 1)
	other := dial(t, addr) // its end shows that the idle time has passed
	other.closed()
	h.reply(1)
	c.expect(1)
	c.closed()
}

func TestTooManyConnections(t *testing.T) {
	s, addr := open(t, &fake{respond}, func(c *Config) { c.MaxConnections = 3 })
	var conns []*client
	for i := range int32(3) {
		c := dial(t, addr)
		c.send(metadata(i))
		c.expect(i)
		conns = append(conns, c)
	}
	dial(t, addr).closed()
	if s.Refused() != 1 {
		t.Errorf("%d refused, want 1", s.Refused())
	}
	conns[0].send(metadata(9))
	conns[0].expect(9)
}

// A reader that takes nothing holds neither memory nor anybody else, and is cut off.
func TestSlowReaders(t *testing.T) {
	const size = 512 << 10
	copies := share(t, 1<<20)
	var built atomic.Int32
	_, addr := open(t, &fake{func(req *Request, reply func(Answer)) func() bool {
		if req.Key != 1 {
			return respond(req, reply)
		}
		reply(func() *wire.Response {
			built.Add(1)
			return wire.EncodeFetch(req.Header, &wire.Fetch{Topics: []wire.FetchTopic{{Partitions: []wire.FetchPartition{
				{Records: zeros(size)},
				{Records: zeros(size)},
				{Records: zeros(size)},
				{Records: zeros(size)},
				{Records: zeros(size)},
				{Records: zeros(size)},
				{Records: zeros(size)},
				{Records: zeros(size)},
				{Records: zeros(size)},
				{Records: zeros(size)},
				{Records: zeros(size)},
				{Records: zeros(size)},
				{Records: zeros(size)},
				{Records: zeros(size)},
				{Records: zeros(size)},
				{Records: zeros(size)},
			}}}})
		})
		return nil
	}}, func(c *Config) { c.Copies, c.Stall = copies, 300*time.Millisecond })
	before := heap()
	for range 20 {
		c := dial(t, addr)
		if err := c.Conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
			t.Fatal(err)
		}
		for range 20 { // asks again and again, reads nothing
			c.send(fetch(1))
		}
	}
	// Others are served, and in time the budget is too.
	good := dial(t, addr)
	if err := good.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	good.send(metadata(1))
	good.expect(1)
	if grown := heap() - before; grown > 16<<20 { // each of them at work would be 160
		t.Errorf("20 slow readers of 8 MiB answers cost %d KiB", grown>>10)
	}
	good.send(fetch(2))
	if _, body := good.receive(); len(body) < 16*size {
		t.Errorf("an answer of %d bytes", len(body))
	}
	if n := built.Load(); n > 21 {
		t.Errorf("%d answers were built for 21 readers that read one at most", n)
	}
}

// zeros is a span of so many zero bytes that is not in a file.
type zeros int

func (z zeros) Len() int                          { return int(z) }
func (z zeros) Append(dst []byte) ([]byte, error) { return append(dst, make([]byte, z)...), nil }
func (z zeros) File() (uintptr, int64, bool)      { return 0, 0, false }
func (z zeros) Release()                          {}

func TestIdleConnectionsAreSmall(t *testing.T) {
	const n = 1000
	s, addr := open(t, &fake{respond}, func(c *Config) { c.MaxConnections = n + 1 })
	// Both ends are in this process: what the other end costs is measured with sockets nobody serves.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	before := heap()
	var plain []net.Conn
	for range n {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		plain = append(plain, c)
	}
	bare := heap() - before
	for _, c := range plain {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	before = heap()
	for i := range int32(n) {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		one := &client{t, c}
		one.send(metadata(i)) // it has been used: its buffers have come and gone
		one.expect(i)
	}
	each := (heap() - before - bare) / n
	t.Logf("%d bytes for an idle connection", each)
	if each > 2*connectionCost { // the race detector, and whatever else grows meanwhile, take their part
		t.Errorf("an idle connection costs %d bytes", each)
	}
	if got := s.Connections(); got != n {
		t.Errorf("%d connections, want %d", got, n)
	}
	c := dial(t, addr)
	c.send(metadata(1))
	c.expect(1)
}

// Many peers that stream garbage of every kind at once: memory stays, and an honest one is served all the time.
func TestManyHostilePeersAtOnce(t *testing.T) {
	_, addr := open(t, &fake{respond}, func(c *Config) { c.Stall, c.Bodies = 2*time.Second, share(t, 2<<20) })
	before := heap()
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for worker := range 8 {
		r := rand.New(rand.NewPCG(uint64(worker), 1))
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, err := net.Dial("tcp", addr)
				if err != nil {
					t.Errorf("dial: %v", err)
					return
				}
				key := []int16{0, 1, 2, 3, 18, 19, 32, 44, 75}[r.IntN(9)]
				body := make([]byte, r.IntN(16<<10))
				for i := range body {
					body[i] = byte(r.Uint32() >> r.IntN(32))
				}
				p := frame2(key, int16(r.IntN(14)), body)
				// Errors are what is expected: the server ends the connection.
				_, _ = c.Write(p[:r.IntN(len(p)+1)])
				_ = c.Close()
			}
		})
	}
	c := dial(t, addr)
	for i := range int32(150) {
		c.send(produce(20<<10, i))
		c.expect(i)
	}
	if grown := heap() - before; grown > 16<<20 {
		t.Errorf("the heap grew by %d KiB", grown>>10)
	}
	close(stop)
	wg.Wait()
}

// Whatever bytes come, the server neither panics nor hangs, and serves the next.
func FuzzConnection(f *testing.F) {
	f.Add(metadata(1))
	f.Add(produce(100, 1))
	f.Add(bytes.Repeat([]byte{0xff}, 100))
	s := New(Config{Handler: &fake{respond}, Bodies: share(f, 1<<20), Copies: share(f, 1<<20), Stall: time.Second})
	addr, err := s.Listen(Listener{Address: "127.0.0.1:0"})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := s.Close(); err != nil {
			f.Error(err)
		}
	})
	f.Fuzz(func(t *testing.T, p []byte) {
		c := dial(t, addr.String())
		_, _ = c.Write(p) // the server may have ended the connection
		if err := c.Conn.(*net.TCPConn).CloseWrite(); err == nil {
			_, _ = io.Copy(io.Discard, c)
		}
	})
}
