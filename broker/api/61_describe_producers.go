// DescribeProducers: v0
//
//   - KIP-664: the idempotent producers a partition remembers. There are no transactions: coordinator epoch and start
//     of the transaction are -1.
//   - The last timestamp is when the batch was appended; Apache Kafka tells the batch's greatest timestamp.
//   - A partition that is named twice is INVALID_REQUEST the second time: its list may be long, and is told once.

package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/broker/server"
)

// describedProducer is about what one producer takes in an answer, and describedProducers what a partition without any
// does, in bytes, encoded and not.
const (
	describedProducer  = 128
	describedProducers = 96
)

// DescribeProducers tells who writes to partitions. The first result is the room its answer takes; the answer is nil when
// the server closed before there was room.
func (h *Handler) DescribeProducers(req *server.Request, b *kmsg.DescribeProducersRequest) (int64, kmsg.Response) {
	img := h.config.Catalog.Image()
	n := 0
	for i := range b.Topics {
		t := &b.Topics[i]
		n += (1 + len(t.Partitions)) * describedProducers
		for _, index := range t.Partitions {
			if r := h.find(img, t.Topic, catalog.TopicID{}, index); r.log != nil {
				n += r.log.ProducerCount() * describedProducer
			}
		}
	}
	room, err := h.room(req.Context, n)
	if err != nil {
		return 0, nil
	}
	resp := kmsg.NewPtrDescribeProducersResponse()
	resp.Topics = make([]kmsg.DescribeProducersResponseTopic, len(b.Topics))
	told := make(map[Key]bool)
	for i := range b.Topics {
		t, out := &b.Topics[i], &resp.Topics[i]
		out.Topic, out.Partitions = t.Topic, make([]kmsg.DescribeProducersResponseTopicPartition, len(t.Partitions))
		allowed := h.allowedTopic(req, auth.Read, img, t.Topic, catalog.TopicID{})
		for j, index := range t.Partitions {
			p := &out.Partitions[j]
			p.Partition = index
			if !allowed {
				p.ErrorCode = codeTopicAuthorization
				continue
			}
			r := h.find(img, t.Topic, catalog.TopicID{}, index)
			if p.ErrorCode = r.code; r.log == nil {
				continue
			}
			key := Key{Topic: r.topic.ID, Partition: index}
			if told[key] {
				p.ErrorCode, p.ErrorMessage = codeInvalidRequest, text("the partition is in the request more than once")
				continue
			}
			told[key] = true
			p.ActiveProducers = active(r.log)
		}
	}
	return room, resp
}

func active(log Log) []kmsg.DescribeProducersResponseTopicPartitionActiveProducer {
	states := log.Producers()
	list := make([]kmsg.DescribeProducersResponseTopicPartitionActiveProducer, len(states))
	for i, s := range states {
		list[i] = kmsg.DescribeProducersResponseTopicPartitionActiveProducer{
			ProducerID: s.ID, ProducerEpoch: int32(s.Epoch), LastSequence: s.LastSequence, LastTimestamp: s.LastTime,
			CoordinatorEpoch: s.CoordinatorEpoch, CurrentTxnStartOffset: s.TxnFirstOffset,
		}
	}
	return list
}
