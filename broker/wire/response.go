package wire

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Span is a run of whole record batches of a log, not yet read. segment.Span is the real one.
type Span interface {
	// Len is the size in bytes.
	Len() int
	// Append reads the span to the end of dst.
	Append(dst []byte) ([]byte, error)
	// File names the bytes as a descriptor and a position in it, where they may be sent as they are; ok is false
	// where they must pass through Append.
	File() (fd uintptr, position int64, ok bool)
	// Release ends the use of the span.
	Release()
}

// Response is one framed answer: bytes, with spans of the log between them. It is written once, by one goroutine,
// and must be released.
type Response struct {
	// Close asks for the connection to end after this response, or instead of it where it is empty.
	Close bool
	// Then is called once by Release, for whoever bounds the memory of responses.
	Then func()

	head []byte
	cuts []cut
	size int
}

// cut says that a span lies between the bytes before and from at.
type cut struct {
	at   int
	span Span
}

// Encode frames body as the answer to the request with header h, in the version the request had.
func Encode(h Header, body kmsg.Response) *Response {
	body.SetVersion(h.Version)
	r := begin(h, body.IsFlexible() && h.Key != KeyAPIVersions, 128)
	r.head = body.AppendTo(r.head)
	return r.finish()
}

// EncodeToken frames a bare message of a login: its length and nothing else before it.
func EncodeToken(token []byte) *Response {
	r := &Response{head: make([]byte, PrefixSize, PrefixSize+len(token))}
	r.head = append(r.head, token...)
	return r.finish()
}

// begin starts a frame: prefix, correlation id, and the empty tags of a flexible header. ApiVersions never has
// those (KIP-511): its reader does not know the version yet.
func begin(h Header, flexible bool, size int) *Response {
	r := &Response{head: make([]byte, PrefixSize+4, PrefixSize+5+size)}
	binary.BigEndian.PutUint32(r.head[PrefixSize:], uint32(h.Correlation))
	if flexible {
		r.head = append(r.head, 0)
	}
	return r
}

// span puts a span after what was appended so far.
func (r *Response) span(s Span) {
	if s != nil && s.Len() > 0 {
		r.cuts = append(r.cuts, cut{len(r.head), s})
		r.size += s.Len()
	}
}

// finish writes the frame's length. A frame that would not fit one is a broken invariant of ours: what goes into it
// was bounded long before.
func (r *Response) finish() *Response {
	r.size += len(r.head)
	if r.size-PrefixSize > math.MaxInt32 {
		panic(fmt.Sprintf("wire: a response of %d bytes", r.size))
	}
	binary.BigEndian.PutUint32(r.head, uint32(r.size-PrefixSize))
	return r
}

// Size is the number of bytes on the wire, prefix included; 0 for an empty response.
func (r *Response) Size() int { return r.size }

// Parts calls write for the response's bytes and spans in their order and stops at the first error. One of head and
// span is nil.
func (r *Response) Parts(write func(head []byte, span Span) error) error {
	from := 0
	for _, c := range r.cuts {
		if c.at > from {
			if err := write(r.head[from:c.at], nil); err != nil {
				return err
			}
			from = c.at
		}
		if err := write(nil, c.span); err != nil {
			return err
		}
	}
	if from == len(r.head) {
		return nil
	}
	return write(r.head[from:], nil)
}

// Append reads the whole response, spans included, to the end of dst.
func (r *Response) Append(dst []byte) ([]byte, error) {
	err := r.Parts(func(head []byte, span Span) (err error) {
		if span == nil {
			dst = append(dst, head...)
			return nil
		}
		dst, err = span.Append(dst)
		return err
	})
	return dst, err
}

// Release gives the spans back. The response is empty afterwards.
func (r *Response) Release() {
	for _, c := range r.cuts {
		c.span.Release()
	}
	r.head, r.cuts, r.size = nil, nil, 0
	if r.Then != nil {
		r.Then()
		r.Then = nil
	}
}
