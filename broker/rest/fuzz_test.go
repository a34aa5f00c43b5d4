package rest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"testing"
	"unicode/utf8"

	"millrace/broker/record"
	"millrace/broker/rest/resttest"
)

// Whatever the parser accepts is what the description allows, and comes out of an answer as it went in.
func FuzzRecords(f *testing.F) {
	for _, body := range []string{
		`{"records":[{"key":"k","value":{"a":[1,"é"]},"headers":[{"key":"h","value":"v"},{"key":"n","value":null}]}]}`,
		`{"records":[{"partition":3,"timestamp":5,"key_base64":"/w==","value_base64":"AAE="},{}]}`,
		`{"records":[{"key":"\ud83d\ude00\ufffd","value":"x"}]}`, `{"records":[{"key":"aw==","value":"/w=="}]}`,
		`{"records":[{"value":nul}]}`, `{"records":[{"key":"\ud800"}]}`, `{"records" : [ { "value" : [ [ ] ] } ] }`, `{"records":[{"value_base64":"bnVsbA=="}]}`,
	} {
		for form := range types {
			f.Add([]byte(body), uint8(form))
		}
	}
	d := resttest.Read(f, OpenAPI())
	f.Fuzz(func(t *testing.T, body []byte, kind uint8) {
		form := format(kind % uint8(len(types)))
		all, err := parse(form, bytes.Clone(body))
		if err != nil {
			return
		}
		if err := d.Request("POST", recordsPath, types[form], body); err != nil {
			t.Errorf("accepted, and described otherwise: %v\n%s", err, body)
		}
		for i := range all {
			r := &all[i].Record
			a := &answer{form: form, limit: 1 << 30, records: 1}
			if !a.record(r) || !json.Valid(a.out) || !utf8.Valid(a.out) {
				t.Fatalf("told as %q", a.out)
			}
			back := told(t, form, a.out)
			if !same(back.Key, r.Key) || !same(back.Value, r.Value) || len(back.Headers) != len(r.Headers) {
				t.Fatalf("%+v came back as %+v", r, back)
			}
			for i, h := range r.Headers {
				if b := back.Headers[i]; b.Key != h.Key || !same(b.Value, h.Value) {
					t.Fatalf("header %+v came back as %+v", h, b)
				}
			}
		}
	})
}

// told reads a record of an answer by means other than the parser's.
func told(t *testing.T, form format, text []byte) (r record.Record) {
	type pair struct {
		Key, Value   json.RawMessage
		KeyBase64    *string `json:"key_base64"`
		ValueBase64  *string `json:"value_base64"`
		Headers      []json.RawMessage
		Offset, Time int64
	}
	decode := func(s string) []byte {
		p, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return append([]byte{}, p...)
	}
	field := func(plain json.RawMessage, b64 *string, value bool) []byte {
		var s *string
		switch {
		case b64 != nil:
			return decode(*b64)
		case string(plain) == "null":
			return nil
		case value && form == formatJSON:
			return plain
		}
		if err := json.Unmarshal(plain, &s); err != nil {
			t.Fatal(err)
		}
		if form == formatBinary {
			return decode(*s)
		}
		return []byte(*s)
	}
	var p pair
	if err := json.Unmarshal(text, &p); err != nil {
		t.Fatal(err)
	}
	r.Key, r.Value = field(p.Key, p.KeyBase64, false), field(p.Value, p.ValueBase64, true)
	for _, raw := range p.Headers {
		var h pair
		var key string
		if err := json.Unmarshal(raw, &h); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(h.Key, &key); err != nil {
			t.Fatal(err)
		}
		value := []byte(nil)
		if form == formatJSON { // text, not JSON
			if h.ValueBase64 != nil {
				value = decode(*h.ValueBase64)
			} else if string(h.Value) != "null" {
				var s string
				if err := json.Unmarshal(h.Value, &s); err != nil {
					t.Fatal(err)
				}
				value = []byte(s)
			}
		} else {
			value = field(h.Value, h.ValueBase64, true)
		}
		r.Headers = append(r.Headers, record.Header{Key: key, Value: value})
	}
	return r
}

// same tells null from empty.
func same(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }
