package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"millrace/testbench/procfs"
)

// idleArgs are what the child of row 4 is told.
type idleArgs struct {
	Address string
	PID     int // of the server
	Clients int
	TLS     bool
	Settle  float64 // s after the last has subscribed
}

// idleResult is what it found.
type idleResult struct {
	Each int64   // bytes of the server's memory for each client
	CPU  float64 // ms of the server for each client that comes and subscribes
}

// childIdle connects clients with two subscriptions each and looks at the server's memory.
func childIdle(in []byte) (any, error) {
	var a idleArgs
	if err := json.Unmarshal(in, &a); err != nil {
		return nil, err
	}
	server := procfs.PID(a.PID)
	time.Sleep(settling)
	// What the program touches for its first client is not what another costs.
	warm, err := idleClients(a, "warm-", 32)
	if err := errors.Join(err, closeAll(warm)); err != nil {
		return nil, err
	}
	time.Sleep(settling)
	before, err := server.RSS()
	if err != nil {
		return nil, err
	}
	spent, err := server.CPU()
	if err != nil {
		return nil, err
	}
	clients, err := idleClients(a, "idle-", a.Clients)
	if err != nil {
		return nil, errors.Join(err, closeAll(clients))
	}
	used, err := server.CPU()
	if err != nil {
		return nil, err
	}
	time.Sleep(time.Duration(a.Settle * float64(time.Second)))
	after, err := server.RSS()
	err = errors.Join(err, closeAll(clients))
	return idleResult{(after - before) / int64(a.Clients), (used - spent).Seconds() * 1e3 / float64(a.Clients)}, err
}

// idleClients connects so many. They are returned with an error too, nil where there is none.
func idleClients(a idleArgs, name string, n int) ([]*publisher, error) {
	clients, errs := make([]*publisher, n), make([]error, n)
	next := make(chan int)
	var all sync.WaitGroup
	for range 8 { // at a time: with more nats refuses subscriptions
		all.Go(func() {
			for i := range next {
				clients[i], errs[i] = idleClient(a, fmt.Sprint(name, i))
			}
		})
	}
	for i := range clients {
		next <- i
	}
	close(next)
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return clients, err // of thousands the first says enough
		}
	}
	return clients, nil
}

func closeAll(clients []*publisher) (err error) {
	for _, c := range clients {
		if c != nil {
			err = errors.Join(err, c.close())
		}
	}
	return err
}

func idleClient(a idleArgs, name string) (*publisher, error) {
	conn, err := net.Dial("tcp", a.Address)
	if err != nil {
		return nil, err
	}
	if a.TLS { // the certificate is the bench's own, for this run
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
	}
	p, err := greetMQTT(conn, name, true)
	if err != nil {
		return nil, fmt.Errorf("client %s: %w", name, err)
	}
	for _, filter := range []string{name + "/command", "site/" + name + "/+/state"} {
		if err := p.subscribe(filter); err != nil {
			return p, fmt.Errorf("client %s: %w", name, err)
		}
	}
	return p, nil
}

// pair is a certificate for 127.0.0.1 and its key, as PEM files.
type pair struct{ cert, key string }

// newPair makes one that signs itself.
func (b *bench) newPair() (*pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	of := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, of, of, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	p := &pair{filepath.Join(b.dir, "server.crt"), filepath.Join(b.dir, "server.key")}
	return p, errors.Join(
		os.WriteFile(p.cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600),
		os.WriteFile(p.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600))
}

// accepts says whether the millrace that is measured knows everything in a configuration.
func (b *bench) accepts(config string) (bool, error) {
	file := filepath.Join(b.dir, "accepted.toml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return false, err
	}
	err := exec.CommandContext(b.ctx, b.binary, "config", "show", file).Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return false, nil
	}
	return err == nil, err
}
