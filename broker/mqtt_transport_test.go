package broker

import (
	"bytes"
	"crypto/tls"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"millrace/broker/auth"
	"millrace/broker/auth/authtest"
	"millrace/broker/catalog"
	"millrace/platform/config"
)

// harbour is a board with MQTT listeners of every transport, which ask who clients are.
type harbour struct {
	*Broker
	t   *testing.T
	dir string
	ca  *authtest.Authority
	log *lines
}

// lines is a log that can be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var transports = []string{"tcp", "ssl", "ws", "wss", "unix"}

func openHarbour(t *testing.T, change func(*config.Config)) *harbour {
	t.Helper()
	h := &harbour{t: t, dir: t.TempDir(), ca: authtest.NewAuthority(t), log: new(lines)}
	s := config.Default()
	s.Broker.LogDirs, s.Broker.ClusterAlias, s.HTTP.Listener = filepath.Join(h.dir, "data"), "test", ""
	s.Broker.Listeners = []string{"PLAINTEXT://127.0.0.1:0"}
	s.Broker.ClientAuth, s.Broker.Authorizer, s.Broker.FailureDelay = "requested", "on", 10*time.Millisecond
	s.Broker.MappingRules = []string{"RULE:^CN=([^,]+).*$/$1/"}
	s.Security.ClientCAFile = h.ca.WriteAuthority(h.dir)
	s.Security.CertFile, s.Security.KeyFile = h.issue("board")
	s.MQTT.AllowAnonymous = false
	s.MQTT.Listeners = []string{"tcp://127.0.0.1:0", "tls://127.0.0.1:0", "ws://127.0.0.1:0", "wss://127.0.0.1:0", "unix://" + filepath.Join(h.dir, "mqtt.sock")}
	if change != nil {
		change(s)
	}
	if err := s.CheckListeners(); err != nil {
		t.Fatal(err)
	}
	var err error
	if h.Broker, err = Open(t.Context(), Config{Settings: s, Logger: slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		for _, secret := range []string{"open sesame", "a wrong one", "PRIVATE"} {
			if strings.Contains(h.log.String(), secret) {
				t.Errorf("%q is in the log:\n%s", secret, h.log)
			}
		}
	})
	for _, m := range []auth.Mechanism{auth.ScramSHA256, auth.ScramSHA512} {
		c, err := auth.NewCredential(m, "open sesame", auth.IterationsMin)
		if err != nil {
			t.Fatal(err)
		}
		h.propose(catalog.UpsertCredential{User: "ann", Credential: c})
	}
	return h
}

func (h *harbour) issue(name string) (cert, key string) {
	return h.ca.Write(h.dir, name, h.ca.Issue(pkix.Name{CommonName: name}, time.Now().Add(time.Hour)))
}

func (h *harbour) propose(c catalog.Command) {
	h.t.Helper()
	if _, err := h.Propose(h.t.Context(), c); err != nil {
		h.t.Fatal(err)
	}
}

// allow lets a user do something with a Kafka topic, or a topic filter.
func (h *harbour) allow(user string, op auth.Operation, name string) {
	h.t.Helper()
	h.propose(catalog.AddACLs{ACLs: []auth.ACL{{
		Type: auth.Topic, Pattern: auth.Literal, Name: name, Principal: auth.User(user), Host: auth.Wildcard, Operation: op, Permission: auth.Allow,
	}}})
}

// options are those of a client of a transport.
func (h *harbour) options(transport, id string) *paho.ClientOptions {
	for i, of := range transports {
		if of == transport {
			url := of + "://" + h.Addresses().MQTT[i]
			if strings.HasPrefix(of, "ws") {
				url += "/mqtt"
			}
			return paho.NewClientOptions().AddBroker(url).SetClientID(id).SetAutoReconnect(false).SetConnectTimeout(20 * time.Second).
				SetTLSConfig(&tls.Config{RootCAs: h.ca.Pool(), ServerName: "localhost"})
		}
	}
	h.t.Fatalf("no transport %s", transport)
	return nil
}

func (h *harbour) connect(o *paho.ClientOptions) paho.Client {
	h.t.Helper()
	c := paho.NewClient(o)
	h.finished(c.Connect())
	h.t.Cleanup(func() { c.Disconnect(0) })
	return c
}

func (h *harbour) finished(token paho.Token) {
	h.t.Helper()
	if !token.WaitTimeout(20 * time.Second) {
		h.t.Fatal("no answer in 20 s")
	}
	if token.Error() != nil {
		h.t.Fatal(token.Error())
	}
}

func TestMQTTUsersOverEveryTransport(t *testing.T) {
	h := openHarbour(t, nil)
	h.allow("*", auth.Write, "mqtt:devices/%c/#")
	h.allow("ann", auth.Read, "mqtt")
	h.allow("carl", auth.All, "mqtt:carl")
	got := make(chan string, 100)
	reader := h.connect(h.options("tcp", "reader").SetUsername("ann").SetPassword("open sesame"))
	h.finished(reader.Subscribe("#", 1, func(_ paho.Client, m paho.Message) { got <- m.Topic() + " " + string(m.Payload()) }))
	for _, transport := range transports {
		for what, o := range map[string]*paho.ClientOptions{
			"nobody":  h.options(transport, "x"),
			"a guess": h.options(transport, "x").SetUsername("ann").SetPassword("a wrong one"),
		} {
			c := paho.NewClient(o)
			token := c.Connect()
			if !token.WaitTimeout(20*time.Second) || token.Error() == nil {
				t.Errorf("%s over %s was let in", what, transport)
			}
		}
		id := "dev-" + transport
		c := h.connect(h.options(transport, id).SetUsername("ann").SetPassword("open sesame"))
		h.finished(c.Publish("devices/"+id+"/state", 1, false, transport))
		select {
		case s := <-got:
			if want := "devices/" + id + "/state " + transport; s != want {
				t.Fatalf("got %q, want %q", s, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("nothing came in 20 s")
		}
		// What is not allowed is not acknowledged: 3.1.1 knows only the end of the connection.
		lost := make(chan struct{})
		c = h.connect(h.options(transport, id).SetUsername("ann").SetPassword("open sesame").SetConnectionLostHandler(func(paho.Client, error) { close(lost) }))
		denied := c.Publish("devices/other/state", 1, false, "no")
		select {
		case <-lost:
		case <-time.After(20 * time.Second):
			t.Fatal("still connected")
		}
		if denied.WaitTimeout(0) && denied.Error() == nil {
			t.Errorf("over %s a message was acknowledged that nobody may publish", transport)
		}
		if transport != "ssl" && transport != "wss" {
			continue
		}
		// A certificate is a login too.
		o := h.options(transport, "carl")
		o.TLSConfig.Certificates = []tls.Certificate{h.ca.Issue(pkix.Name{CommonName: "carl"}, time.Now().Add(time.Hour))}
		h.finished(h.connect(o).Publish("carl", 1, false, "certified"))
		if s := <-got; s != "carl certified" {
			t.Fatalf("got %q", s)
		}
	}
}

// A reload shows the new certificate to the next clients of this door too; who is connected stays.
func TestMQTTShowsTheCertificateOfTheLastReload(t *testing.T) {
	h := openHarbour(t, nil)
	shown := func(transport string) string {
		t.Helper()
		at := map[string]int{"ssl": 1, "wss": 3}[transport]
		conn, err := tls.Dial("tcp", h.Addresses().MQTT[at], &tls.Config{RootCAs: h.ca.Pool(), ServerName: "localhost"})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	h.allow("ann", auth.Write, "mqtt")
	stays := h.connect(h.options("wss", "stays").SetUsername("ann").SetPassword("open sesame"))
	next := *h.config.Settings
	next.Security.CertFile, next.Security.KeyFile = h.issue("second")
	if _, _, err := h.Reload(&next); err != nil {
		t.Fatal(err)
	}
	for _, transport := range []string{"ssl", "wss"} {
		if name := shown(transport); name != "second" {
			t.Errorf("%s shows %s", transport, name)
		}
	}
	h.finished(stays.Publish("x", 1, false, "still here"))
}

func TestMQTTListenersSayWhatTheyDoNotProtect(t *testing.T) {
	h := openHarbour(t, func(c *config.Config) {
		c.Broker.Authorizer, c.MQTT.AllowAnonymous, c.Broker.Insecure = "off", true, true
		c.MQTT.Listeners = []string{"tcp://127.0.0.1:0", "tcp://0.0.0.0:0"}
		c.MQTT.Places = []config.MQTTListener{{URL: "wss://0.0.0.0:0", AllowAnonymous: "false"}}
	})
	for text, want := range map[string]int{
		"INSECURE: whoever reaches this listener is served without being asked": 1, "does not encrypt": 1, "nobody needs permission": 1,
	} {
		if n := strings.Count(h.log.String(), text); n != want {
			t.Errorf("%q is said %d times, want %d:\n%s", text, n, want, h.log)
		}
	}
	// And the one that asks, asks.
	c := paho.NewClient(paho.NewClientOptions().AddBroker("wss://" + h.Addresses().MQTT[2] + "/mqtt").SetTLSConfig(&tls.Config{RootCAs: h.ca.Pool(), ServerName: "localhost"}))
	if token := c.Connect(); !token.WaitTimeout(20*time.Second) || token.Error() == nil {
		t.Error("nobody in particular was let in")
	}
}

func TestUnixSockets(t *testing.T) {
	listen := func(path string, mode fs.FileMode) (net.Listener, error) { return listenUnix(t.Context(), path, mode) }
	closed := func(l net.Listener) {
		t.Helper()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	for _, mode := range []fs.FileMode{0o600, 0o660, 0o666, 0o777} {
		l, err := listen(path, mode)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Lstat(path); err != nil || info.Mode() != fs.ModeSocket|mode {
			t.Errorf("made with %o: %v, %v", mode, info.Mode(), err)
		}
		if _, err := listen(path, mode); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("a socket somebody listens at is taken: %v", err)
		}
		conn, err := net.Dial("unix", path) // who listens there still does
		if err != nil {
			t.Fatal(err)
		}
		conn.Close() //nolint:errcheck // nothing was written
		closed(l)
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the socket is left behind: %v", err)
		}
	}
	// What a crash leaves behind.
	l, err := listen(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	closed(l)
	if l, err = listen(path, 0o600); err != nil {
		t.Fatal(err)
	}
	closed(l)
	// What is no socket stays, and is named; so does what a name leads to.
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, link} {
		if _, err := listen(name, 0o600); !errors.Is(err, errNoSocket) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "mine" {
		t.Errorf("%q, %v", b, err)
	}
	// Of many that start at once one has it, over a stale one too.
	for round := range 20 {
		path := filepath.Join(dir, fmt.Sprint("many", round))
		if l, err = listen(path, 0o600); err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		closed(l)
		won := make(chan net.Listener, 8)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if l, err := listen(path, 0o600); err == nil {
					won <- l
				} else if !errors.Is(err, syscall.EADDRINUSE) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if len(won) != 1 {
			t.Fatalf("%d have the socket", len(won))
		}
		closed(<-won)
	}
}
