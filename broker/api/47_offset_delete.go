// OffsetDelete: v0
//
//   - Answered when the end of the offsets is on flash (KIP-496).
//   - A topic that members of the group read is GROUP_SUBSCRIBED_TO_TOPIC; where it cannot be known what they read, the
//     whole request is NON_EMPTY_GROUP.

package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/group"
	"millrace/broker/server"
)

// OffsetDelete deletes offsets of a group.
func (h *Handler) OffsetDelete(req *server.Request, b *kmsg.OffsetDeleteRequest) kmsg.Response {
	resp := kmsg.NewPtrOffsetDeleteResponse()
	if !h.allowed(req, auth.Delete, auth.GroupNamed(b.Group)) {
		resp.ErrorCode = codeGroupAuthorization
		return resp
	}
	img := h.config.Catalog.Image()
	e := group.DeleteOffsets{Group: b.Group}
	var asked []*kmsg.OffsetDeleteResponseTopicPartition
	resp.Topics = make([]kmsg.OffsetDeleteResponseTopic, len(b.Topics))
	for i := range b.Topics {
		t, out := &b.Topics[i], &resp.Topics[i]
		out.Topic = t.Topic
		out.Partitions = make([]kmsg.OffsetDeleteResponseTopicPartition, len(t.Partitions))
		topic, code := named(img, t.Topic, [16]byte{}, false)
		if !h.allowed(req, auth.Read, auth.TopicNamed(t.Topic)) {
			code = codeTopicAuthorization
		}
		for j, p := range t.Partitions {
			r := &out.Partitions[j]
			r.Partition, r.ErrorCode = p.Partition, code
			switch {
			case code != codeNone:
			case p.Partition < 0 || int(p.Partition) >= len(topic.Partitions):
				r.ErrorCode = codeUnknownTopicOrPartition
			default:
				e.Places = append(e.Places, group.Place{Topic: topic.Name, Partition: p.Partition})
				asked = append(asked, r)
			}
		}
	}
	r := h.config.Groups.DeleteOffsets(e)
	if resp.ErrorCode = codeOf(r.Err); r.Err != nil {
		resp.Topics = nil
		return resp
	}
	for i, err := range r.Errors {
		asked[i].ErrorCode = codeOf(err)
	}
	return resp
}
