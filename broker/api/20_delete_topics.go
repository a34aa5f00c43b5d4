// DeleteTopics: v1-6
//
//   - v6 (KIP-516): by id or by name; both at once is INVALID_REQUEST for that topic.
//   - Topics of the broker itself are INVALID_REQUEST.
//   - The timeout is not used: the deletion is durable when the answer is sent.
//   - The offsets that groups have of the topic are gone when the answer is sent.
//   - Fetches that wait for records of the topic are answered.
//   - An id nobody has is UNKNOWN_TOPIC_ID, a name UNKNOWN_TOPIC_OR_PARTITION; the same topic twice is INVALID_REQUEST.

package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/broker/server"
)

// DeleteTopics deletes topics one by one.
func (h *Handler) DeleteTopics(req *server.Request, b *kmsg.DeleteTopicsRequest) kmsg.Response {
	resp := kmsg.NewPtrDeleteTopicsResponse()
	topics := b.Topics
	if b.Version < 6 {
		for i := range b.TopicNames {
			topics = append(topics, kmsg.DeleteTopicsRequestTopic{Topic: &b.TopicNames[i]})
		}
	}
	type asked struct {
		name string
		id   [16]byte
	}
	times := make(map[asked]int, len(topics))
	for _, t := range topics {
		times[asked{value(t.Topic), t.TopicID}]++
	}
	for _, t := range topics {
		out := kmsg.NewDeleteTopicsResponseTopic()
		out.Topic, out.TopicID = t.Topic, t.TopicID
		if times[asked{value(t.Topic), t.TopicID}] > 1 {
			out.ErrorCode, out.ErrorMessage = codeInvalidRequest, text("the topic is in the request more than once")
		} else {
			h.deleteTopic(req, t, &out)
		}
		resp.Topics = append(resp.Topics, out)
	}
	return resp
}

func (h *Handler) deleteTopic(req *server.Request, q kmsg.DeleteTopicsRequestTopic, out *kmsg.DeleteTopicsResponseTopic) {
	img := h.config.Catalog.Image()
	var t *catalog.Topic
	switch id := catalog.TopicID(q.TopicID); {
	case q.Topic != nil && !id.IsZero():
		out.ErrorCode, out.ErrorMessage = codeInvalidRequest, text("both a name and an id")
		return
	case q.Topic != nil:
		if !h.allowed(req, auth.Describe, auth.TopicNamed(*q.Topic)) {
			out.ErrorCode, out.ErrorMessage = codeTopicAuthorization, saying(errTopicDenied)
			return
		}
		if t = img.Topic(*q.Topic); t == nil {
			out.ErrorCode, out.ErrorMessage = codeUnknownTopicOrPartition, text("this server does not host this topic")
			return
		}
	default:
		if t = img.TopicByID(id); t == nil {
			out.ErrorCode, out.ErrorMessage = codeUnknownTopicID, text("this server does not host this topic id")
			return
		}
		if !h.allowed(req, auth.Describe, auth.TopicNamed(t.Name)) {
			out.ErrorCode, out.ErrorMessage = codeTopicAuthorization, saying(errTopicDenied)
			return
		}
	}
	out.Topic, out.TopicID = &t.Name, t.ID
	if !h.allowed(req, auth.Delete, auth.TopicNamed(t.Name)) {
		out.ErrorCode, out.ErrorMessage = codeTopicAuthorization, saying(errTopicDenied)
		return
	}
	if catalog.Reserved(t.Name) {
		out.ErrorCode, out.ErrorMessage = codeInvalidRequest, text("the topic is the broker's own")
		return
	}
	_, err := h.config.Catalog.Propose(req.Context, catalog.DeleteTopic{Topic: t.ID})
	out.ErrorCode, out.ErrorMessage = codeOf(err), saying(err)
	if err == nil {
		if err := h.config.Groups.ForgetTopic(t.Name, t.ID); err != nil {
			// They go with the next start: nobody can use them, and a topic made anew has another id.
			h.log.Warn("offsets of a deleted topic are left", "topic", t.Name, "err", err)
		}
	}
	for i := range t.Partitions {
		h.Advance(t.ID, int32(i)) // who waits for records of it waits in vain
	}
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
