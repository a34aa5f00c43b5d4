package api

import (
	"sync/atomic"

	"millrace/broker/auth"
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

func topicNamed(name string) auth.Resource { return auth.Resource{Type: auth.Topic, Name: name} }

// allowed says whether who sent the request may do op to r. It is asked before Serve returns.
func (h *Handler) allowed(req *server.Request, op auth.Operation, r auth.Resource) bool {
	return h.config.Authorizer.Allowed(peerOf(req), op, r)
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
