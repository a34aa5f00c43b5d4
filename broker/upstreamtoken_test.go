package broker

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/platform/config"
)

// fileOf writes a file and tells its name.
func fileOf(t *testing.T, name, text string) string {
	t.Helper()
	name = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func dialed(ctx context.Context, network, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, address)
}

// A token is asked for as RFC 6749 has it, of a server that shows a certificate, and neither the secret nor the token is told.
func TestATokenIsAskedFor(t *testing.T) {
	const secret, token = "s:e/cret%", "the.token"
	mode := ""
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		user, _ = url.QueryUnescape(user)
		password, _ = url.QueryUnescape(password)
		err := r.ParseForm()
		switch {
		case mode == "moved":
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		case mode == "nothing":
			_, _ = w.Write([]byte("{}"))
		case mode == "much":
			_, _ = w.Write([]byte(`{"access_token":"` + strings.Repeat("x", 2*tokenMax) + `"}`))
		case err != nil || user != "board 1" || password != secret || r.Form.Get("grant_type") != "client_credentials" || r.Form.Get("scope") != "kafka":
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"error":"invalid_client","error_description":"who are you"}`))
		default:
			w.(http.Flusher).Flush() // so that it comes in chunks
			_, _ = w.Write([]byte(`{"access_token":"` + token + `","expires_in":300}`))
		}
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	ca := fileOf(t, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	good := config.Upstream{TokenURL: server.URL + "/token", ClientID: "board 1", ClientSecret: fileOf(t, "secret", secret+"\n"), Scope: "kafka", CAFile: ca}
	for _, tt := range []struct {
		name, mode string
		change     func(*config.Upstream)
		now        time.Time
		want, part string
	}{
		{"good", "", func(*config.Upstream) {}, time.Now(), token, ""},
		{"by a file", "", func(u *config.Upstream) { u.TokenFile = fileOf(t, "token", "filed\r\nrest") }, time.Now(), "filed", ""},
		{"another secret", "", func(u *config.Upstream) { u.ClientSecret = fileOf(t, "secret", "other") }, time.Now(), "", "gives no token: invalid_client who are you"},
		{"moved", "moved", func(*config.Upstream) {}, time.Now(), "", "gives no token: Found"},
		{"nothing in it", "nothing", func(*config.Upstream) {}, time.Now(), "", "answers without an access_token"},
		{"too much", "much", func(*config.Upstream) {}, time.Now(), "", "unexpected EOF"},
		{"a server nobody vouches for", "", func(u *config.Upstream) { u.CAFile = "" }, time.Now(), "", "certificate"},
		{"by the board's clock", "", func(*config.Upstream) {}, time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), "", "certificate has expired or is not yet valid"},
		{"no CA", "", func(u *config.Upstream) { u.CAFile = fileOf(t, "ca", "nothing") }, time.Now(), "", "holds no certificate in PEM"},
		{"no secret", "", func(u *config.Upstream) { u.ClientSecret = "nowhere" }, time.Now(), "", "no such file"},
		{"an empty one", "", func(u *config.Upstream) { u.ClientSecret = fileOf(t, "secret", "\n") }, time.Now(), "", "its first line is empty"},
	} {
		mode = tt.mode
		u := good
		tt.change(&u)
		got, err := tokenOf(t.Context(), &u, dialed, func() time.Time { return tt.now })
		switch {
		case tt.part == "" && (err != nil || got != tt.want):
			t.Errorf("%s: %q, %v", tt.name, got, err)
		case tt.part != "" && (err == nil || got != "" || !strings.Contains(err.Error(), tt.part)):
			t.Errorf("%s: %q, %v, want %s", tt.name, got, err, tt.part)
		case err != nil && (strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), token)):
			t.Errorf("%s: the secret is told: %v", tt.name, err)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := tokenOf(gone, &good, dialed, time.Now); err == nil {
		t.Error("asked although nobody waits")
	}
}

// What a link encrypts with is read from its files, each time anew.
func TestALinkIsSecured(t *testing.T) {
	if c, err := secured(&config.Upstream{Protocol: "PLAINTEXT"}, time.Now); c != nil || err != nil {
		t.Errorf("without TLS: %v, %v", c, err)
	}
	c, err := secured(&config.Upstream{Protocol: "SSL"}, func() time.Time { return time.Unix(7, 0) })
	if err != nil || c.RootCAs != nil || c.MinVersion != tls.VersionTLS12 || c.Time().Unix() != 7 || c.Certificates != nil {
		t.Errorf("by the system's: %+v, %v", c, err)
	}
	own := fileOf(t, "x.pem", "nothing")
	for _, u := range []config.Upstream{{CAFile: "nowhere"}, {CAFile: own}, {CertFile: own, KeyFile: own}, {CertFile: own, KeyFile: "nowhere"}} {
		u.Protocol = "SASL_SSL"
		if _, err := secured(&u, time.Now); err == nil || !strings.Contains(err.Error(), "ssl.") {
			t.Errorf("%+v: %v", u, err)
		}
	}
}
