package rest

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"millrace/broker/auth"
)

const (
	// loginsMax bounds the logins that are remembered, loginsAtOnce those that are checked, or wait for their refusal.
	loginsMax    = 64
	loginsAtOnce = 8
)

// logins remembers who logged in: HTTP sends the password with every request, and each check of one takes thousands of
// hashes. What is kept is a keyed hash, and it counts only while the user's credential is the one it was checked against.
type logins struct {
	key      [32]byte // drawn anew by every start
	checking chan struct{}

	mu sync.Mutex
	// Invariant: order has the keys of known, the oldest first, at most loginsMax.
	known map[[32]byte]auth.Credential
	order [][32]byte
}

func newLogins() *logins {
	l := &logins{checking: make(chan struct{}, loginsAtOnce), known: make(map[[32]byte]auth.Credential)}
	_, _ = rand.Read(l.key[:]) // never fails: see auth.NewCredential
	return l
}

// of is what is kept of a name and a password.
func (l *logins) of(user, password string) (sum [32]byte) {
	h := hmac.New(sha256.New, l.key[:])
	h.Write([]byte(user))
	h.Write([]byte{0}) // no name has one
	h.Write([]byte(password))
	h.Sum(sum[:0])
	return sum
}

// has says whether the login was checked before against the credential that counts now.
func (l *logins) has(sum [32]byte, c auth.Credential) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	old, ok := l.known[sum]
	return ok && old.Mechanism == c.Mechanism && subtle.ConstantTimeCompare(old.StoredKey, c.StoredKey) == 1
}

func (l *logins) add(sum [32]byte, c auth.Credential) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.known[sum]; !ok {
		if len(l.order) >= loginsMax {
			delete(l.known, l.order[0])
			l.order = slices.Delete(l.order, 0, 1)
		}
		l.order = append(l.order, sum)
	}
	l.known[sum] = c
}

// who finds out who sent a request: the holder of the connection's certificate, else whoever logs in, else anybody.
func (s *Server) who(r *http.Request) (*auth.Session, error) {
	host := hostOf(r.RemoteAddr)
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 && s.config.Principal != nil {
		p, err := s.config.Principal(r.TLS.PeerCertificates[0])
		if err != nil {
			return nil, err
		}
		return auth.NewSession(auth.SSL, p, host), nil
	}
	if !s.config.Login {
		return auth.NewSession(auth.Plaintext, auth.Anonymous, host), nil
	}
	user, password, ok := r.BasicAuth()
	if !ok {
		return nil, &fault{status: http.StatusUnauthorized, code: codeAuthentication, text: "this listener asks who you are: log in with HTTP Basic"}
	}
	if err := s.login(r, host, user, password); err != nil {
		return nil, err
	}
	return auth.NewSession(auth.Plaintext, auth.User(user), host), nil
}

// login checks a password as a login by SASL PLAIN does, with the same delays for whoever guesses.
func (s *Server) login(r *http.Request, host, user, password string) error {
	current, found := credentialOf(s.config.Users, user)
	sum := s.logins.of(user, password)
	if found && s.logins.has(sum, current) {
		return nil
	}
	select {
	case s.logins.checking <- struct{}{}:
	default:
		return &fault{status: http.StatusServiceUnavailable, code: codeBrokerNotAvailable, text: "too many logins are being checked"}
	}
	defer func() { <-s.logins.checking }()
	proper := user != "" && len(user) <= auth.UserMax && password != "" && len(password) <= auth.PasswordMax && utf8.ValidString(user+password)
	if proper && auth.CheckPassword(s.config.Users, user, password) {
		if found {
			s.logins.add(sum, current)
		}
		return nil
	}
	s.complain(slog.LevelInfo, "a login failed", "remote", r.RemoteAddr)
	wait := time.NewTimer(s.config.Damper.Failed(host, time.UnixMilli(s.config.NowMS())))
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-r.Context().Done():
	case <-s.closing:
	}
	return auth.ErrAuthentication
}

// credentialOf is the credential that auth.CheckPassword asks.
func credentialOf(users auth.Users, user string) (auth.Credential, bool) {
	for _, m := range []auth.Mechanism{auth.ScramSHA256, auth.ScramSHA512} {
		if c, ok := users.Credential(user, m); ok {
			return c, true
		}
	}
	return auth.Credential{}, false
}

// hostOf is a peer's address as ACLs name it.
func hostOf(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return ""
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return ""
	}
	return ip.Unmap().String()
}
