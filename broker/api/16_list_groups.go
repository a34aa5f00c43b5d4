// ListGroups: v0-5
//
//   - v4 (KIP-518): by state, whatever its case; v5 (KIP-848): by type, of which there is "classic" alone.
//   - While some groups are still being read it is COORDINATOR_LOAD_IN_PROGRESS, with those that are known.

package api

import (
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/server"
)

// groupType is the one kind of group there is (KIP-848).
const groupType = "classic"

// ListGroups lists the groups this broker coordinates. The first result is the room the answer takes; the answer is nil
// when the server closed before there was room.
func (h *Handler) ListGroups(req *server.Request, b *kmsg.ListGroupsRequest) (int64, kmsg.Response) {
	list, err := h.config.Groups.List()
	size := 0
	for _, g := range list {
		size += 2*len(g.ID) + 160
	}
	room, full := h.room(req.Context, size)
	if full != nil {
		return 0, nil
	}
	resp := kmsg.NewPtrListGroupsResponse()
	resp.ErrorCode = codeOf(err)
	if !matches(b.TypesFilter, groupType) {
		return room, resp
	}
	all := h.allowed(req, auth.Describe, theCluster)
	for _, g := range list {
		if !all && !h.allowed(req, auth.Describe, auth.GroupNamed(g.ID)) {
			continue
		}
		if !matches(b.StatesFilter, g.Phase.String()) {
			continue
		}
		out := kmsg.NewListGroupsResponseGroup()
		out.Group, out.ProtocolType, out.GroupState, out.GroupType = g.ID, g.ProtocolType, g.Phase.String(), groupType
		resp.Groups = append(resp.Groups, out)
	}
	return room, resp
}

// matches says whether a filter, where there is one, has a word.
func matches(filter []string, word string) bool {
	return len(filter) == 0 || slices.ContainsFunc(filter, func(f string) bool { return strings.EqualFold(f, word) })
}
