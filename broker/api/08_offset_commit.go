// OffsetCommit: v2-10
//
//   - Answered when the offsets are on flash; until then nobody is told of them.
//   - v2-4: a retention time of the client's own is kept, and outlives the broker's setting either way.
//   - v7 (KIP-345): the instance id of a static member is checked.
//   - v10 (KIP-848): topics by id; an id nobody has is UNKNOWN_TOPIC_ID.
//   - The offsets of a request are written in one piece, so all of them are kept or none; partitions that do not exist
//     are told so and left out.
//   - More partitions than a group may have offsets of, than one batch holds, or than this board has memory for, are
//     POLICY_VIOLATION: Apache Kafka has only the second of these limits.

package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/group"
	"millrace/broker/server"
)

// OffsetCommit writes a group's offsets down and replies when they are on flash or refused.
func (h *Handler) OffsetCommit(req *server.Request, b *kmsg.OffsetCommitRequest, reply func(server.Answer)) {
	resp := kmsg.NewPtrOffsetCommitResponse()
	resp.Topics = make([]kmsg.OffsetCommitResponseTopic, len(b.Topics))
	commit := group.Commit{Group: b.Group, Member: b.MemberID, Instance: value(b.InstanceID), Generation: b.Generation}
	retain := int64(-1)
	if b.Version <= 4 && b.RetentionTimeMillis >= 0 {
		retain = b.RetentionTimeMillis
	}
	img := h.config.Catalog.Image()
	denied := codeNone
	if !h.allowed(req, auth.Read, auth.GroupNamed(b.Group)) {
		denied = codeGroupAuthorization
	}
	for i := range b.Topics {
		t, out := &b.Topics[i], &resp.Topics[i]
		out.Topic, out.TopicID = t.Topic, t.TopicID
		out.Partitions = make([]kmsg.OffsetCommitResponseTopicPartition, len(t.Partitions))
		topic, code := named(img, t.Topic, t.TopicID, b.Version >= 10)
		switch {
		case denied != codeNone:
			code = denied
		case !h.allowedTopic(req, auth.Read, img, t.Topic, t.TopicID):
			code = codeTopicAuthorization
		}
		for j := range t.Partitions {
			p, r := &t.Partitions[j], &out.Partitions[j]
			r.Partition, r.ErrorCode = p.Partition, code
			switch {
			case code != codeNone:
			case p.Partition < 0 || int(p.Partition) >= len(topic.Partitions):
				r.ErrorCode = codeUnknownTopicOrPartition
			case len(value(p.Metadata)) > h.config.MetadataMax:
				r.ErrorCode = codeOf(group.ErrMetadataTooLarge)
			default:
				epoch := int32(-1)
				if b.Version >= 6 {
					epoch = p.LeaderEpoch
				}
				commit.Offsets = append(commit.Offsets, group.Committed{
					Place: group.Place{Topic: topic.Name, Partition: p.Partition}, TopicID: topic.ID,
					Offset: p.Offset, Epoch: epoch, Metadata: value(p.Metadata), RetainMS: retain,
				})
			}
		}
	}
	if denied != codeNone {
		reply(answer(req.Header, resp))
		return
	}
	release := req.Hold() // what was decoded counts until it is kept
	h.config.Groups.Commit(commit, func(err error) {
		release()
		if code := codeOf(err); code != codeNone {
			for i := range resp.Topics {
				for j := range resp.Topics[i].Partitions {
					if r := &resp.Topics[i].Partitions[j]; r.ErrorCode == codeNone {
						r.ErrorCode = code
					}
				}
			}
		}
		reply(answer(req.Header, resp))
	})
}
