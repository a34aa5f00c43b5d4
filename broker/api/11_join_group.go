// JoinGroup: v0-9
//
//   - Answered when the generation begins: at once for one that changes nothing, else when everybody has joined or
//     their time is up. Who has gone meanwhile is a member all the same, until its session is over.
//   - v0: the session timeout is the rebalance timeout too.
//   - v4 (KIP-394): a new member is told its id with MEMBER_ID_REQUIRED and joins again.
//   - v5 (KIP-345): static members take their old place; a generation is not made anew for it unless the protocol, or the
//     topics a consumer names, changed. Apache Kafka looks at the protocol only.
//     After a restart of the broker a static member that the log does not know yet is told UNKNOWN_MEMBER_ID, so that it
//     joins again, where Apache Kafka fences it for good.
//   - v9 (KIP-814): a leader that came back so is told to skip the assignment.
//   - No room for the member, by group.max.size or in memory, is GROUP_MAX_SIZE_REACHED.

package api

import (
	"net"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/group"
	"millrace/broker/server"
	"millrace/broker/wire"
)

// JoinGroup has a member join and replies when it is in a generation, or refused.
func (h *Handler) JoinGroup(req *server.Request, b *kmsg.JoinGroupRequest, reply func(server.Answer)) (cancel func() bool) {
	e := group.Join{
		Group: b.Group, Member: b.MemberID, Instance: value(b.InstanceID), ClientID: req.ClientID, ClientHost: host(req.Remote),
		SessionMS: b.SessionTimeoutMillis, RebalanceMS: b.RebalanceTimeoutMillis, ProtocolType: b.ProtocolType,
		RequireID: b.Version >= 4 && b.InstanceID == nil, CanSkip: b.Version >= 9,
		Protocols: make([]group.Protocol, len(b.Protocols)),
	}
	if !h.allowed(req, auth.Read, auth.GroupNamed(b.Group)) {
		resp := kmsg.NewPtrJoinGroupResponse()
		resp.ErrorCode = codeGroupAuthorization
		reply(answer(req.Header, resp))
		return nil
	}
	if b.Version == 0 {
		e.RebalanceMS = b.SessionTimeoutMillis
	}
	for i, p := range b.Protocols {
		e.Protocols[i] = group.Protocol{Name: p.Name, Metadata: p.Metadata}
	}
	return h.config.Groups.Join(e, func(r group.JoinReply) {
		reply(func() *wire.Response { return h.joined(req, r) })
	})
}

// joined builds the answer, in the connection's goroutine: the leader's holds what all members say.
func (h *Handler) joined(req *server.Request, r group.JoinReply) *wire.Response {
	size := 0
	for i := range r.Members {
		size += 160 + 2*len(r.Members[i].Metadata)
	}
	room, err := h.room(req.Context, size)
	if err != nil {
		return &wire.Response{Close: true}
	}
	resp := kmsg.NewPtrJoinGroupResponse()
	resp.ErrorCode, resp.Generation, resp.MemberID, resp.LeaderID = codeOf(r.Err), r.Generation, r.Member, r.Leader
	resp.Protocol = &r.Protocol
	if r.Err == nil {
		resp.ProtocolType = &r.ProtocolType
	} else if req.Version >= 7 {
		resp.Protocol = nil
	}
	resp.SkipAssignment = r.SkipAssignment
	resp.Members = make([]kmsg.JoinGroupResponseMember, len(r.Members))
	for i, m := range r.Members {
		out := &resp.Members[i]
		out.Default()
		out.MemberID, out.InstanceID, out.ProtocolMetadata = m.ID, textOrNull(m.Instance), m.Metadata
	}
	return h.withRoom(wire.Encode(req.Header, resp), room)
}

// host is a client's address as groups show it: Java's, with a slash before it.
func host(remote net.Addr) string {
	if remote == nil {
		return ""
	}
	name, _, err := net.SplitHostPort(remote.String())
	if err != nil {
		name = remote.String()
	}
	return "/" + name
}
