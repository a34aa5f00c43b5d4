// DescribeGroups: v0-6
//
//   - What members say and are assigned is shown of a stable group only, as at Apache Kafka.
//   - The same group twice is INVALID_REQUEST the second time: an answer is no larger than what there is.
//   - v3 (KIP-430): authorized operations, where they are asked for.
//   - v6 (KIP-1043): a group that does not exist is GROUP_ID_NOT_FOUND; before, it is described as Dead.

package api

import (
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/group"
	"millrace/broker/server"
)

// DescribeGroups describes groups and their members. The first result is the room the answer takes; the answer is nil
// when the server closed before there was room.
func (h *Handler) DescribeGroups(req *server.Request, b *kmsg.DescribeGroupsRequest) (int64, kmsg.Response) {
	size := 160 * len(b.Groups)
	for _, id := range slices.Compact(slices.Sorted(slices.Values(b.Groups))) {
		if _, n, err := h.config.Groups.Describe(id, false); err == nil {
			size += 2 * n
		}
	}
	room, err := h.room(req.Context, size)
	if err != nil {
		return 0, nil
	}
	resp := kmsg.NewPtrDescribeGroupsResponse()
	seen := make(map[string]bool, len(b.Groups))
	for _, id := range b.Groups {
		if seen[id] {
			out := kmsg.NewDescribeGroupsResponseGroup()
			out.Group, out.ErrorCode, out.AuthorizedOperations = id, codeInvalidRequest, noOperations
			resp.Groups = append(resp.Groups, out)
			continue
		}
		seen[id] = true
		if !h.allowed(req, auth.Describe, auth.GroupNamed(id)) {
			out := kmsg.NewDescribeGroupsResponseGroup()
			out.Group, out.ErrorCode, out.AuthorizedOperations = id, codeGroupAuthorization, noOperations
			resp.Groups = append(resp.Groups, out)
			continue
		}
		out := h.describeGroup(id, b.Version)
		if b.IncludeAuthorizedOperations {
			out.AuthorizedOperations = h.operations(req, auth.GroupNamed(id))
		}
		resp.Groups = append(resp.Groups, out)
	}
	return room, resp
}

func (h *Handler) describeGroup(id string, version int16) kmsg.DescribeGroupsResponseGroup {
	out := kmsg.NewDescribeGroupsResponseGroup()
	out.Group, out.AuthorizedOperations = id, noOperations
	d, _, err := h.config.Groups.Describe(id, true)
	if err != nil {
		if errors.Is(err, group.ErrNotFound) {
			out.State = group.Dead.String()
			if version < 6 {
				return out
			}
			out.ErrorMessage = text(fmt.Sprintf("Group %s not found.", id))
		}
		out.ErrorCode = codeOf(err)
		return out
	}
	out.State, out.ProtocolType, out.Protocol = d.Phase.String(), d.ProtocolType, d.Protocol
	out.Members = make([]kmsg.DescribeGroupsResponseGroupMember, len(d.Members))
	for i, m := range d.Members {
		r := &out.Members[i]
		r.Default()
		r.MemberID, r.InstanceID, r.ClientID, r.ClientHost = m.ID, textOrNull(m.Instance), m.ClientID, m.ClientHost
		r.ProtocolMetadata, r.MemberAssignment = m.Metadata, m.Assignment
	}
	return out
}
