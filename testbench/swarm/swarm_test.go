package swarm_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"millrace/bridge/mqtt/packet"
	"millrace/testbench/swarm"
)

// What is read of a message by hand must be what the codec says.
func TestPublishesAreReadAsTheyWereMade(t *testing.T) {
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		for _, n := range []int{0, 16, 128, 20_000} {
			made := packet.Publish{QoS: 1, ID: 77, Topic: "a/b", Payload: bytes.Repeat([]byte{7}, n), Properties: &packet.Properties{
				Present: packet.Of(packet.ContentType), ContentType: "text",
			}}
			raw := made.Append(nil, v)
			got, err := swarm.Read(raw, v)
			if err != nil || got.ID != 77 || got.QoS != 1 || string(got.Topic) != "a/b" || !bytes.Equal(got.Payload, made.Payload) {
				t.Errorf("version %d, %d bytes: %+v, %v", v, n, got, err)
			}
			for cut := 2; cut < len(raw)-n; cut++ {
				if _, err := swarm.Read(raw[:cut], v); !errors.Is(err, swarm.ErrCut) {
					t.Errorf("version %d, the first %d bytes: %v", v, cut, err)
				}
			}
			p := swarm.NewPublish(v, "a/b", n)
			copy(p.Payload(), made.Payload)
			made.Properties = nil
			l, address := listen(t)
			s, c := dial(t, address)
			peer := accept(t, l)
			p.Send(c, 77)
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
			want := made.Append(nil, v)
			sent := make([]byte, len(want))
			if _, err := io.ReadFull(peer, sent); err != nil || !bytes.Equal(sent, want) {
				t.Errorf("version %d, %d bytes: sent % x, %v", v, n, sent, err)
			}
		}
	}
}

// A peer that does not read blocks only what is sent to it, and gets all of it in the end; what it says meanwhile is
// taken, in pieces of any size.
func TestNothingIsLostWhenTheSocketIsFull(t *testing.T) {
	l, address := listen(t)
	s, c := dial(t, address)
	peer := accept(t, l)
	ping := (&packet.Ping{}).Append(nil, packet.V311)
	pings := 0
	c.Take = func(p []byte) error {
		if !bytes.Equal(p, ping) {
			t.Errorf("took % x", p)
		}
		pings++
		return nil
	}
	p := swarm.NewPublish(packet.V311, "t", 60_000)
	n := 0
	for ; c.Backlog() == 0 || n < 10; n++ {
		p.Payload()[0] = byte(n)
		p.Send(c, uint16(n+1))
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range bytes.Repeat(ping, 3) { // byte by byte: every packet is cut
		if _, err := peer.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
		if err := s.Turn(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	if pings != 3 {
		t.Errorf("%d of 3 pings were taken while the socket was full", pings)
	}
	read := make(chan error, 1)
	go func() {
		for i := range n {
			got := make([]byte, 60_000+1+3+2+3)
			if _, err := io.ReadFull(peer, got); err != nil {
				read <- err
				return
			}
			if r, err := swarm.Read(got, packet.V311); err != nil || r.ID != uint16(i+1) || r.Payload[0] != byte(i) {
				t.Errorf("message %d: %+v, %v", i, r.ID, err)
			}
		}
		read <- peer.Close()
	}()
	var gone error
	c.Gone = func(err error) { gone = err }
	for limit := time.Now().Add(10 * time.Second); gone == nil; {
		if time.Now().After(limit) {
			t.Fatal("the end of the connection is not seen")
		}
		if err := s.Turn(limit); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-read; err != nil {
		t.Error(err)
	}
	if !errors.Is(gone, io.EOF) || s.Len() != 0 {
		t.Errorf("ended with %v, %d clients left", gone, s.Len())
	}
}

func TestATurnEndsWhenItIsTime(t *testing.T) {
	_, address := listen(t)
	s, _ := dial(t, address)
	for _, wait := range []time.Duration{0, time.Millisecond, 20 * time.Millisecond} {
		until := time.Now().Add(wait)
		if err := s.Turn(until); err != nil {
			t.Fatal(err)
		}
		if early := time.Until(until); early > 0 {
			t.Errorf("the turn ended %v before its time", early)
		}
	}
}

func listen(t *testing.T) (net.Listener, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, l.Addr().String()
}

func accept(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func dial(t *testing.T, address string) (*swarm.Swarm, *swarm.Client) {
	t.Helper()
	s, err := swarm.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	c, err := s.Dial(address)
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}
