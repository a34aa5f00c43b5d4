package broker

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"millrace/broker/auth"
	"millrace/platform/config"
	"millrace/platform/identity"
)

// certificateMax bounds a file of certificates, in bytes.
const certificateMax = 1 << 20

// certificateCheck is how often it is looked whether the certificate is still good, expiring how long before its end
// that is told.
const (
	certificateCheck = 12 * time.Hour
	expiring         = 14 * 24 * time.Hour
)

// certificates are what TLS listeners show and believe. A reload replaces them for the next connections.
type certificates struct {
	now func() time.Time
	log *slog.Logger
	// own is the board's identity, for where the configuration names no files.
	own     func() (*identity.Identity, error)
	current atomic.Pointer[tls.Config]
	// login is current for listeners whose clients log in: those are asked for no certificate, as at Apache Kafka.
	login atomic.Pointer[tls.Config]
	// notAfter is when the certificate ends, in Unix seconds.
	notAfter atomic.Int64
	// fingerprint is the certificate's, a string.
	fingerprint atomic.Value
}

// config is what the next connection of a protocol is made with.
func (c *certificates) config(p auth.Protocol) *tls.Config {
	if p.SASL() {
		return c.login.Load()
	}
	return c.current.Load()
}

// load reads the files. After an error, and where the new certificate has expired and the old one has not, the old ones
// stay. A board's clock may be wrong, so a certificate that is all there is is shown whatever its dates are.
func (c *certificates) load(s *config.Config) error {
	next, leaf, err := c.read(s)
	if err != nil {
		return err
	}
	now := c.now()
	if old := c.notAfter.Load(); c.current.Load() != nil && now.After(leaf.NotAfter) && now.Unix() <= old {
		return fmt.Errorf("the certificate of %s expired at %s; the one in use is good until %s", leaf.Subject, leaf.NotAfter.UTC(), time.Unix(old, 0).UTC())
	}
	next.Time = c.now
	c.notAfter.Store(leaf.NotAfter.Unix())
	c.fingerprint.Store(identity.Fingerprint(leaf))
	login := next.Clone()
	login.ClientAuth = tls.NoClientCert
	c.login.Store(login)
	c.current.Store(next)
	c.check()
	return nil
}

// check tells when the certificate has ended, or soon will.
func (c *certificates) check() {
	end, now := time.Unix(c.notAfter.Load(), 0).UTC(), c.now()
	switch {
	case now.After(end):
		c.log.Error("the TLS certificate has expired; clients will refuse it", "expired", end)
	case now.Add(expiring).After(end):
		c.log.Warn("the TLS certificate ends soon", "ends", end)
	}
}

// clientAuth are the values of ssl.client.auth.
var clientAuth = map[string]tls.ClientAuthType{
	"none": tls.NoClientCert, "requested": tls.VerifyClientCertIfGiven, "required": tls.RequireAndVerifyClientCert,
}

// shown is the certificate that listeners show, and its key: that of the files, or the board's own.
func (c *certificates) shown(s *config.Config) (tls.Certificate, error) {
	if s.OwnCertificate() {
		i, err := c.own()
		if err != nil {
			return tls.Certificate{}, fmt.Errorf("the board's own certificate: %w", err)
		}
		return i.TLS(), nil
	}
	cert, err := readFile(s.Security.CertFile)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("tls.cert.file: %w", err)
	}
	key, err := readFile(s.Security.KeyFile)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("tls.key.file: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s and %s: %w", s.Security.CertFile, s.Security.KeyFile, err)
	}
	return pair, nil
}

func (c *certificates) read(s *config.Config) (*tls.Config, *x509.Certificate, error) {
	pair, err := c.shown(s)
	if err != nil {
		return nil, nil, err
	}
	next := &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, ClientAuth: clientAuth[s.Broker.ClientAuth],
		// A connection lives long here. Tickets would let a client in whose certificate has been replaced since.
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true, // throughput counts, not the first byte
	}
	if s.Security.ClientCAFile == "" {
		return next, pair.Leaf, nil
	}
	file, err := readFile(s.Security.ClientCAFile)
	if err != nil {
		return nil, nil, fmt.Errorf("client.ca.file: %w", err)
	}
	next.ClientCAs = x509.NewCertPool()
	for block, rest := pem.Decode(file); block != nil; block, rest = pem.Decode(rest) {
		ca, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, nil, fmt.Errorf("client.ca.file %s: %w", s.Security.ClientCAFile, err)
		}
		next.ClientCAs.AddCert(ca)
	}
	if !bytes.Contains(file, []byte("-----BEGIN CERTIFICATE-----")) {
		return nil, nil, fmt.Errorf("client.ca.file %s holds no certificate", s.Security.ClientCAFile)
	}
	return next, pair.Leaf, nil
}

// readFile reads a small file as a whole.
func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	n, err := b.ReadFrom(io.LimitReader(f, certificateMax+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if n > certificateMax {
		return nil, fmt.Errorf("%s has more than %d bytes", name, certificateMax)
	}
	return b.Bytes(), nil
}
