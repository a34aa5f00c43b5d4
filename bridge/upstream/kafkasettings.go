package upstream

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Follow implements Session: it asks for these settings alone, and changes what is as it was left (KIP-339).
func (s *kafkaSession) Follow(ctx context.Context, list []Setting) error {
	ctx, cancel := context.WithTimeout(ctx, max(adminTimeout, s.patience))
	defer cancel()
	return follow(ctx, s.cl, list)
}

func follow(ctx context.Context, peer kmsg.Requestor, list []Setting) error {
	if err := described(ctx, peer, list); err != nil {
		return err
	}
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	asked := map[string][]*Setting{}
	each(list, func(topic string, some []*Setting) {
		r := kmsg.NewIncrementalAlterConfigsRequestResource()
		r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, topic
		for _, set := range some {
			if set.Err != nil || !alike(set.Is, set.Was) || alike(set.Is, set.Want) {
				continue
			}
			c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
			c.Name, c.Op, c.Value = set.Name, kmsg.IncrementalAlterConfigOpSet, set.Want
			if set.Want == nil {
				c.Op = kmsg.IncrementalAlterConfigOpDelete
			}
			r.Configs = append(r.Configs, c)
			asked[topic] = append(asked[topic], set)
		}
		if len(r.Configs) > 0 {
			req.Resources = append(req.Resources, r)
		}
	})
	if len(req.Resources) == 0 {
		return nil
	}
	resp, err := req.RequestWith(ctx, peer)
	if errors.Is(err, kerr.UnsupportedVersion) {
		for _, some := range asked {
			for _, set := range some {
				set.Err = err
			}
		}
		return nil
	}
	if err != nil {
		return err
	}
	for _, r := range resp.Resources { // of one topic all is done, or nothing
		err := said(r.ErrorCode, r.ErrorMessage)
		for _, set := range asked[r.ResourceName] {
			if set.Err = err; err == nil {
				set.Is = set.Want
			}
		}
	}
	return nil
}

// described fills in what the settings are.
func described(ctx context.Context, peer kmsg.Requestor, list []Setting) error {
	req := kmsg.NewPtrDescribeConfigsRequest()
	asked := map[string][]*Setting{}
	each(list, func(topic string, some []*Setting) {
		r := kmsg.NewDescribeConfigsRequestResource()
		r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, topic
		for _, set := range some {
			r.ConfigNames = append(r.ConfigNames, set.Name)
			set.Is, set.Err = nil, errNoTopic // unless there is an answer
		}
		asked[topic] = some
		req.Resources = append(req.Resources, r)
	})
	resp, err := req.RequestWith(ctx, peer)
	if err != nil {
		return err
	}
	for _, r := range resp.Resources {
		err := said(r.ErrorCode, r.ErrorMessage)
		for _, set := range asked[r.ResourceName] {
			set.Err = err
			for _, c := range r.Configs {
				if c.Name == set.Name && c.Source == kmsg.ConfigSourceDynamicTopicConfig {
					set.Is = c.Value
				}
			}
		}
	}
	return nil
}

// each calls fn with the settings of each topic, which are next to one another.
func each(list []Setting, fn func(topic string, some []*Setting)) {
	for first := 0; first < len(list); {
		var some []*Setting
		for _, at := range list[first:] {
			if at.Topic != list[first].Topic {
				break
			}
			some = append(some, &list[first+len(some)])
		}
		fn(list[first].Topic, some)
		first += len(some)
	}
}

// said is what an answer's error code and message say, nil for none.
func said(code int16, message *string) error {
	err := kerr.ErrorForCode(code)
	if err != nil && message != nil && *message != "" {
		return fmt.Errorf("%w: %s", err, *message)
	}
	return err
}
