package wire

import (
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	p, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestFrameSize(t *testing.T) {
	for _, tt := range []struct {
		prefix string
		size   int
		err    error
	}{
		{"0000000a", 10, nil},
		{"00000064", 100, nil},
		{"00000065", 0, ErrFrameTooLarge},
		{"7fffffff", 0, ErrFrameTooLarge},
		{"77359400", 0, ErrFrameTooLarge}, // two billion
		{"00000009", 0, ErrMalformed},
		{"00000000", 0, ErrMalformed},
		{"ffffffff", 0, ErrMalformed},
		{"80000000", 0, ErrMalformed},
		{"47455420", 0, ErrFrameTooLarge}, // GET
		{"16030100", 0, ErrFrameTooLarge}, // a TLS hello
	} {
		size, err := FrameSize([4]byte(unhex(t, tt.prefix)), 100)
		if size != tt.size || !errors.Is(err, tt.err) {
			t.Errorf("%s: %d, %v; want %d, %v", tt.prefix, size, err, tt.size, tt.err)
		}
	}
}

func TestAdmit(t *testing.T) {
	for _, tt := range []struct {
		begin string
		size  int
		err   error
	}{
		{"0000 000d", 100 << 20, nil},
		{"0000 0002", 100, ErrUnsupportedVersion}, // advertised, refused as Apache Kafka does
		{"0001 0012", adminFrameMax, nil},
		{"0001 0012", adminFrameMax + 1, ErrFrameTooLarge},
		{"0001 0013", 100, ErrUnsupportedVersion},
		{"0001 ffff", 100, ErrUnsupportedVersion},
		{"0012 7fff", 100, nil},
		{"0004 0000", 100, ErrUnknownAPI}, // LeaderAndIsr
		{"0018 0000", 100, ErrUnknownAPI}, // AddPartitionsToTxn: transactions come later
		{"004c 0000", 100, ErrUnknownAPI},
		{"7fff 0000", 100, ErrUnknownAPI},
		{"ffff 0000", 100, ErrUnknownAPI},
	} {
		if err := Admit([4]byte(unhex(t, tt.begin)), tt.size); !errors.Is(err, tt.err) {
			t.Errorf("%s of %d bytes: %v, want %v", tt.begin, tt.size, err, tt.err)
		}
	}
}

func TestParseHeader(t *testing.T) {
	long := strings.Repeat("61", ClientIDMax)
	for _, tt := range []struct {
		name, frame string
		client      string
		body        string
		err         error
	}{
		{"v1 header", "0003 0001 0000002a 0003 616263 00000000", "abc", "00000000", nil},
		{"null client id", "0003 0001 0000002a ffff 00000000", "", "00000000", nil},
		{"v2 header", "0003 0009 0000002a 0001 61 00 01", "a", "01", nil},
		{"v2 header with a tag", "0003 0009 0000002a 0001 61 01 05 02 ffff 01", "a", "01", nil},
		{"longest client id", "0003 0001 0000002a 0400" + long, strings.Repeat("a", ClientIDMax), "", nil},
		{"client id too long", "0003 0001 0000002a 0401" + long + "61", "", "", ErrMalformed},
		{"client id past the end", "0003 0001 0000002a 0003 6162", "", "", ErrMalformed},
		{"negative client id", "0003 0001 0000002a fffe 616263", "", "", ErrMalformed},
		{"no tags", "0003 0009 0000002a 0001 61", "", "", ErrMalformed},
		{"two billion tags", "0003 0009 0000002a 0001 61 8094ebdc07 0000", "", "", ErrMalformed},
		{"tag past the end", "0003 0009 0000002a 0001 61 01 05 7f 00", "", "", ErrMalformed},
		{"short", "0003 0009 0000002a", "", "", ErrMalformed},
		{"unknown key", "0063 0000 0000002a ffff", "", "", ErrUnknownAPI},
		{"version from the future", "0012 0005 0000002a 0001 61 00 0461 0461 00", "a", "", ErrUnsupportedVersion},
	} {
		h, body, err := ParseHeader(unhex(t, tt.frame))
		if !errors.Is(err, tt.err) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.err)
			continue
		}
		if err != nil && !errors.Is(err, ErrUnsupportedVersion) {
			continue
		}
		if h.ClientID != tt.client || h.Correlation != 42 || hex.EncodeToString(body) != tt.body {
			t.Errorf("%s: %+v, body %x", tt.name, h, body)
		}
	}
}

func TestTagsOfHeadersAreBounded(t *testing.T) {
	frame := unhex(t, "0003 0009 0000002a 0001 61 41") // 65 tags
	for range tagMax + 1 {
		frame = append(frame, 9, 0)
	}
	if _, _, err := ParseHeader(frame); !errors.Is(err, ErrMalformed) {
		t.Errorf("65 tags: %v", err)
	}
}

// The bytes real clients send first, and those they get.
func TestGoldenApiVersions(t *testing.T) {
	// librdkafka: ApiVersions v3, client id rdkafka, correlation id 1, software librdkafka 2.0.2.
	h, req, err := Parse(unhex(t, "0012 0003 00000001 0007 72646b61666b61 00 0b6c696272646b61666b61 06322e302e32 00"))
	if err != nil {
		t.Fatal(err)
	}
	if r := req.(*kmsg.ApiVersionsRequest); h.ClientID != "rdkafka" || r.ClientSoftwareName != "librdkafka" || r.ClientSoftwareVersion != "2.0.2" {
		t.Errorf("%+v %+v", h, r)
	}
	resp := kmsg.NewPtrApiVersionsResponse()
	resp.ApiKeys = []kmsg.ApiVersionsResponseApiKey{{ApiKey: 18, MaxVersion: 4}}
	for _, tt := range []struct {
		version int16
		want    string
	}{
		{0, "00000010 00000001 0000 00000001 0012 0000 0004"},
		{1, "00000014 00000001 0000 00000001 0012 0000 0004 00000000"},
		// No tags after the correlation id, in spite of the flexible body (KIP-511).
		{3, "00000013 00000001 0000 02 0012 0000 0004 00 00000000 00"},
	} {
		h.Version = tt.version
		got, err := Encode(h, resp).Append(nil)
		if err != nil || hex.EncodeToString(got) != strings.ReplaceAll(tt.want, " ", "") {
			t.Errorf("v%d: %x, %v; want %s", tt.version, got, err, tt.want)
		}
	}
}

func TestUnknownApiVersionsVersionIsARequest(t *testing.T) {
	// franz-go 1.22 asks v5 first.
	h, req, err := Parse(unhex(t, "0012 0005 00000007 0003 6b676f 00 0461 0461 00 ffffffff 00"))
	if err != nil || h.Version != 5 || h.Correlation != 7 {
		t.Fatalf("%+v, %v", h, err)
	}
	if _, ok := req.(*kmsg.ApiVersionsRequest); !ok {
		t.Errorf("%T", req)
	}
}

func TestGoldenMetadata(t *testing.T) {
	resp := kmsg.NewPtrMetadataResponse()
	resp.ControllerID = 1
	resp.Brokers = []kmsg.MetadataResponseBroker{{NodeID: 1, Host: "h", Port: 9092}}
	got, err := Encode(Header{Key: 3, Version: 9, Correlation: 5}, resp).Append(nil)
	want := "00000021 00000005 00 00000000 02 00000001 0268 00002384 00 00 00 00000001 01 80000000 00"
	if err != nil || hex.EncodeToString(got) != strings.ReplaceAll(want, " ", "") {
		t.Errorf("%x, %v; want %s", got, err, want)
	}
}

func TestTableIsSortedAndFound(t *testing.T) {
	if !slices.IsSortedFunc(APIs(), func(a, b API) int { return int(a.Key) - int(b.Key) }) {
		t.Error("the table is not sorted by key")
	}
	for key := int16(-2); key < 200; key++ {
		a, ok := Lookup(key)
		if want := slices.ContainsFunc(apis, func(a API) bool { return a.Key == key }); ok != want || ok && a.Key != key {
			t.Errorf("Lookup(%d) = %v, %v", key, a, ok)
		}
	}
}

func FuzzParseHeader(f *testing.F) {
	f.Add([]byte("\x00\x03\x00\x09\x00\x00\x00\x2a\x00\x01a\x00\x01"))
	f.Add([]byte("\x00\x12\x00\x05\x00\x00\x00\x2a\xff\xff"))
	f.Fuzz(func(t *testing.T, frame []byte) {
		h, body, err := ParseHeader(frame)
		if err == nil && (len(body) > len(frame)-headerMin || len(h.ClientID) > ClientIDMax) {
			t.Errorf("%+v with a body of %d from %d bytes", h, len(body), len(frame))
		}
	})
}

// FuzzDecode: whatever the body, decoding ends with a request that encodes again or an error of ours, and allocates
// no more than a small multiple of the body and the cap on elements allow.
func FuzzDecode(f *testing.F) {
	r := rand.New(rand.NewPCG(9, 10))
	each(f, func(a *API, version int16) {
		f.Add(a.Key, version, random(r, a, version).AppendTo(nil))
	})
	f.Fuzz(func(t *testing.T, key, version int16, body []byte) {
		if len(body) > adminFrameMax {
			return
		}
		var req kmsg.Request
		var err error
		n := allocated(func() { req, err = Decode(Header{Key: key, Version: version}, body) })
		if limit := uint64(64<<10 + 128*len(body)); n > min(limit, decodeMax) {
			t.Errorf("key %d v%d: %d bytes allocated %d", key, version, len(body), n)
		}
		if err != nil {
			for _, known := range []error{ErrMalformed, ErrFrameTooLarge, ErrUnknownAPI, ErrUnsupportedVersion} {
				if errors.Is(err, known) {
					return
				}
			}
			t.Fatalf("key %d v%d: %v", key, version, err)
		}
		// What was understood is written and understood the same way.
		once := req.AppendTo(nil)
		again, err := Decode(Header{Key: key, Version: version}, once)
		if err != nil {
			t.Fatalf("key %d v%d: %x was understood, %x is not: %v", key, version, body, once, err)
		}
		if twice := again.AppendTo(nil); string(twice) != string(once) {
			t.Fatalf("key %d v%d: %x became %x", key, version, once, twice)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add(unhex(f, "0012 0003 00000001 0007 72646b61666b61 00 0b6c696272646b61666b61 06322e302e32 00"))
	f.Fuzz(func(t *testing.T, frame []byte) {
		h, req, err := Parse(frame)
		if (err == nil) != (req != nil) {
			t.Errorf("%+v: %v, %v", h, req, err)
		}
	})
}
