package upstream

import (
	"context"
	"errors"
	"fmt"
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
)

// Ensure implements Session.
func (s *kafkaSession) Ensure(ctx context.Context, topics []Topic) error {
	ctx, cancel := context.WithTimeout(ctx, max(adminTimeout, s.patience))
	defer cancel()
	if err := s.look(ctx, topics); err != nil {
		return err
	}
	made, err := s.create(ctx, topics)
	if err != nil {
		return err
	}
	grown, err := s.grow(ctx, topics)
	if err != nil {
		return err
	}
	for try := 0; (made || grown) && try < seenTries; try++ {
		if err := s.look(ctx, topics); err != nil {
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
	return s.compacted(ctx, topics)
}

// look fills in what the peer says of topics. Those that are not there have no partitions.
func (s *kafkaSession) look(ctx context.Context, topics []Topic) error {
	req := kmsg.NewPtrMetadataRequest()
	for i := range topics {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = kmsg.StringPtr(topics[i].Name)
		req.Topics = append(req.Topics, t)
	}
	resp, err := req.RequestWith(ctx, s.cl)
	if err != nil {
		return err
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
	return nil
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
