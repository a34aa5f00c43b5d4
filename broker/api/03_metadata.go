// Metadata: v0-13
//
//   - v0: an empty list asks for all topics; from v1 null does, and an empty list asks for none.
//   - v4: allow_auto_topic_creation; before, asking for a topic creates it. A created topic is in the answer at once,
//     without the LEADER_NOT_AVAILABLE round Apache Kafka makes.
//   - v8 (KIP-430): authorized operations, where they are asked for. Topics that may not be described are left out of all
//     topics.
//   - v10 (KIP-516): topic ids; v12: topics may be asked for by id alone.
//   - v13 (KIP-1102): the error at the top is always 0: there is nothing to bootstrap from again.
//   - The controller is the broker that answers: on one board it is, and in a cluster any broker passes admin
//     requests on, as Apache Kafka's KRaft brokers do.

package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/broker/server"
)

// Metadata answers brokers, controller and topics. The first result is the room its answer takes; the answer is nil
// when the server closed before there was room.
func (h *Handler) Metadata(req *server.Request, b *kmsg.MetadataRequest) (int64, kmsg.Response) {
	resp := kmsg.NewPtrMetadataResponse()
	resp.ClusterID = textOrNull(h.config.ClusterID)
	resp.ControllerID = h.config.NodeID
	all := b.Topics == nil || b.Version == 0 && len(b.Topics) == 0
	denied := make(map[string]bool) // what is to be made and may not be
	if !all {
		h.create(req, b, denied)
	}
	resp.AuthorizedOperations = h.clusterOperations(req, b.IncludeClusterAuthorizedOperations)
	img := h.config.Catalog.Image()
	var topics []*catalog.Topic
	size, partitions := 0, 0
	if all {
		for t := range img.Topics() {
			if h.allowedTopic(req, auth.Describe, img, t.Name, t.ID) {
				topics = append(topics, t)
				partitions += len(t.Partitions)
			}
		}
	} else {
		for i := range b.Topics {
			t := wanted(img, &b.Topics[i])
			topics = append(topics, t)
			if t != nil {
				partitions += len(t.Partitions)
			}
		}
	}
	size = 160*len(topics) + 160*partitions
	room, err := h.room(req.Context, size)
	if err != nil {
		return 0, nil
	}
	for _, br := range img.Brokers() {
		e := h.endpoint(req, br)
		resp.Brokers = append(resp.Brokers, kmsg.MetadataResponseBroker{NodeID: br.ID, Host: e.Host, Port: e.Port, Rack: textOrNull(br.Rack)})
	}
	resp.Topics = make([]kmsg.MetadataResponseTopic, 0, len(topics))
	for i, t := range topics {
		out := kmsg.NewMetadataResponseTopic()
		switch {
		case !all && (denied[value(b.Topics[i].Topic)] || !h.allowedTopic(req, auth.Describe, img, value(b.Topics[i].Topic), b.Topics[i].TopicID)):
			// Neither the name to an id nor the id to a name is told.
			out.Topic, out.TopicID, out.ErrorCode = b.Topics[i].Topic, b.Topics[i].TopicID, codeTopicAuthorization
			if out.Topic == nil && b.Version < 12 {
				out.Topic = text("")
			}
		case t != nil:
			h.describeTopic(&out, t)
			if b.IncludeTopicAuthorizedOperations {
				out.AuthorizedOperations = h.operations(req, auth.TopicNamed(t.Name))
			}
		default:
			q := &b.Topics[i]
			out.Topic, out.TopicID = q.Topic, q.TopicID
			switch {
			case q.Topic == nil || *q.Topic == "" && q.TopicID != catalog.TopicID{}:
				out.ErrorCode = codeUnknownTopicID
			case catalog.ValidTopicName(*q.Topic) != nil:
				out.ErrorCode = codeInvalidTopic
			default:
				out.ErrorCode = codeUnknownTopicOrPartition
			}
			if out.Topic == nil && b.Version < 12 {
				out.Topic = text("") // null is only for those that know it
			}
		}
		resp.Topics = append(resp.Topics, out)
	}
	return room, resp
}

// wanted finds a topic that was asked for, nil when there is none.
func wanted(img *catalog.Image, q *kmsg.MetadataRequestTopic) *catalog.Topic {
	if q.Topic != nil && (*q.Topic != "" || q.TopicID == catalog.TopicID{}) {
		return img.Topic(*q.Topic)
	}
	return img.TopicByID(q.TopicID)
}

// create makes the topics that do not exist, where that is wanted. A topic that cannot be made is answered as unknown; one
// that may not be is put into denied.
func (h *Handler) create(req *server.Request, b *kmsg.MetadataRequest, denied map[string]bool) {
	if h.config.Ensure == nil || b.Version >= 4 && !b.AllowAutoTopicCreation {
		return
	}
	img := h.config.Catalog.Image()
	for i := range b.Topics {
		name := b.Topics[i].Topic
		if name == nil || img.Topic(*name) != nil || catalog.ValidTopicName(*name) != nil || catalog.Reserved(*name) {
			continue
		}
		if !h.allowed(req, auth.Describe, auth.TopicNamed(*name)) {
			continue // told as such anyway
		}
		if !h.allowed(req, auth.Create, theCluster) && !h.allowed(req, auth.Create, auth.TopicNamed(*name)) {
			denied[*name] = true
			continue
		}
		if err := h.config.Ensure(req.Context, *name); err != nil {
			h.log.Debug("topic not created", "topic", *name, "err", err)
		}
	}
}

func (h *Handler) describeTopic(out *kmsg.MetadataResponseTopic, t *catalog.Topic) {
	out.Topic, out.TopicID, out.IsInternal = &t.Name, t.ID, catalog.Reserved(t.Name)
	out.Partitions = make([]kmsg.MetadataResponseTopicPartition, len(t.Partitions))
	for i := range t.Partitions {
		s, p := &t.Partitions[i], &out.Partitions[i]
		p.Default()
		p.Partition, p.Leader, p.LeaderEpoch = int32(i), s.Leader, s.LeaderEpoch
		p.Replicas, p.ISR = s.Replicas, s.ISR
		if h.offline(t, int32(i)) {
			p.Leader, p.OfflineReplicas = catalog.NoLeader, []int32{h.config.NodeID}
		}
		if p.Leader == catalog.NoLeader {
			p.ErrorCode = codeLeaderNotAvailable
		}
	}
}
