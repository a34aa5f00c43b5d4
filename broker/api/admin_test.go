package api

import (
	"errors"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/catalog"
	"millrace/broker/server"
	"millrace/broker/wire"
)

func TestApiVersions(t *testing.T) {
	versions(t, 18, func(t *testing.T, version int16) {
		b := open(t, nil)
		req := kmsg.NewPtrApiVersionsRequest()
		req.ClientSoftwareName, req.ClientSoftwareVersion = "test", "1"
		resp := ask[*kmsg.ApiVersionsResponse](b, req, version)
		if len(resp.ApiKeys) != len(wire.APIs()) || resp.ErrorCode != 0 || len(resp.FinalizedFeatures) != 0 {
			t.Errorf("%+v", resp)
		}
		for i, a := range wire.APIs() {
			if k := resp.ApiKeys[i]; k.ApiKey != a.Key || k.MinVersion != a.Min || k.MaxVersion != a.Max {
				t.Errorf("%s: %+v", a.Name, k)
			}
		}
	})
}

func TestApiVersionsOfTheFuture(t *testing.T) {
	b := open(t, nil)
	for _, version := range []int16{5, 99, -1} {
		h := wire.Header{Key: 18, Version: version, Correlation: 3}
		p := &pending{TB: t, header: h, kind: kmsg.NewPtrApiVersionsResponse(), answered: make(chan server.Answer, 2)}
		b.Serve(&server.Request{Header: h, Body: kmsg.NewPtrApiVersionsRequest(), Context: t.Context()}, func(a server.Answer) { p.answered <- a })
		r := p.raw()
		resp := p.read(r, 0).(*kmsg.ApiVersionsResponse)
		if resp.ErrorCode != codeUnsupportedVersion || len(resp.ApiKeys) != 1 || resp.ApiKeys[0].ApiKey != 18 || resp.ApiKeys[0].MaxVersion != 4 || r.Close {
			t.Errorf("v%d: %+v", version, resp)
		}
		r.Release()
	}
}

func TestMetadataInEveryVersion(t *testing.T) {
	versions(t, 3, func(t *testing.T, version int16) {
		b := open(t, nil)
		topic := b.topic("t", 2)
		b.topic("__consumer_offsets", 1)
		req := kmsg.NewPtrMetadataRequest()
		resp := ask[*kmsg.MetadataResponse](b, req, version)
		if len(resp.Topics) != 2 || len(resp.Brokers) != 2 || resp.Brokers[0].Host != "127.0.0.1" || resp.Brokers[1].Host != "board-2" {
			t.Fatalf("%+v", resp)
		}
		if version >= 2 && *resp.ClusterID != cluster || version >= 1 && (resp.ControllerID != node || !resp.Topics[0].IsInternal) {
			t.Errorf("%+v", resp)
		}
		own := resp.Topics[1]
		if *own.Topic != "t" || len(own.Partitions) != 2 || own.Partitions[1].Leader != node || len(own.Partitions[1].ISR) != 1 {
			t.Errorf("%+v", own)
		}
		if version >= 10 && own.TopicID != topic.ID {
			t.Errorf("topic id %v", own.TopicID)
		}
		// By name: what is there, what is not, and what cannot be.
		req = kmsg.NewPtrMetadataRequest()
		for _, name := range []string{"t", "no", "a b"} {
			req.Topics = append(req.Topics, kmsg.MetadataRequestTopic{Topic: text(name)})
		}
		req.AllowAutoTopicCreation = false
		resp = ask[*kmsg.MetadataResponse](b, req, version)
		want := []int16{0, codeUnknownTopicOrPartition, codeInvalidTopic}
		if version < 4 { // before v4 asking creates
			want[1] = 0
		}
		for i, topic := range resp.Topics {
			if topic.ErrorCode != want[i] {
				t.Errorf("%s: code %d, want %d", *topic.Topic, topic.ErrorCode, want[i])
			}
		}
	})
}

func TestMetadataCreates(t *testing.T) {
	b := open(t, nil)
	req := kmsg.NewPtrMetadataRequest()
	req.AllowAutoTopicCreation = true
	for _, name := range []string{"new", "__consumer_offsets", "no/such"} {
		req.Topics = append(req.Topics, kmsg.MetadataRequestTopic{Topic: text(name)})
	}
	resp := ask[*kmsg.MetadataResponse](b, req, 12)
	if resp.Topics[0].ErrorCode != 0 || len(resp.Topics[0].Partitions) != 1 || resp.Topics[0].TopicID == [16]byte{} {
		t.Errorf("%+v", resp.Topics[0])
	}
	if resp.Topics[1].ErrorCode != codeUnknownTopicOrPartition || resp.Topics[2].ErrorCode != codeInvalidTopic || b.Image().Len() != 1 {
		t.Errorf("%+v", resp.Topics[1:])
	}
}

func TestMetadataByID(t *testing.T) {
	b := open(t, nil)
	topic := b.topic("t", 1)
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{{TopicID: topic.ID}, {TopicID: catalog.NewTopicID()}}
	resp := ask[*kmsg.MetadataResponse](b, req, 12)
	if *resp.Topics[0].Topic != "t" || resp.Topics[1].ErrorCode != codeUnknownTopicID || resp.Topics[1].Topic != nil {
		t.Errorf("%+v", resp.Topics)
	}
}

func TestMetadataOfNothing(t *testing.T) {
	b := open(t, nil)
	b.topic("t", 1)
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{}
	for version, want := range map[int16]int{0: 1, 1: 0, 12: 0} {
		if got := ask[*kmsg.MetadataResponse](b, req, version); len(got.Topics) != want {
			t.Errorf("v%d: %d topics, want %d", version, len(got.Topics), want)
		}
	}
}

func TestAdvertisedAddress(t *testing.T) {
	b := open(t, func(c *Config) { c.Advertised = Endpoint{"board.example", 19092} })
	for _, br := range ask[*kmsg.DescribeClusterResponse](b, kmsg.NewPtrDescribeClusterRequest(), 0).Brokers {
		if br.NodeID == node && (br.Host != "board.example" || br.Port != 19092) {
			t.Errorf("%+v", br)
		}
	}
}

func creating(name string, partitions int32, replication int16) kmsg.CreateTopicsRequestTopic {
	q := kmsg.NewCreateTopicsRequestTopic()
	q.Topic, q.NumPartitions, q.ReplicationFactor = name, partitions, replication
	return q
}

func TestCreateTopicsInEveryVersion(t *testing.T) {
	versions(t, 19, func(t *testing.T, version int16) {
		b := open(t, nil)
		q := creating("t", 3, 2)
		q.Configs = []kmsg.CreateTopicsRequestTopicConfig{{Name: "retention.ms", Value: text("1000")}}
		req := kmsg.NewPtrCreateTopicsRequest()
		req.Topics = append(req.Topics, q)
		req.ValidateOnly = true
		if got := ask[*kmsg.CreateTopicsResponse](b, req, version).Topics[0]; got.ErrorCode != 0 || b.Image().Len() != 0 {
			t.Fatalf("validate only: %+v, %d topics", got, b.Image().Len())
		}
		req.ValidateOnly = false
		got := ask[*kmsg.CreateTopicsResponse](b, req, version).Topics[0]
		made := b.Image().Topic("t")
		if got.ErrorCode != 0 || made == nil || len(made.Partitions) != 3 || len(made.Partitions[0].Replicas) != 2 || made.Config["retention.ms"] != "1000" {
			t.Fatalf("%+v, %+v", got, made)
		}
		if version >= 5 {
			at := slices.IndexFunc(got.Configs, func(c kmsg.CreateTopicsResponseTopicConfig) bool { return c.Name == "retention.ms" })
			if at < 0 || *got.Configs[at].Value != "1000" || got.NumPartitions != 3 || got.ReplicationFactor != 2 {
				t.Errorf("%+v", got)
			}
		}
		if version >= 7 && got.TopicID != made.ID {
			t.Errorf("topic id %v, want %v", got.TopicID, made.ID)
		}
	})
}

func TestCreateTopicsRefuses(t *testing.T) {
	assignment := func(replicas ...[]int32) (a []kmsg.CreateTopicsRequestTopicReplicaAssignment) {
		for i, r := range replicas {
			a = append(a, kmsg.CreateTopicsRequestTopicReplicaAssignment{Partition: int32(i), Replicas: r})
		}
		return a
	}
	for _, tt := range []struct {
		name   string
		topic  kmsg.CreateTopicsRequestTopic
		change func(*kmsg.CreateTopicsRequestTopic)
		code   int16
	}{
		{"exists", creating("a.b", 1, 1), nil, codeTopicExists},
		{"collides", creating("a_b", 1, 1), nil, codeInvalidTopic},
		{"bad name", creating("a b", 1, 1), nil, codeInvalidTopic},
		{"no name", creating("", 1, 1), nil, codeInvalidTopic},
		{"two dots", creating("..", 1, 1), nil, codeInvalidTopic},
		{"the broker's own", creating("__consumer_offsets", 1, 1), nil, codeInvalidTopic},
		{"more replicas than brokers", creating("t", 1, 3), nil, codeInvalidReplicationFactor},
		{"no replicas", creating("t", 1, 0), nil, codeInvalidReplicationFactor},
		{"no partitions", creating("t", 0, 1), nil, codeInvalidPartitions},
		{"two billion partitions", creating("t", 2_000_000_000, 1), nil, codeInvalidPartitions},
		{"unknown setting", creating("t", 1, 1), func(q *kmsg.CreateTopicsRequestTopic) {
			q.Configs = []kmsg.CreateTopicsRequestTopicConfig{{Name: "no.such", Value: text("1")}}
		}, codeInvalidConfig},
		{"bad value", creating("t", 1, 1), func(q *kmsg.CreateTopicsRequestTopic) {
			q.Configs = []kmsg.CreateTopicsRequestTopicConfig{{Name: "retention.ms", Value: text("soon")}}
		}, codeInvalidConfig},
		{"null value", creating("t", 1, 1), func(q *kmsg.CreateTopicsRequestTopic) {
			q.Configs = []kmsg.CreateTopicsRequestTopicConfig{{Name: "retention.ms"}}
		}, codeInvalidConfig},
		{"assignment and count", creating("t", 1, -1), func(q *kmsg.CreateTopicsRequestTopic) { q.ReplicaAssignment = assignment([]int32{1}) }, codeInvalidAssignment},
		{"assignment to nobody", creating("t", -1, -1), func(q *kmsg.CreateTopicsRequestTopic) { q.ReplicaAssignment = assignment([]int32{7}) }, codeInvalidAssignment},
		{"assignment with a hole", creating("t", -1, -1), func(q *kmsg.CreateTopicsRequestTopic) {
			q.ReplicaAssignment = assignment([]int32{1}, []int32{1})
			q.ReplicaAssignment[1].Partition = 2
		}, codeInvalidAssignment},
		{"assignment", creating("t", -1, -1), func(q *kmsg.CreateTopicsRequestTopic) {
			q.ReplicaAssignment = assignment([]int32{1}, []int32{2, 1})
		}, codeNone},
		{"defaults", creating("t", -1, -1), nil, codeNone},
	} {
		for _, validateOnly := range []bool{true, false} {
			b := open(t, nil)
			b.topic("a.b", 1)
			if tt.change != nil {
				tt.change(&tt.topic)
			}
			req := kmsg.NewPtrCreateTopicsRequest()
			req.Topics, req.ValidateOnly = []kmsg.CreateTopicsRequestTopic{tt.topic}, validateOnly
			got := ask[*kmsg.CreateTopicsResponse](b, req, 7).Topics[0]
			if got.ErrorCode != tt.code || (tt.code != 0) != (got.ErrorMessage != nil) || got.Configs == nil {
				t.Errorf("%s, validate only %v: code %d, want %d (%v)", tt.name, validateOnly, got.ErrorCode, tt.code, value(got.ErrorMessage))
			}
		}
	}
	b := open(t, nil)
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Topics = []kmsg.CreateTopicsRequestTopic{creating("t", 1, 1), creating("t", 2, 1), creating("u", 1, 1)}
	got := ask[*kmsg.CreateTopicsResponse](b, req, 7).Topics
	if got[0].ErrorCode != codeInvalidRequest || got[1].ErrorCode != codeInvalidRequest || got[2].ErrorCode != 0 {
		t.Errorf("the same topic twice: %+v", got)
	}
}

func TestDeleteTopics(t *testing.T) {
	versions(t, 20, func(t *testing.T, version int16) {
		b := open(t, nil)
		first, second := b.topic("first", 1), b.topic("second", 1)
		b.topic("__transaction_state", 1)
		req := kmsg.NewPtrDeleteTopicsRequest()
		if version < 6 {
			req.TopicNames = []string{"first", "no", "__transaction_state"}
		} else {
			for _, name := range []string{"first", "no", "__transaction_state"} {
				req.Topics = append(req.Topics, kmsg.DeleteTopicsRequestTopic{Topic: text(name)})
			}
			req.Topics = append(req.Topics,
				kmsg.DeleteTopicsRequestTopic{TopicID: second.ID},
				kmsg.DeleteTopicsRequestTopic{TopicID: catalog.NewTopicID()},
				kmsg.DeleteTopicsRequestTopic{Topic: text("first"), TopicID: first.ID})
		}
		want := []int16{0, codeUnknownTopicOrPartition, codeInvalidRequest, 0, codeUnknownTopicID, codeInvalidRequest}
		for i, got := range ask[*kmsg.DeleteTopicsResponse](b, req, version).Topics {
			if got.ErrorCode != want[i] {
				t.Errorf("topic %d: code %d, want %d", i, got.ErrorCode, want[i])
			}
		}
		if b.Image().Topic("first") != nil || (b.Image().Topic("second") == nil) != (version >= 6) {
			t.Error("the wrong topics are gone")
		}
	})
}

func TestCreatePartitions(t *testing.T) {
	versions(t, 37, func(t *testing.T, version int16) {
		b := open(t, nil)
		b.topic("t", 2)
		b.topic("u", 1)
		grow := func(name string, count int32, replicas ...[]int32) kmsg.CreatePartitionsRequestTopic {
			q := kmsg.CreatePartitionsRequestTopic{Topic: name, Count: count}
			for _, r := range replicas {
				q.Assignment = append(q.Assignment, kmsg.CreatePartitionsRequestTopicAssignment{Replicas: r})
			}
			return q
		}
		for _, tt := range []struct {
			q    kmsg.CreatePartitionsRequestTopic
			code int16
		}{
			{grow("no", 3), codeUnknownTopicOrPartition},
			{grow("t", 2), codeInvalidPartitions},
			{grow("t", 1), codeInvalidPartitions},
			{grow("t", -1), codeInvalidPartitions},
			{grow("t", 2_000_000_000), codeInvalidPartitions},
			{grow("t", 4, []int32{1}), codeInvalidAssignment},
			{grow("t", 3, []int32{1, 2}), codeInvalidAssignment},
			{grow("t", 3, []int32{9}), codeInvalidAssignment},
			{grow("u", 2, []int32{2}), 0},
			{grow("t", 4), 0},
		} {
			for _, validateOnly := range []bool{true, false} {
				before := len(b.Image().Topic("t").Partitions)
				req := kmsg.NewPtrCreatePartitionsRequest()
				req.Topics, req.ValidateOnly = []kmsg.CreatePartitionsRequestTopic{tt.q}, validateOnly
				if got := ask[*kmsg.CreatePartitionsResponse](b, req, version).Topics[0]; got.ErrorCode != tt.code {
					t.Errorf("%+v, validate only %v: %+v", tt.q, validateOnly, got)
				}
				if validateOnly && len(b.Image().Topic("t").Partitions) != before {
					t.Error("validate only changes something")
				}
			}
		}
		if n := len(b.Image().Topic("t").Partitions); n != 4 {
			t.Errorf("%d partitions", n)
		}
	})
}

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
	})
}

func TestInitProducerIDWithoutACatalog(t *testing.T) {
	b := open(t, nil)
	b.fail = errors.New("the disk is gone")
	if got := ask[*kmsg.InitProducerIDResponse](b, kmsg.NewPtrInitProducerIDRequest(), 4); got.ErrorCode != codeUnknown || got.ProducerID != -1 {
		t.Errorf("%+v", got)
	}
}

func TestConfigs(t *testing.T) {
	versions(t, 32, func(t *testing.T, version int16) {
		b := open(t, nil)
		b.do(catalog.CreateTopic{Name: "t", ID: catalog.NewTopicID(), Partitions: []catalog.PartitionState{leadBy([]int32{node})}, Config: map[string]string{"retention.ms": "5"}})
		req := kmsg.NewPtrDescribeConfigsRequest()
		req.IncludeSynonyms, req.IncludeDocumentation = true, true
		for _, q := range []struct {
			kind kmsg.ConfigResourceType
			name string
			keys []string
		}{
			{kmsg.ConfigResourceTypeTopic, "t", nil},
			{kmsg.ConfigResourceTypeTopic, "t", []string{"retention.ms", "no.such"}},
			{kmsg.ConfigResourceTypeTopic, "no", nil},
			{kmsg.ConfigResourceTypeBroker, "1", nil},
			{kmsg.ConfigResourceTypeBroker, "", nil},
			{kmsg.ConfigResourceTypeBroker, "2", nil},
			{kmsg.ConfigResourceTypeBrokerLogger, "1", nil},
		} {
			r := kmsg.NewDescribeConfigsRequestResource()
			r.ResourceType, r.ResourceName, r.ConfigNames = q.kind, q.name, q.keys
			req.Resources = append(req.Resources, r)
		}
		got := ask[*kmsg.DescribeConfigsResponse](b, req, version).Resources
		want := []struct {
			n    int
			code int16
		}{
			{len(catalog.TopicSettings()), 0},
			{1, 0},
			{0, codeUnknownTopicOrPartition},
			{len(catalog.BrokerSettings()), 0},
			{0, 0},
			{0, codeInvalidRequest},
			{0, codeInvalidRequest},
		}
		for i, w := range want {
			if len(got[i].Configs) != w.n || got[i].ErrorCode != w.code {
				t.Errorf("resource %d: %d settings and code %d, want %d and %d", i, len(got[i].Configs), got[i].ErrorCode, w.n, w.code)
			}
		}
		c := got[1].Configs[0]
		if *c.Value != "5" || c.Source != kmsg.ConfigSourceDynamicTopicConfig || len(c.ConfigSynonyms) != 2 {
			t.Errorf("%+v", c)
		}
		if version >= 3 && (c.ConfigType != kmsg.ConfigTypeLong || c.Documentation == nil) {
			t.Errorf("%+v", c)
		}
	})
}

func TestIncrementalAlterConfigs(t *testing.T) {
	versions(t, 44, func(t *testing.T, version int16) {
		type op = kmsg.IncrementalAlterConfigsRequestResourceConfig
		for _, tt := range []struct {
			name     string
			kind     kmsg.ConfigResourceType
			resource string
			ops      []op
			code     int16
		}{
			{"set", kmsg.ConfigResourceTypeTopic, "t", []op{{Name: "retention.ms", Value: text("9")}}, 0},
			{"delete", kmsg.ConfigResourceTypeTopic, "t", []op{{Name: "retention.ms", Op: 1}}, 0},
			{"append", kmsg.ConfigResourceTypeTopic, "t", []op{{Name: "cleanup.policy", Op: 2, Value: text("compact")}}, 0},
			{"append to a number", kmsg.ConfigResourceTypeTopic, "t", []op{{Name: "retention.ms", Op: 2, Value: text("9")}}, codeInvalidConfig},
			{"unknown setting", kmsg.ConfigResourceTypeTopic, "t", []op{{Name: "no.such", Value: text("9")}}, codeInvalidConfig},
			{"bad value", kmsg.ConfigResourceTypeTopic, "t", []op{{Name: "retention.ms", Value: text("soon")}}, codeInvalidConfig},
			{"null", kmsg.ConfigResourceTypeTopic, "t", []op{{Name: "retention.ms"}}, codeInvalidRequest},
			{"unknown operation", kmsg.ConfigResourceTypeTopic, "t", []op{{Name: "retention.ms", Op: 7, Value: text("9")}}, codeInvalidRequest},
			{"unknown topic", kmsg.ConfigResourceTypeTopic, "no", []op{{Name: "retention.ms", Value: text("9")}}, codeUnknownTopicOrPartition},
			{"the broker's own", kmsg.ConfigResourceTypeTopic, "__consumer_offsets", []op{{Name: "retention.ms", Value: text("9")}}, codeInvalidRequest},
			{"broker", kmsg.ConfigResourceTypeBroker, "1", []op{{Name: "num.partitions", Value: text("3")}}, 0},
			{"all brokers", kmsg.ConfigResourceTypeBroker, "", []op{{Name: "num.partitions", Value: text("3")}}, 0},
			{"read-only", kmsg.ConfigResourceTypeBroker, "1", []op{{Name: "log.dirs", Value: text("/x")}}, codeInvalidConfig},
			{"another broker", kmsg.ConfigResourceTypeBroker, "2", []op{{Name: "num.partitions", Value: text("3")}}, codeInvalidRequest},
			{"logger", kmsg.ConfigResourceTypeBrokerLogger, "1", []op{{Name: "x", Value: text("DEBUG")}}, codeInvalidRequest},
		} {
			for _, validateOnly := range []bool{true, false} {
				b := open(t, nil)
				b.topic("t", 1)
				b.topic("__consumer_offsets", 1)
				before := b.Image()
				r := kmsg.NewIncrementalAlterConfigsRequestResource()
				r.ResourceType, r.ResourceName, r.Configs = tt.kind, tt.resource, tt.ops
				req := kmsg.NewPtrIncrementalAlterConfigsRequest()
				req.Resources, req.ValidateOnly = append(req.Resources, r), validateOnly
				if got := ask[*kmsg.IncrementalAlterConfigsResponse](b, req, version).Resources[0]; got.ErrorCode != tt.code {
					t.Errorf("%s, validate only %v: code %d, want %d (%s)", tt.name, validateOnly, got.ErrorCode, tt.code, value(got.ErrorMessage))
				}
				if changed := b.Image() != before; changed != (tt.code == 0 && !validateOnly) {
					t.Errorf("%s, validate only %v: changed is %v", tt.name, validateOnly, changed)
				}
				req.Resources, req.ValidateOnly = append(req.Resources, r), false
				for _, got := range ask[*kmsg.IncrementalAlterConfigsResponse](b, req, version).Resources {
					if got.ErrorCode != codeInvalidRequest {
						t.Errorf("%s twice: %+v", tt.name, got)
					}
				}
			}
		}
	})
}

func TestNewTopicsFollowTheAlteredDefault(t *testing.T) {
	b := open(t, nil)
	b.do(catalog.AlterBrokerConfig{Broker: catalog.AllBrokers, Ops: []catalog.ConfigOp{{Name: "num.partitions", Value: "3"}}})
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Topics = append(req.Topics, creating("t", -1, -1))
	if got := ask[*kmsg.CreateTopicsResponse](b, req, 7).Topics[0]; got.NumPartitions != 3 {
		t.Errorf("%+v", got)
	}
}

func TestDescribeCluster(t *testing.T) {
	versions(t, 60, func(t *testing.T, version int16) {
		b := open(t, nil)
		req := kmsg.NewPtrDescribeClusterRequest()
		req.EndpointType = 1
		got := ask[*kmsg.DescribeClusterResponse](b, req, version)
		if got.ClusterID != cluster || got.ControllerID != node || len(got.Brokers) != 2 || got.Brokers[0].Port != 9092 {
			t.Errorf("%+v", got)
		}
		if version >= 1 {
			for kind, code := range map[int8]int16{2: codeMismatchedEndpoint, 9: codeUnsupportedEndpoint} {
				req.EndpointType = kind
				if got := ask[*kmsg.DescribeClusterResponse](b, req, version); got.ErrorCode != code {
					t.Errorf("endpoints of type %d: %+v", kind, got)
				}
			}
		}
	})
}

func TestDescribeLogDirs(t *testing.T) {
	versions(t, 35, func(t *testing.T, version int16) {
		b := open(t, nil)
		filled(b, "t", 2, "a")
		all := kmsg.NewPtrDescribeLogDirsRequest()
		all.Topics = nil
		one := kmsg.NewPtrDescribeLogDirsRequest()
		one.Topics = []kmsg.DescribeLogDirsRequestTopic{{Topic: "t", Partitions: []int32{1, 7}}, {Topic: "no", Partitions: []int32{0}}}
		for n, req := range map[int]*kmsg.DescribeLogDirsRequest{2: all, 1: one} {
			dirs := ask[*kmsg.DescribeLogDirsResponse](b, req, version).Dirs
			if len(dirs) != 1 || dirs[0].Dir != "/data" || len(dirs[0].Topics) != 1 || len(dirs[0].Topics[0].Partitions) != n || dirs[0].Topics[0].Partitions[0].Size == 0 {
				t.Errorf("%+v", dirs)
			}
			if version >= 4 && (dirs[0].TotalBytes != 1000 || dirs[0].UsableBytes != 400) {
				t.Errorf("%+v", dirs[0])
			}
		}
	})
}

// Paging with any limit gives every partition once, in order.
func TestDescribeTopicPartitionsPages(t *testing.T) {
	b := open(t, nil)
	for name, n := range map[string]int{"a": 3, "a.c": 2, "a_b": 1, "z": 4} {
		b.topic(name, n)
	}
	type at struct {
		topic string
		index int32
	}
	for limit := int32(1); limit <= 11; limit++ {
		var got []at
		req := kmsg.NewPtrDescribeTopicPartitionsRequest()
		for _, name := range []string{"a", "a.c", "a_b", "z", "missing"} {
			if limit%2 == 0 { // else all topics
				req.Topics = append(req.Topics, kmsg.DescribeTopicPartitionsRequestTopic{Topic: name})
			}
		}
		req.ResponsePartitionLimit = limit
		for page := 0; ; page++ {
			if page > 20 {
				t.Fatal("it does not end")
			}
			resp := ask[*kmsg.DescribeTopicPartitionsResponse](b, req, 0)
			n := 0
			for _, topic := range resp.Topics {
				if topic.ErrorCode == codeUnknownTopicOrPartition {
					got = append(got, at{*topic.Topic, -1})
				}
				for _, p := range topic.Partitions {
					got = append(got, at{*topic.Topic, p.Partition})
					n++
				}
			}
			if n > int(limit) {
				t.Fatalf("limit %d: %d partitions", limit, n)
			}
			if resp.NextCursor == nil {
				break
			}
			req.Cursor = &kmsg.DescribeTopicPartitionsRequestCursor{Topic: resp.NextCursor.Topic, Partition: resp.NextCursor.Partition}
		}
		want := []at{{"a", 0}, {"a", 1}, {"a", 2}, {"a.c", 0}, {"a.c", 1}, {"a_b", 0}}
		if limit%2 == 0 {
			want = append(want, at{"missing", -1})
		}
		want = append(want, at{"z", 0}, at{"z", 1}, at{"z", 2}, at{"z", 3})
		if !slices.Equal(got, want) {
			t.Errorf("limit %d: %v", limit, got)
		}
	}
}
