package wire

import (
	"encoding/binary"
	"fmt"
	"math"
)

// A field is one field of a message: enough of its schema to step over it.
type field struct {
	kind     kind
	size     int   // of a fixed field, in bytes
	from, to int16 // versions that have it, both included
	elems    []field
	tag      uint32 // of a tagged field
}

type kind uint8

const (
	fixed  kind = iota // size bytes
	text               // string, nullable or not
	data               // bytes, nullable or not
	list               // array of messages with the fields elems
	values             // array of elems[0], which is fixed or text
	oneOf              // nullable struct of elems: a byte says whether it is there (KIP-893)
	tagged             // elems as a tagged field: lies among the tags of its message
)

var (
	i8   = field{kind: fixed, size: 1, to: math.MaxInt16}
	i16  = field{kind: fixed, size: 2, to: math.MaxInt16}
	i32  = field{kind: fixed, size: 4, to: math.MaxInt16}
	i64  = field{kind: fixed, size: 8, to: math.MaxInt16}
	uuid = field{kind: fixed, size: 16, to: math.MaxInt16}
	str  = field{kind: text, to: math.MaxInt16}
	raw  = field{kind: data, to: math.MaxInt16}
)

func array(elems ...field) field { return field{kind: list, to: math.MaxInt16, elems: elems} }

func arrayOf(elem field) field { return field{kind: values, to: math.MaxInt16, elems: []field{elem}} }

func nullable(elems ...field) field { return field{kind: oneOf, to: math.MaxInt16, elems: elems} }

func tag(n uint32, elems ...field) field {
	return field{kind: tagged, to: math.MaxInt16, tag: n, elems: elems}
}

func (f field) since(version int16) field { f.from = version; return f }

func (f field) until(version int16) field { f.to = version; return f }

// Check steps over a request's body without allocating and proves that every count in it is true: that as many
// elements lie in the bytes as each array says, none of them more than the API's caps. kmsg believes a count that
// is not above the bytes left, which lets 4 MiB become 192 MiB, and spins over a lying count of tagged fields. Bytes after the message are let be, as Apache Kafka does.
func (a *API) Check(version int16, body []byte) error {
	w := walk{rest: body, flexible: version >= a.flexible, room: elementMax}
	w.message(version, a.shape)
	switch {
	case w.full:
		return fmt.Errorf("%s v%d has more than %d elements: %w", a.Name, version, elementMax, ErrFrameTooLarge)
	case w.bad:
		return fmt.Errorf("%s v%d: %w", a.Name, version, ErrMalformed)
	}
	return nil
}

// walk is the state of one Check. Once bad, rest is empty and every step is harmless.
type walk struct {
	rest     []byte
	flexible bool
	room     int // elements and tags that may still come
	bad      bool
	full     bool // bad because room ran out
}

func (w *walk) fail() { w.bad, w.rest = true, nil }

func (w *walk) skip(n int) {
	if n < 0 || n > len(w.rest) {
		w.fail()
		return
	}
	w.rest = w.rest[n:]
}

func (w *walk) uvarint() int {
	n, size := binary.Uvarint(w.rest)
	if size <= 0 || n > math.MaxInt32 {
		w.fail()
		return 0
	}
	w.rest = w.rest[size:]
	return int(n)
}

// length reads a length of width bytes, or a compact one; -1 is null.
func (w *walk) length(width int) int {
	switch {
	case w.flexible:
		return w.uvarint() - 1
	case len(w.rest) < width:
		w.fail()
		return 0
	}
	var n int
	if width == 2 {
		n = int(int16(binary.BigEndian.Uint16(w.rest)))
	} else {
		n = int(int32(binary.BigEndian.Uint32(w.rest)))
	}
	w.rest = w.rest[width:]
	if n < -1 {
		w.fail()
		return 0
	}
	return n
}

func (w *walk) message(version int16, fields []field) {
	for i := range fields {
		if f := &fields[i]; !w.bad && f.kind != tagged && version >= f.from && version <= f.to {
			w.value(version, f)
		}
	}
	if w.flexible {
		w.tags(version, fields)
	}
}

func (w *walk) value(version int16, f *field) {
	switch f.kind {
	case fixed:
		w.skip(f.size)
	case text:
		w.skip(max(0, w.length(2)))
	case data:
		w.skip(max(0, w.length(4)))
	case oneOf:
		if len(w.rest) == 0 {
			w.fail()
			return
		}
		there := int8(w.rest[0]) != -1
		w.skip(1)
		if there {
			w.message(version, f.elems)
		}
	case list, values:
		n := w.length(4)
		if n > len(w.rest) { // every element takes a byte at least
			w.fail()
		}
		for ; n > 0 && w.take(); n-- {
			if f.kind == values {
				w.value(version, &f.elems[0])
			} else {
				w.message(version, f.elems)
			}
		}
	}
}

// take makes room for one more element or tag, and is false when the walk is over.
func (w *walk) take() bool {
	if w.bad {
		return false
	}
	if w.room == 0 {
		w.full = true
		w.fail()
		return false
	}
	w.room--
	return true
}

// tags steps over the tagged fields of a message; those of fields that are tagged are walked too.
func (w *walk) tags(version int16, fields []field) {
	for n := w.uvarint(); n > 0 && w.take(); n-- {
		number, size := w.uvarint(), w.uvarint()
		if w.bad || size > len(w.rest) {
			w.fail()
			return
		}
		inner := walk{rest: w.rest[:size], flexible: true, room: w.room}
		for i := range fields {
			f := &fields[i]
			if f.kind != tagged || uint32(number) != f.tag {
				continue
			}
			if len(f.elems) == 1 {
				inner.value(version, &f.elems[0])
			} else {
				inner.message(version, f.elems)
			}
		}
		if inner.bad {
			w.full = w.full || inner.full
			w.fail()
			return
		}
		w.room = inner.room
		w.skip(size)
	}
}
