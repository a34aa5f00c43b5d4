package upstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/record"
)

const (
	// singleFeature at singleVersion is a cluster where each transaction has an epoch of its own (KIP-890, part 2).
	singleFeature = "transaction.version"
	singleVersion = 2
)

// single says whether transactions of a peer have epochs of their own.
func single(resp *kmsg.ApiVersionsResponse) bool {
	for _, f := range resp.FinalizedFeatures {
		if f.Name == singleFeature {
			return f.MaxVersionLevel >= singleVersion
		}
	}
	return false
}

// Identity implements Settler.
func (s *kafkaSession) Identity(ctx context.Context) (Identity, error) {
	id, epoch, err := s.cl.ProducerID(ctx)
	return Identity{id, epoch, s.single}, classify(err)
}

// Shaken implements Settler.
func (s *kafkaSession) Shaken() bool { return s.transactional && s.lines.shaken() }

// Counts implements Settler.
func (s *kafkaSession) Counts(ctx context.Context, topics []string) (map[string]int32, error) {
	req := kmsg.NewPtrMetadataRequest()
	for _, name := range topics {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = kmsg.StringPtr(name)
		req.Topics = append(req.Topics, t)
	}
	resp, err := req.RequestWith(ctx, s.cl)
	if err != nil {
		return nil, err
	}
	counts := map[string]int32{}
	for _, t := range resp.Topics {
		err := kerr.ErrorForCode(t.ErrorCode)
		if err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition) {
			return nil, fmt.Errorf("topics: %w", err)
		}
		if t.Topic != nil {
			counts[*t.Topic] = int32(len(t.Partitions))
		}
	}
	return counts, nil
}

// indexed are spots by their names.
func indexed(list []Spot) map[where]*Spot {
	at := make(map[where]*Spot, len(list))
	for i := range list {
		at[where{list[i].Topic, list[i].Partition}] = &list[i]
	}
	return at
}

// byTopic calls topic for each topic of a list, and partition for each of its partitions: lists are in the order of topics.
func byTopic(list []Spot, topic func(string), partition func(*Spot)) {
	for i := range list {
		if i == 0 || list[i].Topic != list[i-1].Topic {
			topic(list[i].Topic)
		}
		partition(&list[i])
	}
}

// Ends implements Settler: with two small requests for each leader. The end is asked first: what others write between the two is
// not taken for open.
func (s *kafkaSession) Ends(ctx context.Context, list []Spot) error {
	ctx, cancel := context.WithTimeout(ctx, max(adminTimeout, s.patience))
	defer cancel()
	for i := range list {
		list[i].Stable, list[i].End, list[i].Err, list[i].Standings = 0, 0, nil, nil
	}
	for try := 0; ; try++ {
		if err := s.ends(ctx, list, readUncommitted, func(at *Spot, offset int64) { at.End = offset }); err != nil {
			return err
		}
		if err := s.ends(ctx, list, readCommitted, func(at *Spot, offset int64) { at.Stable = offset }); err != nil {
			return err
		}
		again := false
		for i := range list {
			again = again || list[i].Err != nil && kerr.IsRetriable(list[i].Err)
		}
		if !again || try == seenTries {
			return nil
		}
		for i := range list {
			list[i].Err = nil
		}
		select { // it has a new leader, or was just made
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(seenWait):
		}
	}
}

// ends asks where partitions end.
func (s *kafkaSession) ends(ctx context.Context, list []Spot, isolation int8, set func(*Spot, int64)) error {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID, req.IsolationLevel = -1, isolation
	byTopic(list, func(name string) {
		t := kmsg.NewListOffsetsRequestTopic()
		t.Topic = name
		req.Topics = append(req.Topics, t)
	}, func(at *Spot) {
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Partition, p.Timestamp = at.Partition, -1
		t := &req.Topics[len(req.Topics)-1]
		t.Partitions = append(t.Partitions, p)
	})
	at, told := indexed(list), 0
	for _, shard := range s.cl.RequestSharded(ctx, req) {
		if shard.Err != nil {
			of, is := shard.Req.(*kmsg.ListOffsetsRequest)
			var known *kerr.Error
			if !is || !errors.As(shard.Err, &known) {
				return shard.Err
			}
			for _, t := range of.Topics {
				for _, p := range t.Partitions {
					if one := at[where{t.Topic, p.Partition}]; one != nil {
						one.Err = shard.Err
						told++
					}
				}
			}
			continue
		}
		resp, is := shard.Resp.(*kmsg.ListOffsetsResponse)
		if !is {
			return errNoAnswer
		}
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				if one := at[where{t.Topic, p.Partition}]; one != nil {
					set(one, p.Offset)
					one.Err = or(one.Err, kerr.ErrorForCode(p.ErrorCode))
					told++
				}
			}
		}
	}
	if told != len(list) {
		return fmt.Errorf("ends of partitions: %w", errNoAnswer)
	}
	return nil
}

// Standing implements Settler.
func (s *kafkaSession) Standing(ctx context.Context, list []Spot, producers []int64) error {
	ctx, cancel := context.WithTimeout(ctx, max(adminTimeout, s.patience))
	defer cancel()
	for try := 0; ; try++ {
		err := s.standing(ctx, list, producers)
		if err != nil || try == seenTries || !slices.ContainsFunc(list, func(at Spot) bool { return kerr.IsRetriable(at.Err) }) {
			return err
		}
		select { // it has a new leader
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(seenWait):
		}
	}
}

func (s *kafkaSession) standing(ctx context.Context, list []Spot, producers []int64) error {
	req := kmsg.NewPtrDescribeProducersRequest()
	byTopic(list, func(name string) {
		t := kmsg.NewDescribeProducersRequestTopic()
		t.Topic = name
		req.Topics = append(req.Topics, t)
	}, func(at *Spot) {
		at.Standings, at.Err = nil, errNoAnswer
		t := &req.Topics[len(req.Topics)-1]
		t.Partitions = append(t.Partitions, at.Partition)
	})
	ours := map[int64]bool{}
	for _, id := range producers {
		ours[id] = true
	}
	at := indexed(list)
	for _, shard := range s.cl.RequestSharded(ctx, req) {
		if shard.Err != nil {
			of, is := shard.Req.(*kmsg.DescribeProducersRequest)
			if !is || ctx.Err() != nil {
				return shard.Err
			}
			for _, t := range of.Topics {
				for _, p := range t.Partitions {
					if one := at[where{t.Topic, p}]; one != nil {
						one.Err = shard.Err
					}
				}
			}
			continue
		}
		resp, is := shard.Resp.(*kmsg.DescribeProducersResponse)
		if !is {
			return errNoAnswer
		}
		for _, t := range resp.Topics {
			for i := range t.Partitions {
				p := &t.Partitions[i]
				one := at[where{t.Topic, p.Partition}]
				if one == nil {
					continue
				}
				one.Err = kerr.ErrorForCode(p.ErrorCode)
				for _, a := range p.ActiveProducers {
					if ours[a.ProducerID] {
						one.Standings = append(one.Standings, Standing{
							a.ProducerID, int16(a.ProducerEpoch), a.CoordinatorEpoch, a.CurrentTxnStartOffset, a.LastTimestamp,
						})
					}
				}
			}
		}
	}
	return nil
}

// Scan implements Settler.
func (s *kafkaSession) Scan(
	ctx context.Context, topic string, partition int32, from, stamp int64, most int, fn func(record.Batch) (bool, error),
) (whole bool, err error) {
	leader, id, err := s.leader(ctx, topic, partition)
	if err != nil {
		return false, err
	}
	end, err := s.offset(ctx, leader, topic, partition, -1)
	if err != nil {
		return false, err
	}
	s.portion = min(s.portion, max(most, fetchLeast)) // it grows again where there is more to read
	anywhere, whole := from == 0, true
	if from < 0 {
		first, err := s.offset(ctx, leader, topic, partition, -2)
		if err != nil {
			return false, err
		}
		if from, err = s.offset(ctx, leader, topic, partition, stamp); err != nil {
			return false, err
		}
		if from < 0 { // nothing is as late
			return first < end || first == 0, nil
		}
		whole = from > first || first == 0 // else it may have let go of some
	}
	for read := 0; from < end; {
		if read >= most {
			return false, nil
		}
		began := time.Now()
		p, err := s.fetch(ctx, leader, topic, id, partition, from, readUncommitted)
		if errors.Is(err, kerr.OffsetOutOfRange) {
			first, err := s.offset(ctx, leader, topic, partition, -2)
			if err != nil {
				return false, err
			}
			if first <= from || !anywhere {
				return false, fmt.Errorf("%w: %s-%d has no offset %d", ErrOutOfRange, topic, partition, from)
			}
			from = first
			continue
		}
		if err != nil {
			return false, err
		}
		s.portion = fit(s.portion, len(p.RecordBatches), time.Since(began))
		read += len(p.RecordBatches)
		before := from
		for raw := p.RecordBatches; len(raw) > 0; {
			b, rest, err := record.Next(raw)
			if errors.Is(err, record.ErrShort) {
				break // the peer cuts where its limit is
			}
			if err == nil {
				err = b.Check()
			}
			if err != nil {
				return false, fmt.Errorf("%s-%d at %d: %w", topic, partition, from, err)
			}
			raw = rest
			if b.LastOffset() < from {
				continue
			}
			if b.BaseOffset() >= end {
				return whole, nil
			}
			enough, err := fn(b)
			if err != nil || enough {
				return err == nil, err
			}
			from = b.NextOffset()
		}
		if from == before && len(p.RecordBatches) > 0 {
			return false, fmt.Errorf("%s-%d at %d: %w", topic, partition, from, record.ErrShort)
		}
	}
	return whole, nil
}

// Mark implements Settler.
func (s *kafkaSession) Mark(ctx context.Context, list []Spot, m Marker) error {
	ctx, cancel := context.WithTimeout(ctx, max(adminTimeout, s.patience))
	defer cancel()
	req := kmsg.NewPtrWriteTxnMarkersRequest()
	for i := range list { // as many as hang: each with the epoch of the coordinator that the partition has heard of
		st, _ := list[i].of(m.Producer)
		t := kmsg.NewWriteTxnMarkersRequestMarkerTopic()
		t.Topic, t.Partitions = list[i].Topic, []int32{list[i].Partition}
		marker := kmsg.NewWriteTxnMarkersRequestMarker()
		marker.ProducerID, marker.ProducerEpoch, marker.Committed = m.Producer, m.Epoch, m.Commit
		marker.CoordinatorEpoch, marker.Topics = max(st.Coordinator, 0), []kmsg.WriteTxnMarkersRequestMarkerTopic{t}
		req.Markers = append(req.Markers, marker)
	}
	told := 0
	for _, shard := range s.cl.RequestSharded(ctx, req) {
		if shard.Err != nil {
			return denial(shard.Err)
		}
		resp, is := shard.Resp.(*kmsg.WriteTxnMarkersResponse)
		if !is {
			return errNoAnswer
		}
		for _, marker := range resp.Markers {
			for _, t := range marker.Topics {
				for _, p := range t.Partitions {
					told++
					if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
						return denial(fmt.Errorf("%s-%d: %w", t.Topic, p.Partition, err))
					}
				}
			}
		}
	}
	if told != len(list) {
		return fmt.Errorf("markers: %w", errNoAnswer)
	}
	return nil
}

// denial puts the engine's own sentinel before what the peer does not allow.
func denial(err error) error {
	if errors.Is(err, kerr.ClusterAuthorizationFailed) || errors.Is(err, kerr.TopicAuthorizationFailed) || errors.Is(err, kerr.UnsupportedVersion) {
		return fmt.Errorf("%w: %w", ErrDenied, err)
	}
	return err
}
