package api

import (
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
