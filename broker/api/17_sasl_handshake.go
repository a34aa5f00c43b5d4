// SaslHandshake: v0-1
//
//   - v1: the messages of the login come as SaslAuthenticate requests; v0: bare, each behind its length.
//   - A mechanism that is not enabled is UNSUPPORTED_SASL_MECHANISM with those that are, and the connection ends.
//   - In the middle of a login it is ILLEGAL_SASL_STATE and ends the connection; where nobody is asked, or the login
//     does not end (see connections.max.reauth.ms), or a second has not passed since the last one, it is the same code
//     and the connection stays.
//   - KIP-368: a new login on a connection keeps its mechanism and its principal, else it fails.
//   - Before a login every other request but ApiVersions ends the connection without an answer. Apache Kafka answers
//     those that come between handshake and login with ILLEGAL_SASL_STATE.

package api

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/server"
	"millrace/broker/wire"
)

// users finds credentials in the catalog as it is when they are asked for.
type users struct{ catalog Catalog }

func (u users) Credential(user string, m auth.Mechanism) (auth.Credential, bool) {
	return u.catalog.Image().Credential(user, m)
}

// SaslHandshake begins a login.
func (h *Handler) SaslHandshake(req *server.Request, b *kmsg.SASLHandshakeRequest) server.Answer {
	s := peerOf(req)
	err := s.Handshake(b.Mechanism, b.Version == 0, h.config.Mechanisms, users{h.config.Catalog}, h.config.NowMS())
	resp := kmsg.NewPtrSASLHandshakeResponse()
	resp.SupportedMechanisms = []string{}
	if resp.ErrorCode = codeOf(err); resp.ErrorCode != codeIllegalSASLState {
		for _, m := range h.config.Mechanisms {
			resp.SupportedMechanisms = append(resp.SupportedMechanisms, m.String())
		}
	}
	r := wire.Encode(req.Header, resp)
	r.Close = err != nil && !s.Known()
	return func() *wire.Response { return r }
}

// expired says whether a request comes after the time its connection's login was good for (KIP-368).
func (h *Handler) expired(req *server.Request) bool {
	s := peerOf(req)
	return s.Known() && req.Key != wire.KeySASLHandshake && s.Expired(h.config.NowMS())
}

// dampen waits before a failed login is answered. Only the connection that failed waits.
func (h *Handler) dampen(req *server.Request) {
	wait := h.damper.Failed(peerOf(req).Host, time.UnixMilli(h.config.NowMS()))
	if wait <= 0 {
		return
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-req.Context.Done():
	}
}
