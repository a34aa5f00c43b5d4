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
	see := kmsg.NewPtrDescribeConfigsRequest()
	for i := range list {
		s := &list[i]
		s.Is, s.Err = nil, errNoTopic // unless there is an answer
		n := len(see.Resources)
		if n == 0 || see.Resources[n-1].ResourceName != s.Topic {
			see.Resources = append(see.Resources, kmsg.DescribeConfigsRequestResource{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: s.Topic})
			n++
		}
		see.Resources[n-1].ConfigNames = append(see.Resources[n-1].ConfigNames, s.Name)
	}
	seen, err := see.RequestWith(ctx, peer)
	if err != nil {
		return err
	}
	for i := range seen.Resources {
		r := &seen.Resources[i]
		for j := range list {
			if list[j].Topic == r.ResourceName {
				list[j].seen(r)
			}
		}
	}
	change := kmsg.NewPtrIncrementalAlterConfigsRequest()
	for i := range list {
		s := &list[i]
		if !s.due() {
			continue
		}
		n := len(change.Resources)
		if n == 0 || change.Resources[n-1].ResourceName != s.Topic {
			change.Resources = append(change.Resources, kmsg.IncrementalAlterConfigsRequestResource{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: s.Topic})
			n++
		}
		op := kmsg.IncrementalAlterConfigOpSet
		if s.Want == nil {
			op = kmsg.IncrementalAlterConfigOpDelete
		}
		r := &change.Resources[n-1]
		r.Configs = append(r.Configs, kmsg.IncrementalAlterConfigsRequestResourceConfig{Name: s.Name, Op: op, Value: s.Want})
	}
	if len(change.Resources) == 0 {
		return nil
	}
	changed, err := change.RequestWith(ctx, peer)
	if errors.Is(err, kerr.UnsupportedVersion) { // before Kafka 2.3
		for i := range list {
			list[i].changed(err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	for i := range changed.Resources { // of one topic all is done, or nothing
		r := &changed.Resources[i]
		for j := range list {
			if list[j].Topic == r.ResourceName {
				list[j].changed(said(r.ErrorCode, r.ErrorMessage))
			}
		}
	}
	return nil
}

// seen takes over what it is.
func (s *Setting) seen(r *kmsg.DescribeConfigsResponseResource) {
	s.Err = said(r.ErrorCode, r.ErrorMessage)
	for i := range r.Configs {
		if c := &r.Configs[i]; c.Name == s.Name && c.Source == kmsg.ConfigSourceDynamicTopicConfig {
			s.Is = c.Value
		}
	}
}

// due says whether it is to be changed.
func (s *Setting) due() bool { return s.Err == nil && alike(s.Is, s.Was) && !alike(s.Is, s.Want) }

// changed takes over what became of a change, where there was one.
func (s *Setting) changed(err error) {
	if !s.due() {
		return
	}
	if s.Err = err; err == nil {
		s.Is = s.Want
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
