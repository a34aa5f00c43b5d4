package broker

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"millrace/broker/auth"
	"millrace/broker/catalog"
	"millrace/platform/config"
)

// sasl has a board ask who its clients are.
func sasl(c *config.Config) { c.Broker.Listeners = []string{"SASL_PLAINTEXT://127.0.0.1:0"} }

// opened is a board with settings of its own, whose first secret goes to reveal. The caller closes it.
func opened(t *testing.T, dir string, change func(*config.Config), reveal func(user, secret string) error) *Broker {
	t.Helper()
	s := config.Default()
	s.Broker.LogDirs, s.Broker.ClusterAlias = dir, "test"
	s.Broker.Listeners, s.MQTT.Listeners, s.HTTP.Listener = []string{"PLAINTEXT://127.0.0.1:0"}, []string{"tcp://127.0.0.1:0"}, ""
	if change != nil {
		change(s)
	}
	b, err := Open(t.Context(), Config{Settings: s, Reveal: reveal})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// nowhere wants no file below dir to hold any of the secrets, and returns how many it looked at.
func nowhere(t *testing.T, dir string, secrets ...string) (files int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(name)
		for _, secret := range secrets {
			if bytes.Contains(raw, []byte(secret)) {
				t.Errorf("%s holds the secret", name)
			}
		}
		files++
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestTheFirstAdmin(t *testing.T) {
	dir := t.TempDir()
	t.Run("nobody is asked", func(t *testing.T) {
		b := board(t, dir, nil)
		if _, shown := revealed.Load(dir); shown || b.quorum.Image().UserCount() != 0 {
			t.Error("a user was made")
		}
	})
	t.Run("a secret that could not be shown", func(t *testing.T) {
		for _, reveal := range []func(string, string) error{nil, func(string, string) error { return errors.New("no console") }} {
			b := opened(t, dir, sasl, reveal)
			if b.quorum.Image().UserCount() != 0 {
				t.Error("there is a user whose secret nobody knows")
			}
			closed(t, b)
		}
	})
	t.Run("first start", func(t *testing.T) {
		b := board(t, dir, sasl)
		password := adminSecret(t, b)
		for _, m := range []auth.Mechanism{auth.ScramSHA256, auth.ScramSHA512} {
			if c, ok := b.quorum.Image().Credential("admin", m); !ok || !c.Matches(password) || c.Matches(password+"x") {
				t.Errorf("%s: the secret is not the admin's", m)
			}
		}
		// Base64 of it would be clear enough.
		if n := nowhere(t, dir, password, base64.StdEncoding.EncodeToString([]byte(password))); n < 5 {
			t.Errorf("only %d files were looked at", n)
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
		revealed.Delete(dir)
	})
	t.Run("an admin who was deleted stays deleted", func(t *testing.T) {
		b := board(t, dir, sasl)
		if _, shown := revealed.Load(dir); shown || b.quorum.Image().User("admin") != nil {
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
		nowhere(t, dir, `a,b"`)
		provisioned := *b.config.Settings
		// Whoever takes the file away again, or spoils it, keeps nobody out and stops no start.
		for _, change := range []func() error{
			func() error { return os.WriteFile(file, []byte("x"), 0o600) },
			func() error { return os.Remove(file) },
		} {
			closed(t, b)
			if err := change(); err != nil {
				t.Fatal(err)
			}
			b = opened(t, dir, func(c *config.Config) { *c = provisioned }, nil)
			if !auth.CheckPassword(b.quorum.Image(), "admin", "x") {
				t.Error("the admin is gone")
			}
		}
		closed(t, b)
		provisioned.Broker.LogDirs = t.TempDir()
		if b, err := Open(t.Context(), Config{Settings: &provisioned}); err == nil {
			closed(t, b)
			t.Error("a board that nobody can log in to starts without the file that says who can")
		}
	})
}

// What everybody tries first lets nobody in at any door, and no two boards have one secret.
func TestThereIsNoDefaultPassword(t *testing.T) {
	secrets := make(map[string]bool)
	for range 2 {
		b := board(t, t.TempDir(), func(c *config.Config) {
			sasl(c)
			c.Broker.FailureDelay, c.HTTP.Listener = 0, "127.0.0.1:0"
		})
		made(t, b, "t", 1, nil)
		secret := adminSecret(t, b)
		secrets[secret] = true
		if len(secret) < 32 {
			t.Errorf("%d letters", len(secret))
		}
		ask := func(user, password string) int {
			status, _ := asked(t, http.DefaultClient, "http://"+b.Addresses().HTTP[0], "/topics/t/records", func(r *http.Request) {
				r.SetBasicAuth(user, password)
			})
			return status
		}
		for _, user := range []string{"admin", "root", "millrace", "user", "test", "guest", "kafka", "mqtt", "pi", "ANONYMOUS", ""} {
			for _, password := range []string{"", user, "admin", "password", "changeme", "secret", "millrace", "admin-secret", "default", "1234", "12345678", b.Meta().ClusterID, "test"} {
				if status := ask(user, password); status != http.StatusUnauthorized {
					t.Errorf("%s with %q: %d", user, password, status)
				}
			}
		}
		if status := ask("admin", secret); status != http.StatusOK {
			t.Errorf("the secret that was shown lets nobody in: %d", status)
		}
	}
	if len(secrets) != 2 {
		t.Error("two boards have one secret")
	}
}

// Older versions kept the secret in a file. It goes as soon as its owner has seen it, if it still counts.
func TestTheFileOfAnOlderVersionGoes(t *testing.T) {
	for _, tt := range []struct {
		name, counts string
		fail         bool
		shown, stays bool
	}{
		{name: "it counts", counts: "s3cret", shown: true},
		{name: "it was changed", counts: "another"},
		{name: "it counts and cannot be shown", counts: "s3cret", fail: true, stays: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			b := opened(t, dir, nil, nil)
			c, err := auth.NewCredential(auth.ScramSHA512, tt.counts, 4096)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.quorum.Propose(t.Context(), catalog.UpsertCredential{User: "admin", Credential: c}); err != nil {
				t.Fatal(err)
			}
			closed(t, b)
			file := filepath.Join(dir, oldAdminFile)
			if err := os.WriteFile(file, []byte("sasl.jaas.config=x required username=\"admin\" password=\"s3cret\";\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			shown := ""
			b = opened(t, dir, sasl, func(_, secret string) error {
				if tt.fail {
					return errors.New("no console")
				}
				shown = secret
				return nil
			})
			defer closed(t, b)
			if (shown == "s3cret") != tt.shown || !tt.shown && shown != "" {
				t.Errorf("%q was shown", shown)
			}
			if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) == tt.stays {
				t.Error(err)
			}
			if !auth.CheckPassword(b.quorum.Image(), "admin", tt.counts) {
				t.Error("the admin cannot log in any more")
			}
		})
	}
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
