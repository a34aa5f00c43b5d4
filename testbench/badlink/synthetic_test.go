package badlink

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener whose connections are pipes, so that time is the test's.
type pipes struct {
	ends   chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case end := <-p.ends:
		return end, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error { close(p.closed); return nil }

func (p *pipes) Addr() net.Addr { return nil }

// bench is a link between pipes.
type bench struct {
	*Link
	t       *testing.T
	clients *pipes
	servers chan net.Conn
}

// synthetic runs a test of a link in time of its own.
func synthetic(t *testing.T, test func(*testing.T, *bench)) {
	t.Helper()
	const seed = 7
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, clients: &pipes{make(chan net.Conn), make(chan struct{})}, servers: make(chan net.Conn, connectionsMax)}
		b.Link = newLink("pipe", seed, func(context.Context) (net.Conn, error) {
			near, far := net.Pipe()
			b.servers <- far
			return near, nil
		}, func() (net.Listener, error) { return b.clients, nil })
		if err := b.Heal(); err != nil {
			t.Fatal(err)
		}
		test(t, b)
		b.Close()
		if open := b.Stats().Open; open != 0 {
			t.Errorf("%d connections are left", open)
		}
	})
}

// connect is a client, and the server it has got.
func (b *bench) connect() (client, server net.Conn) {
	client, near := net.Pipe()
	b.clients.ends <- near
	return client, <-b.servers
}

// send writes bytes into one end, and returns how long the other waits for all of them, which must be the same.
func (b *bench) send(from, to net.Conn, data []byte) time.Duration {
	b.t.Helper()
	begin := time.Now()
	done := make(chan error, 1)
	go func() {
		_, err := from.Write(data)
		done <- err
	}()
	got := make([]byte, len(data))
	_, err := io.ReadFull(to, got)
	took := time.Since(begin)
	if err := errors.Join(err, <-done); err != nil {
		b.t.Fatal(err)
	}
	if !bytes.Equal(got, data) {
		b.t.Fatalf("%d bytes came as others", len(data))
	}
	return took
}

// silent says that nothing comes for an hour.
func (b *bench) silent(end net.Conn) {
	b.t.Helper()
	if err := end.SetReadDeadline(time.Now().Add(time.Hour)); err != nil {
		b.t.Fatal(err)
	}
	var timeout net.Error
	if n, err := end.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
		b.t.Fatalf("%d bytes came, %v", n, err)
	}
	if err := end.SetReadDeadline(time.Time{}); err != nil {
		b.t.Fatal(err)
	}
}

// gone says that a connection is closed.
func (b *bench) gone(end net.Conn) {
	b.t.Helper()
	if n, err := end.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
		b.t.Fatalf("%d bytes came, %v", n, err)
	}
}

func noise(n int) []byte {
	data := make([]byte, n)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(data) // never fails
	return data
}

func TestLatencyIsOneWay(t *testing.T) {
	synthetic(t, func(t *testing.T, b *bench) {
		client, server := b.connect()
		if took := b.send(client, server, noise(100)); took != 0 {
			t.Errorf("a good link takes %v", took)
		}
		b.Set(Conditions{Latency: 300 * time.Millisecond})
		for _, took := range []time.Duration{b.send(client, server, noise(100)), b.send(server, client, noise(40_000))} {
			if took < 300*time.Millisecond || took > 301*time.Millisecond {
				t.Errorf("300 ms take %v", took)
			}
		}
	})
}

func TestJitterKeepsOrder(t *testing.T) {
	synthetic(t, func(t *testing.T, b *bench) {
		client, server := b.connect()
		b.Set(Conditions{Latency: 100 * time.Millisecond, Jitter: 50 * time.Millisecond})
		least, most := time.Hour, time.Duration(0)
		for range 100 {
			took := b.send(client, server, noise(10))
			least, most = min(least, took), max(most, took)
		}
		if least < 100*time.Millisecond || least > 105*time.Millisecond || most > 150*time.Millisecond || most < 145*time.Millisecond {
			t.Errorf("100 to 150 ms take %v to %v", least, most)
		}
		b.send(client, server, noise(300_000)) // in many chunks: send says whether their order is kept
	})
}

func TestRateIsSharedAndOfEachDirection(t *testing.T) {
	synthetic(t, func(t *testing.T, b *bench) {
		one, first := b.connect()
		two, second := b.connect()
		b.Set(Conditions{Up: 20_000, Down: 1_000})
		about := func(took, want time.Duration) {
			t.Helper()
			if took < want-60*time.Millisecond || took > want+60*time.Millisecond {
				t.Errorf("%v, want about %v", took, want)
			}
		}
		about(b.send(one, first, noise(60_000)), 3*time.Second)
		about(b.send(first, one, noise(2_000)), 2*time.Second)
		begin := time.Now()
		both := make(chan struct{})
		go func() {
			b.send(two, second, noise(40_000))
			close(both)
		}()
		b.send(one, first, noise(40_000))
		<-both
		about(time.Since(begin), 4*time.Second)
		if s := b.Stats(); s.Up != 140_000 || s.Down != 2_000 || s.Swallowed != 0 || s.Accepted != 2 || s.Open != 2 {
			t.Errorf("%+v", s)
		}
	})
}

func TestWhatIsOnItsWayIsUnderTheNewConditions(t *testing.T) {
	for name, slow := range map[string]Conditions{"latency": {Latency: time.Hour}, "rate": {Up: 1}, "stall": {Stall: true}} {
		t.Run(name, func(t *testing.T) {
			synthetic(t, func(t *testing.T, b *bench) {
				client, server := b.connect()
				b.Set(slow)
				time.AfterFunc(time.Minute, func() { b.Set(Conditions{}) })
				if took := b.send(client, server, noise(5_000)); took != time.Minute {
					t.Errorf("it came after %v", took)
				}
			})
		})
	}
}

func TestAHoleSwallows(t *testing.T) {
	synthetic(t, func(t *testing.T, b *bench) {
		idle, idles := b.connect()
		client, server := b.connect()
		b.Set(Conditions{Hole: true})
		for _, end := range []net.Conn{client, server} {
			if _, err := end.Write(noise(1000)); err != nil {
				t.Fatal(err)
			}
		}
		b.silent(client)
		b.silent(server)
		late, near := net.Pipe()
		b.clients.ends <- near
		if _, err := late.Write(noise(1000)); err != nil {
			t.Fatal(err)
		}
		b.silent(late)
		if len(b.servers) != 0 {
			t.Error("a connection got through")
		}
		if s := b.Stats(); s.Swallowed != 3000 || s.Up != 0 || s.Down != 0 {
			t.Errorf("%+v", s)
		}
		b.Set(Conditions{})
		b.gone(client)
		b.gone(server)
		b.gone(late)
		b.send(idle, idles, noise(1000)) // it has lost nothing
		synctest.Wait()
		if s := b.Stats(); s.Resets != 2 || s.Open != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// The server is not told that the client has closed, until the hole is filled.
func TestAHoleHidesAnEnd(t *testing.T) {
	synthetic(t, func(t *testing.T, b *bench) {
		client, server := b.connect()
		b.Set(Conditions{Hole: true})
		if err := client.Close(); err != nil {
			t.Fatal(err)
		}
		b.silent(server)
		b.Set(Conditions{})
		b.gone(server)
	})
}

func TestHalfOpen(t *testing.T) {
	for _, end := range []Direction{Up, Down} {
		t.Run(end.String(), func(t *testing.T) {
			synthetic(t, func(t *testing.T, b *bench) {
				client, server := b.connect()
				gone, there := server, client
				if end == Down {
					gone, there = client, server
				}
				b.HalfOpen(end)
				b.gone(gone)
				if _, err := there.Write(noise(100)); err != nil {
					t.Fatal(err)
				}
				b.silent(there)
				b.Set(Conditions{}) // does not bring it back
				b.silent(there)
				other, others := b.connect()
				b.send(other, others, noise(100))
				if s := b.Stats(); s.Swallowed != 100 || s.Open != 2 {
					t.Errorf("%+v", s)
				}
				b.Reset()
				b.gone(there)
			})
		})
	}
}

func TestTooManyConnections(t *testing.T) {
	synthetic(t, func(t *testing.T, b *bench) {
		for range connectionsMax {
			b.connect()
		}
		client, near := net.Pipe()
		b.clients.ends <- near
		b.gone(client)
		if s := b.Stats(); s.Refused != 1 || s.Open != connectionsMax || s.Accepted != connectionsMax+1 {
			t.Errorf("%+v", s)
		}
	})
}

// No more is held on its way than the limit says: the sender waits.
func TestALongWayHoldsALimitedAmount(t *testing.T) {
	synthetic(t, func(t *testing.T, b *bench) {
		client, _ := b.connect()
		b.Set(Conditions{Stall: true})
		taken := 0
		for {
			if err := client.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
				t.Fatal(err)
			}
			n, err := client.Write(noise(chunkMax))
			taken += n
			if err != nil {
				break
			}
		}
		if taken < chunksMax*chunkMax || taken > (chunksMax+2)*chunkMax {
			t.Errorf("%d bytes are on their way", taken)
		}
	})
}
