package packet

import (
	"encoding/binary"
	"strings"

	"millrace/bridge/payload"
)

// reader walks a packet's body. After the first failure it yields zero values and keeps that failure, so that decoders
// read as straight lines.
type reader struct {
	p   []byte
	v   Version
	lim Limits
	err error
}

func (r *reader) fail(reason Reason, why string) {
	if r.err == nil {
		r.err = &Error{reason, why}
	}
	r.p = nil
}

// take returns the next n bytes, or nil with a failure.
func (r *reader) take(n int) []byte {
	if n > len(r.p) {
		r.fail(MalformedPacket, "the packet ends inside a field")
		return nil
	}
	b := r.p[:n:n]
	r.p = r.p[n:]
	return b
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// varint reads a variable byte integer of at most four bytes in its shortest form [MQTT-1.5.5-1].
func (r *reader) varint() int {
	value := 0
	for shift := 0; shift <= 21; shift += 7 {
		b := r.byte()
		value |= int(b&0x7f) << shift
		if b < 0x80 {
			if b == 0 && shift > 0 {
				r.fail(MalformedPacket, "variable byte integer not in its shortest form")
				return 0
			}
			return value
		}
	}
	r.fail(MalformedPacket, "variable byte integer of more than four bytes")
	return 0
}

// binary reads two length bytes and that many bytes (1.5.6).
func (r *reader) binary() []byte { return r.take(int(r.uint16())) }

// text reads a UTF-8 string: well formed, no surrogates [MQTT-1.5.4-1], no U+0000 [MQTT-1.5.4-2]. A byte order mark
// is a character like any other [MQTT-1.5.4-3].
func (r *reader) text() string {
	s := string(r.binary())
	if !payload.Text(s) {
		r.fail(MalformedPacket, "a string is not well-formed UTF-8 without U+0000")
		return ""
	}
	return s
}

// id reads a packet identifier, which is never zero [MQTT-2.2.1-3], [MQTT-2.3.1-1] of 3.1.1.
func (r *reader) id() uint16 {
	id := r.uint16()
	if id == 0 {
		r.fail(ProtocolError, "packet identifier 0")
	}
	return id
}

// reason reads a reason code that must be one of valid.
func (r *reader) reason(valid string) Reason {
	b := r.byte()
	if r.err == nil && strings.IndexByte(valid, b) < 0 {
		r.fail(MalformedPacket, "a reason code this packet cannot carry")
	}
	return Reason(b)
}

// The other direction.

func appendVarint(dst []byte, n int) []byte {
	for n >= 0x80 {
		dst = append(dst, byte(n)|0x80)
		n >>= 7
	}
	return append(dst, byte(n))
}

func appendText(dst []byte, s string) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(s)))
	return append(dst, s...)
}

func appendBinary(dst, b []byte) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(b)))
	return append(dst, b...)
}

// open begins a packet (or, without first, a property list): a one-byte length that seal fills in.
func open(dst []byte, t Type, flags byte) ([]byte, int) {
	dst = append(dst, byte(t)<<4|flags, 0)
	return dst, len(dst)
}

// seal writes the length of everything after start into the byte before it, moving the body when one byte is not
// enough. Most packets are shorter than 128 bytes and are never moved.
func seal(dst []byte, start int) []byte {
	n := len(dst) - start
	if n < 0x80 {
		dst[start-1] = byte(n)
		return dst
	}
	var length [4]byte
	l := appendVarint(length[:0], n)
	dst = append(dst, l[1:]...)
	copy(dst[start+len(l)-1:], dst[start:start+n])
	copy(dst[start-1:], l)
	return dst
}
