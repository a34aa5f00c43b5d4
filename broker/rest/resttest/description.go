// Package resttest holds what the HTTP door answers against its OpenAPI description. It knows the part of JSON Schema that
// the description uses, and refuses a description that uses more.
package resttest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// object is a JSON object.
type object = map[string]any

// Description is the OpenAPI file, read.
type Description struct {
	t   testing.TB
	doc object
}

// Read reads the description of the door, which is (rest).OpenAPI: this package imports nothing of the door.
func Read(t testing.TB, openapi []byte) *Description {
	t.Helper()
	d := &Description{t: t}
	if err := json.Unmarshal(openapi, &d.doc); err != nil {
		t.Fatal(err)
	}
	return d
}

// follow is what a $ref points to.
func (d *Description) follow(v any) object {
	o, _ := v.(object)
	ref, ok := o["$ref"].(string)
	if !ok {
		return o
	}
	at := any(d.doc)
	for part := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
		inner, ok := at.(object)
		if at = inner[part]; !ok || at == nil {
			d.t.Fatalf("%s points nowhere", ref)
		}
	}
	return d.follow(at)
}

// Answers are the answers there are, "GET /healthz 200".
func (d *Description) Answers() (list []string) {
	for path, methods := range d.doc["paths"].(object) {
		for method, o := range methods.(object) {
			if method == "parameters" {
				continue
			}
			for status := range o.(object)["responses"].(object) {
				list = append(list, strings.ToUpper(method)+" "+path+" "+status)
			}
		}
	}
	slices.Sort(list)
	return list
}

// Parameter is one in the query of an operation.
type Parameter struct {
	Name   string
	Schema object
}

// Parameters are those of an operation's query.
func (d *Description) Parameters(method, path string) (list []Parameter) {
	all, _ := d.operation(method, path)["parameters"].([]any)
	for _, v := range all {
		if p := d.follow(v); p["in"] == "query" {
			list = append(list, Parameter{p["name"].(string), d.follow(p["schema"])})
		}
	}
	return list
}

func (d *Description) operation(method, path string) object {
	o, ok := d.doc["paths"].(object)[path].(object)[strings.ToLower(method)].(object)
	if !ok {
		d.t.Fatalf("%s %s is not described", method, path)
	}
	return o
}

// Answer fails the test unless an answer is one of those that the description has for the operation.
func (d *Description) Answer(method, path string, status int, header http.Header, body []byte) {
	d.t.Helper()
	r := d.follow(d.operation(method, path)["responses"].(object)[fmt.Sprint(status)])
	if r == nil {
		d.t.Errorf("%s %s: the answer %d is not described: %s", method, path, status, body)
		return
	}
	headers, _ := r["headers"].(object)
	for name := range headers {
		if header.Get(name) == "" {
			d.t.Errorf("%s %s %d: no %s", method, path, status, name)
		}
	}
	media, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	content, ok := r["content"].(object)[media].(object)
	if err != nil || !ok {
		d.t.Errorf("%s %s %d: Content-Type %q is not described", method, path, status, header.Get("Content-Type"))
		return
	}
	if !strings.Contains(media, "json") {
		return
	}
	if err := d.fits(content["schema"], body); err != nil {
		d.t.Errorf("%s %s %d: %v\n%s", method, path, status, err, body)
	}
}

// Request says what is wrong with the body of a request by the description.
func (d *Description) Request(method, path, media string, body []byte) error {
	content := d.operation(method, path)["requestBody"].(object)["content"].(object)[media].(object)
	return d.fits(content["schema"], body)
}

func (d *Description) fits(schema any, body []byte) error {
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		return err
	}
	return d.check(d.follow(schema), v, "$")
}

// kind is the name of a value's type.
func kind(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case string:
		return "string"
	case []any:
		return "array"
	case object:
		return "object"
	case float64:
		if v == float64(int64(v)) {
			return "integer"
		}
	}
	return "number"
}

// check holds a value against a schema.
func (d *Description) check(schema object, v any, at string) error {
	fault := func(format string, args ...any) error {
		return fmt.Errorf("%s: "+format, append([]any{at}, args...)...)
	}
	for keyword, want := range schema {
		switch keyword {
		case "description", "default":
		case "type":
			names, several := want.([]any)
			if !several {
				names = []any{want}
			}
			if !slices.Contains(names, any(kind(v))) {
				return fault("%s, want %v", kind(v), want)
			}
		case "required":
			for _, name := range want.([]any) {
				if o, ok := v.(object); ok && !has(o, name.(string)) {
					return fault("no %s", name)
				}
			}
		case "properties":
			o, _ := v.(object)
			for name, inner := range o {
				if s, ok := want.(object)[name]; ok {
					if err := d.check(d.follow(s), inner, at+"."+name); err != nil {
						return err
					}
				} else if schema["additionalProperties"] == false {
					return fault("%s is not described", name)
				}
			}
		case "additionalProperties":
		case "items":
			list, _ := v.([]any)
			for i, inner := range list {
				if err := d.check(d.follow(want), inner, fmt.Sprintf("%s[%d]", at, i)); err != nil {
					return err
				}
			}
		case "oneOf":
			fit := 0
			for _, s := range want.([]any) {
				if d.check(d.follow(s), v, at) == nil {
					fit++
				}
			}
			if fit != 1 {
				return fault("%d of %d fit", fit, len(want.([]any)))
			}
		case "enum":
			if !slices.Contains(want.([]any), v) {
				return fault("%v, want one of %v", v, want)
			}
		case "minimum", "maximum", "minItems", "maxItems", "minLength", "maxLength":
			if n, ok := measure(keyword, v); ok && (strings.HasPrefix(keyword, "min") && n < want.(float64) || strings.HasPrefix(keyword, "max") && n > want.(float64)) {
				return fault("%v is over %s %v", n, keyword, want)
			}
		case "pattern":
			if s, ok := v.(string); ok && !regexp.MustCompile(want.(string)).MatchString(s) {
				return fault("%q does not match %v", s, want)
			}
		case "contentEncoding":
			if s, ok := v.(string); ok {
				if _, err := base64.StdEncoding.Strict().DecodeString(s); err != nil || want != "base64" {
					return fault("%v", err)
				}
			}
		default:
			return fault("the description uses %s, which is not known here", keyword)
		}
	}
	return nil
}

func has(o object, name string) bool {
	_, ok := o[name]
	return ok
}

// measure is what a keyword looks at.
func measure(keyword string, v any) (float64, bool) {
	switch v := v.(type) {
	case float64:
		return v, strings.HasSuffix(keyword, "imum")
	case []any:
		return float64(len(v)), strings.HasSuffix(keyword, "Items")
	case string:
		return float64(utf8.RuneCountInString(v)), strings.HasSuffix(keyword, "Length")
	}
	return 0, false
}
