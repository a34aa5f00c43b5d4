package upstream

import (
	"context"
	"errors"
	"net"
	"testing"
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
