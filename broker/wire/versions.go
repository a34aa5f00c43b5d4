package wire

import "github.com/twmb/franz-go/pkg/kmsg"

// KeyAPIVersions is the key of ApiVersions, the one API that is answered in any version.
const KeyAPIVersions = 18

// The keys of what a peer says before anybody knows who it is.
const (
	KeySASLHandshake    = 17
	KeySASLAuthenticate = 36
)

const (
	// adminFrameMax bounds every request but Produce, in bytes.
	adminFrameMax = 1 << 20
	// loginFrameMax bounds the requests of a login, in bytes: they fit the buffer a connection reads into.
	loginFrameMax = 4<<10 - PrefixSize
	// neverFlexible is the first flexible version of an API that has none.
	neverFlexible = 1 << 14
	// elementMax bounds how many array elements one request may hold, over all its arrays. A decoded element is some
	// 100 bytes, so a request decodes to 2 MiB at most.
	elementMax = 16 << 10
	// tagMax bounds how many tagged fields one header or message may hold that nobody here knows.
	tagMax = 64
)

// API is one row of the table of what is served.
type API struct {
	Key  int16
	Name string
	// Min and Max are the versions ApiVersions names.
	Min, Max int16
	// oldest is the lowest version that is understood; above Min only for Produce.
	oldest int16
	// flexible is the first version with compact lengths and tagged fields (KIP-482).
	flexible int16
	// frameMax bounds the request's frame in bytes; 0 means only the connection's own limit does.
	frameMax int
	new      func() kmsg.Request
	shape    []field
}

// Serves says whether a request of this version is understood.
func (a *API) Serves(version int16) bool { return version >= a.oldest && version <= a.Max }

// apis is the only place where served APIs and their versions are listed: ApiVersions answers from it, and what is
// not in it ends the connection. Sorted by key.
var apis = []API{
	// Apache Kafka 4 names Produce from 0, though it understands from 3, because librdkafka derives features from
	// the lower bound; a request below 3 ends the connection there as here.
	{0, "Produce", 0, 13, 3, 9, 0, func() kmsg.Request { return new(kmsg.ProduceRequest) }, produceShape},
	{1, "Fetch", 4, 18, 4, 12, adminFrameMax, func() kmsg.Request { return new(kmsg.FetchRequest) }, fetchShape},
	{2, "ListOffsets", 1, 11, 1, 6, adminFrameMax, func() kmsg.Request { return new(kmsg.ListOffsetsRequest) }, listOffsetsShape},
	{3, "Metadata", 0, 13, 0, 9, adminFrameMax, func() kmsg.Request { return new(kmsg.MetadataRequest) }, metadataShape},
	{8, "OffsetCommit", 2, 10, 2, 8, adminFrameMax, func() kmsg.Request { return new(kmsg.OffsetCommitRequest) }, offsetCommitShape},
	{9, "OffsetFetch", 1, 10, 1, 6, adminFrameMax, func() kmsg.Request { return new(kmsg.OffsetFetchRequest) }, offsetFetchShape},
	{10, "FindCoordinator", 0, 6, 0, 3, adminFrameMax, func() kmsg.Request { return new(kmsg.FindCoordinatorRequest) }, findCoordinatorShape},
	{11, "JoinGroup", 0, 9, 0, 6, adminFrameMax, func() kmsg.Request { return new(kmsg.JoinGroupRequest) }, joinGroupShape},
	{12, "Heartbeat", 0, 4, 0, 4, adminFrameMax, func() kmsg.Request { return new(kmsg.HeartbeatRequest) }, heartbeatShape},
	{13, "LeaveGroup", 0, 5, 0, 4, adminFrameMax, func() kmsg.Request { return new(kmsg.LeaveGroupRequest) }, leaveGroupShape},
	{14, "SyncGroup", 0, 5, 0, 4, adminFrameMax, func() kmsg.Request { return new(kmsg.SyncGroupRequest) }, syncGroupShape},
	{15, "DescribeGroups", 0, 6, 0, 5, adminFrameMax, func() kmsg.Request { return new(kmsg.DescribeGroupsRequest) }, describeGroupsShape},
	{16, "ListGroups", 0, 5, 0, 3, adminFrameMax, func() kmsg.Request { return new(kmsg.ListGroupsRequest) }, listGroupsShape},
	{KeySASLHandshake, "SaslHandshake", 0, 1, 0, neverFlexible, loginFrameMax, func() kmsg.Request { return new(kmsg.SASLHandshakeRequest) }, saslHandshakeShape},
	{18, "ApiVersions", 0, 4, 0, 3, adminFrameMax, func() kmsg.Request { return new(kmsg.ApiVersionsRequest) }, apiVersionsShape},
	{19, "CreateTopics", 2, 7, 2, 5, adminFrameMax, func() kmsg.Request { return new(kmsg.CreateTopicsRequest) }, createTopicsShape},
	{20, "DeleteTopics", 1, 6, 1, 4, adminFrameMax, func() kmsg.Request { return new(kmsg.DeleteTopicsRequest) }, deleteTopicsShape},
	{21, "DeleteRecords", 0, 2, 0, 2, adminFrameMax, func() kmsg.Request { return new(kmsg.DeleteRecordsRequest) }, deleteRecordsShape},
	{22, "InitProducerId", 0, 5, 0, 2, adminFrameMax, func() kmsg.Request { return new(kmsg.InitProducerIDRequest) }, initProducerIDShape},
	{23, "OffsetForLeaderEpoch", 2, 4, 2, 4, adminFrameMax, func() kmsg.Request { return new(kmsg.OffsetForLeaderEpochRequest) }, offsetForLeaderEpochShape},
	{29, "DescribeAcls", 1, 3, 1, 2, adminFrameMax, func() kmsg.Request { return new(kmsg.DescribeACLsRequest) }, describeACLsShape},
	{30, "CreateAcls", 1, 3, 1, 2, adminFrameMax, func() kmsg.Request { return new(kmsg.CreateACLsRequest) }, createACLsShape},
	{31, "DeleteAcls", 1, 3, 1, 2, adminFrameMax, func() kmsg.Request { return new(kmsg.DeleteACLsRequest) }, deleteACLsShape},
	{32, "DescribeConfigs", 1, 4, 1, 4, adminFrameMax, func() kmsg.Request { return new(kmsg.DescribeConfigsRequest) }, describeConfigsShape},
	{33, "AlterConfigs", 0, 2, 0, 2, adminFrameMax, func() kmsg.Request { return new(kmsg.AlterConfigsRequest) }, alterConfigsShape},
	{35, "DescribeLogDirs", 1, 5, 1, 2, adminFrameMax, func() kmsg.Request { return new(kmsg.DescribeLogDirsRequest) }, describeLogDirsShape},
	{KeySASLAuthenticate, "SaslAuthenticate", 0, 2, 0, 2, loginFrameMax, func() kmsg.Request { return new(kmsg.SASLAuthenticateRequest) }, saslAuthenticateShape},
	{37, "CreatePartitions", 0, 3, 0, 2, adminFrameMax, func() kmsg.Request { return new(kmsg.CreatePartitionsRequest) }, createPartitionsShape},
	{42, "DeleteGroups", 0, 2, 0, 2, adminFrameMax, func() kmsg.Request { return new(kmsg.DeleteGroupsRequest) }, deleteGroupsShape},
	{44, "IncrementalAlterConfigs", 0, 1, 0, 1, adminFrameMax, func() kmsg.Request { return new(kmsg.IncrementalAlterConfigsRequest) }, incrementalAlterConfigsShape},
	{47, "OffsetDelete", 0, 0, 0, 1, adminFrameMax, func() kmsg.Request { return new(kmsg.OffsetDeleteRequest) }, offsetDeleteShape},
	{48, "DescribeClientQuotas", 0, 1, 0, 1, adminFrameMax, func() kmsg.Request { return new(kmsg.DescribeClientQuotasRequest) }, describeClientQuotasShape},
	{50, "DescribeUserScramCredentials", 0, 0, 0, 0, adminFrameMax, func() kmsg.Request { return new(kmsg.DescribeUserSCRAMCredentialsRequest) }, describeUserScramCredentialsShape},
	{51, "AlterUserScramCredentials", 0, 0, 0, 0, adminFrameMax, func() kmsg.Request { return new(kmsg.AlterUserSCRAMCredentialsRequest) }, alterUserScramCredentialsShape},
	{60, "DescribeCluster", 0, 2, 0, 0, adminFrameMax, func() kmsg.Request { return new(kmsg.DescribeClusterRequest) }, describeClusterShape},
	{61, "DescribeProducers", 0, 0, 0, 0, adminFrameMax, func() kmsg.Request { return new(kmsg.DescribeProducersRequest) }, describeProducersShape},
	{75, "DescribeTopicPartitions", 0, 0, 0, 0, adminFrameMax, func() kmsg.Request { return new(kmsg.DescribeTopicPartitionsRequest) }, describeTopicPartitionsShape},
}

// byKey is the index of apis by key, -1 where there is none.
var byKey = func() (t [76]int8) {
	for i := range t {
		t[i] = -1
	}
	for i := range apis {
		t[apis[i].Key] = int8(i)
	}
	return t
}()

// APIs returns the table, sorted by key. It must not be changed.
func APIs() []API { return apis }

// Lookup finds a served API by its key.
func Lookup(key int16) (*API, bool) {
	if key < 0 || int(key) >= len(byKey) || byKey[key] < 0 {
		return nil, false
	}
	return &apis[byKey[key]], true
}
