package broker

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

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
