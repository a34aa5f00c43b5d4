package broker

import (
	"bytes"
	"crypto/tls"
	"crypto/x509/pkix"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"millrace/broker/auth"
	"millrace/broker/auth/authtest"
	"millrace/platform/config"
)

func TestCertificatesAreReplacedWhenTheNewOnesAreGood(t *testing.T) {
	dir := t.TempDir()
	ca := authtest.NewAuthority(t)
	now := time.Now()
	settings := config.Default()
	s := &settings.Security
	settings.Broker.ClientAuth, s.ClientCAFile = "required", ca.WriteAuthority(dir)
	s.CertFile, s.KeyFile = ca.Write(dir, "first", ca.Issue(pkix.Name{CommonName: "first"}, now.Add(100*24*time.Hour)))
	var log bytes.Buffer
	c := &certificates{now: func() time.Time { return now }, log: slog.New(slog.NewTextHandler(&log, nil))}
	if err := c.load(settings); err != nil {
		t.Fatal(err)
	}
	if a, b := c.config(auth.SSL).ClientAuth, c.config(auth.SASLSSL).ClientAuth; a != tls.RequireAndVerifyClientCert || b != tls.NoClientCert {
		t.Errorf("SSL asks for certificates: %v, SASL_SSL: %v", a, b)
	}
	shown := func() string { return c.config(auth.SASLSSL).Certificates[0].Leaf.Subject.CommonName }
	second, key := ca.Write(dir, "second", ca.Issue(pkix.Name{CommonName: "second"}, now.Add(10*24*time.Hour)))
	expired, expiredKey := ca.Write(dir, "expired", ca.Issue(pkix.Name{CommonName: "expired"}, now.Add(-time.Hour)))
	garbage := dir + "/garbage"
	if err := os.WriteFile(garbage, []byte("-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	large := dir + "/large"
	if err := os.WriteFile(large, make([]byte, certificateMax+1), 0o600); err != nil {
		t.Fatal(err)
	}
	first := *s
	for name, change := range map[string]config.Security{
		"no file":                {CertFile: dir + "/none", KeyFile: first.KeyFile},
		"the key of another":     {CertFile: second, KeyFile: first.KeyFile},
		"no certificate":         {CertFile: garbage, KeyFile: first.KeyFile},
		"a key for certificates": {CertFile: first.KeyFile, KeyFile: first.KeyFile},
		"a large file":           {CertFile: large, KeyFile: first.KeyFile},
		"no authority":           {CertFile: second, KeyFile: key, ClientCAFile: key},
		"a bad authority":        {CertFile: second, KeyFile: key, ClientCAFile: garbage},
		"an expired one":         {CertFile: expired, KeyFile: expiredKey},
	} {
		*s = change
		if s.ClientCAFile == "" {
			s.ClientCAFile = first.ClientCAFile
		}
		if err := c.load(settings); err == nil || shown() != "first" {
			t.Errorf("%s: %v, %s is shown", name, err, shown())
		}
	}
	if log.Len() > 0 {
		t.Errorf("a good certificate is complained about: %s", log.String())
	}
	*s = first
	s.CertFile, s.KeyFile = second, key
	if err := c.load(settings); err != nil || shown() != "second" || !strings.Contains(log.String(), "ends soon") {
		t.Errorf("%v, %s is shown, %s", err, shown(), log.String())
	}
	now = now.Add(11 * 24 * time.Hour)
	if c.check(); !strings.Contains(log.String(), "has expired") {
		t.Errorf("an expired certificate is not told: %s", log.String())
	}
	// Where the old one has ended too, any new one is taken.
	s.CertFile, s.KeyFile = expired, expiredKey
	if err := c.load(settings); err != nil || shown() != "expired" {
		t.Errorf("%v, %s is shown", err, shown())
	}
	if strings.Contains(log.String(), "PRIVATE") {
		t.Error("a key is in the log")
	}
}
