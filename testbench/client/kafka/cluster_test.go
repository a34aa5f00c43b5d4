package kafka_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"millrace/testbench/client/kafka"
	"millrace/testbench/lane"
)

func TestMain(m *testing.M) { os.Exit(kafka.EndShared(m.Run())) }

// within is the time of one conversation. It only ends a hang.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), lane.Patience)
	t.Cleanup(cancel)
	return ctx
}

// produce writes one record to partition 0 of a topic through the clients' door, and says what the client does.
func produce(ctx context.Context, c *kafka.Cluster, topic, value string, opts ...kgo.Opt) error {
	client, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(c.Bootstrap()...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RequestRetries(3), kgo.RecordDeliveryTimeout(30 * time.Second),
	}, opts...)...)
	if err != nil {
		return err
	}
	defer client.Close()
	return client.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte(value)}).FirstErr()
}

// onlyTo has a client stay with one address, whatever it is told.
func onlyTo(address string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
}

// ends is how many offsets a partition has.
func ends(t *testing.T, c *kafka.Cluster, topic string) int64 {
	t.Helper()
	list, err := kadm.NewClient(c.Client(t)).ListEndOffsets(within(t), topic)
	if err != nil {
		t.Fatal(err)
	}
	o, ok := list.Lookup(topic, 0)
	if !ok || o.Err != nil {
		t.Fatal(ok, o.Err)
	}
	return o.Offset
}

func TestANodeKeepsItsDataAndItsPlace(t *testing.T) {
	begin := time.Now()
	c := kafka.Start(t, kafka.Options{})
	t.Logf("started in %v", time.Since(begin).Round(time.Millisecond))
	c.Create(t, "kept", 1)
	at := c.Bootstrap()
	for i, end := range []func(testing.TB){c.Kill, c.Node(1).Stop} {
		if err := produce(within(t), c, "kept", "x"); err != nil {
			t.Fatal(err)
		}
		rss, err := c.Node(1).PID().RSS()
		if err != nil {
			t.Fatal(err)
		}
		cpu, err := c.Node(1).PID().CPU()
		if err != nil {
			t.Fatal(err)
		}
		end(t)
		if err := produce(t.Context(), c, "kept", "x", kgo.RecordDeliveryTimeout(time.Second), kgo.RecordRetries(1)); err == nil {
			t.Fatal("a node that is gone acknowledges")
		}
		begin = time.Now()
		c.Start(t)
		t.Logf("started again in %v; it had %d MiB and had used %v of CPU time", time.Since(begin).Round(time.Millisecond), rss>>20, cpu)
		if got := ends(t, c, "kept"); got != int64(i+1) || fmt.Sprint(c.Bootstrap()) != fmt.Sprint(at) {
			t.Fatalf("%d records at %v, want %d at %v", got, c.Bootstrap(), i+1, at)
		}
	}
}

// One of three nodes may go: the others take its partitions, and it comes back.
func TestThreeNodes(t *testing.T) {
	begin := time.Now()
	c := kafka.Start(t, kafka.Options{Nodes: 3})
	t.Logf("started in %v", time.Since(begin).Round(time.Millisecond))
	c.Create(t, "three", 3)
	n := c.Node(1)
	n.Kill(t)
	if err := produce(within(t), c, "three", "x"); err != nil {
		t.Fatalf("without a node: %v", err)
	}
	begin = time.Now()
	n.Start(t)
	t.Logf("it came back in %v", time.Since(begin).Round(time.Millisecond))
	if err := produce(within(t), c, "three", "x"); err != nil {
		t.Fatal(err)
	}
	if got := ends(t, c, "three"); got != 2 {
		t.Errorf("%d records, want 2", got)
	}
}

func TestWhoMayComeIn(t *testing.T) {
	const user, password = "board-7", "open sesame"
	token := func(end time.Time) sasl.Mechanism {
		text, err := kafka.Token(user, end)
		if err != nil {
			t.Fatal(err)
		}
		return oauth.Auth{Token: text}.AsMechanism()
	}
	with := func(password string) map[string]sasl.Mechanism {
		return map[string]sasl.Mechanism{
			"PLAIN":         plain.Auth{User: user, Pass: password}.AsMechanism(),
			"SCRAM-SHA-256": scram.Auth{User: user, Pass: password}.AsSha256Mechanism(),
			"SCRAM-SHA-512": scram.Auth{User: user, Pass: password}.AsSha512Mechanism(),
		}
	}
	good, bad := with(password), with("wrong")
	good["OAUTHBEARER"], bad["OAUTHBEARER"] = token(time.Now().Add(time.Hour)), token(time.Now().Add(-time.Hour))
	c := kafka.Start(t, kafka.Options{
		Protocol: "SASL_SSL", Mechanisms: []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"},
		Users: map[string]string{user: password}, ClientCertificates: true,
	})
	c.Create(t, "shut", 1)
	secure := func(name string) kgo.Opt {
		ca, err := os.ReadFile(filepath.Join(c.Certs, "ca.crt"))
		if err != nil {
			t.Fatal(err)
		}
		config := &tls.Config{RootCAs: x509.NewCertPool()}
		config.RootCAs.AppendCertsFromPEM(ca)
		if name != "" {
			pair, err := tls.LoadX509KeyPair(filepath.Join(c.Certs, name+".crt"), filepath.Join(c.Certs, name+".key"))
			if err != nil {
				t.Fatal(err)
			}
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}
		return kgo.DialTLSConfig(config)
	}
	refused := []kgo.Opt{kgo.RecordDeliveryTimeout(2 * time.Second), kgo.RecordRetries(1)}
	for name := range good {
		if err := produce(within(t), c, "shut", name, kgo.SASL(good[name]), secure("client")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := produce(within(t), c, "shut", name, append(refused, kgo.SASL(bad[name]), secure("client"))...); err == nil {
			t.Errorf("%s lets in who has not proved who it is", name)
		}
	}
	for _, name := range []string{"", "late", "stranger"} {
		if err := produce(within(t), c, "shut", name, append(refused, kgo.SASL(good["PLAIN"]), secure(name))...); err == nil {
			t.Errorf("the certificate %q is good", name)
		}
	}
	if got := ends(t, c, "shut"); got != int64(len(good)) {
		t.Errorf("%d records, want %d", got, len(good))
	}
}
