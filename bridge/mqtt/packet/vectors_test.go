package packet

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"testing"

	"millrace/bridge/mqtt/packet/packettest"
)

func TestVectors(t *testing.T) {
	all := packettest.Vectors(t, "testdata")
	if len(all) < 600 {
		t.Errorf("%d vectors", len(all))
	}
	seen := make(map[string]string)
	for _, v := range all {
		key := fmt.Sprint(v.Version, hex.EncodeToString(v.Bytes))
		if other := seen[key]; other != "" {
			t.Errorf("%s repeats %s", v.Line, other)
		}
		seen[key] = v.Line
		pkt, err := Decode(v.Bytes, Version(v.Version), Limits{})
		if v.Verdict != "ok" && v.Verdict != "loose" {
			var bad *Error
			if !errors.As(err, &bad) || fmt.Sprintf("%02x", byte(bad.Reason)) != v.Verdict || bad.Why == "" || pkt != nil {
				t.Errorf("%s, %s (%x): %v, want reason %s", v.Line, v.Name, v.Bytes, err, v.Verdict)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s, %s (%x): %v", v.Line, v.Name, v.Bytes, err)
			continue
		}
		again := pkt.Append(nil, Version(v.Version))
		if same := bytes.Equal(again, v.Bytes); same != (v.Verdict == "ok") {
			t.Errorf("%s, %s: %x encodes to %x", v.Line, v.Name, v.Bytes, again)
		}
		if got, err := Decode(again, Version(v.Version), Limits{}); err != nil || !reflect.DeepEqual(got, pkt) {
			t.Errorf("%s, %s: %+v decodes again to %+v, %v", v.Line, v.Name, pkt, got, err)
		}
	}
}

// Every prefix of every vector, with its length made true, is refused or decoded, never read past.
func TestCutVectors(t *testing.T) {
	for _, v := range packettest.Vectors(t, "testdata") {
		size, err := Frame(v.Bytes)
		if err != nil || size != len(v.Bytes) || size > 100 {
			continue
		}
		for n := range size - 1 {
			p := append([]byte{v.Bytes[0], byte(n)}, v.Bytes[2:2+n]...)
			if pkt, err := Decode(p[:len(p):len(p)], Version(v.Version), Limits{}); (pkt == nil) == (err == nil) {
				t.Errorf("%s cut to %x: %v, %v", v.Line, p, pkt, err)
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

// [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.7.3-1] [MQTT-4.7.3-2]
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
	for _, v := range packettest.Vectors(f, "testdata") {
		f.Add(v.Bytes, v.Version == byte(V5))
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
