package broker

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"millrace/bridge/upstream"
)

const (
	// readsMost is how many links are read back at once: each has a connection of the control socket, of which there are few.
	readsMost = 2
	// atEvery is how often it is said how far it is, and atSilence how long a reader waits for that.
	atEvery, atSilence = 2 * time.Second, time.Minute
	// overWrite is how long a reader that stands still has for what is left to say when it is over: who ends the link waits so long.
	overWrite = time.Second
	// verifyLineMax bounds a line of the answer, in bytes.
	verifyLineMax = 64 << 10
)

// VerifyLine is a line of the answer to verify: one of the three. The last has End.
type VerifyLine struct {
	At        *upstream.VerifyAt `json:"at,omitempty"`
	Partition *upstream.Verified `json:"partition,omitempty"`
	End       *VerifyEnd         `json:"end,omitempty"`
}

// VerifyEnd says that all was read, or why not.
type VerifyEnd struct {
	Error string `json:"error,omitempty"`
}

// verifier is a carrier whose records can be read back.
type verifier interface {
	Verify(ctx context.Context, what upstream.Verify, found func(upstream.Verified), told func(upstream.VerifyAt)) error
}

var (
	errReads = errors.New("it is read back already, or two others are: one after the other")
	errDown  = errors.New("a link that goes down cannot be verified: what it has taken is compared with what it takes next")
)

// handleVerify reads a link back for as long as somebody listens.
func (b *Broker) handleVerify(w http.ResponseWriter, r *http.Request) {
	if !b.control.serving() {
		http.Error(w, "the board does not serve yet, or no more", http.StatusServiceUnavailable)
		return
	}
	form := r.URL.Query()
	what := upstream.Verify{Topics: form.Get("topic")}
	var err error
	if last := form.Get("last"); last != "" {
		if what.Last, err = strconv.ParseInt(last, 10, 64); err != nil || what.Last < 1 {
			http.Error(w, strconv.Quote(last)+" is no number of records", http.StatusConflict)
			return
		}
	}
	link, ctx, done, err := b.links.read(r.Context(), form.Get("link"))
	switch {
	case errors.Is(err, ErrNoLink):
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	defer done()
	door := http.NewResponseController(w)
	// The deadline for reading would end the request's context; who goes away ends it anyway.
	if err := door.SetReadDeadline(time.Time{}); err != nil {
		b.log.Debug("an answer may be cut off", "err", err)
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lines, ended := make(chan VerifyLine), make(chan error, 1)
	say := func(l VerifyLine) {
		select {
		case lines <- l:
		case <-ctx.Done():
		}
	}
	go func() {
		ended <- link.Verify(ctx, what, func(v upstream.Verified) { say(VerifyLine{Partition: &v}) }, func(at upstream.VerifyAt) { say(VerifyLine{At: &at}) })
	}()
	var patience sync.Mutex // of the deadline for writing, which is also set while a write is under way
	over := context.AfterFunc(ctx, func() {
		patience.Lock()
		defer patience.Unlock()
		if err := door.SetWriteDeadline(time.Now().Add(overWrite)); err != nil {
			b.log.Debug("an answer may take long to end", "err", err)
		}
	})
	defer over()
	freed := false // nobody waits any more
	patient := func() error {
		patience.Lock()
		defer patience.Unlock()
		if ctx.Err() != nil && !freed {
			return nil // it has its last
		}
		return door.SetWriteDeadline(time.Now().Add(controlTimeout))
	}
	write := func(l VerifyLine) {
		if err := errors.Join(patient(), json.NewEncoder(w).Encode(l), door.Flush()); err != nil {
			cancel() // nobody listens
		}
	}
	pulse := time.NewTicker(atEvery)
	defer pulse.Stop()
	at := &upstream.VerifyAt{}
	for {
		select {
		case l := <-lines:
			if l.At != nil {
				at = l.At
				continue
			}
			write(l)
		case <-pulse.C:
			write(VerifyLine{At: at})
		case err := <-ended:
			end := VerifyEnd{}
			if err != nil {
				end.Error = err.Error()
			}
			if freed = over(); freed {
				done() // before it is said: who hears it may ask again
			}
			write(VerifyLine{End: &end})
			return
		}
	}
}

// read finds a link to be read back, and keeps it from being ended without that: ctx is over then. done gives it back.
func (l *links) read(parent context.Context, name string) (link verifier, ctx context.Context, done func(), err error) {
	l.changing.Lock()
	defer l.changing.Unlock()
	k := l.find(name)
	switch {
	case k == nil:
		return nil, nil, nil, fmt.Errorf("%s: %w", name, ErrNoLink)
	case k.link == nil:
		return nil, nil, nil, k.err
	}
	link, is := k.link.(verifier)
	switch {
	case !is:
		return nil, nil, nil, fmt.Errorf("%s: %w", name, errDown)
	case k.reading != nil || l.reads >= readsMost:
		return nil, nil, nil, fmt.Errorf("%s: %w", name, errReads)
	}
	ctx, cancel := context.WithCancel(parent)
	k.reading = cancel
	l.reads++
	k.running.Add(1)
	l.log.Info("a link is read back", "link", name)
	return link, ctx, sync.OnceFunc(func() {
		cancel()
		k.running.Done() // before the lock, which who waits for it may have
		l.changing.Lock()
		defer l.changing.Unlock()
		k.reading = nil
		l.reads--
	}), nil
}

// Verify has the broker that has a data directory read back what a link has delivered: "link", and if wanted "topic", a pattern, and "last",
// how many offsets of each partition. fn gets each line of the answer but the last; it returns when all is read, with the
// board's reason when it was not, with fn's error, or when ctx ends, which ends it on the board, too. It returns ErrNoLink for what
// the broker does not have.
func Verify(ctx context.Context, dir string, about url.Values, fn func(VerifyLine) error) error {
	if err := runsOn(dir); err != nil {
		return err
	}
	c, err := call(ctx, dir, http.MethodPost, (&url.URL{Path: "/upstream/verify", RawQuery: about.Encode()}).RequestURI(), atSilence)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", dir, ErrSilent, err)
	}
	defer c.close()
	if c.answer.StatusCode != http.StatusOK {
		body, err := c.whole()
		if err != nil {
			return fmt.Errorf("%s: %w: %w", dir, ErrSilent, err)
		}
		return c.refused(http.MethodPost, "upstream/verify", body)
	}
	lines := bufio.NewScanner(c.answer.Body)
	lines.Buffer(nil, verifyLineMax)
	for lines.Scan() {
		var l VerifyLine
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return fmt.Errorf("verify: %w", err)
		}
		switch {
		case l.End != nil && l.End.Error != "":
			return errors.New(l.End.Error)
		case l.End != nil:
			return nil
		}
		if err := fn(l); err != nil {
			return err
		}
		if err := c.patience(ctx, atSilence); err != nil {
			return err
		}
	}
	return errors.Join(ctx.Err(), fmt.Errorf("the answer ended before its end: %w", errors.Join(ErrSilent, lines.Err())))
}
