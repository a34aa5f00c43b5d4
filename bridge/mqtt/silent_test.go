package mqtt_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"millrace/bridge/mqtt"
	"millrace/bridge/mqtt/mqtttest"
	"millrace/bridge/mqtt/packet"
)

// socket is a client at a real socket: only those can wait without a goroutine.
type socket struct {
	testing.TB
	net.Conn
}

func dialSocket(t testing.TB, address, id string, keepAlive uint16) *socket {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil { // so that a hang is a failure
		t.Fatal(err)
	}
	c := &socket{t, conn}
	c.send(&packet.Connect{Version: packet.V5, ClientID: id, CleanStart: true, KeepAlive: keepAlive})
	if got := c.receive(); got[0]>>4 != byte(packet.CONNACK) {
		t.Fatalf("%x, want CONNACK", got)
	}
	return c
}

func (c *socket) send(p packet.Packet) {
	c.Helper()
	if _, err := c.Write(p.Append(nil, packet.V5)); err != nil {
		c.Fatal(err)
	}
}

// receive reads one packet.
func (c *socket) receive() []byte {
	c.Helper()
	p := make([]byte, 2, 256)
	if _, err := io.ReadFull(c, p); err != nil {
		c.Fatal(err)
	}
	if p[1] > 127 {
		c.Fatalf("a longer packet than this test knows: %x", p)
	}
	p = append(p, make([]byte, p[1])...)
	if _, err := io.ReadFull(c, p[2:]); err != nil {
		c.Fatal(err)
	}
	return p
}

// ends checks that the server says why and closes.
func (c *socket) ends(reason packet.Reason) {
	c.Helper()
	if got := c.receive(); got[0]>>4 != byte(packet.DISCONNECT) || packet.Reason(got[2]) != reason {
		c.Errorf("%x, want DISCONNECT with %v", got, reason)
	}
	if n, err := c.Read(make([]byte, 1)); err != io.EOF {
		c.Errorf("%d bytes and %v, want the end", n, err)
	}
}

// settled waits until there are no more goroutines than n.
func settled(t testing.TB, n int) {
	t.Helper()
	for range 20_000 {
		if runtime.NumGoroutine() <= n {
			return
		}
		runtime.Gosched()
		<-time.After(time.Millisecond)
	}
	t.Fatalf("%d goroutines, want %d", runtime.NumGoroutine(), n)
}

func TestSilentClientsHaveNoGoroutineAndAreServedWhenTheySpeak(t *testing.T) {
	_, address := serve(t, mqtt.Config{Log: &mqtttest.Log{}})
	before := runtime.NumGoroutine()
	var all []*socket
	for i := range 100 {
		c := dialSocket(t, address, fmt.Sprint("client-", i), 60)
		c.send(&packet.Subscribe{ID: 1, Filters: []packet.Subscription{{Filter: fmt.Sprint("to/", i)}}})
		c.receive()
		all = append(all, c)
	}
	settled(t, before)
	for i, c := range all { // each is spoken to by the one before it, while both are silent
		c.send(&packet.Ping{})
		if got := c.receive(); got[0]>>4 != byte(packet.PINGRESP) {
			t.Fatalf("%x, want PINGRESP", got)
		}
		next := (i + 1) % len(all)
		c.send(pub(fmt.Sprint("to/", next), "hello", 0, 0))
		if got := all[next].receive(); !bytes.HasSuffix(got, []byte("hello")) {
			t.Fatalf("%x, want the message", got)
		}
	}
	settled(t, before)
}

func TestASilentClientIsCutOffAtItsKeepAlive(t *testing.T) {
	_, address := serve(t, mqtt.Config{Log: &mqtttest.Log{}})
	before := runtime.NumGoroutine()
	begin := time.Now()
	c := dialSocket(t, address, "silent", 1)
	settled(t, before)
	c.ends(packet.KeepAliveTimeout)
	if took := time.Since(begin); took < 1500*time.Millisecond {
		t.Errorf("cut off after %v", took)
	}
}

// A stream of bytes may come in whatever pieces [MQTT-4.2.0-1].
func TestAClientThatSpeaksInHalfPacketsKeepsItsPlace(t *testing.T) {
	_, address := serve(t, mqtt.Config{Log: &mqtttest.Log{}})
	before := runtime.NumGoroutine()
	c := dialSocket(t, address, "slow", 60)
	settled(t, before)
	for _, b := range (&packet.Subscribe{ID: 7, Filters: []packet.Subscription{{Filter: "a"}}}).Append(nil, packet.V5) {
		if _, err := c.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
		<-time.After(3 * time.Millisecond) // longer than Silence here
	}
	if got := c.receive(); got[0]>>4 != byte(packet.SUBACK) {
		t.Fatalf("%x, want SUBACK", got)
	}
}

func TestASilentClientIsToldOfItsTakeoverAndOfTheStop(t *testing.T) {
	s, address := serve(t, mqtt.Config{Log: &mqtttest.Log{}})
	before := runtime.NumGoroutine()
	first := dialSocket(t, address, "twice", 0)
	settled(t, before)
	second := dialSocket(t, address, "twice", 0)
	first.ends(packet.SessionTakenOver)
	settled(t, before)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	second.ends(packet.ServerShuttingDown)
	if n := s.Connections(); n != 0 {
		t.Errorf("%d connections after the close", n)
	}
}
