package rest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"
)

// format says how keys and values are written in JSON. The media types are those of Confluent's REST Proxy.
type format uint8

const (
	// formatJSON: a value is any JSON value and stored as its text, a key is a string and stored as its bytes.
	formatJSON format = iota
	// formatText: both are strings and stored as their bytes.
	formatText
	// formatBinary: both are base64.
	formatBinary
)

const (
	jsonType   = "application/json"
	textType   = "application/vnd.kafka.text.v2+json"
	binaryType = "application/vnd.kafka.binary.v2+json"
)

var (
	formats = map[string]format{
		jsonType: formatJSON, "application/vnd.kafka.json.v2+json": formatJSON, textType: formatText, binaryType: formatBinary,
	}
	// types are the formats' media types in answers.
	types = [...]string{formatJSON: jsonType, formatText: textType, formatBinary: binaryType}
)

const theTypes = jsonType + ", " + textType + " or " + binaryType

// depthMax bounds how deep arrays and objects of a value may lie in each other.
const depthMax = 64

// formatOf is what a body is written in.
func formatOf(r *http.Request) (format, error) {
	media, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	f, ok := formats[media]
	switch {
	case err != nil || !ok:
		return 0, bad(http.StatusUnsupportedMediaType, "Content-Type %.100q: want %s", r.Header.Get("Content-Type"), theTypes)
	case params["charset"] != "" && !strings.EqualFold(params["charset"], "utf-8"):
		return 0, bad(http.StatusUnsupportedMediaType, "charset %.20q: JSON is UTF-8", params["charset"])
	}
	if e := r.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return 0, bad(http.StatusUnsupportedMediaType, "Content-Encoding %.20q: a body is sent as it is", e)
	}
	return f, nil
}

// accepted is the format an answer is wanted in: the one with the greatest weight, the first of several.
func accepted(r *http.Request) (best format, err error) {
	all := strings.Join(r.Header.Values("Accept"), ",")
	if strings.TrimSpace(all) == "" {
		return formatJSON, nil
	}
	weight := 0.0
	for one := range strings.SplitSeq(all, ",") {
		media, params, err := mime.ParseMediaType(one)
		if err != nil {
			continue
		}
		f, ok := formats[media]
		if !ok && media != "*/*" && media != "application/*" {
			continue
		}
		q := 1.0
		if text, ok := params["q"]; ok {
			if q, err = strconv.ParseFloat(text, 64); err != nil {
				continue
			}
		}
		if q > weight {
			best, weight = f, q
		}
	}
	if weight == 0 {
		return 0, bad(http.StatusNotAcceptable, "Accept %.100q: there are %s", all, theTypes)
	}
	return best, nil
}

var (
	errNotText = errors.New("want a string")
	errUnicode = errors.New("the text is not Unicode")
	errBase64  = errors.New("want base64 in a string")
	errDeep    = errors.New("arrays and objects lie too deep in each other, at most " + strconv.Itoa(depthMax))
)

// text is the text of a JSON string, nil of null. It lies where raw does, which is valid JSON and UTF-8.
func text(raw []byte) ([]byte, error) {
	switch {
	case isNull(raw):
		return nil, nil
	case raw[0] != '"':
		return nil, errNotText
	case bytes.IndexByte(raw, '\\') < 0:
		return raw[1 : len(raw)-1], nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, err
	}
	// Half of a pair of surrogates is silently replaced by encoding/json, and would not be what was sent.
	const replaced = "\uFFFD"
	if n := strings.Count(s, replaced); n > 0 && n > bytes.Count(raw, []byte(replaced))+bytes.Count(bytes.ToLower(raw), []byte(`\ufffd`)) {
		return nil, errUnicode
	}
	return raw[:copy(raw, s)], nil // it only gets shorter
}

// binary is what base64 in a JSON string says, nil of null.
func binary(raw []byte) ([]byte, error) {
	s, err := text(raw)
	if err != nil {
		return nil, errBase64
	}
	if s == nil {
		return nil, nil
	}
	out := make([]byte, 0, base64.StdEncoding.DecodedLen(len(s))) // not nil: empty is not null
	if out, err = base64.StdEncoding.Strict().AppendDecode(out, s); err != nil {
		return nil, errBase64
	}
	return out, nil
}

// compact is a JSON value without the space between its parts, nil of null. It lies where raw does.
func compact(raw []byte) ([]byte, error) {
	switch {
	case isNull(raw):
		return nil, nil
	case depth(raw) > depthMax:
		return nil, errDeep
	}
	b := bytes.NewBuffer(make([]byte, 0, len(raw)))
	if err := json.Compact(b, raw); err != nil {
		return nil, err
	}
	return raw[:copy(raw, b.Bytes())], nil
}

func isNull(raw []byte) bool { return len(raw) == 0 || string(raw) == "null" }

// depth is how deep arrays and objects lie in each other.
func depth(raw []byte) (deepest int) {
	at, quoted := 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			at++
			deepest = max(deepest, at)
		case c == '}' || c == ']':
			at--
		}
	}
	return deepest
}

// showable says whether stored bytes are a JSON value that a reader gets as it is: null stays for what is not there.
func showable(p []byte) bool {
	return len(p) > 0 && utf8.Valid(p) && depth(p) <= depthMax && json.Valid(p) && string(bytes.TrimSpace(p)) != "null"
}

// appendText appends p, which is UTF-8, as a JSON string.
func appendText(dst, p []byte) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	from := 0
	for i, c := range p {
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, p[from:i]...)
		if from = i + 1; c < ' ' {
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		} else {
			dst = append(dst, '\\', c)
		}
	}
	return append(append(dst, p[from:]...), '"')
}

// textSize is how much appendText appends.
func textSize(p []byte) int {
	n := len(p) + 2
	for _, c := range p {
		switch {
		case c < ' ':
			n += 5
		case c == '"' || c == '\\':
			n++
		}
	}
	return n
}

// base64Size is how much appendBase64 appends.
func base64Size(p []byte) int { return base64.StdEncoding.EncodedLen(len(p)) + 2 }

func appendBase64(dst, p []byte) []byte {
	dst = append(dst, '"')
	dst = base64.StdEncoding.AppendEncode(dst, p)
	return append(dst, '"')
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
