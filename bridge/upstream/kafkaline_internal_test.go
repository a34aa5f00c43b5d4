package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
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
