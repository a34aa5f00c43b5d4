package broker

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"millrace/broker/auth"
	"millrace/broker/catalog"
)

// parseScramLine reads one credential. Its errors hold nothing of the line but the names of keys that are known.
func parseScramLine(line string) (c catalog.UpsertCredential, err error) {
	bad := func(format string, args ...any) (catalog.UpsertCredential, error) {
		return catalog.UpsertCredential{}, fmt.Errorf("%w: %s", auth.ErrCredential, fmt.Sprintf(format, args...))
	}
	name, rest, ok := strings.Cut(line, "=")
	m, err := auth.ParseMechanism(name)
	if err != nil || !m.Scram() {
		return bad("it begins with neither SCRAM-SHA-256= nor SCRAM-SHA-512=")
	}
	if !ok || !strings.HasPrefix(rest, "[") || !strings.HasSuffix(rest, "]") {
		return bad("what follows the mechanism is not in brackets")
	}
	c.User = adminName
	values, err := scramValues(rest[1 : len(rest)-1])
	if err != nil {
		return bad("%v", err)
	}
	iterations := int32(auth.IterationsMin)
	var salt, salted []byte
	password, given := "", false
	for key, value := range values {
		switch key {
		case "name":
			c.User = value
		case "password":
			password, given = value, true
		case "iterations":
			n, err := strconv.ParseInt(value, 10, 32)
			if err != nil {
				return bad("iterations is not a number")
			}
			iterations = int32(n)
		case "salt":
			if salt, err = base64.StdEncoding.DecodeString(value); err != nil {
				return bad("salt is not base64")
			}
		case "saltedpassword":
			if salted, err = base64.StdEncoding.DecodeString(value); err != nil {
				return bad("saltedpassword is not base64")
			}
		default:
			return bad("a key is none of name, password, iterations, salt, saltedpassword")
		}
	}
	switch {
	case given == (salted != nil):
		return bad("it needs either password or saltedpassword")
	case given && salt != nil:
		return bad("salt goes with saltedpassword; a password gets one of its own")
	case given:
		c.Credential, err = auth.NewCredential(m, password, iterations)
	default:
		c.Credential, err = auth.FromSalted(m, salt, iterations, salted)
	}
	return c, err
}

// scramValues splits key=value pairs at commas; a value in quotes may hold commas, and quotes and backslashes behind a
// backslash.
func scramValues(s string) (map[string]string, error) {
	values := make(map[string]string)
	for s != "" {
		key, rest, ok := strings.Cut(s, "=")
		if !ok {
			return nil, fmt.Errorf("a key has no value")
		}
		var value strings.Builder
		if quoted, ok := strings.CutPrefix(rest, `"`); ok {
			end := -1
			for i := 0; i < len(quoted) && end < 0; i++ {
				switch quoted[i] {
				case '"':
					end = i
					continue
				case '\\':
					if i++; i == len(quoted) {
						continue
					}
				}
				value.WriteByte(quoted[i])
			}
			if end < 0 {
				return nil, fmt.Errorf("a quote is not closed")
			}
			if rest = quoted[end+1:]; rest != "" && rest[0] != ',' {
				return nil, fmt.Errorf("something follows a quote")
			}
			s = strings.TrimPrefix(rest, ",")
		} else {
			var plain string
			plain, s, _ = strings.Cut(rest, ",")
			value.WriteString(plain)
		}
		key = strings.TrimSpace(key)
		if _, twice := values[key]; twice {
			return nil, fmt.Errorf("a key is there twice")
		}
		values[key] = value.String()
	}
	return values, nil
}
