// DeleteRecords: v0-2
//
//   - -1 deletes up to the high watermark. An offset above it is OFFSET_OUT_OF_RANGE, one below the start changes
//     nothing.
//   - Answered when the new starts are durable; the timeout is not used.
//   - Topics of the broker itself are INVALID_TOPIC_EXCEPTION; compacted ones POLICY_VIOLATION, as at Apache Kafka.

package api

import (
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/broker/server"
)

// DeleteRecords moves the starts of logs up.
func (h *Handler) DeleteRecords(req *server.Request, b *kmsg.DeleteRecordsRequest) kmsg.Response {
	resp := kmsg.NewPtrDeleteRecordsResponse()
	img := h.config.Catalog.Image()
	resp.Topics = make([]kmsg.DeleteRecordsResponseTopic, len(b.Topics))
	var wait sync.WaitGroup
	for i := range b.Topics {
		t, out := &b.Topics[i], &resp.Topics[i]
		out.Topic = t.Topic
		out.Partitions = make([]kmsg.DeleteRecordsResponseTopicPartition, len(t.Partitions))
		allowed := h.allowedTopic(req, auth.Delete, img, t.Topic, catalog.TopicID{})
		for j := range t.Partitions {
			q, p := &t.Partitions[j], &out.Partitions[j]
			p.Partition, p.LowWatermark = q.Partition, -1
			r := h.find(img, t.Topic, catalog.TopicID{}, q.Partition)
			if !allowed {
				r = replica{code: codeTopicAuthorization}
			}
			switch {
			case r.code != codeNone:
				p.ErrorCode = r.code
			case catalog.Reserved(t.Topic):
				p.ErrorCode = codeInvalidTopic
			case !h.deletes(r.topic):
				p.ErrorCode = codePolicyViolation
			case q.Offset < -1:
				p.ErrorCode = codeOffsetOutOfRange
			default:
				wait.Add(1)
				r.log.DeleteRecords(q.Offset, func(low int64, err error) {
					if p.ErrorCode = codeOf(err); err == nil {
						p.LowWatermark = low
					}
					wait.Done()
				})
			}
		}
	}
	wait.Wait() // a commit always ends
	return resp
}

// deletes says whether a topic's policy is to delete old records.
func (h *Handler) deletes(t *catalog.Topic) bool {
	// An override that does not parse keeps its default, here as in the log.
	config, _ := h.config.Defaults().Resolve(t.Name, t.Config)
	return config.CleanupDelete
}
