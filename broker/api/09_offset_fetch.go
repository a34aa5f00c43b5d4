// OffsetFetch: v1-10
//
//   - A partition without an offset, and a group that does not exist, is answered with the offset -1 and no error.
//   - v2: a null list of topics asks for all there are; v8 (KIP-709): many groups at once, each with an error of its own.
//   - The same group, or partition of a group, twice is INVALID_REQUEST the second time: an answer is no larger than what
//     there is.
//   - v7 (KIP-447) require_stable: there are no transactions, so every offset is stable.
//   - v9 member id and epoch belong to the new group protocol, which is not offered, and are not looked at, as at Apache
//     Kafka for groups of this one.
//   - v10 (KIP-848): topics by id; an id nobody has is UNKNOWN_TOPIC_ID.

package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/broker/group"
	"millrace/broker/server"
)

// fetchedOffsetSize is roughly what one offset takes in an answer, its metadata apart, in bytes.
const fetchedOffsetSize = 96

// OffsetFetch answers offsets that are on flash. The first result is the room the answer takes; the answer is nil when
// the server closed before there was room.
func (h *Handler) OffsetFetch(req *server.Request, b *kmsg.OffsetFetchRequest) (int64, kmsg.Response) {
	groups := b.Groups
	if b.Version < 8 {
		g := kmsg.NewOffsetFetchRequestGroup()
		g.Group = b.Group
		if b.Topics != nil {
			g.Topics = make([]kmsg.OffsetFetchRequestGroupTopic, len(b.Topics))
			for i, t := range b.Topics {
				g.Topics[i].Topic, g.Topics[i].Partitions = t.Topic, t.Partitions
			}
		}
		groups = []kmsg.OffsetFetchRequestGroup{g}
	}
	room, err := h.room(req.Context, h.fetchedSize(groups))
	if err != nil {
		return 0, nil
	}
	resp := kmsg.NewPtrOffsetFetchResponse()
	img := h.config.Catalog.Image()
	seen := make(map[string]bool, len(groups))
	for i := range groups {
		if seen[groups[i].Group] {
			again := kmsg.NewOffsetFetchResponseGroup()
			again.Group, again.ErrorCode = groups[i].Group, codeInvalidRequest
			resp.Groups = append(resp.Groups, again)
			continue
		}
		seen[groups[i].Group] = true
		resp.Groups = append(resp.Groups, h.fetchOffsets(req, img, &groups[i], b.Version))
	}
	if b.Version < 8 {
		whole(resp)
	}
	return room, resp
}

// whole moves the answer for the one group to where versions before 8 have it.
func whole(resp *kmsg.OffsetFetchResponse) {
	g := resp.Groups[0]
	resp.Groups, resp.ErrorCode = nil, g.ErrorCode
	resp.Topics = make([]kmsg.OffsetFetchResponseTopic, len(g.Topics))
	for i, t := range g.Topics {
		out := &resp.Topics[i]
		out.Topic = t.Topic
		out.Partitions = make([]kmsg.OffsetFetchResponseTopicPartition, len(t.Partitions))
		for j, p := range t.Partitions {
			out.Partitions[j] = kmsg.OffsetFetchResponseTopicPartition{
				Partition: p.Partition, Offset: p.Offset, LeaderEpoch: p.LeaderEpoch, Metadata: p.Metadata, ErrorCode: p.ErrorCode,
			}
		}
	}
}

// fetchedSize is about how large the answer will be.
func (h *Handler) fetchedSize(groups []kmsg.OffsetFetchRequestGroup) (n int) {
	for i := range groups {
		n += fetchedOffsetSize
		for _, t := range groups[i].Topics {
			n += len(t.Partitions) * fetchedOffsetSize
		}
		if _, size, err := h.config.Groups.Count(groups[i].Group); err == nil {
			n += size
		}
	}
	return n
}

// fetchOffsets answers one group.
func (h *Handler) fetchOffsets(req *server.Request, img *catalog.Image, q *kmsg.OffsetFetchRequestGroup, version int16) kmsg.OffsetFetchResponseGroup {
	out := kmsg.NewOffsetFetchResponseGroup()
	out.Group = q.Group
	byID := version >= 10
	denied := !h.allowed(req, auth.Describe, auth.GroupNamed(q.Group))
	if denied && (version >= 8 || q.Topics == nil) {
		out.ErrorCode = codeGroupAuthorization
		return out
	}
	if q.Topics == nil && version >= 2 {
		list, err := h.config.Groups.Offsets(q.Group, nil)
		out.ErrorCode = codeOf(err)
		for _, o := range list {
			t := img.Topic(o.Topic)
			if t == nil && byID {
				continue // deleted: it has no id any more
			}
			if !h.allowed(req, auth.Describe, auth.TopicNamed(o.Topic)) {
				continue
			}
			if n := len(out.Topics); n == 0 || out.Topics[n-1].Topic != o.Topic {
				next := kmsg.NewOffsetFetchResponseGroupTopic()
				next.Topic = o.Topic
				if t != nil {
					next.TopicID = t.ID
				}
				out.Topics = append(out.Topics, next)
			}
			last := &out.Topics[len(out.Topics)-1]
			last.Partitions = append(last.Partitions, fetchedOffset(o))
		}
		return out
	}
	var places []group.Place
	seen := map[group.Place]bool{}
	for i := range q.Topics {
		t := &q.Topics[i]
		next := kmsg.NewOffsetFetchResponseGroupTopic()
		next.Topic, next.TopicID = t.Topic, t.TopicID
		next.Partitions = make([]kmsg.OffsetFetchResponseGroupTopicPartition, len(t.Partitions))
		name, code := t.Topic, codeNone
		if byID {
			var topic *catalog.Topic
			if topic, code = named(img, "", t.TopicID, true); topic != nil {
				name = topic.Name
			}
		}
		switch {
		case denied:
			code = codeGroupAuthorization
		case !h.allowedTopic(req, auth.Describe, img, t.Topic, t.TopicID):
			code = codeTopicAuthorization
		}
		for j, p := range t.Partitions {
			next.Partitions[j] = fetchedOffset(group.Offset{Place: group.Place{Topic: name, Partition: p}, Offset: -1, Epoch: -1})
			place := group.Place{Topic: name, Partition: p}
			switch {
			case code != codeNone:
				next.Partitions[j].ErrorCode = code
			case seen[place]:
				next.Partitions[j].ErrorCode = codeInvalidRequest
			default:
				seen[place] = true
				places = append(places, place)
			}
		}
		out.Topics = append(out.Topics, next)
	}
	if denied { // before v8 an error is each partition's
		out.ErrorCode = codeGroupAuthorization
		return out
	}
	list, err := h.config.Groups.Offsets(q.Group, places)
	code := codeOf(err)
	if out.ErrorCode = code; code != codeNone && version >= 8 {
		out.Topics = nil // as at Apache Kafka: the error is the group's
		return out
	}
	// Found offsets come in the order of the places, with those that have none left out.
	at := 0
	for i := range out.Topics {
		for j := range out.Topics[i].Partitions {
			p := &out.Topics[i].Partitions[j]
			if p.ErrorCode != codeNone {
				continue
			}
			p.ErrorCode = code
			name := q.Topics[i].Topic
			if byID {
				name = img.TopicByID(q.Topics[i].TopicID).Name
			}
			if at < len(list) && list[at].Place == (group.Place{Topic: name, Partition: p.Partition}) {
				*p = fetchedOffset(list[at])
				at++
			}
		}
	}
	return out
}

func fetchedOffset(o group.Offset) kmsg.OffsetFetchResponseGroupTopicPartition {
	return kmsg.OffsetFetchResponseGroupTopicPartition{Partition: o.Partition, Offset: o.Offset, LeaderEpoch: o.Epoch, Metadata: &o.Metadata}
}
