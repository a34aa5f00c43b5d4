package api

import (
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/catalog"
)

func TestListOffsets(t *testing.T) {
	versions(t, 2, func(t *testing.T, version int16) {
		b := open(t, nil)
		topic := filled(b, "t", 1, "a", "b", "c")
		b.log(topic, 0).start = 1
		for _, tt := range []struct {
			at    int64
			since int16
			want  int64
			code  int16
		}{
			{timeLatest, 0, 3, 0},
			{timeEarliest, 0, 1, 0},
			{timeMax, 7, 2, 0},
			{timeEarliestLocal, 8, 1, 0},
			{timeLatestTiered, 9, -1, 0},
			{timePendingUpload, 11, -1, 0},
			{-7, 0, -1, codeInvalidRequest},
			{1000, 0, 1, 0},
			{1001, 0, -1, 0},
		} {
			req := kmsg.NewPtrListOffsetsRequest()
			q := kmsg.NewListOffsetsRequestTopicPartition()
			q.Timestamp = tt.at
			req.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: "t", Partitions: []kmsg.ListOffsetsRequestTopicPartition{q}}}
			if version < tt.since {
				tt.want, tt.code = -1, codeUnsupportedVersion
			}
			if got := ask[*kmsg.ListOffsetsResponse](b, req, version).Topics[0].Partitions[0]; got.Offset != tt.want || got.ErrorCode != tt.code {
				t.Errorf("time %d: %+v, want offset %d and code %d", tt.at, got, tt.want, tt.code)
			}
			if version >= 4 {
				req.Topics[0].Partitions[0].CurrentLeaderEpoch = 3
				if got := ask[*kmsg.ListOffsetsResponse](b, req, version).Topics[0].Partitions[0]; got.ErrorCode != codeUnknownLeaderEpoch {
					t.Errorf("an epoch to come: %+v", got)
				}
			}
			req.Topics[0].Topic = "no"
			if got := ask[*kmsg.ListOffsetsResponse](b, req, version).Topics[0].Partitions[0]; got.ErrorCode != codeUnknownTopicOrPartition || got.Offset != -1 {
				t.Errorf("an unknown topic: %+v", got)
			}
		}
	})
}

func TestOffsetForLeaderEpoch(t *testing.T) {
	versions(t, 23, func(t *testing.T, version int16) {
		b := open(t, nil)
		topic := filled(b, "t", 1, "a", "b", "c")
		log := b.log(topic, 0)
		log.epoch, log.epochEnds = 4, map[int32]int64{1: 2}
		for _, tt := range []struct {
			current, epoch, wantEpoch int32
			end                       int64
			code                      int16
		}{
			{-1, 4, 4, 3, 0},
			{4, 3, 1, 2, 0},
			{4, 0, -1, -1, 0},
			{4, 5, -1, -1, 0},
			{3, 4, -1, -1, codeFencedLeaderEpoch},
			{5, 4, -1, -1, codeUnknownLeaderEpoch},
		} {
			req := kmsg.NewPtrOffsetForLeaderEpochRequest()
			q := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
			q.CurrentLeaderEpoch, q.LeaderEpoch = tt.current, tt.epoch
			req.Topics = []kmsg.OffsetForLeaderEpochRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetForLeaderEpochRequestTopicPartition{q}}}
			got := ask[*kmsg.OffsetForLeaderEpochResponse](b, req, version).Topics[0].Partitions[0]
			if got.LeaderEpoch != tt.wantEpoch || got.EndOffset != tt.end || got.ErrorCode != tt.code {
				t.Errorf("%+v: %+v", tt, got)
			}
		}
	})
}

func TestDeleteRecords(t *testing.T) {
	versions(t, 21, func(t *testing.T, version int16) {
		b := open(t, nil)
		topic := filled(b, "t", 4, "a", "b", "c")
		b.do(catalog.CreateTopic{Name: "compacted", ID: catalog.NewTopicID(), Partitions: []catalog.PartitionState{leadBy([]int32{node})}, Config: map[string]string{"cleanup.policy": "compact"}})
		req := kmsg.NewPtrDeleteRecordsRequest()
		q := kmsg.DeleteRecordsRequestTopic{Topic: "t"}
		for i, offset := range []int64{2, -1, 4, -2} {
			q.Partitions = append(q.Partitions, kmsg.DeleteRecordsRequestTopicPartition{Partition: int32(i), Offset: offset})
		}
		req.Topics = append(req.Topics, q, kmsg.DeleteRecordsRequestTopic{Topic: "compacted", Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{Offset: 0}}})
		resp := ask[*kmsg.DeleteRecordsResponse](b, req, version)
		want := []kmsg.DeleteRecordsResponseTopicPartition{
			{Partition: 0, LowWatermark: 2},
			{Partition: 1, LowWatermark: 3},
			{Partition: 2, LowWatermark: -1, ErrorCode: codeOffsetOutOfRange},
			{Partition: 3, LowWatermark: -1, ErrorCode: codeOffsetOutOfRange},
		}
		for i, got := range resp.Topics[0].Partitions {
			if got.Partition != want[i].Partition || got.LowWatermark != want[i].LowWatermark || got.ErrorCode != want[i].ErrorCode {
				t.Errorf("%+v, want %+v", got, want[i])
			}
		}
		if got := resp.Topics[1].Partitions[0]; got.ErrorCode != codePolicyViolation {
			t.Errorf("a compacted topic: %+v", got)
		}
		if b.log(topic, 0).Start() != 2 {
			t.Error("the start has not moved")
		}
	})
}

func TestInitProducerID(t *testing.T) {
	versions(t, 22, func(t *testing.T, version int16) {
		b := open(t, nil)
		seen := map[int64]bool{}
		for range catalog.ProducerIDBlock + 5 {
			got := ask[*kmsg.InitProducerIDResponse](b, kmsg.NewPtrInitProducerIDRequest(), version)
			if got.ErrorCode != 0 || got.ProducerID < 0 || got.ProducerEpoch != 0 || seen[got.ProducerID] {
				t.Fatalf("%+v", got)
			}
			seen[got.ProducerID] = true
		}
		if n := b.Image().ProducerIDNext(); n != 2*catalog.ProducerIDBlock {
			t.Errorf("%d ids were taken from the catalog", n)
		}
		req := kmsg.NewPtrInitProducerIDRequest()
		req.TransactionalID = text("x")
		if got := ask[*kmsg.InitProducerIDResponse](b, req, version); got.ErrorCode != codeUnsupportedVersion || got.ProducerID != -1 {
			t.Errorf("transactional: %+v", got)
		}
		if version < 3 {
			return
		}
		for _, half := range []kmsg.InitProducerIDRequest{{ProducerID: 5, ProducerEpoch: -1}, {ProducerID: -1, ProducerEpoch: 5}} {
			if got := ask[*kmsg.InitProducerIDResponse](b, &half, version); got.ErrorCode != codeInvalidRequest || got.ProducerID != -1 {
				t.Errorf("an id without an epoch, or the other way: %+v", got)
			}
		}
	})
}

func TestInitProducerIDWithoutACatalog(t *testing.T) {
	b := open(t, nil)
	b.fail = errors.New("the disk is gone")
	if got := ask[*kmsg.InitProducerIDResponse](b, kmsg.NewPtrInitProducerIDRequest(), 4); got.ErrorCode != codeUnknown || got.ProducerID != -1 {
		t.Errorf("%+v", got)
	}
}
