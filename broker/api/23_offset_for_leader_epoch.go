// OffsetForLeaderEpoch: v2-4
//
//   - v2 (KIP-320): the current leader epoch is checked.
//   - The end offset of the newest epoch is the log's end, which on one board is the high watermark but for records
//     that are being synced.
//   - An epoch before the first known one, or above the current one, is -1 and -1.

package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/broker/server"
)

// OffsetForLeaderEpoch finds where epochs end.
func (h *Handler) OffsetForLeaderEpoch(req *server.Request, b *kmsg.OffsetForLeaderEpochRequest) kmsg.Response {
	resp := kmsg.NewPtrOffsetForLeaderEpochResponse()
	img := h.config.Catalog.Image()
	for i := range b.Topics {
		t := &b.Topics[i]
		out := kmsg.OffsetForLeaderEpochResponseTopic{Topic: t.Topic, Partitions: make([]kmsg.OffsetForLeaderEpochResponseTopicPartition, len(t.Partitions))}
		allowed := h.allowedTopic(req, auth.Describe, img, t.Topic, catalog.TopicID{})
		for j := range t.Partitions {
			q, p := &t.Partitions[j], &out.Partitions[j]
			p.Default()
			p.Partition, p.LeaderEpoch, p.EndOffset = q.Partition, -1, -1
			r := h.find(img, t.Topic, catalog.TopicID{}, q.Partition)
			if !allowed {
				r = replica{code: codeTopicAuthorization}
			}
			if p.ErrorCode = r.code; r.code == codeNone {
				p.ErrorCode = fenced(r.log, q.CurrentLeaderEpoch)
			}
			if p.ErrorCode == codeNone && q.LeaderEpoch <= r.log.Epoch() {
				p.LeaderEpoch, p.EndOffset = r.log.EpochEnd(q.LeaderEpoch)
			}
		}
		resp.Topics = append(resp.Topics, out)
	}
	return resp
}
