package resttest

import (
	"encoding/json"
	"testing"
)

// The checker must bite: each value breaks its schema, and the good one does not.
func TestSchemas(t *testing.T) {
	d := &Description{t: t}
	for _, tt := range []struct {
		schema, good string
		bad          []string
	}{
		{`{"type":"integer","minimum":0,"maximum":5}`, `5`, []string{`-1`, `6`, `"1"`, `1.5`, `null`}},
		{`{"type":["string","null"],"minLength":1,"maxLength":2,"pattern":"^a"}`, `"aé"`, []string{`""`, `"b"`, `"abc"`, `1`}},
		{`{"type":"object","required":["a"],"properties":{"a":{"type":"boolean"}},"additionalProperties":false}`, `{"a":true}`, []string{`{}`, `{"a":1}`, `{"a":true,"b":1}`, `[]`}},
		{`{"type":"array","minItems":1,"maxItems":2,"items":{"type":"string","contentEncoding":"base64"}}`, `["AA=="]`, []string{`[]`, `["a"]`, `["","",""]`, `[1]`}},
		{`{"oneOf":[{"type":"integer"},{"enum":["a","b"]}]}`, `"b"`, []string{`"c"`, `true`}},
	} {
		var schema object
		if err := json.Unmarshal([]byte(tt.schema), &schema); err != nil {
			t.Fatal(err)
		}
		if err := d.fits(schema, []byte(tt.good)); err != nil {
			t.Errorf("%s: %s: %v", tt.schema, tt.good, err)
		}
		for _, bad := range tt.bad {
			if d.fits(schema, []byte(bad)) == nil {
				t.Errorf("%s takes %s", tt.schema, bad)
			}
		}
	}
	if d.fits(object{"allOf": nil}, []byte(`1`)) == nil {
		t.Error("what is not known passes")
	}
}
