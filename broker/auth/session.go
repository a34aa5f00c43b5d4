package auth

import "slices"

// reauthMin is how long after a login began the next one may on the same connection, in milliseconds (KIP-368).
const reauthMin = 1000

// Session is what one connection has shown of who it is. It belongs to the connection's goroutine.
type Session struct {
	// Protocol is the listener's.
	Protocol Protocol
	// Principal is who is at the other end. Until a login that is asked for has succeeded it is nobody.
	Principal Principal
	// Host is the peer's address as ACLs name it.
	Host string

	state     state
	mechanism Mechanism // of the login under way, or the last one
	exchange  *exchange
	// raw is set while messages of the login come without a request around them (SaslHandshake v0).
	raw bool
	// began is when the last login began and expires when what it showed ends, in milliseconds; 0 never.
	began, expires int64
}

type state uint8

const (
	stateOpen   state = iota // a login is asked for and has not begun
	stateLogin               // under way
	stateDone                // shown, or never asked for
	stateFailed              // nothing more is answered
)

// NewSession begins a session. principal is what is known without a login.
func NewSession(protocol Protocol, principal Principal, host string) *Session {
	s := &Session{Protocol: protocol, Principal: principal, Host: host, state: stateDone}
	if protocol.SASL() {
		s.Principal, s.state = "", stateOpen
	}
	return s
}

// Known says whether requests may be served: who is there was shown, or nobody asks.
func (s *Session) Known() bool { return s.state == stateDone }

// Raw says whether the next bytes are a message of a login without a request around it.
func (s *Session) Raw() bool { return s.raw && s.state == stateLogin }

// Expired says whether what was shown has ended by nowMS: only a new login is answered then.
func (s *Session) Expired(nowMS int64) bool { return s.expires > 0 && nowMS >= s.expires }

// Handshake begins a login. raw says that its messages come without requests around them. The error is ErrState (the
// connection may go on if it did not interrupt a login, see Known) or ErrMechanism (which ends it unless it is Known).
func (s *Session) Handshake(mechanism string, raw bool, enabled []Mechanism, users Users, nowMS int64) error {
	switch again := s.state == stateDone; {
	case s.state == stateLogin || s.state == stateFailed:
		s.fail()
		return ErrState
	case again && (s.expires == 0 || nowMS-s.began < reauthMin):
		return ErrState // nothing that would end, or too soon
	}
	m, err := ParseMechanism(mechanism)
	if err == nil && !slices.Contains(enabled, m) {
		err = ErrMechanism
	}
	if err == nil && s.state == stateDone && m != s.mechanism {
		err = ErrMechanism // a new login is of the same kind (KIP-368)
	}
	var x *exchange
	if err == nil {
		x, err = begin(m, users)
	}
	if err != nil {
		s.fail()
		return err
	}
	s.state, s.mechanism, s.exchange, s.raw, s.began = stateLogin, m, x, raw, nowMS
	return nil
}

// Authenticate takes the next message of a login and answers it. lifetime is how long the session is good for when the
// login is over, in milliseconds, 0 for ever: at most maxMS, where that is not 0. The error is ErrState or
// ErrAuthentication; both end the connection unless it is Known.
func (s *Session) Authenticate(token []byte, maxMS, nowMS int64) (reply []byte, lifetime int64, err error) {
	if s.state != stateLogin {
		if s.state != stateDone {
			s.fail()
		}
		return nil, 0, ErrState
	}
	reply, done, err := s.exchange.step(token)
	if err != nil {
		s.fail()
		return nil, 0, err
	}
	if !done {
		return reply, 0, nil
	}
	who := User(s.exchange.user)
	if s.Principal != "" && s.Principal != who { // a session does not change hands
		s.fail()
		return nil, 0, ErrAuthentication
	}
	s.Principal, s.state, s.exchange, s.raw = who, stateDone, nil, false
	s.expires = 0
	if maxMS > 0 {
		s.expires = nowMS + maxMS
	}
	return reply, max(maxMS, 0), nil
}

func (s *Session) fail() {
	s.Principal, s.state, s.exchange, s.raw = "", stateFailed, nil, false
}
