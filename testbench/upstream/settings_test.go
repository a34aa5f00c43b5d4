// Package upstream holds the lanes in which a board and an Apache Kafka are two programs.
package upstream

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/broker"
	"millrace/testbench/client/drill"
	"millrace/testbench/client/kafka"
	"millrace/testbench/lane"
	"millrace/testbench/process"
)

func TestMain(m *testing.M) { os.Exit(kafka.EndShared(process.Main(m))) }

// password has what must not be taken for the end of a value.
const password = "pa;s:s w#rd"

// desk is where the files of a test lie.
type desk struct {
	t   *testing.T
	dir string
}

func (d *desk) file(name, text string) string {
	d.t.Helper()
	name = filepath.Join(d.dir, name)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
	return name
}

// link is an [[upstream]] with the settings that differ, a topic of its name, and those that all have.
func link(c *kafka.Cluster, name string, settings ...string) string {
	return fmt.Sprintf("[[upstream]]\nname = %q\nbootstrap.servers = [%q]\nsecurity.protocol = \"SASL_SSL\"\nssl.ca.location = %q\n"+
		"ssl.certificate.location = %q\nssl.key.location = %q\nreconnect.backoff.ms = 50\nreconnect.backoff.max.ms = 200\ntopics = [\"%s.*\"]\n%s\n",
		name, c.Bootstrap()[0], filepath.Join(c.Certs, "ca.crt"), filepath.Join(c.Certs, "client.crt"), filepath.Join(c.Certs, "client.key"), name, strings.Join(settings, "\n"))
}

// linksOf asks a board how its links are.
func linksOf(ctx context.Context, dir string) (map[string]broker.LinkStatus, error) {
	raw, err := broker.Ask(ctx, dir, "upstream")
	if err != nil {
		return nil, err
	}
	var list []broker.LinkStatus
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, err
	}
	all := map[string]broker.LinkStatus{}
	for _, s := range list {
		all[s.Name] = s
	}
	return all, nil
}

// Every way to log in at an Apache Kafka that the settings know delivers what the board was given, and one that does not let
// the board in is told of, with its reason and without any secret, and holds up nothing.
func TestEveryLogin(t *testing.T) {
	t.Parallel()
	c := kafka.Start(t, kafka.Options{
		Protocol: "SASL_SSL", Mechanisms: []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"}, Users: map[string]string{"board": password},
		ClientCertificates: true,
	})
	token, err := kafka.Token("board", time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{}, 100)
	giver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, secret, ok := r.BasicAuth(); !ok || user != "board" || secret != "client-secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		asked <- struct{}{}
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": token, "expires_in": 3600})
	}))
	t.Cleanup(giver.Close)
	d := &desk{t, t.TempDir()}
	secret := d.file("secret", password+"\n")
	login := func(mechanism, file string) string {
		return fmt.Sprintf("sasl.mechanism = %q\nsasl.username = \"board\"\nsasl.password.file = %q", mechanism, file)
	}
	good := []string{"plain", "scram256", "scram512", "token", "asked"}
	settings := link(c, "plain", login("PLAIN", secret), `compression.type = "lz4"`) +
		link(c, "scram256", login("SCRAM-SHA-256", secret), `compression.type = "none"`) +
		link(c, "scram512", login("SCRAM-SHA-512", secret), "num.partitions = 3", `naming = "site.{topic}"`) +
		link(c, "token", `sasl.mechanism = "OAUTHBEARER"`, fmt.Sprintf("sasl.oauthbearer.token.file = %q", d.file("token", token))) +
		link(c, "asked", `sasl.mechanism = "OAUTHBEARER"`, fmt.Sprintf("sasl.oauthbearer.token.endpoint.url = %q", giver.URL),
			`sasl.oauthbearer.client.id = "board"`, fmt.Sprintf("sasl.oauthbearer.client.secret.file = %q", d.file("client", "client-secret")))
	bad := map[string]string{ // what is told of it
		"wrong":    "SASL",
		"stranger": "certificate",
		"unknown":  "certificate",
	}
	settings += link(c, "wrong", login("SCRAM-SHA-512", d.file("wrong", "another-secret")))
	strange := link(c, "stranger", login("PLAIN", secret))
	strange = strings.ReplaceAll(strange, filepath.Join(c.Certs, "client."), filepath.Join(c.Certs, "stranger."))
	settings += strange + strings.Replace(link(c, "unknown", login("PLAIN", secret)), "ssl.ca.location", "#", 1)

	dir := filepath.Join(t.TempDir(), "data")
	p := process.StartIn(t, dir, settings)
	client, err := kgo.NewClient(kgo.SeedBrokers(p.Kafka), kgo.AllowAutoTopicCreation())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	ctx, cancel := context.WithTimeout(t.Context(), lane.Patience)
	defer cancel()
	var want []drill.Record
	var topics []string
	placed := kgo.StickyKeyPartitioner(nil).ForTopic("") // as Kafka's own clients do
	for _, name := range append(good, "wrong", "stranger", "unknown") {
		for i := range 20 {
			r := &kgo.Record{
				Topic: name + ".t", Key: fmt.Appendf(nil, "key-%d", i%7), Value: fmt.Appendf(nil, "value %d of %s", i, name), Timestamp: time.UnixMilli(1_700_000_000_000 + int64(i)),
				Headers: []kgo.RecordHeader{{Key: "unit", Value: []byte("C")}},
			}
			if i == 3 {
				r.Value = nil
			}
			if err := client.ProduceSync(ctx, r).FirstErr(); err != nil {
				t.Fatal(err)
			}
			if bad[name] != "" {
				continue
			}
			if name == "scram512" {
				r.Topic, r.Partition = "site."+r.Topic, int32(placed.Partition(r, 3))
			}
			want = append(want, drill.FromClient(r))
		}
		if bad[name] == "" {
			topics = append(topics, want[len(want)-1].Topic)
		}
	}
	lane.Until(t, "the good links have delivered, the others say why not", func(ctx context.Context) error {
		all, err := linksOf(ctx, dir)
		if err != nil {
			return err
		}
		for _, name := range good {
			if s := all[name]; s.State != "idle" || s.Sent != 20 || s.Records != 0 || s.Trouble != "" {
				return fmt.Errorf("%s: %+v", name, s)
			}
		}
		for name, why := range bad {
			if s := all[name]; s.State != "connecting" || s.Records != 20 || !strings.Contains(s.Trouble, why) {
				return fmt.Errorf("%s: %+v", name, s)
			}
		}
		return nil
	})
	got, err := drill.Committed(ctx, topics, kgo.SeedBrokers(c.Direct()...))
	if err != nil {
		t.Fatal(err)
	}
	// On a machine that nobody tells the time its stamps are not what was written, and each record says so.
	for i := range got {
		if n := len(got[i].Headers); n > 0 && got[i].Headers[n-1].Key == "millrace.clock" {
			got[i].Headers, got[i].Timestamp = got[i].Headers[:n-1], 0
		}
	}
	if got[0].Timestamp == 0 {
		for i := range want {
			want[i].Timestamp = 0
		}
	}
	if err := drill.Compare(want, got); err != nil {
		t.Error(err)
	}
	if len(asked) == 0 {
		t.Error("nobody asked for a token")
	}
	for _, what := range []string{"logs", "upstream", "status", "config", "metrics"} {
		text, err := broker.Ask(ctx, dir, what)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{password, token, "client-secret", "another-secret"} {
			if strings.Contains(string(text), secret) {
				t.Errorf("%s tells %q", what, secret)
			}
		}
	}

	// A pause is kept by a board that is killed, and what it held up is delivered when it ends.
	process.Run(t, "upstream", "pause", "plain", "--data", dir)
	p.Kill()
	p.Start()
	if err := client.ProduceSync(ctx, &kgo.Record{Topic: "plain.t", Value: []byte("late")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if all, err := linksOf(ctx, dir); err != nil || all["plain"].State != "paused" || all["plain"].Sent != 0 {
		t.Errorf("%+v, %v", all["plain"], err)
	}
	process.Run(t, "upstream", "resume", "plain", "--data", dir)
	lane.Until(t, "what was held up is delivered", func(ctx context.Context) error {
		all, err := linksOf(ctx, dir)
		if s := all["plain"]; err == nil && (s.State != "idle" || s.Sent != 1 || s.Records != 0) {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
	after, err := drill.Committed(ctx, []string{"plain.t"}, kgo.SeedBrokers(c.Direct()...))
	if err != nil || len(after) != 21 || string(after[20].Value) != "late" {
		t.Errorf("%d records, %v", len(after), err)
	}
}
