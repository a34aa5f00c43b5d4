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
	of := func(q *kmsg.AlterConfigsRequestResource) resource { return resource{q.ResourceType, q.ResourceName} }
	change := func(q *kmsg.AlterConfigsRequestResource) error { return h.replace(req, q, b.ValidateOnly) }
	eachResource(b.Resources, of, change, func(r resource, err error) {
		out := kmsg.NewAlterConfigsResponseResource()
		out.ResourceType, out.ResourceName, out.ErrorCode, out.ErrorMessage = r.kind, r.name, codeOf(err), saying(err)
		resp.Resources = append(resp.Resources, out)
	})
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
