package mqtt

import (
	"errors"
	"io"
	"time"
	"unicode/utf8"

	"millrace/bridge/mqtt/packet"
	"millrace/broker/auth"
)

// refusedLogin is all anybody is told whose login failed.
const refusedLogin = "the user name or the password is wrong"

// login finds out who the client is: whoever it logs in as, else whom its certificate names, else nobody in particular
// where the listener takes those. A nil error with data is the last word of an enhanced authentication, for CONNACK.
func (c *client) login(in *packet.Connect) (data []byte, err error) {
	switch {
	case in.Properties.Has(packet.AuthMethod):
		return c.enhanced(in)
	case in.HasPassword && c.s.cfg.Users != nil: // a name alone is no login
		if !c.s.password(in) {
			c.dampen()
			return nil, c.connackRefusal(packet.BadCredentials, refusedLogin)
		}
		c.who.Principal = auth.User(in.Username)
	case c.who.Principal != "":
	case c.listener.Anonymous:
		c.who.Principal = auth.Anonymous
	default:
		return nil, c.connackRefusal(packet.NotAuthorized, "this listener asks who you are: log in")
	}
	return nil, nil
}

// password checks a login as one by SASL PLAIN is.
func (s *Server) password(in *packet.Connect) bool {
	user, password := in.Username, string(in.Password)
	proper := user != "" && len(user) <= auth.UserMax && password != "" && len(password) <= auth.PasswordMax && utf8.ValidString(password)
	return proper && auth.CheckPassword(s.cfg.Users, user, password)
}

// dampen lets a failed login wait for its answer; nobody else waits.
func (c *client) dampen() {
	if c.s.cfg.Damper == nil {
		return
	}
	t := time.NewTimer(c.s.cfg.Damper.Failed(c.who.Host, c.s.cfg.Now()))
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.ctx.Done():
	}
}

// handshake begins a login by SASL with the mechanism of that name; PLAIN has a place of its own in CONNECT.
func (c *client) handshake(method string) (*auth.Session, error) {
	if m, err := auth.ParseMechanism(method); err != nil || !m.Scram() || c.s.cfg.Users == nil {
		return nil, auth.ErrMechanism
	}
	x := auth.NewSession(auth.SASLPlaintext, "", c.who.Host)
	return x, x.Handshake(method, false, c.s.cfg.Mechanisms, c.s.cfg.Users, c.s.cfg.Now().UnixMilli())
}

// enhanced is an authentication by AUTH packets (4.12). It returns the server's last word.
func (c *client) enhanced(in *packet.Connect) ([]byte, error) {
	c.method = in.Properties.AuthMethod
	x, err := c.handshake(c.method)
	if err != nil {
		return nil, c.connackRefusal(packet.BadAuthentication, "the authentication methods are SCRAM-SHA-256 and SCRAM-SHA-512") // [MQTT-4.12.0-1]
	}
	if in.Will != nil { // the packets to come take the place of this one
		in.Will = cloneWill(in.Will)
	}
	token, has := in.Properties.AuthData, in.Properties.Has(packet.AuthData)
	for first := true; ; first = false {
		var reply []byte
		if has || !first {
			reply, _, err = x.Authenticate(token, 0, c.s.cfg.Now().UnixMilli())
			if err != nil {
				c.dampen()
				return nil, c.connackRefusal(packet.BadCredentials, refusedLogin) // [MQTT-4.12.0-4]
			}
			if x.Known() {
				c.who.Principal = x.Principal
				return reply, nil
			}
		}
		if err := c.sendAuth(packet.ContinueAuthentication, reply); err != nil { // [MQTT-4.12.0-2]
			return nil, c.connackRefusal(packet.PacketTooLarge, errAnswerTooLarge.Why)
		}
		frame, err := c.in.next(c.limits().MaxPacketSize)
		if err != nil {
			return nil, err
		}
		p, err := packet.Decode(frame, c.version, limits)
		if err != nil {
			return nil, c.connackRefusal(packet.MalformedPacket, err.Error())
		}
		// Nothing but AUTH and DISCONNECT comes before CONNACK [MQTT-3.1.2-30].
		switch p := p.(type) {
		case *packet.Auth:
			if p.Reason != packet.ContinueAuthentication || !c.sameMethod(p) { // [MQTT-4.12.0-3] [MQTT-4.12.0-5]
				return nil, c.connackRefusal(packet.ProtocolError, "AUTH of another authentication")
			}
			token = p.Properties.AuthData
		case *packet.Disconnect:
			return nil, io.EOF
		default:
			return nil, c.connackRefusal(packet.ProtocolError, "a "+p.Type().String()+" before the authentication is over")
		}
	}
}

func (c *client) sameMethod(p *packet.Auth) bool {
	return p.Properties.Has(packet.AuthMethod) && p.Properties.AuthMethod == c.method
}

// sendAuth sends an AUTH with nothing in it but the method and data [MQTT-3.15.2-2] [MQTT-3.15.2-3]; an error where that is
// more than the client takes [MQTT-3.1.2-24].
func (c *client) sendAuth(reason packet.Reason, data []byte) error {
	p := &packet.Properties{Present: packet.Of(packet.AuthMethod), AuthMethod: c.method}
	if data != nil {
		p.Present |= packet.Of(packet.AuthData)
		p.AuthData = data
	}
	a := &packet.Auth{Reason: reason, Properties: p}
	if len(a.Append(nil, c.version)) > c.maxPacket {
		return errAnswerTooLarge
	}
	c.send(a)
	return nil
}

// onAuth is a step of an authentication that is done again (4.12.1). What the client may do stays as it is meanwhile; it
// cannot become somebody else.
func (c *client) onAuth(p *packet.Auth) error {
	switch {
	case c.method == "":
		// AUTH belongs to an exchange a CONNECT with a method begins [MQTT-4.12.0-6].
		return &packet.Error{Reason: packet.ProtocolError, Why: "AUTH without an authentication method"}
	case !c.sameMethod(p):
		return &packet.Error{Reason: packet.ProtocolError, Why: "AUTH with another method than CONNECT"} // [MQTT-4.12.1-1]
	}
	first := p.Reason == packet.Reauthenticate
	if first == (c.again != nil) || p.Reason == packet.Success {
		return &packet.Error{Reason: packet.ProtocolError, Why: "an AUTH that is not its turn"}
	}
	var err error
	if first {
		if c.again, err = c.handshake(c.method); err != nil {
			return &packet.Error{Reason: packet.NotAuthorized, Why: "the authentication method is not offered any more"}
		}
	}
	var reply []byte
	if p.Properties.Has(packet.AuthData) || !first {
		reply, _, err = c.again.Authenticate(p.Properties.AuthData, 0, c.s.cfg.Now().UnixMilli())
		if err == nil && c.again.Known() && c.again.Principal != c.who.Principal {
			err = errors.New("another user")
		}
		if err != nil {
			c.dampen()
			return &packet.Error{Reason: packet.NotAuthorized, Why: refusedLogin} // [MQTT-4.12.1-2]
		}
		if c.again.Known() {
			c.again = nil
			return c.sendAuth(packet.Success, reply)
		}
	}
	return c.sendAuth(packet.ContinueAuthentication, reply)
}
