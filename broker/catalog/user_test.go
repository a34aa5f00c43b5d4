package catalog

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"millrace/broker/auth"
)

func credential(m auth.Mechanism) auth.Credential {
	return auth.Credential{
		Mechanism: m, Iterations: auth.IterationsMin, Salt: bytes.Repeat([]byte{1}, auth.SaltMin),
		StoredKey: bytes.Repeat([]byte{2}, m.Size()), ServerKey: bytes.Repeat([]byte{3}, m.Size()),
	}
}

// entry lets everybody read a topic.
func entry(topic string) auth.ACL {
	return auth.ACL{
		Type: auth.Topic, Pattern: auth.Literal, Name: topic, Principal: "User:*", Host: "*", Operation: auth.Read, Permission: auth.Allow,
	}
}

func drawCredential(t *rapid.T) UpsertCredential {
	c := credential(rapid.SampledFrom([]auth.Mechanism{auth.ScramSHA256, auth.ScramSHA512}).Draw(t, "mechanism"))
	c.Iterations = rapid.Int32Range(auth.IterationsMin, auth.IterationsMax).Draw(t, "iterations")
	return UpsertCredential{User: rapid.SampledFrom([]string{"a", "b", "ä", "c=,"}).Draw(t, "user"), Credential: c}
}

func drawACLs(t *rapid.T) []auth.ACL {
	all := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) auth.ACL {
		a := entry(rapid.SampledFrom([]string{"a", "b", "*"}).Draw(t, "topic"))
		a.Pattern = rapid.SampledFrom([]auth.Pattern{auth.Literal, auth.Prefixed}).Draw(t, "pattern")
		a.Permission = rapid.SampledFrom([]auth.Permission{auth.Allow, auth.Deny}).Draw(t, "permission")
		return a
	}), 0, 4).Draw(t, "acls")
	if len(all) == 0 {
		return nil
	}
	return all
}

func TestUserLife(t *testing.T) {
	img := brokers(t, 1)
	a, b := credential(auth.ScramSHA256), credential(auth.ScramSHA512)
	one := must(t, img, UpsertCredential{"u", b})
	two := must(t, one, UpsertCredential{"u", a})
	stronger := a
	stronger.Iterations = 8192
	three := must(t, two, UpsertCredential{"u", stronger})
	if got, ok := three.Credential("u", auth.ScramSHA256); !ok || got.Iterations != 8192 {
		t.Errorf("%v, %v", got, ok)
	}
	if got, ok := two.Credential("u", auth.ScramSHA256); !ok || got.Iterations != 4096 {
		t.Errorf("the older image changed: %v, %v", got, ok)
	}
	four := must(t, three, DeleteCredential{"u", auth.ScramSHA256})
	five := must(t, four, DeleteCredential{"u", auth.ScramSHA512})
	if one.UserCount() != 1 || four.User("u") == nil || five.User("u") != nil || five.UserCount() != 0 {
		t.Error("users are counted wrong")
	}
	for _, c := range []Command{DeleteCredential{"u", auth.ScramSHA256}, DeleteCredential{"v", auth.ScramSHA512}} {
		if _, err := Apply(four, c); !errors.Is(err, ErrUnknownUser) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestWhatIsNoUserAndNoACL(t *testing.T) {
	img := brokers(t, 1)
	few, many, salt, key, plain := credential(auth.ScramSHA256), credential(auth.ScramSHA256), credential(auth.ScramSHA256), credential(auth.ScramSHA256), credential(auth.ScramSHA256)
	few.Iterations, many.Iterations, salt.Salt, key.StoredKey, plain.Mechanism = 4095, 16385, nil, key.StoredKey[1:], auth.Plain
	for name, tt := range map[string]struct {
		c    Command
		want error
	}{
		"no name":             {UpsertCredential{"", credential(auth.ScramSHA256)}, auth.ErrCredential},
		"a long name":         {UpsertCredential{strings.Repeat("x", auth.UserMax+1), credential(auth.ScramSHA256)}, auth.ErrCredential},
		"too few iterations":  {UpsertCredential{"u", few}, auth.ErrCredential},
		"too many iterations": {UpsertCredential{"u", many}, auth.ErrCredential},
		"no salt":             {UpsertCredential{"u", salt}, auth.ErrCredential},
		"a short key":         {UpsertCredential{"u", key}, auth.ErrCredential},
		"a password":          {UpsertCredential{"u", plain}, auth.ErrMechanism},
		"no entry":            {AddACLs{[]auth.ACL{{}}}, auth.ErrACL},
		"too many entries":    {AddACLs{make([]auth.ACL, MaxACLsPerCommand+1)}, ErrTooMany},
	} {
		if err := Validate(img, tt.c); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	full := &Image{}
	for i := range MaxUsers {
		full.users = append(full.users, &User{Name: fmt.Sprintf("%05d", i), Credentials: []auth.Credential{credential(auth.ScramSHA256)}})
	}
	var all []auth.ACL
	for i := range MaxACLs {
		all = append(all, entry(fmt.Sprint(i)))
	}
	full.acls = auth.NewACLs(all...)
	for _, c := range []Command{UpsertCredential{"u", credential(auth.ScramSHA256)}, AddACLs{[]auth.ACL{entry("x")}}} {
		if err := Validate(full, c); !errors.Is(err, ErrTooMany) {
			t.Errorf("%T where there are as many as may be: %v", c, err)
		}
	}
	for _, c := range []Command{UpsertCredential{"00007", credential(auth.ScramSHA512)}, AddACLs{[]auth.ACL{entry("7")}}} {
		if err := Validate(full, c); err != nil {
			t.Errorf("%T of what is there: %v", c, err)
		}
	}
}

// TestOlderSnapshotsLoad: one of the program that knew no users, byte for byte.
func TestOlderSnapshotsLoad(t *testing.T) {
	old, err := hex.DecodeString(oldSnapshot)
	if err != nil {
		t.Fatal(err)
	}
	img, err := DecodeImage(old)
	if err != nil || img.Topic("a") == nil || img.UserCount() != 0 || img.ACLs().Len() != 0 {
		t.Fatalf("%+v, %v", img, err)
	}
	// Without users and entries it is still written so, and an older program reads it.
	if back, err := img.Encode(); err != nil || !bytes.Equal(back, old) {
		t.Errorf("%x, %v", back, err)
	}
	next := must(t, img, AddACLs{[]auth.ACL{entry("t")}})
	newer, err := next.Encode()
	if err != nil || newer[4] != imageFormat {
		t.Fatalf("format %d, %v", newer[4], err)
	}
	if back, err := must(t, next, RemoveACLs{[]auth.ACL{entry("t"), entry("x")}}).Encode(); err != nil || back[4] != imageFormatBare {
		t.Errorf("format %d, %v", back[4], err)
	}
}

const oldSnapshot = "" +
	"4d52434901020001020168844700000000000000000000000000000000000200010161610000000000000000000000000000" +
	"0102020000010201020200000102010200006e889008"
