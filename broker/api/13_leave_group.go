// LeaveGroup: v0-5
//
//   - v3 (KIP-345): several members at once, each with an error of its own; a static one by its instance id alone.
//   - v5 (KIP-800): the reason is not kept.

package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/group"
	"millrace/broker/server"
)

// LeaveGroup takes members out of a group.
func (h *Handler) LeaveGroup(req *server.Request, b *kmsg.LeaveGroupRequest, reply func(server.Answer)) {
	if !h.allowed(req, auth.Read, auth.GroupNamed(b.Group)) {
		resp := kmsg.NewPtrLeaveGroupResponse()
		resp.ErrorCode = codeGroupAuthorization
		reply(answer(req.Header, resp))
		return
	}
	e := group.Leave{Group: b.Group}
	if b.Version < 3 {
		e.Members = []group.Leaver{{Member: b.MemberID}}
	}
	for _, m := range b.Members {
		e.Members = append(e.Members, group.Leaver{Member: m.MemberID, Instance: value(m.InstanceID)})
	}
	h.config.Groups.Leave(e, func(r group.LeaveReply) {
		resp := kmsg.NewPtrLeaveGroupResponse()
		resp.ErrorCode = codeOf(r.Err)
		if b.Version < 3 && r.Err == nil {
			resp.ErrorCode = codeOf(r.Errors[0])
		}
		if b.Version >= 3 && r.Err == nil {
			resp.Members = make([]kmsg.LeaveGroupResponseMember, len(b.Members))
			for i, m := range b.Members {
				out := &resp.Members[i]
				out.Default()
				out.MemberID, out.InstanceID, out.ErrorCode = m.MemberID, m.InstanceID, codeOf(r.Errors[i])
			}
		}
		reply(answer(req.Header, resp))
	})
}
