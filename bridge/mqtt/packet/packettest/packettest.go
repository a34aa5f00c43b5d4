// Package packettest reads the table of wire vectors.
package packettest

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Vector is one line of the table.
type Vector struct {
	Line    string // file and number
	Version byte   // the protocol level, 4 or 5
	// Verdict is ok (decodes, and encodes to the same bytes), loose (decodes, and the canonical encoding differs) or the
	// reason code of the refusal, two hexadecimal digits.
	Verdict string
	Name    string
	Bytes   []byte
	// Answer is what a server says to a client that sends this alone, after CONNECT where it is none, "; " between packets
	// and "closed" for the end. For what is refused the verdict says it.
	Answer string
}

var line = regexp.MustCompile(`^([45]) (\w+) +(.*?)  +(.*?)(?:  -> (.*))?$`)

// Vectors reads all tables in dir, in the notation their heads describe.
func Vectors(t testing.TB, dir string) (all []Vector) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no table in %s: %v", dir, err)
	}
	for _, name := range names {
		file, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for i, row := range strings.Split(string(file), "\n") {
			if row == "" || row[0] == '#' {
				continue
			}
			at := fmt.Sprintf("%s:%d", filepath.Base(name), i+1)
			m := line.FindStringSubmatch(row)
			if m == nil {
				t.Fatalf("%s is no vector: %s", at, row)
			}
			p, err := Assemble(m[4])
			if err != nil {
				t.Fatalf("%s: %v", at, err)
			}
			all = append(all, Vector{at, m[1][0] - '0', m[2], m[3], p, m[5]})
		}
	}
	return all
}

// Assemble makes the bytes: hex; "text" with its two length bytes; 'raw text'; [ ... ] with the variable byte integer
// length of what is in it.
func Assemble(s string) ([]byte, error) {
	p, rest, err := assemble(s, false)
	if err == nil && rest != "" {
		err = fmt.Errorf("rest %q", rest)
	}
	return p, err
}

var token = regexp.MustCompile(`^(?:"[^"]*"|'[^']*'|[0-9a-f]+|\[|\])`)

func assemble(s string, nested bool) (p []byte, rest string, err error) {
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimSpace(s) {
		tok := token.FindString(s)
		s = s[len(tok):]
		switch {
		case tok == "":
			return nil, s, fmt.Errorf("no token at %q", s)
		case tok[0] == '"':
			p = binary.BigEndian.AppendUint16(p, uint16(len(tok)-2))
			p = append(p, tok[1:len(tok)-1]...)
		case tok[0] == '\'':
			p = append(p, tok[1:len(tok)-1]...)
		case tok == "[":
			var in []byte
			if in, s, err = assemble(s, true); err != nil {
				return nil, s, err
			}
			n := len(in)
			for ; n > 127; n >>= 7 {
				p = append(p, byte(n)|0x80)
			}
			p = append(append(p, byte(n)), in...)
		case tok == "]":
			if !nested {
				return nil, s, errors.New("] without [")
			}
			return p, s, nil
		default:
			b, err := hex.DecodeString(tok)
			if err != nil {
				return nil, s, err
			}
			p = append(p, b...)
		}
	}
	if nested {
		return nil, s, errors.New("[ without ]")
	}
	return p, s, nil
}
