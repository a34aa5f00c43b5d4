// SaslAuthenticate: v0-2
//
//   - PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512; PLAIN is checked against the SCRAM credential. Users who do not exist
//     fail as a wrong password does: at the same message, with the same words, after the same time.
//   - A login that fails is SASL_AUTHENTICATION_FAILED, and the connection ends after the answer, which waits
//     `connection.failed.authentication.delay.ms`, longer with every further failure from the same address. A login
//     whose messages come bare (SaslHandshake v0) fails by the end of the connection alone, as at Apache Kafka.
//   - v1 (KIP-368): the lifetime of the login, from `connections.max.reauth.ms`. Requests after it end the connection.
//   - Without SaslHandshake before it: ILLEGAL_SASL_STATE.
//   - An authorization id other than the user's name is refused.

package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/server"
	"millrace/broker/wire"
)

// SaslAuthenticate takes the next message of a login.
func (h *Handler) SaslAuthenticate(req *server.Request, b *kmsg.SASLAuthenticateRequest) server.Answer {
	s := peerOf(req)
	bare := req.Version == wire.VersionBare
	token, lifetime, err := s.Authenticate(b.SASLAuthBytes, h.config.MaxReauthMS, h.config.NowMS())
	ends := err != nil && !s.Known()
	if ends {
		h.hush.say(h.config.NowMS(), func(silent int64) {
			h.log.Info("a login failed", "remote", req.Remote, "reason", err, "unlogged", silent)
		})
		h.dampen(req)
	}
	if bare {
		r := &wire.Response{}
		if err == nil {
			r = wire.EncodeToken(token)
		}
		r.Close = ends
		return func() *wire.Response { return r }
	}
	resp := kmsg.NewPtrSASLAuthenticateResponse()
	resp.SASLAuthBytes, resp.SessionLifetimeMillis = token, lifetime
	if token == nil {
		resp.SASLAuthBytes = []byte{}
	}
	resp.ErrorCode, resp.ErrorMessage = codeOf(err), saying(err)
	r := wire.Encode(req.Header, resp)
	r.Close = ends
	return func() *wire.Response { return r }
}
