package contract

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// wire is a raw connection that takes every write at once and gives what is asked for, and knows when. It has deadlines as
// a socket has.
type wire struct {
	net.Conn // nil: nothing else is used
	mu       sync.Mutex
	carried  []carried
	deadline [2]time.Time
	slow     time.Duration // how long each write and read takes
	closed   bool
}

type carried struct {
	at    time.Time
	bytes int
}

func (w *wire) carry(side int, p []byte) (int, error) {
	w.mu.Lock()
	slow, deadline := w.slow, w.deadline[side]
	w.mu.Unlock()
	if !deadline.IsZero() && time.Now().Add(slow).After(deadline) {
		time.Sleep(max(time.Until(deadline), 0))
		return 0, os.ErrDeadlineExceeded
	}
	time.Sleep(slow)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.carried = append(w.carried, carried{time.Now(), len(p)})
	return len(p), nil
}

func (w *wire) Write(p []byte) (int, error) { return w.carry(0, p) }
func (w *wire) Read(p []byte) (int, error)  { return w.carry(1, p) }

func (w *wire) SetWriteDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deadline[0] = t
	return nil
}

func (w *wire) SetReadDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deadline[1] = t
	return nil
}

func (w *wire) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	return nil
}

// most is the largest number of bytes that any time of length d carries.
func most(all []carried, d time.Duration) int {
	best, sum, from := 0, 0, 0
	for _, c := range all {
		sum += c.bytes
		for c.at.Sub(all[from].at) > d {
			sum -= all[from].bytes
			from++
		}
		best = max(best, sum)
	}
	return best
}

func meter(t testing.TB, rate int64, b *Budget) *Meter {
	t.Helper()
	m, err := NewMeter(rate, b)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Three connections write and read as fast as they can: over any time they carry no more than the rate and the burst
// that is promised, and over a long one no less than the rate.
func TestTheRateHolds(t *testing.T) {
	for _, rate := range []int64{RateMin, 64 << 10, 3_000_000} {
		synctest.Test(t, func(t *testing.T) {
			m, raw := meter(t, rate, nil), &wire{}
			const conns = 3
			begin, end := time.Now(), time.Now().Add(time.Minute)
			var wg sync.WaitGroup
			var written int64
			for i := range conns {
				c := m.Conn(raw)
				wg.Go(func() {
					p := make([]byte, 40_000)
					for time.Now().Before(end) {
						if i == 0 {
							if n, err := c.Read(p); n == 0 || err != nil {
								t.Errorf("read %d: %v", n, err)
							}
						} else if n, err := c.Write(p); n != len(p) || err != nil {
							t.Errorf("wrote %d of %d: %v", n, len(p), err)
						}
					}
				})
			}
			wg.Wait()
			took := time.Since(begin)
			for _, c := range raw.carried {
				written += int64(c.bytes)
			}
			if m.Sent()+m.Received() != written {
				t.Errorf("%d and %d counted, %d carried", m.Sent(), m.Received(), written)
			}
			if least := int64(took.Seconds() * float64(rate)); written < least*99/100 {
				t.Errorf("rate %d: %d bytes in %v, at least %d were due", rate, written, took, least)
			}
			burst := rate/2 + conns*max(rate/8, pieceMin)
			if burst > rate {
				t.Errorf("rate %d: the burst is more than a second: %d", rate, burst)
			}
			for _, d := range []time.Duration{0, 100 * time.Millisecond, time.Second, 10 * time.Second} {
				if got, limit := most(raw.carried, d), int64(d.Seconds()*float64(rate))+burst; int64(got) > limit {
					t.Errorf("rate %d: %d bytes within %v, at most %d are promised", rate, got, d, limit)
				}
			}
		})
	}
}

func TestWhatIsReadIsADebtOfWhatIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, raw := meter(t, 8192, nil), &wire{}
		c := m.Conn(raw)
		begin := time.Now()
		for read := 0; read < 8192*10; {
			n, err := c.Read(make([]byte, 4096))
			if err != nil || n > 1024 {
				t.Fatal(n, err)
			}
			read += n
		}
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin).Round(time.Millisecond); took != 10*time.Second {
			t.Errorf("80 KiB at 8 KiB a second took %v", took)
		}
	})
}

// The throttle's own time does not count against a deadline, however long it is; the network's does.
func TestOnlyTheNetworkCountsAgainstADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, raw := meter(t, RateMin, nil), &wire{}
		c := m.Conn(raw)
		begin := time.Now()
		for _, set := range []func(time.Time) error{c.SetWriteDeadline, c.SetReadDeadline} {
			if err := set(begin.Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
		}
		if n, err := c.Write(make([]byte, 100*RateMin)); err != nil {
			t.Fatalf("wrote %d bytes, %v: %v", n, time.Since(begin), err)
		}
		if took := time.Since(begin); took < 99*time.Second {
			t.Errorf("took only %v", took)
		}
		// A read that waits for the debt of the others keeps its ten seconds too; and what was idle time counts.
		m.bucket.take(100*RateMin, time.Now())
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		raw.slow = 9 * time.Second
		if _, err := c.Read(make([]byte, 100)); err != nil {
			t.Errorf("read: %v", err)
		}
		if _, err := c.Read(make([]byte, 100)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the network took longer than the deadline: %v", err)
		}
		// And a write of many pieces on a slow network ends with its deadline, late by what the throttle took alone.
		if err := c.SetWriteDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		raw.slow = 7 * time.Second // a piece; much slower than the rate
		begin = time.Now()
		n, err := c.Write(make([]byte, 10*pieceMin))
		if !errors.Is(err, os.ErrDeadlineExceeded) || n != 2*pieceMin || time.Since(begin) != 20*time.Second {
			t.Errorf("wrote %d in %v: %v", n, time.Since(begin), err)
		}
	})
}

// A deadline set to now is how a context that is done ends a write: at once, in the middle of a wait.
func TestAWaitEndsEarly(t *testing.T) {
	for name, end := range map[string]struct {
		by   func(net.Conn) error
		want error
	}{
		"deadline":       {func(c net.Conn) error { return c.SetWriteDeadline(time.Now()) }, os.ErrDeadlineExceeded},
		"both deadlines": {func(c net.Conn) error { return c.SetDeadline(time.Now().Add(-time.Hour)) }, os.ErrDeadlineExceeded},
		"close":          {net.Conn.Close, net.ErrClosed},
	} {
		synctest.Test(t, func(t *testing.T) {
			m, raw := meter(t, RateMin, nil), &wire{}
			c := m.Conn(raw)
			var n int
			var err error
			begin := time.Now()
			done := make(chan struct{})
			go func() {
				defer close(done)
				n, err = c.Write(make([]byte, 60*RateMin))
			}()
			time.Sleep(10*time.Second + 50*time.Millisecond)
			if err := end.by(c); err != nil {
				t.Fatal(err)
			}
			<-done
			if took := time.Since(begin); !errors.Is(err, end.want) || took != 10*time.Second+50*time.Millisecond {
				t.Errorf("%s: %v after %v", name, err, took)
			}
			if want := 10 * RateMin; n != want {
				t.Errorf("%s: wrote %d, want %d", name, n, want)
			}
			// What was not sent is not owed.
			if even := m.bucket.take(0, time.Now()); even > 0 {
				t.Errorf("%s: owes %v", name, even)
			}
		})
	}
}

// A deadline that is taken away, or moved, in the middle of a wait is what counts from then on.
func TestADeadlineIsMovedInAWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, raw := meter(t, RateMin, nil), &wire{}
		c := m.Conn(raw)
		done := make(chan error)
		go func() {
			_, err := c.Write(make([]byte, 20*RateMin))
			done <- err
		}()
		time.Sleep(5*time.Second + 60*time.Millisecond) // within a wait, and not where one ends
		for _, in := range []time.Duration{time.Second, 0, 3 * time.Second} {
			at := time.Time{}
			if in > 0 {
				at = time.Now().Add(in)
			}
			if err := c.SetWriteDeadline(at); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		raw.mu.Lock()
		late := time.Until(raw.deadline[0])
		raw.mu.Unlock()
		if late != 3*time.Second {
			t.Errorf("%v of the 3 s are left, and the network took none", late)
		}
	})
}

func TestTheRateChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, raw := meter(t, RateMin, nil), &wire{}
		c := m.Conn(raw)
		write := func(bytes int, want time.Duration) {
			t.Helper()
			begin := time.Now()
			if _, err := c.Write(make([]byte, bytes)); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begin).Round(time.Millisecond); took != want {
				t.Errorf("%d bytes took %v, want %v", bytes, took, want)
			}
		}
		time.Sleep(time.Minute) // of which half a second is saved
		write(RateMin/2, 0)
		write(10*RateMin, 10*time.Second)
		m.bucket.take(10*RateMin, time.Now())
		if err := m.SetRate(10 * RateMin); err != nil {
			t.Fatal(err)
		}
		write(pieceMin, 1013*time.Millisecond)
		if err := m.SetRate(0); err != nil {
			t.Fatal(err)
		}
		write(100<<20, 0)
		if last := raw.carried[len(raw.carried)-1].bytes; last != 100<<20 {
			t.Errorf("without a rate a write is cut to %d", last)
		}
		for _, rate := range []int64{-1, 1, RateMin - 1} {
			if m.SetRate(rate) == nil {
				t.Errorf("rate %d is taken", rate)
			}
		}
	})
}

// certificate is a server's, and the pool that trusts it.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"peer"}, NotAfter: time.Now().Add(240 * time.Hour)}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}, pool
}

// tally counts what goes through a connection.
type tally struct {
	net.Conn
	sent, received int64
}

func (c *tally) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.sent += int64(n)
	return n, err
}

func (c *tally) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.received += int64(n)
	return n, err
}

// TLS over a metered connection: the handshake and TLS's own bytes are counted to the last, and what arrives is what was
// sent, at a rate at which each record is cut into pieces.
func TestTLSIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cert, pool := certificate(t)
		near, far := net.Pipe()
		raw := &tally{Conn: near}
		m := meter(t, RateMin, nil)
		dial := m.Dial(func(context.Context, string, string) (net.Conn, error) { return raw, nil })
		under, err := dial(t.Context(), "tcp", "peer:9093")
		if err != nil {
			t.Fatal(err)
		}
		payload := make([]byte, 100_000)
		if _, err := rand.Read(payload); err != nil {
			t.Fatal(err)
		}
		echoed := make(chan error)
		go func() {
			peer := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{cert}})
			got := make([]byte, len(payload))
			_, err := io.ReadFull(peer, got)
			if err == nil && !bytes.Equal(got, payload) {
				err = errors.New("not what was sent")
			}
			if err == nil {
				_, err = peer.Write(got[:10_000])
			}
			echoed <- err
		}()
		begin := time.Now()
		c := tls.Client(under, &tls.Config{RootCAs: pool, ServerName: "peer"})
		// As kgo does: ten seconds for a write, and when that is over ten for the answer.
		if err := c.SetWriteDeadline(begin.Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if err := c.HandshakeContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		handshake := m.Sent() + m.Received()
		if _, err := c.Write(payload); err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 10_000)); err != nil {
			t.Fatal(err)
		}
		if err := <-echoed; err != nil {
			t.Fatal(err)
		}
		if m.Sent() != raw.sent || m.Received() != raw.received {
			t.Errorf("counted %d and %d, carried %d and %d", m.Sent(), m.Received(), raw.sent, raw.received)
		}
		if all := m.Sent() + m.Received(); handshake < 500 || all < 110_000+handshake {
			t.Errorf("a handshake of %d bytes, %d in all", handshake, all)
		}
		if took := time.Since(begin); took < 26*time.Second {
			t.Errorf("took %v", took)
		}
		if err := errors.Join(under.Close(), far.Close()); err != nil {
			t.Error(err)
		}
	})
}

func TestADialThatFails(t *testing.T) {
	refused := errors.New("refused")
	dial := meter(t, 0, nil).Dial(func(context.Context, string, string) (net.Conn, error) { return nil, refused })
	if c, err := dial(t.Context(), "tcp", "x:1"); c != nil || !errors.Is(err, refused) {
		t.Errorf("%v, %v", c, err)
	}
}

func TestTheSizeOfTransactions(t *testing.T) {
	for _, tt := range []struct {
		rate     int64
		measured float64
		want     int64
	}{
		{0, 0, 1 << 20},
		{64 << 10, 0, 128 << 10},
		{0, 10_000, 20_000},
		{64 << 10, 10_000, 20_000},
		{8 << 10, 1e9, 16 << 10},
		{1 << 40, 1e18, 1 << 20},
		{0, 3, 4 << 10},
		{600 << 10, 0, 1 << 20},
	} {
		if got := TransactionBytes(tt.rate, tt.measured); got != tt.want {
			t.Errorf("TransactionBytes(%d, %v) = %d, want %d", tt.rate, tt.measured, got, tt.want)
		}
	}
	for _, tt := range []struct {
		rate, largest int64
		want          time.Duration
	}{{0, 1 << 30, time.Minute}, {RateMin, 1 << 20, time.Minute + 512*time.Second}, {RateMin, 1 << 40, 15 * time.Minute}, {RateMin, -1, time.Minute}} {
		if got := TransactionTimeout(tt.rate, tt.largest); got != tt.want {
			t.Errorf("TransactionTimeout(%d, %d) = %v, want %v", tt.rate, tt.largest, got, tt.want)
		}
	}
	if got := DialTimeout(RateMin); got != 14*time.Second {
		t.Errorf("DialTimeout = %v", got)
	}
	if got := DialTimeout(0); got != 10*time.Second {
		t.Errorf("DialTimeout = %v", got)
	}
}
