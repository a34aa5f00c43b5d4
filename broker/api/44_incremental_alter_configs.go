// IncrementalAlterConfigs: v0-1
//
//   - Topics and brokers (KIP-339, KIP-226); an empty broker name sets the default of all. Other kinds of resources
//     are INVALID_REQUEST, and so is the same resource twice, or a value that is null where one is needed.
//   - All changes of one resource hold, or none; they are durable when the answer is sent.
//   - Topics of the broker itself are INVALID_REQUEST.

package api

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/broker/server"
)

// errRefused is what the caller asked for in a way that has no meaning.
var errRefused = errors.New("invalid request")

// IncrementalAlterConfigs changes settings, one resource after the other.
func (h *Handler) IncrementalAlterConfigs(req *server.Request, b *kmsg.IncrementalAlterConfigsRequest) kmsg.Response {
	resp := kmsg.NewPtrIncrementalAlterConfigsResponse()
	of := func(q *kmsg.IncrementalAlterConfigsRequestResource) resource {
		return resource{q.ResourceType, q.ResourceName}
	}
	change := func(q *kmsg.IncrementalAlterConfigsRequestResource) error { return h.alterOne(req, q, b.ValidateOnly) }
	eachResource(b.Resources, of, change, func(r resource, err error) {
		out := kmsg.NewIncrementalAlterConfigsResponseResource()
		out.ResourceType, out.ResourceName, out.ErrorCode, out.ErrorMessage = r.kind, r.name, codeOf(err), saying(err)
		resp.Resources = append(resp.Resources, out)
	})
	return resp
}

// resource is what has settings.
type resource struct {
	kind kmsg.ConfigResourceType
	name string
}

// eachResource changes one resource after the other and answers for each; one that is there more than once is not changed.
func eachResource[Q any](all []Q, of func(*Q) resource, change func(*Q) error, answer func(resource, error)) {
	times := make(map[resource]int, len(all))
	for i := range all {
		times[of(&all[i])]++
	}
	for i := range all {
		r := of(&all[i])
		if times[r] > 1 {
			answer(r, fmt.Errorf("%w: the resource is in the request more than once", errRefused))
			continue
		}
		answer(r, change(&all[i]))
	}
}

func (h *Handler) alterOne(req *server.Request, q *kmsg.IncrementalAlterConfigsRequestResource, validateOnly bool) error {
	ops := make([]catalog.ConfigOp, len(q.Configs))
	for i, c := range q.Configs {
		if c.Op < 0 || c.Op > kmsg.IncrementalAlterConfigOpSubtract {
			return fmt.Errorf("%w: operation %d on %s", errRefused, c.Op, c.Name)
		}
		if ops[i] = (catalog.ConfigOp{Name: c.Name, Op: catalog.Op(c.Op), Value: value(c.Value)}); c.Value == nil && ops[i].Op != catalog.OpDelete {
			return fmt.Errorf("%w: null value for %s", errRefused, c.Name)
		}
	}
	return h.alter(req, q.ResourceType, q.ResourceName, ops, false, validateOnly)
}

// alter changes the settings of one resource; replace drops every other.
func (h *Handler) alter(req *server.Request, kind kmsg.ConfigResourceType, name string, ops []catalog.ConfigOp, replace, validateOnly bool) error {
	switch kind {
	case kmsg.ConfigResourceTypeTopic:
		if !h.allowed(req, auth.AlterConfigs, auth.TopicNamed(name)) {
			return errTopicDenied
		}
		t := h.config.Catalog.Image().Topic(name)
		switch {
		case t == nil:
			return fmt.Errorf("topic '%s': %w", name, catalog.ErrUnknownTopic)
		case catalog.Reserved(t.Name):
			return fmt.Errorf("%w: %s is the broker's own", errRefused, t.Name)
		}
		return h.propose(req, catalog.AlterTopicConfig{Topic: t.ID, Replace: replace, Ops: ops}, validateOnly)
	case kmsg.ConfigResourceTypeBroker:
		if !h.allowed(req, auth.AlterConfigs, theCluster) {
			return errClusterDenied
		}
		id := catalog.AllBrokers
		if name != "" {
			var err error
			if id, err = h.thisBroker(name); err != nil {
				return fmt.Errorf("%w: %w", errRefused, err)
			}
		}
		return h.propose(req, catalog.AlterBrokerConfig{Broker: id, Replace: replace, Ops: ops}, validateOnly)
	}
	return fmt.Errorf("%w: resources of type %d have no settings here", errRefused, kind)
}
