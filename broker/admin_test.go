package broker

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/platform/config"
)

func TestTheFirstAdmin(t *testing.T) {
	dir := t.TempDir()
	sasl := func(c *config.Config) { c.Broker.Listeners = []string{"SASL_PLAINTEXT://127.0.0.1:0"} }
	secret := filepath.Join(dir, adminFile)
	read := func() string {
		raw, err := os.ReadFile(secret)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	t.Run("nobody is asked", func(t *testing.T) {
		b := board(t, dir, nil)
		if b.quorum.Image().UserCount() != 0 {
			t.Error("a user was made")
		}
	})
	var first string
	t.Run("first start", func(t *testing.T) {
		// What a start that was killed left must not matter, nor be read by others.
		if err := os.WriteFile(secret+".tmp", []byte("x"), 0o666); err != nil {
			t.Fatal(err)
		}
		b := board(t, dir, sasl)
		first = read()
		_, after, _ := strings.Cut(first, `password="`)
		password, _, _ := strings.Cut(after, `"`)
		if !auth.CheckPassword(b.quorum.Image(), "admin", password) || auth.CheckPassword(b.quorum.Image(), "admin", password+"x") {
			t.Error("the secret is not the admin's")
		}
		info, err := os.Stat(secret)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
		c, err := auth.NewCredential(auth.ScramSHA512, "p", 4096)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []catalog.Command{
			catalog.UpsertCredential{User: "other", Credential: c},
			catalog.DeleteCredential{User: "admin", Mechanism: auth.ScramSHA256},
			catalog.DeleteCredential{User: "admin", Mechanism: auth.ScramSHA512},
		} {
			if _, err := b.quorum.Propose(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("an admin who was deleted stays deleted", func(t *testing.T) {
		b := board(t, dir, sasl)
		if b.quorum.Image().User("admin") != nil || read() != first {
			t.Error("the admin came back")
		}
	})
	t.Run("provisioned", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "scram")
		if err := os.WriteFile(file, []byte("# the fleet's\nSCRAM-SHA-512=[name=admin,iterations=8192,password=\"a,b\\\"\"]\nSCRAM-SHA-256=[password=x]\nSCRAM-SHA-256=[name=other,password=changed]\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		b := board(t, dir, func(c *config.Config) {
			sasl(c)
			c.Security.AdminScramFile = file
		})
		img := b.quorum.Image()
		if c, ok := img.Credential("admin", auth.ScramSHA512); !ok || c.Iterations != 8192 || !c.Matches(`a,b"`) {
			t.Errorf("%v, %v", c, ok)
		}
		if c, ok := img.Credential("admin", auth.ScramSHA256); !ok || !c.Matches("x") {
			t.Errorf("%v, %v", c, ok)
		}
		if !auth.CheckPassword(img, "other", "p") {
			t.Error("a password that was set was set back")
		}
	})
}

func TestScramFiles(t *testing.T) {
	const salt, salted = "MTIzNDU2Nzg5MDEyMzQ1Ng==", "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI="
	for text, good := range map[string]bool{
		`SCRAM-SHA-256=[name=alice,iterations=4096,salt="` + salt + `",saltedpassword="` + salted + `"]`: true,
		`SCRAM-SHA-256=[name=alice,salt=` + salt + `,saltedpassword=` + salted + `]`:                     true,
		`SCRAM-SHA-512=[password="hunter2"]`:                                                             true,
		`SCRAM-SHA-512=[name=alice,salt="` + salt + `",saltedpassword="` + salted + `"]`:                 false,
		`SCRAM-SHA-256=[name=alice,saltedpassword="` + salted + `"]`:                                     false,
		`SCRAM-SHA-256=[name=alice,salt="` + salt + `",password=hunter2]`:                                false,
		`SCRAM-SHA-256=[name=alice]`:                                                                     false,
		`SCRAM-SHA-256=[password=hunter2,iterations=1]`:                                                  false,
		`SCRAM-SHA-256=[password=hunter2,iterations=x]`:                                                  false,
		`SCRAM-SHA-256=[password=hunter2,password=hunter2]`:                                              false,
		`SCRAM-SHA-256=[password="hunter2]`:                                                              false,
		`SCRAM-SHA-256=[password="hunter2"x]`:                                                            false,
		`SCRAM-SHA-256=[hunter2]`:                                                                        false,
		`SCRAM-SHA-256=[hunter2=x]`:                                                                      false,
		`SCRAM-SHA-256=hunter2`:                                                                          false,
		`PLAIN=[password=hunter2]`:                                                                       false,
		`hunter2`:                                                                                        false,
		``:                                                                                               false,
	} {
		_, err := parseScram(text)
		if (err == nil) != good || err != nil && !errors.Is(err, auth.ErrCredential) {
			t.Errorf("%s: %v", text, err)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error tells the secret: %v", err)
		}
	}
}

// FuzzScramFile: whatever is in the file, it is a credential that may be kept or an error that tells nothing of it.
func FuzzScramFile(f *testing.F) {
	f.Add(`SCRAM-SHA-256=[name=a,iterations=4096,salt="MTIzNDU2Nzg5MDEyMzQ1Ng==",saltedpassword="MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI="]`)
	f.Add("SCRAM-SHA-512=[password=\"a\\\"b,\"]\n#\n")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := parseScram(text)
		if err != nil {
			if !errors.Is(err, auth.ErrCredential) {
				t.Fatal(err)
			}
			return
		}
		for _, c := range all {
			if err := c.Credential.Check(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
