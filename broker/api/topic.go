package api

import "millrace/broker/catalog"

// replica is a partition as the catalog and this board know it.
type replica struct {
	topic *catalog.Topic
	state *catalog.PartitionState
	// log is nil unless this board leads the partition and holds its log.
	log  Log
	code int16 // why log is nil
}

// named looks a topic up by its id, or by its name.
func named(img *catalog.Image, name string, id catalog.TopicID, byID bool) (*catalog.Topic, int16) {
	if byID {
		if t := img.TopicByID(id); t != nil {
			return t, codeNone
		}
		return nil, codeUnknownTopicID
	}
	if t := img.Topic(name); t != nil {
		return t, codeNone
	}
	return nil, codeUnknownTopicOrPartition
}

// find looks a partition up by name, or by id where name is empty.
func (h *Handler) find(img *catalog.Image, name string, id catalog.TopicID, index int32) replica {
	var t *catalog.Topic
	if name == "" && !id.IsZero() {
		if t = img.TopicByID(id); t == nil {
			return replica{code: codeUnknownTopicID}
		}
	} else if t = img.Topic(name); t == nil {
		return replica{code: codeUnknownTopicOrPartition}
	}
	if index < 0 || int(index) >= len(t.Partitions) {
		return replica{topic: t, code: codeUnknownTopicOrPartition}
	}
	r := replica{topic: t, state: &t.Partitions[index]}
	if r.state.Leader != h.config.NodeID {
		r.code = codeNotLeader
		return r
	}
	if r.log = h.config.Logs.Log(t.ID, index); r.log == nil {
		r.code = codeNotLeader // being opened or removed: retriable
		if h.config.Logs.Offline(t.ID, index) {
			r.code = codeKafkaStorage
		}
	}
	return r
}

// offline says whether this board leads a partition and cannot open it.
func (h *Handler) offline(t *catalog.Topic, index int32) bool {
	return t.Partitions[index].Leader == h.config.NodeID && h.config.Logs.Offline(t.ID, index)
}

// fenced checks the leader epoch a client believes in against the log's (KIP-320); -1 is no belief.
func fenced(log Log, epoch int32) int16 {
	switch now := log.Epoch(); {
	case epoch < 0 || epoch == now:
		return codeNone
	case epoch < now:
		return codeFencedLeaderEpoch
	}
	return codeUnknownLeaderEpoch
}
