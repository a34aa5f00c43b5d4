// DescribeAcls: v1-3
//
//   - Without an authorizer: SECURITY_DISABLED, as at Apache Kafka.
//   - v1 (KIP-290): literal and prefixed patterns, and MATCH in filters.
//   - v3 users as resources, and delegation tokens: INVALID_REQUEST. There are no tokens.

package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/server"
)

// describedACL is about what one entry takes in an answer, in bytes, encoded and not.
const describedACL = 512

// DescribeAcls tells the entries a filter selects. The first result is the room its answer takes; the answer is nil when
// the server closed before there was room.
func (h *Handler) DescribeAcls(req *server.Request, b *kmsg.DescribeACLsRequest) (int64, kmsg.Response) {
	resp := kmsg.NewPtrDescribeACLsResponse()
	resp.Resources = []kmsg.DescribeACLsResponseResource{}
	f := auth.Filter{
		Type: auth.ResourceType(b.ResourceType), Pattern: auth.Pattern(b.ResourcePatternType), Name: b.ResourceName,
		Principal: b.Principal, Host: b.Host, Operation: auth.Operation(b.Operation), Permission: auth.Permission(b.PermissionType),
	}
	err := h.mayACLs(req, auth.Describe)
	if err == nil {
		err = f.Check()
	}
	if err != nil {
		resp.ErrorCode, resp.ErrorMessage = codeOf(err), saying(err)
		return 0, resp
	}
	all := h.config.Catalog.Image().ACLs().All()
	n := 0
	for _, a := range all {
		if f.Matches(a) {
			n++
		}
	}
	room, err := h.room(req.Context, n*describedACL)
	if err != nil {
		return 0, nil
	}
	for _, a := range all { // entries of one resource follow each other
		if !f.Matches(a) {
			continue
		}
		last := len(resp.Resources) - 1
		if last < 0 || resp.Resources[last].ResourceName != a.Name || resp.Resources[last].ResourceType != kmsg.ACLResourceType(a.Type) ||
			resp.Resources[last].ResourcePatternType != kmsg.ACLResourcePatternType(a.Pattern) {
			resp.Resources = append(resp.Resources, kmsg.DescribeACLsResponseResource{
				ResourceType: kmsg.ACLResourceType(a.Type), ResourceName: a.Name, ResourcePatternType: kmsg.ACLResourcePatternType(a.Pattern),
			})
			last++
		}
		r := &resp.Resources[last]
		r.ACLs = append(r.ACLs, kmsg.DescribeACLsResponseResourceACL{
			Principal: string(a.Principal), Host: a.Host, Operation: kmsg.ACLOperation(a.Operation), PermissionType: kmsg.ACLPermissionType(a.Permission),
		})
	}
	return room, resp
}

// mayACLs says whether who sent the request may do op to ACLs, and whether there are any at all.
func (h *Handler) mayACLs(req *server.Request, op auth.Operation) error {
	if !h.allowed(req, op, theCluster) {
		return errClusterDenied
	}
	if h.config.Authorizer == nil {
		return errNoAuthorizer
	}
	return nil
}
