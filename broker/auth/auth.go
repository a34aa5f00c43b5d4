// Package auth says who may do what: credentials and how they are proved (SASL PLAIN and SCRAM), principals, and access
// control lists as Apache Kafka has them. It is pure: it opens no file and no socket and is told the time, so the Kafka
// door and the MQTT door use the same one.
//
// No value of this package prints a secret: errors name neither passwords nor keys nor the names of users that failed.
package auth

import (
	"errors"
	"strings"
)

// Limits, in bytes where nothing else is said.
const (
	// UserMax bounds the name of a user.
	UserMax = 255
	// PrincipalMax bounds a principal: distinguished names are long.
	PrincipalMax = 512
	// ResourceMax bounds the name of a resource.
	ResourceMax = 255
	// TokenMax bounds one message of a login. The longest of PLAIN has a name and a password, both bounded.
	TokenMax = 2048
	// PasswordMax bounds a password.
	PasswordMax = 1024
)

var (
	// ErrAuthentication is returned when a login failed. It says no more, so that nobody learns which users there are.
	ErrAuthentication = errors.New("authentication failed")
	// ErrMechanism is returned for a SASL mechanism that is unknown or not enabled.
	ErrMechanism = errors.New("unsupported SASL mechanism")
	// ErrState is returned for a step of a login that is not its turn.
	ErrState = errors.New("illegal SASL state")
	// ErrCredential is returned by Credential.Check for one that is too weak or no credential at all.
	ErrCredential = errors.New("unacceptable credential")
	// ErrACL is returned by ACL.Check and the parsers for what has no meaning as an access control entry.
	ErrACL = errors.New("invalid ACL")
	// ErrRule is returned by ParseRules for a mapping rule that cannot be read, and by Rules.Principal where none fits.
	ErrRule = errors.New("invalid principal mapping rule")
)

// Principal is who somebody is: "User:" and a name. The zero value is nobody and is allowed nothing.
type Principal string

// Anonymous is who has not been asked.
const Anonymous Principal = "User:ANONYMOUS"

// anyone is the principal of an entry that holds for everybody.
const anyone Principal = "User:*"

// User is the principal of a user's name.
func User(name string) Principal { return Principal("User:" + name) }

// Name is the principal without its kind.
func (p Principal) Name() string {
	_, name, _ := strings.Cut(string(p), ":")
	return name
}

// Valid says whether p is "User:" and a name, within the limit. Kafka knows other kinds only where it is extended.
func (p Principal) Valid() bool {
	name, ok := strings.CutPrefix(string(p), "User:")
	return ok && name != "" && len(p) <= PrincipalMax
}

// Protocol is what is spoken below Kafka's protocol, and how a listener is called.
type Protocol string

// The protocols there are.
const (
	Plaintext     Protocol = "PLAINTEXT"
	SSL           Protocol = "SSL"
	SASLPlaintext Protocol = "SASL_PLAINTEXT"
	SASLSSL       Protocol = "SASL_SSL"
)

// TLS says whether bytes are encrypted.
func (p Protocol) TLS() bool { return p == SSL || p == SASLSSL }

// SASL says whether a login is asked for.
func (p Protocol) SASL() bool { return p == SASLPlaintext || p == SASLSSL }
