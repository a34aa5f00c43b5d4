package broker

import (
	"crypto/tls"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/broker/auth"
	"millrace/broker/auth/authtest"
	"millrace/broker/catalog"
	"millrace/broker/disk"
	"millrace/broker/rest"
	"millrace/broker/rest/resttest"
	"millrace/platform/config"
)

// asked sends a request to a board's HTTP door and holds the answer against the description.
func asked(t *testing.T, client *http.Client, base, path string, change func(*http.Request)) (status int, text string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(r)
	}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	described := path
	if strings.HasPrefix(path, "/topics/") {
		described = "/topics/{topic}/records"
	}
	resttest.Read(t, rest.OpenAPI()).Answer(http.MethodGet, described, resp.StatusCode, resp.Header, raw)
	return resp.StatusCode, string(raw)
}

// blind is a disk whose filesystem stops answering.
type blind struct {
	disk.OS
	now *bool
}

func (d blind) Usage(path string) (disk.Usage, error) {
	if *d.now {
		return disk.Usage{}, errors.New("no answer")
	}
	return d.OS.Usage(path)
}

// Every path of the listener is described, and what is described there is what it answers. Records are held against the
// description in package rest.
func TestTheListenerIsDescribed(t *testing.T) {
	seen := make(map[string]bool)
	ask := func(client *http.Client, base, path string, change func(*http.Request)) {
		t.Helper()
		status, _ := asked(t, client, base, path, change)
		seen[fmt.Sprint("GET ", path, " ", status)] = true
	}
	dark := false
	b := boardOn(t, blind{now: &dark}, t.TempDir(), func(c *config.Config) { c.HTTP.Listener = "127.0.0.1:0" })
	base := "http://" + b.Addresses().HTTP[0]
	paths := []string{"/metrics", "/healthz", "/readyz"}
	for _, path := range paths {
		ask(http.DefaultClient, base, path, nil)
	}
	dark = true
	for !b.space.Blind() {
		b.space.Refresh(0)
	}
	ask(http.DefaultClient, base, "/readyz", nil)
	still := b.vitals.Part("nothing", 0)
	ask(http.DefaultClient, base, "/healthz", nil)
	still.End()

	// Where others can reach it, figures are for who may see the cluster.
	ca := authtest.NewAuthority(t)
	secured := board(t, t.TempDir(), func(c *config.Config) { secure(t, c, ca) })
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool(), ServerName: "localhost"}}}
	t.Cleanup(client.CloseIdleConnections)
	made(t, secured, "t", 1, nil)
	open := "https://" + strings.Replace(secured.Addresses().HTTP[0], "[::]", "127.0.0.1", 1)
	user(t, secured, "ann")
	ask(client, open, "/metrics", nil)
	ask(client, open, "/metrics", func(r *http.Request) { r.SetBasicAuth("ann", "secret of ann") })
	if status, _ := asked(t, client, open, "/metrics", func(r *http.Request) { r.SetBasicAuth("admin", adminSecret(t, secured)) }); status != http.StatusOK {
		t.Errorf("the admin's figures: %d", status)
	}

	var want []string
	for _, a := range resttest.Read(t, rest.OpenAPI()).Answers() {
		if slices.ContainsFunc(paths, func(p string) bool { return strings.HasPrefix(a, "GET "+p+" ") }) {
			want = append(want, a)
		}
	}
	if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, want) {
		t.Errorf("seen %v, described %v", got, want)
	}
	var served []string
	for _, o := range b.http.Operations() {
		methods, path, _ := strings.Cut(o, " /")
		for m := range strings.SplitSeq(methods, ", ") {
			if m != http.MethodHead {
				served = append(served, m+" /"+path)
			}
		}
	}
	described := make(map[string]bool)
	for _, a := range resttest.Read(t, rest.OpenAPI()).Answers() {
		described[a[:strings.LastIndex(a, " ")]] = true
	}
	slices.Sort(served)
	if all := slices.Sorted(maps.Keys(described)); !slices.Equal(all, served) {
		t.Errorf("served are %v, described %v", served, all)
	}
}

// secure has a board ask everybody who they are, at an HTTP door with TLS on all addresses.
func secure(t *testing.T, c *config.Config, ca *authtest.Authority) {
	t.Helper()
	dir := t.TempDir()
	cert, key := ca.Write(dir, "board", ca.Issue(pkix.Name{CommonName: "board"}, time.Now().Add(time.Hour)))
	c.Security = config.Security{CertFile: cert, KeyFile: key, ClientCAFile: ca.WriteAuthority(dir)}
	c.Broker.Listeners, c.Broker.FailureDelay, c.Broker.ClientAuth = []string{"SASL_PLAINTEXT://127.0.0.1:0"}, 0, "requested"
	c.Broker.MappingRules = []string{"RULE:^CN=([^,]+).*$/$1/"}
	c.HTTP.Listener = "https://0.0.0.0:0"
}

// user makes one with a password of their own.
func user(t *testing.T, b *Broker, name string) {
	t.Helper()
	c, err := auth.NewCredential(auth.ScramSHA256, "secret of "+name, auth.IterationsMin)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Propose(t.Context(), catalog.UpsertCredential{User: name, Credential: c}); err != nil {
		t.Fatal(err)
	}
}

// adminSecret is the password that the first start has drawn.
func adminSecret(t *testing.T, b *Broker) string {
	t.Helper()
	secret, ok := revealed.Load(b.dir())
	if !ok {
		t.Fatal("no secret was shown")
	}
	return secret.(string)
}

// A certificate is as good as a login, an expired one ends the connection, and a new one is shown after a reload.
func TestHTTPS(t *testing.T) {
	ca := authtest.NewAuthority(t)
	b := board(t, t.TempDir(), func(c *config.Config) { secure(t, c, ca) })
	made(t, b, "t", 1, nil)
	if _, err := b.Propose(t.Context(), catalog.AddACLs{ACLs: []auth.ACL{{Type: auth.Topic, Name: "t", Pattern: auth.Literal, Principal: auth.User("ann"), Host: auth.Wildcard, Operation: auth.Read, Permission: auth.Allow}}}); err != nil {
		t.Fatal(err)
	}
	base := "https://" + strings.Replace(b.Addresses().HTTP[0], "[::]", "127.0.0.1", 1)
	with := func(name string, end time.Time) (*http.Client, *x509Seen) {
		seen := &x509Seen{}
		config := &tls.Config{RootCAs: ca.Pool(), ServerName: "localhost", VerifyConnection: seen.note}
		if name != "" {
			config.Certificates = []tls.Certificate{ca.Issue(pkix.Name{CommonName: name}, end)}
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
		t.Cleanup(client.CloseIdleConnections)
		return client, seen
	}
	hour := time.Now().Add(time.Hour)
	for name, want := range map[string]int{"": 401, "ann": 200, "bob": 403} {
		client, _ := with(name, hour)
		if status, text := asked(t, client, base, "/topics/t/records", nil); status != want {
			t.Errorf("%q: %d %s, want %d", name, status, text, want)
		}
	}
	late, _ := with("ann", time.Now().Add(-time.Minute))
	if resp, err := late.Get(base + "/healthz"); err == nil {
		t.Errorf("an expired certificate: %s, %v", resp.Status, resp.Body.Close())
	}
	client, seen := with("ann", hour)
	if resp, err := client.Get("http://" + strings.TrimPrefix(base, "https://") + "/healthz"); err != nil || resp.StatusCode != http.StatusBadRequest || resp.Body.Close() != nil {
		t.Errorf("without TLS: %v", err)
	}
	asked(t, client, base, "/healthz", nil)
	first := seen.serial
	s := b.config.Settings
	ca.Write(strings.TrimSuffix(s.Security.CertFile, "/board.crt"), "board", ca.Issue(pkix.Name{CommonName: "board"}, hour))
	if _, _, err := b.Reload(s); err != nil {
		t.Fatal(err)
	}
	client.CloseIdleConnections()
	if asked(t, client, base, "/healthz", nil); seen.serial == first {
		t.Error("the old certificate is shown after a reload")
	}
}

// x509Seen notes the certificate that the board has shown.
type x509Seen struct{ serial string }

func (s *x509Seen) note(c tls.ConnectionState) error {
	s.serial = c.PeerCertificates[0].SerialNumber.String()
	return nil
}
