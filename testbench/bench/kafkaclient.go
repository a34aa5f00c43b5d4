package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/record"
)

// kafkaConn is a Kafka connection that asks one thing at a time, in versions without tagged fields.
type kafkaConn struct {
	net.Conn
	r    *bufio.Reader
	form *kmsg.RequestFormatter
	id   int32
	out  []byte
	in   []byte
}

// Versions that Apache Kafka 4 and Millrace speak and whose headers have no tagged fields.
const (
	produceVersion  = 8
	fetchVersion    = 11
	createVersion   = 4
	metadataVersion = 8
)

func connectKafka(address string) (*kafkaConn, error) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	return &kafkaConn{Conn: c, r: bufio.NewReaderSize(c, 64<<10), form: kmsg.NewRequestFormatter(kmsg.FormatterClientID("bench"))}, nil
}

// ask sends a request and returns the body of its answer, valid until the next call.
func (k *kafkaConn) ask(req kmsg.Request) ([]byte, error) {
	k.id++
	k.out = k.form.AppendRequest(k.out[:0], req, k.id)
	if _, err := k.Write(k.out); err != nil {
		return nil, err
	}
	var head [8]byte
	if _, err := io.ReadFull(k.r, head[:]); err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint32(head[:])) - 4
	if size < 0 || size > 256<<20 {
		return nil, fmt.Errorf("an answer of %d bytes", size)
	}
	if got := int32(binary.BigEndian.Uint32(head[4:])); got != k.id {
		return nil, fmt.Errorf("answer %d to request %d", got, k.id)
	}
	if cap(k.in) < size {
		k.in = make([]byte, size)
	}
	_, err := io.ReadFull(k.r, k.in[:size])
	return k.in[:size], err
}

// create makes a topic, waits until its partitions have leaders, and writes a record to each.
func (k *kafkaConn) create(topic string, partitions int) error {
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Version, req.TimeoutMillis = createVersion, 10_000
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = topic, int32(partitions), 1
	req.Topics = append(req.Topics, t)
	body, err := k.ask(req)
	if err != nil {
		return err
	}
	resp := kmsg.NewPtrCreateTopicsResponse()
	resp.Version = createVersion
	if err := resp.ReadFrom(body); err != nil {
		return err
	}
	for _, t := range resp.Topics {
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			return fmt.Errorf("create %s: %w", t.Topic, err)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if err = k.led(topic, partitions); err == nil {
			err = k.touch(topic, partitions)
		}
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// touch writes a record to every partition: a leader that metadata names may not know it yet.
func (k *kafkaConn) touch(topic string, partitions int) error {
	batch, err := oneRecord([]byte("first"))
	if err != nil {
		return err
	}
	for p := range partitions {
		if _, err := k.produce(topic, int32(p), batch); err != nil {
			return err
		}
	}
	return nil
}

// led says whether every partition of the topic has a leader.
func (k *kafkaConn) led(topic string, partitions int) error {
	req := kmsg.NewPtrMetadataRequest()
	req.Version = metadataVersion
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = kmsg.StringPtr(topic)
	req.Topics = append(req.Topics, t)
	body, err := k.ask(req)
	if err != nil {
		return err
	}
	resp := kmsg.NewPtrMetadataResponse()
	resp.Version = metadataVersion
	if err := resp.ReadFrom(body); err != nil {
		return err
	}
	for _, t := range resp.Topics {
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
			return err
		}
		if len(t.Partitions) != partitions {
			return fmt.Errorf("%d of %d partitions", len(t.Partitions), partitions)
		}
		for _, p := range t.Partitions {
			if p.ErrorCode != 0 || p.Leader < 0 {
				return fmt.Errorf("partition %d has no leader: %w", p.Partition, kerr.LeaderNotAvailable)
			}
		}
	}
	return nil
}

// oneRecord is a batch of one record.
func oneRecord(value []byte) ([]byte, error) {
	b := record.NewBuilder(record.None)
	b.Add(time.Now().UnixMilli(), nil, value, nil)
	return b.Build()
}

// produce sends one batch with acks=all and waits for the acknowledgement.
func (k *kafkaConn) produce(topic string, partition int32, batch []byte) (time.Duration, error) {
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = produceVersion, -1, 10_000
	t := kmsg.NewProduceRequestTopic()
	t.Topic = topic
	p := kmsg.NewProduceRequestTopicPartition()
	p.Partition, p.Records = partition, batch
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	begin := time.Now()
	body, err := k.ask(req)
	took := time.Since(begin)
	if err != nil {
		return 0, err
	}
	resp := kmsg.NewPtrProduceResponse()
	resp.Version = produceVersion
	if err := resp.ReadFrom(body); err != nil {
		return 0, err
	}
	return took, kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
}

// consume fetches a partition from an offset up to the high watermark and returns the bytes of batches that came. It
// looks at nothing but the batches' headers.
func (k *kafkaConn) consume(topic string, partition int32, from int64) (total int64, err error) {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MaxWaitMillis, req.MinBytes, req.MaxBytes = fetchVersion, 500, 1, 50<<20
	req.SessionEpoch = -1
	t := kmsg.NewFetchRequestTopic()
	t.Topic = topic
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.PartitionMaxBytes, p.CurrentLeaderEpoch = partition, 1<<20, -1
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	for {
		req.Topics[0].Partitions[0].FetchOffset = from
		body, err := k.ask(req)
		if err != nil {
			return total, err
		}
		high, batches, err := fetched(body)
		if err != nil {
			return total, err
		}
		total += int64(len(batches))
		for len(batches) >= record.HeaderSize {
			b, rest, err := record.Next(batches)
			if err != nil {
				break // the last one may be cut, as Kafka does
			}
			from, batches = b.NextOffset(), rest
		}
		if from >= high {
			return total, nil
		}
	}
}

// fetched takes the answer to a fetch of one partition apart (Fetch response v11) without copying the batches.
func fetched(body []byte) (high int64, batches []byte, err error) {
	skip := func(n int) []byte {
		if n < 0 || n > len(body) {
			err = io.ErrUnexpectedEOF
			return make([]byte, 8)
		}
		was := body
		body = body[n:]
		return was
	}
	skip(4) // throttle time
	code := int16(binary.BigEndian.Uint16(skip(2)))
	skip(4 + 4)                                 // session, topics
	skip(int(binary.BigEndian.Uint16(skip(2)))) // topic
	skip(4 + 4)                                 // partitions, partition
	part := int16(binary.BigEndian.Uint16(skip(2)))
	high = int64(binary.BigEndian.Uint64(skip(8)))
	skip(8 + 8) // last stable offset, log start offset
	if n := int32(binary.BigEndian.Uint32(skip(4))); n > 0 {
		skip(int(n) * 16) // aborted transactions
	}
	skip(4) // preferred replica
	n := int(int32(binary.BigEndian.Uint32(skip(4))))
	if err == nil && n > len(body) {
		err = io.ErrUnexpectedEOF
	}
	if err = errors.Join(err, kerr.ErrorForCode(code), kerr.ErrorForCode(part)); err != nil {
		return 0, nil, err
	}
	return high, body[:max(n, 0)], nil
}
