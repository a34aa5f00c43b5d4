package upstream

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// In a Send no connection is made in the place of one that has ended, and who sends is told. A further one is, while none has ended.
func TestNoConnectionInThePlaceOfOneThatHasEnded(t *testing.T) {
	s := &lines{open: map[*line]struct{}{}, cfg: &KafkaConfig{Dial: func(context.Context, string, string) (net.Conn, error) {
		conn, _ := net.Pipe()
		return conn, nil
	}}}
	dial := func() (net.Conn, error) { return s.dial(t.Context(), "tcp", "peer:9092") }
	first, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	var told error
	s.hold(func(err error) { told = err })
	if _, err := dial(); err != nil || told != nil {
		t.Fatalf("a further connection: %v, %v", err, told)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := dial(); !errors.Is(err, errShaken) || !errors.Is(told, errShaken) {
		t.Errorf("after one has ended: %v, %v", err, told)
	}
	s.hold(nil)
	if _, err := dial(); err != nil {
		t.Errorf("between transactions: %v", err)
	}
	if !s.shaken() || s.shaken() {
		t.Error("that one has ended is said once")
	}
	s.hold(func(err error) { t.Errorf("it was looked: %v", err) })
	if _, err := dial(); err != nil {
		t.Errorf("after it was said: %v", err)
	}
	s.close()
}

// What was idle for too long is given up between transactions, once: that the client finds out within the next ends nothing. What has
// carried bytes either way stays.
func TestWhatWasIdleIsGivenUpBetweenTransactions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var far []net.Conn
		s := &lines{open: map[*line]struct{}{}, cfg: &KafkaConfig{Dial: func(context.Context, string, string) (net.Conn, error) {
			near, end := net.Pipe()
			far = append(far, end)
			return near, nil
		}}}
		dial := func() net.Conn {
			t.Helper()
			conn, err := s.dial(t.Context(), "tcp", "peer:9092")
			if err != nil {
				t.Fatal(err)
			}
			return conn
		}
		idle, reads, writes := dial(), dial(), dial()
		carry := func(from, to net.Conn) {
			t.Helper()
			done := make(chan error, 1)
			go func() {
				_, err := from.Write([]byte("x"))
				done <- err
			}()
			if _, err := io.ReadFull(to, make([]byte, 1)); err != nil {
				t.Error(err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		time.Sleep(idleMost)
		if s.shaken() {
			t.Error("given up too early")
		}
		carry(far[1], reads)
		carry(writes, far[2])
		time.Sleep(time.Second)
		if !s.shaken() || s.shaken() {
			t.Error("that one was given up is said once")
		}
		carry(far[1], reads)
		carry(writes, far[2])

		s.hold(func(err error) { t.Errorf("it was given up before: %v", err) })
		if n, err := idle.Write([]byte("x")); n != 0 || err == nil {
			t.Errorf("%d bytes went over what was given up: %v", n, err)
		}
		_ = idle.Close() // as the client does that finds out
		again := dial()
		s.hold(nil)
		if s.shaken() {
			t.Error("it has ended twice")
		}
		_ = again.Close()
		_ = again.Close()
		if !s.shaken() || s.shaken() {
			t.Error("what ends by itself has ended, once")
		}
		s.close()
	})
}

// The client makes a connection in the place of one that was given up with the next request, within a transaction, and whoever asked
// does not notice.
func TestTheClientGoesOnAfterWhatWasGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dials := 0
		k, err := NewKafka(KafkaConfig{Brokers: []string{"peer:9092"}, Dial: func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			dials++
			go versionsOnly(far)
			return near, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		cl, lines, err := k.client()
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		ask := func() {
			t.Helper()
			if _, err := kmsg.NewPtrApiVersionsRequest().RequestWith(t.Context(), cl); err != nil {
				t.Fatal(err)
			}
		}
		ask()
		time.Sleep(idleMost + time.Second)
		if !lines.shaken() {
			t.Fatal("nothing was given up")
		}
		lines.hold(func(err error) { t.Error(err) })
		began := time.Now()
		ask()
		ask()
		lines.hold(nil)
		if waited := time.Since(began); dials != 2 || waited != 0 {
			t.Errorf("%d connections in all, after %v", dials, waited)
		}
		if lines.shaken() {
			t.Error("what was given up has ended again")
		}
	})
}

// versionsOnly is a peer that knows of one request, which versions of requests it knows.
func versionsOnly(conn net.Conn) {
	defer conn.Close()
	for {
		head := make([]byte, 12) // size, key, version, correlation id
		if _, err := io.ReadFull(conn, head); err != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, conn, int64(binary.BigEndian.Uint32(head))-8); err != nil {
			return
		}
		resp := kmsg.NewPtrApiVersionsResponse()
		resp.SetVersion(int16(binary.BigEndian.Uint16(head[6:])))
		known := kmsg.NewApiVersionsResponseApiKey()
		known.ApiKey, known.MaxVersion = kmsg.ApiVersions.Int16(), 4
		resp.ApiKeys = append(resp.ApiKeys, known)
		answer := resp.AppendTo(append(make([]byte, 4), head[8:]...))
		binary.BigEndian.PutUint32(answer, uint32(len(answer)-4))
		if _, err := conn.Write(answer); err != nil {
			return
		}
	}
}
