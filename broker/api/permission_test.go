package api

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/broker/record"
	"millrace/broker/wire"
)

// trial is one request, what its answer says where nothing is allowed, and what it takes.
type trial struct {
	name    string
	version int16
	req     func(t *catalog.Topic) kmsg.Request
	code    func(kmsg.Response) int16
	denied  int16
	needs   []auth.ACL // ways to allow it, each of them alone, unless all
	all     bool       // needs are wanted together
}

func may(kind auth.ResourceType, op auth.Operation, name string) auth.ACL {
	return auth.ACL{Type: kind, Pattern: auth.Literal, Name: name, Principal: "User:ann", Host: "*", Operation: op, Permission: auth.Allow}
}

func mayTopic(op auth.Operation) auth.ACL   { return may(auth.Topic, op, "t") }
func mayCluster(op auth.Operation) auth.ACL { return may(auth.Cluster, op, auth.ClusterName) }

func mayGroup(op auth.Operation) auth.ACL { return may(auth.Group, op, "g") }

// committing commits an offset of group g without being its member.
func committing() *kmsg.OffsetCommitRequest {
	return &kmsg.OffsetCommitRequest{
		Group: "g", Generation: -1, RetentionTimeMillis: -1,
		Topics: []kmsg.OffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Offset: 1, LeaderEpoch: -1}}}},
	}
}

// one is a list of one ACL.
func one(a auth.ACL) []auth.ACL { return []auth.ACL{a} }

var theName = "t"

// produceTo is a Produce request of one record.
func produceTo(t testing.TB, topic string, id [16]byte, transaction *string) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis, req.TransactionID = 1, 1000, transaction
	req.Topics = []kmsg.ProduceRequestTopic{{Topic: topic, TopicID: id, Partitions: []kmsg.ProduceRequestTopicPartition{{Records: batch(t, record.None, "x")}}}}
	return req
}

func zeroIs31(operations int32) int16 {
	if operations == 0 {
		return codeClusterAuthorization
	}
	return codeNone
}

// everyACL is a filter that selects all.
func everyACL() *kmsg.DescribeACLsRequest {
	return &kmsg.DescribeACLsRequest{ResourceType: 1, ResourcePatternType: 1, Operation: 1, PermissionType: 1}
}

// guarded is a board where nothing is allowed that no entry allows.
func guarded(t *testing.T) *board {
	var b *board
	b = open(t, func(c *Config) {
		c.Authorizer = &auth.Authorizer{Super: []auth.Principal{"User:root"}, ACLs: func() *auth.ACLs { return b.Image().ACLs() }}
	})
	b.as = auth.NewSession(auth.Plaintext, "User:ann", "192.0.2.1")
	return b
}

func refused(code int16) bool {
	return slices.Contains([]int16{codeTopicAuthorization, codeGroupAuthorization, codeClusterAuthorization, codeTxnIDAuthorization}, code)
}

// Every API refuses with Kafka's code what no entry allows, does it with the very entries that Apache Kafka wants, with
// none less, and asks for what the table of permissions says.
func TestEveryAPIAsksForPermission(t *testing.T) {
	asked := make(map[permission]bool)
	for _, tt := range trials(t) {
		t.Run(tt.name, func(t *testing.T) {
			try := func(acls ...auth.ACL) int16 {
				b := guarded(t)
				b.asked = func(p permission) { asked[p] = true }
				topic := b.topic("t", 1)
				b.topic("u", 1)
				ann := b.as
				b.as = auth.NewSession(auth.Plaintext, "User:root", "192.0.2.1")
				b.find("g")
				later[*kmsg.OffsetCommitResponse](b, committing(), 9) // so that there is a group
				b.as = ann
				b.do(catalog.AddACLs{ACLs: acls})
				return tt.code(later[kmsg.Response](b, tt.req(topic), tt.version))
			}
			if got := try(); got != tt.denied {
				t.Errorf("with nothing allowed: code %d, want %d", got, tt.denied)
			}
			if tt.all {
				if got := try(tt.needs...); refused(got) {
					t.Errorf("with %+v: code %d", tt.needs, got)
				}
			}
			for i, need := range tt.needs {
				if tt.all {
					if got := try(slices.Concat(tt.needs[:i], tt.needs[i+1:])...); !refused(got) {
						t.Errorf("without %+v: code %d", need, got)
					}
					continue
				}
				if got := try(need); refused(got) {
					t.Errorf("with %+v: code %d", need, got)
				}
				no := need
				no.Permission = auth.Deny
				everything := need
				everything.Operation, everything.Name = auth.All, "*"
				if need.Type == auth.Cluster {
					everything.Name = auth.ClusterName
				}
				no.Operation = auth.All
				if got := try(everything, no); need.Name != "*" && need.Name != "any" && !refused(got) {
					t.Errorf("with all denied on %s: code %d", need.Name, got)
				}
				other := need
				other.Host = "192.0.2.7"
				if got := try(other); !refused(got) {
					t.Errorf("from another host: code %d", got)
				}
			}
		})
	}
	listed := make(map[permission]bool)
	for _, p := range permissions {
		listed[p.permission] = true
	}
	for p := range listed {
		if !asked[p] {
			t.Errorf("%+v is listed and was not asked for", p)
		}
	}
	for p := range asked {
		if !listed[p] {
			t.Errorf("%+v is asked for and not listed", p)
		}
	}
	// What asks for nothing is known by name.
	free := map[string]bool{"ApiVersions": true, "SaslHandshake": true, "SaslAuthenticate": true}
	for _, a := range wire.APIs() {
		asks := slices.ContainsFunc(permissions, func(p struct {
			permission
			without string
		},
		) bool {
			return p.key == a.Key
		})
		if asks == free[a.Name] {
			t.Errorf("%s asks for permission: %v", a.Name, asks)
		}
	}
}

func TestWhatMayNotBeSeenIsLeftOut(t *testing.T) {
	b := guarded(t)
	for _, name := range []string{"a", "b", "secret"} {
		b.topic(name, 2)
	}
	b.do(catalog.AddACLs{ACLs: []auth.ACL{may(auth.Topic, auth.Read, "a"), may(auth.Topic, auth.All, "b")}})
	req := kmsg.NewPtrMetadataRequest()
	req.IncludeTopicAuthorizedOperations = true
	bits := func(ops ...auth.Operation) (n int32) {
		for _, op := range ops {
			n |= 1 << op
		}
		return n
	}
	want := map[string]int32{"a": bits(auth.Read, auth.Describe), "b": bits(auth.Operations(auth.Topic)...)}
	got := make(map[string]int32)
	for _, t := range ask[*kmsg.MetadataResponse](b, req, 12).Topics {
		got[*t.Topic] = t.AuthorizedOperations
	}
	if !maps.Equal(got, want) {
		t.Errorf("Metadata tells %v, want %v", got, want)
	}
	clear(got)
	for _, t := range ask[*kmsg.DescribeTopicPartitionsResponse](b, kmsg.NewPtrDescribeTopicPartitionsRequest(), 0).Topics {
		got[*t.Topic] = t.AuthorizedOperations
	}
	if !maps.Equal(got, want) {
		t.Errorf("DescribeTopicPartitions tells %v, want %v", got, want)
	}
	req.IncludeTopicAuthorizedOperations = false
	if r := ask[*kmsg.MetadataResponse](b, req, 12); r.Topics[0].AuthorizedOperations != noOperations {
		t.Errorf("operations nobody asked for: %x", r.Topics[0].AuthorizedOperations)
	}
	// An id gives no name away, nor a name an id.
	byID := &kmsg.MetadataRequest{Topics: []kmsg.MetadataRequestTopic{{TopicID: b.Image().Topic("secret").ID}, {Topic: text("secret")}}}
	for _, out := range ask[*kmsg.MetadataResponse](b, byID, 12).Topics {
		if out.ErrorCode != codeTopicAuthorization || value(out.Topic) != "" && out.TopicID != [16]byte{} || len(out.Partitions) > 0 {
			t.Errorf("%+v", out)
		}
	}
	del := &kmsg.DeleteTopicsRequest{Topics: []kmsg.DeleteTopicsRequestTopic{{TopicID: b.Image().Topic("secret").ID}}}
	if out := ask[*kmsg.DeleteTopicsResponse](b, del, 6).Topics[0]; out.ErrorCode != codeTopicAuthorization || out.Topic != nil {
		t.Errorf("%+v", out)
	}
	b.as.Principal = "User:root"
	if r := ask[*kmsg.MetadataResponse](b, req, 12); len(r.Topics) != 3 {
		t.Errorf("a super user sees %d topics", len(r.Topics))
	}
}

func TestACLLife(t *testing.T) {
	b := guarded(t)
	b.as.Principal = "User:root"
	for v := int16(1); v <= 3; v++ {
		entry := func(name, host string, kind kmsg.ACLResourceType) kmsg.CreateACLsRequestCreation {
			return kmsg.CreateACLsRequestCreation{ResourceType: kind, ResourcePatternType: 4, ResourceName: name, Principal: "User:ann", Host: host, Operation: 4, PermissionType: 3}
		}
		made := ask[*kmsg.CreateACLsResponse](b, &kmsg.CreateACLsRequest{Creations: []kmsg.CreateACLsRequestCreation{
			entry("a.", "*", 2), entry("a.", "192.0.2.1", 2), entry("b.", "*", 2), entry("b.", "*", 2), entry("c.", "host.example", 2), entry("d", "*", 6),
		}}, v)
		for i, want := range []int16{0, 0, 0, 0, codeInvalidRequest, codeInvalidRequest} {
			if made.Results[i].ErrorCode != want {
				t.Errorf("v%d: entry %d is %d, want %d", v, i, made.Results[i].ErrorCode, want)
			}
		}
		all := ask[*kmsg.DescribeACLsResponse](b, everyACL(), v)
		if all.ErrorCode != 0 || len(all.Resources) != 2 || len(all.Resources[0].ACLs) != 2 || all.Resources[1].ResourceName != "b." || all.Resources[1].ResourcePatternType != 4 {
			t.Errorf("v%d: %+v", v, all)
		}
		match := everyACL()
		match.ResourceType, match.ResourcePatternType, match.ResourceName = 2, 2, text("a.b")
		if r := ask[*kmsg.DescribeACLsResponse](b, match, v); len(r.Resources) != 1 || len(r.Resources[0].ACLs) != 2 {
			t.Errorf("v%d: %+v", v, r)
		}
		filter := func(name *string, operation kmsg.ACLOperation) kmsg.DeleteACLsRequestFilter {
			return kmsg.DeleteACLsRequestFilter{ResourceType: 2, ResourcePatternType: 1, ResourceName: name, Operation: operation, PermissionType: 1}
		}
		gone := ask[*kmsg.DeleteACLsResponse](b, &kmsg.DeleteACLsRequest{Filters: []kmsg.DeleteACLsRequestFilter{filter(text("a."), 1), filter(text("x"), 1), filter(nil, 99), filter(nil, 1)}}, v)
		for i, want := range []struct {
			code int16
			n    int
		}{{0, 2}, {0, 0}, {codeInvalidRequest, 0}, {0, 1}} {
			if r := gone.Results[i]; r.ErrorCode != want.code || len(r.MatchingACLs) != want.n {
				t.Errorf("v%d: filter %d: %+v", v, i, r)
			}
		}
		if n := b.Image().ACLs().Len(); n != 0 {
			t.Errorf("v%d: %d entries are left", v, n)
		}
	}
	many := make([]kmsg.CreateACLsRequestCreation, 2500)
	for i := range many {
		many[i] = kmsg.CreateACLsRequestCreation{ResourceType: 3, ResourcePatternType: 3, ResourceName: fmt.Sprint(i), Principal: "User:ann", Host: "*", Operation: 3, PermissionType: 3}
	}
	for part := range slices.Chunk(many, 1000) {
		for _, r := range ask[*kmsg.CreateACLsResponse](b, &kmsg.CreateACLsRequest{Creations: part}, 3).Results {
			if r.ErrorCode != 0 {
				t.Fatalf("%+v", r)
			}
		}
	}
	if r := ask[*kmsg.CreateACLsResponse](b, &kmsg.CreateACLsRequest{Creations: many}, 3); r.Results[0].ErrorCode != codePolicyViolation {
		t.Errorf("2,500 entries in one request: %+v", r.Results[0])
	}
	filter := []kmsg.DeleteACLsRequestFilter{{ResourceType: 3, ResourcePatternType: 1, Operation: 1, PermissionType: 1}}
	if r := ask[*kmsg.DeleteACLsResponse](b, &kmsg.DeleteACLsRequest{Filters: filter}, 3).Results[0]; len(r.MatchingACLs) != len(many) || b.Image().ACLs().Len() != 0 {
		t.Errorf("%d entries were removed, %d are left", len(r.MatchingACLs), b.Image().ACLs().Len())
	}
}

func TestWithoutAuthorizer(t *testing.T) {
	b := open(t, nil)
	if r := ask[*kmsg.DescribeACLsResponse](b, everyACL(), 3); r.ErrorCode != codeSecurityDisabled {
		t.Errorf("%+v", r)
	}
	filters := &kmsg.DeleteACLsRequest{Filters: make([]kmsg.DeleteACLsRequestFilter, 1)}
	if r := ask[*kmsg.DeleteACLsResponse](b, filters, 3); r.Results[0].ErrorCode != codeSecurityDisabled {
		t.Errorf("%+v", r)
	}
	creations := &kmsg.CreateACLsRequest{Creations: make([]kmsg.CreateACLsRequestCreation, 1)}
	if r := ask[*kmsg.CreateACLsResponse](b, creations, 3); r.Results[0].ErrorCode != codeSecurityDisabled {
		t.Errorf("%+v", r)
	}
	r := ask[*kmsg.DescribeClusterResponse](b, &kmsg.DescribeClusterRequest{IncludeClusterAuthorizedOperations: true, EndpointType: 1}, 2)
	if r.ClusterAuthorizedOperations != 1<<auth.Create|1<<auth.ClusterAction|1<<auth.DescribeConfigs|1<<auth.AlterConfigs|1<<auth.IdempotentWrite|1<<auth.Alter|1<<auth.Describe {
		t.Errorf("%x", r.ClusterAuthorizedOperations)
	}
}

// A fetch session ends nobody's right to be asked: what is forbidden meanwhile is told.
func TestForbiddenInTheMiddleOfASession(t *testing.T) {
	b := guarded(t)
	b.topic("t", 1)
	b.do(catalog.AddACLs{ACLs: one(mayTopic(auth.Read))})
	fetch := kmsg.NewPtrFetchRequest()
	fetch.SessionEpoch, fetch.MinBytes = 0, 1
	fetch.Topics = []kmsg.FetchRequestTopic{{Topic: "t", Partitions: []kmsg.FetchRequestTopicPartition{kmsg.NewFetchRequestTopicPartition()}}}
	first := ask[*kmsg.FetchResponse](b, fetch, 12)
	if first.SessionID == 0 || first.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Fatalf("%+v", first)
	}
	b.do(catalog.RemoveACLs{ACLs: one(mayTopic(auth.Read))})
	again := kmsg.NewPtrFetchRequest()
	again.SessionID, again.SessionEpoch, again.MinBytes = first.SessionID, 1, 1
	if r := ask[*kmsg.FetchResponse](b, again, 12); len(r.Topics) != 1 || r.Topics[0].Partitions[0].ErrorCode != codeTopicAuthorization {
		t.Errorf("%+v", r)
	}
}

// permissionsTable is the table of README.md.
func permissionsTable() string {
	kinds := map[auth.ResourceType]string{auth.Topic: "topic", auth.Group: "group", auth.Cluster: "cluster", auth.TransactionalID: "transactional id"}
	operations := map[auth.Operation]string{
		auth.Read: "READ", auth.Write: "WRITE", auth.Create: "CREATE", auth.Delete: "DELETE", auth.Alter: "ALTER", auth.Describe: "DESCRIBE",
		auth.DescribeConfigs: "DESCRIBE_CONFIGS", auth.AlterConfigs: "ALTER_CONFIGS", auth.IdempotentWrite: "IDEMPOTENT_WRITE", auth.ClusterAction: "CLUSTER_ACTION",
	}
	var b strings.Builder
	for _, p := range permissions {
		a, _ := wire.Lookup(p.key)
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", a.Name, operations[p.op], kinds[p.kind], p.without)
	}
	return b.String()
}

func TestReadmeListsPermissions(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(readme), "| api | operation | on | without it |\n|---|---|---|---|\n")
	if !found {
		t.Fatal("README.md has no table of permissions")
	}
	if table, _, _ := strings.Cut(rest, "\n\n"); table+"\n" != permissionsTable() {
		t.Errorf("README.md has\n%s\nwant\n%s", table, permissionsTable())
	}
}
