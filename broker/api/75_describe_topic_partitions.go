// DescribeTopicPartitions: v0
//
//   - KIP-966: topics in the order of their names, at most min(limit, 2,000) partitions in one answer, and a cursor
//     where the next one goes on. Eligible leader replicas are empty.
//   - Authorized operations (KIP-430) of every topic.

package api

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/broker/server"
)

// describePartitionsMax is `max.request.partition.size.limit`.
const describePartitionsMax = 2000

// describedPartition is about what one partition takes in an answer, in bytes, encoded and not.
const describedPartition = 256

// DescribeTopicPartitions tells topics and partitions in pages. The first result is the room its answer takes; the
// answer is nil when the server closed before there was room.
func (h *Handler) DescribeTopicPartitions(req *server.Request, b *kmsg.DescribeTopicPartitionsRequest) (int64, kmsg.Response) {
	held, err := h.room(req.Context, min(h.config.Catalog.Image().Partitions()+len(b.Topics), describePartitionsMax)*describedPartition)
	if err != nil {
		return 0, nil
	}
	resp := kmsg.NewPtrDescribeTopicPartitionsResponse()
	img := h.config.Catalog.Image()
	var names []string
	if len(b.Topics) == 0 {
		for t := range img.Topics() {
			if h.allowedTopic(req, auth.Describe, img, t.Name, t.ID) {
				names = append(names, t.Name)
			}
		}
	}
	for i := range b.Topics {
		names = append(names, b.Topics[i].Topic)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	first := 0
	if b.Cursor != nil {
		at, _ := slices.BinarySearch(names, b.Cursor.Topic)
		if names = names[at:]; len(names) > 0 && names[0] == b.Cursor.Topic {
			first = int(max(b.Cursor.Partition, 0))
		}
	}
	room := describePartitionsMax
	if b.ResponsePartitionLimit > 0 {
		room = min(room, int(b.ResponsePartitionLimit))
	}
	resp.Topics = []kmsg.DescribeTopicPartitionsResponseTopic{}
	for _, name := range names {
		t := img.Topic(name)
		if room == 0 {
			resp.NextCursor = &kmsg.DescribeTopicPartitionsResponseNextCursor{Topic: name, Partition: int32(first)}
			return held, resp
		}
		out := kmsg.NewDescribeTopicPartitionsResponseTopic()
		out.Topic, out.AuthorizedOperations = text(name), noOperations
		if !h.allowed(req, auth.Describe, auth.TopicNamed(name)) {
			out.ErrorCode = codeTopicAuthorization
			room--
			resp.Topics = append(resp.Topics, out)
			first = 0
			continue
		}
		if t == nil {
			if out.ErrorCode = codeUnknownTopicOrPartition; catalog.ValidTopicName(name) != nil {
				out.ErrorCode = codeInvalidTopic
			}
			room-- // so that unknown names are bounded too
			resp.Topics = append(resp.Topics, out)
			first = 0
			continue
		}
		out.TopicID, out.IsInternal, out.AuthorizedOperations = t.ID, catalog.Reserved(name), h.operations(req, auth.TopicNamed(name))
		for ; first < len(t.Partitions) && room > 0; first, room = first+1, room-1 {
			out.Partitions = append(out.Partitions, h.partitionOf(t, int32(first)))
		}
		resp.Topics = append(resp.Topics, out)
		if first < len(t.Partitions) {
			resp.NextCursor = &kmsg.DescribeTopicPartitionsResponseNextCursor{Topic: name, Partition: int32(first)}
			return held, resp
		}
		first = 0
	}
	return held, resp
}

func (h *Handler) partitionOf(t *catalog.Topic, index int32) kmsg.DescribeTopicPartitionsResponseTopicPartition {
	s := &t.Partitions[index]
	out := kmsg.NewDescribeTopicPartitionsResponseTopicPartition()
	out.Partition, out.LeaderID, out.LeaderEpoch = index, s.Leader, s.LeaderEpoch
	out.Replicas, out.ISR = s.Replicas, s.ISR
	// Arrays, not null: the Java admin walks them.
	out.EligibleLeaderReplicas, out.LastKnownELR, out.OfflineReplicas = []int32{}, []int32{}, []int32{}
	if h.offline(t, index) {
		out.LeaderID, out.OfflineReplicas = catalog.NoLeader, []int32{h.config.NodeID}
	}
	if out.LeaderID == catalog.NoLeader {
		out.ErrorCode = codeLeaderNotAvailable
	}
	return out
}
