// AlterConfigs: v0-2
//
//   - The older way: what a request does not name is dropped. Kafka deprecates it for IncrementalAlterConfigs (KIP-339),
//     whose rules hold here too.
//   - A value of null is INVALID_REQUEST.

package api

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/catalog"
	"millrace/broker/server"
)

// AlterConfigs replaces settings, one resource after the other.
func (h *Handler) AlterConfigs(req *server.Request, b *kmsg.AlterConfigsRequest) kmsg.Response {
	resp := kmsg.NewPtrAlterConfigsResponse()
	type resource struct {
		kind kmsg.ConfigResourceType
		name string
	}
	times := make(map[resource]int, len(b.Resources))
	for i := range b.Resources {
		times[resource{b.Resources[i].ResourceType, b.Resources[i].ResourceName}]++
	}
	for i := range b.Resources {
		q := &b.Resources[i]
		out := kmsg.NewAlterConfigsResponseResource()
		out.ResourceType, out.ResourceName = q.ResourceType, q.ResourceName
		var err error
		if times[resource{q.ResourceType, q.ResourceName}] > 1 {
			err = fmt.Errorf("%w: the resource is in the request more than once", errRefused)
		} else {
			err = h.replace(req, q, b.ValidateOnly)
		}
		out.ErrorCode, out.ErrorMessage = codeOf(err), saying(err)
		resp.Resources = append(resp.Resources, out)
	}
	return resp
}

func (h *Handler) replace(req *server.Request, q *kmsg.AlterConfigsRequestResource, validateOnly bool) error {
	ops := make([]catalog.ConfigOp, len(q.Configs))
	for i, c := range q.Configs {
		if c.Value == nil {
			return fmt.Errorf("%w: null value for %s", errRefused, c.Name)
		}
		ops[i] = catalog.ConfigOp{Name: c.Name, Op: catalog.OpSet, Value: *c.Value}
	}
	return h.alter(req, q.ResourceType, q.ResourceName, ops, true, validateOnly)
}
