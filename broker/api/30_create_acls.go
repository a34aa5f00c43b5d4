// CreateAcls: v1-3
//
//   - Without an authorizer: SECURITY_DISABLED, as at Apache Kafka.
//   - Entries that are there already are no error. The good ones of a request hold together or not at all; the bad ones
//     are INVALID_REQUEST, each for itself.
//   - A host that is no address is INVALID_REQUEST: it could never match. Apache Kafka takes it.
//   - Delegation tokens and users as resources are INVALID_REQUEST: there are no tokens.
//   - In force for the next request of every connection when the answer is sent.

package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/broker/server"
)

// CreateAcls adds entries.
func (h *Handler) CreateAcls(req *server.Request, b *kmsg.CreateACLsRequest) kmsg.Response {
	resp := kmsg.NewPtrCreateACLsResponse()
	resp.Results = make([]kmsg.CreateACLsResponseResult, len(b.Creations))
	refused := h.mayACLs(req, auth.Alter)
	var good []auth.ACL
	for i := range b.Creations {
		q := &b.Creations[i]
		a := auth.ACL{
			Type: auth.ResourceType(q.ResourceType), Pattern: auth.Pattern(q.ResourcePatternType), Name: q.ResourceName,
			Principal: auth.Principal(q.Principal), Host: q.Host, Operation: auth.Operation(q.Operation), Permission: auth.Permission(q.PermissionType),
		}
		err := refused
		if err == nil {
			err = a.Check()
		}
		if err == nil {
			good = append(good, a)
		}
		resp.Results[i].ErrorCode, resp.Results[i].ErrorMessage = codeOf(err), saying(err)
	}
	if len(good) == 0 {
		return resp
	}
	if _, err := h.config.Catalog.Propose(req.Context, catalog.AddACLs{ACLs: good}); err != nil {
		for i := range resp.Results {
			if resp.Results[i].ErrorCode == codeNone {
				resp.Results[i].ErrorCode, resp.Results[i].ErrorMessage = codeOf(err), saying(err)
			}
		}
	}
	return resp
}
