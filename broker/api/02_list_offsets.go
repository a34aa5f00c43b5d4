// ListOffsets: v1-11
//
//   - -1 latest is the high watermark for every isolation level: there are no transactions.
//   - -2 earliest; -3 (v7, KIP-734) the offset of the greatest timestamp; -4 (v8, KIP-405) earliest local is earliest.
//   - -5 (v9, KIP-1005) latest tiered and -6 (v11, KIP-1023) earliest pending upload: -1, nothing is tiered, as Apache
//     Kafka answers without remote storage.
//   - v4 (KIP-320): leader epochs are checked and told.
//   - v10 (KIP-1075) timeout: not needed, nothing remote is asked.

package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/broker/server"
)

// The times ListOffsets gives a meaning of their own, and the version that knows them.
const (
	timeLatest        = -1
	timeEarliest      = -2
	timeMax           = -3
	timeEarliestLocal = -4
	timeLatestTiered  = -5
	timePendingUpload = -6
)

var timeSince = map[int64]int16{timeMax: 7, timeEarliestLocal: 8, timeLatestTiered: 9, timePendingUpload: 11}

// ListOffsets finds offsets by time.
func (h *Handler) ListOffsets(req *server.Request, b *kmsg.ListOffsetsRequest) kmsg.Response {
	resp := kmsg.NewPtrListOffsetsResponse()
	img := h.config.Catalog.Image()
	for i := range b.Topics {
		t := &b.Topics[i]
		out := kmsg.ListOffsetsResponseTopic{Topic: t.Topic, Partitions: make([]kmsg.ListOffsetsResponseTopicPartition, len(t.Partitions))}
		allowed := h.allowedTopic(req, auth.Describe, img, t.Topic, catalog.TopicID{})
		for j := range t.Partitions {
			q, p := &t.Partitions[j], &out.Partitions[j]
			p.Default()
			p.Partition, p.Offset, p.Timestamp, p.LeaderEpoch = q.Partition, -1, -1, -1
			r := h.find(img, t.Topic, catalog.TopicID{}, q.Partition)
			if !allowed {
				r = replica{code: codeTopicAuthorization}
			}
			if p.ErrorCode = r.code; r.code == codeNone {
				p.ErrorCode = fenced(r.log, q.CurrentLeaderEpoch)
			}
			if p.ErrorCode == codeNone {
				h.listOffset(p, r.log, q.Timestamp, b.Version)
			}
		}
		resp.Topics = append(resp.Topics, out)
	}
	return resp
}

func (h *Handler) listOffset(p *kmsg.ListOffsetsResponseTopicPartition, log Log, at int64, version int16) {
	switch at {
	case timeEarliestLocal:
		if at = timeEarliest; version >= timeSince[timeEarliestLocal] {
			break
		}
		p.ErrorCode = codeUnsupportedVersion
		return
	case timeLatestTiered, timePendingUpload:
		if version < timeSince[at] {
			p.ErrorCode = codeUnsupportedVersion
		}
		return
	case timeMax:
		if version < timeSince[at] {
			p.ErrorCode = codeUnsupportedVersion
			return
		}
	}
	if at < timeMax {
		p.ErrorCode = codeInvalidRequest
		return
	}
	offset, timestamp, epoch, err := log.ListOffset(at)
	if err != nil {
		h.log.Warn("offset not found", "time", at, "err", err)
		p.ErrorCode = codeOf(err)
		return
	}
	p.Offset, p.Timestamp, p.LeaderEpoch = offset, timestamp, epoch
	if at == timeLatest || at == timeEarliest {
		p.Timestamp = -1 // Apache Kafka tells a time only where one was asked for
	}
}
