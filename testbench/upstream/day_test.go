package upstream

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/bridge/upstream"
	"millrace/broker"
	"millrace/testbench/badlink"
	"millrace/testbench/client/kafka"
)

// farFromMidnight is a zone in which no day begins within some hours.
func farFromMidnight() string {
	return fmt.Sprintf("Etc/GMT%+d", time.Now().UTC().Hour()-12) // of which east is below 0
}

// theDayHolds has a board use up the bytes of a day while it gets kill -9 again and again, all of it over one way that
// counts them: it takes at most a hundredth more, says why it waits, and a last kill gives it no more. A kill costs what
// was reserved at most, a hundredth, so that most of the day is used.
func theDayHolds(t *testing.T, c *kafka.Cluster, way *badlink.Link) {
	const day, kills, backlog = 2 << 20, 5, 6 << 20
	rng := rand.New(rand.NewPCG(drawn(t), 0))
	before := way.Stats()
	b := stationIn(t, c, "day", filepath.Join(t.TempDir(), "data"),
		fmt.Sprintf("rate.bytes.per.day = %d\nrate.bytes.per.second = \"1MiB\"\ntime.zone = %q", day, farFromMidnight()), `window = []`)
	wire := func() int64 {
		is := way.Stats()
		return is.Up + is.Down + is.Swallowed - before.Up - before.Down - before.Swallowed
	}
	b.noise("a", 1, backlog/1000, 1000, rng)
	unspent := func(is *broker.LinkStatus) bool {
		return is.State != string(upstream.StateWaiting) || !strings.HasPrefix(is.Reason, "the bytes of the day are spent") || is.Records == 0
	}
	for i := range kills {
		left := max(day-int(wire()), 2)
		more := way.After(badlink.Up, 1+rng.Int64N(int64(left)/2))
		b.is("some more has gone, or nothing may", func(is *broker.LinkStatus) bool {
			select {
			case <-more:
				return false
			default:
				return unspent(is)
			}
		})
		b.Kill()
		t.Logf("kill %d after %d bytes", i+1, wire())
		b.Start()
	}
	began := time.Now()
	b.is("it says that the bytes of the day are spent", unspent)
	// One that begins a transaction that is larger than what is left tries to end it for three quarters of a minute.
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it says so after %v", took)
	}
	b.Kill()
	b.Start()
	is := b.is("it says so again after a kill", unspent)
	bytes := wire()
	t.Logf("%d bytes of %d on the wire, both ways: %.2f %%; %s", bytes, day, 100*float64(bytes)/day, is.Reason)
	if bytes > day+day/100 {
		t.Errorf("%d bytes are on the wire, %d more than the day's and a hundredth", bytes, bytes-day-day/100)
	}
	if bytes < day-day*(kills+5)/100 {
		t.Errorf("%d bytes are on the wire, %d less than the day's", bytes, day-bytes)
	}
}
