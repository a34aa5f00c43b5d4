package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/pflag"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"millrace/platform/identity"
)

// secretMax bounds the files that passwords and properties come from, in bytes.
const secretMax = 64 << 10

// login is how a command shows who it is. Passwords come from files and standard input, never from the command line,
// which every user of the machine can read.
type login struct {
	user, passwordFile, mechanism string
	secure                        bool
	ca, cert, key, fingerprint    string
	properties                    string

	password string
	// anyName takes a server's certificate whatever its name (ssl.endpoint.identification.algorithm is empty).
	anyName bool
}

func (l *login) flags(f *pflag.FlagSet) {
	f.StringVar(&l.user, "user", "", "the user to log in as")
	f.StringVar(&l.passwordFile, "password-file", "", "the file with the user's password")
	f.StringVar(&l.mechanism, "sasl-mechanism", "SCRAM-SHA-512", "SCRAM-SHA-256, SCRAM-SHA-512 or PLAIN")
	f.BoolVar(&l.secure, "tls", false, "use TLS; the other --tls flags imply it")
	f.StringVar(&l.ca, "tls-ca", "", "PEM file of who signed the broker's certificate; default: the system's")
	f.StringVar(&l.fingerprint, "tls-fingerprint", "", "SHA-256 of the one broker certificate to believe, as cert show prints it")
	f.StringVar(&l.cert, "tls-cert", "", "PEM file of a certificate to show")
	f.StringVar(&l.key, "tls-key", "", "PEM file of its key")
	f.StringVar(&l.properties, "command-config", "", "client properties file, as Apache Kafka's tools read it")
}

// options are what a client needs to log in so. changed says which flags were given: they count before the file.
func (l *login) options(changed func(string) bool) ([]kgo.Opt, error) {
	if l.properties != "" {
		if err := l.read(changed); err != nil {
			return nil, fail(exitUsage, "--command-config %s: %w", l.properties, err)
		}
	}
	if l.passwordFile != "" {
		raw, err := readSmall(l.passwordFile)
		if err != nil {
			return nil, coded{err, exitUsage}
		}
		l.password = firstLine(raw)
	}
	var opts []kgo.Opt
	if l.user != "" {
		if l.password == "" {
			return nil, fail(exitUsage, "--user %s needs --password-file", l.user)
		}
		m, err := l.sasl()
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.SASL(m))
	}
	if l.secure || l.fingerprint != "" || l.ca != "" || l.cert != "" || l.key != "" {
		config, err := l.tls()
		if err != nil {
			return nil, coded{err, exitUsage}
		}
		opts = append(opts, kgo.DialTLSConfig(config))
	}
	return opts, nil
}

func (l *login) sasl() (sasl.Mechanism, error) {
	s := scram.Auth{User: l.user, Pass: l.password}
	switch l.mechanism {
	case "SCRAM-SHA-256":
		return s.AsSha256Mechanism(), nil
	case "SCRAM-SHA-512":
		return s.AsSha512Mechanism(), nil
	case "PLAIN":
		return plain.Auth{User: l.user, Pass: l.password}.AsMechanism(), nil
	}
	return nil, fail(exitUsage, "--sasl-mechanism %s: there are SCRAM-SHA-256, SCRAM-SHA-512 and PLAIN", l.mechanism)
}

func (l *login) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: l.anyName}
	if l.ca != "" {
		pem, err := readSmall(l.ca)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no PEM certificate", l.ca)
		}
	}
	if l.anyName { // the name does not matter, who signed it does
		config.VerifyConnection = func(s tls.ConnectionState) error {
			o := x509.VerifyOptions{Roots: config.RootCAs, Intermediates: x509.NewCertPool()}
			for _, c := range s.PeerCertificates[1:] {
				o.Intermediates.AddCert(c)
			}
			_, err := s.PeerCertificates[0].Verify(o)
			return err
		}
	}
	if l.fingerprint != "" { // neither name, dates nor who signed it matter
		if l.ca != "" {
			return nil, errors.New("--tls-ca and --tls-fingerprint exclude each other")
		}
		config.InsecureSkipVerify = true
		want := strings.ReplaceAll(l.fingerprint, ":", "")
		config.VerifyConnection = func(s tls.ConnectionState) error {
			if have := identity.Fingerprint(s.PeerCertificates[0]); !strings.EqualFold(strings.ReplaceAll(have, ":", ""), want) {
				return fmt.Errorf("the broker's certificate is %s, and not that of --tls-fingerprint", have)
			}
			return nil
		}
	}
	if (l.cert == "") != (l.key == "") {
		return nil, errors.New("--tls-cert and --tls-key go together")
	}
	if l.cert != "" {
		pair, err := tls.LoadX509KeyPair(l.cert, l.key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// jaas finds the values of sasl.jaas.config.
var jaas = regexp.MustCompile(`\b(username|password)\s*=\s*(?:"((?:\\.|[^"\\])*)"|'((?:\\.|[^'\\])*)'|([^\s;]+))`)

// read takes from the properties file what no flag says. Its errors tell keys, never values.
func (l *login) read(changed func(string) bool) error {
	raw, err := readSmall(l.properties)
	if err != nil {
		return err
	}
	p := properties(string(raw))
	set := func(flag string, to *string, keys ...string) {
		for _, key := range keys {
			if v, ok := p[key]; ok && !changed(flag) {
				*to = v
			}
		}
	}
	for _, m := range jaas.FindAllStringSubmatch(p["sasl.jaas.config"], -1) {
		value := unescaped(m[2] + m[3] + m[4])
		if m[1] == "password" {
			l.password = value
		} else if !changed("user") {
			l.user = value
		}
	}
	set("user", &l.user, "sasl.username") // librdkafka's names
	if v, ok := p["sasl.password"]; ok {
		l.password = v
	}
	set("sasl-mechanism", &l.mechanism, "sasl.mechanisms", "sasl.mechanism")
	switch protocol := strings.ToUpper(p["security.protocol"]); protocol {
	case "SSL", "SASL_SSL":
		l.secure = true
	case "", "PLAINTEXT", "SASL_PLAINTEXT":
	default:
		return errors.New("security.protocol is none of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL")
	}
	for _, key := range []string{"ssl.truststore.type", "ssl.keystore.type"} {
		if store := strings.TrimSuffix(key, "type") + "location"; p[store] != "" && p[key] != "PEM" {
			return fmt.Errorf("%s needs %s=PEM: nothing else is read", store, key)
		}
	}
	set("tls-ca", &l.ca, "ssl.ca.location", "ssl.truststore.location")
	set("tls-cert", &l.cert, "ssl.certificate.location", "ssl.keystore.location")
	set("tls-key", &l.key, "ssl.key.location", "ssl.keystore.location")
	if v, ok := p["ssl.endpoint.identification.algorithm"]; ok && (v == "" || v == "none") {
		l.anyName = true
	}
	return nil
}

// properties reads a Java properties file: keys before = or :, comments, lines that go on behind a backslash.
func properties(text string) map[string]string {
	p := make(map[string]string)
	logical := ""
	for line := range strings.Lines(text) {
		line = strings.TrimLeft(strings.TrimRight(line, "\r\n"), " \t\f")
		if logical == "" && (line == "" || line[0] == '#' || line[0] == '!') {
			continue
		}
		trailing := len(line) - len(strings.TrimRight(line, `\`))
		if trailing%2 == 1 {
			logical += line[:len(line)-1]
			continue
		}
		put(p, logical+line)
		logical = ""
	}
	put(p, logical)
	return p
}

func put(p map[string]string, line string) {
	at := strings.IndexAny(line, "=:")
	if at < 0 {
		return
	}
	p[strings.TrimSpace(line[:at])] = unescaped(strings.TrimLeft(line[at+1:], " \t\f"))
}

// unescaped takes the backslashes away.
func unescaped(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func readSmall(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, secretMax+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if len(raw) > secretMax {
		return nil, fmt.Errorf("%s has more than %d bytes", name, secretMax)
	}
	return raw, nil
}

// firstLine is a password as it stands in a file.
func firstLine(raw []byte) string {
	line, _, _ := bytes.Cut(raw, []byte("\n"))
	return strings.TrimSuffix(string(line), "\r")
}
