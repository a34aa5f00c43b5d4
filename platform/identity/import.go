package identity

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"time"
)

// ending is how long before its end a certificate is warned of.
const ending = 14 * 24 * time.Hour

// Import makes an identity of an owner's certificate and key. certificates begins with the board's own, and each one after
// it has signed the one before. With authorities the chain must end at one of them; what lies between is taken from there
// too. All are PEM. The dates are never an error, for the board's clock may be wrong: warnings tells of them, and of what
// clients will not like.
func Import(certificates, key, authorities []byte, now time.Time) (i *Identity, warnings []string, err error) {
	if i, err = parse(certificates, key); err != nil {
		return nil, nil, err
	}
	chain := make([]*x509.Certificate, len(i.pair.Certificate))
	for n, der := range i.pair.Certificate {
		if chain[n], err = x509.ParseCertificate(der); err != nil {
			return nil, nil, fmt.Errorf("certificate %d: %w", n+1, err)
		}
		if n > 0 {
			if err := chain[n-1].CheckSignatureFrom(chain[n]); err != nil {
				return nil, nil, fmt.Errorf("the chain is not in order: certificate %d (%s) has not signed the one before it (%s): %w",
					n+1, chain[n].Subject, chain[n-1].Subject, err)
			}
		}
	}
	if len(authorities) > 0 {
		if chain, err = reaching(chain, authorities, now); err != nil {
			return nil, nil, err
		}
		i.pair.Certificate = nil
		for _, c := range chain {
			i.pair.Certificate = append(i.pair.Certificate, c.Raw)
		}
	}
	return i, complaints(chain, now), nil
}

// reaching is the chain from the board's certificate to an authority, without that one, which clients have.
func reaching(chain []*x509.Certificate, authorities []byte, now time.Time) ([]*x509.Certificate, error) {
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, c := range chain[1:] {
		o.Intermediates.AddCert(c)
	}
	found := 0
	for block, rest := pem.Decode(authorities); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("authority %d: %w", found+1, err)
		}
		found++
		if bytes.Equal(c.RawIssuer, c.RawSubject) {
			o.Roots.AddCert(c)
		} else {
			o.Intermediates.AddCert(c)
		}
	}
	if found == 0 {
		return nil, fmt.Errorf("%w: there is no certificate of an authority", ErrIdentity)
	}
	// The clock of a board may be wrong: a chain that was good when its youngest began is good.
	youngest := chain[0].NotBefore
	for _, c := range chain {
		if c.NotBefore.After(youngest) {
			youngest = c.NotBefore
		}
	}
	var err error
	for _, at := range []time.Time{now, youngest} {
		o.CurrentTime = at
		var chains [][]*x509.Certificate
		if chains, err = chain[0].Verify(o); err == nil {
			best := chains[0]
			return best[:max(1, len(best)-1)], nil
		}
	}
	return nil, fmt.Errorf("the chain does not end at an authority that was named: %w", err)
}

// complaints are what is legal and will not do for some client.
func complaints(chain []*x509.Certificate, now time.Time) (list []string) {
	for _, c := range chain {
		switch {
		case now.After(c.NotAfter):
			list = append(list, fmt.Sprintf("the certificate of %s ended at %s, by the clock of this machine: clients will refuse it", c.Subject, c.NotAfter.UTC()))
		case now.Before(c.NotBefore):
			list = append(list, fmt.Sprintf("the certificate of %s begins at %s, by the clock of this machine: clients will refuse it until then", c.Subject, c.NotBefore.UTC()))
		case now.Add(ending).After(c.NotAfter):
			list = append(list, fmt.Sprintf("the certificate of %s ends soon, at %s", c.Subject, c.NotAfter.UTC()))
		}
	}
	leaf := chain[0]
	if len(leaf.DNSNames)+len(leaf.IPAddresses) == 0 {
		list = append(list, "it names no host (no subject alternative names): most clients will refuse it")
	}
	if leaf.IsCA {
		list = append(list, "it is an authority's certificate: strict clients refuse one that a server shows")
	}
	if len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) > 0 &&
		!slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny) {
		list = append(list, "its extended key usage is not that of a server: most clients will refuse it")
	}
	return list
}
