package api

import (
	"errors"
	"sync/atomic"

	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/broker/server"
)

// nobody is the session of a request that came without one.
var nobody = auth.NewSession(auth.Plaintext, auth.Anonymous, "")

func peerOf(req *server.Request) *auth.Session {
	if req.Session == nil {
		return nobody
	}
	return req.Session
}

// theCluster is what operations on the whole cluster ask for.
var theCluster = auth.Resource{Type: auth.Cluster, Name: auth.ClusterName}

// allowed says whether who sent the request may do op to r. It is asked before Serve returns.
func (h *Handler) allowed(req *server.Request, op auth.Operation, r auth.Resource) bool {
	if h.asked != nil {
		h.asked(permission{req.Key, r.Type, op})
	}
	return h.config.Authorizer.Allowed(peerOf(req), op, r)
}

// allowedTopic is allowed for a topic that is named by name, or by id where name is empty. An id nobody has is allowed: it
// is told that it is unknown.
func (h *Handler) allowedTopic(req *server.Request, op auth.Operation, img *catalog.Image, name string, id catalog.TopicID) bool {
	if h.config.Authorizer == nil && h.asked == nil {
		return true
	}
	if name == "" && !id.IsZero() {
		t := img.TopicByID(id)
		if t == nil {
			return true
		}
		name = t.Name
	}
	return h.allowed(req, op, auth.TopicNamed(name))
}

// operations are what who sent the request may do to r, as a field of bits by Kafka's numbers of operations (KIP-430).
func (h *Handler) operations(req *server.Request, r auth.Resource) int32 {
	bits := int32(0)
	for _, op := range auth.Operations(r.Type) {
		if h.config.Authorizer.Allowed(peerOf(req), op, r) {
			bits |= 1 << op
		}
	}
	return bits
}

// clusterOperations are operations on the cluster, where they are asked for: none for who may not describe it.
func (h *Handler) clusterOperations(req *server.Request, wanted bool) int32 {
	switch {
	case !wanted:
		return noOperations
	case !h.allowed(req, auth.Describe, theCluster):
		return 0
	}
	return h.operations(req, theCluster)
}

// Errors of what is not allowed. They tell what it would take, which is no secret, and not who would be allowed.
var (
	errTopicDenied   = errors.New("not authorized for the topic")
	errGroupDenied   = errors.New("not authorized for the group")
	errClusterDenied = errors.New("not authorized for the cluster")
	// errNoAuthorizer is what there is to say about ACLs where nobody needs permission.
	errNoAuthorizer = errors.New("no authorizer: nobody needs permission here, see authorizer in [broker]")
)

// permission is what one API asks for: an operation on a type of resource.
type permission struct {
	key  int16
	kind auth.ResourceType
	op   auth.Operation
}

// permissions lists what every API asks for and what happens without. A test holds it against what is really asked, and
// README.md against it.
var permissions = []struct {
	permission
	without string
}{
	{permission{0, auth.Topic, auth.Write}, "TOPIC_AUTHORIZATION_FAILED for its partitions"},
	{permission{0, auth.TransactionalID, auth.Write}, "TRANSACTIONAL_ID_AUTHORIZATION_FAILED, with a transactional id"},
	{permission{1, auth.Topic, auth.Read}, "TOPIC_AUTHORIZATION_FAILED for its partitions"},
	{permission{2, auth.Topic, auth.Describe}, "TOPIC_AUTHORIZATION_FAILED for its partitions"},
	{permission{3, auth.Topic, auth.Describe}, "TOPIC_AUTHORIZATION_FAILED where it was named, left out of all topics"},
	{permission{3, auth.Cluster, auth.Create}, "a topic that does not exist is not made, unless CREATE on it is allowed"},
	{permission{3, auth.Topic, auth.Create}, "TOPIC_AUTHORIZATION_FAILED for one that is to be made"},
	{permission{3, auth.Cluster, auth.Describe}, "no operations on the cluster, where they are asked for"},
	{permission{8, auth.Group, auth.Read}, "GROUP_AUTHORIZATION_FAILED for all partitions"},
	{permission{8, auth.Topic, auth.Read}, "TOPIC_AUTHORIZATION_FAILED for its partitions"},
	{permission{9, auth.Group, auth.Describe}, "GROUP_AUTHORIZATION_FAILED for the group"},
	{permission{9, auth.Topic, auth.Describe}, "TOPIC_AUTHORIZATION_FAILED for its partitions, left out of all offsets"},
	{permission{10, auth.Group, auth.Describe}, "GROUP_AUTHORIZATION_FAILED for the group"},
	{permission{11, auth.Group, auth.Read}, "GROUP_AUTHORIZATION_FAILED"},
	{permission{12, auth.Group, auth.Read}, "GROUP_AUTHORIZATION_FAILED"},
	{permission{13, auth.Group, auth.Read}, "GROUP_AUTHORIZATION_FAILED"},
	{permission{14, auth.Group, auth.Read}, "GROUP_AUTHORIZATION_FAILED"},
	{permission{15, auth.Group, auth.Describe}, "GROUP_AUTHORIZATION_FAILED for the group"},
	{permission{16, auth.Cluster, auth.Describe}, "only groups that may be described are listed"},
	{permission{16, auth.Group, auth.Describe}, "left out, unless DESCRIBE on the cluster is allowed"},
	{permission{19, auth.Cluster, auth.Create}, "asked for each topic"},
	{permission{19, auth.Topic, auth.Create}, "TOPIC_AUTHORIZATION_FAILED, unless CREATE on the cluster is allowed"},
	{permission{19, auth.Topic, auth.DescribeConfigs}, "the settings of the new topic are not told (v5)"},
	{permission{20, auth.Topic, auth.Describe}, "TOPIC_AUTHORIZATION_FAILED, and the name to an id is not told"},
	{permission{20, auth.Topic, auth.Delete}, "TOPIC_AUTHORIZATION_FAILED"},
	{permission{21, auth.Topic, auth.Delete}, "TOPIC_AUTHORIZATION_FAILED for its partitions"},
	{permission{22, auth.Cluster, auth.IdempotentWrite}, "CLUSTER_AUTHORIZATION_FAILED, unless WRITE on any topic is allowed"},
	{permission{22, auth.TransactionalID, auth.Write}, "TRANSACTIONAL_ID_AUTHORIZATION_FAILED, with a transactional id"},
	{permission{23, auth.Topic, auth.Describe}, "TOPIC_AUTHORIZATION_FAILED for its partitions"},
	{permission{29, auth.Cluster, auth.Describe}, "CLUSTER_AUTHORIZATION_FAILED"},
	{permission{30, auth.Cluster, auth.Alter}, "CLUSTER_AUTHORIZATION_FAILED"},
	{permission{31, auth.Cluster, auth.Alter}, "CLUSTER_AUTHORIZATION_FAILED"},
	{permission{32, auth.Topic, auth.DescribeConfigs}, "TOPIC_AUTHORIZATION_FAILED for the settings of a topic"},
	{permission{32, auth.Cluster, auth.DescribeConfigs}, "CLUSTER_AUTHORIZATION_FAILED for the settings of a broker"},
	{permission{33, auth.Topic, auth.AlterConfigs}, "TOPIC_AUTHORIZATION_FAILED for the settings of a topic"},
	{permission{33, auth.Cluster, auth.AlterConfigs}, "CLUSTER_AUTHORIZATION_FAILED for the settings of a broker"},
	{permission{35, auth.Cluster, auth.Describe}, "CLUSTER_AUTHORIZATION_FAILED (v3), no directories before"},
	{permission{37, auth.Topic, auth.Alter}, "TOPIC_AUTHORIZATION_FAILED"},
	{permission{42, auth.Group, auth.Delete}, "GROUP_AUTHORIZATION_FAILED for the group"},
	{permission{44, auth.Topic, auth.AlterConfigs}, "TOPIC_AUTHORIZATION_FAILED for the settings of a topic"},
	{permission{44, auth.Cluster, auth.AlterConfigs}, "CLUSTER_AUTHORIZATION_FAILED for the settings of a broker"},
	{permission{47, auth.Group, auth.Delete}, "GROUP_AUTHORIZATION_FAILED"},
	{permission{47, auth.Topic, auth.Read}, "TOPIC_AUTHORIZATION_FAILED for its partitions"},
	{permission{48, auth.Cluster, auth.DescribeConfigs}, "CLUSTER_AUTHORIZATION_FAILED"},
	{permission{50, auth.Cluster, auth.Describe}, "CLUSTER_AUTHORIZATION_FAILED"},
	{permission{51, auth.Cluster, auth.Alter}, "CLUSTER_AUTHORIZATION_FAILED for each user"},
	{permission{60, auth.Cluster, auth.Describe}, "no operations on the cluster, where they are asked for"},
	{permission{61, auth.Topic, auth.Read}, "TOPIC_AUTHORIZATION_FAILED for its partitions"},
	{permission{75, auth.Topic, auth.Describe}, "TOPIC_AUTHORIZATION_FAILED where it was named, left out of all topics"},
}

// hush lets one line a second into the log: whoever fails a thousand times must not fill the flash.
type hush struct{ last, silent atomic.Int64 }

func (q *hush) say(nowMS int64, line func(silent int64)) {
	now, last := nowMS/1000+1, q.last.Load()
	if now == last || !q.last.CompareAndSwap(last, now) {
		q.silent.Add(1)
		return
	}
	line(q.silent.Swap(0))
}
