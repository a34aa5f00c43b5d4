package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

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

// field is how a record is written. Of each pair one may be there.
type field struct {
	Partition   *int32          `json:"partition"`
	Timestamp   *int64          `json:"timestamp"`
	Key         json.RawMessage `json:"key"`
	KeyBase64   json.RawMessage `json:"key_base64"`
	Value       json.RawMessage `json:"value"`
	ValueBase64 json.RawMessage `json:"value_base64"`
	Headers     json.RawMessage `json:"headers"`
}

// headerField is how a header is written.
type headerField struct {
	Key         json.RawMessage `json:"key"`
	Value       json.RawMessage `json:"value"`
	ValueBase64 json.RawMessage `json:"value_base64"`
}

// costOf is what a body of n bytes takes while it is read: twice itself, and its records.
func costOf(n int64) int64 { return 2*n + itemCost*min(n/itemLeast, itemsMax) }

// parser reads the body of a request, a record at a time.
type parser struct {
	format format
	items  int // so far
}

// parse reads {"records": [...]}. Of what it returns nothing aliases another record.
func (p *parser) parse(r io.Reader) (all []posted, err error) {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := want(d, json.Delim('{')); err != nil {
		return nil, err
	}
	if err := want(d, "records"); err != nil {
		return nil, err
	}
	if err := want(d, json.Delim('[')); err != nil {
		return nil, err
	}
	for d.More() {
		if err := p.count(); err != nil {
			return nil, err
		}
		var f field
		if err := d.Decode(&f); err != nil {
			return nil, fmt.Errorf("record %d: %w", len(all), err)
		}
		one, err := p.record(&f)
		if err != nil {
			return nil, fmt.Errorf("record %d: %w", len(all), err)
		}
		all = append(all, one)
	}
	for _, end := range []json.Token{json.Delim(']'), json.Delim('}')} {
		if err := want(d, end); err != nil {
			return nil, err
		}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = errors.New("something follows the request")
		}
		return nil, err
	}
	if len(all) == 0 {
		return nil, errors.New("no records")
	}
	return all, nil
}

// want reads one token, which is the only one there may be.
func want(d *json.Decoder, token json.Token) error {
	have, err := d.Token()
	switch {
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	case err != nil:
		return err
	case have != token:
		return errors.New(`want {"records": [...]} and nothing else`)
	}
	return nil
}

// count notes one record or header more.
func (p *parser) count() error {
	if p.items++; p.items > itemsMax {
		return fmt.Errorf("more than %d records and headers in one request", itemsMax)
	}
	return nil
}

func (p *parser) record(f *field) (r posted, err error) {
	r.partition = -1
	if f.Partition != nil {
		if r.partition = *f.Partition; r.partition < 0 {
			return r, fmt.Errorf("partition %d", r.partition)
		}
	}
	if f.Timestamp != nil {
		if r.Timestamp = *f.Timestamp; r.Timestamp <= 0 {
			return r, fmt.Errorf("timestamp %d: want milliseconds since 1970, or none for the time of arrival", r.Timestamp)
		}
	}
	if r.Key, err = p.either(f.Key, f.KeyBase64, text); err != nil {
		return r, fmt.Errorf("key: %w", err)
	}
	value := text
	if p.format == formatJSON {
		value = compact
	}
	if r.Value, err = p.either(f.Value, f.ValueBase64, value); err != nil {
		return r, fmt.Errorf("value: %w", err)
	}
	if r.Headers, err = p.headers(f.Headers); err != nil {
		return r, fmt.Errorf("headers: %w", err)
	}
	return r, nil
}

// either reads what was written as the format says, or as base64.
func (p *parser) either(plain, base64 json.RawMessage, read func(json.RawMessage) ([]byte, error)) ([]byte, error) {
	switch {
	case p.format == formatBinary && base64 != nil:
		return nil, errors.New("in this Content-Type it is base64 without saying so")
	case plain != nil && base64 != nil:
		return nil, errors.New("written twice")
	case base64 != nil || p.format == formatBinary:
		if base64 == nil {
			base64 = plain
		}
		return binary(base64)
	}
	return read(plain)
}

// headers are an array of {"key", "value"}.
func (p *parser) headers(raw json.RawMessage) (all []record.Header, err error) {
	if isNull(raw) {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if have, err := d.Token(); err != nil || have != json.Delim('[') {
		return nil, errors.New(`want [{"key": …, "value": …}, …]`)
	}
	for d.More() {
		if err := p.count(); err != nil {
			return nil, err
		}
		var f headerField
		if err := d.Decode(&f); err != nil {
			return nil, err
		}
		key, err := text(f.Key)
		if err != nil || key == nil {
			return nil, errors.New("a header's key is a string")
		}
		value, err := p.either(f.Value, f.ValueBase64, text)
		if err != nil {
			return nil, err
		}
		all = append(all, record.Header{Key: string(key), Value: value})
	}
	return all, nil
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
