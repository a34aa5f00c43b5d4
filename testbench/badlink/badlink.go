// Package badlink is a bad link between two TCP peers of a test: slow, thin, cut, reset, silent, or with one end gone. It
// stands in front of a server as a proxy, so both peers are real and neither knows of it.
//
//	link := badlink.New(t, "127.0.0.1:9092")
//	link.Set(badlink.Conditions{Latency: 300 * time.Millisecond, Up: 64 << 10})
//	link.ResetAfter(badlink.Up, 5000)
//
// All of it is switched while connections are open, for them and for those that come. A server that tells its clients
// where it is, as Kafka does, is told to name Link.Addr: a link for each of its nodes.
//
// What a proxy cannot do: it takes a connection before the server does, so a client whose server is down is connected and
// then reset; and what was written counts as arrived for TCP, though it may still be on its way here.
package badlink

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"millrace/testbench/lane"
)

// Limits of a link.
const (
	connectionsMax = 512         // at once; more are reset when they come
	chunkMax       = 16 << 10    // bytes of one read
	chunksMax      = 64          // that are on their way in one direction of a connection: 1 MiB, then nothing more is read
	dialMax        = time.Minute // for the server to take a connection
)

// Direction is one of the two in which bytes go.
type Direction int

const (
	// Up is from the client to the server.
	Up Direction = iota
	// Down is from the server to the client.
	Down
)

func (d Direction) String() string { return [...]string{"up", "down"}[d] }

// Conditions are how a link is for now. The zero value is a good link.
type Conditions struct {
	// Latency is how long everything is on its way, in each direction; Jitter is what is added to it at most, at random.
	// Order is kept.
	Latency, Jitter time.Duration
	// Up and Down are bytes a second, which all connections share, in bursts of a twentieth of a second; 0 is no limit.
	Up, Down int64
	// Stall has nothing move, and nothing is lost: when it is over all goes on where it was, as TCP does after a gap of
	// radio.
	Stall bool
	// Hole swallows what is sent, and nobody is told that the other has closed or was never there: connections are taken,
	// and silent both ways. When it is over those that have lost something are reset, as by a router that has forgotten them;
	// others go on.
	Hole bool
}

// Stats are what a link has seen since it was opened.
type Stats struct {
	// Up and Down are bytes that were handed to the server and to the clients. Those of TCP's headers do not count, those of
	// TLS do.
	Up, Down int64
	// Swallowed are bytes that were sent, either way, and not handed on: into a hole, or to a peer that is gone.
	Swallowed int64
	// Accepted are all connections of clients; Refused are those of them that were reset because the server took none or
	// because there are too many; Resets are those that were reset later, for whatever reason.
	Accepted, Refused, Resets int64
	// Open are the connections there are.
	Open int
}

// Link is a proxy. Its methods may be called by several goroutines.
type Link struct {
	// Addr is where clients connect, "host:port" of loopback. It stays the same.
	Addr string

	dial   func(context.Context) (net.Conn, error)
	listen func() (net.Listener, error)
	work   sync.WaitGroup

	mu         sync.Mutex
	conditions Conditions
	changed    chan struct{} // closed when the conditions change
	listener   net.Listener  // nil while cut
	connects   map[*connection]struct{}
	random     *rand.Rand
	flows      [2]flow
	stats      Stats
}

// New opens a good link to a server, which need not be there yet. Its seed is printed. It is closed when the test ends, and
// all that it runs is waited for.
func New(t testing.TB, target string) *Link {
	t.Helper()
	return NewSeeded(t, target, rand.Uint64())
}

// NewSeeded is New with a seed for its jitter.
func NewSeeded(t testing.TB, target string, seed uint64) *Link {
	t.Helper()
	address := lane.FreeAddress(t)
	t.Logf("badlink %s to %s, seed %d", address, target, seed)
	l := dialing(address, target, seed)
	t.Cleanup(l.Close)
	if err := l.Heal(); err != nil {
		t.Fatal(err)
	}
	return l
}

// Open is New for a program that is no test: at an address that is free, with a seed. Close closes it.
func Open(address, target string, seed uint64) (*Link, error) {
	l := dialing(address, target, seed)
	return l, l.Heal()
}

// dialing is a link between sockets, which takes no connections yet.
func dialing(address, target string, seed uint64) *Link {
	return newLink(address, seed,
		func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", target) },
		func() (net.Listener, error) { return net.Listen("tcp", address) })
}

func newLink(address string, seed uint64, dial func(context.Context) (net.Conn, error), listen func() (net.Listener, error)) *Link {
	return &Link{
		Addr: address, dial: dial, listen: listen,
		changed: make(chan struct{}), connects: make(map[*connection]struct{}), random: rand.New(rand.NewPCG(seed, 0)),
	}
}

// Set changes the conditions, from now on: for what is on its way, too.
func (l *Link) Set(c Conditions) {
	l.mu.Lock()
	filled := l.conditions.Hole && !c.Hole
	l.conditions = c
	close(l.changed)
	l.changed = make(chan struct{})
	l.mu.Unlock()
	if filled {
		l.abort(func(c *connection) bool { return c.lost.Load() })
	}
}

// Conditions are those that were set last.
func (l *Link) Conditions() Conditions {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conditions
}

// Reset resets all connections, at both ends.
func (l *Link) Reset() { l.abort(func(*connection) bool { return true }) }

// HalfOpen takes one end of all connections away: the peer there is reset, the one at the other end is not told, and what
// it sends is swallowed. HalfOpen(Up) takes the server's end, HalfOpen(Down) the client's. New connections are good.
func (l *Link) HalfOpen(gone Direction) {
	for _, c := range l.open() {
		c.takeAway(gone)
	}
}

// Cut resets all connections, and refuses new ones until Heal.
func (l *Link) Cut() {
	l.mu.Lock()
	listener := l.listener
	l.listener = nil
	l.mu.Unlock()
	if listener != nil {
		_ = listener.Close() // it has no more connections, whatever it says
	}
	l.Reset()
}

// Heal takes connections again.
func (l *Link) Heal() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.listener != nil {
		return nil
	}
	listener, err := l.listen()
	if err != nil {
		return fmt.Errorf("heal the link: %w", err)
	}
	l.listener = listener
	l.work.Go(func() { l.accept(listener) })
	return nil
}

// ResetAfter resets all connections when n more bytes have gone in a direction, whichever of them carries them. The one
// that carries the last of them carries no byte more.
func (l *Link) ResetAfter(d Direction, n int64) { l.after(d, n, l.Reset) }

// After is closed when n more bytes have gone in a direction.
func (l *Link) After(d Direction, n int64) <-chan struct{} {
	reached := make(chan struct{})
	l.after(d, n, func() { close(reached) })
	return reached
}

// Stats says what the link has seen.
func (l *Link) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	s.Up, s.Down, s.Open = l.flows[Up].bytes, l.flows[Down].bytes, len(l.connects)
	return s
}

// Close resets all, and returns when nothing of the link runs.
func (l *Link) Close() {
	l.Cut()
	l.work.Wait()
}

// accept takes connections until the listener is closed.
func (l *Link) accept(listener net.Listener) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		l.mu.Lock()
		c := &connection{link: l}
		c.ctx, c.cancel = context.WithCancel(context.Background())
		c.ends[Down] = client
		l.stats.Accepted++
		full := len(l.connects) >= connectionsMax
		if full {
			l.stats.Refused++
		}
		stale := l.listener != listener // cut meanwhile
		if !stale && !full {
			l.connects[c] = struct{}{}
			l.work.Go(c.serve)
		}
		l.mu.Unlock()
		if stale || full {
			c.cancel()
			reset(client)
		}
	}
}

// open are the connections there are.
func (l *Link) open() []*connection {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]*connection, 0, len(l.connects))
	for c := range l.connects {
		list = append(list, c)
	}
	return list
}

// abort resets those connections that are meant. When it returns their sockets are closed.
func (l *Link) abort(meant func(*connection) bool) {
	for _, c := range l.open() {
		if meant(c) {
			c.abort(&l.stats.Resets)
		}
	}
}

// now are the conditions as a connection has to carry something, and what is closed when they are others. In a hole it is
// lost with that, while the mutex is held: when Set has filled the hole it finds all of them.
func (l *Link) now(c *connection) (Conditions, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conditions.Hole && !c.mute.Load() {
		c.lost.Store(true)
		c.mute.Store(true)
	}
	return l.conditions, l.changed
}

func (l *Link) count(what *int64, n int) {
	l.mu.Lock()
	*what += int64(n)
	l.mu.Unlock()
}
