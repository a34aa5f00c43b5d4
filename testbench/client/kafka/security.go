package kafka

import (
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/broker/auth/authtest"
)

// security is what server.properties says of the clients' listener. It makes the certificates.
func (c *Cluster) security(t testing.TB, dir string, o Options) (lines []string) {
	t.Helper()
	add := func(name, value string) { lines = append(lines, "listener.name.clients."+name+"="+value) }
	if strings.HasSuffix(o.Protocol, "SSL") {
		c.Certs = filepath.Join(dir, "certs")
		if err := os.Mkdir(c.Certs, 0o700); err != nil {
			t.Fatal(err)
		}
		authority := certificates(t, c.Certs)
		add("ssl.keystore.type", "PEM")
		add("ssl.keystore.location", filepath.Join(c.Certs, "node.pem"))
		add("ssl.truststore.type", "PEM")
		add("ssl.truststore.location", authority)
		if o.ClientCertificates {
			add("ssl.client.auth", "required")
		}
	}
	if !strings.HasPrefix(o.Protocol, "SASL") {
		return lines
	}
	add("sasl.enabled.mechanisms", strings.Join(o.Mechanisms, ","))
	const login = "org.apache.kafka.common.security."
	for _, m := range o.Mechanisms {
		how := login + "scram.ScramLoginModule required"
		switch m {
		case "PLAIN":
			how = login + "plain.PlainLoginModule required"
			for _, name := range slices.Sorted(maps.Keys(o.Users)) {
				how += fmt.Sprintf(" user_%s=%q", name, o.Users[name])
			}
		case "OAUTHBEARER":
			how = login + `oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="node"`
		}
		add(strings.ToLower(m)+".sasl.jaas.config", how+";")
	}
	return lines
}

// scram is what the storage tool is told of the users.
func (o Options) scram() (args []string) {
	for _, m := range o.Mechanisms {
		if !strings.HasPrefix(m, "SCRAM") {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(o.Users)) {
			args = append(args, "--add-scram", fmt.Sprintf("%s=[name=%s,password=%s]", m, name, o.Users[name]))
		}
	}
	return args
}

// certificates are those of Cluster.Certs, and node.pem, which holds the node's and its key. It returns the authority's.
func certificates(t testing.TB, dir string) string {
	t.Helper()
	ca, hour := authtest.NewAuthority(t), time.Now().Add(time.Hour)
	write := func(ca *authtest.Authority, name string, end time.Time) {
		cert, key := ca.Write(dir, name, ca.Issue(pkix.Name{CommonName: name}, end))
		if name != "node" {
			return
		}
		public, err := os.ReadFile(cert)
		secret, err2 := os.ReadFile(key)
		if err := errors.Join(err, err2, os.WriteFile(filepath.Join(dir, "node.pem"), append(secret, public...), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	write(ca, "node", hour)
	write(ca, "client", hour)
	write(ca, "late", time.Now().Add(-time.Minute))
	write(authtest.NewAuthority(t), "stranger", hour)
	return ca.WriteAuthority(dir)
}

// Token is one for OAUTHBEARER that says who its bearer is until a time. Nobody has signed it (RFC 7515, appendix A.5),
// which Kafka believes when it is told of no other keys.
func Token(user string, end time.Time) (string, error) {
	head, err := json.Marshal(map[string]string{"alg": "none"})
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(map[string]any{"sub": user, "iat": time.Now().Add(-time.Minute).Unix(), "exp": end.Unix()})
	if err != nil {
		return "", err
	}
	text := base64.RawURLEncoding.EncodeToString
	return text(head) + "." + text(body) + ".", nil
}
