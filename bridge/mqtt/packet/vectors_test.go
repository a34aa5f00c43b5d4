package packet

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

type vector struct {
	line    int
	version Version
	verdict string
	name    string
	bytes   []byte
}

var vectorLine = regexp.MustCompile(`^([45]) (\w+) +(.*?)  +(.*)$`)

func vectors(t testing.TB) (all []vector) {
	t.Helper()
	file, err := os.ReadFile("testdata/vectors.txt")
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(string(file), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		m := vectorLine.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("line %d is no vector: %s", i+1, line)
		}
		p, rest, err := assemble(m[4], false)
		if err != nil || rest != "" {
			t.Fatalf("line %d: %v, rest %q", i+1, err, rest)
		}
		all = append(all, vector{i + 1, Version(m[1][0] - '0'), m[2], m[3], p})
	}
	return all
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
			p = appendText(p, tok[1:len(tok)-1])
		case tok[0] == '\'':
			p = append(p, tok[1:len(tok)-1]...)
		case tok == "[":
			var in []byte
			if in, s, err = assemble(s, true); err != nil {
				return nil, s, err
			}
			p = append(appendVarint(p, len(in)), in...)
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

func TestVectors(t *testing.T) {
	all := vectors(t)
	if len(all) < 200 {
		t.Errorf("%d vectors", len(all))
	}
	seen := make(map[string]int)
	for _, v := range all {
		key := fmt.Sprint(v.version, hex.EncodeToString(v.bytes))
		if other := seen[key]; other != 0 {
			t.Errorf("line %d repeats line %d", v.line, other)
		}
		seen[key] = v.line
		pkt, err := Decode(v.bytes, v.version, Limits{})
		if v.verdict != "ok" && v.verdict != "loose" {
			var bad *Error
			if !errors.As(err, &bad) || fmt.Sprintf("%02x", byte(bad.Reason)) != v.verdict || bad.Why == "" || pkt != nil {
				t.Errorf("line %d, %s (%x): %v, want reason %s", v.line, v.name, v.bytes, err, v.verdict)
			}
			continue
		}
		if err != nil {
			t.Errorf("line %d, %s (%x): %v", v.line, v.name, v.bytes, err)
			continue
		}
		again := pkt.Append(nil, v.version)
		if same := bytes.Equal(again, v.bytes); same != (v.verdict == "ok") {
			t.Errorf("line %d, %s: %x encodes to %x", v.line, v.name, v.bytes, again)
		}
		if got, err := Decode(again, v.version, Limits{}); err != nil || !reflect.DeepEqual(got, pkt) {
			t.Errorf("line %d, %s: %+v decodes again to %+v, %v", v.line, v.name, pkt, got, err)
		}
	}
}

// Every prefix of every vector, with its length made true, is refused or decoded, never read past.
func TestCutVectors(t *testing.T) {
	for _, v := range vectors(t) {
		size, err := Frame(v.bytes)
		if err != nil || size != len(v.bytes) || size > 100 {
			continue
		}
		for n := range size - 1 {
			p := append([]byte{v.bytes[0], byte(n)}, v.bytes[2:2+n]...)
			if pkt, err := Decode(p[:len(p):len(p)], v.version, Limits{}); (pkt == nil) == (err == nil) {
				t.Errorf("line %d cut to %x: %v, %v", v.line, p, pkt, err)
			}
		}
	}
}

func TestFrame(t *testing.T) {
	for _, tt := range []struct {
		in   string
		size int
		bad  bool
	}{
		{"", 0, false},
		{"30", 0, false},
		{"3000", 2, false},
		{"307f", 129, false},
		{"3080", 0, false},
		{"308001", 131, false},
		{"30ffffff", 0, false},
		{"30ffffff7f", 5 + MaxRemaining, false},
		{"30ffffffff", 0, true},
	} {
		p, err := hex.DecodeString(tt.in)
		if err != nil {
			t.Fatal(err)
		}
		size, err := Frame(p)
		if size != tt.size || (err != nil) != tt.bad {
			t.Errorf("Frame(%s) = %d, %v", tt.in, size, err)
		}
	}
}

func TestLimitsBoundLists(t *testing.T) {
	lim := Limits{Filters: 2, User: 1}
	for _, tt := range []struct {
		pkt Packet
		ok  bool
	}{
		{&Subscribe{ID: 1, Filters: make([]Subscription, 2)}, true},
		{&Subscribe{ID: 1, Filters: make([]Subscription, 3)}, false},
		{&Unsubscribe{ID: 1, Filters: make([]string, 2)}, true},
		{&Unsubscribe{ID: 1, Filters: make([]string, 3)}, false},
	} {
		_, err := Decode(tt.pkt.Append(nil, V5), V5, lim)
		if (err == nil) != tt.ok {
			t.Errorf("%+v: %v", tt.pkt, err)
		}
	}
	two := []byte{0xe0, 16, 0, 14, 0x26, 0, 1, 'a', 0, 1, 'b', 0x26, 0, 1, 'a', 0, 1, 'b'}
	var bad *Error
	if _, err := Decode(two, V5, lim); !errors.As(err, &bad) || bad.Reason != QuotaExceeded {
		t.Errorf("two user properties: %v", err)
	}
}

func TestDecodingAllocatesByWhatIsThere(t *testing.T) {
	promises := []byte{0x30, 0xff, 0xff, 0xff, 0x7f, 0, 1, 'a'}
	if n := testing.AllocsPerRun(100, func() {
		if _, err := Decode(promises, V5, Limits{}); err == nil {
			t.Fatal("decoded")
		}
	}); n > 1 {
		t.Errorf("%v allocations for a packet that is not there", n)
	}
}

func TestEncodingAPublishDoesNotAllocate(t *testing.T) {
	p := &Publish{Topic: "a/b", QoS: 1, ID: 3, Payload: make([]byte, 500), Properties: &Properties{Present: Of(ContentType), ContentType: "x"}}
	dst := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(100, func() { dst = p.Append(dst[:0], V5) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestValidFilter(t *testing.T) {
	for f, want := range map[string]bool{
		"#": true, "+": true, "/": true, "a/#": true, "a/+/b": true, "+/+": true, "//": true, "$SYS/#": true, "a//b": true,
		"": false, "a#": false, "#/a": false, "a/#/b": false, "a+": false, "+a": false, "a/b+": false, "##": false, "a\x00": false,
	} {
		if ValidFilter(f) != want {
			t.Errorf("ValidFilter(%q) = %v", f, !want)
		}
	}
}

// FuzzDecode: decoding never panics; what decodes encodes to something that decodes to the same and is canonical.
func FuzzDecode(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.bytes, v.version == V5)
	}
	f.Fuzz(func(t *testing.T, p []byte, five bool) {
		v := V311
		if five {
			v = V5
		}
		pkt, err := Decode(p, v, Limits{Filters: 100, User: 100})
		if err != nil {
			var bad *Error
			if !errors.As(err, &bad) || !bad.Reason.Failed() {
				t.Fatalf("%v is no reason to close", err)
			}
			return
		}
		one := pkt.Append([]byte("front"), v)[5:]
		again, err := Decode(one, v, Limits{})
		if err != nil {
			t.Fatalf("%x decoded to %+v, whose encoding %x is refused: %v", p, pkt, one, err)
		}
		if !reflect.DeepEqual(pkt, again) {
			t.Fatalf("%+v became %+v", pkt, again)
		}
		if two := again.Append(nil, v); !bytes.Equal(one, two) {
			t.Fatalf("%x encodes again to %x", one, two)
		}
		if len(one) > len(p) {
			t.Fatalf("the canonical encoding %x is longer than %x", one, p)
		}
	})
}

func BenchmarkDecodePublish(b *testing.B) {
	p := (&Publish{Topic: "sensors/north/3/temp", QoS: 1, ID: 3, Payload: make([]byte, 128)}).Append(nil, V5)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(p, V5, Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}
