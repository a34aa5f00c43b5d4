package upstreamtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"

	"millrace/bridge/upstream"
)

// Split is a defect: cursors are committed in a transaction of their own, after the records, or before them. What compares
// both ends must find it.
func Split(r upstream.Remote, before bool) upstream.Remote { return splitting{r, before} }

type splitting struct {
	upstream.Remote
	first bool
}

func (r splitting) Open(ctx context.Context, id string) (upstream.Session, error) {
	s, err := r.Remote.Open(ctx, id)
	if err != nil {
		return nil, err
	}
	return splitSession{s, r.first}, nil
}

type splitSession struct {
	upstream.Session
	first bool
}

func (s splitSession) Send(ctx context.Context, recs []upstream.Record) error {
	var parts [2][]upstream.Record
	for _, r := range recs {
		own := 0
		if strings.HasPrefix(r.Topic, "__") {
			own = 1
		}
		if s.first {
			own = 1 - own
		}
		parts[own] = append(parts[own], r)
	}
	for _, part := range parts {
		if len(part) == 0 {
			continue
		}
		if err := s.Session.Send(ctx, part); err != nil {
			return err
		}
	}
	return nil
}

// Unfenced is a defect: each life has a transactional id of its own, so that nothing is taken away from an earlier one.
func Unfenced(r upstream.Remote) upstream.Remote { return unfenced{r} }

type unfenced struct{ upstream.Remote }

func (r unfenced) Open(ctx context.Context, id string) (upstream.Session, error) {
	return r.Remote.Open(ctx, fmt.Sprintf("%s-%x", id, rand.Uint64()))
}
