package upstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/catalog"
)

// answerMax is the largest answer a reader takes, in bytes: one batch may be as large as the peer's topic allows.
const answerMax = 32 << 20

// Read implements Source.
func (k *Kafka) Read(context.Context) (Reader, error) {
	cl, lines, err := k.client(
		// A large batch comes over a thin link in as long as a transaction may take there.
		kgo.RequestTimeoutOverhead(k.cfg.TransactionTimeout),
		kgo.FetchMaxBytes(answerMax/2), kgo.BrokerMaxReadBytes(answerMax),
	)
	if err != nil {
		return nil, err
	}
	return &kafkaReader{s: kafkaSession{cl: cl, lines: lines}}, nil
}

// kafkaReader is a Reader: one kgo client, of which only single requests are asked.
type kafkaReader struct{ s kafkaSession }

// Cluster implements Reader.
func (r *kafkaReader) Cluster() string { return r.s.cluster }

// Close implements Reader.
func (r *kafkaReader) Close() { r.s.Close() }

// Look implements Reader. Where every topic is named it asks for these alone.
func (r *kafkaReader) Look(ctx context.Context, patterns []string) ([]Origin, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	req := kmsg.NewPtrMetadataRequest()
	if !slices.ContainsFunc(patterns, func(p string) bool { return strings.Contains(p, "*") }) {
		for _, p := range patterns {
			t := kmsg.NewMetadataRequestTopic()
			t.Topic = kmsg.StringPtr(p)
			req.Topics = append(req.Topics, t)
		}
	}
	resp, err := req.RequestWith(ctx, r.s.cl)
	if err != nil {
		return nil, err
	}
	if resp.ClusterID != nil {
		r.s.cluster = *resp.ClusterID
	}
	var list []Origin
	for i := range resp.Topics {
		t := &resp.Topics[i]
		if t.Topic == nil || !slices.ContainsFunc(patterns, func(p string) bool { return catalog.Matches(p, *t.Topic) }) {
			continue
		}
		err := kerr.ErrorForCode(t.ErrorCode)
		if errors.Is(err, kerr.UnknownTopicOrPartition) {
			continue
		}
		o := Origin{Name: *t.Topic, ID: t.TopicID, Err: err}
		o.Leaders, o.Epochs = make([]int32, len(t.Partitions)), make([]int32, len(t.Partitions))
		for i := range o.Leaders {
			o.Leaders[i], o.Epochs[i] = -1, -1
		}
		for _, p := range t.Partitions {
			if p.Partition >= 0 && int(p.Partition) < len(o.Leaders) {
				o.Leaders[p.Partition], o.Epochs[p.Partition] = p.Leader, p.LeaderEpoch
			}
		}
		list = append(list, o)
	}
	return list, nil
}

// Settings implements Reader.
func (r *kafkaReader) Settings(ctx context.Context, topics []string) (map[string]map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	req := kmsg.NewPtrDescribeConfigsRequest()
	for _, t := range topics {
		c := kmsg.NewDescribeConfigsRequestResource()
		c.ResourceType, c.ResourceName = kmsg.ConfigResourceTypeTopic, t
		req.Resources = append(req.Resources, c)
	}
	resp, err := req.RequestWith(ctx, r.s.cl)
	if err != nil {
		return nil, err
	}
	all := map[string]map[string]string{}
	for _, c := range resp.Resources {
		if c.ErrorCode != 0 { // it does not tell, perhaps for want of a permission: the board's own settings hold
			continue
		}
		all[c.ResourceName] = map[string]string{}
		for _, s := range c.Configs {
			if s.Value != nil && s.Source == kmsg.ConfigSourceDynamicTopicConfig {
				all[c.ResourceName][s.Name] = *s.Value
			}
		}
	}
	return all, nil
}

// Bounds implements Reader, with two requests for each leader, and one more each for epochs and stamps.
func (r *kafkaReader) Bounds(ctx context.Context, list []Bound) error {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	by := map[int32]map[string]map[int32]*Bound{}
	for i := range list {
		b := &list[i]
		b.Same, b.From = -1, -1
		if by[b.Leader] == nil {
			by[b.Leader] = map[string]map[int32]*Bound{}
		}
		if by[b.Leader][b.Topic] == nil {
			by[b.Leader][b.Topic] = map[int32]*Bound{}
		}
		by[b.Leader][b.Topic][b.Partition] = b
	}
	for leader, topics := range by {
		broker := r.s.cl.Broker(int(leader))
		first := func(*Bound) int64 { return -2 }
		if err := listed(ctx, broker, topics, first, func(b *Bound, offset int64) { b.Start = offset }); err != nil {
			return err
		}
		end := func(*Bound) int64 { return -1 }
		if err := listed(ctx, broker, topics, end, func(b *Bound, offset int64) { b.End = offset }); err != nil {
			return err
		}
		since := func(b *Bound) int64 { return b.Since }
		if err := listed(ctx, broker, topics, since, func(b *Bound, offset int64) { b.From = offset }); err != nil {
			return err
		}
		if err := sameUpTo(ctx, broker, topics); err != nil {
			return err
		}
	}
	return nil
}

// listed asks where partitions begin, at -2, end, at -1, or have a stamp that is as late; of those at 0 nothing.
func listed(ctx context.Context, broker *kgo.Broker, topics map[string]map[int32]*Bound, at func(*Bound) int64, set func(*Bound, int64)) error {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	for topic, parts := range topics {
		t := kmsg.NewListOffsetsRequestTopic()
		t.Topic = topic
		for index, b := range parts {
			stamp := at(b)
			if stamp == 0 {
				continue
			}
			p := kmsg.NewListOffsetsRequestTopicPartition()
			p.Partition, p.Timestamp = index, stamp
			t.Partitions = append(t.Partitions, p)
		}
		if len(t.Partitions) > 0 {
			req.Topics = append(req.Topics, t)
		}
	}
	if len(req.Topics) == 0 {
		return nil
	}
	raw, err := broker.RetriableRequest(ctx, req)
	if err != nil {
		return err
	}
	resp, ok := raw.(*kmsg.ListOffsetsResponse)
	if !ok {
		return errors.New("offsets: not the answer to what was asked")
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if b := topics[t.Topic][p.Partition]; b != nil {
				set(b, p.Offset)
				b.blame(p.ErrorCode)
			}
		}
	}
	return nil
}

// sameUpTo asks where the records of an epoch, and of those before it, end. A peer that does not tell is believed.
func sameUpTo(ctx context.Context, broker *kgo.Broker, topics map[string]map[int32]*Bound) error {
	req := kmsg.NewPtrOffsetForLeaderEpochRequest()
	req.ReplicaID = -1
	for topic, parts := range topics {
		t := kmsg.NewOffsetForLeaderEpochRequestTopic()
		t.Topic = topic
		for index, b := range parts {
			if b.Epoch < 0 {
				continue
			}
			p := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
			p.Partition, p.CurrentLeaderEpoch, p.LeaderEpoch = index, -1, b.Epoch
			t.Partitions = append(t.Partitions, p)
		}
		if len(t.Partitions) > 0 {
			req.Topics = append(req.Topics, t)
		}
	}
	if len(req.Topics) == 0 {
		return nil
	}
	raw, err := broker.RetriableRequest(ctx, req)
	if err != nil {
		return err
	}
	resp, ok := raw.(*kmsg.OffsetForLeaderEpochResponse)
	if !ok {
		return errors.New("epochs: not the answer to what was asked")
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if b := topics[t.Topic][p.Partition]; b != nil {
				b.Same = p.EndOffset
				b.blame(p.ErrorCode)
			}
		}
	}
	return nil
}

func (b *Bound) blame(code int16) {
	if err := fetchError(kerr.ErrorForCode(code)); err != nil && b.Err == nil {
		b.Err = err
	}
}

// Fetch implements Reader.
func (r *kafkaReader) Fetch(ctx context.Context, leader int32, list []Portion, maxBytes int, wait time.Duration) error {
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID, req.MinBytes, req.IsolationLevel = -1, 1, 1
	req.MaxWaitMillis, req.MaxBytes = int32(wait.Milliseconds()), int32(maxBytes)
	asked := map[string]map[int32]*Portion{} // by the topic's name, or its id as a string
	at := map[string]int{}                   // of the topic in the request
	for i := range list {
		want := &list[i]
		want.Err = ErrMoved // unless there is an answer
		name := fetchName(want.Topic, want.ID)
		n, known := at[name]
		if !known {
			t := kmsg.NewFetchRequestTopic()
			t.Topic, t.TopicID = want.Topic, want.ID
			n = len(req.Topics)
			req.Topics = append(req.Topics, t)
			at[name] = n
			asked[name] = map[int32]*Portion{}
			asked[want.Topic] = asked[name]
		}
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition, p.FetchOffset, p.CurrentLeaderEpoch, p.PartitionMaxBytes = want.Partition, want.From, want.Epoch, int32(maxBytes)
		req.Topics[n].Partitions = append(req.Topics[n].Partitions, p)
		asked[name][want.Partition] = want
	}
	raw, err := r.s.cl.Broker(int(leader)).RetriableRequest(ctx, req)
	if err != nil {
		return err
	}
	resp, ok := raw.(*kmsg.FetchResponse)
	if !ok {
		return errors.New("fetch: not the answer to what was asked")
	}
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	for _, t := range resp.Topics {
		for i := range t.Partitions {
			got := &t.Partitions[i]
			p := asked[fetchName(t.Topic, t.TopicID)][got.Partition]
			if p == nil {
				continue
			}
			p.Batches, p.Aborted, p.Stable = got.RecordBatches, abortedOf(got), got.LastStableOffset
			p.Err = fetchError(kerr.ErrorForCode(got.ErrorCode))
		}
	}
	return nil
}

// fetchName is how a topic is known in requests and answers: by its id from Kafka 3.1 on, before by its name.
func fetchName(topic string, id [16]byte) string {
	if id == [16]byte{} {
		return topic
	}
	return string(id[:])
}

// fetchError puts the engine's own sentinel before the peer's error.
func fetchError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kerr.OffsetOutOfRange):
		return fmt.Errorf("%w: %w", ErrOutOfRange, err)
	case kerr.IsRetriable(err), errors.Is(err, kerr.UnknownTopicID), errors.Is(err, kerr.InconsistentTopicID), errors.Is(err, kerr.FencedLeaderEpoch):
		return fmt.Errorf("%w: %w", ErrMoved, err)
	}
	return err
}
