package broker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/bridge/upstream"
)

// readBack is what `millrace upstream verify` gets.
func (p *plant) readBack(link string, last string) (list []upstream.Verified, err error) {
	p.t.Helper()
	err = Verify(p.t.Context(), p.dir, url.Values{"link": {link}, "last": {last}}, func(l VerifyLine) error {
		if l.Partition != nil {
			list = append(list, *l.Partition)
		}
		return nil
	})
	return list, err
}

// idle waits until all is delivered.
func (p *plant) idle(link string) {
	p.t.Helper()
	p.until("all is delivered", func() bool { return p.state(link) == upstream.StateIdle && p.one(link).Records == 0 })
}

func TestALinkIsReadBack(t *testing.T) {
	p := newPlant(t, aLink("hq", "'a'"))
	var want []string
	for i := range 50 {
		want = append(want, fmt.Sprint("v", i))
		appendOne(t, p.Broker, "a", want[i])
	}
	p.wants("a", want...)
	p.idle("hq")
	for _, last := range []string{"", "10"} {
		list, err := p.readBack("hq", last)
		if err != nil || len(list) != 1 || !list[0].Good() || list[0].Compared == 0 || (last == "10") != (list[0].Compared == 10) {
			t.Errorf("last %q: %+v, %v", last, list, err)
		}
	}
	p.kafka.Write(p.kafka.Committed("a", 0)[3])
	list, err := p.readBack("hq", "")
	if err != nil || len(list) != 1 || list[0].Doubled != (upstream.Fault{Count: 1, First: 3}) {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := p.readBack("nowhere", ""); !errors.Is(err, ErrNoLink) {
		t.Errorf("%v", err)
	}
	if _, err := p.readBack("hq", "x"); err == nil || !strings.Contains(err.Error(), "no number") {
		t.Errorf("%v", err)
	}
}

// It ends when nobody listens any more, and is one at a time. A link that ends ends it, and the board waits for nobody.
func TestAReadBackEnds(t *testing.T) {
	p := newPlant(t, aLink("hq", "'a'"))
	appendOne(t, p.Broker, "a", "1")
	p.wants("a", "1")
	p.idle("hq")
	if err := p.links.Pause("hq"); err != nil { // so it waits
		t.Fatal(err)
	}
	begin := func(ctx context.Context) (ended chan error) {
		held := make(chan struct{}, 1)
		ended = make(chan error, 1)
		go func() {
			ended <- Verify(ctx, p.dir, url.Values{"link": {"hq"}}, func(l VerifyLine) error {
				if l.At != nil && strings.Contains(l.At.Held, "paused") {
					select {
					case held <- struct{}{}:
					default:
					}
				}
				return nil
			})
		}()
		select {
		case <-held:
		case err := <-ended:
			t.Fatalf("it has ended: %v", err)
		}
		return ended
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := begin(ctx)
	if _, err := p.readBack("hq", ""); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("%v", err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	p.until("nobody listens, and the board has given it up", func() bool {
		p.links.changing.Lock()
		defer p.links.changing.Unlock()
		return p.links.reads == 0
	})
	ended = begin(t.Context())
	p.reload("\n" + aLink("other", "'b'"))
	if err := <-ended; err == nil {
		t.Error("a link that has ended is read back to the end")
	}
}

// still is a connection whose other end reads nothing: a write takes until its deadline.
type still struct {
	header  http.Header
	writing chan struct{} // one for each write

	mu      sync.Mutex
	at      time.Time
	changed chan struct{} // closed when the deadline is another one
}

func (s *still) Header() http.Header             { return s.header }
func (s *still) WriteHeader(int)                 {}
func (s *still) FlushError() error               { return nil }
func (s *still) SetReadDeadline(time.Time) error { return nil }
func (s *still) deadline() (time.Time, chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at, s.changed
}

func (s *still) SetWriteDeadline(at time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.at, s.changed = at, make(chan struct{})
	return nil
}

func (s *still) Write([]byte) (int, error) {
	select {
	case s.writing <- struct{}{}:
	default:
	}
	for {
		at, changed := s.deadline()
		select {
		case <-time.After(time.Until(at)):
			return 0, os.ErrDeadlineExceeded
		case <-changed:
		}
	}
}

// Who listens and reads nothing keeps neither a reload nor the end of the board waiting.
func TestAReaderThatStandsStillHoldsNobodyUp(t *testing.T) {
	p := newPlant(t, aLink("hq", "'a'"))
	appendOne(t, p.Broker, "a", "1")
	p.wants("a", "1")
	p.idle("hq")
	reader := &still{header: http.Header{}, writing: make(chan struct{}, 1), changed: make(chan struct{})}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.handleVerify(reader, httptest.NewRequest(http.MethodPost, "/upstream/verify?link=hq", nil))
	}()
	<-reader.writing
	began := time.Now()
	p.reload("\n" + aLink("other", "'b'"))
	if took := time.Since(began); took > controlTimeout/2 {
		t.Errorf("the reload took %v", took)
	}
	<-ended
}
