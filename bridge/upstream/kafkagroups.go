package upstream

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/record"
)

// commitsAtOnce is how many groups are committed at once: a thin link has a long way.
const commitsAtOnce = 16

// Producer implements Follower.
func (s *kafkaSession) Producer(ctx context.Context) int64 {
	id, _, err := s.cl.ProducerID(ctx)
	if err != nil {
		return -1
	}
	return id
}

// Visible implements Follower.
func (s *kafkaSession) Visible(
	ctx context.Context, topic string, partition int32, from int64, most int, fn func(Seen) error,
) (next int64, bytes int, err error) {
	leader, id, err := s.leader(ctx, topic, partition)
	if err != nil {
		return from, 0, denied(topic, partition, err)
	}
	p := []Portion{{Topic: topic, ID: id, Partition: partition, Epoch: -1, From: from}}
	r := kafkaReader{s: kafkaSession{cl: s.cl}}
	if err := r.Fetch(ctx, int32(leader), p, min(most, fetchMost), 0); err != nil {
		return from, 0, err
	}
	next, bytes, err = from, len(p[0].Batches), p[0].Err
	if err != nil {
		return from, bytes, denied(topic, partition, err)
	}
	for b, err := range visible(p[0].Batches, p[0].Aborted) {
		if err == nil && !b.hidden {
			next, err = seen(b.Batch, next, fn)
		}
		if err != nil {
			return next, bytes, err
		}
		next = max(next, b.NextOffset())
	}
	return next, bytes, err
}

// denied is a RefusedError where an error is the peer's, and will be the same the next time.
func denied(topic string, partition int32, err error) error {
	var known *kerr.Error
	if errors.As(err, &known) && !known.Retriable && !errors.Is(err, ErrMoved) && !errors.Is(err, ErrOutOfRange) {
		return &RefusedError{Topic: topic, Partition: partition, Err: err}
	}
	return err
}

// seen calls fn with the records of a batch from an offset on, and says with which it ended.
func seen(b record.Batch, from int64, fn func(Seen) error) (next int64, err error) {
	for r, err := range b.Records(cursorBatchMax) {
		if err == nil && r.Offset >= from {
			from, err = r.Offset, fn(Seen{r.Offset, b.ProducerID(), r.Timestamp, b.LogAppendTime(), r.Key, r.Value, r.Headers})
		}
		if err != nil {
			return from, err
		}
	}
	return from, nil
}

// eachTopic calls fn with the runs of a list that are of one topic: lists are in the order of topics.
func eachTopic(list []GroupOffset, fn func(of []GroupOffset)) {
	for len(list) > 0 {
		n := 1
		for n < len(list) && list[n].Topic == list[0].Topic {
			n++
		}
		fn(list[:n])
		list = list[n:]
	}
}

// Offsets implements Follower.
func (s *kafkaSession) Offsets(ctx context.Context, groups []GroupOffsets) error {
	req := kmsg.NewPtrOffsetFetchRequest()
	at := make(map[string]*GroupOffsets, len(groups))
	for i := range groups {
		at[groups[i].Group] = &groups[i]
		g := kmsg.NewOffsetFetchRequestGroup()
		g.Group = groups[i].Group
		eachTopic(groups[i].List, func(of []GroupOffset) {
			t := kmsg.NewOffsetFetchRequestGroupTopic()
			t.Topic, t.TopicID = of[0].Topic, of[0].ID
			for j := range of {
				t.Partitions = append(t.Partitions, of[j].Partition)
			}
			g.Topics = append(g.Topics, t)
		})
		req.Groups = append(req.Groups, g)
	}
	answered := map[string]bool{}
	var failed error
	for _, shard := range s.cl.RequestSharded(ctx, req) {
		if shard.Err != nil {
			failed = shard.Err
			var known *kerr.Error
			if of, is := shard.Req.(*kmsg.OffsetFetchRequest); is && errors.As(shard.Err, &known) { // of finding a coordinator
				for j := range of.Groups {
					if g := at[of.Groups[j].Group]; g != nil {
						g.Err, answered[g.Group] = shard.Err, true
					}
				}
			}
			continue
		}
		resp, is := shard.Resp.(*kmsg.OffsetFetchResponse)
		if !is {
			return errors.New("offsets of groups: not the answer to what was asked")
		}
		for i := range resp.Groups {
			r := &resp.Groups[i]
			g := at[r.Group]
			if g == nil {
				continue
			}
			answered[r.Group] = true
			if err := kerr.ErrorForCode(r.ErrorCode); err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
				g.Err = err
				continue
			}
			for j := range r.Topics {
				t := &r.Topics[j]
				for _, p := range t.Partitions {
					if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
						g.Err = fmt.Errorf("%s-%d: %w", t.Topic, p.Partition, err)
					} else if o := g.find(t.Topic, t.TopicID, p.Partition); o != nil && p.Offset >= 0 {
						o.Offset = p.Offset
						if p.Metadata != nil {
							o.Metadata = *p.Metadata
						}
					}
				}
			}
		}
	}
	for i := range groups {
		if !answered[groups[i].Group] {
			return fmt.Errorf("offsets of groups: %w", or(failed, errNoAnswer))
		}
	}
	return nil
}

var errNoAnswer = errors.New("there is no answer about some of them")

// find is a partition of the list, nil where it is not there.
func (g *GroupOffsets) find(topic string, id [16]byte, partition int32) *GroupOffset {
	for i := range g.List {
		if o := &g.List[i]; o.Partition == partition && (o.Topic == topic || topic == "" && o.ID == id) {
			return o
		}
	}
	return nil
}

// Commit implements Follower. Groups go side by side.
func (s *kafkaSession) Commit(ctx context.Context, groups []GroupOffsets) error {
	var running sync.WaitGroup
	errs := make([]error, len(groups))
	room := make(chan struct{}, commitsAtOnce)
	for i := range groups {
		room <- struct{}{}
		running.Go(func() {
			defer func() { <-room }()
			errs[i] = s.commitGroup(ctx, &groups[i])
		})
	}
	running.Wait()
	return errors.Join(errs...)
}

// commitGroup commits one group. The coordinator itself takes no offsets of a group with members from somebody who is none.
func (s *kafkaSession) commitGroup(ctx context.Context, g *GroupOffsets) error {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.Generation = g.Group, -1
	eachTopic(g.List, func(of []GroupOffset) {
		t := kmsg.NewOffsetCommitRequestTopic()
		t.Topic, t.TopicID = of[0].Topic, of[0].ID
		for j := range of {
			p := kmsg.NewOffsetCommitRequestTopicPartition()
			p.Partition, p.Offset, p.Metadata = of[j].Partition, of[j].Offset, &of[j].Metadata
			t.Partitions = append(t.Partitions, p)
		}
		req.Topics = append(req.Topics, t)
	})
	resp, err := req.RequestWith(ctx, s.cl)
	if err != nil {
		var known *kerr.Error
		if errors.As(err, &known) { // of finding the coordinator
			g.Err = err
			return nil
		}
		return fmt.Errorf("commit offsets of %s: %w", g.Group, err)
	}
	for i := range resp.Topics {
		t := &resp.Topics[i]
		for _, p := range t.Partitions {
			switch err := kerr.ErrorForCode(p.ErrorCode); {
			case err == nil:
			case errors.Is(err, kerr.UnknownMemberID), errors.Is(err, kerr.IllegalGeneration), errors.Is(err, kerr.RebalanceInProgress),
				errors.Is(err, kerr.StaleMemberEpoch):
				g.Err = ErrActive
			case errors.Is(err, kerr.GroupAuthorizationFailed):
				g.Err = err
			default:
				if o := g.find(t.Topic, t.TopicID, p.Partition); o != nil {
					o.Err = err
				}
			}
		}
	}
	return nil
}
