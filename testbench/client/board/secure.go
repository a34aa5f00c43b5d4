package board

import (
	"bytes"
	"context"
	"crypto/x509/pkix"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"millrace/broker/auth/authtest"
	"millrace/platform/config"
)

// The people of a Secure board: Ann may read and write the topic "open", use any group and see MQTT's $SYS/#; the holder of Ann's certificate
// is she. The topic "shut" exists, and she may not see it.
const (
	Ann      = "ann"
	Password = "open sesame, 1001 n1ghts"
)

// Secure is a board that asks everybody who they are.
type Secure struct {
	*Board
	// Certs holds ca.crt, and NAME.crt, NAME.key and NAME.pem (both) for board, ann, late (expired) and stranger (of another
	// authority).
	Certs string
	log   *record
}

// record is the board's log.
type record struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.Write(p)
}

// Address is the one of a protocol: SASL_PLAINTEXT, SASL_SSL or SSL.
func (s *Secure) Address(protocol string) string {
	at := map[string]int{"SASL_PLAINTEXT": 0, "SASL_SSL": 1, "SSL": 2}
	return strings.Replace(s.Addresses().Kafka[at[protocol]], "127.0.0.1", "localhost", 1)
}

// StartSecure opens a board with all kinds of listeners. When the test ends its log must hold none of the secrets.
func StartSecure(t testing.TB, change func(*config.Config)) *Secure {
	t.Helper()
	s := &Secure{Certs: t.TempDir(), log: &record{}}
	ca := authtest.NewAuthority(t)
	ca.WriteAuthority(s.Certs)
	hour := time.Now().Add(time.Hour)
	s.issue(t, ca, "board", hour)
	s.issue(t, ca, Ann, hour)
	s.issue(t, ca, "late", time.Now().Add(-time.Minute))
	s.issue(t, authtest.NewAuthority(t), "stranger", hour)
	s.Board = StartLogging(t, slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})), func(c *config.Config) {
		b := &c.Broker
		b.Listeners = []string{"SASL_PLAINTEXT://127.0.0.1:0", "SASL_SSL://127.0.0.1:0", "SSL://127.0.0.1:0"}
		b.FailureDelay, b.ClientAuth = 10*time.Millisecond, "required"
		b.MappingRules = []string{"RULE:^CN=([^,]+).*$/$1/"}
		c.Security = config.Security{
			CertFile: filepath.Join(s.Certs, "board.crt"), KeyFile: filepath.Join(s.Certs, "board.key"), ClientCAFile: filepath.Join(s.Certs, "ca.crt"),
		}
		if change != nil {
			change(c)
		}
	})
	s.people(t)
	t.Cleanup(func() {
		s.log.mu.Lock()
		defer s.log.mu.Unlock()
		if s.log.b.Len() == 0 {
			t.Error("there is no log to look for secrets in")
		}
		for _, secret := range []string{Password, s.AdminPassword(), "PRIVATE KEY", "wrong password"} {
			if bytes.Contains(s.log.b.Bytes(), []byte(secret)) {
				t.Errorf("%q is in the log:\n%s", secret, s.log.b.Bytes())
			}
		}
	})
	return s
}

func (s *Secure) issue(t testing.TB, ca *authtest.Authority, name string, end time.Time) {
	t.Helper()
	cert, key := ca.Write(s.Certs, name, ca.Issue(pkix.Name{CommonName: name, Organization: []string{"Example"}}, end))
	var both []byte
	for _, file := range []string{key, cert} {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		both = append(both, raw...)
	}
	if err := os.WriteFile(filepath.Join(s.Certs, name+".pem"), both, 0o600); err != nil {
		t.Fatal(err)
	}
}

// people makes Ann, her topics, and what she may do.
func (s *Secure) people(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(s.Address("SASL_PLAINTEXT")), kgo.SASL(scram.Auth{User: "admin", Pass: s.AdminPassword()}.AsSha512Mechanism()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	for _, m := range []kadm.ScramMechanism{kadm.ScramSha256, kadm.ScramSha512} {
		r, err := admin.AlterUserSCRAMs(ctx, nil, []kadm.UpsertSCRAM{{User: Ann, Mechanism: m, Iterations: 4096, Password: Password}})
		if err != nil || r.Error() != nil {
			t.Fatal(err, r.Error())
		}
	}
	for _, topic := range []string{"open", "shut"} {
		if _, err := admin.CreateTopic(ctx, 1, 1, nil, topic); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range []*kadm.ACLBuilder{
		kadm.NewACLs().Allow("User:"+Ann).AllowHosts("*").Topics("open").Operations(kmsg.ACLOperationRead, kmsg.ACLOperationWrite).ResourcePatternType(kmsg.ACLResourcePatternTypeLiteral),
		kadm.NewACLs().Allow("User:" + Ann).AllowHosts("*").Topics("mqtt:$SYS/#").Operations(kmsg.ACLOperationRead).ResourcePatternType(kmsg.ACLResourcePatternTypeLiteral),
		kadm.NewACLs().Allow("User:" + Ann).AllowHosts("*").Groups("*").Operations(kmsg.ACLOperationRead).ResourcePatternType(kmsg.ACLResourcePatternTypeLiteral),
	} {
		results, err := admin.CreateACLs(ctx, b)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range results {
			if r.Err != nil {
				t.Fatal(r.Err, r.ErrMessage)
			}
		}
	}
}
