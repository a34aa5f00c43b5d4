package api

import (
	"maps"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/catalog"
)

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

func TestAlterConfigsReplaces(t *testing.T) {
	versions(t, 33, func(t *testing.T, version int16) {
		type set = kmsg.AlterConfigsRequestResourceConfig
		b := open(t, nil)
		b.topic("t", 1)
		b.topic("__consumer_offsets", 1)
		alter := func(kind kmsg.ConfigResourceType, name string, validateOnly bool, configs ...set) int16 {
			t.Helper()
			r := kmsg.NewAlterConfigsRequestResource()
			r.ResourceType, r.ResourceName, r.Configs = kind, name, configs
			req := kmsg.NewPtrAlterConfigsRequest()
			req.Resources, req.ValidateOnly = append(req.Resources, r), validateOnly
			return ask[*kmsg.AlterConfigsResponse](b, req, version).Resources[0].ErrorCode
		}
		topic := kmsg.ConfigResourceTypeTopic
		has := func(want map[string]string) {
			t.Helper()
			if got := b.Image().Topic("t").Config; !maps.Equal(got, want) {
				t.Errorf("settings %v, want %v", got, want)
			}
		}
		if code := alter(topic, "t", false, set{Name: "retention.ms", Value: text("9")}, set{Name: "segment.ms", Value: text("8")}); code != 0 {
			t.Fatalf("code %d", code)
		}
		has(map[string]string{"retention.ms": "9", "segment.ms": "8"})
		if code := alter(topic, "t", true, set{Name: "segment.ms", Value: text("7")}); code != 0 {
			t.Errorf("code %d", code)
		}
		has(map[string]string{"retention.ms": "9", "segment.ms": "8"})
		if code := alter(topic, "t", false, set{Name: "segment.ms", Value: text("7")}); code != 0 {
			t.Errorf("code %d", code)
		}
		has(map[string]string{"segment.ms": "7"})
		for name, code := range map[string]int16{
			"null":      alter(topic, "t", false, set{Name: "segment.ms"}) - codeInvalidRequest,
			"bad value": alter(topic, "t", false, set{Name: "segment.ms", Value: text("soon")}) - codeInvalidConfig,
			"unknown":   alter(topic, "no", false) - codeUnknownTopicOrPartition,
			"own":       alter(topic, "__consumer_offsets", false) - codeInvalidRequest,
			"logger":    alter(kmsg.ConfigResourceTypeBrokerLogger, "1", false) - codeInvalidRequest,
			"broker":    alter(kmsg.ConfigResourceTypeBroker, "1", false, set{Name: "num.partitions", Value: text("3")}),
		} {
			if code != 0 {
				t.Errorf("%s: off by %d", name, code)
			}
		}
		twice := kmsg.NewPtrAlterConfigsRequest()
		for _, name := range []string{"t", "no", "t"} {
			r := kmsg.NewAlterConfigsRequestResource()
			r.ResourceType, r.ResourceName = topic, name
			twice.Resources = append(twice.Resources, r)
		}
		want := []int16{codeInvalidRequest, codeUnknownTopicOrPartition, codeInvalidRequest}
		for i, got := range ask[*kmsg.AlterConfigsResponse](b, twice, version).Resources {
			if got.ErrorCode != want[i] || got.ResourceName != twice.Resources[i].ResourceName {
				t.Errorf("resource %d of a request with one twice: %+v", i, got)
			}
		}
		has(map[string]string{"segment.ms": "7"})
	})
}
