package auth

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/xdg-go/scram"
)

// people are users in memory.
type people map[string][]Credential

func (p people) Credential(user string, m Mechanism) (Credential, bool) {
	for _, c := range p[user] {
		if c.Mechanism == m {
			return c, true
		}
	}
	return Credential{}, false
}

func made(t testing.TB, m Mechanism, password string) Credential {
	t.Helper()
	c, err := NewCredential(m, password, IterationsMin)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Another implementation of RFC 5802 makes the same keys.
func TestKeysAreThoseOfOthers(t *testing.T) {
	salt, err := hex.DecodeString("5b6d99689d12358eec20c6d9d1e3f75f")
	if err != nil {
		t.Fatal(err)
	}
	client, err := scram.SHA256.NewClient("user", "pencil", "")
	if err != nil {
		t.Fatal(err)
	}
	stored, err := client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: string(salt), Iters: 4096})
	if err != nil {
		t.Fatal(err)
	}
	c := Credential{Mechanism: ScramSHA256, Iterations: 4096, Salt: salt, StoredKey: stored.StoredKey, ServerKey: stored.ServerKey}
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	if !c.Matches("pencil") || c.Matches("pencils") || c.Matches("") || c.Matches(strings.Repeat("x", PasswordMax+1)) {
		t.Error("the password is not the one it was made of")
	}
}

func TestCredentialsDoNotTell(t *testing.T) {
	c := made(t, ScramSHA512, "secret")
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(verb, c); got != "SCRAM-SHA-512, 4096 iterations" {
			t.Errorf("%s prints %s", verb, got)
		}
	}
	if a, b := RandomPassword(), RandomPassword(); a == b || len(a) != 32 {
		t.Error("passwords are not random")
	}
}

func TestWeakCredentials(t *testing.T) {
	for _, tt := range []struct {
		m          Mechanism
		password   string
		iterations int32
		want       error
	}{
		{ScramSHA256, "x", 4095, ErrCredential},
		{ScramSHA256, "x", 16385, ErrCredential},
		{ScramSHA256, "", 4096, ErrCredential},
		{ScramSHA256, strings.Repeat("x", PasswordMax+1), 4096, ErrCredential},
		{Plain, "x", 4096, ErrMechanism},
		{ScramSHA512, "x", 16384, nil},
	} {
		if _, err := NewCredential(tt.m, tt.password, tt.iterations); !errors.Is(err, tt.want) {
			t.Errorf("%+v: %v", tt, err)
		}
	}
	if _, err := FromSalted(ScramSHA256, make([]byte, 16), 4096, make([]byte, 64)); !errors.Is(err, ErrCredential) {
		t.Errorf("a salted password of another mechanism: %v", err)
	}
}

func TestPlainTakesEitherCredential(t *testing.T) {
	users := people{"a": {made(t, ScramSHA512, "p")}, "b": {made(t, ScramSHA256, "q"), made(t, ScramSHA512, "other")}}
	for _, tt := range []struct {
		user, password string
		want           bool
	}{{"a", "p", true}, {"b", "q", true}, {"b", "other", false}, {"a", "q", false}, {"c", "p", false}, {"", "", false}} {
		if got := CheckPassword(users, tt.user, tt.password); got != tt.want {
			t.Errorf("%s with %s: %v", tt.user, tt.password, got)
		}
	}
}

// A session's steps in any order never end in one that is known without a login that was right.
func TestNoOrderOfStepsLogsIn(t *testing.T) {
	users := people{"ann": {made(t, ScramSHA256, "p")}}
	enabled := []Mechanism{Plain, ScramSHA256}
	tokens := []string{"\x00ann\x00wrong", "n,,n=ann,r=x", "c=biws,r=x,p=AAAA", "", "\x00ann", "n,,n=bob,r=y"}
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		s := NewSession(SASLSSL, Anonymous, "192.0.2.1")
		for now := int64(1); now < 12; now++ {
			if r.IntN(3) == 0 {
				_ = s.Handshake([]string{"PLAIN", "SCRAM-SHA-256", "X"}[r.IntN(3)], r.IntN(2) == 0, enabled, users, now)
			} else {
				_, _, _ = s.Authenticate([]byte(tokens[r.IntN(len(tokens))]), 0, now)
			}
			if s.Known() || s.Principal != "" {
				t.Fatalf("seed %d: known as %q", seed, s.Principal)
			}
		}
	}
}

func TestDamper(t *testing.T) {
	now := time.Unix(1000, 0)
	d := NewDamper(100 * time.Millisecond)
	for i, want := range []time.Duration{100, 300, 700, 1500, 3100, 6300, 10_000, 10_000} { // in one moment: they queue
		if got := d.Failed("192.0.2.1", now); got != want*time.Millisecond {
			t.Errorf("failure %d waits %v, want %v ms", i, got, int64(want))
		}
	}
	if got := d.Failed("192.0.2.2", now); got != 100*time.Millisecond {
		t.Errorf("another address waits %v", got)
	}
	now = now.Add(time.Minute)
	if got := d.Failed("192.0.2.1", now); got != 6400*time.Millisecond {
		t.Errorf("a minute later: %v", got)
	}
	if got := d.Failed("::ffff:192.0.2.1", now); got != 10*time.Second {
		t.Errorf("the same address in its long form: %v", got)
	}
	now = now.Add(forgiven + 1)
	if got := d.Failed("192.0.2.1", now); got != 100*time.Millisecond {
		t.Errorf("long after: %v", got)
	}
	d.Failed("2001:db8::1", now)
	if got := d.Failed("2001:db8::2", now); got != 300*time.Millisecond {
		t.Errorf("a neighbour: %v", got)
	}
	for i := range 3 * damperMax {
		d.Failed(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).String(), now)
	}
	if len(d.failed) > damperMax {
		t.Errorf("%d addresses are remembered", len(d.failed))
	}
	if NewDamper(0).Failed("192.0.2.1", now) != 0 || d.Failed("?", now) == 0 {
		t.Error("no delay, or no address")
	}
}

// FuzzToken: whatever a stranger says, it neither logs in nor panics, and is told nothing but the challenge.
func FuzzToken(f *testing.F) {
	users := people{"ann": {made(f, ScramSHA256, RandomPassword())}}
	f.Add(uint8(0), []byte("n,,n=ann,r=abc"), []byte("c=biws,r=abc,p=AAAA"))
	f.Add(uint8(0), []byte("n,a=ann,n=ann,r=abc,x=y"), []byte("c=biws,r=abc,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts="))
	f.Add(uint8(0), []byte("y,,n=a=2Cb=3D,r="), []byte(""))
	f.Add(uint8(1), []byte("\x00ann\x00p"), []byte("x"))
	f.Fuzz(func(t *testing.T, kind uint8, first, second []byte) {
		m := []Mechanism{ScramSHA256, Plain}[kind%2]
		s := NewSession(SASLPlaintext, Anonymous, "")
		if err := s.Handshake(m.String(), false, []Mechanism{m}, users, 1); err != nil {
			t.Fatal(err)
		}
		for _, token := range [][]byte{first, second, first} {
			reply, _, err := s.Authenticate(token, 0, 1)
			if s.Known() || s.Principal != "" {
				t.Fatalf("%q and %q log in as %s", first, second, s.Principal)
			}
			if err == nil && !bytes.HasPrefix(reply, []byte("r=")) || err != nil && reply != nil {
				t.Fatalf("%q is answered %q, %v", token, reply, err)
			}
			if err != nil && !errors.Is(err, ErrAuthentication) && !errors.Is(err, ErrState) {
				t.Fatal(err)
			}
			if len(reply) > 8<<10 {
				t.Fatalf("an answer of %d bytes", len(reply))
			}
		}
	})
}
