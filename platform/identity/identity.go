// Package identity is how a board shows others that it is itself: a key and a certificate, born with the board or brought
// by its owner, in one file that only the board reads.
package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"time"
)

// Identity is a key and the certificates that say whose it is. It is not changed once it was made, and safe for
// concurrent use.
type Identity struct {
	pair tls.Certificate
}

// The life of a certificate that a board makes for itself. Who believes it knows its bytes, so its dates protect nothing;
// but a board without a clock, or a sensor that has none, would refuse one that has not begun. It has no end (RFC 5280,
// section 4.1.2.5), because nobody comes by to make the next.
var (
	begin = time.Unix(0, 0).UTC()
	end   = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
)

// commonNameMax is the longest common name there may be (RFC 5280, ub-common-name), in characters.
const commonNameMax = 64

// ErrIdentity is returned for text that is no key with its certificates.
var ErrIdentity = errors.New("not a key with its certificate")

// New makes an identity that vouches for itself: a certificate for the names with a key, nil for a new one of ECDSA P-256.
// It serves as a client's certificate too.
func New(n Names, key crypto.Signer) (*Identity, error) {
	if key == nil {
		made, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		key = made
	}
	pin, err := publicKey(key.Public())
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: n.common(), Organization: []string{"Millrace"}},
		NotBefore: begin, NotAfter: end,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		// It is no authority: strict clients refuse one that is shown by a server.
		BasicConstraintsValid: true,
		DNSNames:              n.DNS, IPAddresses: n.Addresses,
		SubjectKeyId: pin[:20], AuthorityKeyId: pin[:20],
	} // without a serial number, a random one is drawn
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &Identity{tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}}, nil
}

// checksum begins the last line of what Encode writes: CRC32C of those before it. One flipped bit in a name would leave a
// certificate that no client believes.
const checksum = "checksum="

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Parse reads what Encode wrote. It returns ErrIdentity, with what is wrong, for anything else.
func Parse(text []byte) (*Identity, error) {
	at := max(0, bytes.LastIndex(text, []byte(checksum)))
	if !bytes.Equal(text[at:], sum(text[:at])) {
		return nil, fmt.Errorf("%w: the checksum does not fit the text: it is damaged", ErrIdentity)
	}
	return parse(text[:at], text[:at])
}

func sum(text []byte) []byte {
	return fmt.Appendf(nil, "%s%08x\n", checksum, crc32.Checksum(text, castagnoli))
}

func parse(certificates, key []byte) (*Identity, error) {
	pair, err := tls.X509KeyPair(certificates, key)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", ErrIdentity, strings.TrimPrefix(err.Error(), "tls: "))
	}
	if _, ok := pair.PrivateKey.(crypto.Signer); !ok {
		return nil, fmt.Errorf("%w: the key cannot sign", ErrIdentity)
	}
	return &Identity{pair}, nil
}

// Encode is the key and the certificates as PEM, the key first, and a checksum.
func (i *Identity) Encode() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(i.pair.PrivateKey)
	if err != nil {
		return nil, err
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), i.PEM()...)
	return append(text, sum(text)...), nil
}

// PEM is what may be given to anybody: the certificates.
func (i *Identity) PEM() (text []byte) {
	for _, der := range i.pair.Certificate {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return text
}

// TLS is what a listener shows. It shares its parts with the identity.
func (i *Identity) TLS() tls.Certificate { return i.pair }

// Leaf is the board's own certificate; read only.
func (i *Identity) Leaf() *x509.Certificate { return i.pair.Leaf }

// Key is the board's key.
func (i *Identity) Key() crypto.Signer { return i.pair.PrivateKey.(crypto.Signer) }

// Own says whether the certificate vouches for itself; else somebody has signed it.
func (i *Identity) Own() bool {
	return string(i.pair.Leaf.RawIssuer) == string(i.pair.Leaf.RawSubject) && len(i.pair.Certificate) == 1
}

// Fingerprint is the certificate's, for who wants to believe just this one.
func (i *Identity) Fingerprint() string { return Fingerprint(i.pair.Leaf) }

// Pin is the public key's, which a renewal without a new key does not change, as `curl --pinnedpubkey` takes it.
func (i *Identity) Pin() string {
	sum := sha256.Sum256(i.pair.Leaf.RawSubjectPublicKeyInfo)
	return "sha256//" + base64.StdEncoding.EncodeToString(sum[:])
}

// Fingerprint is the SHA-256 of a certificate as `openssl x509 -fingerprint -sha256` prints it: 32 bytes in hexadecimal,
// with colons between.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return strings.ReplaceAll(fmt.Sprintf("% X", sum[:]), " ", ":")
}

// publicKey is the SHA-256 of a public key.
func publicKey(key crypto.PublicKey) ([32]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	return sha256.Sum256(der), err
}
