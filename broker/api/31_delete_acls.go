// DeleteAcls: v1-3
//
//   - Without an authorizer: SECURITY_DISABLED, as at Apache Kafka.
//   - The entries each filter selected are told. More than 1,000 of one filter are removed in several steps; a failure
//     between them is the filter's error, with what was removed until then.
//   - A filter that has no meaning is INVALID_REQUEST.

package api

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/broker/server"
)

// DeleteAcls removes the entries filters select, one filter after the other. The first result is the room its answer
// takes; the answer is nil when the server closed before there was room.
func (h *Handler) DeleteAcls(req *server.Request, b *kmsg.DeleteACLsRequest) (int64, kmsg.Response) {
	refused := h.mayACLs(req, auth.Alter)
	room := int64(0)
	if refused == nil {
		var err error
		// No entry is removed twice, so this is enough for all filters.
		if room, err = h.room(req.Context, h.config.Catalog.Image().ACLs().Len()*describedACL+len(b.Filters)*smallFilter); err != nil {
			return 0, nil
		}
	}
	resp := kmsg.NewPtrDeleteACLsResponse()
	resp.Results = make([]kmsg.DeleteACLsResponseResult, len(b.Filters))
	for i := range b.Filters {
		q, out := &b.Filters[i], &resp.Results[i]
		f := auth.Filter{
			Type: auth.ResourceType(q.ResourceType), Pattern: auth.Pattern(q.ResourcePatternType), Name: q.ResourceName,
			Principal: q.Principal, Host: q.Host, Operation: auth.Operation(q.Operation), Permission: auth.Permission(q.PermissionType),
		}
		err := refused
		if err == nil {
			err = f.Check()
		}
		if err == nil {
			err = h.deleteACLs(req, f, out)
		}
		out.ErrorCode, out.ErrorMessage = codeOf(err), saying(err)
		if out.MatchingACLs == nil {
			out.MatchingACLs = []kmsg.DeleteACLsResponseResultMatchingACL{}
		}
	}
	return room, resp
}

// smallFilter is about what the answer to a filter takes that selects nothing.
const smallFilter = 64

func (h *Handler) deleteACLs(req *server.Request, f auth.Filter, out *kmsg.DeleteACLsResponseResult) error {
	var gone []auth.ACL
	for _, a := range h.config.Catalog.Image().ACLs().All() {
		if f.Matches(a) {
			gone = append(gone, a)
		}
	}
	for part := range slices.Chunk(gone, catalog.MaxACLsPerCommand) {
		if _, err := h.config.Catalog.Propose(req.Context, catalog.RemoveACLs{ACLs: part}); err != nil {
			return err
		}
		for _, a := range part {
			m := kmsg.NewDeleteACLsResponseResultMatchingACL()
			m.ResourceType, m.ResourceName, m.ResourcePatternType = kmsg.ACLResourceType(a.Type), a.Name, kmsg.ACLResourcePatternType(a.Pattern)
			m.Principal, m.Host = string(a.Principal), a.Host
			m.Operation, m.PermissionType = kmsg.ACLOperation(a.Operation), kmsg.ACLPermissionType(a.Permission)
			out.MatchingACLs = append(out.MatchingACLs, m)
		}
	}
	return nil
}
