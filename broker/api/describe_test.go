package api

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/budget"
	"millrace/broker/segment"
)

func TestDescribeProducers(t *testing.T) {
	b := open(t, nil)
	topic := filled(b, "t", 2, "a")
	b.log(topic, 0).producers = []segment.ProducerState{
		{ID: 7, Epoch: 2, LastSequence: 41, LastOffset: 0, LastTime: 1234, CoordinatorEpoch: -1, TxnFirstOffset: -1},
		{ID: 9, LastSequence: 0, LastTime: 5678, CoordinatorEpoch: -1, TxnFirstOffset: -1},
	}
	resp := ask[*kmsg.DescribeProducersResponse](b, &kmsg.DescribeProducersRequest{Topics: []kmsg.DescribeProducersRequestTopic{
		{Topic: "t", Partitions: []int32{0, 1, 2, 0}}, {Topic: "nowhere", Partitions: []int32{0}}, {Topic: "t", Partitions: []int32{1}},
	}}, 0)
	for i, want := range [][]int16{{0, 0, codeUnknownTopicOrPartition, codeInvalidRequest}, {codeUnknownTopicOrPartition}, {codeInvalidRequest}} {
		for j, code := range want {
			if p := resp.Topics[i].Partitions[j]; p.ErrorCode != code {
				t.Errorf("topic %d: %+v, want code %d", i, p, code)
			}
		}
	}
	got := resp.Topics[0].Partitions[0].ActiveProducers
	if len(got) != 2 || len(resp.Topics[0].Partitions[1].ActiveProducers) != 0 {
		t.Fatalf("%+v", resp.Topics[0].Partitions)
	}
	want := kmsg.DescribeProducersResponseTopicPartitionActiveProducer{
		ProducerID: 7, ProducerEpoch: 2, LastSequence: 41, LastTimestamp: 1234, CoordinatorEpoch: -1, CurrentTxnStartOffset: -1,
	}
	if p := got[0]; p.ProducerID != want.ProducerID || p.ProducerEpoch != want.ProducerEpoch || p.LastSequence != want.LastSequence ||
		p.LastTimestamp != want.LastTimestamp || p.CoordinatorEpoch != want.CoordinatorEpoch || p.CurrentTxnStartOffset != want.CurrentTxnStartOffset {
		t.Errorf("%+v, want %+v", p, want)
	}
}

// An answer with many producers takes room, and gives it back.
func TestManyProducersTakeRoom(t *testing.T) {
	share, err := budget.New(1<<20).Share("answers", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	b := open(t, func(c *Config) { c.Answers = share })
	topic := filled(b, "t", 1, "a")
	b.log(topic, 0).producers = make([]segment.ProducerState, 4096)
	r := b.begin(&kmsg.DescribeProducersRequest{Topics: []kmsg.DescribeProducersRequestTopic{{Topic: "t", Partitions: []int32{0}}}}, 0).raw()
	if used := share.Used(); used < int64(r.Size()) {
		t.Errorf("%d bytes of room for an answer of %d", used, r.Size())
	}
	r.Then()
	if used := share.Used(); used != 0 {
		t.Errorf("%d bytes of room are not given back", used)
	}
}

func TestDescribeClientQuotas(t *testing.T) {
	const exact, byDefault, anybody = kmsg.QuotasMatchTypeExact, kmsg.QuotasMatchTypeDefault, kmsg.QuotasMatchTypeAny
	type components = []kmsg.DescribeClientQuotasRequestComponent
	versions(t, 48, func(t *testing.T, version int16) {
		b := open(t, nil)
		for _, tt := range []struct {
			filter components
			code   int16
		}{
			{nil, 0},
			{components{{EntityType: "user", MatchType: anybody}}, 0},
			{components{{EntityType: "user", MatchType: exact, Match: text("ann")}, {EntityType: "client-id", MatchType: byDefault}}, 0},
			{components{{EntityType: "", MatchType: anybody}}, codeInvalidRequest},
			{components{{EntityType: "user", MatchType: anybody}, {EntityType: "user", MatchType: byDefault}}, codeInvalidRequest},
			{components{{EntityType: "user", MatchType: exact}}, codeInvalidRequest},
			{components{{EntityType: "user", MatchType: anybody, Match: text("ann")}}, codeInvalidRequest},
			{components{{EntityType: "user", MatchType: 3}}, codeInvalidRequest},
			{components{{EntityType: "ip", MatchType: anybody}, {EntityType: "user", MatchType: anybody}}, codeInvalidRequest},
		} {
			resp := ask[*kmsg.DescribeClientQuotasResponse](b, &kmsg.DescribeClientQuotasRequest{Components: tt.filter}, version)
			// Java's admin client takes null entries for an answer that holds no list.
			if resp.ErrorCode != tt.code || len(resp.Entries) != 0 || (resp.Entries == nil) != (tt.code != 0) || (resp.ErrorMessage == nil) != (tt.code == 0) {
				t.Errorf("%+v: %+v", tt.filter, resp)
			}
		}
	})
}
