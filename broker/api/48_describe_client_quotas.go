// DescribeClientQuotas: v0-1
//
//   - KIP-546: there are no quotas, so no entity matches a filter; a filter that cannot be is refused as at Apache Kafka.
//   - AlterClientQuotas (49) is not served.

package api

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/server"
)

// DescribeClientQuotas tells that nobody has a quota.
func (h *Handler) DescribeClientQuotas(req *server.Request, b *kmsg.DescribeClientQuotasRequest) kmsg.Response {
	resp := kmsg.NewPtrDescribeClientQuotasResponse()
	if !h.allowed(req, auth.DescribeConfigs, theCluster) {
		resp.ErrorCode, resp.ErrorMessage = codeClusterAuthorization, text("to describe quotas takes DESCRIBE_CONFIGS on the cluster")
		return resp
	}
	if why := wrongFilter(b.Components); why != "" {
		resp.ErrorCode, resp.ErrorMessage = codeInvalidRequest, &why
		return resp
	}
	resp.Entries = []kmsg.DescribeClientQuotasResponseEntry{} // null is for errors
	return resp
}

// wrongFilter says why a filter of entities cannot be, "" if it can.
func wrongFilter(components []kmsg.DescribeClientQuotasRequestComponent) string {
	seen := map[string]bool{}
	for i := range components {
		switch c := &components[i]; {
		case c.EntityType == "":
			return "a component names no type of entity"
		case seen[c.EntityType]:
			return "a type of entity is in the filter more than once"
		case c.MatchType < kmsg.QuotasMatchTypeExact || c.MatchType > kmsg.QuotasMatchTypeAny:
			return fmt.Sprintf("there is no match type %d", c.MatchType)
		case c.MatchType == kmsg.QuotasMatchTypeExact && c.Match == nil:
			return "an exact match takes a name"
		case c.MatchType != kmsg.QuotasMatchTypeExact && c.Match != nil:
			return "only an exact match takes a name"
		}
		seen[components[i].EntityType] = true
	}
	if seen["ip"] && len(seen) > 1 {
		return "an ip goes with no other type of entity"
	}
	return ""
}
