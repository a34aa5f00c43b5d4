package badlink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"millrace/testbench/lane"
)

// patience only ends a hang.
const patience = time.Minute

// server takes connections at a free port of loopback.
func server(t *testing.T) (address string, taken <-chan net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ends := make(chan net.Conn, 10)
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			end, err := listener.Accept()
			if err != nil {
				return
			}
			limit(t, end)
			ends <- end
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		accepting.Wait()
	})
	return listener.Addr().String(), ends
}

func limit(t *testing.T, end net.Conn) {
	if err := end.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Error(err)
	}
	t.Cleanup(func() { _ = end.Close() })
}

func dial(t *testing.T, l *Link) net.Conn {
	t.Helper()
	client, err := net.Dial("tcp", l.Addr)
	if err != nil {
		t.Fatal(err)
	}
	limit(t, client)
	return client
}

// through sends bytes from one end to the other.
func through(t *testing.T, from, to net.Conn, n int) {
	t.Helper()
	sent := noise(n)
	var writing sync.WaitGroup
	defer writing.Wait()
	writing.Go(func() {
		if _, err := from.Write(sent); err != nil {
			t.Error(err)
		}
	})
	got := make([]byte, n)
	if _, err := io.ReadFull(to, got); err != nil || !slices.Equal(got, sent) {
		t.Fatalf("%d bytes did not get through: %v", n, err)
	}
}

// wasReset says that a connection ends by RST after n bytes.
func wasReset(t *testing.T, end net.Conn, n int64) {
	t.Helper()
	if got, err := io.Copy(io.Discard, end); got != n || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%d bytes came, then %v; want %d and a reset", got, err, n)
	}
}

func TestResetReachesBothEnds(t *testing.T) {
	address, taken := server(t)
	l := New(t, address)
	client := dial(t, l)
	end := <-taken
	through(t, client, end, 100_000)
	through(t, end, client, 100_000)
	l.Reset()
	wasReset(t, client, 0)
	wasReset(t, end, 0)
	client = dial(t, l)
	through(t, client, <-taken, 1)
	if s := l.Stats(); s.Up != 100_001 || s.Down != 100_000 || s.Resets != 1 || s.Accepted != 2 {
		t.Errorf("%+v", s)
	}
}

func TestResetAfterSoManyBytes(t *testing.T) {
	address, taken := server(t)
	l := New(t, address)
	for _, n := range []int64{1, 2, 3 * chunkMax, 3*chunkMax + 1, 100_000} {
		client := dial(t, l)
		end := <-taken
		reached := l.After(Up, n)
		l.ResetAfter(Up, n)
		var writing sync.WaitGroup
		writing.Go(func() { _, _ = client.Write(noise(200_000)) }) // is reset at some time
		wasReset(t, end, n)
		<-reached
		writing.Wait()
	}
	if s := l.Stats(); s.Up != 1+2+3*chunkMax+3*chunkMax+1+100_000 {
		t.Errorf("%+v", s)
	}
	client := dial(t, l)
	through(t, client, <-taken, 200_000) // once
}

func TestCutRefuses(t *testing.T) {
	address, taken := server(t)
	l := New(t, address)
	client := dial(t, l)
	end := <-taken
	through(t, client, end, 100) // so that the link knows that the server has taken it
	for range 3 {
		l.Cut()
		wasReset(t, client, 0)
		wasReset(t, end, 0)
		if _, err := net.Dial("tcp", l.Addr); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("a cut link says %v", err)
		}
		if err := l.Heal(); err != nil {
			t.Fatal(err)
		}
		client = dial(t, l)
		end = <-taken
		through(t, client, end, 100)
	}
}

func TestAnEndOfOneDirectionGoesThrough(t *testing.T) {
	address, taken := server(t)
	l := New(t, address)
	l.Set(Conditions{Latency: 5 * time.Millisecond})
	client := dial(t, l)
	end := <-taken
	if _, err := client.Write([]byte("all")); err != nil {
		t.Fatal(err)
	}
	if err := client.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if all, err := io.ReadAll(end); string(all) != "all" || err != nil {
		t.Fatalf("%q, %v", all, err)
	}
	through(t, end, client, 100)
	if err := end.Close(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(client); len(rest) > 0 || err != nil {
		t.Fatalf("%q, %v", rest, err)
	}
	lane.Until(t, "it is over", func(context.Context) error {
		if s := l.Stats(); s.Open != 0 || s.Resets != 0 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
}

func TestAServerThatIsDown(t *testing.T) {
	l := New(t, lane.FreeAddress(t))
	client, err := net.Dial("tcp", l.Addr) // it may see the reset at once
	if err == nil {
		limit(t, client)
		wasReset(t, client, 0)
	} else if !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
	if s := l.Stats(); s.Refused != 1 || s.Resets != 0 {
		t.Errorf("%+v", s)
	}
}
