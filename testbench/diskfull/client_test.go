package diskfull

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// patience bounds every wait; nothing here takes nearly as long.
const patience = 30 * time.Second

// ledger is what one topic of one partition has acknowledged.
type ledger struct {
	topic string
	start int64
	sums  map[int64]uint32 // of the values, by offset
	next  int64            // after the last one
}

func newLedger(topic string) *ledger { return &ledger{topic: topic, sums: make(map[int64]uint32)} }

// client is a Kafka client that tries nothing twice.
type client struct {
	t   *testing.T
	kgo *kgo.Client
	adm *kadm.Client
	rng *rand.Rand
}

func dial(t *testing.T, b *board) *client {
	k, err := kgo.NewClient(kgo.SeedBrokers(b.Addresses().Kafka...), kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordRetries(0), kgo.RequestRetries(0), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerLinger(0),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	return &client{t: t, kgo: k, adm: kadm.NewClient(k), rng: rand.New(rand.NewPCG(1, 2))}
}

func (c *client) close() { c.kgo.Close() }

func (c *client) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience)
}

// produce sends one record of so many bytes and notes it when it is acknowledged.
func (c *client) produce(l *ledger, size int) error {
	value := make([]byte, size)
	for i := 0; i+8 <= size; i += 8 {
		binary.LittleEndian.PutUint64(value[i:], c.rng.Uint64())
	}
	ctx, cancel := c.context()
	defer cancel()
	r, err := c.kgo.ProduceSync(ctx, &kgo.Record{Topic: l.topic, Value: value}).First()
	if err != nil {
		return err
	}
	if r.Offset < l.next {
		c.t.Fatalf("%s: offset %d was given out before", l.topic, r.Offset)
	}
	l.sums[r.Offset], l.next = crc32.ChecksumIEEE(value), r.Offset+1
	return nil
}

// fill produces until even small records are refused, and returns how many bytes were taken.
func (c *client) fill(l *ledger) (taken int) {
	for _, size := range []int{900 << 10, 60 << 10, 1000} {
		for {
			err := c.produce(l, size)
			if err != nil {
				refused(c.t, err)
				break
			}
			if taken += size; taken > 1<<30 {
				c.t.Fatal("a disk without an end")
			}
		}
	}
	return taken
}

// refused holds an error against what Kafka's clients are told by a disk that cannot take more.
func refused(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, kerr.KafkaStorageError) {
		t.Fatalf("refused with %v, want KAFKA_STORAGE_ERROR", err)
	}
}

// until repeats fn until it succeeds; what it fails with meanwhile is a refusal.
func (c *client) until(what string, fn func() error) {
	c.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		err := fn()
		if err == nil {
			return
		}
		refused(c.t, err)
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: still refused after %v: %v", what, patience, err)
		}
	}
}

// readable consumes a topic from its start and wants every acknowledged record there is to be.
func (c *client) readable(b *board, l *ledger) {
	c.t.Helper()
	k, err := kgo.NewClient(kgo.SeedBrokers(b.Addresses().Kafka...), kgo.FetchMaxWait(100*time.Millisecond),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{l.topic: {0: kgo.NewOffset().AtStart()}}))
	if err != nil {
		c.t.Fatal(err)
	}
	defer k.Close()
	ctx, cancel := c.context()
	defer cancel()
	next := l.start
	for next < l.next {
		fetches := k.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			c.t.Fatalf("read %s at offset %d of %d: %v", l.topic, next, l.next, err)
		}
		for r := range fetches.RecordsAll() {
			sum, acked := l.sums[r.Offset]
			if acked && sum != crc32.ChecksumIEEE(r.Value) {
				c.t.Fatalf("%s: another record at offset %d", l.topic, r.Offset)
			}
			for ; next <= r.Offset; next++ {
				if _, acked := l.sums[next]; acked && next < r.Offset && next >= begin(b, l.topic) {
					c.t.Fatalf("%s: offset %d was acknowledged and is skipped", l.topic, next)
				}
			}
		}
	}
}

// begin is the first offset there is now: where the oldest may be dropped it moves by itself.
func begin(b *board, topic string) int64 {
	parts, _ := b.Topic(topic)
	return parts[0].Start()
}

func (c *client) create(topic, full string) error {
	ctx, cancel := c.context()
	defer cancel()
	r, err := c.adm.CreateTopic(ctx, 1, 1, topicSettings(full), topic)
	return errors.Join(err, r.Err)
}

func (c *client) delete(topic string) {
	ctx, cancel := c.context()
	defer cancel()
	if r, err := c.adm.DeleteTopic(ctx, topic); err != nil || r.Err != nil {
		c.t.Fatalf("delete topic %s: %v, %v", topic, err, r.Err)
	}
}

// deleteRecords makes before the first offset.
func (c *client) deleteRecords(l *ledger, before int64) {
	ctx, cancel := c.context()
	defer cancel()
	offsets := kadm.Offsets{}
	offsets.AddOffset(l.topic, 0, before, -1)
	r, err := c.adm.DeleteRecords(ctx, offsets)
	if err == nil {
		err = r.Error()
	}
	if err != nil {
		c.t.Fatalf("delete records of %s: %v", l.topic, err)
	}
	l.start = before
}

// publish sends one MQTT 5 message with QoS 1 and returns the reason code of its PUBACK.
func publish(t *testing.T, b *board, size int) byte {
	t.Helper()
	conn, err := net.DialTimeout("tcp", b.Addresses().MQTT[0], patience)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	send := func(first byte, body []byte) {
		if _, err := conn.Write(append(binary.AppendUvarint([]byte{first}, uint64(len(body))), body...)); err != nil {
			t.Fatal(err)
		}
	}
	in := bufio.NewReader(conn)
	receive := func() (byte, []byte) {
		kind, err := in.ReadByte()
		if err != nil {
			t.Fatal(err)
		}
		size, err := binary.ReadUvarint(in) // MQTT's variable byte integer is the same
		if err != nil || size > 1<<16 {
			t.Fatalf("an answer of %d bytes: %v", size, err)
		}
		body := make([]byte, size)
		if _, err := io.ReadFull(in, body); err != nil {
			t.Fatal(err)
		}
		return kind, body
	}
	send(0x10, []byte("\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x04full"))
	if kind, body := receive(); kind != 0x20 || body[1] != 0 {
		t.Fatalf("CONNACK %x %x", kind, body)
	}
	send(0x32, append([]byte("\x00\x05plant\x00\x01\x00"), bytes.Repeat([]byte{'x'}, size)...))
	kind, body := receive()
	if kind != 0x40 {
		t.Fatalf("answer %x %x, want a PUBACK", kind, body)
	}
	if len(body) < 3 {
		return 0
	}
	return body[2]
}

func topicName(round int) string { return fmt.Sprintf("made-while-full-%d", round) }
