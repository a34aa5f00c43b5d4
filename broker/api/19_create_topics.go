// CreateTopics: v2-7
//
//   - Replication factor above the number of brokers is INVALID_REPLICATION_FACTOR (38), a name that differs from
//     another in `.` and `_` only is INVALID_TOPIC_EXCEPTION, as at Apache Kafka.
//   - -1 partitions or replicas: `num.partitions`, `default.replication.factor`, in any version (Kafka: from v4).
//   - v5 (KIP-525): the settings are told, always as an array: the Java admin dies of null.
//   - v7: the topic id.
//   - The timeout is not used: a topic is durable when the answer is sent, or was refused.

package api

import (
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/broker/server"
)

// createdSize is about what the answer for one topic takes, in bytes, with all its settings.
const createdSize = 2048

// CreateTopics creates topics one by one, each on its own. The first result is the room its answer takes; the answer
// is nil when the server closed before there was room.
func (h *Handler) CreateTopics(req *server.Request, b *kmsg.CreateTopicsRequest) (int64, kmsg.Response) {
	room, err := h.room(req.Context, len(b.Topics)*createdSize)
	if err != nil {
		return 0, nil
	}
	resp := kmsg.NewPtrCreateTopicsResponse()
	resp.Topics = make([]kmsg.CreateTopicsResponseTopic, len(b.Topics))
	asked := make(map[string]int, len(b.Topics))
	for i := range b.Topics {
		asked[b.Topics[i].Topic]++
	}
	for i := range b.Topics {
		q, out := &b.Topics[i], &resp.Topics[i]
		out.Default()
		out.Topic, out.NumPartitions, out.ReplicationFactor = q.Topic, -1, -1
		out.Configs = []kmsg.CreateTopicsResponseTopicConfig{}
		if asked[q.Topic] > 1 {
			out.ErrorCode, out.ErrorMessage = codeInvalidRequest, text("the topic is in the request more than once")
			continue
		}
		if !h.allowed(req, auth.Create, theCluster) && !h.allowed(req, auth.Create, auth.TopicNamed(q.Topic)) {
			out.ErrorCode, out.ErrorMessage = codeTopicAuthorization, saying(errTopicDenied)
			continue
		}
		c, err := h.createTopic(req, q, b.ValidateOnly)
		if err != nil {
			out.ErrorCode, out.ErrorMessage = codeOf(err), saying(err)
			continue
		}
		if !b.ValidateOnly {
			out.TopicID = c.ID
		}
		if !h.allowed(req, auth.DescribeConfigs, auth.TopicNamed(q.Topic)) {
			out.ConfigErrorCode = codeTopicAuthorization
			continue
		}
		out.NumPartitions, out.ReplicationFactor = int32(len(c.Partitions)), int16(len(c.Partitions[0].Replicas))
		for _, e := range h.config.Defaults().Describe(c.Name, c.Config) {
			s := kmsg.NewCreateTopicsResponseTopicConfig()
			s.Name, s.ReadOnly, s.Source, s.IsSensitive = e.Setting.Name, e.Setting.ReadOnly, int8(e.Source), e.Setting.Sensitive
			if !e.Setting.Sensitive {
				s.Value = text(e.Value)
			}
			out.Configs = append(out.Configs, s)
		}
	}
	return room, resp
}

// createTopic makes one topic, or checks that it could be made.
func (h *Handler) createTopic(req *server.Request, q *kmsg.CreateTopicsRequestTopic, validateOnly bool) (catalog.CreateTopic, error) {
	var none catalog.CreateTopic
	if err := catalog.ValidTopicName(q.Topic); err != nil {
		return none, err
	}
	if catalog.Reserved(q.Topic) {
		return none, fmt.Errorf("%w: %s is the broker's own", catalog.ErrInvalidTopic, q.Topic)
	}
	img := h.config.Catalog.Image()
	if img.Topic(q.Topic) != nil {
		return none, fmt.Errorf("topic '%s': %w", q.Topic, catalog.ErrTopicExists)
	}
	config := make(map[string]string, len(q.Configs))
	for _, c := range q.Configs {
		if c.Value == nil {
			return none, fmt.Errorf("%w: null value for %s", catalog.ErrInvalidConfig, c.Name)
		}
		config[c.Name] = *c.Value
	}
	var c catalog.CreateTopic
	if len(q.ReplicaAssignment) > 0 {
		states, err := assigned(q)
		if err != nil {
			return none, err
		}
		c = catalog.CreateTopic{Name: q.Topic, ID: catalog.NewTopicID(), Partitions: states, Config: config}
	} else {
		partitions, replication := int(q.NumPartitions), int(q.ReplicationFactor)
		if partitions == -1 {
			partitions = h.setting(img, "num.partitions")
		}
		if replication == -1 {
			replication = h.setting(img, "default.replication.factor")
		}
		var err error
		if c, err = catalog.NewTopic(img, q.Topic, catalog.NewTopicID(), partitions, replication, config); err != nil {
			return none, err
		}
	}
	return c, h.propose(req, c, validateOnly)
}

// assigned makes the partitions of a topic whose replicas the client chose.
func assigned(q *kmsg.CreateTopicsRequestTopic) ([]catalog.PartitionState, error) {
	if q.NumPartitions != -1 || q.ReplicationFactor != -1 {
		return nil, fmt.Errorf("%w: a count of partitions or replicas beside an assignment", catalog.ErrInvalidAssignment)
	}
	states := make([]catalog.PartitionState, len(q.ReplicaAssignment))
	for _, a := range q.ReplicaAssignment {
		if a.Partition < 0 || int(a.Partition) >= len(states) || states[a.Partition].Replicas != nil || len(a.Replicas) == 0 {
			return nil, fmt.Errorf("%w: partitions are not numbered from 0 on, each once, with replicas", catalog.ErrInvalidAssignment)
		}
		states[a.Partition] = leadBy(a.Replicas)
	}
	return states, nil
}

// leadBy is a new partition on the given replicas, led by the first.
func leadBy(replicas []int32) catalog.PartitionState {
	return catalog.PartitionState{Leader: replicas[0], Replicas: slices.Clone(replicas), ISR: slices.Clone(replicas)}
}

// propose makes a command happen, or only checks that it could.
func (h *Handler) propose(req *server.Request, c catalog.Command, validateOnly bool) error {
	if validateOnly {
		img := h.config.Catalog.Image()
		if err := catalog.Validate(img, c); err != nil {
			return err
		}
		_, err := catalog.Apply(img, c)
		return err
	}
	_, err := h.config.Catalog.Propose(req.Context, c)
	return err
}
