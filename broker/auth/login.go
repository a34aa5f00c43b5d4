package auth

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"unicode/utf8"

	"github.com/xdg-go/scram"
)

var base64URL = base64.RawURLEncoding

// Users finds credentials. *catalog.Image is the real one.
type Users interface {
	// Credential is a user's credential for a mechanism.
	Credential(user string, m Mechanism) (Credential, bool)
}

// decoy is the secret that salts of users who do not exist are made of, so that asking for one answers the same salt
// every time and looks like a user with a wrong password. It is drawn anew by every start.
var decoy = func() (key [32]byte) {
	_, _ = rand.Read(key[:]) // see NewCredential
	return key
}()

// lookup finds a user's credential, or one that nobody can log in with.
func lookup(users Users, user string, m Mechanism) (c Credential, known bool) {
	if c, ok := users.Credential(user, m); ok {
		return c, true
	}
	h := hmac.New(sha256.New, decoy[:])
	h.Write([]byte(user))
	sum := h.Sum(nil)
	// No proof leads to a key of zeros: that would take a preimage.
	return Credential{Mechanism: m, Iterations: IterationsMin, Salt: sum[:saltSize], StoredKey: make([]byte, m.Size()), ServerKey: make([]byte, m.Size())}, false
}

// plain is the credential a password is checked against: either will do, the quicker first.
func plain(users Users, user string) (Credential, bool) {
	for _, m := range []Mechanism{ScramSHA256, ScramSHA512} {
		if c, ok := users.Credential(user, m); ok {
			return c, true
		}
	}
	return lookup(users, user, ScramSHA256)
}

// checking bounds how many passwords are checked at once: each takes thousands of hashes, and one core must be left for
// the data.
var checking = make(chan struct{}, 1)

// CheckPassword says whether the user exists and has the password. It takes the same time for a user who does not
// exist, and callers take turns. It is what a login by PLAIN asks, and one by HTTP Basic.
func CheckPassword(users Users, user, password string) bool {
	c, known := plain(users, user)
	checking <- struct{}{}
	defer func() { <-checking }()
	return c.Matches(password) && known
}

// exchange is one login under way.
type exchange struct {
	mechanism Mechanism
	users     Users
	talk      *scram.ServerConversation
	known     bool
	user      string
}

func begin(m Mechanism, users Users) (*exchange, error) {
	x := &exchange{mechanism: m, users: users}
	if !m.Scram() {
		return x, nil
	}
	server, err := scram.HashGeneratorFcn(m.hash()).NewServer(func(user string) (scram.StoredCredentials, error) {
		var c Credential
		c, x.known = lookup(users, user, m)
		x.user = user
		return scram.StoredCredentials{
			KeyFactors: scram.KeyFactors{Salt: string(c.Salt), Iters: int(c.Iterations)},
			StoredKey:  c.StoredKey, ServerKey: c.ServerKey,
		}, nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMechanism, err)
	}
	x.talk = server.NewConversation()
	return x, nil
}

// step answers one message of the client. done says that it has proved who it is. The error is ErrAuthentication and
// says nothing more.
func (x *exchange) step(token []byte) (reply []byte, done bool, err error) {
	if len(token) == 0 || len(token) > TokenMax {
		return nil, false, ErrAuthentication
	}
	if x.mechanism == Plain {
		return nil, true, x.plain(token)
	}
	if !utf8.Valid(token) {
		return nil, false, ErrAuthentication
	}
	answer, err := x.talk.Step(string(token))
	if err != nil {
		return nil, false, ErrAuthentication
	}
	if id := x.talk.AuthzID(); id != "" && id != x.user { // nobody may log in for somebody else
		return nil, false, ErrAuthentication
	}
	if !x.talk.Done() {
		return []byte(answer), false, nil
	}
	if !x.talk.Valid() || !x.known {
		return nil, false, ErrAuthentication
	}
	return []byte(answer), true, nil
}

// plain reads "authorization id NUL user NUL password" (RFC 4616).
func (x *exchange) plain(token []byte) error {
	parts := bytes.Split(token, []byte{0})
	if len(parts) != 3 || !utf8.Valid(token) {
		return ErrAuthentication
	}
	authorization, user, password := string(parts[0]), string(parts[1]), string(parts[2])
	if user == "" || len(user) > UserMax || password == "" || authorization != "" && authorization != user {
		return ErrAuthentication
	}
	if !CheckPassword(x.users, user, password) {
		return ErrAuthentication
	}
	x.user = user
	return nil
}
