package broker

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"millrace/platform/config"
)

const (
	// tokenTimeout bounds one question for a token.
	tokenTimeout = 30 * time.Second
	// tokenMax bounds its answer, in bytes.
	tokenMax = 256 << 10
)

// dialer opens connections whose bytes are counted.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// tokenOf is what a link shows for OAUTHBEARER: what the file has, or what the endpoint gives for the client's secret
// (RFC 6749, 4.4). No error holds either.
func tokenOf(ctx context.Context, u *config.Upstream, dial dialer, now func() time.Time) (string, error) {
	if u.TokenFile != "" {
		return secretOf(u.TokenFile)
	}
	secret, err := secretOf(u.ClientSecret)
	if err != nil {
		return "", err
	}
	at, err := url.Parse(u.TokenURL)
	if err != nil {
		return "", fmt.Errorf("sasl.oauthbearer.token.endpoint.url: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	body, status, err := ask(ctx, at, u, secret, dial, now)
	if err != nil {
		return "", fmt.Errorf("ask %s for a token: %w", at.Host, err)
	}
	var answer struct {
		Token string `json:"access_token"`
		Error string `json:"error"`
		About string `json:"error_description"`
	}
	err = json.Unmarshal(body, &answer)
	switch {
	case status != http.StatusOK && answer.Error != "":
		return "", fmt.Errorf("%s gives no token: %s %s", at.Host, answer.Error, answer.About)
	case status != http.StatusOK:
		return "", fmt.Errorf("%s gives no token: %s", at.Host, http.StatusText(status))
	case err != nil || answer.Token == "":
		return "", fmt.Errorf("%s answers without an access_token", at.Host)
	}
	return answer.Token, nil
}

// ask puts the question by hand: the library's client can do much that this has no use for, and weighs a megabyte.
func ask(ctx context.Context, at *url.URL, u *config.Upstream, secret string, dial dialer, now func() time.Time) (body []byte, status int, err error) {
	form := url.Values{"grant_type": {"client_credentials"}}
	if u.Scope != "" {
		form.Set("scope", u.Scope)
	}
	login := base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(u.ClientID) + ":" + url.QueryEscape(secret)))
	text := form.Encode()
	port := at.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[at.Scheme]
	}
	c, err := dial(ctx, "tcp", net.JoinHostPort(at.Hostname(), port))
	if err != nil {
		return nil, 0, err
	}
	defer c.Close() // all was read, or nothing can be
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	if at.Scheme == "https" {
		roots, err := believed(u.CAFile, true)
		if err != nil {
			return nil, 0, err
		}
		secured := tls.Client(c, &tls.Config{ServerName: at.Hostname(), RootCAs: roots, Time: now, MinVersion: tls.VersionTLS12})
		if err := secured.HandshakeContext(ctx); err != nil {
			return nil, 0, err
		}
		c = secured
	}
	if _, err := fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Basic %s\r\nContent-Type: application/x-www-form-urlencoded\r\n"+
		"Accept: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", at.RequestURI(), at.Host, login, len(text), text); err != nil {
		return nil, 0, err
	}
	answer, err := http.ReadResponse(bufio.NewReader(io.LimitReader(c, tokenMax)), nil)
	if err != nil {
		return nil, 0, err
	}
	body, err = io.ReadAll(answer.Body)
	return body, answer.StatusCode, errors.Join(err, answer.Body.Close())
}

// believed are who signs the certificates of servers: those of the file, those of the system where there is none; both with
// also. nil is the system's.
func believed(file string, also bool) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	raw, err := readFile(file)
	if err != nil {
		return nil, fmt.Errorf("ssl.ca.location: %w", err)
	}
	pool := x509.NewCertPool()
	if system, err := x509.SystemCertPool(); also && err == nil {
		pool = system
	}
	if !pool.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("ssl.ca.location: %s holds no certificate in PEM", file)
	}
	return pool, nil
}

// secured is how a link encrypts: read anew with each connection, so that files may be replaced. nil without TLS.
func secured(u *config.Upstream, now func() time.Time) (*tls.Config, error) {
	if !u.TLS() {
		return nil, nil
	}
	roots, err := believed(u.CAFile, false)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{RootCAs: roots, Time: now, MinVersion: tls.VersionTLS12}
	if u.CertFile != "" {
		cert, err := readFile(u.CertFile)
		if err != nil {
			return nil, fmt.Errorf("ssl.certificate.location: %w", err)
		}
		key, err := readFile(u.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("ssl.key.location: %w", err)
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("ssl.certificate.location %s and ssl.key.location: %w", u.CertFile, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
