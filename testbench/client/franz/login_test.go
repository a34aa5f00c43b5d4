package franz

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"millrace/platform/config"
	"millrace/testbench/client/board"
)

func withSASL(c *config.Config) {
	c.Broker.Listeners = []string{"SASL_PLAINTEXT://127.0.0.1:0"}
	c.Broker.FailureDelay = time.Millisecond
}

// mechanisms are ways to log in with the same name and password.
func mechanisms(user, password string) map[string]sasl.Mechanism {
	s := scram.Auth{User: user, Pass: password}
	return map[string]sasl.Mechanism{
		"PLAIN": plain.Auth{User: user, Pass: password}.AsMechanism(), "SCRAM-SHA-256": s.AsSha256Mechanism(), "SCRAM-SHA-512": s.AsSha512Mechanism(),
	}
}

// login tries one way.
func login(t *testing.T, b *board.Board, m sasl.Mechanism) error {
	t.Helper()
	c := client(t, b, kgo.SASL(m), kgo.RetryTimeout(time.Second), kgo.RequestRetries(0))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return c.Ping(ctx)
}

func TestLogins(t *testing.T) {
	b := board.Start(t, withSASL)
	secret := b.AdminPassword()
	boss := kadm.NewClient(client(t, b, kgo.SASL(mechanisms("admin", secret)["SCRAM-SHA-512"])))
	ctx := within(t)
	for _, m := range []kadm.ScramMechanism{kadm.ScramSha256, kadm.ScramSha512} {
		r, err := boss.AlterUserSCRAMs(ctx, nil, []kadm.UpsertSCRAM{{User: "ann, =ä", Mechanism: m, Iterations: 4096, Password: "p a=ss"}})
		if err != nil || r.Error() != nil {
			t.Fatalf("%v, %v", err, r.Error())
		}
	}
	users, err := boss.DescribeUserSCRAMs(ctx)
	if err != nil || len(users) != 2 || len(users["ann, =ä"].CredInfos) != 2 || users["admin"].CredInfos[0].Iterations != 4096 {
		t.Fatalf("%+v, %v", users, err)
	}
	for round := range 2 {
		for name, m := range mechanisms("ann, =ä", "p a=ss") {
			if err := login(t, b, m); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for name, m := range mechanisms("ann, =ä", "wrong") {
			if err := login(t, b, m); !errors.Is(err, kerr.SaslAuthenticationFailed) {
				t.Errorf("%s with a wrong password: %v", name, err)
			}
		}
		for name, m := range mechanisms("nobody", "p a=ss") {
			if err := login(t, b, m); !errors.Is(err, kerr.SaslAuthenticationFailed) {
				t.Errorf("%s of nobody: %v", name, err)
			}
		}
		if round == 0 {
			b.Restart() // users and secret outlive it
			if b.AdminPassword() != secret {
				t.Fatal("the secret was drawn anew")
			}
		}
	}
	boss = kadm.NewClient(client(t, b, kgo.SASL(mechanisms("admin", secret)["PLAIN"])))
	del := []kadm.DeleteSCRAM{{User: "ann, =ä", Mechanism: kadm.ScramSha256}}
	if r, err := boss.AlterUserSCRAMs(within(t), del, nil); err != nil || r.Error() != nil {
		t.Fatalf("%v, %v", err, r.Error())
	}
	if r, err := boss.AlterUserSCRAMs(within(t), del, nil); err != nil || !errors.Is(r.Error(), kerr.ResourceNotFound) {
		t.Errorf("what is deleted is deleted again: %v, %v", err, r.Error())
	}
	for name, m := range mechanisms("ann, =ä", "p a=ss") {
		if err := login(t, b, m); (err == nil) == (name == "SCRAM-SHA-256") {
			t.Errorf("%s after its credential was deleted: %v", name, err)
		}
	}
}

// A login that is good for a second is renewed by the client, in the middle of its work (KIP-368).
func TestReauthentication(t *testing.T) {
	b := board.Start(t, func(c *config.Config) {
		withSASL(c)
		c.Broker.MaxReauth = 2 * time.Second
	})
	logins := 0
	m := scram.Sha256(func(context.Context) (scram.Auth, error) {
		logins++
		return scram.Auth{User: "admin", Pass: b.AdminPassword()}, nil
	})
	c := client(t, b, kgo.SASL(m), kgo.DefaultProduceTopic("t"), kgo.AllowAutoTopicCreation(), kgo.RequestRetries(0))
	ctx := within(t)
	for begin := time.Now(); time.Since(begin) < 6*time.Second; {
		if err := c.ProduceSync(ctx, kgo.StringRecord("x")).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	c.Close()
	if logins < 3 {
		t.Errorf("%d logins", logins)
	}
}
