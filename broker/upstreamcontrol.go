package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"millrace/bridge/upstream"
)

// decideTimeout bounds what waits for the other end of a link: it may be a thin one.
const decideTimeout = 2 * time.Minute

// Decided is the answer to what a person has decided about a link.
type Decided struct {
	Link string `json:"link"`
	// Partial is what did not work of it, "" for nothing.
	Partial string `json:"partial,omitempty"`
}

// handleLinks lets the owner see and decide about links.
func (b *Broker) handleLinks(mux *http.ServeMux) {
	mux.HandleFunc("GET /upstream", func(w http.ResponseWriter, _ *http.Request) {
		tell(w, "application/json", func(to io.Writer) error {
			return b.whileServing(func() error { return json.NewEncoder(to).Encode(b.Links()) })
		})
	})
	mux.HandleFunc("POST /upstream/verify", b.handleVerify)
	decide := func(verb string, fn func(ctx context.Context, form url.Values) error) {
		mux.HandleFunc("POST /upstream/"+verb, func(w http.ResponseWriter, r *http.Request) {
			if !b.control.serving() {
				http.Error(w, "the board does not serve yet, or no more", http.StatusServiceUnavailable)
				return
			}
			// The door's own deadlines are for answers that wait for nobody; the one for reading would end the request's context.
			door, until := http.NewResponseController(w), time.Now().Add(decideTimeout+controlTimeout)
			if err := errors.Join(door.SetReadDeadline(until), door.SetWriteDeadline(until)); err != nil {
				b.log.Debug("an answer may be cut off", "err", err)
			}
			ctx, cancel := context.WithTimeout(r.Context(), decideTimeout)
			defer cancel()
			form := r.URL.Query()
			answer := Decided{Link: form.Get("link")}
			var partial *partialError
			switch err := fn(ctx, form); {
			case errors.As(err, &partial):
				answer.Partial = partial.Error()
			case errors.Is(err, ErrNoLink), errors.Is(err, upstream.ErrUnknownPartition):
				http.Error(w, err.Error(), http.StatusNotFound)
				return
			case err != nil:
				http.Error(w, err.Error(), http.StatusConflict)
				return
			}
			tell(w, "application/json", func(to io.Writer) error { return json.NewEncoder(to).Encode(answer) })
		})
	}
	decide("pause", func(_ context.Context, form url.Values) error {
		return partly(b.links.Pause(form.Get("link")), "it is paused, and goes on with the next start, for that could not be written")
	})
	decide("resume", func(_ context.Context, form url.Values) error {
		return partly(b.links.Resume(form.Get("link")), "it goes on, and is paused again with the next start, for that could not be written")
	})
	decide("resolve", func(ctx context.Context, form url.Values) error { return b.links.resolve(ctx, form) }) // the links are made later
}

// partialError says that something was done, and what was not.
type partialError struct {
	what string
	err  error
}

func (e *partialError) Error() string { return e.what + ": " + e.err.Error() }
func (e *partialError) Unwrap() error { return e.err }

func partly(err error, what string) error {
	if err == nil || errors.Is(err, ErrNoLink) {
		return err
	}
	return &partialError{what, err}
}

// resolve carries out what a person has decided about a partition.
func (l *links) resolve(ctx context.Context, form url.Values) error {
	k := l.find(form.Get("link"))
	switch {
	case k == nil:
		return fmt.Errorf("%s: %w", form.Get("link"), ErrNoLink)
	case k.link == nil:
		return k.err
	}
	index, err := strconv.ParseInt(form.Get("partition"), 10, 32)
	if err != nil || index < 0 {
		return fmt.Errorf("%q is no partition", form.Get("partition"))
	}
	var d upstream.Decision
	switch how := form.Get("to"); how {
	case "accept":
		d.How = upstream.Accept
	case "earliest":
		d.How = upstream.Earliest
	case "latest":
		d.How = upstream.Latest
	default:
		d.How = upstream.At
		if d.Offset, err = strconv.ParseInt(how, 10, 64); err != nil || d.Offset < 0 {
			return fmt.Errorf("%q is none of accept, earliest, latest, and no offset", how)
		}
	}
	topic := form.Get("topic")
	l.log.Warn("a person decides about a partition", "link", k.settings.Name, "topic", topic, "partition", index, "to", form.Get("to"))
	if err := k.link.Resolve(ctx, topic, int32(index), d); err != nil {
		return fmt.Errorf("%s-%d: %w", topic, index, err)
	}
	return nil
}
