package api

import (
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
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
	b := open(t, func(c *Config) { c.Advertised = map[auth.Protocol]Endpoint{auth.Plaintext: {"board.example", 19092}} })
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
