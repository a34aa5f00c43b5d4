package upstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/record"
)

const (
	// cursorsTimeout is how long reading cursors may get nowhere: transactions of others that are open there are waited for.
	cursorsTimeout = 5 * time.Minute
	// fetchLeast and fetchMost are how much of the cursor topic is asked for at once, in bytes: more when it comes within
	// fetchBrisk, less when it takes fetchSlow. fetchWaitMS is how long the peer may wait to have some.
	fetchLeast, fetchMost = 16 << 10, 512 << 10
	fetchBrisk, fetchSlow = 3 * time.Second, 10 * time.Second
	fetchWaitMS           = 1000
	// cursorBatchMax is the most a batch of cursors may take decompressed, in bytes.
	cursorBatchMax = 64 << 20
)

// errStuck is why reading cursors was given up.
var errStuck = fmt.Errorf("nothing more could be read of the cursor topic in %v: the link is dead, or a transaction is open there, which "+
	"kafka-transactions.sh find-hanging names and abort ends", cursorsTimeout)

// Cursors implements Session. It fetches by hand: a consumer is not told of offsets that have no record, so it could not
// know when it is at the end.
func (s *kafkaSession) Cursors(
	ctx context.Context, topic string, partition int32, from int64, fn func(key, value []byte) error,
) (next int64, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stuck := time.AfterFunc(cursorsTimeout, func() { cancel(errStuck) })
	defer stuck.Stop()
	end := int64(-1)
	for tries := 0; ; tries++ {
		before := from
		if from, end, err = s.read(ctx, stuck, topic, partition, from, end, fn); err == nil {
			return end, nil
		}
		if cause := context.Cause(ctx); cause != nil {
			return from, cause
		}
		if from > before {
			tries = 0
		}
		if !kerr.IsRetriable(err) || tries == seenTries {
			return from, err
		}
		select { // it has a new leader, or was just made
		case <-ctx.Done():
			return from, context.Cause(ctx)
		case <-time.After(seenWait):
		}
	}
}

// read reads on to end, which is looked up where it is negative. It says how far it came, and puts stuck off with each step.
func (s *kafkaSession) read(
	ctx context.Context, stuck *time.Timer, topic string, partition int32, from, end int64, fn func(key, value []byte) error,
) (int64, int64, error) {
	leader, id, err := s.leader(ctx, topic, partition)
	if err != nil {
		return from, end, err
	}
	if end < 0 {
		if end, err = s.offset(ctx, leader, topic, partition, -1); err != nil {
			return from, -1, err
		}
	}
	for from < end {
		began := time.Now()
		p, err := s.fetch(ctx, leader, topic, id, partition, from, readCommitted)
		if errors.Is(err, kerr.OffsetOutOfRange) { // its beginning was deleted
			first, err := s.offset(ctx, leader, topic, partition, -2)
			if err != nil {
				return from, end, err
			}
			if first <= from {
				return from, end, fmt.Errorf("offset %d of the cursor topic is gone, it begins at %d", from, first)
			}
			from = first
			continue
		}
		if err != nil {
			return from, end, err
		}
		s.portion = fit(s.portion, len(p.RecordBatches), time.Since(began))
		before := from
		if from, err = committed(p, from, end, fn); err != nil {
			return from, end, err
		}
		if from > before && stuck.Stop() {
			stuck.Reset(cursorsTimeout)
		}
	}
	return from, end, nil
}

// fit is how much to ask for when so many bytes came of so many, in that time. A batch that is larger comes whole.
func fit(asked, came int, took time.Duration) int {
	switch {
	case took > fetchSlow:
		return max(asked/2, fetchLeast)
	case took < fetchBrisk && came > asked/2:
		return min(2*asked, fetchMost)
	}
	return asked
}

// leader is who leads a partition, and the topic's id.
func (s *kafkaSession) leader(ctx context.Context, topic string, partition int32) (leader int, id [16]byte, err error) {
	req := kmsg.NewPtrMetadataRequest()
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = kmsg.StringPtr(topic)
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, s.cl)
	if err != nil {
		return 0, id, err
	}
	for _, t := range resp.Topics {
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
			return 0, id, fmt.Errorf("%s: %w", topic, err)
		}
		for _, p := range t.Partitions {
			if p.Partition == partition && p.Leader >= 0 {
				return int(p.Leader), t.TopicID, nil
			}
		}
	}
	return 0, id, fmt.Errorf("%s-%d: %w", topic, partition, kerr.LeaderNotAvailable)
}

// offset is the end of a partition (-1) or its beginning (-2).
func (s *kafkaSession) offset(ctx context.Context, leader int, topic string, partition int32, at int64) (int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	t := kmsg.NewListOffsetsRequestTopic()
	t.Topic = topic
	p := kmsg.NewListOffsetsRequestTopicPartition()
	p.Partition, p.Timestamp = partition, at
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	raw, err := s.cl.Broker(leader).RetriableRequest(ctx, req)
	if err != nil {
		return 0, err
	}
	resp, ok := raw.(*kmsg.ListOffsetsResponse)
	if !ok || len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return 0, errors.New("offsets: not the answer to what was asked")
	}
	return resp.Topics[0].Partitions[0].Offset, kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
}

// The isolation levels: with the first everything is told, with the other what lies before the last stable offset.
const (
	readUncommitted int8 = iota
	readCommitted
)

// fetch reads one partition from an offset on.
func (s *kafkaSession) fetch(
	ctx context.Context, leader int, topic string, id [16]byte, partition int32, from int64, isolation int8,
) (*kmsg.FetchResponseTopicPartition, error) {
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID, req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.IsolationLevel = -1, fetchWaitMS, 1, int32(s.portion), isolation
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID = topic, id
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes = partition, from, int32(s.portion)
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	raw, err := s.cl.Broker(leader).RetriableRequest(ctx, req)
	if err != nil {
		return nil, err
	}
	resp, ok := raw.(*kmsg.FetchResponse)
	if !ok {
		return nil, errors.New("fetch: not the answer to what was asked")
	}
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return nil, err
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return nil, errors.New("fetch: not the answer to what was asked")
	}
	got := &resp.Topics[0].Partitions[0]
	return got, kerr.ErrorForCode(got.ErrorCode)
}

// committed calls fn with the records at offsets from to end-1 that no transaction took back, and says where to go on.
func committed(p *kmsg.FetchResponseTopicPartition, from, end int64, fn func(key, value []byte) error) (next int64, err error) {
	next = from
	for b, err := range visible(p.RecordBatches, abortedOf(p)) {
		if err != nil {
			return next, fmt.Errorf("cursor topic at %d: %w", next, err)
		}
		if !b.hidden {
			for r, err := range b.Records(cursorBatchMax) {
				if err != nil {
					return next, fmt.Errorf("cursor topic at %d: %w", next, err)
				}
				if r.Offset < from || r.Offset >= end {
					continue
				}
				if err := fn(r.Key, r.Value); err != nil {
					return next, err
				}
			}
		}
		next = max(next, b.NextOffset())
	}
	return next, nil
}

// abortedOf are the transactions in an answer that were taken back.
func abortedOf(p *kmsg.FetchResponseTopicPartition) []Aborted {
	list := make([]Aborted, len(p.AbortedTransactions))
	for i, a := range p.AbortedTransactions {
		list[i] = Aborted{a.ProducerID, a.FirstOffset}
	}
	return list
}

// abort says whether a control batch takes a transaction back: the key is a version and a type, 0 for an abort.
func abort(b record.Batch) bool {
	for r, err := range b.Records(len(b)) {
		return err == nil && len(r.Key) >= 4 && r.Key[2] == 0 && r.Key[3] == 0
	}
	return false
}
