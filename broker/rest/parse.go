package rest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"unicode/utf8"

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

// costOf is what a body of n bytes takes until its records are in their logs: its text, at most as much again while a
// value is made of it, and its records.
func costOf(n int64) int64 { return 2*n + itemCost*min(n/itemLeast, itemsMax) }

// parser reads the body of a request.
type parser struct {
	format format
	walk
	items int // so far
}

// parse reads {"records": [...]}. Names that do not exist, or are there twice, are errors: a typing mistake must not turn
// into a default. The records alias body, which is changed.
func parse(f format, body []byte) (all []posted, err error) {
	if !json.Valid(body) {
		return nil, json.Unmarshal(body, &struct{}{}) // says where
	}
	if !utf8.Valid(body) {
		return nil, errUnicode
	}
	p := &parser{format: f, walk: walk{text: body}}
	if err := p.object([]string{"records"}, func(string) error {
		return p.counted(func() error {
			one, err := p.record()
			if err != nil {
				return fmt.Errorf("record %d: %w", len(all), err)
			}
			all = append(all, one)
			return nil
		})
	}); err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, errors.New("no records")
	}
	return all, nil
}

// counted reads an array of records or headers.
func (p *parser) counted(each func() error) error {
	return p.array(func() error {
		if p.items++; p.items > itemsMax {
			return fmt.Errorf("more than %d records and headers in one request", itemsMax)
		}
		return each()
	})
}

// The names of a record and of a header.
var (
	recordNames = []string{"partition", "timestamp", "key", "key_base64", "value", "value_base64", "headers"}
	headerNames = []string{"key", "value", "value_base64"}
)

func (p *parser) record() (r posted, err error) {
	r.partition = -1
	var key, keyBase64, value, valueBase64 []byte
	if err := p.object(recordNames, func(name string) error {
		switch name {
		case "partition":
			return p.number(name, 0, math.MaxInt32, func(n int64) { r.partition = int32(n) })
		case "timestamp":
			return p.number(name, 1, math.MaxInt64, func(n int64) { r.Timestamp = n })
		case "key":
			key = p.value()
		case "key_base64":
			keyBase64 = p.value()
		case "value":
			value = p.value()
		case "value_base64":
			valueBase64 = p.value()
		case "headers":
			if err := p.counted(func() error {
				h, err := p.header()
				r.Headers = append(r.Headers, h)
				return err
			}); err != nil {
				return fmt.Errorf("headers: %w", err)
			}
		}
		return nil
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

// header reads one header.
func (p *parser) header() (h record.Header, err error) {
	var key, value, valueBase64 []byte
	if err := p.object(headerNames, func(name string) error {
		switch name {
		case "key":
			key = p.value()
		case "value":
			value = p.value()
		case "value_base64":
			valueBase64 = p.value()
		}
		return nil
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

// number reads a whole number, or null.
func (p *parser) number(name string, low, high int64, into func(int64)) error {
	raw := p.value()
	if isNull(raw) {
		return nil
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil || n < low || n > high {
		return fmt.Errorf("%s: want a number from %d to %d", name, low, high)
	}
	into(n)
	return nil
}

// either reads what was written as the format says, or as base64.
func (p *parser) either(plain, base64 []byte, read func([]byte) ([]byte, error)) ([]byte, error) {
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

// body reads a body of n bytes, or where n is negative of as many as come. What is longer than limit is an error.
func body(r io.Reader, n, limit int64) ([]byte, error) {
	if n >= 0 {
		p := make([]byte, n)
		_, err := io.ReadFull(r, p)
		return p, err
	}
	p := make([]byte, limit+1)
	switch n, err := io.ReadFull(r, p); {
	case err == nil:
		return nil, &http.MaxBytesError{Limit: limit}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return p[:n], nil
	default:
		return nil, err
	}
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
