// DescribeUserScramCredentials: v0
//
//   - KIP-554: mechanisms and iterations, never salts or keys. No users in the request: all of them.
//   - A user who does not exist is RESOURCE_NOT_FOUND, one who is named twice DUPLICATE_RESOURCE.

package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/broker/server"
)

// describedUser is about what one user takes in an answer, in bytes, encoded and not.
const describedUser = 320

// DescribeUserScramCredentials tells how users can log in. The first result is the room its answer takes; the answer is
// nil when the server closed before there was room.
func (h *Handler) DescribeUserScramCredentials(req *server.Request, b *kmsg.DescribeUserSCRAMCredentialsRequest) (int64, kmsg.Response) {
	resp := kmsg.NewPtrDescribeUserSCRAMCredentialsResponse()
	if !h.allowed(req, auth.Describe, theCluster) {
		resp.ErrorCode, resp.ErrorMessage = codeClusterAuthorization, text("to describe users takes DESCRIBE on the cluster")
		return 0, resp
	}
	n := len(b.Users)
	if n == 0 {
		n = h.config.Catalog.Image().UserCount()
	}
	room, err := h.room(req.Context, n*describedUser)
	if err != nil {
		return 0, nil
	}
	img := h.config.Catalog.Image()
	if len(b.Users) == 0 {
		for u := range img.Users() {
			resp.Results = append(resp.Results, described(u))
		}
		return room, resp
	}
	times := make(map[string]int, len(b.Users))
	for i := range b.Users {
		times[b.Users[i].Name]++
	}
	for i := range b.Users {
		name := b.Users[i].Name
		out := kmsg.NewDescribeUserSCRAMCredentialsResponseResult()
		out.User = name
		switch u := img.User(name); {
		case times[name] == 0: // told already
			continue
		case times[name] > 1:
			out.ErrorCode, out.ErrorMessage = codeDuplicateResource, text("the user is in the request more than once")
		case u == nil:
			out.ErrorCode, out.ErrorMessage = codeResourceNotFound, text("there is no such user")
		default:
			out = described(u)
		}
		times[name] = 0
		resp.Results = append(resp.Results, out)
	}
	return room, resp
}

func described(u *catalog.User) kmsg.DescribeUserSCRAMCredentialsResponseResult {
	out := kmsg.NewDescribeUserSCRAMCredentialsResponseResult()
	out.User = u.Name
	for _, c := range u.Credentials {
		out.CredentialInfos = append(out.CredentialInfos, kmsg.DescribeUserSCRAMCredentialsResponseResultCredentialInfo{
			Mechanism: int8(c.Mechanism), Iterations: c.Iterations,
		})
	}
	return out
}
