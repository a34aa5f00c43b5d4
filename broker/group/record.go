package group

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// keyValue is a record of __consumer_offsets; a nil value ends what the key names.
type keyValue struct{ key, value []byte }

// Versions of the keys (Apache Kafka, group-coordinator/src/main/resources/common/message): the first two bytes.
const (
	versionOffsetKey   = 1 // 0 is read as well
	versionMetadataKey = 2
)

func offsetKey(id string, p Place) []byte {
	k := kmsg.OffsetCommitKey{Version: versionOffsetKey, Group: id, Topic: p.Topic, Partition: p.Partition}
	return k.AppendTo(nil)
}

func metadataKey(id string) []byte {
	k := kmsg.GroupMetadataKey{Version: versionMetadataKey, Group: id}
	return k.AppendTo(nil)
}

// offsetRecord is an offset in the version Apache Kafka writes: the oldest that says all there is to say.
func offsetRecord(id string, p Place, o offset) keyValue {
	v := kmsg.NewOffsetCommitValue()
	v.Version = 3
	switch {
	case o.retain >= 0:
		v.Version, v.ExpireTimestamp = 1, o.written+o.retain
	case o.topicID != [16]byte{}:
		v.Version = 4
	}
	v.Offset, v.LeaderEpoch, v.Metadata, v.CommitTimestamp, v.TopicID = o.at, o.epoch, o.metadata, o.written, o.topicID
	return keyValue{offsetKey(id, p), v.AppendTo(nil)}
}

// metadata is the group with its members; assignments, where there are any, in place of the members' own.
func (g *group) metadata(assignments map[string][]byte) []keyValue {
	v := kmsg.NewGroupMetadataValue()
	v.Version = 3
	v.ProtocolType, v.Generation, v.CurrentStateTimestamp = g.protocolType, g.generation, g.changed
	if g.protocol != "" {
		v.Protocol = &g.protocol
	}
	if g.leader != "" {
		leader := g.leader
		v.Leader = &leader
	}
	v.Members = make([]kmsg.GroupMetadataValueMember, len(g.members))
	for i, m := range g.members {
		assignment := m.assignment
		if assignments != nil {
			assignment = assignments[m.id]
		}
		out := &v.Members[i]
		out.Default()
		if m.instance != "" {
			out.InstanceID = &m.instance
		}
		out.MemberID, out.ClientID, out.ClientHost = m.id, m.clientID, m.clientHost
		out.RebalanceTimeoutMillis, out.SessionTimeoutMillis = int32(m.rebalance), int32(m.session)
		out.Subscription, out.Assignment = m.metadata(g.protocol), assignment
	}
	return []keyValue{{metadataKey(g.id), v.AppendTo(nil)}}
}

// errRecord is what a record of the log is that cannot be read.
var errRecord = errors.New("group: record is not readable")

// replay applies a record of the log to the groups read so far. Records of other kinds are none of this package's.
func replay(groups map[string]*group, limits *Limits, topics map[string]string, key, value []byte) error {
	if len(key) < 2 {
		return fmt.Errorf("%w: key of %d bytes", errRecord, len(key))
	}
	at := func(id string) *group {
		g := groups[id]
		if g == nil {
			g = newGroup(id, limits)
			groups[id] = g
		}
		return g
	}
	switch binary.BigEndian.Uint16(key) {
	case 0, versionOffsetKey:
		k := kmsg.NewOffsetCommitKey()
		if err := k.ReadFrom(key); err != nil {
			return fmt.Errorf("%w: key of an offset: %w", errRecord, err)
		}
		topic, known := topics[k.Topic]
		if !known {
			topic = k.Topic
			topics[topic] = topic // one string for all its partitions in all groups
		}
		p := Place{topic, k.Partition}
		if value == nil {
			if g := groups[k.Group]; g != nil {
				g.drop([]Place{p})
			}
			return nil
		}
		v := kmsg.NewOffsetCommitValue()
		if err := v.ReadFrom(value); err != nil {
			return fmt.Errorf("%w: offset: %w", errRecord, err)
		}
		o := offset{v.Offset, v.LeaderEpoch, v.Metadata, v.TopicID, v.CommitTimestamp, -1, 0}
		if v.Version == 1 && v.ExpireTimestamp >= v.CommitTimestamp {
			o.retain = v.ExpireTimestamp - v.CommitTimestamp
		}
		at(k.Group).put(p, o)
	case versionMetadataKey:
		k := kmsg.NewGroupMetadataKey()
		if err := k.ReadFrom(key); err != nil {
			return fmt.Errorf("%w: key of a group: %w", errRecord, err)
		}
		g := at(k.Group)
		for _, m := range append([]*member(nil), g.members...) {
			g.remove(m, nil)
		}
		g.phase, g.protocol, g.protocolType, g.generation = Empty, "", "", 0
		if value == nil {
			return nil
		}
		v := kmsg.NewGroupMetadataValue()
		if err := v.ReadFrom(value); err != nil {
			return fmt.Errorf("%w: group: %w", errRecord, err)
		}
		g.restore(&v)
	}
	return nil
}

// restore makes the group what a record says.
func (g *group) restore(v *kmsg.GroupMetadataValue) {
	g.protocolType, g.generation, g.changed = v.ProtocolType, v.Generation, v.CurrentStateTimestamp
	if v.Protocol != nil {
		g.protocol = *v.Protocol
	}
	for i := range v.Members {
		in := &v.Members[i]
		m := &member{
			id: in.MemberID, clientID: in.ClientID, clientHost: in.ClientHost,
			session: int64(in.SessionTimeoutMillis), rebalance: int64(in.RebalanceTimeoutMillis),
			protocols: []Protocol{{g.protocol, bytes.Clone(in.Subscription)}}, assignment: bytes.Clone(in.Assignment), synced: true, restored: true,
		}
		if in.InstanceID != nil {
			m.instance = *in.InstanceID
		}
		if g.byID[m.id] != nil {
			continue
		}
		g.members = append(g.members, m)
		g.byID[m.id] = m
		if m.instance != "" {
			g.instances[m.instance] = m.id
		}
		g.size += m.cost()
		if g.leader == "" || v.Leader != nil && *v.Leader == m.id {
			g.leader = m.id
		}
		g.phase = Stable
	}
}

// loaded begins the group's life after it was read: its members' sessions, and the age of what it has.
func (g *group) loaded(now moment) {
	g.now = now
	g.idle = now.ms
	for _, m := range g.members {
		g.touch(m)
	}
	for _, list := range g.offsets {
		for p, o := range list {
			o.heard = now.ms
			list[p] = o
		}
	}
}
