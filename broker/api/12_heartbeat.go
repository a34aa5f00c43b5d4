// Heartbeat: v0-4
//
//   - REBALANCE_IN_PROGRESS while the next generation gathers: the member is to join it.
//   - v3 (KIP-345): the instance id of a static member is checked.

package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/group"
	"millrace/broker/server"
)

// Heartbeat keeps a member's session alive.
func (h *Handler) Heartbeat(req *server.Request, b *kmsg.HeartbeatRequest, reply func(server.Answer)) {
	e := group.Heartbeat{Group: b.Group, Member: b.MemberID, Instance: value(b.InstanceID), Generation: b.Generation}
	if !h.allowed(req, auth.Read, auth.GroupNamed(b.Group)) {
		resp := kmsg.NewPtrHeartbeatResponse()
		resp.ErrorCode = codeGroupAuthorization
		reply(answer(req.Header, resp))
		return
	}
	h.config.Groups.Heartbeat(e, func(err error) {
		resp := kmsg.NewPtrHeartbeatResponse()
		resp.ErrorCode = codeOf(err)
		reply(answer(req.Header, resp))
	})
}
