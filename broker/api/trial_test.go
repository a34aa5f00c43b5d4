package api

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/catalog"
)

func trials(tb testing.TB) []trial {
	produced := func(r kmsg.Response) int16 { return r.(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode }
	fetched := func(r kmsg.Response) int16 { return r.(*kmsg.FetchResponse).Topics[0].Partitions[0].ErrorCode }
	described := func(r kmsg.Response) int16 { return r.(*kmsg.MetadataResponse).Topics[0].ErrorCode }
	deleted := func(r kmsg.Response) int16 { return r.(*kmsg.DeleteTopicsResponse).Topics[0].ErrorCode }
	incremental := func(kind kmsg.ConfigResourceType, name string) func(*catalog.Topic) kmsg.Request {
		return func(*catalog.Topic) kmsg.Request {
			return &kmsg.IncrementalAlterConfigsRequest{Resources: []kmsg.IncrementalAlterConfigsRequestResource{{ResourceType: kind, ResourceName: name}}}
		}
	}
	altered := func(kind kmsg.ConfigResourceType, name string) func(*catalog.Topic) kmsg.Request {
		return func(*catalog.Topic) kmsg.Request {
			return &kmsg.AlterConfigsRequest{Resources: []kmsg.AlterConfigsRequestResource{{ResourceType: kind, ResourceName: name}}}
		}
	}
	configs := func(kind kmsg.ConfigResourceType, name string) func(*catalog.Topic) kmsg.Request {
		return func(*catalog.Topic) kmsg.Request {
			return &kmsg.DescribeConfigsRequest{Resources: []kmsg.DescribeConfigsRequestResource{{ResourceType: kind, ResourceName: name}}}
		}
	}
	configCode := func(r kmsg.Response) int16 { return r.(*kmsg.DescribeConfigsResponse).Resources[0].ErrorCode }
	incrementalCode := func(r kmsg.Response) int16 {
		return r.(*kmsg.IncrementalAlterConfigsResponse).Resources[0].ErrorCode
	}
	alteredCode := func(r kmsg.Response) int16 { return r.(*kmsg.AlterConfigsResponse).Resources[0].ErrorCode }
	initTo := func(id *string) func(*catalog.Topic) kmsg.Request {
		return func(*catalog.Topic) kmsg.Request {
			return &kmsg.InitProducerIDRequest{TransactionalID: id, ProducerID: -1, ProducerEpoch: -1}
		}
	}
	initCode := func(r kmsg.Response) int16 { return r.(*kmsg.InitProducerIDResponse).ErrorCode }
	txn := may(auth.TransactionalID, auth.Write, "x")
	const topic, broker = kmsg.ConfigResourceTypeTopic, kmsg.ConfigResourceTypeBroker
	return []trial{
		{"Produce", 12, func(*catalog.Topic) kmsg.Request { return produceTo(tb, "t", [16]byte{}, nil) }, produced, 29, one(mayTopic(auth.Write)), false},
		{"Produce by id", 13, func(t *catalog.Topic) kmsg.Request { return produceTo(tb, "", t.ID, nil) }, produced, 29, one(mayTopic(auth.Write)), false},
		{"Produce in a transaction", 12, func(*catalog.Topic) kmsg.Request { return produceTo(tb, "t", [16]byte{}, text("x")) }, produced, 53, []auth.ACL{txn, mayTopic(auth.Write)}, true},
		{"Produce to nowhere", 12, func(*catalog.Topic) kmsg.Request { return produceTo(tb, "u", [16]byte{}, nil) }, produced, 29, one(may(auth.Topic, auth.Write, "*")), false},
		{"Fetch", 12, func(*catalog.Topic) kmsg.Request {
			return &kmsg.FetchRequest{ReplicaID: -1, Topics: []kmsg.FetchRequestTopic{{Topic: "t", Partitions: []kmsg.FetchRequestTopicPartition{kmsg.NewFetchRequestTopicPartition()}}}, ReplicaState: kmsg.NewFetchRequestReplicaState()}
		}, fetched, 29, one(mayTopic(auth.Read)), false},
		{"Fetch by id", 13, func(t *catalog.Topic) kmsg.Request {
			return &kmsg.FetchRequest{ReplicaID: -1, Topics: []kmsg.FetchRequestTopic{{TopicID: t.ID, Partitions: []kmsg.FetchRequestTopicPartition{kmsg.NewFetchRequestTopicPartition()}}}, ReplicaState: kmsg.NewFetchRequestReplicaState()}
		}, fetched, 29, one(mayTopic(auth.Read)), false},
		{
			"ListOffsets", 7, func(*catalog.Topic) kmsg.Request {
				return &kmsg.ListOffsetsRequest{Topics: []kmsg.ListOffsetsRequestTopic{{Topic: "t", Partitions: []kmsg.ListOffsetsRequestTopicPartition{kmsg.NewListOffsetsRequestTopicPartition()}}}}
			}, func(r kmsg.Response) int16 { return r.(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0].ErrorCode }, 29,
			[]auth.ACL{mayTopic(auth.Describe), mayTopic(auth.Read), mayTopic(auth.Alter), mayTopic(auth.All)},
			false,
		},
		{"Metadata", 12, func(*catalog.Topic) kmsg.Request {
			return &kmsg.MetadataRequest{Topics: []kmsg.MetadataRequestTopic{{Topic: &theName}}}
		}, described, 29, one(mayTopic(auth.Describe)), false},
		{"Metadata by id", 12, func(t *catalog.Topic) kmsg.Request {
			return &kmsg.MetadataRequest{Topics: []kmsg.MetadataRequestTopic{{TopicID: t.ID}}}
		}, described, 29, one(mayTopic(auth.Describe)), false},
		{"Metadata that makes a topic", 12, func(*catalog.Topic) kmsg.Request {
			return &kmsg.MetadataRequest{Topics: []kmsg.MetadataRequestTopic{{Topic: text("new")}}, AllowAutoTopicCreation: true}
		}, described, 29, []auth.ACL{may(auth.Topic, auth.Describe, "new"), may(auth.Topic, auth.Create, "new")}, true},
		{"Metadata that makes another", 12, func(*catalog.Topic) kmsg.Request {
			return &kmsg.MetadataRequest{Topics: []kmsg.MetadataRequestTopic{{Topic: text("newer")}}, AllowAutoTopicCreation: true}
		}, described, 29, []auth.ACL{may(auth.Topic, auth.Describe, "newer"), mayCluster(auth.Create)}, true},
		{"Metadata's operations on the cluster", 10, func(*catalog.Topic) kmsg.Request {
			return &kmsg.MetadataRequest{Topics: []kmsg.MetadataRequestTopic{}, IncludeClusterAuthorizedOperations: true}
		}, func(r kmsg.Response) int16 { return zeroIs31(r.(*kmsg.MetadataResponse).AuthorizedOperations) }, 31, one(mayCluster(auth.Describe)), false},
		{"OffsetCommit", 9, func(*catalog.Topic) kmsg.Request { return committing() }, func(r kmsg.Response) int16 {
			return r.(*kmsg.OffsetCommitResponse).Topics[0].Partitions[0].ErrorCode
		}, 30, []auth.ACL{mayGroup(auth.Read), mayTopic(auth.Read)}, true},
		{"OffsetFetch before v8", 7, func(*catalog.Topic) kmsg.Request {
			return &kmsg.OffsetFetchRequest{Group: "g", Topics: []kmsg.OffsetFetchRequestTopic{{Topic: "t", Partitions: []int32{0}}}}
		}, func(r kmsg.Response) int16 { return r.(*kmsg.OffsetFetchResponse).Topics[0].Partitions[0].ErrorCode }, 30, []auth.ACL{mayGroup(auth.Describe), mayTopic(auth.Describe)}, true},
		{"OffsetFetch of all", 9, func(*catalog.Topic) kmsg.Request {
			return &kmsg.OffsetFetchRequest{Groups: []kmsg.OffsetFetchRequestGroup{{Group: "g", MemberEpoch: -1}}}
		}, func(r kmsg.Response) int16 {
			if g := r.(*kmsg.OffsetFetchResponse).Groups[0]; g.ErrorCode != 0 || len(g.Topics) > 0 {
				return g.ErrorCode
			}
			return 29
		}, 30, []auth.ACL{mayGroup(auth.Describe), mayTopic(auth.Describe)}, true},
		{"FindCoordinator", 4, func(*catalog.Topic) kmsg.Request {
			return &kmsg.FindCoordinatorRequest{CoordinatorKeys: []string{"g"}}
		}, func(r kmsg.Response) int16 { return r.(*kmsg.FindCoordinatorResponse).Coordinators[0].ErrorCode }, 30, one(mayGroup(auth.Describe)), false},
		{"JoinGroup", 9, func(*catalog.Topic) kmsg.Request {
			return &kmsg.JoinGroupRequest{Group: "g", SessionTimeoutMillis: 10_000, ProtocolType: "consumer", Protocols: []kmsg.JoinGroupRequestProtocol{{Name: "range"}}}
		}, func(r kmsg.Response) int16 { return r.(*kmsg.JoinGroupResponse).ErrorCode }, 30, one(mayGroup(auth.Read)), false},
		{
			"Heartbeat", 4, func(*catalog.Topic) kmsg.Request { return &kmsg.HeartbeatRequest{Group: "g", MemberID: "x"} },
			func(r kmsg.Response) int16 { return r.(*kmsg.HeartbeatResponse).ErrorCode }, 30, one(mayGroup(auth.Read)), false,
		},
		{"LeaveGroup", 5, func(*catalog.Topic) kmsg.Request {
			return &kmsg.LeaveGroupRequest{Group: "g", Members: []kmsg.LeaveGroupRequestMember{{MemberID: "x"}}}
		}, func(r kmsg.Response) int16 { return r.(*kmsg.LeaveGroupResponse).ErrorCode }, 30, one(mayGroup(auth.Read)), false},
		{
			"SyncGroup", 3, func(*catalog.Topic) kmsg.Request { return &kmsg.SyncGroupRequest{Group: "g", MemberID: "x"} },
			func(r kmsg.Response) int16 { return r.(*kmsg.SyncGroupResponse).ErrorCode }, 30, one(mayGroup(auth.Read)), false,
		},
		{
			"DescribeGroups", 5, func(*catalog.Topic) kmsg.Request { return &kmsg.DescribeGroupsRequest{Groups: []string{"g"}} },
			func(r kmsg.Response) int16 { return r.(*kmsg.DescribeGroupsResponse).Groups[0].ErrorCode }, 30, one(mayGroup(auth.Describe)), false,
		},
		{"ListGroups", 4, func(*catalog.Topic) kmsg.Request { return &kmsg.ListGroupsRequest{} }, func(r kmsg.Response) int16 {
			if l := r.(*kmsg.ListGroupsResponse); l.ErrorCode != 0 || len(l.Groups) > 0 {
				return l.ErrorCode
			}
			return 30
		}, 30, []auth.ACL{mayGroup(auth.Describe), mayCluster(auth.Describe)}, false},
		{
			"DeleteGroups", 2, func(*catalog.Topic) kmsg.Request { return &kmsg.DeleteGroupsRequest{Groups: []string{"g"}} },
			func(r kmsg.Response) int16 { return r.(*kmsg.DeleteGroupsResponse).Groups[0].ErrorCode }, 30, one(mayGroup(auth.Delete)), false,
		},
		{"OffsetDelete", 0, func(*catalog.Topic) kmsg.Request {
			return &kmsg.OffsetDeleteRequest{Group: "g", Topics: []kmsg.OffsetDeleteRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{}}}}}
		}, func(r kmsg.Response) int16 {
			d := r.(*kmsg.OffsetDeleteResponse)
			if d.ErrorCode != 0 {
				return d.ErrorCode
			}
			return d.Topics[0].Partitions[0].ErrorCode
		}, 30, []auth.ACL{mayGroup(auth.Delete), mayTopic(auth.Read)}, true},
		{"CreateTopics", 7, func(*catalog.Topic) kmsg.Request {
			return &kmsg.CreateTopicsRequest{ValidateOnly: true, Topics: []kmsg.CreateTopicsRequestTopic{{Topic: "new", NumPartitions: 1, ReplicationFactor: 1}}}
		}, func(r kmsg.Response) int16 { return r.(*kmsg.CreateTopicsResponse).Topics[0].ErrorCode }, 29, []auth.ACL{mayCluster(auth.Create), may(auth.Topic, auth.Create, "new")}, false},
		{"CreateTopics' settings", 7, func(*catalog.Topic) kmsg.Request {
			return &kmsg.CreateTopicsRequest{ValidateOnly: true, Topics: []kmsg.CreateTopicsRequestTopic{{Topic: "new", NumPartitions: 1, ReplicationFactor: 1}}}
		}, func(r kmsg.Response) int16 {
			if c := r.(*kmsg.CreateTopicsResponse).Topics[0]; c.ErrorCode != 0 || len(c.Configs) > 0 {
				return c.ErrorCode
			}
			return 29
		}, 29, []auth.ACL{mayCluster(auth.Create), may(auth.Topic, auth.DescribeConfigs, "new")}, true},
		{
			"DeleteTopics", 5, func(*catalog.Topic) kmsg.Request { return &kmsg.DeleteTopicsRequest{TopicNames: []string{"u"}} }, deleted, 29,
			one(may(auth.Topic, auth.Delete, "u")), false,
		},
		{"DeleteTopics by id", 6, func(t *catalog.Topic) kmsg.Request {
			return &kmsg.DeleteTopicsRequest{Topics: []kmsg.DeleteTopicsRequestTopic{{TopicID: t.ID}}}
		}, deleted, 29, []auth.ACL{mayTopic(auth.Delete)}, false},
		{"DeleteRecords", 2, func(*catalog.Topic) kmsg.Request {
			return &kmsg.DeleteRecordsRequest{Topics: []kmsg.DeleteRecordsRequestTopic{{Topic: "t", Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{}}}}}
		}, func(r kmsg.Response) int16 {
			return r.(*kmsg.DeleteRecordsResponse).Topics[0].Partitions[0].ErrorCode
		}, 29, one(mayTopic(auth.Delete)), false},
		{"InitProducerId", 4, initTo(nil), initCode, 31, []auth.ACL{mayCluster(auth.IdempotentWrite), may(auth.Topic, auth.Write, "any")}, false},
		{"InitProducerId with a transactional id", 4, initTo(text("x")), initCode, 53, one(txn), false},
		{"OffsetForLeaderEpoch", 4, func(*catalog.Topic) kmsg.Request {
			return &kmsg.OffsetForLeaderEpochRequest{ReplicaID: -1, Topics: []kmsg.OffsetForLeaderEpochRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetForLeaderEpochRequestTopicPartition{kmsg.NewOffsetForLeaderEpochRequestTopicPartition()}}}}
		}, func(r kmsg.Response) int16 {
			return r.(*kmsg.OffsetForLeaderEpochResponse).Topics[0].Partitions[0].ErrorCode
		}, 29, one(mayTopic(auth.Describe)), false},
		{"DescribeAcls", 3, func(*catalog.Topic) kmsg.Request { return everyACL() }, func(r kmsg.Response) int16 { return r.(*kmsg.DescribeACLsResponse).ErrorCode }, 31, one(mayCluster(auth.Describe)), false},
		{"CreateAcls", 3, func(*catalog.Topic) kmsg.Request {
			return &kmsg.CreateACLsRequest{Creations: []kmsg.CreateACLsRequestCreation{{ResourceType: 2, ResourcePatternType: 3, ResourceName: "x", Principal: "User:x", Host: "*", Operation: 3, PermissionType: 3}}}
		}, func(r kmsg.Response) int16 { return r.(*kmsg.CreateACLsResponse).Results[0].ErrorCode }, 31, one(mayCluster(auth.Alter)), false},
		{"DeleteAcls", 3, func(*catalog.Topic) kmsg.Request {
			return &kmsg.DeleteACLsRequest{Filters: []kmsg.DeleteACLsRequestFilter{{ResourceType: 2, ResourcePatternType: 3, ResourceName: text("x"), Operation: 1, PermissionType: 1}}}
		}, func(r kmsg.Response) int16 { return r.(*kmsg.DeleteACLsResponse).Results[0].ErrorCode }, 31, one(mayCluster(auth.Alter)), false},
		{"DescribeConfigs of a topic", 4, configs(topic, "t"), configCode, 29, []auth.ACL{mayTopic(auth.DescribeConfigs), mayTopic(auth.AlterConfigs)}, false},
		{"DescribeConfigs of a broker", 4, configs(broker, "1"), configCode, 31, one(mayCluster(auth.DescribeConfigs)), false},
		{"AlterConfigs of a topic", 2, altered(topic, "t"), alteredCode, 29, one(mayTopic(auth.AlterConfigs)), false},
		{"AlterConfigs of a broker", 2, altered(broker, "1"), alteredCode, 31, one(mayCluster(auth.AlterConfigs)), false},
		{"IncrementalAlterConfigs of a topic", 1, incremental(topic, "t"), incrementalCode, 29, one(mayTopic(auth.AlterConfigs)), false},
		{"IncrementalAlterConfigs of a broker", 1, incremental(broker, "1"), incrementalCode, 31, one(mayCluster(auth.AlterConfigs)), false},
		{"DescribeLogDirs", 3, func(*catalog.Topic) kmsg.Request { return &kmsg.DescribeLogDirsRequest{} }, func(r kmsg.Response) int16 { return r.(*kmsg.DescribeLogDirsResponse).ErrorCode }, 31, one(mayCluster(auth.Describe)), false},
		{"CreatePartitions", 3, func(*catalog.Topic) kmsg.Request {
			return &kmsg.CreatePartitionsRequest{ValidateOnly: true, Topics: []kmsg.CreatePartitionsRequestTopic{{Topic: "t", Count: 5}}}
		}, func(r kmsg.Response) int16 { return r.(*kmsg.CreatePartitionsResponse).Topics[0].ErrorCode }, 29, one(mayTopic(auth.Alter)), false},
		{
			"DescribeUserScramCredentials", 0, func(*catalog.Topic) kmsg.Request { return &kmsg.DescribeUserSCRAMCredentialsRequest{} },
			func(r kmsg.Response) int16 { return r.(*kmsg.DescribeUserSCRAMCredentialsResponse).ErrorCode }, 31, one(mayCluster(auth.Describe)), false,
		},
		{
			"DescribeClientQuotas", 1, func(*catalog.Topic) kmsg.Request { return &kmsg.DescribeClientQuotasRequest{} },
			func(r kmsg.Response) int16 { return r.(*kmsg.DescribeClientQuotasResponse).ErrorCode }, 31, one(mayCluster(auth.DescribeConfigs)), false,
		},
		{"AlterUserScramCredentials", 0, func(*catalog.Topic) kmsg.Request {
			return &kmsg.AlterUserSCRAMCredentialsRequest{Deletions: []kmsg.AlterUserSCRAMCredentialsRequestDeletion{{Name: "x", Mechanism: 1}}}
		}, func(r kmsg.Response) int16 {
			return r.(*kmsg.AlterUserSCRAMCredentialsResponse).Results[0].ErrorCode
		}, 31, one(mayCluster(auth.Alter)), false},
		{"DescribeCluster's operations", 2, func(*catalog.Topic) kmsg.Request {
			return &kmsg.DescribeClusterRequest{IncludeClusterAuthorizedOperations: true, EndpointType: 1}
		}, func(r kmsg.Response) int16 {
			return zeroIs31(r.(*kmsg.DescribeClusterResponse).ClusterAuthorizedOperations)
		}, 31, one(mayCluster(auth.Describe)), false},
		{"DescribeProducers", 0, func(*catalog.Topic) kmsg.Request {
			return &kmsg.DescribeProducersRequest{Topics: []kmsg.DescribeProducersRequestTopic{{Topic: "t", Partitions: []int32{0}}}}
		}, func(r kmsg.Response) int16 {
			return r.(*kmsg.DescribeProducersResponse).Topics[0].Partitions[0].ErrorCode
		}, 29, one(mayTopic(auth.Read)), false},
		{"DescribeTopicPartitions", 0, func(*catalog.Topic) kmsg.Request {
			return &kmsg.DescribeTopicPartitionsRequest{Topics: []kmsg.DescribeTopicPartitionsRequestTopic{{Topic: "t"}}}
		}, func(r kmsg.Response) int16 { return r.(*kmsg.DescribeTopicPartitionsResponse).Topics[0].ErrorCode }, 29, one(mayTopic(auth.Describe)), false},
	}
}
