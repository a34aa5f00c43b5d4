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

	"millrace/testbench/badlink"
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

// produce writes one record to a partition of a topic through the clients' door, and says what the client does.
func produce(ctx context.Context, c *kafka.Cluster, topic string, partition int32, value string, opts ...kgo.Opt) error {
	client, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(c.Bootstrap()...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RecordDeliveryTimeout(time.Minute),
	}, opts...)...)
	if err != nil {
		return err
	}
	defer client.Close()
	return client.ProduceSync(ctx, &kgo.Record{Topic: topic, Partition: partition, Value: []byte(value)}).FirstErr()
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
		if err := produce(within(t), c, "kept", 0, "x"); err != nil {
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
		if err := produce(t.Context(), c, "kept", 0, "x", kgo.RecordDeliveryTimeout(time.Second), kgo.RecordRetries(1)); err == nil {
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

// Three nodes have a link each before them, which clients find: one node may go, the others take its partitions, and it
// comes back.
func TestThreeNodes(t *testing.T) {
	const partitions = 3
	links := map[int]*badlink.Link{}
	begin := time.Now()
	c := kafka.Start(t, kafka.Options{Nodes: 3, Advertise: func(id int, address string) string {
		links[id] = badlink.New(t, address)
		return links[id].Addr
	}})
	t.Logf("started in %v", time.Since(begin).Round(time.Millisecond))
	c.Create(t, "three", partitions)
	all := func(when string) {
		t.Helper()
		for p := range int32(partitions) {
			if err := produce(within(t), c, "three", p, "x"); err != nil {
				t.Fatalf("%s: partition %d: %v", when, p, err)
			}
		}
	}
	all("three")
	for id, l := range links {
		if s := l.Stats(); s.Up == 0 || s.Down == 0 || s.Resets > 0 {
			t.Errorf("before node %d: %+v", id, s)
		}
	}
	n := c.Node(1)
	n.Kill(t)
	all("two")
	begin = time.Now()
	n.Start(t)
	t.Logf("it came back in %v", time.Since(begin).Round(time.Millisecond))
	all("three again")
	if got := ends(t, c, "three"); got != 3 {
		t.Errorf("%d records, want 3", got)
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
	enters := func(opts ...kgo.Opt) error {
		client, err := kgo.NewClient(append(opts, kgo.SeedBrokers(c.Bootstrap()...), kgo.RequestRetries(0))...)
		if err != nil {
			return err
		}
		defer client.Close()
		return client.Ping(within(t))
	}
	for name := range good {
		if err := produce(within(t), c, "shut", 0, name, kgo.SASL(good[name]), secure("client")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := enters(kgo.SASL(good[name]), secure("client")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if enters(kgo.SASL(bad[name]), secure("client")) == nil {
			t.Errorf("%s lets in who has not proved who it is", name)
		}
	}
	for _, name := range []string{"", "late", "stranger"} {
		if enters(kgo.SASL(good["PLAIN"]), secure(name)) == nil {
			t.Errorf("the certificate %q is good", name)
		}
	}
	if got := ends(t, c, "shut"); got != int64(len(good)) {
		t.Errorf("%d records, want %d", got, len(good))
	}
}
