package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"maps"
	"math/big"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func names() Names {
	var n Names
	for _, host := range []string{"Board-7.example.com.", "board-7", "192.0.2.7", "board-7", "0.0.0.0", "", "a b", "ä", strings.Repeat("x", 64), "fe80::1"} {
		n.add(host)
	}
	return n
}

func made(t *testing.T, n Names) *Identity {
	t.Helper()
	i, err := New(n, nil)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// Whoever has the certificate believes it at any time a clock may show, under each of its names, and nobody else's.
func TestAClientThatHasTheCertificateBelievesIt(t *testing.T) {
	i, other := made(t, names()), made(t, names())
	roots, strangers := x509.NewCertPool(), x509.NewCertPool()
	if !roots.AppendCertsFromPEM(i.PEM()) || !strangers.AppendCertsFromPEM(other.PEM()) {
		t.Fatal("no certificate in what clients are given")
	}
	if bytes.Contains(i.PEM(), []byte("PRIVATE")) {
		t.Fatal("clients are given the key")
	}
	for _, at := range []time.Time{time.Unix(1, 0), time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC), time.Now(), time.Date(2106, 2, 7, 0, 0, 0, 0, time.UTC)} {
		for _, name := range []string{"board-7.example.com", "board-7", "192.0.2.7", "fe80::1"} {
			if err := handshake(i, &tls.Config{RootCAs: roots, ServerName: name, Time: func() time.Time { return at }}); err != nil {
				t.Errorf("%s at %s: %v", name, at, err)
			}
		}
		if err := handshake(i, &tls.Config{RootCAs: strangers, ServerName: "board-7", Time: func() time.Time { return at }}); err == nil {
			t.Error("the certificate of another board is believed")
		}
	}
	if err := handshake(i, &tls.Config{RootCAs: roots, ServerName: "other"}); err == nil {
		t.Error("another name is believed")
	}
	key, ok := i.Key().Public().(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		t.Errorf("the key is %T", i.Key().Public())
	}
	if l := i.Leaf(); l.IsCA || l.SerialNumber.BitLen() < 64 || l.SerialNumber.Cmp(other.Leaf().SerialNumber) == 0 || len(l.DNSNames) != 2 || len(l.IPAddresses) != 2 {
		t.Errorf("%+v", l)
	}
	if !i.Own() || i.Fingerprint() == other.Fingerprint() || i.Pin() == other.Pin() || len(i.Fingerprint()) != 95 {
		t.Errorf("%s, %s", i.Fingerprint(), i.Pin())
	}
}

// handshake has a client of a configuration connect to a server that shows the identity.
func handshake(i *Identity, client *tls.Config) error {
	a, b := net.Pipe()
	served := make(chan error, 1)
	go func() {
		err := tls.Server(b, &tls.Config{Certificates: []tls.Certificate{i.TLS()}}).Handshake()
		served <- errors.Join(err, b.Close())
	}()
	err := tls.Client(a, client).Handshake()
	closed := a.Close()
	<-served // it fails too where the client does
	return errors.Join(err, closed)
}

func TestARenewalKeepsTheKeyOrNot(t *testing.T) {
	i := made(t, names())
	same, err := New(names(), i.Key())
	if err != nil || same.Pin() != i.Pin() || same.Fingerprint() == i.Fingerprint() {
		t.Errorf("%v, %s, %s", err, same.Pin(), same.Fingerprint())
	}
	text, err := same.Encode()
	if err != nil {
		t.Fatal(err)
	}
	read, err := Parse(text)
	if err != nil || read.Fingerprint() != same.Fingerprint() || !read.Own() {
		t.Errorf("%v", err)
	}
}

// Any flipped byte is found, and so is any end that is missing.
func TestDamageIsFound(t *testing.T) {
	text, err := made(t, names()).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(text); err != nil {
		t.Fatal(err)
	}
	for at := range text {
		damaged := bytes.Clone(text)
		damaged[at] ^= 1
		if _, err := Parse(damaged); !errors.Is(err, ErrIdentity) {
			t.Errorf("byte %d: %v", at, err)
		}
		if _, err := Parse(text[:at]); !errors.Is(err, ErrIdentity) {
			t.Errorf("cut at %d: %v", at, err)
		}
	}
}

// memory is Files in memory. refuse says what fails.
type memory struct {
	files  map[string][]byte
	refuse func(op, name string) error
}

func (m *memory) ask(op, name string) error {
	if m.refuse == nil {
		return nil
	}
	return m.refuse(op, name)
}

func (m *memory) Read(name string) ([]byte, error) {
	if err := m.ask("read", name); err != nil {
		return nil, err
	}
	text, ok := m.files[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return bytes.Clone(text), nil
}

func (m *memory) Write(name string, text []byte) error {
	if err := m.ask("write", name); err != nil {
		return err
	}
	m.files[name] = bytes.Clone(text)
	return nil
}

func (m *memory) Rename(name, next string) error {
	text, ok := m.files[name]
	if !ok {
		return fs.ErrNotExist
	}
	delete(m.files, name)
	m.files[next] = text
	return nil
}

func TestOpen(t *testing.T) {
	first := &memory{files: map[string][]byte{}}
	born, found, err := Open(first, names)
	if err != nil || !found.Made || found.Err != nil || found.Unsaved != nil {
		t.Fatalf("%+v, %v", found, err)
	}
	second := &memory{files: map[string][]byte{}}
	if other, _, err := Open(second, names); err != nil || other.Pin() == born.Pin() {
		t.Fatalf("two boards have one key, or %v", err)
	}
	eio := func(op, _ string) error {
		if op == "read" {
			return syscall.EIO
		}
		return nil
	}
	for _, tt := range []struct {
		name    string
		change  func(m *memory)
		same    bool // the identity is the one of before
		damaged bool
		unsaved bool
		left    []string
		err     error
	}{
		{name: "again", change: func(*memory) {}, same: true, left: []string{File, Copy}},
		{name: "the file is gone", change: func(m *memory) { delete(m.files, File) }, same: true, damaged: true, left: []string{File, Copy}},
		{name: "the file is damaged", change: func(m *memory) { m.files[File] = []byte("x") }, same: true, damaged: true, left: []string{File, Copy}},
		{name: "the copy is gone", change: func(m *memory) { delete(m.files, Copy) }, same: true, left: []string{File}},
		{name: "both are gone", change: func(m *memory) { clear(m.files) }, left: []string{File, Copy}},
		{name: "both are damaged", change: func(m *memory) { m.files[File], m.files[Copy] = []byte("x"), []byte("y") }, damaged: true, left: []string{File, Copy, Beside}},
		{name: "neither can be read", change: func(m *memory) { m.refuse = eio }, damaged: true, left: []string{File, Copy, Beside}},
		{
			name: "nothing can be written", change: func(m *memory) {
				clear(m.files)
				m.refuse = func(op, _ string) error {
					if op == "write" {
						return syscall.ENOSPC
					}
					return nil
				}
			}, unsaved: true,
		},
		{
			name: "they are another's", change: func(m *memory) { m.refuse = func(string, string) error { return fs.ErrPermission } },
			err: fs.ErrPermission, left: []string{File, Copy},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := &memory{files: maps.Clone(first.files)}
			tt.change(m)
			before, loadErr := Load(m)
			if missing := m.files[File] == nil && m.files[Copy] == nil; (loadErr == nil) != tt.same || m.refuse == nil && errors.Is(loadErr, fs.ErrNotExist) != missing {
				t.Errorf("load: %v", loadErr)
			}
			i, found, err := Open(m, names)
			if loadErr == nil && before.Fingerprint() != i.Fingerprint() {
				t.Error("load and open have different identities")
			}
			if !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
				t.Fatal(err)
			}
			if err == nil && (i.Fingerprint() == born.Fingerprint()) != tt.same {
				t.Error("the identity is another, or is not")
			}
			if err == nil && (found.Made == tt.same || (found.Err != nil) != tt.damaged || (found.Unsaved != nil) != tt.unsaved) {
				t.Errorf("%+v", found)
			}
			if left := slices.Sorted(maps.Keys(m.files)); !slices.Equal(left, tt.left) {
				t.Errorf("there are %v", left)
			}
		})
	}
}

// chain is a leaf, an authority between, and a root.
type chain struct {
	leaf, between, root *x509.Certificate
	key                 []byte
}

func newChain(t *testing.T, change func(leaf *x509.Certificate)) chain {
	t.Helper()
	now := time.Now()
	sign := func(template, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if by == nil {
			parent, by = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return signed, key
	}
	authority := func(name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(365 * 24 * time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
	}
	root, rootKey := sign(authority("root"), nil, nil)
	between, betweenKey := sign(authority("between"), root, rootKey)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "board"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(90 * 24 * time.Hour),
		DNSNames: []string{"board"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if change != nil {
		change(template)
	}
	leaf, leafKey := sign(template, between, betweenKey)
	der, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	return chain{leaf, between, root, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})}
}

func text(certificates ...*x509.Certificate) (all []byte) {
	for _, c := range certificates {
		all = append(all, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return all
}

func TestImport(t *testing.T) {
	now := time.Now()
	a, b := newChain(t, nil), newChain(t, nil)
	for _, tt := range []struct {
		name             string
		certs, key, root []byte
		length           int // of what is shown; 0: refused
		err              string
	}{
		{name: "the leaf alone", certs: text(a.leaf), key: a.key, length: 1},
		{name: "in order", certs: text(a.leaf, a.between), key: a.key, length: 2},
		{name: "with the root", certs: text(a.leaf, a.between, a.root), key: a.key, length: 3},
		{name: "to a root", certs: text(a.leaf, a.between), key: a.key, root: text(a.root), length: 2},
		{name: "to a root, less itself", certs: text(a.leaf, a.between, a.root), key: a.key, root: text(a.root), length: 2},
		{name: "what is between comes from the authorities", certs: text(a.leaf), key: a.key, root: text(a.root, a.between), length: 2},
		{name: "the key of another", certs: text(a.leaf), key: b.key, err: "private key does not match public key"},
		{name: "out of order", certs: text(a.leaf, a.root, a.between), key: a.key, err: "the chain is not in order: certificate 2"},
		{name: "the leaf last", certs: text(a.between, a.leaf), key: a.key, err: "private key does not match"},
		{name: "of another authority", certs: text(a.leaf, b.between), key: a.key, err: "the chain is not in order"},
		{name: "to another root", certs: text(a.leaf, a.between), key: a.key, root: text(b.root), err: "does not end at an authority"},
		{name: "something is missing", certs: text(a.leaf), key: a.key, root: text(a.root), err: "does not end at an authority"},
		{name: "no root", certs: text(a.leaf), key: a.key, root: a.key, err: "no certificate of an authority"},
		{name: "no key", certs: text(a.leaf), key: text(a.leaf), err: "not a key"},
		{name: "no certificate", certs: a.key, key: a.key, err: "not a key"},
	} {
		i, warnings, err := Import(tt.certs, tt.key, tt.root, now)
		switch {
		case tt.err != "":
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: %v", tt.name, err)
			}
			continue
		case err != nil || len(warnings) > 0:
			t.Errorf("%s: %v, %v", tt.name, warnings, err)
			continue
		case i.Own():
			t.Errorf("%s: it is taken for the board's own", tt.name)
		}
		kept, err := i.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := Parse(kept); err != nil || again.Fingerprint() != Fingerprint(a.leaf) || len(again.TLS().Certificate) != tt.length {
			t.Errorf("%s: %d certificates are shown, want %d; %v", tt.name, len(again.TLS().Certificate), tt.length, err)
		}
	}
}

func TestImportWarns(t *testing.T) {
	for _, tt := range []struct {
		change func(*x509.Certificate)
		at     time.Duration
		want   string
	}{
		{at: 100 * 24 * time.Hour, want: "ended at"},
		{at: 80 * 24 * time.Hour, want: "ends soon"},
		{at: -2 * time.Hour, want: "begins at"},
		{change: func(c *x509.Certificate) { c.DNSNames = nil }, want: "names no host"},
		{change: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, want: "not that of a server"},
		{change: func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }, want: "an authority's certificate"},
	} {
		c := newChain(t, tt.change)
		// Neither a clock in 1970 nor one far ahead keeps it out.
		_, warnings, err := Import(text(c.leaf, c.between), c.key, text(c.root), time.Now().Add(tt.at))
		if err != nil || !slices.ContainsFunc(warnings, func(w string) bool { return strings.Contains(w, tt.want) }) {
			t.Errorf("%s: %v, %v", tt.want, warnings, err)
		}
	}
	c := newChain(t, nil)
	if _, warnings, err := Import(text(c.leaf, c.between), c.key, text(c.root), time.Unix(0, 0)); err != nil || len(warnings) != 2 {
		t.Errorf("in 1970: %v, %v", warnings, err)
	}
}

func TestHere(t *testing.T) {
	n := Here("192.0.2.1", "", "0.0.0.0", "alias.example")
	if !slices.Contains(n.DNS, "localhost") || !slices.Contains(n.DNS, "alias.example") || len(n.Addresses) < 3 || len(n.Addresses) > addressesMax || len(n.DNS) > dnsMax {
		t.Errorf("%+v", n)
	}
	if c := (Names{}).common(); c != "millrace" {
		t.Error(c)
	}
	long := Names{DNS: []string{strings.Repeat("a", 63) + "." + strings.Repeat("b", 63)}}
	if i := made(t, long); len(i.Leaf().Subject.CommonName) != commonNameMax {
		t.Error(i.Leaf().Subject)
	}
}
