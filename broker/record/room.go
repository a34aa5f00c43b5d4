package record

import (
	"context"

	"millrace/broker/budget"
)

const (
	// DecodeRoom is what all decoders that are at work may hold together, in bytes: one with the largest zstd window, or
	// many of the usual size. A few bytes of a batch can ask for megabytes.
	DecodeRoom = 5 << 20
	// MaxRecord is the most a compressed record may take, in bytes, where it is needed whole. One at a time is that large
	// (see spare); what lies in a batch uncompressed is bounded by the batch alone.
	MaxRecord = 4 << 20
	// MaxHeaders is the most headers a record may have where they are needed: each takes twenty times what an empty one
	// takes in a batch.
	MaxHeaders = 4096
)

// decoding is where the memory of decoders comes from, spare the one scratch over windowKeep. Whoever holds a decoder
// may wait for the spare, and for nothing else: so nobody waits for ever.
var (
	decoding = share("decoding", DecodeRoom)
	spare    = share("spare", 1)
)

func share(name string, size int64) *budget.Share {
	s, err := budget.New(size).Share(name, size)
	if err != nil {
		panic(err) // a budget holds what it was made for
	}
	return s
}

// take waits for n bytes of a share, which are there sooner or later: whoever holds some works.
func take(s *budget.Share, n int64) {
	if err := s.Acquire(context.Background(), n); err != nil {
		panic(err) // nobody asks for more than there is
	}
}
