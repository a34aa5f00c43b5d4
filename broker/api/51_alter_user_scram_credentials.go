// AlterUserScramCredentials: v0
//
//   - KIP-554: what the client salted is kept as the two keys of RFC 5802; a password is never seen.
//   - 4,096 to 16,384 iterations, else UNACCEPTABLE_CREDENTIAL, as is an empty name; a mechanism that is not SCRAM is
//     UNSUPPORTED_SASL_MECHANISM; what is not there to delete RESOURCE_NOT_FOUND.
//   - A user who is named twice is DUPLICATE_RESOURCE, as at Apache Kafka: two mechanisms take two requests.
//   - Salts have 8 to 64 bytes. Apache Kafka takes any.
//   - A deletion ends no connection; with `connections.max.reauth.ms` the next login of it fails.

package api

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/broker/server"
)

// AlterUserScramCredentials gives and takes credentials, one user after the other.
func (h *Handler) AlterUserScramCredentials(req *server.Request, b *kmsg.AlterUserSCRAMCredentialsRequest) kmsg.Response {
	resp := kmsg.NewPtrAlterUserSCRAMCredentialsResponse()
	allowed := h.allowed(req, auth.Alter, theCluster)
	times := make(map[string]int)
	for i := range b.Deletions {
		times[b.Deletions[i].Name]++
	}
	for i := range b.Upsertions {
		times[b.Upsertions[i].Name]++
	}
	alter := func(user string, change func() (catalog.Command, error)) {
		out := kmsg.NewAlterUserSCRAMCredentialsResponseResult()
		out.User = user
		switch n := times[user]; {
		case n == 0: // told already
			return
		case !allowed:
			out.ErrorCode, out.ErrorMessage = codeClusterAuthorization, text("to alter users takes ALTER on the cluster")
		case n > 1:
			out.ErrorCode, out.ErrorMessage = codeDuplicateResource, text("a user cannot be altered twice in one request")
		default:
			c, err := change()
			if err == nil {
				_, err = h.config.Catalog.Propose(req.Context, c)
			}
			out.ErrorCode, out.ErrorMessage = codeOf(err), saying(err)
		}
		times[user] = 0
		resp.Results = append(resp.Results, out)
	}
	for _, q := range b.Deletions {
		alter(q.Name, func() (catalog.Command, error) {
			m, err := scramOf(q.Mechanism)
			return catalog.DeleteCredential{User: q.Name, Mechanism: m}, err
		})
	}
	for _, q := range b.Upsertions {
		alter(q.Name, func() (catalog.Command, error) {
			m, err := scramOf(q.Mechanism)
			if err != nil {
				return nil, err
			}
			if q.Iterations < auth.IterationsMin || q.Iterations > auth.IterationsMax {
				return nil, fmt.Errorf("%w: iterations are %d to %d", auth.ErrCredential, auth.IterationsMin, auth.IterationsMax)
			}
			c, err := auth.FromSalted(m, q.Salt, q.Iterations, q.SaltedPassword)
			return catalog.UpsertCredential{User: q.Name, Credential: c}, err
		})
	}
	return resp
}

// scramOf is a mechanism by Kafka's number.
func scramOf(number int8) (auth.Mechanism, error) {
	m := auth.Mechanism(number)
	if !m.Scram() {
		return 0, fmt.Errorf("%w: number %d", auth.ErrMechanism, number)
	}
	return m, nil
}
