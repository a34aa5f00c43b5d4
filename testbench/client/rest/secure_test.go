package rest

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"millrace/platform/config"
	"millrace/testbench/client/board"
)

// Ann reads and writes what she may by name and password and by certificate, and nobody else does. Nothing of a password
// reaches the log, which StartSecure looks through.
func TestLoginsAndPermissions(t *testing.T) {
	b := board.StartSecure(t, func(c *config.Config) {
		c.HTTP.Listener, c.Broker.ClientAuth = "https://127.0.0.1:0", "requested"
	})
	trusted := x509.NewCertPool()
	ca, err := os.ReadFile(filepath.Join(b.Certs, "ca.crt"))
	if err != nil || !trusted.AppendCertsFromPEM(ca) {
		t.Fatal(err)
	}
	with := func(certificate, user, password string) *client {
		c := &tls.Config{RootCAs: trusted}
		if certificate != "" {
			pair, err := tls.LoadX509KeyPair(filepath.Join(b.Certs, certificate+".crt"), filepath.Join(b.Certs, certificate+".key"))
			if err != nil {
				t.Fatal(err)
			}
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}
		transport := &http.Transport{TLSClientConfig: c}
		t.Cleanup(transport.CloseIdleConnections)
		return &client{t: t, http: &http.Client{Transport: transport}, base: "https://" + b.Addresses().HTTP[0], change: func(r *http.Request) {
			if user != "" {
				r.SetBasicAuth(user, password)
			}
		}}
	}
	one := object{"records": []object{{"value": 1}}}
	for name, c := range map[string]*client{"password": with("", board.Ann, board.Password), "certificate": with(board.Ann, "", "")} {
		c.post("open", jsonType, object{"value": name})
		if p := c.get("open", "", jsonType); p.Records[len(p.Records)-1].Value != name {
			t.Errorf("%s: %+v", name, p)
		}
		for _, topic := range []string{"shut", "new"} {
			if status := c.do(http.MethodPost, topic, "", jsonType, one, nil); status != http.StatusForbidden {
				t.Errorf("%s writes %s: %d", name, topic, status)
			}
			if status := c.do(http.MethodGet, topic, "", jsonType, nil, nil); status != http.StatusForbidden {
				t.Errorf("%s reads %s: %d", name, topic, status)
			}
		}
	}
	for name, c := range map[string]*client{"nobody": with("", "", ""), "a wrong password": with("", board.Ann, "wrong password"), "an unknown user": with("", "eve", board.Password)} {
		if status := c.do(http.MethodPost, "open", "", jsonType, one, nil); status != http.StatusUnauthorized {
			t.Errorf("%s writes: %d", name, status)
		}
		if status := c.do(http.MethodGet, "open", "", jsonType, nil, nil); status != http.StatusUnauthorized {
			t.Errorf("%s reads: %d", name, status)
		}
	}
	for _, certificate := range []string{"late", "stranger"} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, with("", "", "").base+"/healthz", nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := with(certificate, "", "").http.Do(r); err == nil {
			t.Errorf("the certificate of %s: %s, %v", certificate, resp.Status, resp.Body.Close())
		}
	}
	// The admin may do everything, and make topics.
	admin := with("", "admin", b.AdminPassword())
	admin.post("new", jsonType, object{"value": 1})
}
