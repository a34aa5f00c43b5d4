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
	detach(req)
	return req, nil
}

// detach copies the byte fields, which alias the frame as kmsg reads them; strings are their own already.
func detach(req kmsg.Request) {
	switch req := req.(type) {
	case *kmsg.JoinGroupRequest:
		for i := range req.Protocols {
			req.Protocols[i].Metadata = bytes.Clone(req.Protocols[i].Metadata)
		}
	case *kmsg.SyncGroupRequest:
		for i := range req.GroupAssignment {
			req.GroupAssignment[i].MemberAssignment = bytes.Clone(req.GroupAssignment[i].MemberAssignment)
		}
	}
}
