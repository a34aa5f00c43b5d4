// Package kafkago drives a whole broker with segmentio's kafka-go.
package kafkago

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"

	"millrace/testbench/client/drill"
)

var codecs = map[string]kafka.Compression{"none": 0, "gzip": kafka.Gzip, "snappy": kafka.Snappy, "lz4": kafka.Lz4, "zstd": kafka.Zstd}

var lane = drill.Lane{
	Client:    client{},
	Codecs:    []string{"none", "gzip", "snappy", "lz4", "zstd"},
	Assignors: []string{"range", "roundrobin"},
	Refused:   "SASL Authentication Failed",
	// It asks for all topics, and those she may not see are not among them.
	Denied: "Unknown Topic Or Partition",
	Keeps: func(r *drill.Record) {
		null := func(b []byte) []byte {
			if len(b) == 0 {
				return nil
			}
			return b
		}
		r.Key, r.Value, r.Headers = null(r.Key), null(r.Value), slices.Clone(r.Headers)
		for i := range r.Headers {
			r.Headers[i].Value = null(r.Headers[i].Value)
		}
	},
	Idle: true,
}

func TestRecords(t *testing.T) { drill.Records(t, lane) }

func TestGroup(t *testing.T) { drill.Group(t, lane) }

func TestLogin(t *testing.T) { drill.Login(t, lane) }

type client struct{}

// entry is what a door wants to see.
func entry(door drill.Door) (mechanism sasl.Mechanism, config *tls.Config, err error) {
	switch door.Mechanism {
	case "":
	case "PLAIN":
		mechanism = plain.Mechanism{Username: door.User, Password: door.Password}
	default:
		algorithm := map[string]scram.Algorithm{"SCRAM-SHA-256": scram.SHA256, "SCRAM-SHA-512": scram.SHA512}[door.Mechanism]
		if mechanism, err = scram.Mechanism(algorithm, door.User, door.Password); err != nil {
			return nil, nil, err
		}
	}
	if door.CA != "" {
		pem, err := os.ReadFile(door.CA)
		if err != nil {
			return nil, nil, err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		host, _, err := net.SplitHostPort(door.Address)
		if err != nil {
			return nil, nil, err
		}
		config = &tls.Config{RootCAs: roots, ServerName: host}
	}
	return mechanism, config, nil
}

// manual is a Balancer by which each message goes to the partition it was made for.
type manual struct{}

func (manual) Balance(m kafka.Message, _ ...int) int { return m.WriterData.(int) }

func (client) Produce(t testing.TB, door drill.Door, batches []drill.Batch) error {
	mechanism, config, err := entry(door)
	if err != nil {
		return err
	}
	transport := &kafka.Transport{SASL: mechanism, TLS: config}
	defer transport.CloseIdleConnections()
	for _, batch := range batches {
		w := &kafka.Writer{
			Addr: kafka.TCP(door.Address), Balancer: manual{}, RequiredAcks: kafka.RequireAll, Compression: codecs[batch.Codec], Transport: transport,
			BatchTimeout: 10 * time.Millisecond, MaxAttempts: 3,
		}
		var list []kafka.Message
		for _, r := range batch.Records {
			m := kafka.Message{Topic: r.Topic, WriterData: int(r.Partition), Time: time.UnixMilli(r.Timestamp), Key: r.Key, Value: r.Value}
			for _, h := range r.Headers {
				m.Headers = append(m.Headers, kafka.Header{Key: h.Key, Value: h.Value})
			}
			list = append(list, m)
		}
		err := w.WriteMessages(t.Context(), list...)
		var each kafka.WriteErrors
		if errors.As(err, &each) {
			err = errors.Join(each...)
		}
		if err := errors.Join(err, w.Close()); err != nil {
			return err
		}
	}
	return nil
}

var assignors = map[string]kafka.GroupBalancer{"range": kafka.RangeGroupBalancer{}, "roundrobin": kafka.RoundRobinGroupBalancer{}}

func (client) Join(t testing.TB, door drill.Door, m drill.Member, tell func(drill.Record)) (leave func() error) {
	t.Helper()
	mechanism, config, err := entry(door)
	if err != nil {
		t.Fatal(err)
	}
	settings := kafka.ReaderConfig{
		Brokers: []string{door.Address}, GroupID: m.Group, GroupTopics: m.Topics, StartOffset: kafka.FirstOffset,
		Dialer:            &kafka.Dialer{ClientID: m.Name, Timeout: 10 * time.Second, SASLMechanism: mechanism, TLS: config},
		HeartbeatInterval: 200 * time.Millisecond, MaxWait: 100 * time.Millisecond, JoinGroupBackoff: 100 * time.Millisecond,
		CommitInterval: 20 * time.Millisecond, // each by itself would take as long as a sync
		ReadBackoffMin: 10 * time.Millisecond, ReadBackoffMax: 100 * time.Millisecond, MaxBytes: 1 << 20,
	}
	if m.Assignor != "" {
		settings.GroupBalancers = []kafka.GroupBalancer{assignors[m.Assignor]}
	}
	reader := kafka.NewReader(settings)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		err := read(ctx, reader, tell)
		if err != nil {
			t.Errorf("%s: %v", m.Name, err)
		}
		ended <- err
	}()
	end := func() error {
		stop()
		err := errors.Join(<-ended, reader.Close())
		ended <- nil // for who asks again
		return err
	}
	t.Cleanup(func() { _ = end() })
	return end
}

// read tells and commits until ctx ends.
func read(ctx context.Context, reader *kafka.Reader, tell func(drill.Record)) error {
	for {
		m, err := reader.FetchMessage(ctx)
		switch {
		case ctx.Err() != nil || errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		r := drill.Record{Topic: m.Topic, Partition: int32(m.Partition), Offset: m.Offset, Timestamp: m.Time.UnixMilli(), Key: m.Key, Value: m.Value}
		for _, h := range m.Headers {
			r.Headers = append(r.Headers, drill.Header{Key: h.Key, Value: h.Value})
		}
		tell(r)
		if err := reader.CommitMessages(context.WithoutCancel(ctx), m); err != nil {
			return err
		}
	}
}
