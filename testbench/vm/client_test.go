package vm

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"millrace/platform/identity"
)

// topic is where the last default route puts what MQTT clients publish.
const topic = "mqtt"

// dialed is how long one attempt to reach a board may take. QEMU takes connections while the board boots, and drops them.
const dialed = 3 * time.Second

// door is where a client comes in: with TLS and as admin, or, without a secret, plain and as nobody.
type door struct {
	kafka, mqtt, secret string
	tls                 *tls.Config
}

// door is where clients come in. The board vouches for itself: who it is has to be the same for a whole life, its name
// right, and what the console says.
func (b *Board) door() door {
	verify := func(s tls.ConnectionState) error {
		leaf := s.PeerCertificates[0]
		roots := x509.NewCertPool()
		roots.AddCert(leaf)
		b.leafMu.Lock()
		defer b.leafMu.Unlock()
		if b.leaf != nil && !b.leaf.Equal(leaf) {
			return errors.New("this board is another")
		}
		b.leaf = leaf
		_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "127.0.0.1"})
		return err
	}
	return door{b.Kafka, b.MQTT, b.Secret, &tls.Config{InsecureSkipVerify: true, VerifyConnection: verify, MinVersion: tls.VersionTLS12}}
}

// fingerprint is that of the certificate that the board shows.
func (b *Board) fingerprint() string {
	b.leafMu.Lock()
	defer b.leafMu.Unlock()
	return identity.Fingerprint(b.leaf)
}

// connect returns an MQTT client that is connected once, as soon as the board serves. It has no name: what QEMU still holds
// of an earlier attempt may reach the board later, and would take over a session of the same name.
func connect(ctx context.Context, t *testing.T, at door) paho.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		options := paho.NewClientOptions().AddBroker("tcp://" + at.mqtt).SetClientID("").
			SetConnectTimeout(dialed).SetAutoReconnect(false).SetOrderMatters(false)
		if at.secret != "" {
			options.Servers = nil
			options.AddBroker("ssl://" + at.mqtt).SetTLSConfig(at.tls).SetUsername("admin").SetPassword(at.secret)
		}
		client := paho.NewClient(options)
		token := client.Connect()
		if token.WaitTimeout(dialed) && token.Error() == nil {
			return client
		}
		client.Disconnect(0)
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("no MQTT connection within %v: %v", patience, token.Error())
		}
	}
}

// ledger is what was acknowledged: the payloads.
type ledger struct {
	mu    sync.Mutex
	acked map[string]bool
}

func newLedger() *ledger { return &ledger{acked: map[string]bool{}} }

func (l *ledger) add(payload string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked[payload] = true
}

func (l *ledger) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked)
}

// publish publishes so many messages with QoS 1, a window of them at a time, until the connection ends, and enters what was
// acknowledged. Payloads are named after the life, and sent once.
func publish(client paho.Client, l *ledger, life string, count int) error {
	const window = 16
	padding := strings.Repeat("x", 200)
	for n := 0; n < count; n += window {
		var payloads []string
		var tokens []paho.Token
		for i := n; i < min(count, n+window); i++ {
			payload := fmt.Sprintf("%s %d %s", life, i, padding)
			payloads = append(payloads, payload)
			tokens = append(tokens, client.Publish("vm/"+life, 1, false, payload))
		}
		for i, token := range tokens {
			if !token.WaitTimeout(patience) {
				return errors.New("no acknowledgement")
			}
			if err := token.Error(); err != nil {
				return err
			}
			l.add(payloads[i])
		}
	}
	return nil
}

// stored is a record of the log.
type stored struct {
	payload string
	at      time.Time
}

// read reads a whole topic as a Kafka client does; nothing where there is no such topic.
func read(t *testing.T, at door, topic string) (list []stored) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	options := []kgo.Opt{kgo.SeedBrokers(at.kafka), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())}
	if at.secret != "" {
		options = append(options, kgo.DialTLSConfig(at.tls), kgo.SASL(scram.Auth{User: "admin", Pass: at.secret}.AsSha512Mechanism()))
	}
	client, err := kgo.NewClient(options...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil
	}
	if err != nil {
		t.Fatalf("read %s: %v", topic, err)
	}
	end, _ := ends.Lookup(topic, 0)
	for next := int64(0); next < end.Offset; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			t.Fatalf("read %s: %v at offset %d of %d", topic, err, next, end.Offset)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Offset != next {
				t.Errorf("%s goes from offset %d to %d", topic, next-1, r.Offset)
			}
			next = r.Offset + 1
			list = append(list, stored{string(r.Value), r.Timestamp})
		})
	}
	return list
}

// verdict says what is wrong with a log: what was acknowledged and is not there, and what is there twice.
func (l *ledger) verdict(log []stored) (faults []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	times := map[string]int{}
	for _, r := range log {
		times[r.payload]++
	}
	lost, twice := 0, 0
	for payload := range l.acked {
		if times[payload] == 0 {
			lost++
		}
	}
	for _, n := range times {
		if n > 1 {
			twice++
		}
	}
	if lost > 0 {
		faults = append(faults, fmt.Sprintf("%d of %d acknowledged messages are lost", lost, len(l.acked)))
	}
	if twice > 0 {
		faults = append(faults, fmt.Sprintf("%d messages are there twice", twice))
	}
	return faults
}

// A verdict that finds nothing wrong with anything would let every other test pass.
func TestVerdict(t *testing.T) {
	l := newLedger()
	l.add("a")
	l.add("b")
	for _, tt := range []struct {
		log    string
		faults int
	}{{"ab", 0}, {"abc", 0}, {"a", 1}, {"aab", 1}, {"bb", 2}, {"", 1}} {
		var log []stored
		for _, r := range tt.log {
			log = append(log, stored{payload: string(r)})
		}
		if f := l.verdict(log); len(f) != tt.faults {
			t.Errorf("a log of %q: %q", tt.log, f)
		}
	}
}
