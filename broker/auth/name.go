package auth

import (
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
)

// keywords are the attribute types that RFC 2253 gives a name; every other one is written as numbers.
var keywords = map[string]string{
	"2.5.4.3": "CN", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST", "2.5.4.10": "O", "2.5.4.11": "OU", "2.5.4.9": "STREET",
	"0.9.2342.19200300.100.1.25": "DC", "0.9.2342.19200300.100.1.1": "UID",
}

type attribute struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}

type relativeSET []attribute // the name's end tells encoding/asn1 that it is a SET

// DistinguishedName is the subject of a certificate as RFC 2253 writes it, which is how Kafka names whoever shows one:
// "CN=board,O=Example,C=DE". Whether it was verified is the caller's to know.
func DistinguishedName(cert *x509.Certificate) (string, error) {
	var name []relativeSET
	if rest, err := asn1.Unmarshal(cert.RawSubject, &name); err != nil || len(rest) > 0 {
		return "", fmt.Errorf("the subject of a certificate cannot be read: %w", ErrAuthentication)
	}
	var b strings.Builder
	for i := len(name) - 1; i >= 0; i-- { // the most special first
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		for j, a := range name[i] {
			if j > 0 {
				b.WriteByte('+')
			}
			oid := a.Type.String()
			key, known := keywords[oid]
			var value string
			if _, err := asn1.Unmarshal(a.Value.FullBytes, &value); known && err == nil {
				b.WriteString(key + "=" + escaped(value))
				continue
			}
			if !known {
				key = oid
			}
			b.WriteString(key + "=#" + hex.EncodeToString(a.Value.FullBytes))
		}
	}
	return b.String(), nil
}

// escaped is a value with what has a meaning in a name behind backslashes.
func escaped(s string) string {
	first, last := len(s)-len(strings.TrimLeft(s, " ")), len(strings.TrimRight(s, " "))
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == 0:
			b.WriteString(`\00`)
			continue
		case strings.ContainsRune(`,=+<>#;"\`, r), r == ' ' && (i < first || i >= last):
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// Rules make principals of distinguished names (`ssl.principal.mapping.rules`, KIP-371); the first that fits counts.
type Rules []rule

type rule struct {
	pattern *regexp.Regexp // nil: DEFAULT, the name as it is
	replace string
	change  func(string) string
}

var (
	ruleShape = regexp.MustCompile(`^RULE:((?:\\.|[^\\/])*)/((?:\\.|[^\\/])*)/([LU]?)$`)
	reference = regexp.MustCompile(`\$(\d+)`)
)

// ParseRules reads rules: DEFAULT, or RULE:pattern/replacement/ with L or U behind it. The error wraps ErrRule.
func ParseRules(texts []string) (Rules, error) {
	rules := make(Rules, 0, len(texts))
	for _, text := range texts {
		if text == "DEFAULT" {
			rules = append(rules, rule{change: func(s string) string { return s }})
			continue
		}
		parts := ruleShape.FindStringSubmatch(text)
		if parts == nil {
			return nil, fmt.Errorf("%w: %.200q is neither DEFAULT nor RULE:pattern/replacement/", ErrRule, text)
		}
		pattern, err := regexp.Compile("^(?:" + parts[1] + ")$")
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrRule, err)
		}
		r := rule{pattern: pattern, replace: reference.ReplaceAllString(parts[2], "$${$1}"), change: func(s string) string { return s }}
		switch parts[3] {
		case "L":
			r.change = strings.ToLower
		case "U":
			r.change = strings.ToUpper
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// Principal is who the holder of a verified certificate is.
func (rules Rules) Principal(cert *x509.Certificate) (Principal, error) {
	name, err := DistinguishedName(cert)
	if err != nil {
		return "", err
	}
	if name == "" {
		return Anonymous, nil // as Apache Kafka has it
	}
	for _, r := range rules {
		if r.pattern == nil {
			return valid(User(name))
		}
		if r.pattern.MatchString(name) {
			return valid(User(r.change(r.pattern.ReplaceAllString(name, r.replace))))
		}
	}
	return "", fmt.Errorf("%w: none fits a certificate's subject: %w", ErrRule, ErrAuthentication)
}

func valid(p Principal) (Principal, error) {
	if !p.Valid() {
		return "", fmt.Errorf("a certificate's subject gives no principal of 1 to %d bytes: %w", PrincipalMax, ErrAuthentication)
	}
	return p, nil
}
