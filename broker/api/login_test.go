package api

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/xdg-go/scram"

	"millrace/broker/auth"
	"millrace/broker/budget"
	"millrace/broker/catalog"
	"millrace/broker/server"
)

// door is a board behind a real server that asks who clients are.
type door struct {
	*board
	addr string
	log  lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func openDoor(t *testing.T, change func(*Config)) *door {
	t.Helper()
	d := &door{}
	logger := slog.New(slog.NewTextHandler(&d.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	d.board = open(t, func(c *Config) {
		c.Mechanisms, c.Logger = []auth.Mechanism{auth.ScramSHA256, auth.Plain}, logger
		if change != nil {
			change(c)
		}
	})
	for _, user := range []string{"ann", "bob"} {
		c, err := auth.NewCredential(auth.ScramSHA256, user+"'s secret", auth.IterationsMin)
		if err != nil {
			t.Fatal(err)
		}
		d.do(catalog.UpsertCredential{User: user, Credential: c})
	}
	memory := budget.New(2 << 20)
	share := func(name string) *budget.Share {
		s, err := memory.Share(name, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := server.New(server.Config{Handler: d.board, Bodies: share("bodies"), Copies: share("copies"), Logger: logger})
	addr, err := s.Listen(server.Listener{Address: "127.0.0.1:0", Protocol: auth.SASLPlaintext})
	if err != nil {
		t.Fatal(err)
	}
	d.addr = addr.String()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if log := d.log.String(); strings.Contains(log, "secret") || strings.Contains(log, "ann") || strings.Contains(log, "bob") {
			t.Errorf("the log tells too much:\n%s", log)
		}
	})
	return d
}

// line is one connection.
type line struct {
	*testing.T
	net.Conn
}

func (d *door) dial(t *testing.T) *line {
	t.Helper()
	c, err := net.Dial("tcp", d.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &line{t, c}
}

// frame sends bytes behind their length and returns those of the answer, nil when the connection ends.
func (l *line) frame(p []byte) []byte {
	l.Helper()
	if _, err := l.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(p))), p...)); err != nil {
		l.Fatal(err)
	}
	var size [4]byte
	if _, err := io.ReadFull(l, size[:]); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			l.Fatal("the connection stays open and says nothing")
		}
		return nil
	}
	out := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(l, out); err != nil {
		l.Fatal(err)
	}
	return out
}

// ask sends a request; the answer is nil when the connection ends without one.
func (l *line) ask(req kmsg.Request, version int16) kmsg.Response {
	l.Helper()
	req.SetVersion(version)
	p := l.frame(kmsg.NewRequestFormatter(kmsg.FormatterClientID("c")).AppendRequest(nil, req, 1)[4:])
	if p == nil {
		return nil
	}
	resp := req.ResponseKind()
	resp.SetVersion(version)
	head := 4
	if resp.IsFlexible() && req.Key() != 18 {
		head++
	}
	if err := resp.ReadFrom(p[head:]); err != nil {
		l.Fatalf("%T: %v", resp, err)
	}
	return resp
}

// ended says whether the connection is over.
func (l *line) ended() bool {
	_, err := l.Read(make([]byte, 1))
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

func (l *line) handshake(mechanism string, version int16) *kmsg.SASLHandshakeResponse {
	l.Helper()
	req := kmsg.NewPtrSASLHandshakeRequest()
	req.Mechanism = mechanism
	resp, ok := l.ask(req, version).(*kmsg.SASLHandshakeResponse)
	if !ok {
		l.Fatal("no answer to the handshake")
	}
	return resp
}

func (l *line) authenticate(token string, version int16) *kmsg.SASLAuthenticateResponse {
	l.Helper()
	req := kmsg.NewPtrSASLAuthenticateRequest()
	req.SASLAuthBytes = []byte(token)
	resp, _ := l.ask(req, version).(*kmsg.SASLAuthenticateResponse)
	return resp
}

const annsLogin = "\x00ann\x00ann's secret"

func TestLoginStates(t *testing.T) {
	d := openDoor(t, nil)
	metadata := func() kmsg.Request { return kmsg.NewPtrMetadataRequest() }
	for _, version := range []int16{0, 1, 2} {
		l := d.dial(t)
		if resp := l.ask(kmsg.NewPtrApiVersionsRequest(), 3).(*kmsg.ApiVersionsResponse); resp.ErrorCode != 0 {
			t.Errorf("ApiVersions before the login: %d", resp.ErrorCode)
		}
		if r := l.handshake("PLAIN", 1); r.ErrorCode != 0 || strings.Join(r.SupportedMechanisms, " ") != "SCRAM-SHA-256 PLAIN" {
			t.Errorf("%+v", r)
		}
		if r := l.authenticate(annsLogin, version); r.ErrorCode != 0 || r.SASLAuthBytes == nil || r.SessionLifetimeMillis != 0 {
			t.Errorf("v%d: %+v", version, r)
		}
		if l.ask(metadata(), 12) == nil {
			t.Error("nothing is served after the login")
		}
		// Once logged in, another login has no meaning, and changes nothing.
		if r := l.authenticate(annsLogin, version); r.ErrorCode != codeIllegalSASLState {
			t.Errorf("%+v", r)
		}
		if r := l.handshake("PLAIN", 1); r.ErrorCode != codeIllegalSASLState {
			t.Errorf("%+v", r)
		}
		if l.ask(metadata(), 12) == nil {
			t.Error("nothing is served any more")
		}
	}
	t.Run("unsupported mechanism", func(t *testing.T) {
		for _, name := range []string{"SCRAM-SHA-512", "GSSAPI", ""} {
			l := d.dial(t)
			if r := l.handshake(name, 1); r.ErrorCode != codeUnsupportedMechanism || len(r.SupportedMechanisms) != 2 || !l.ended() {
				t.Errorf("%s: %+v", name, r)
			}
		}
	})
	t.Run("two handshakes", func(t *testing.T) {
		l := d.dial(t)
		l.handshake("PLAIN", 1)
		if r := l.handshake("PLAIN", 1); r.ErrorCode != codeIllegalSASLState || !l.ended() {
			t.Errorf("%+v", r)
		}
	})
	t.Run("no handshake", func(t *testing.T) {
		l := d.dial(t)
		if r := l.authenticate(annsLogin, 2); r == nil || r.ErrorCode != codeIllegalSASLState || !l.ended() {
			t.Errorf("%+v", r)
		}
	})
	t.Run("other requests", func(t *testing.T) {
		for _, before := range []func(*line){func(*line) {}, func(l *line) { l.handshake("PLAIN", 1) }} {
			l := d.dial(t)
			before(l)
			if r := l.ask(metadata(), 12); r != nil {
				t.Errorf("%+v", r)
			}
		}
	})
	t.Run("wrong passwords", func(t *testing.T) {
		for _, token := range []string{
			"\x00ann\x00bob's secret", "\x00nobody\x00ann's secret", "\x00ann\x00", "\x00\x00ann's secret", "bob\x00ann\x00ann's secret",
			"ann", "", "\x00ann\x00ann's secret\x00", "\x00ann\x00\xff", strings.Repeat("x", 3000),
		} {
			l := d.dial(t)
			l.handshake("PLAIN", 1)
			r := l.authenticate(token, 2)
			if r == nil || r.ErrorCode != codeAuthenticationFailed || *r.ErrorMessage != auth.ErrAuthentication.Error() || !l.ended() {
				t.Errorf("%.40q: %+v", token, r)
			}
		}
	})
}

// SaslHandshake v0, as old librdkafka sends it: the messages of the login come bare.
func TestBareLogins(t *testing.T) {
	d := openDoor(t, nil)
	l := d.dial(t)
	l.handshake("PLAIN", 0)
	if p := l.frame([]byte(annsLogin)); p == nil || len(p) != 0 {
		t.Fatalf("%x", p)
	}
	if l.ask(kmsg.NewPtrMetadataRequest(), 12) == nil {
		t.Error("nothing is served after the login")
	}
	l = d.dial(t)
	l.handshake("PLAIN", 0)
	if p := l.frame([]byte("\x00ann\x00wrong")); p != nil {
		t.Errorf("a wrong password is answered: %x", p)
	}
	for _, size := range []uint32{0, 1 << 31, 1 << 20} {
		l = d.dial(t)
		l.handshake("PLAIN", 0)
		if _, err := l.Write(binary.BigEndian.AppendUint32(nil, size)); err != nil || !l.ended() {
			t.Errorf("a token of %d bytes: %v", size, err)
		}
	}
	l = d.dial(t)
	l.handshake("SCRAM-SHA-256", 0)
	client, err := scram.SHA256.NewClient("bob", "bob's secret", "")
	if err != nil {
		t.Fatal(err)
	}
	talk, challenge := client.NewConversation(), ""
	for !talk.Done() {
		token, err := talk.Step(challenge)
		if err != nil {
			t.Fatal(err)
		}
		if talk.Done() {
			break
		}
		challenge = string(l.frame([]byte(token)))
	}
	if !talk.Valid() || l.ask(kmsg.NewPtrMetadataRequest(), 12) == nil {
		t.Error("SCRAM did not log in")
	}
}

// A user who does not exist cannot be told from one whose password is wrong.
func TestNobodyLooksLikeSomebody(t *testing.T) {
	d := openDoor(t, nil)
	first := func(user string) (salt string) {
		l := d.dial(t)
		l.handshake("SCRAM-SHA-256", 1)
		r := l.authenticate("n,,n="+user+",r=abc", 1)
		if r.ErrorCode != 0 {
			t.Fatalf("%s: %+v", user, r)
		}
		fields := strings.Split(string(r.SASLAuthBytes), ",")
		if len(fields) != 3 || fields[2] != "i=4096" || len(fields[1]) != len("s=")+32 {
			t.Errorf("%s: %s", user, r.SASLAuthBytes)
		}
		if last := l.authenticate("c=biws,"+fields[0]+",p="+strings.Repeat("A", 43)+"=", 1); last.ErrorCode != codeAuthenticationFailed || !l.ended() {
			t.Errorf("%s: %+v", user, last)
		}
		return fields[1]
	}
	again := map[string]string{"ann": first("ann"), "nobody": first("nobody")}
	if first("ann") != again["ann"] || first("nobody") != again["nobody"] || first("no one") == again["nobody"] {
		t.Error("salts give away who exists")
	}
}

func TestLoginsEndAndAreRenewed(t *testing.T) {
	d := openDoor(t, func(c *Config) { c.MaxReauthMS = 10_000 })
	login := func(t *testing.T) *line {
		l := d.dial(t)
		l.handshake("PLAIN", 1)
		if r := l.authenticate(annsLogin, 1); r.ErrorCode != 0 || r.SessionLifetimeMillis != 10_000 {
			t.Fatalf("%+v", r)
		}
		return l
	}
	serves := func(l *line) bool { return l.ask(kmsg.NewPtrMetadataRequest(), 12) != nil }
	l, other := login(t), login(t)
	if r := l.handshake("PLAIN", 1); r.ErrorCode != codeIllegalSASLState || !serves(l) { // not twice in a second
		t.Errorf("%+v", r)
	}
	d.nowMS.Add(9000)
	if r := l.handshake("PLAIN", 1); r.ErrorCode != 0 {
		t.Errorf("%+v", r)
	}
	if r := l.authenticate(annsLogin, 1); r.ErrorCode != 0 || r.SessionLifetimeMillis != 10_000 {
		t.Errorf("%+v", r)
	}
	d.nowMS.Add(1500)
	if !serves(l) {
		t.Error("a renewed login is not served")
	}
	if serves(other) {
		t.Error("a login that has ended is served")
	}
	d.nowMS.Add(20_000)
	if r := l.handshake("PLAIN", 1); r.ErrorCode != 0 { // late, but the first thing the peer does
		t.Errorf("%+v", r)
	}
	if serves(l) {
		t.Error("requests are served in the middle of a login")
	}
	l = login(t)
	d.nowMS.Add(2000)
	l.handshake("PLAIN", 1)
	if r := l.authenticate("\x00bob\x00bob's secret", 1); r.ErrorCode != codeAuthenticationFailed || !l.ended() {
		t.Errorf("a connection changed hands: %+v", r)
	}
	l = login(t)
	d.nowMS.Add(2000)
	if r := l.handshake("SCRAM-SHA-256", 1); r.ErrorCode != codeUnsupportedMechanism || !l.ended() {
		t.Errorf("a connection changed its mechanism: %+v", r)
	}
}

// The answer to a failed login waits, and nobody else does.
func TestFailuresWait(t *testing.T) {
	const delay = time.Second // the growth is the damper's own test
	d := openDoor(t, func(c *Config) { c.Damper = auth.NewDamper(delay) })
	l, good := d.dial(t), d.dial(t)
	l.handshake("PLAIN", 1)
	begin := time.Now()
	req := kmsg.NewPtrSASLAuthenticateRequest()
	req.Version, req.SASLAuthBytes = 1, []byte("\x00ann\x00wrong")
	if _, err := l.Write(kmsg.NewRequestFormatter().AppendRequest(nil, req, 1)); err != nil {
		t.Fatal(err)
	}
	good.handshake("PLAIN", 1)
	if r := good.authenticate(annsLogin, 1); r.ErrorCode != 0 {
		t.Errorf("%+v", r)
	}
	other := time.Since(begin)
	if _, err := l.Read(make([]byte, 1)); err != nil || time.Since(begin) < delay {
		t.Errorf("%v after %v", err, time.Since(begin))
	}
	if other >= delay {
		t.Errorf("somebody else waited %v", other)
	}
	if !strings.Contains(d.log.String(), "a login failed") {
		t.Errorf("no word of it in the log: %s", d.log.String())
	}
}
