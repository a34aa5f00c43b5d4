package franz

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/testbench/client/board"
)

// secured is a client of a secure board.
func secured(t *testing.T, b *board.Secure, protocol string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	opts = append([]kgo.Opt{kgo.SeedBrokers(b.Address(protocol)), kgo.RequestRetries(0), kgo.RetryTimeout(5 * time.Second)}, opts...)
	c, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func tlsWith(t *testing.T, b *board.Secure, name string) kgo.Opt {
	t.Helper()
	ca, err := os.ReadFile(filepath.Join(b.Certs, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	config.RootCAs.AppendCertsFromPEM(ca)
	if name != "" {
		pair, err := tls.LoadX509KeyPair(filepath.Join(b.Certs, name+".crt"), filepath.Join(b.Certs, name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return kgo.DialTLSConfig(config)
}

// Ann does the same through every door, and is stopped at the same places.
func TestEveryDoor(t *testing.T) {
	b := board.StartSecure(t, nil)
	doors := map[string][]kgo.Opt{"SSL": {tlsWith(t, b, board.Ann)}}
	for name, m := range mechanisms(board.Ann, board.Password) {
		doors["SASL_PLAINTEXT "+name] = []kgo.Opt{kgo.SASL(m)}
		doors["SASL_SSL "+name] = []kgo.Opt{kgo.SASL(m), tlsWith(t, b, "")}
	}
	want := 0
	for name, opts := range doors {
		t.Run(name, func(t *testing.T) {
			protocol, _, _ := strings.Cut(name, " ")
			ctx := within(t)
			c := secured(t, b, protocol, append(opts, kgo.ConsumeTopics("open"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
			for range 3 { // 900 KB through the door and back
				want++
				if err := c.ProduceSync(ctx, &kgo.Record{Topic: "open", Value: []byte(strings.Repeat("x", 300_000))}).FirstErr(); err != nil {
					t.Fatal(err)
				}
			}
			for got := 0; got < want; {
				f := c.PollFetches(ctx)
				if err := f.Err(); err != nil {
					t.Fatal(err)
				}
				got += f.NumRecords()
			}
			if err := c.ProduceSync(ctx, &kgo.Record{Topic: "shut", Value: []byte("x")}).FirstErr(); !errors.Is(err, kerr.TopicAuthorizationFailed) {
				t.Errorf("to write where she may not: %v", err)
			}
			admin := kadm.NewClient(c)
			if offsets, err := admin.ListEndOffsets(ctx, "shut"); err == nil && !errors.Is(offsets.Error(), kerr.TopicAuthorizationFailed) {
				t.Errorf("to read where she may not: %v", offsets.Error())
			}
			if topics, err := admin.ListTopics(ctx); err != nil || !topics.Has("open") || topics.Has("shut") {
				t.Errorf("she sees %v, %v", topics.Names(), err)
			}
			if _, err := admin.CreateTopic(ctx, 1, 1, nil, "mine"); !errors.Is(err, kerr.TopicAuthorizationFailed) {
				t.Errorf("to create a topic: %v", err)
			}
			if _, err := admin.DescribeUserSCRAMs(ctx); !errors.Is(err, kerr.ClusterAuthorizationFailed) {
				t.Errorf("to describe users: %v", err)
			}
			if r, err := admin.DescribeACLs(ctx, kadm.NewACLs().AnyResource().Allow().AllowHosts().Deny().DenyHosts().Operations()); err == nil && len(r) > 0 && !errors.Is(r[0].Err, kerr.ClusterAuthorizationFailed) {
				t.Errorf("to describe ACLs: %+v", r)
			}
		})
	}
}

func TestRefusedAtTheDoor(t *testing.T) {
	b := board.StartSecure(t, nil)
	try := func(protocol string, opts ...kgo.Opt) error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		return secured(t, b, protocol, opts...).Ping(ctx)
	}
	for who, password := range map[string]string{board.Ann: "wrong password", "nobody": board.Password} {
		for name, m := range mechanisms(who, password) {
			if err := try("SASL_SSL", kgo.SASL(m), tlsWith(t, b, "")); !errors.Is(err, kerr.SaslAuthenticationFailed) {
				t.Errorf("%s with %s: %v", who, name, err)
			}
		}
	}
	for name, want := range map[string]string{"late": "expired certificate", "stranger": "unknown certificate authority", "": "certificate required"} {
		if err := try("SSL", tlsWith(t, b, name)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("certificate %q: %v, want %s", name, err, want)
		}
	}
}

// Certificates are replaced while the board runs; connections stay.
func TestCertificatesAreReplaced(t *testing.T) {
	b := board.StartSecure(t, nil)
	before := secured(t, b, "SASL_SSL", kgo.SASL(mechanisms(board.Ann, board.Password)["PLAIN"]), tlsWith(t, b, ""))
	if err := before.Ping(within(t)); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{".crt", ".key"} {
		raw, err := os.ReadFile(filepath.Join(b.Certs, "stranger"+suffix))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(b.Certs, "board"+suffix), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := b.Reload(b.Settings()); err != nil {
		t.Fatal(err)
	}
	after := secured(t, b, "SASL_SSL", kgo.SASL(mechanisms(board.Ann, board.Password)["PLAIN"]), tlsWith(t, b, ""))
	if err := after.Ping(within(t)); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("another certificate is not shown: %v", err)
	}
	if err := before.Ping(within(t)); err != nil {
		t.Errorf("a connection from before ended: %v", err)
	}
}
