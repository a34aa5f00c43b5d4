// DeleteGroups: v0-2
//
//   - Answered when the end of the groups and of their offsets is on flash.
//   - A group with members is NON_EMPTY_GROUP, one that does not exist GROUP_ID_NOT_FOUND.

package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/server"
)

// DeleteGroups deletes groups one by one.
func (h *Handler) DeleteGroups(req *server.Request, b *kmsg.DeleteGroupsRequest) kmsg.Response {
	resp := kmsg.NewPtrDeleteGroupsResponse()
	for _, id := range b.Groups {
		out := kmsg.NewDeleteGroupsResponseGroup()
		out.Group, out.ErrorCode = id, codeGroupAuthorization
		if h.allowed(req, auth.Delete, auth.GroupNamed(id)) {
			out.ErrorCode = codeOf(h.config.Groups.Delete(id))
		}
		resp.Groups = append(resp.Groups, out)
	}
	return resp
}
