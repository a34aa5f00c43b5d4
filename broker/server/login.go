package server

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/auth"
	"millrace/broker/wire"
)

// stranger refuses what is asked before the peer has said who it is: only what it takes to say so is read, and only
// where it fits the buffer that needs no memory of the budget. Apache Kafka ends the connection the same way.
func (c *conn) stranger(key int16, size int) error {
	if c.session.Known() {
		return nil
	}
	switch key {
	case wire.KeyAPIVersions, wire.KeySASLHandshake, wire.KeySASLAuthenticate:
	default:
		return fmt.Errorf("api %d before authentication: %w", key, auth.ErrState)
	}
	if wire.PrefixSize+size > smallMax {
		return fmt.Errorf("%d bytes before authentication: %w", size, wire.ErrFrameTooLarge)
	}
	return nil
}

// token reads a message of a login that has no request around it, as it follows SaslHandshake v0. It comes to the
// handler as a SaslAuthenticate of version -1, whose answer is bare too.
func (c *conn) token(size int) (*Request, error) {
	if err := c.await(wire.KeySASLAuthenticate); err != nil {
		return nil, err
	}
	if err := c.in.need(c, wire.PrefixSize+size); err != nil {
		return nil, c.in.half(err)
	}
	body := kmsg.NewPtrSASLAuthenticateRequest()
	body.SASLAuthBytes = append([]byte(nil), c.in.buffer[c.in.start+wire.PrefixSize:c.in.start+wire.PrefixSize+size]...)
	c.in.used(wire.PrefixSize + size)
	return &Request{
		Header: wire.Header{Key: wire.KeySASLAuthenticate, Version: wire.VersionBare}, Body: body, Size: size,
		Context: c.server.ctx, Local: c.net.LocalAddr(), Remote: c.net.RemoteAddr(), Session: c.session,
	}, nil
}
