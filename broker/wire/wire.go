// Package wire is the Kafka protocol as bytes: frames, headers, the table of what is served, and the decoding and
// encoding of messages. It does no input or output and holds no state.
//
// Nothing a peer sends is believed before it is checked: a frame's size before its body is read, every count before
// anything is allocated for it (Check), and only then kmsg decodes.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	// PrefixSize is the size of the length in front of every frame, in bytes.
	PrefixSize = 4
	// headerMin is the shortest request header: key, version, correlation id and a null client id.
	headerMin = 2 + 2 + 4 + 2
	// ClientIDMax bounds a client id, in bytes.
	ClientIDMax = 1024
	// HeaderMax bounds a request header, in bytes: what Peek may need to see of a frame.
	HeaderMax = headerMin + ClientIDMax
)

var (
	// ErrMalformed is returned for bytes that are not the message they claim to be.
	ErrMalformed = errors.New("malformed message")
	// ErrFrameTooLarge is returned for a frame, or a count in it, above what is served.
	ErrFrameTooLarge = errors.New("message too large")
	// ErrUnknownAPI is returned for an API key that is not served.
	ErrUnknownAPI = errors.New("api not served")
	// ErrUnsupportedVersion is returned for a version of a served API that is not served. Only ApiVersions has an
	// answer for it (KIP-511); any other request of that kind ends the connection, as at Apache Kafka.
	ErrUnsupportedVersion = errors.New("api version not served")
)

// Header is a request header, v1 and v2 (flexible).
type Header struct {
	Key         int16
	Version     int16
	Correlation int32
	ClientID    string // empty when null
}

// FrameSize reads a frame's length prefix: the number of bytes that follow it, from headerMin to limit.
func FrameSize(prefix [PrefixSize]byte, limit int) (int, error) {
	n := int32(binary.BigEndian.Uint32(prefix[:]))
	switch {
	case n < headerMin:
		return 0, fmt.Errorf("frame of %d bytes: %w", n, ErrMalformed)
	case int64(n) > int64(limit):
		return 0, fmt.Errorf("frame of %d bytes, the limit is %d: %w", n, limit, ErrFrameTooLarge)
	}
	return int(n), nil
}

// TokenMax bounds a message of a login that has no request around it, in bytes.
const TokenMax = 2048

// VersionBare is the version a bare message of a login has, as if it were a SaslAuthenticate (see server).
const VersionBare = -1

// TokenSize reads the length of a message of a login that has no request around it, as SaslHandshake v0 announces them:
// 1 to TokenMax.
func TokenSize(prefix [PrefixSize]byte) (int, error) {
	switch n := int32(binary.BigEndian.Uint32(prefix[:])); {
	case n < 1:
		return 0, fmt.Errorf("token of %d bytes: %w", n, ErrMalformed)
	case n > TokenMax:
		return 0, fmt.Errorf("token of %d bytes, the limit is %d: %w", n, TokenMax, ErrFrameTooLarge)
	default:
		return int(n), nil
	}
}

// Admit says whether a frame of size bytes that begins with key and version may be read at all. It needs the first
// four bytes of the frame, so that nothing is reserved for a request nobody would answer.
func Admit(begin [4]byte, size int) error {
	key, version := int16(binary.BigEndian.Uint16(begin[:])), int16(binary.BigEndian.Uint16(begin[2:]))
	api, ok := Lookup(key)
	if !ok {
		return fmt.Errorf("api key %d: %w", key, ErrUnknownAPI)
	}
	if !api.Serves(version) && key != KeyAPIVersions {
		return fmt.Errorf("%s v%d: %w", api.Name, version, ErrUnsupportedVersion)
	}
	if api.frameMax > 0 && size > api.frameMax {
		return fmt.Errorf("%s of %d bytes, the limit is %d: %w", api.Name, size, api.frameMax, ErrFrameTooLarge)
	}
	return nil
}

// ParseHeader splits a frame (without its prefix) into header and body. The error is ErrUnknownAPI, ErrMalformed or
// ErrUnsupportedVersion; with the last one the header is valid and the body is nil, because where it begins depends
// on a version nobody here knows.
func ParseHeader(frame []byte) (Header, []byte, error) {
	if len(frame) < headerMin {
		return Header{}, nil, fmt.Errorf("header of %d bytes: %w", len(frame), ErrMalformed)
	}
	h := Header{
		Key:         int16(binary.BigEndian.Uint16(frame)),
		Version:     int16(binary.BigEndian.Uint16(frame[2:])),
		Correlation: int32(binary.BigEndian.Uint32(frame[4:])),
	}
	api, ok := Lookup(h.Key)
	if !ok {
		return Header{}, nil, fmt.Errorf("api key %d: %w", h.Key, ErrUnknownAPI)
	}
	n := int(int16(binary.BigEndian.Uint16(frame[8:])))
	rest := frame[headerMin:]
	if n > ClientIDMax || n > len(rest) || n < -1 {
		return Header{}, nil, fmt.Errorf("client id of %d bytes: %w", n, ErrMalformed)
	}
	if n > 0 {
		h.ClientID, rest = string(rest[:n]), rest[n:]
	}
	if !api.Serves(h.Version) {
		return h, nil, fmt.Errorf("%s v%d: %w", api.Name, h.Version, ErrUnsupportedVersion)
	}
	if h.Version >= api.flexible {
		w := walk{rest: rest, room: tagMax}
		w.tags(h.Version, nil)
		if w.bad {
			return Header{}, nil, fmt.Errorf("%s v%d header: %w", api.Name, h.Version, ErrMalformed)
		}
		rest = w.rest
	}
	return h, rest, nil
}
