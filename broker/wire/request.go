package wire

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Parse reads one frame (without its prefix). The records of a Produce request alias frame; nothing else in the
// returned request does: what members of a group say is kept for long, and is copied. The error is one of this package's. An ApiVersions request of a version that is not served
// comes back as one of the highest served version, with the header as it was sent: KIP-511 wants an answer.
func Parse(frame []byte) (Header, kmsg.Request, error) {
	h, body, err := ParseHeader(frame)
	if errors.Is(err, ErrUnsupportedVersion) && h.Key == KeyAPIVersions {
		req := kmsg.NewPtrApiVersionsRequest()
		req.Version = apis[byKey[KeyAPIVersions]].Max
		return h, req, nil
	}
	if err != nil {
		return h, nil, err
	}
	req, err := Decode(h, body)
	return h, req, err
}

// Decode reads a request's body, which it checks first.
func Decode(h Header, body []byte) (kmsg.Request, error) {
	api, ok := Lookup(h.Key)
	if !ok {
		return nil, fmt.Errorf("api key %d: %w", h.Key, ErrUnknownAPI)
	}
	if !api.Serves(h.Version) {
		return nil, fmt.Errorf("%s v%d: %w", api.Name, h.Version, ErrUnsupportedVersion)
	}
	if err := api.Check(h.Version, body); err != nil {
		return nil, err
	}
	req := api.new()
	req.SetVersion(h.Version)
	if err := req.ReadFrom(body); err != nil {
		return nil, fmt.Errorf("%s v%d: %w: %w", api.Name, h.Version, ErrMalformed, err)
	}
	own(req)
	return req, nil
}

// own copies the byte fields, which kmsg leaves in the frame: its buffer serves the next request before this one is
// answered. Only Produce's records stay where they are, and its frame is held for them. A test fails for an API whose
// fields are missing here.
func own(req kmsg.Request) {
	switch r := req.(type) {
	case *kmsg.SASLAuthenticateRequest:
		r.SASLAuthBytes = bytes.Clone(r.SASLAuthBytes)
	case *kmsg.AlterUserSCRAMCredentialsRequest:
		for i := range r.Upsertions {
			u := &r.Upsertions[i]
			u.Salt, u.SaltedPassword = bytes.Clone(u.Salt), bytes.Clone(u.SaltedPassword)
		}
	case *kmsg.JoinGroupRequest:
		for i := range r.Protocols {
			r.Protocols[i].Metadata = bytes.Clone(r.Protocols[i].Metadata)
		}
	case *kmsg.SyncGroupRequest:
		for i := range r.GroupAssignment {
			r.GroupAssignment[i].MemberAssignment = bytes.Clone(r.GroupAssignment[i].MemberAssignment)
		}
	}
}
