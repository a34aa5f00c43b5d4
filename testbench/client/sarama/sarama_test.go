// Package sarama drives a whole broker with sarama.
package sarama

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"hash"
	"os"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/xdg-go/scram"

	"millrace/testbench/client/drill"
)

var codecs = map[string]sarama.CompressionCodec{
	"none": sarama.CompressionNone, "gzip": sarama.CompressionGZIP, "snappy": sarama.CompressionSnappy, "lz4": sarama.CompressionLZ4, "zstd": sarama.CompressionZSTD,
}

var lane = drill.Lane{
	Client:    client{},
	Codecs:    []string{"none", "gzip", "snappy", "lz4", "zstd"},
	Assignors: []string{"range", "cooperative-sticky"},
	Refused:   "authentication failed",
	Denied:    "not authorized to access this topic",
}

func TestRecords(t *testing.T) { drill.Records(t, lane) }

func TestGroup(t *testing.T) { drill.Group(t, lane) }

func TestLogin(t *testing.T) { drill.Login(t, lane) }

type client struct{}

// conversation is SCRAM as sarama wants it: the library leaves the exchange to its user.
type conversation struct {
	generator scram.HashGeneratorFcn
	*scram.ClientConversation
}

func (c *conversation) Begin(user, password, authzID string) error {
	s, err := c.generator.NewClient(user, password, authzID)
	if err != nil {
		return err
	}
	c.ClientConversation = s.NewConversation()
	return nil
}

// config has what every client of the lane uses: the newest protocol the library has.
func config(door drill.Door) (*sarama.Config, error) {
	c := sarama.NewConfig()
	c.Version = sarama.MaxVersion
	c.Metadata.Retry.Max, c.Metadata.Retry.Backoff = 1, 50*time.Millisecond
	if door.User == "" {
		return c, nil
	}
	c.Net.SASL.Enable, c.Net.SASL.User, c.Net.SASL.Password = true, door.User, door.Password
	c.Net.SASL.Mechanism = sarama.SASLMechanism(door.Mechanism)
	hashes := map[string]func() hash.Hash{"SCRAM-SHA-256": sha256.New, "SCRAM-SHA-512": sha512.New}
	if h := hashes[door.Mechanism]; h != nil {
		c.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &conversation{generator: h} }
	}
	if door.CA != "" {
		pem, err := os.ReadFile(door.CA)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		c.Net.TLS.Enable, c.Net.TLS.Config = true, &tls.Config{RootCAs: roots}
	}
	return c, nil
}

// bytes is an Encoder that keeps null and empty apart.
func bytes(b []byte) sarama.Encoder {
	if b == nil {
		return nil
	}
	return sarama.ByteEncoder(b)
}

func (client) Produce(_ testing.TB, door drill.Door, batches []drill.Batch) error {
	for _, batch := range batches {
		c, err := config(door)
		if err != nil {
			return err
		}
		c.Producer.RequiredAcks, c.Producer.Compression, c.Producer.Partitioner = sarama.WaitForAll, codecs[batch.Codec], sarama.NewManualPartitioner
		c.Producer.Return.Successes, c.Producer.Idempotent, c.Net.MaxOpenRequests = true, true, 1
		p, err := sarama.NewSyncProducer([]string{door.Address}, c)
		if err != nil {
			return err
		}
		var list []*sarama.ProducerMessage
		for _, r := range batch.Records {
			m := &sarama.ProducerMessage{Topic: r.Topic, Partition: r.Partition, Timestamp: time.UnixMilli(r.Timestamp), Key: bytes(r.Key), Value: bytes(r.Value)}
			for _, h := range r.Headers {
				m.Headers = append(m.Headers, sarama.RecordHeader{Key: []byte(h.Key), Value: h.Value})
			}
			list = append(list, m)
		}
		err = p.SendMessages(list)
		var each sarama.ProducerErrors
		if errors.As(err, &each) {
			err = each[0].Err // the list does not say what it lists
		}
		if err := errors.Join(err, p.Close()); err != nil {
			return err
		}
	}
	return nil
}

// reader tells what it reads, and commits it, at the latest before it gives a partition away.
type reader func(drill.Record)

func (reader) Setup(sarama.ConsumerGroupSession) error { return nil }

func (reader) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (tell reader) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for n := 1; ; n++ {
		select {
		case m, ok := <-claim.Messages():
			if !ok {
				s.Commit()
				return nil
			}
			r := drill.Record{Topic: m.Topic, Partition: m.Partition, Offset: m.Offset, Timestamp: m.Timestamp.UnixMilli(), Key: m.Key, Value: m.Value}
			for _, h := range m.Headers {
				r.Headers = append(r.Headers, drill.Header{Key: string(h.Key), Value: h.Value})
			}
			tell(r)
			s.MarkMessage(m, "")
			if len(claim.Messages()) == 0 || n%100 == 0 {
				s.Commit()
			}
		case <-s.Context().Done():
			s.Commit()
			return nil
		}
	}
}

var assignors = map[string]func() sarama.BalanceStrategy{
	"range": sarama.NewBalanceStrategyRange, "cooperative-sticky": sarama.NewBalanceStrategyCooperativeSticky,
}

func (client) Join(t testing.TB, door drill.Door, m drill.Member, tell func(drill.Record)) (leave func() error) {
	t.Helper()
	c, err := config(door)
	if err != nil {
		t.Fatal(err)
	}
	c.ClientID = m.Name
	c.Consumer.Offsets.Initial, c.Consumer.Offsets.AutoCommit.Enable = sarama.OffsetOldest, false
	c.Consumer.MaxWaitTime, c.Consumer.Group.Heartbeat.Interval = 100*time.Millisecond, 200*time.Millisecond
	if m.Assignor != "" {
		c.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{assignors[m.Assignor]()}
	}
	g, err := sarama.NewConsumerGroup([]string{door.Address}, m.Group, c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			// A session ends with a rebalance, and with the broker.
			if err := g.Consume(ctx, m.Topics, reader(tell)); errors.Is(err, sarama.ErrClosedConsumerGroup) {
				break
			} else if err != nil {
				select {
				case <-time.After(50 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		}
		ended <- g.Close()
	}()
	end := func() error {
		stop()
		err := <-ended
		ended <- err // for who asks again
		if err != nil {
			return fmt.Errorf("close: %w", err)
		}
		return nil
	}
	t.Cleanup(func() { _ = end() })
	return end
}
