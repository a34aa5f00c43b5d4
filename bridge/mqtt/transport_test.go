package mqtt_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	paho "github.com/eclipse/paho.mqtt.golang"

	"millrace/bridge/mqtt"
	"millrace/bridge/mqtt/mqtttest"
	"millrace/bridge/mqtt/packet"
	"millrace/broker/auth"
	"millrace/broker/auth/authtest"
)

// harbour is a server with listeners of every transport on sockets of this machine.
type harbour struct {
	t     *testing.T
	s     *mqtt.Server
	ca    *authtest.Authority
	roots *tls.Config // of clients
}

func newHarbour(t *testing.T, cfg mqtt.Config) *harbour {
	t.Helper()
	h := &harbour{t: t, ca: authtest.NewAuthority(t)}
	h.roots = &tls.Config{RootCAs: h.ca.Pool(), ServerName: "localhost"}
	if cfg.Log == nil {
		cfg.Log = &mqtttest.Log{}
	}
	cfg.Principal = func(cert *x509.Certificate) (auth.Principal, error) { return auth.User(cert.Subject.CommonName), nil }
	var err error
	if h.s, err = mqtt.New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.s.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// at opens a listener, tcp, tls, ws, wss or unix, and returns its address.
func (h *harbour) at(scheme string, change ...func(*mqtt.Listener)) string {
	h.t.Helper()
	network, address := "tcp", "127.0.0.1:0"
	if scheme == "unix" {
		network, address = scheme, filepath.Join(h.t.TempDir(), "s")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		h.t.Fatal(err)
	}
	of := &mqtt.Listener{Listener: l, Anonymous: true, WebSocket: strings.HasPrefix(scheme, "ws")}
	if scheme == "tls" || scheme == "wss" {
		cert := h.ca.Issue(pkix.Name{CommonName: "board"}, time.Now().Add(time.Hour))
		config := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, ClientCAs: h.ca.Pool(), ClientAuth: tls.VerifyClientCertIfGiven}
		of.TLS = func() *tls.Config { return config }
	}
	for _, fn := range change {
		fn(of)
	}
	ended := make(chan error, 1)
	go func() { ended <- h.s.Serve(of) }()
	h.t.Cleanup(func() {
		if err := h.s.Close(); err != nil {
			h.t.Error(err)
		}
		if err := <-ended; !errors.Is(err, mqtt.ErrClosed) {
			h.t.Error(err)
		}
	})
	return l.Addr().String()
}

// raw is a connection as far as MQTT: through TLS and the WebSocket handshake.
func (h *harbour) raw(scheme, address string) net.Conn {
	h.t.Helper()
	network := "tcp"
	if scheme == "unix" {
		network = scheme
	}
	conn, err := net.Dial(network, address)
	if err != nil {
		h.t.Fatal(err)
	}
	if scheme == "tls" || scheme == "wss" {
		conn = tls.Client(conn, h.roots)
	}
	h.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		h.t.Fatal(err)
	}
	if strings.HasPrefix(scheme, "ws") {
		dial := func(context.Context, string, string) (net.Conn, error) { return conn, nil }
		ws, resp, err := websocket.Dial(h.t.Context(), "ws://"+address+"/mqtt", &websocket.DialOptions{
			Subprotocols: []string{"mqtt"}, HTTPClient: &http.Client{Transport: &http.Transport{DialContext: dial}},
		})
		if err != nil {
			h.t.Fatal(err)
		}
		if resp.Header.Get("Sec-WebSocket-Protocol") != "mqtt" { // [MQTT-6.0.0-4]
			h.t.Fatalf("the answer is %v", resp.Header)
		}
		conn = websocket.NetConn(h.t.Context(), ws, websocket.MessageBinary)
	}
	return conn
}

var schemes = []string{"tcp", "tls", "ws", "wss", "unix"}

func hello(id string, change ...func(*packet.Connect)) []byte {
	c := &packet.Connect{Version: packet.V5, ClientID: id, CleanStart: true}
	for _, fn := range change {
		fn(c)
	}
	return c.Append(nil, packet.V5)
}

// receive reads one packet of MQTT 5.
func receive(t *testing.T, r io.Reader) packet.Packet {
	t.Helper()
	p, err := receiveOr(r)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func receiveOr(r io.Reader) (packet.Packet, error) {
	var buf []byte
	for {
		n, err := packet.Frame(buf)
		if err == nil && n > 0 && n == len(buf) {
			return packet.Decode(buf, packet.V5, packet.Limits{})
		}
		var one [1]byte
		if err == nil {
			_, err = io.ReadFull(r, one[:])
		}
		if err != nil {
			return nil, err
		}
		buf = append(buf, one[0])
	}
}

func TestPahoOverEveryTransport(t *testing.T) {
	h := newHarbour(t, mqtt.Config{})
	addresses := map[string]string{}
	for _, scheme := range schemes {
		addresses[scheme] = h.at(scheme)
	}
	connect := func(scheme, id string) paho.Client {
		url := map[string]string{"tls": "ssl"}[scheme]
		if url == "" {
			url = scheme
		}
		url += "://" + addresses[scheme]
		if strings.HasPrefix(scheme, "ws") {
			url += "/mqtt"
		}
		c := paho.NewClient(paho.NewClientOptions().AddBroker(url).SetClientID(id).SetTLSConfig(h.roots).SetAutoReconnect(false))
		wait(t, c.Connect())
		return c
	}
	for _, from := range schemes {
		for _, to := range []string{from, "tcp"} {
			got := make(chan string, 100)
			sub := connect(to, "sub")
			wait(t, sub.Subscribe("x/#", 1, func(_ paho.Client, m paho.Message) { got <- string(m.Payload()) }))
			pub := connect(from, "pub")
			for _, size := range []int{0, 1, 1000, 5000, 70_000, 500_000} {
				body := strings.Repeat("b", size)
				wait(t, pub.Publish("x/y", 1, false, body))
				select {
				case s := <-got:
					if s != body {
						t.Fatalf("%s to %s: %d bytes came of %d", from, to, len(s), size)
					}
				case <-time.After(20 * time.Second):
					t.Fatalf("%s to %s: nothing came in 20 s", from, to)
				}
			}
			pub.Disconnect(100)
			sub.Disconnect(100)
		}
	}
}

func TestACertificateIsAUser(t *testing.T) {
	users := people{"bob": "hunter two"}
	allowed := auth.NewACLs(allow("ann", auth.Write, "mqtt:ann"), allow("bob", auth.Write, "mqtt:bob"))
	h := newHarbour(t, mqtt.Config{Users: users, Authorizer: &auth.Authorizer{ACLs: func() *auth.ACLs { return allowed }}})
	strict := func(l *mqtt.Listener) { l.Anonymous = false }
	for _, scheme := range []string{"tls", "wss"} {
		address := h.at(scheme, strict)
		h.roots.Certificates = nil
		conn := h.raw(scheme, address)
		conn.Write(hello("a")) //nolint:errcheck // what is read says whether it came
		if ack, ok := receive(t, conn).(*packet.Connack); !ok || ack.Reason != packet.NotAuthorized {
			t.Errorf("%s: nobody in particular got %+v", scheme, ack)
		}
		ann := h.ca.Issue(pkix.Name{CommonName: "ann"}, time.Now().Add(time.Hour))
		h.roots.Certificates = []tls.Certificate{ann}
		for user, login := range map[string]func(*packet.Connect){"ann": as("", ""), "bob": as("bob", "hunter two")} { // a login counts more
			conn = h.raw(scheme, address)
			conn.Write(hello("a-"+user, login)) //nolint:errcheck // as above
			if ack, ok := receive(t, conn).(*packet.Connack); !ok || ack.Reason != packet.Success {
				t.Fatalf("%s: %s got %+v", scheme, user, ack)
			}
			for topic, want := range map[string]packet.Reason{"ann": packet.NotAuthorized, "bob": packet.NotAuthorized, user: packet.Success} {
				if topic == user && want != packet.Success {
					continue
				}
				conn.Write(pub(topic, "1", 1, 1).Append(nil, packet.V5)) //nolint:errcheck // as above
				if ack, ok := receive(t, conn).(*packet.Ack); !ok || ack.Reason != want {
					t.Errorf("%s: %s publishing to %s got %+v", scheme, user, topic, ack)
				}
			}
		}
		// One of another authority is no certificate, and with TLS 1.3 the client learns it when it reads.
		h.roots.Certificates = []tls.Certificate{authtest.NewAuthority(t).Issue(pkix.Name{CommonName: "ann"}, time.Now().Add(time.Hour))}
		bad := tls.Client(dialTCP(t, address), h.roots)
		bad.Write(hello("a")) //nolint:errcheck // as above
		if p, err := receiveOr(bad); err == nil {
			t.Errorf("%s: a stranger's certificate got %+v", scheme, p)
		}
	}
}

func dialTCP(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// Whoever does not come to CONNECT in time is cut off, wherever it stops, and gives back what it held.
func TestWhoeverDoesNotComeToConnectIsCutOff(t *testing.T) {
	memory := share(t, 10<<20)
	h := newHarbour(t, mqtt.Config{ConnectTimeout: 150 * time.Millisecond, Connections: memory})
	for _, scheme := range schemes {
		address := h.at(scheme)
		network := "tcp"
		if scheme == "unix" {
			network = scheme
		}
		for what, begin := range map[string]func() net.Conn{
			"nothing": func() net.Conn {
				conn, err := net.Dial(network, address)
				if err != nil {
					t.Fatal(err)
				}
				return conn
			},
			"the handshakes": func() net.Conn { return h.raw(scheme, address) },
			"half a hello": func() net.Conn {
				conn, err := net.Dial(network, address)
				if err != nil {
					t.Fatal(err)
				}
				// Half of a ClientHello, a request or a CONNECT.
				half := map[string]string{"tls": "\x16\x03\x01\x02\x00\x01", "wss": "\x16\x03\x01\x02\x00\x01", "ws": "GET /mqtt HTTP/1.1\r\nHost"}[scheme]
				if half == "" {
					half = string(hello("a")[:5])
				}
				if _, err := io.WriteString(conn, half); err != nil {
					t.Fatal(err)
				}
				return conn
			},
		} {
			began := time.Now()
			conn := begin()
			if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, conn); errors.Is(err, context.DeadlineExceeded) || timedOut(err) {
				t.Errorf("%s after %s: not cut off", scheme, what)
			}
			if took := time.Since(began); took < 120*time.Millisecond {
				t.Errorf("%s after %s: cut off after %v", scheme, what, took)
			}
			conn.Close() //nolint:errcheck // the server has
		}
	}
	if err := h.s.Close(); err != nil {
		t.Fatal(err)
	}
	if used := memory.Used(); used != 0 {
		t.Errorf("%d bytes are still taken", used)
	}
}

func timedOut(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// Peers that stop in the middle of their handshakes hold up nobody else's.
func TestHandshakesThatStallHoldUpNobody(t *testing.T) {
	h := newHarbour(t, mqtt.Config{ConnectTimeout: time.Minute})
	for _, scheme := range []string{"tls", "wss"} {
		address := h.at(scheme)
		for i := range 40 {
			conn := dialTCP(t, address)
			if i%2 == 0 { // a whole ClientHello, and nothing after the server's answer
				silent := &muted{Conn: conn}
				go tls.Client(silent, h.roots).Handshake() //nolint:errcheck // it never gets further
			}
		}
		began := time.Now()
		conn := h.raw(scheme, address)
		conn.Write(hello("a")) //nolint:errcheck // what is read says whether it came
		receive(t, conn)
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%s: connected after %v", scheme, took)
		}
	}
}

// muted is a connection on which nothing is heard.
type muted struct{ net.Conn }

func (m *muted) Read([]byte) (int, error) {
	return 0, io.EOF
}

// What TLS and WebSocket take of the budget is what they cost.
func TestWhatConnectionsTake(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector, which runs with -short, takes as much again")
	}
	const n = 150
	for _, scheme := range []string{"tcp", "tls", "ws", "wss"} {
		memory := share(t, 100<<20)
		h := newHarbour(t, mqtt.Config{Connections: memory})
		address := h.at(scheme)
		before := heap()
		for i := range n {
			conn := h.raw(scheme, address)
			body := bytes.Repeat([]byte("p"), 40<<10) // whole TLS records
			conn.Write(hello(fmt.Sprint(i)))          //nolint:errcheck // what is read says whether it came
			receive(t, conn)
			conn.Write(pub("x", string(body), 1, 1).Append(nil, packet.V5)) //nolint:errcheck // as above
			receive(t, conn)
		}
		both := heap() - before
		taken := memory.Used() / n
		if err := h.s.Close(); err != nil { // both ends are in this process: what is left is the other one's
			t.Fatal(err)
		}
		each := (both - (heap() - before)) / n
		t.Logf("%s: %d bytes for an idle connection and its session, %d are taken", scheme, each, taken)
		if each > taken*5/4+2<<10 { // the session has a share of its own
			t.Errorf("%s: an idle connection costs %d bytes and takes %d", scheme, each, taken)
		}
	}
}

// heap is what is in use after a collection, with stacks.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
