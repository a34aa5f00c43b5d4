// FindCoordinator: v0-6
//
//   - The coordinator of a group is the leader of its partition of __consumer_offsets, which is made by the first who
//     asks. Apache Kafka then has the client ask again; here it is there at once.
//   - v4 (KIP-699): many keys at once, each with an error of its own.
//   - Coordinators of transactions (1) and of share groups (2) are not offered: INVALID_REQUEST.

package api

import (
	"errors"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/broker/group"
	"millrace/broker/server"
)

// coordinatorGroup is the one kind of coordinator there is.
const coordinatorGroup = 0

var errNoSuchCoordinator = errors.New("there are coordinators of groups only")

// FindCoordinator tells who coordinates groups.
func (h *Handler) FindCoordinator(req *server.Request, b *kmsg.FindCoordinatorRequest) kmsg.Response {
	resp := kmsg.NewPtrFindCoordinatorResponse()
	keys := b.CoordinatorKeys
	if b.Version < 4 {
		keys = []string{b.CoordinatorKey}
	}
	for _, k := range keys {
		resp.Coordinators = append(resp.Coordinators, h.coordinator(req, k, b.CoordinatorType))
	}
	if b.Version < 4 {
		c := resp.Coordinators[0]
		resp.Coordinators = nil
		resp.ErrorCode, resp.ErrorMessage, resp.NodeID, resp.Host, resp.Port = c.ErrorCode, c.ErrorMessage, c.NodeID, c.Host, c.Port
	}
	return resp
}

func (h *Handler) coordinator(req *server.Request, key string, kind int8) kmsg.FindCoordinatorResponseCoordinator {
	out := kmsg.NewFindCoordinatorResponseCoordinator()
	out.Key, out.NodeID, out.Port = key, -1, -1
	if kind == coordinatorGroup && !h.allowed(req, auth.Describe, auth.GroupNamed(key)) {
		out.ErrorCode, out.ErrorMessage = codeGroupAuthorization, saying(errGroupDenied)
		return out
	}
	if kind != coordinatorGroup {
		out.ErrorCode, out.ErrorMessage = codeInvalidRequest, saying(errNoSuchCoordinator)
		return out
	}
	partition, err := h.config.Groups.Find(req.Context, key)
	if err != nil {
		h.log.Warn("no coordinator", "group", key, "err", err)
		out.ErrorCode, out.ErrorMessage = codeOf(err), saying(err)
		return out
	}
	img := h.config.Catalog.Image()
	leader := int32(catalog.NoLeader)
	if t := img.Topic(group.TopicName); t != nil && partition < len(t.Partitions) {
		leader = t.Partitions[partition].Leader
	}
	broker, ok := img.Broker(leader)
	if !ok {
		out.ErrorCode, out.ErrorMessage = codeOf(group.ErrUnavailable), saying(group.ErrUnavailable)
		return out
	}
	e := h.endpoint(req, broker)
	out.NodeID, out.Host, out.Port = broker.ID, e.Host, e.Port
	return out
}
