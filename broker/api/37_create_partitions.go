// CreatePartitions: v0-3
//
//   - A count that is not above the present one is INVALID_PARTITIONS.
//   - Topics of the broker itself are INVALID_REQUEST. The timeout is not used.

package api

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/broker/server"
)

// CreatePartitions adds partitions to topics, one topic after the other.
func (h *Handler) CreatePartitions(req *server.Request, b *kmsg.CreatePartitionsRequest) kmsg.Response {
	resp := kmsg.NewPtrCreatePartitionsResponse()
	times := make(map[string]int, len(b.Topics))
	for i := range b.Topics {
		times[b.Topics[i].Topic]++
	}
	for i := range b.Topics {
		q := &b.Topics[i]
		out := kmsg.NewCreatePartitionsResponseTopic()
		out.Topic = q.Topic
		if times[q.Topic] > 1 || catalog.Reserved(q.Topic) && h.allowed(req, auth.Alter, auth.TopicNamed(q.Topic)) {
			out.ErrorCode, out.ErrorMessage = codeInvalidRequest, text("the topic is in the request more than once, or the broker's own")
		} else {
			err := h.addPartitions(req, q, b.ValidateOnly)
			out.ErrorCode, out.ErrorMessage = codeOf(err), saying(err)
		}
		resp.Topics = append(resp.Topics, out)
	}
	return resp
}

func (h *Handler) addPartitions(req *server.Request, q *kmsg.CreatePartitionsRequestTopic, validateOnly bool) error {
	if !h.allowed(req, auth.Alter, auth.TopicNamed(q.Topic)) {
		return errTopicDenied
	}
	img := h.config.Catalog.Image()
	t := img.Topic(q.Topic)
	if t == nil {
		return fmt.Errorf("topic '%s': %w", q.Topic, catalog.ErrUnknownTopic)
	}
	have := len(t.Partitions)
	add := int(q.Count) - have
	if add <= 0 {
		return fmt.Errorf("topic '%s' has %d partitions, %d are not more: %w", q.Topic, have, q.Count, catalog.ErrInvalidPartitions)
	}
	c := catalog.CreatePartitions{Topic: t.ID, From: int32(have)}
	if q.Assignment == nil {
		var err error
		if c.Add, err = catalog.Assign(img, have, add, len(t.Partitions[0].Replicas)); err != nil {
			return err
		}
		return h.propose(req, c, validateOnly)
	}
	if len(q.Assignment) != add {
		return fmt.Errorf("%d assignments for %d new partitions: %w", len(q.Assignment), add, catalog.ErrInvalidAssignment)
	}
	for _, a := range q.Assignment {
		if len(a.Replicas) != len(t.Partitions[0].Replicas) {
			return fmt.Errorf("%d replicas for a topic of %d: %w", len(a.Replicas), len(t.Partitions[0].Replicas), catalog.ErrInvalidAssignment)
		}
		c.Add = append(c.Add, leadBy(a.Replicas))
	}
	return h.propose(req, c, validateOnly)
}
