package auth

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"fmt"
	"hash"
)

// Mechanism is a way to log in; the numbers of the SCRAM ones are Kafka's (KIP-554).
type Mechanism uint8

// The mechanisms there are.
const (
	ScramSHA256 Mechanism = 1
	ScramSHA512 Mechanism = 2
	Plain       Mechanism = 255
)

// mechanismNames are SASL's.
var mechanismNames = map[Mechanism]string{ScramSHA256: "SCRAM-SHA-256", ScramSHA512: "SCRAM-SHA-512", Plain: "PLAIN"}

func (m Mechanism) String() string { return mechanismNames[m] }

// ParseMechanism reads a SASL name. The error wraps ErrMechanism.
func ParseMechanism(name string) (Mechanism, error) {
	for m, n := range mechanismNames {
		if n == name {
			return m, nil
		}
	}
	return 0, fmt.Errorf("%w: %.32q", ErrMechanism, name)
}

// Scram says whether the mechanism is one that credentials are kept for.
func (m Mechanism) Scram() bool { return m == ScramSHA256 || m == ScramSHA512 }

// Size is the length of a SCRAM mechanism's keys in bytes.
func (m Mechanism) Size() int {
	if m == ScramSHA512 {
		return sha512.Size
	}
	return sha256.Size
}

func (m Mechanism) hash() func() hash.Hash {
	if m == ScramSHA512 {
		return sha512.New
	}
	return sha256.New
}

// The bounds of a credential. Iterations are Kafka's (ScramMechanism, and MAX_ITERATIONS of its controller).
const (
	IterationsMin = 4096
	IterationsMax = 16384
	SaltMin       = 8
	SaltMax       = 64
	saltSize      = 24 // of the salts that are drawn here
)

// Credential is what is kept of a user's password for one mechanism (RFC 5802): enough to check a login, not enough to
// log in. Read only.
type Credential struct {
	Mechanism  Mechanism
	Iterations int32
	Salt       []byte
	StoredKey  []byte
	ServerKey  []byte
}

// String hides the keys from whoever prints a credential.
func (c Credential) String() string {
	return fmt.Sprintf("%v, %d iterations", c.Mechanism, c.Iterations)
}

// GoString is String.
func (c Credential) GoString() string { return c.String() }

// Check holds a credential against its bounds. The error wraps ErrCredential or ErrMechanism.
func (c Credential) Check() error {
	switch n := c.Mechanism.Size(); {
	case !c.Mechanism.Scram():
		return fmt.Errorf("%w: %d", ErrMechanism, c.Mechanism)
	case c.Iterations < IterationsMin:
		return fmt.Errorf("%w: too few iterations, at least %d", ErrCredential, IterationsMin)
	case c.Iterations > IterationsMax:
		return fmt.Errorf("%w: too many iterations, at most %d", ErrCredential, IterationsMax)
	case len(c.Salt) < SaltMin || len(c.Salt) > SaltMax:
		return fmt.Errorf("%w: the salt has %d bytes, want %d to %d", ErrCredential, len(c.Salt), SaltMin, SaltMax)
	case len(c.StoredKey) != n || len(c.ServerKey) != n:
		return fmt.Errorf("%w: keys of %v have %d bytes", ErrCredential, c.Mechanism, n)
	}
	return nil
}

// NewCredential makes one of a password, with a salt of its own. Passwords are taken as the bytes they are, as Apache
// Kafka does.
func NewCredential(m Mechanism, password string, iterations int32) (Credential, error) {
	salt := make([]byte, saltSize)
	// crypto/rand.Read never fails: it ends the program if the system has no randomness.
	_, _ = rand.Read(salt)
	if !m.Scram() {
		return Credential{}, fmt.Errorf("%w: %d", ErrMechanism, m)
	}
	if password == "" || len(password) > PasswordMax {
		return Credential{}, fmt.Errorf("%w: a password has 1 to %d bytes", ErrCredential, PasswordMax)
	}
	c := Credential{Mechanism: m, Iterations: iterations, Salt: salt}
	if iterations < IterationsMin || iterations > IterationsMax {
		return Credential{}, c.Check()
	}
	salted, err := pbkdf2.Key(m.hash(), password, salt, int(iterations), m.Size())
	if err != nil {
		return Credential{}, fmt.Errorf("%w: %w", ErrCredential, err)
	}
	return FromSalted(m, salt, iterations, salted)
}

// FromSalted makes a credential of a password that was salted elsewhere, as AlterUserScramCredentials carries it.
func FromSalted(m Mechanism, salt []byte, iterations int32, salted []byte) (Credential, error) {
	c := Credential{Mechanism: m, Iterations: iterations, Salt: append([]byte(nil), salt...)}
	if !m.Scram() {
		return Credential{}, fmt.Errorf("%w: %d", ErrMechanism, m)
	}
	if len(salted) != m.Size() {
		return Credential{}, fmt.Errorf("%w: a salted password of %v has %d bytes", ErrCredential, m, m.Size())
	}
	c.StoredKey, c.ServerKey = keysOf(m, salted)
	return c, c.Check()
}

// keysOf derives the stored key and the server key (RFC 5802 section 3).
func keysOf(m Mechanism, salted []byte) (stored, server []byte) {
	h := m.hash()()
	h.Write(mac(m, salted, "Client Key"))
	return h.Sum(nil), mac(m, salted, "Server Key")
}

func mac(m Mechanism, key []byte, text string) []byte {
	h := hmac.New(m.hash(), key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// Matches says whether password is the one the credential was made of. It takes as long as the iterations say.
func (c Credential) Matches(password string) bool {
	if len(password) > PasswordMax {
		return false
	}
	salted, err := pbkdf2.Key(c.Mechanism.hash(), password, c.Salt, int(c.Iterations), c.Mechanism.Size())
	if err != nil {
		return false
	}
	stored, _ := keysOf(c.Mechanism, salted)
	return subtle.ConstantTimeCompare(stored, c.StoredKey) == 1
}

// RandomPassword draws a password nobody has to remember: 32 letters, digits, dashes and underscores, 192 bits.
func RandomPassword() string {
	raw := make([]byte, 24)
	_, _ = rand.Read(raw) // see NewCredential
	return base64URL.EncodeToString(raw)
}
