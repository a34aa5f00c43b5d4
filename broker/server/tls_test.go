package server

import (
	"bytes"
	"crypto/tls"
	"crypto/x509/pkix"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/auth/authtest"
	"millrace/broker/record"
	"millrace/broker/wire"
)

// secured opens a second listener with TLS.
func secured(t testing.TB, s *Server, ca *authtest.Authority, protocol auth.Protocol, ask tls.ClientAuthType) string {
	t.Helper()
	config := &tls.Config{
		Certificates: []tls.Certificate{ca.Issue(pkix.Name{CommonName: "board"}, time.Now().Add(time.Hour))},
		ClientAuth:   ask, ClientCAs: ca.Pool(), MinVersion: tls.VersionTLS12, SessionTicketsDisabled: true, DynamicRecordSizingDisabled: true,
	}
	rules, err := auth.ParseRules([]string{"DEFAULT"})
	if err != nil {
		t.Fatal(err)
	}
	addr, err := s.Listen(Listener{
		Address: "127.0.0.1:0", Protocol: protocol, TLS: func() *tls.Config { return config }, Principal: rules.Principal,
	})
	if err != nil {
		t.Fatal(err)
	}
	return addr.String()
}

func dialTLS(t testing.TB, addr string, config *tls.Config) *client {
	t.Helper()
	c := dial(t, addr)
	config.ServerName = "localhost"
	shaken := tls.Client(c.Conn, config)
	if err := shaken.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Conn = shaken
	return c
}

// whoami answers every request with the principal as the client id's stand-in: the cluster id of a Metadata response.
func whoami(req *Request, reply func(Answer)) func() bool {
	resp := kmsg.NewPtrMetadataResponse()
	who := string(req.Session.Principal) + " at " + req.Session.Host
	resp.ClusterID = &who
	reply(func() *wire.Response { return wire.Encode(req.Header, resp) })
	return nil
}

func (c *client) whoami() string {
	c.Helper()
	c.send(metadata(1))
	_, body := c.receive()
	resp := kmsg.NewPtrMetadataResponse()
	resp.SetVersion(12)
	if err := resp.ReadFrom(body[1:]); err != nil {
		c.Fatal(err)
	}
	return *resp.ClusterID
}

func TestCertificatesArePrincipals(t *testing.T) {
	ca := authtest.NewAuthority(t)
	s, plain := open(t, &fake{whoami}, nil)
	wanted, asked := secured(t, s, ca, auth.SSL, tls.RequireAndVerifyClientCert), secured(t, s, ca, auth.SSL, tls.VerifyClientCertIfGiven)
	mine := ca.Issue(pkix.Name{CommonName: "sensor 7", Organization: []string{"A, B"}, Country: []string{"DE"}}, time.Now().Add(time.Hour))
	with := func(c ...tls.Certificate) *tls.Config { return &tls.Config{RootCAs: ca.Pool(), Certificates: c} }
	if got := dial(t, plain).whoami(); got != "User:ANONYMOUS at 127.0.0.1" {
		t.Errorf("without TLS: %s", got)
	}
	for _, addr := range []string{wanted, asked} {
		if got := dialTLS(t, addr, with(mine)).whoami(); got != `User:CN=sensor 7,O=A\, B,C=DE at 127.0.0.1` {
			t.Errorf("with a certificate: %s", got)
		}
	}
	if got := dialTLS(t, asked, with()).whoami(); got != "User:ANONYMOUS at 127.0.0.1" {
		t.Errorf("without a certificate: %s", got)
	}
	stranger := authtest.NewAuthority(t).Issue(pkix.Name{CommonName: "stranger"}, time.Now().Add(time.Hour))
	expired := ca.Issue(pkix.Name{CommonName: "late"}, time.Now().Add(-time.Minute))
	for name, tt := range map[string]struct {
		config *tls.Config
		addr   string
		alert  string
	}{
		"no certificate":           {with(), wanted, "certificate required"},
		"a stranger's certificate": {with(), asked, "unknown certificate authority"},
		"an expired certificate":   {with(expired), asked, "expired certificate"},
		"TLS 1.1":                  {&tls.Config{RootCAs: ca.Pool(), MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, asked, "protocol version not supported"},
	} {
		if name == "a stranger's certificate" {
			tt.config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &stranger, nil }
		}
		for range 20 { // the alert must not be lost to a reset, however the client's first request meets it
			c := dial(t, tt.addr)
			tt.config.ServerName = "localhost"
			shaken := tls.Client(c.Conn, tt.config)
			_, err := shaken.Write(metadata(1))
			if err == nil {
				_, err = shaken.Read(make([]byte, 1))
			}
			if err == nil || !strings.Contains(err.Error(), tt.alert) {
				t.Fatalf("%s: %v, want alert %q", name, err, tt.alert)
			}
		}
	}
	if n := s.Refused(); n != 0 {
		t.Errorf("%d refused", n)
	}
}

// checked is a span of real batches.
type checked struct {
	fileSpan
	asked int // Append calls
}

func (s *checked) Append(dst []byte) ([]byte, error) {
	s.asked++
	return dst, errors.New("damaged")
}

// Through TLS every batch is checked on its way, whatever its size, and a bad one ends the connection.
func TestSpansThroughTLS(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var content []byte
	for i := range 40 {
		b := record.NewBuilder(record.None)
		b.Add(1000, nil, bytes.Repeat([]byte{byte(i)}, 100+i*7001), nil)
		batch, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		batch.Stamp(int64(i), 1)
		content = append(content, batch...)
	}
	bad := bytes.Clone(content)
	bad[len(bad)-100]++
	if _, err := f.Write(append(content, bad...)); err != nil {
		t.Fatal(err)
	}
	released := make(chan struct{}, 100)
	damaged := &checked{fileSpan: fileSpan{f, int64(len(content)), len(bad), released, false}}
	ca := authtest.NewAuthority(t)
	s, _ := open(t, &fake{func(req *Request, reply func(Answer)) func() bool {
		reply(func() *wire.Response {
			spans := []wire.FetchPartition{{Records: &fileSpan{f, 0, len(content), released, false}}, {Records: &fileSpan{f, 0, 100, released, true}}}
			if req.Correlation == 2 {
				spans = append(spans, wire.FetchPartition{Records: damaged})
			}
			return wire.EncodeFetch(req.Header, &wire.Fetch{Topics: []wire.FetchTopic{{Name: "t", Partitions: spans}}})
		})
		return nil
	}}, func(c *Config) { c.Copies = share(t, 64<<10) })
	addr := secured(t, s, ca, auth.SSL, tls.NoClientCert)
	c := dialTLS(t, addr, &tls.Config{RootCAs: ca.Pool()})
	c.send(fetch(1))
	_, body := c.receive()
	resp := kmsg.NewPtrFetchResponse()
	resp.SetVersion(12)
	if err := resp.ReadFrom(body[1:]); err != nil {
		t.Fatal(err)
	}
	if p := resp.Topics[0].Partitions; !bytes.Equal(p[0].RecordBatches, content) || !bytes.Equal(p[1].RecordBatches, content[:100]) {
		t.Error("other bytes came through")
	}
	c.send(fetch(2))
	c.closed()
	for range 5 {
		<-released
	}
	if damaged.asked != 1 {
		t.Errorf("the log was told of its damage %d times", damaged.asked)
	}
}

// Requests of every size arrive through TLS, and an idle connection is woken by the close.
func TestRequestsThroughTLS(t *testing.T) {
	ca := authtest.NewAuthority(t)
	var mu sync.Mutex
	sizes := map[int32]int{}
	s, _ := open(t, &fake{func(req *Request, reply func(Answer)) func() bool {
		if p, ok := req.Body.(*kmsg.ProduceRequest); ok {
			mu.Lock()
			sizes[req.Correlation] = len(p.Topics[0].Partitions[0].Records)
			mu.Unlock()
		}
		return respond(req, reply)
	}}, nil)
	c := dialTLS(t, secured(t, s, ca, auth.SSL, tls.NoClientCert), &tls.Config{RootCAs: ca.Pool()})
	for i, n := range []int{0, 1, 3000, smallMax, sealMax, sealMax + 1, 100_000, 1 << 20} {
		go func() { c.send(append(produce(n, int32(i)), metadata(int32(100+i))...)) }()
		c.expect(int32(i), int32(100+i))
		mu.Lock()
		if sizes[int32(i)] != n {
			t.Errorf("%d bytes of %d", sizes[int32(i)], n)
		}
		mu.Unlock()
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the stream ends with %v, want TLS's own end", err)
	}
}

// Peers that begin handshakes and do not go on hold up nobody for long, and are cut off.
func TestHalfHandshakesGiveWay(t *testing.T) {
	ca := authtest.NewAuthority(t)
	s, _ := open(t, &fake{respond}, func(c *Config) { c.Handshakes, c.Login = 2, time.Minute })
	addr := secured(t, s, ca, auth.SSL, tls.NoClientCert)
	for range 6 {
		dial(t, addr).send([]byte{0x16, 3, 1})
	}
	c := dialTLS(t, addr, &tls.Config{RootCAs: ca.Pool()})
	c.send(metadata(1))
	c.expect(1)
}

// What TLS connections take is counted, and one that has no room is refused.
func TestTLSConnectionsAreCounted(t *testing.T) {
	ca := authtest.NewAuthority(t)
	room := share(t, 2*tlsCost+4*connectionCost)
	s, plain := open(t, &fake{respond}, func(c *Config) { c.Connections = room })
	addr := secured(t, s, ca, auth.SSL, tls.NoClientCert)
	config := &tls.Config{RootCAs: ca.Pool()}
	first, second := dialTLS(t, addr, config), dialTLS(t, addr, config)
	dial(t, addr).closed()
	first.send(metadata(1))
	first.expect(1)
	c := dial(t, plain)
	c.send(metadata(1))
	c.expect(1)
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	for s.Connections() > 2 {
		time.Sleep(time.Millisecond) // the server sees the end when it does
	}
	third := dialTLS(t, addr, config)
	third.send(metadata(1))
	third.expect(1)
	if s.Refused() != 1 {
		t.Errorf("%d refused", s.Refused())
	}
	if err := s.Close(); err != nil || room.Used() != 0 {
		t.Errorf("%v, %d bytes are not given back", err, room.Used())
	}
}

// Who is to log in and does not is cut off, and is asked nothing else meanwhile.
func TestStrangersAreCutOff(t *testing.T) {
	s, _ := open(t, &fake{respond}, func(c *Config) { c.Login = 100 * time.Millisecond })
	addr, err := s.Listen(Listener{Address: "127.0.0.1:0", Protocol: auth.SASLPlaintext})
	if err != nil {
		t.Fatal(err)
	}
	dial(t, addr.String()).closed()
	for name, p := range map[string][]byte{
		"Metadata":    metadata(1),
		"Produce":     produce(100, 1),
		"a long name": frame(&kmsg.ApiVersionsRequest{ClientSoftwareName: string(make([]byte, smallMax))}, 3, 1),
	} {
		t.Log(name)
		c := dial(t, addr.String())
		c.send(p)
		c.closed()
	}
	versions := kmsg.NewPtrApiVersionsRequest()
	c := dial(t, addr.String())
	c.send(frame(versions, 0, 5))
	c.expect(5)
}

func TestIdleTLSConnectionsAreSmall(t *testing.T) {
	const n = 200
	ca := authtest.NewAuthority(t)
	s, _ := open(t, &fake{respond}, func(c *Config) { c.MaxConnections = n + 1 })
	addr := secured(t, s, ca, auth.SSL, tls.NoClientCert)
	config := &tls.Config{RootCAs: ca.Pool(), ServerName: "localhost"}
	before := heap()
	for i := range int32(n) {
		raw, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = raw.Close() })
		c := &client{t, tls.Client(raw, config)}
		c.send(produce(64<<10, i)) // whole TLS records
		c.expect(i)
	}
	both := heap() - before
	// Both ends are in this process: what is left when this one is closed is the other's.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	each := (both - (heap() - before)) / n
	t.Logf("%d bytes for an idle TLS connection", each)
	if each > (connectionCost+tlsCost)*5/4 { // the race detector takes its part
		t.Errorf("an idle TLS connection costs %d bytes", each)
	}
}
