package rest

import (
	"fmt"
	"net/http"
	"unicode/utf8"

	"millrace/broker/partition"
	"millrace/broker/record"
)

// slack is what the frame of an answer, and of a record that is left out, take at most, in bytes.
const slack = 1 << 10

// answer is an answer to a GET in the making.
type answer struct {
	form    format
	from    int64 // no record below it
	records int   // how many more
	limit   int   // bytes of out, but for a first record when last is not set
	last    bool  // what is too large is left out
	out     []byte
	begun   int   // bytes of out before the first record
	next    int64 // the offset to go on at
}

// head begins an answer, anew where one was begun.
func (a *answer) head(log *partition.Partition, index int32) {
	a.out = fmt.Appendf(a.out[:0], `{"partition":%d,"log_start_offset":%d,"high_watermark":%d,"records":[`, index, log.Start(), log.High())
	a.begun = len(a.out)
}

// tail ends it.
func (a *answer) tail() []byte { return fmt.Appendf(a.out, `],"next_offset":%d}`+"\n", a.next) }

// batches renders the records of whole batches until there are enough.
func (a *answer) batches(p []byte) error {
	for len(p) > 0 {
		b, rest, err := record.Next(p)
		if err != nil {
			return err
		}
		p = rest
		if !b.Control() {
			if enough, err := a.batch(b); enough || err != nil {
				return err
			}
		}
		a.next = max(a.next, b.NextOffset())
	}
	return nil
}

// batch renders the records of one batch. enough says that nothing more is to be rendered.
func (a *answer) batch(b record.Batch) (enough bool, err error) {
	for r, err := range b.Records(record.DefaultMaxBytes) {
		if err != nil {
			if len(a.out) > a.begun { // what came before is good; the next answer tells
				return true, nil
			}
			next := b.NextOffset()
			return true, &fault{
				status: http.StatusInternalServerError, code: codeCorruptMessage, next: &next,
				text: fmt.Sprintf("the batch at offsets %d to %d cannot be read: %v", b.BaseOffset(), b.LastOffset(), err),
			}
		}
		if r.Offset < a.next {
			continue
		}
		if a.records == 0 {
			return true, nil
		}
		before := len(a.out)
		if !a.record(&r) {
			switch {
			case before > a.begun:
				a.out = a.out[:before]
				return true, nil
			case !a.last:
				return true, errMore
			}
			a.out = a.out[:before]
			r = record.Record{Offset: r.Offset, Timestamp: r.Timestamp, Large: true}
			a.record(&r)
		}
		a.records--
		a.next = r.Offset + 1
	}
	return false, nil
}

// record renders one record, and is false when it does not fit; then what it has written is to be cut off.
func (a *answer) record(r *record.Record) bool {
	if len(a.out) > a.begun {
		a.out = append(a.out, ',')
	}
	a.out = fmt.Appendf(a.out, `{"offset":%d,"timestamp":%d`, r.Offset, r.Timestamp)
	if r.Large {
		a.out = append(a.out, `,"omitted":"the record is too large for this door: read it with a Kafka client"}`...)
		return true
	}
	a.out = append(a.out, ',')
	if !a.field("key", r.Key, false, a.form) {
		return false
	}
	a.out = append(a.out, ',')
	if !a.field("value", r.Value, true, a.form) {
		return false
	}
	if len(r.Headers) > 0 {
		a.out = append(a.out, `,"headers":[`...)
		for i, h := range r.Headers {
			if i > 0 {
				a.out = append(a.out, ',')
			}
			if !a.header(h) {
				return false
			}
		}
		a.out = append(a.out, ']')
	}
	a.out = append(a.out, '}')
	return len(a.out) <= a.limit
}

// header renders one header. A key that is not Unicode cannot be told but in base64.
func (a *answer) header(h record.Header) bool {
	a.out = append(a.out, '{')
	if !a.field("key", []byte(h.Key), false, formatText) {
		return false
	}
	a.out = append(a.out, ',')
	if !a.field("value", h.Value, false, a.form) {
		return false
	}
	a.out = append(a.out, '}')
	return true
}

// field renders a key or value as the format has it, or under another name in base64. It is false before it writes what
// does not fit.
func (a *answer) field(name string, p []byte, value bool, form format) bool {
	suffix, size, write := "", 0, appendBase64
	switch {
	case p == nil:
		size, write = len("null"), func(dst, _ []byte) []byte { return append(dst, "null"...) }
	case form == formatBinary:
		size = base64Size(p)
	case value && form == formatJSON && showable(p):
		size, write = len(p), func(dst, p []byte) []byte { return append(dst, p...) }
	case !(value && form == formatJSON) && utf8.Valid(p):
		size, write = textSize(p), appendText
	default:
		suffix, size = "_base64", base64Size(p)
	}
	if len(a.out)+len(name)+len(suffix)+4+size > a.limit {
		return false
	}
	a.out = append(a.out, '"')
	a.out = append(a.out, name...)
	a.out = append(a.out, suffix...)
	a.out = write(append(a.out, '"', ':'), p)
	return true
}
