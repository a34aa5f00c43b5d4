package rest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"

	"millrace/broker/record"
)

const (
	// itemsMax bounds the records of a request and their headers, together.
	itemsMax = 4000
	// itemCost is what one of them takes beside its bytes, and itemLeast the least it takes of a body.
	itemCost, itemLeast = 160, 3
)

// posted is one record of a request.
type posted struct {
	record.Record
	partition int32 // -1: by the key
}

// costOf is what a body of n bytes takes while it is read: twice itself, and its records.
func costOf(n int64) int64 { return 2*n + itemCost*min(n/itemLeast, itemsMax) }

// parser reads the body of a request, a record at a time.
type parser struct {
	format format
	*json.Decoder
	items int // so far
}

func newParser(f format, r io.Reader) *parser { return &parser{format: f, Decoder: json.NewDecoder(r)} }

// parse reads {"records": [...]}. Names that do not exist, or are there twice, are errors: a typing mistake must not turn
// into a default.
func (p *parser) parse() (all []posted, err error) {
	err = p.object([]string{"records"}, func(string) error {
		return p.array(func() error {
			one, err := p.record()
			if err != nil {
				return fmt.Errorf("record %d: %w", len(all), err)
			}
			all = append(all, one)
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	switch _, err := p.Token(); {
	case err == nil:
		return nil, errors.New("something follows the request")
	case !errors.Is(err, io.EOF):
		return nil, err
	case len(all) == 0:
		return nil, errors.New("no records")
	}
	return all, nil
}

// object reads an object. each reads the value of one of names.
func (p *parser) object(names []string, each func(name string) error) error {
	if err := p.want('{', "an object"); err != nil {
		return err
	}
	var seen uint
	for p.More() {
		token, err := p.Token()
		if err != nil {
			return err
		}
		name, _ := token.(string)
		at := slices.Index(names, name)
		switch {
		case at < 0:
			return fmt.Errorf("there is no %.50q, but %s", name, strings.Join(names, ", "))
		case seen&(1<<at) != 0:
			return fmt.Errorf("%s is there twice", name)
		}
		seen |= 1 << at
		if err := each(name); err != nil {
			return err
		}
	}
	return p.want('}', "the end of an object")
}

// array reads an array of what is counted. each reads one element.
func (p *parser) array(each func() error) error {
	if err := p.want('[', "an array"); err != nil {
		return err
	}
	for p.More() {
		if p.items++; p.items > itemsMax {
			return fmt.Errorf("more than %d records and headers in one request", itemsMax)
		}
		if err := each(); err != nil {
			return err
		}
	}
	return p.want(']', "the end of an array")
}

// want reads a bracket.
func (p *parser) want(d json.Delim, called string) error {
	switch have, err := p.Token(); {
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	case err != nil:
		return err
	case have != d:
		return fmt.Errorf("want %s", called)
	}
	return nil
}

// The names of a record and of a header.
var (
	recordNames = []string{"partition", "timestamp", "key", "key_base64", "value", "value_base64", "headers"}
	headerNames = []string{"key", "value", "value_base64"}
)

func (p *parser) record() (r posted, err error) {
	r.partition = -1
	var key, keyBase64, value, valueBase64 json.RawMessage
	if err := p.object(recordNames, func(name string) error {
		switch name {
		case "partition":
			return p.number(name, 0, math.MaxInt32, func(n int64) { r.partition = int32(n) })
		case "timestamp":
			return p.number(name, 1, math.MaxInt64, func(n int64) { r.Timestamp = n })
		case "headers":
			if err := p.array(func() error {
				h, err := p.header()
				r.Headers = append(r.Headers, h)
				return err
			}); err != nil {
				return fmt.Errorf("headers: %w", err)
			}
			return nil
		}
		return p.Decode(map[string]*json.RawMessage{"key": &key, "key_base64": &keyBase64, "value": &value, "value_base64": &valueBase64}[name])
	}); err != nil {
		return r, err
	}
	if r.Key, err = p.either(key, keyBase64, text); err != nil {
		return r, fmt.Errorf("key: %w", err)
	}
	read := text
	if p.format == formatJSON {
		read = compact
	}
	if r.Value, err = p.either(value, valueBase64, read); err != nil {
		return r, fmt.Errorf("value: %w", err)
	}
	return r, nil
}

// number reads a whole number, or null.
func (p *parser) number(name string, low, high int64, into func(int64)) error {
	var n *int64
	err := p.Decode(&n)
	if kind := (*json.UnmarshalTypeError)(nil); errors.As(err, &kind) || err == nil && n != nil && (*n < low || *n > high) {
		return fmt.Errorf("%s: want a number from %d to %d", name, low, high)
	}
	if n != nil {
		into(*n)
	}
	return err
}

// either reads what was written as the format says, or as base64.
func (p *parser) either(plain, base64 json.RawMessage, read func(json.RawMessage) ([]byte, error)) ([]byte, error) {
	switch {
	case p.format == formatBinary && base64 != nil:
		return nil, errors.New("in this Content-Type it is base64 without saying so")
	case plain != nil && base64 != nil:
		return nil, errors.New("written twice")
	case base64 != nil:
		return binary(base64)
	case p.format == formatBinary:
		return binary(plain)
	}
	return read(plain)
}

// header reads one header of an array.
func (p *parser) header() (h record.Header, err error) {
	var key, value, valueBase64 json.RawMessage
	if err := p.object(headerNames, func(name string) error {
		return p.Decode(map[string]*json.RawMessage{"key": &key, "value": &value, "value_base64": &valueBase64}[name])
	}); err != nil {
		return h, err
	}
	name, err := text(key)
	if err != nil || name == nil {
		return h, errors.New("a header's key is a string")
	}
	h.Key = string(name)
	h.Value, err = p.either(value, valueBase64, text)
	return h, err
}

// unreadable is the answer to a body that could not be read.
func unreadable(err error) error {
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return &fault{status: http.StatusRequestEntityTooLarge, code: codeMessageTooLarge, text: fmt.Sprintf("the body has more than %d bytes", large.Limit)}
	case timedOut(err):
		return &fault{status: http.StatusRequestTimeout, code: codeRequestTimedOut, text: "the body did not come in time"}
	}
	return bad(http.StatusBadRequest, "%v", err)
}
