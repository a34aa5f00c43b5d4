// SyncGroup: v0-5
//
//   - Answered when the leader's assignment is on flash.
//   - v3 (KIP-345): the instance id of a static member is checked.
//   - v5 (KIP-559): protocol type and name are checked, and are INCONSISTENT_GROUP_PROTOCOL when they are missing.

package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/group"
	"millrace/broker/server"
	"millrace/broker/wire"
)

// SyncGroup gives a member its assignment when the leader has brought everybody's.
func (h *Handler) SyncGroup(req *server.Request, b *kmsg.SyncGroupRequest, reply func(server.Answer)) (cancel func() bool) {
	tell := func(r group.SyncReply) {
		reply(func() *wire.Response {
			resp := kmsg.NewPtrSyncGroupResponse()
			resp.ErrorCode, resp.MemberAssignment = codeOf(r.Err), r.Assignment
			if r.Err == nil {
				resp.ProtocolType, resp.Protocol = &r.ProtocolType, &r.Protocol
			}
			return wire.Encode(req.Header, resp)
		})
	}
	if !h.allowed(req, auth.Read, auth.GroupNamed(b.Group)) {
		resp := kmsg.NewPtrSyncGroupResponse()
		resp.ErrorCode = codeGroupAuthorization
		reply(answer(req.Header, resp))
		return nil
	}
	if b.Version >= 5 && (b.ProtocolType == nil || b.Protocol == nil) {
		tell(group.SyncReply{Err: group.ErrInconsistentProtocol})
		return nil
	}
	e := group.Sync{
		Group: b.Group, Member: b.MemberID, Instance: value(b.InstanceID), Generation: b.Generation,
		ProtocolType: b.ProtocolType, Protocol: b.Protocol, Assignments: make(map[string][]byte, len(b.GroupAssignment)),
	}
	for _, a := range b.GroupAssignment {
		e.Assignments[a.MemberID] = a.MemberAssignment
	}
	return h.config.Groups.Sync(e, tell)
}
