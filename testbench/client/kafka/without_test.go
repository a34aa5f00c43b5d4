package kafka_test

import (
	"net"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/testbench/client/drill"
	"millrace/testbench/client/kafka"
)

// A client sees a Kafka that has no transactions, and writes to it all the same.
func TestWithoutTransactions(t *testing.T) {
	c := kafka.Shared(t)
	topic := c.Topic(t, 1)
	older := kafka.Without(t, c.Node(1).Direct, kafka.Transactions...)
	client, err := kgo.NewClient(kgo.SeedBrokers(older), kgo.Dialer(onlyTo(older)), kgo.DisableIdempotentWrite(), kgo.RequestRetries(0))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	versions, err := kadm.NewClient(client).ApiVersions(within(t))
	if err != nil {
		t.Fatal(err)
	}
	newer, err := kadm.NewClient(c.Client(t)).ApiVersions(within(t))
	if err != nil {
		t.Fatal(err)
	}
	sees := versions[1]
	all := newer[1]
	all.EachKeySorted(func(key, _, _ int16) {
		_, _, known := sees.KeyVersions(key)
		if known == slices.Contains(kafka.Transactions, kmsg.Key(key)) {
			t.Errorf("%s is known: %v", kmsg.NameForKey(key), known)
		}
	})
	for _, key := range kafka.Transactions {
		if _, _, known := all.KeyVersions(key.Int16()); !known {
			t.Errorf("Kafka itself does not know %s", key.Name())
		}
	}
	if err := client.ProduceSync(within(t), &kgo.Record{Topic: topic, Value: []byte("x")}).FirstErr(); err != nil {
		t.Error(err)
	}
	if got := ends(t, c, topic); got != 1 {
		t.Errorf("%d records", got)
	}
	// One that does not look is disconnected.
	conn, err := net.Dial("tcp", older)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	request := kmsg.NewPtrInitProducerIDRequest()
	if _, err := conn.Write(kmsg.NewRequestFormatter().AppendRequest(nil, request, 1)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes of an answer", n)
	}
}

// A cluster of the time before Kafka 4 has transactions, and clients add their partitions themselves.
func TestTheOldTransactions(t *testing.T) {
	c := kafka.Start(t, kafka.Options{Format: []string{"--feature", "transaction.version=0"}})
	c.Create(t, "old", 1)
	client := c.Client(t, kgo.TransactionalID("old"))
	if err := client.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := client.ProduceSync(within(t), &kgo.Record{Topic: "old", Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := client.EndTransaction(within(t), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	if got, err := drill.Committed(within(t), []string{"old"}, kgo.SeedBrokers(c.Direct()...)); err != nil || len(got) != 1 {
		t.Errorf("%d records, %v", len(got), err)
	}
	features := kmsg.NewPtrApiVersionsRequest()
	features.ClientSoftwareName, features.ClientSoftwareVersion = "test", "1"
	answer, err := features.RequestWith(within(t), client)
	if err == nil {
		err = kerr.ErrorForCode(answer.ErrorCode)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range answer.FinalizedFeatures {
		if f.Name == "transaction.version" && f.MaxVersionLevel != 0 {
			t.Errorf("%s is %d", f.Name, f.MaxVersionLevel)
		}
	}
}
