// Package polltest opens a poller for a test, with a pulse of its own.
package polltest

import (
	"testing"
	"time"

	"millrace/broker/poll"
	"millrace/platform/pulse"
)

// Open is a running poller, closed with the test.
func Open(t testing.TB) *poll.Poller {
	t.Helper()
	clock := pulse.New(time.Now)
	p, err := poll.New(poll.Config{Waiters: 8192, NowMS: clock.Now, Wake: clock.Wake})
	if err != nil {
		t.Fatal(err)
	}
	clock.Register(p)
	t.Cleanup(func() {
		clock.Close()
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}
