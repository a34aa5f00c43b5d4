package upstream_test

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/upstream"
	"millrace/bridge/upstream/upstreamtest"
)

// scarce is memory that others have, until there is some.
type scarce struct {
	some  chan struct{}
	taken atomic.Int64
}

func (s *scarce) Acquire(ctx context.Context, n int64) error {
	select {
	case <-s.some:
		s.taken.Add(n)
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
func (s *scarce) Overdraw(n int64) { s.taken.Add(n) }
func (s *scarce) Release(n int64)  { s.taken.Add(-n) }

// opening counts the sessions that are begun.
type opening struct {
	upstream.Remote
	opened atomic.Int64
}

func (o *opening) Open(ctx context.Context, id string) (upstream.Session, error) {
	o.opened.Add(1)
	return o.Remote.Open(ctx, id)
}

// A link for which there is no memory says so, and takes nothing over meanwhile; it takes for all its lanes at once.
func TestALinkWaitsForMemoryBeforeItConnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, upstream.Config{Order: upstream.LiveFirst, TransactionBytes: 100_000})
		plainly(w.all, w.parts[0], 10, "x")
		memory, remote := &scarce{some: make(chan struct{})}, &opening{Remote: w.kafka.Client()}
		link, err := upstream.New(w.cfg, upstream.Env{
			Log: w.log, Clock: upstreamtest.Clock{}, Remote: remote, Backoff: quick{}, Budget: memory, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			link.Run(ctx)
		}()
		for range 100 {
			time.Sleep(time.Second)
			synctest.Wait()
			if s := link.Status(); s.State != upstream.StateConnecting || !strings.Contains(s.Reason, "memory") || remote.opened.Load() != 0 {
				t.Fatalf("without memory it is %s, %q, and has begun %d sessions", s.State, s.Reason, remote.opened.Load())
			}
		}
		link.Pause()
		time.Sleep(time.Minute)
		if s := link.Status(); s.State != upstream.StatePaused {
			t.Errorf("paused it is %s", s.State)
		}
		link.Resume()
		close(memory.some)
		time.Sleep(time.Minute)
		if s := link.Status(); s.State != upstream.StateIdle || memory.taken.Load() != 2*4*100_000 {
			t.Errorf("with memory it is %s, %q, and has taken %d", s.State, s.Reason, memory.taken.Load())
		}
		w.exact()
		cancel()
		<-done
		if n := memory.taken.Load(); n != 0 {
			t.Errorf("it has kept %d", n)
		}
	})
}
