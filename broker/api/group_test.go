package api

import (
	"bytes"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/catalog"
	"millrace/broker/group"
)

// later waits for the answer of a coordinator, and reads it.
func later[R kmsg.Response](b *board, req kmsg.Request, version int16) R {
	b.tb.Helper()
	p := b.begin(req, version)
	select {
	case a := <-p.answered:
		p.answered <- a
	case <-time.After(10 * time.Second):
		b.tb.Fatalf("%T v%d is not answered", req, version)
	}
	return p.response().(R)
}

// coordinated is a board that coordinates a group, with a topic of two partitions.
func coordinated(t *testing.T) (*board, *catalog.Topic) {
	t.Helper()
	b := open(t, nil)
	b.find("g")
	return b, b.topic("t", 2)
}

// find makes the topic of groups, and waits until it is read.
func (b *board) find(id string) {
	b.tb.Helper()
	req := kmsg.NewPtrFindCoordinatorRequest()
	req.CoordinatorKey = id
	if r := ask[*kmsg.FindCoordinatorResponse](b, req, 2); r.ErrorCode != 0 || r.NodeID != node || r.Port != 9092 {
		b.tb.Fatalf("%+v", r)
	}
	for {
		if _, _, err := b.config.Groups.Count(id); err == nil {
			return
		}
		time.Sleep(time.Millisecond) // reading nothing takes no time, but another goroutine does it
	}
}

func TestFindCoordinator(t *testing.T) {
	versions(t, 10, func(t *testing.T, version int16) {
		b := open(t, nil)
		for kind, want := range []int16{codeNone, codeInvalidRequest, codeInvalidRequest} {
			req := kmsg.NewPtrFindCoordinatorRequest()
			req.CoordinatorKey, req.CoordinatorKeys, req.CoordinatorType = "g", []string{"g", "h"}, int8(kind)
			r := ask[*kmsg.FindCoordinatorResponse](b, req, version)
			switch {
			case version == 0 && kind > 0: // a group is all there is
			case version < 4:
				if r.ErrorCode != want || want == codeNone && (r.NodeID != node || r.Host != "127.0.0.1") {
					t.Errorf("kind %d: %+v", kind, r)
				}
			default:
				if len(r.Coordinators) != 2 || r.Coordinators[1].Key != "h" || r.Coordinators[1].ErrorCode != want || want == codeNone && r.Coordinators[1].NodeID != node {
					t.Errorf("kind %d: %+v", kind, r)
				}
			}
		}
		if topic := b.Image().Topic(group.TopicName); topic == nil {
			t.Error("the topic was not made")
		}
	})
}

// offsets asks for one offset of a group, or all, in any version.
func (b *board) offsets(version int16, topic *catalog.Topic, all bool) kmsg.OffsetFetchResponseGroup {
	b.tb.Helper()
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Group = "g"
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group = "g"
	if !all {
		one := kmsg.NewOffsetFetchRequestTopic()
		one.Topic, one.Partitions = topic.Name, []int32{0, 1}
		req.Topics = append(req.Topics, one)
		two := kmsg.NewOffsetFetchRequestGroupTopic()
		two.Topic, two.TopicID, two.Partitions = topic.Name, topic.ID, []int32{0, 1}
		g.Topics = append(g.Topics, two)
	}
	req.Groups = []kmsg.OffsetFetchRequestGroup{g}
	r := ask[*kmsg.OffsetFetchResponse](b, req, version)
	if version >= 8 {
		return r.Groups[0]
	}
	out := kmsg.OffsetFetchResponseGroup{ErrorCode: r.ErrorCode}
	for _, t := range r.Topics {
		next := kmsg.OffsetFetchResponseGroupTopic{Topic: t.Topic}
		for _, p := range t.Partitions {
			next.Partitions = append(next.Partitions, kmsg.OffsetFetchResponseGroupTopicPartition{
				Partition: p.Partition, Offset: p.Offset, LeaderEpoch: p.LeaderEpoch, Metadata: p.Metadata, ErrorCode: p.ErrorCode,
			})
		}
		out.Topics = append(out.Topics, next)
	}
	return out
}

func TestOffsetsOfASimpleConsumer(t *testing.T) {
	versions(t, 8, func(t *testing.T, version int16) {
		b, topic := coordinated(t)
		req := kmsg.NewPtrOffsetCommitRequest()
		req.Group, req.Generation = "g", -1
		req.RetentionTimeMillis = -1
		for _, name := range []string{"t", "nowhere"} {
			rt := kmsg.NewOffsetCommitRequestTopic()
			rt.Topic = name
			if name == "t" {
				rt.TopicID = topic.ID
			} else {
				rt.TopicID = [16]byte{1}
			}
			for p, metadata := range []string{"short", string(make([]byte, 5000)), "no such partition"} {
				rp := kmsg.NewOffsetCommitRequestTopicPartition()
				rp.Partition, rp.Offset, rp.LeaderEpoch, rp.Metadata = int32(p), 7, 3, &metadata
				rt.Partitions = append(rt.Partitions, rp)
			}
			req.Topics = append(req.Topics, rt)
		}
		r := later[*kmsg.OffsetCommitResponse](b, req, version)
		want := []int16{codeNone, codeOffsetMetadataTooLarge, codeUnknownTopicOrPartition}
		for i, p := range r.Topics[0].Partitions {
			if p.ErrorCode != want[i] {
				t.Errorf("partition %d: code %d, want %d", i, p.ErrorCode, want[i])
			}
		}
		missing := codeUnknownTopicOrPartition
		if version >= 10 {
			missing = codeUnknownTopicID
		}
		if got := r.Topics[1].Partitions[0].ErrorCode; got != missing {
			t.Errorf("a topic that does not exist: %d", got)
		}
		for fetch := int16(1); fetch <= 10; fetch++ {
			for _, all := range []bool{false, true} {
				if all && fetch < 2 {
					continue
				}
				g := b.offsets(fetch, topic, all)
				if g.ErrorCode != 0 || len(g.Topics) != 1 || fetch < 10 && g.Topics[0].Topic != "t" || fetch >= 10 && g.Topics[0].TopicID != topic.ID {
					t.Fatalf("fetch v%d: %+v", fetch, g)
				}
				p := g.Topics[0].Partitions[0]
				epoch := int32(-1)
				if version >= 6 && fetch >= 5 {
					epoch = 3
				}
				if p.Offset != 7 || *p.Metadata != "short" || p.ErrorCode != 0 || p.LeaderEpoch != epoch {
					t.Errorf("fetch v%d: %+v", fetch, p)
				}
				if !all && (len(g.Topics[0].Partitions) != 2 || g.Topics[0].Partitions[1].Offset != -1) {
					t.Errorf("fetch v%d: %+v", fetch, g.Topics[0].Partitions)
				}
			}
		}
		// The group's own error reaches every partition that has none.
		req.Generation = 5
		r = later[*kmsg.OffsetCommitResponse](b, req, version)
		if got := r.Topics[0].Partitions[0].ErrorCode; got != codeUnknownMemberID {
			t.Errorf("a member nobody knows: %d", got)
		}
		if got := r.Topics[0].Partitions[2].ErrorCode; got != codeUnknownTopicOrPartition {
			t.Errorf("a partition nobody has: %d", got)
		}
	})
}

// member joins, syncs, and returns the member's id and generation.
func (b *board) member(version int16, topic string) (id string, generation int32) {
	b.tb.Helper()
	join := kmsg.NewPtrJoinGroupRequest()
	join.Group, join.SessionTimeoutMillis, join.RebalanceTimeoutMillis, join.ProtocolType = "g", 10_000, 20_000, "consumer"
	p := kmsg.NewJoinGroupRequestProtocol()
	meta := kmsg.NewConsumerMemberMetadata()
	meta.Topics = []string{topic}
	p.Name, p.Metadata = "range", meta.AppendTo(nil)
	join.Protocols = []kmsg.JoinGroupRequestProtocol{p}
	r := later[*kmsg.JoinGroupResponse](b, join, version)
	if version >= 4 {
		if r.ErrorCode != codeMemberIDRequired || r.MemberID == "" || r.Generation != -1 {
			b.tb.Fatalf("first join: %+v", r)
		}
		join.MemberID = r.MemberID
		r = later[*kmsg.JoinGroupResponse](b, join, version)
	}
	if r.ErrorCode != 0 || r.LeaderID != r.MemberID || len(r.Members) != 1 || !bytes.Equal(r.Members[0].ProtocolMetadata, p.Metadata) || *r.Protocol != "range" {
		b.tb.Fatalf("%+v", r)
	}
	return r.MemberID, r.Generation
}

func TestOneMemberInEveryVersion(t *testing.T) {
	versions(t, 11, func(t *testing.T, version int16) {
		b, _ := coordinated(t)
		id, generation := b.member(version, "t")
		other := func(max int16) int16 { return min(version, max) }

		sync := kmsg.NewPtrSyncGroupRequest()
		sync.Group, sync.MemberID, sync.Generation = "g", id, generation
		kind, protocol := "consumer", "range"
		a := kmsg.NewSyncGroupRequestGroupAssignment()
		a.MemberID, a.MemberAssignment = id, []byte("everything")
		sync.GroupAssignment = []kmsg.SyncGroupRequestGroupAssignment{a}
		if v := other(5); v >= 5 {
			if r := later[*kmsg.SyncGroupResponse](b, sync, v); r.ErrorCode != codeInconsistentProtocol {
				t.Errorf("without a protocol: %+v", r)
			}
			sync.ProtocolType, sync.Protocol = &kind, &protocol
		}
		if r := later[*kmsg.SyncGroupResponse](b, sync, other(5)); r.ErrorCode != 0 || string(r.MemberAssignment) != "everything" {
			t.Fatalf("%+v", r)
		}

		beat := kmsg.NewPtrHeartbeatRequest()
		beat.Group, beat.MemberID, beat.Generation = "g", id, generation
		if r := later[*kmsg.HeartbeatResponse](b, beat, other(4)); r.ErrorCode != 0 {
			t.Errorf("%+v", r)
		}
		beat.Generation++
		if r := later[*kmsg.HeartbeatResponse](b, beat, other(4)); r.ErrorCode != codeIllegalGeneration {
			t.Errorf("%+v", r)
		}

		describe := kmsg.NewPtrDescribeGroupsRequest()
		describe.Groups = []string{"g", "nobody"}
		d := ask[*kmsg.DescribeGroupsResponse](b, describe, other(6))
		if g := d.Groups[0]; g.ErrorCode != 0 || g.State != "Stable" || g.Protocol != "range" || len(g.Members) != 1 || string(g.Members[0].MemberAssignment) != "everything" {
			t.Errorf("%+v", g)
		}
		want := codeNone
		if version >= 6 {
			want = codeGroupIDNotFound
		}
		if g := d.Groups[1]; g.State != "Dead" || g.ErrorCode != want || version >= 6 && g.ErrorMessage == nil {
			t.Errorf("%+v", g)
		}

		list := kmsg.NewPtrListGroupsRequest()
		l := ask[*kmsg.ListGroupsResponse](b, list, other(5))
		if len(l.Groups) != 1 || l.Groups[0].Group != "g" || version >= 4 && l.Groups[0].GroupState != "Stable" || version >= 5 && l.Groups[0].GroupType != "classic" {
			t.Errorf("%+v", l)
		}
		if version >= 4 {
			list.StatesFilter = []string{"empty"}
			if l = ask[*kmsg.ListGroupsResponse](b, list, other(5)); len(l.Groups) != 0 {
				t.Errorf("%+v", l)
			}
			list.StatesFilter = []string{"empty", "STABLE"}
			if l = ask[*kmsg.ListGroupsResponse](b, list, other(5)); len(l.Groups) != 1 {
				t.Errorf("%+v", l)
			}
		}
		if version >= 5 {
			for kind, n := range map[string]int{"Classic": 1, "consumer": 0} {
				list.TypesFilter = []string{kind}
				if l = ask[*kmsg.ListGroupsResponse](b, list, 5); len(l.Groups) != n {
					t.Errorf("%s: %+v", kind, l)
				}
			}
		}

		gone := kmsg.NewPtrDeleteGroupsRequest()
		gone.Groups = []string{"g", "nobody", ""}
		del := func(want ...int16) {
			t.Helper()
			for i, g := range ask[*kmsg.DeleteGroupsResponse](b, gone, other(2)).Groups {
				if g.ErrorCode != want[i] {
					t.Errorf("delete %q: %d, want %d", g.Group, g.ErrorCode, want[i])
				}
			}
		}
		del(codeNonEmptyGroup, codeGroupIDNotFound, codeInvalidGroupID)
		deleteOffset := func(topic string) *kmsg.OffsetDeleteResponse {
			req := kmsg.NewPtrOffsetDeleteRequest()
			req.Group = "g"
			rt := kmsg.NewOffsetDeleteRequestTopic()
			rt.Topic = topic
			rt.Partitions = []kmsg.OffsetDeleteRequestTopicPartition{{Partition: 0}, {Partition: 9}}
			req.Topics = append(req.Topics, rt)
			return ask[*kmsg.OffsetDeleteResponse](b, req, 0)
		}
		if r := deleteOffset("t"); r.ErrorCode != 0 || r.Topics[0].Partitions[0].ErrorCode != codeGroupSubscribedToTopic || r.Topics[0].Partitions[1].ErrorCode != codeUnknownTopicOrPartition {
			t.Errorf("%+v", r)
		}

		leave := kmsg.NewPtrLeaveGroupRequest()
		leave.Group, leave.MemberID = "g", id
		for _, m := range []string{id, "nobody"} {
			lm := kmsg.NewLeaveGroupRequestMember()
			lm.MemberID = m
			leave.Members = append(leave.Members, lm)
		}
		left := later[*kmsg.LeaveGroupResponse](b, leave, other(5))
		if left.ErrorCode != 0 || version >= 3 && (left.Members[0].ErrorCode != 0 || left.Members[1].ErrorCode != codeUnknownMemberID) {
			t.Errorf("%+v", left)
		}
		if version < 3 {
			if left = later[*kmsg.LeaveGroupResponse](b, leave, version); left.ErrorCode != codeUnknownMemberID {
				t.Errorf("%+v", left)
			}
		}
		if r := deleteOffset("t"); r.ErrorCode != 0 || r.Topics[0].Partitions[0].ErrorCode != 0 {
			t.Errorf("%+v", r)
		}
		if r := deleteOffset("nowhere"); r.Topics[0].Partitions[0].ErrorCode != codeUnknownTopicOrPartition {
			t.Errorf("%+v", r)
		}
		del(codeNone, codeGroupIDNotFound, codeInvalidGroupID)
	})
}

// A topic that is deleted takes its offsets along before the answer is sent.
func TestDeleteTopicDropsOffsets(t *testing.T) {
	b, _ := coordinated(t)
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.Generation = "g", -1
	rt := kmsg.NewOffsetCommitRequestTopic()
	rt.Topic = "t"
	rt.Partitions = []kmsg.OffsetCommitRequestTopicPartition{{Partition: 0, Offset: 5, LeaderEpoch: -1}}
	req.Topics = append(req.Topics, rt)
	if r := later[*kmsg.OffsetCommitResponse](b, req, 9); r.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Fatalf("%+v", r)
	}
	del := kmsg.NewPtrDeleteTopicsRequest()
	del.TopicNames = []string{"t"}
	if r := ask[*kmsg.DeleteTopicsResponse](b, del, 3); r.Topics[0].ErrorCode != 0 {
		t.Fatalf("%+v", r)
	}
	b.topic("t", 2)
	if n, _, err := b.config.Groups.Count("g"); n != 0 || err != nil {
		t.Errorf("%d offsets, %v", n, err)
	}
}

func TestGroupsThatCannotBe(t *testing.T) {
	b, _ := coordinated(t)
	for name, change := range map[string]struct {
		do   func(*kmsg.JoinGroupRequest)
		code int16
	}{
		"no name":       {func(r *kmsg.JoinGroupRequest) { r.Group = "" }, codeInvalidGroupID},
		"short session": {func(r *kmsg.JoinGroupRequest) { r.SessionTimeoutMillis = 5999 }, codeInvalidSessionTimeout},
		"long session":  {func(r *kmsg.JoinGroupRequest) { r.SessionTimeoutMillis = 60_001 }, codeInvalidSessionTimeout},
		"no type":       {func(r *kmsg.JoinGroupRequest) { r.ProtocolType = "" }, codeInconsistentProtocol},
		"no protocol":   {func(r *kmsg.JoinGroupRequest) { r.Protocols = nil }, codeInconsistentProtocol},
		"many protocols": {func(r *kmsg.JoinGroupRequest) {
			for range 64 {
				r.Protocols = append(r.Protocols, r.Protocols[0])
			}
		}, codeInconsistentProtocol},
		"unknown": {func(r *kmsg.JoinGroupRequest) { r.MemberID = "x" }, codeUnknownMemberID},
	} {
		r := kmsg.NewPtrJoinGroupRequest()
		r.Group, r.SessionTimeoutMillis, r.RebalanceTimeoutMillis, r.ProtocolType = "new", 10_000, 10_000, "consumer"
		r.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range"}}
		change.do(r)
		for _, version := range []int16{0, 5, 9} {
			if got := later[*kmsg.JoinGroupResponse](b, r, version); got.ErrorCode != change.code || got.Generation != -1 {
				t.Errorf("%s, v%d: %+v", name, version, got)
			}
		}
	}
	// Who has gone is not answered, and the connection can close.
	join := kmsg.NewPtrJoinGroupRequest()
	join.Group, join.SessionTimeoutMillis, join.RebalanceTimeoutMillis, join.ProtocolType = "g", 10_000, 10_000, "consumer"
	join.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range"}}
	later[*kmsg.JoinGroupResponse](b, join, 3)
	second := b.begin(join, 3) // the first has not synced: it has to join again
	if !second.cancel() {
		t.Error("a join that waits cannot be cancelled")
	}
	second.waits()
}

// What is asked for twice is answered once: the answer is no larger than what there is.
func TestNothingIsAnsweredTwice(t *testing.T) {
	b, topic := coordinated(t)
	commit := kmsg.NewPtrOffsetCommitRequest()
	commit.Group, commit.Generation = "g", -1
	metadata := string(bytes.Repeat([]byte("m"), 4096))
	commit.Topics = []kmsg.OffsetCommitRequestTopic{{
		Topic: "t", Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Partition: 0, Offset: 5, LeaderEpoch: -1, Metadata: &metadata}},
	}}
	if r := later[*kmsg.OffsetCommitResponse](b, commit, 9); r.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Fatalf("%+v", r)
	}
	for _, version := range []int16{1, 7, 9, 10} {
		req := kmsg.NewPtrOffsetFetchRequest()
		req.Group = "g"
		partitions := make([]int32, 1000)
		req.Topics = []kmsg.OffsetFetchRequestTopic{{Topic: "t", Partitions: partitions}, {Topic: "t", Partitions: []int32{0}}}
		one := kmsg.NewOffsetFetchRequestGroup()
		one.Group = "g"
		one.Topics = []kmsg.OffsetFetchRequestGroupTopic{{Topic: "t", TopicID: topic.ID, Partitions: partitions}, {Topic: "t", TopicID: topic.ID, Partitions: []int32{0}}}
		all := kmsg.NewOffsetFetchRequestGroup()
		all.Group = "g"
		req.Groups = []kmsg.OffsetFetchRequestGroup{one, all, all}
		r := b.begin(req, version).raw()
		if r.Size() > 80_000 {
			t.Errorf("v%d: %d bytes", version, r.Size())
		}
		r.Release()
	}
	b.member(9, "t")
	describe := kmsg.NewPtrDescribeGroupsRequest()
	describe.Groups = []string{"g", "g", "g"}
	d := ask[*kmsg.DescribeGroupsResponse](b, describe, 6)
	if len(d.Groups[0].Members) != 1 || d.Groups[1].ErrorCode != codeInvalidRequest || len(d.Groups[2].Members) != 0 {
		t.Errorf("%+v", d)
	}
}
