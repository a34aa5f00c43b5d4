package upstream

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// seenTries and seenWait are how long a topic may take to be seen after it was made.
	seenTries = 20
	seenWait  = 250 * time.Millisecond
	// createTimeoutMS is what the peer is given to make topics.
	createTimeoutMS = 15_000
	// ledMost is how long partitions that were just made may take to have a leader that knows of it, and ledWait how long the
	// second question waits.
	ledMost = 15 * time.Second
	ledWait = 50 * time.Millisecond
	// ledSome is of how many a leader is asked at first: when these are there most of the others are.
	ledSome = 8
)

// Ensure implements Session.
func (s *kafkaSession) Ensure(ctx context.Context, topics []Topic) error {
	ctx, cancel := context.WithTimeout(ctx, max(adminTimeout, s.patience))
	defer cancel()
	if _, err := s.look(ctx, topics); err != nil {
		return err
	}
	want := map[string]bool{}
	for _, t := range topics {
		want[t.Name] = t.Have < t.Partitions
	}
	made, err := s.create(ctx, topics)
	if err != nil {
		return err
	}
	grown, err := s.grow(ctx, topics)
	if err != nil {
		return err
	}
	var seen *kmsg.MetadataResponse
	for try := 0; (made || grown) && try < seenTries; try++ {
		if seen, err = s.look(ctx, topics); err != nil {
			return err
		}
		if !slices.ContainsFunc(topics, func(t Topic) bool { return t.Have < t.Partitions && t.Err == nil }) {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(seenWait):
		}
	}
	if seen != nil {
		s.scouts = scoutsMost // partitions that are new to a peer take it longer
		if err := s.led(ctx, seen, want); err != nil {
			return err
		}
	}
	return s.compacted(ctx, topics)
}

// led waits until topics that were just made take records. A node knows of hundreds of partitions that it leads them seconds
// before it has made their logs, and refuses their records until then, each time after all of them came over the link: a
// question for each costs some forty bytes. Nobody is waited for longer than ledMost: records wait, too, then.
func (s *kafkaSession) led(ctx context.Context, seen *kmsg.MetadataResponse, want map[string]bool) error {
	by := map[int32]map[string]map[int32]*Bound{}
	for _, t := range seen.Topics {
		if t.Topic == nil || !want[*t.Topic] {
			continue
		}
		for _, p := range t.Partitions {
			if by[p.Leader] == nil {
				by[p.Leader] = map[string]map[int32]*Bound{}
			}
			if by[p.Leader][*t.Topic] == nil {
				by[p.Leader][*t.Topic] = map[int32]*Bound{}
			}
			by[p.Leader][*t.Topic][p.Partition] = &Bound{}
		}
	}
	delete(by, -1)
	waiting, cancel := context.WithTimeout(ctx, ledMost)
	defer cancel()
	for leader, topics := range by {
		wait, some := ledWait, ledSome
		for len(topics) > 0 {
			asked := 0
			at := func(*Bound) int64 {
				if asked++; asked > some {
					return 0
				}
				return -1
			}
			if err := listed(waiting, s.cl.Broker(int(leader)), topics, at, func(b *Bound, _ int64) { b.From = 1 }); err != nil {
				break // Send will find out
			}
			was := partitions(topics)
			if !moved(topics) {
				if partitions(topics) == was {
					break // it says nothing of them
				}
				some = math.MaxInt
				continue
			}
			some = ledSome
			select {
			case <-waiting.Done():
				return ctx.Err()
			case <-time.After(wait):
				wait = min(2*wait, time.Second)
			}
		}
	}
	return ctx.Err()
}

// partitions is how many there are of topics.
func partitions(topics map[string]map[int32]*Bound) (n int) {
	for _, parts := range topics {
		n += len(parts)
	}
	return n
}

// moved takes out those that were told of, and says whether any is to be asked for again.
func moved(topics map[string]map[int32]*Bound) (some bool) {
	for name, parts := range topics {
		for index, b := range parts {
			if errors.Is(b.Err, ErrMoved) {
				b.Err, b.From, some = nil, 0, true
			} else if b.From > 0 {
				delete(parts, index)
			}
		}
		if len(parts) == 0 {
			delete(topics, name)
		}
	}
	return some
}

// look fills in what the peer says of topics. Those that are not there have no partitions.
func (s *kafkaSession) look(ctx context.Context, topics []Topic) (*kmsg.MetadataResponse, error) {
	req := kmsg.NewPtrMetadataRequest()
	for i := range topics {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = kmsg.StringPtr(topics[i].Name)
		req.Topics = append(req.Topics, t)
	}
	resp, err := req.RequestWith(ctx, s.cl)
	if err != nil {
		return nil, err
	}
	if resp.ClusterID != nil {
		s.cluster = *resp.ClusterID
	}
	for _, r := range resp.Topics {
		i := slices.IndexFunc(topics, func(t Topic) bool { return r.Topic != nil && t.Name == *r.Topic })
		if i < 0 {
			continue
		}
		switch err := kerr.ErrorForCode(r.ErrorCode); {
		case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.LeaderNotAvailable):
			topics[i].Have = 0
		case err != nil:
			topics[i].Have, topics[i].Err = 0, err
		default:
			topics[i].ID, topics[i].Have = r.TopicID, int32(len(r.Partitions))
		}
	}
	return resp, nil
}

// create makes the topics that are not there: without what is optional where the peer will not have that.
func (s *kafkaSession) create(ctx context.Context, topics []Topic) (some bool, err error) {
	return create(ctx, s.cl, topics, s.replication)
}

func create(ctx context.Context, peer kmsg.Requestor, topics []Topic, replication int16) (some bool, err error) {
	wanted := func(t *Topic) bool { return t.Have == 0 && t.Err == nil }
	some, unknown, err := createThose(ctx, peer, topics, replication, wanted, true)
	if err != nil || len(unknown) == 0 {
		return some, err
	}
	more, _, err := createThose(ctx, peer, topics, replication, func(t *Topic) bool { return unknown[t.Name] }, false)
	return some || more, err
}

// createThose makes some of the topics, and says whether it has, and which the peer has refused for settings that may be left out.
func createThose(
	ctx context.Context, peer kmsg.Requestor, topics []Topic, replication int16, those func(*Topic) bool, optional bool,
) (some bool, unknown map[string]bool, err error) {
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis = createTimeoutMS
	spare := map[string]bool{}
	for i := range topics {
		t := &topics[i]
		if !those(t) {
			continue
		}
		r := kmsg.NewCreateTopicsRequestTopic()
		r.Topic, r.NumPartitions, r.ReplicationFactor = t.Name, t.Partitions, replication
		set := func(settings map[string]string) {
			for name, value := range settings {
				c := kmsg.NewCreateTopicsRequestTopicConfig()
				c.Name, c.Value = name, kmsg.StringPtr(value)
				r.Configs = append(r.Configs, c)
			}
		}
		if set(t.Configs); optional {
			set(t.Optional)
			spare[t.Name] = len(t.Optional) > 0
		}
		req.Topics = append(req.Topics, r)
	}
	if len(req.Topics) == 0 {
		return false, nil, nil
	}
	resp, err := req.RequestWith(ctx, peer)
	if err != nil {
		return false, nil, err
	}
	unknown = map[string]bool{}
	for _, r := range resp.Topics {
		switch err := kerr.ErrorForCode(r.ErrorCode); {
		case err == nil:
			some = true
			if i := slices.IndexFunc(topics, func(t Topic) bool { return t.Name == r.Topic }); i >= 0 {
				topics[i].Made = true
			}
		case errors.Is(err, kerr.TopicAlreadyExists): // perhaps by another board, or by a request of which no answer came
			some = true
		case errors.Is(err, kerr.InvalidConfig) && spare[r.Topic]:
			unknown[r.Topic] = true
		default:
			blame(topics, r.Topic, "it cannot be made", err, r.ErrorMessage)
		}
	}
	return some, unknown, nil
}

// grow adds partitions where there are too few.
func (s *kafkaSession) grow(ctx context.Context, topics []Topic) (some bool, err error) {
	req := kmsg.NewPtrCreatePartitionsRequest()
	req.TimeoutMillis = createTimeoutMS
	for _, t := range topics {
		if t.Have > 0 && t.Have < t.Partitions && t.Err == nil {
			r := kmsg.NewCreatePartitionsRequestTopic()
			r.Topic, r.Count = t.Name, t.Partitions
			req.Topics = append(req.Topics, r)
		}
	}
	if len(req.Topics) == 0 {
		return false, nil
	}
	resp, err := req.RequestWith(ctx, s.cl)
	if err != nil {
		return false, err
	}
	for _, r := range resp.Topics {
		// What may not grow is used as it is: records go by their keys.
		some = some || r.ErrorCode == 0
	}
	return some, nil
}

func blame(topics []Topic, name, what string, err error, message *string) {
	for i := range topics {
		if topics[i].Name == name {
			topics[i].Err = fmt.Errorf("%s: %w", what, err)
			if message != nil && *message != "" {
				topics[i].Err = fmt.Errorf("%s: %w: %s", what, err, *message)
			}
		}
	}
}

// compacted looks up whether topics that should be compacted are. A peer that does not tell is believed.
func (s *kafkaSession) compacted(ctx context.Context, topics []Topic) error {
	req := kmsg.NewPtrDescribeConfigsRequest()
	for i, t := range topics {
		if _, asked := t.Configs["cleanup.policy"]; !asked || t.Have == 0 {
			continue
		}
		topics[i].Compacted = true
		r := kmsg.NewDescribeConfigsRequestResource()
		r.ResourceType, r.ResourceName, r.ConfigNames = kmsg.ConfigResourceTypeTopic, t.Name, []string{"cleanup.policy"}
		req.Resources = append(req.Resources, r)
	}
	if len(req.Resources) == 0 {
		return nil
	}
	resp, err := req.RequestWith(ctx, s.cl)
	if err != nil {
		return err
	}
	for _, r := range resp.Resources {
		for i := range topics {
			if topics[i].Name != r.ResourceName || r.ErrorCode != 0 {
				continue
			}
			for _, c := range r.Configs {
				if c.Name == "cleanup.policy" && c.Value != nil {
					topics[i].Compacted = *c.Value == "compact"
				}
			}
		}
	}
	return nil
}
