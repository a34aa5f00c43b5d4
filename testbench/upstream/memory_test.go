package upstream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"millrace/bridge/upstream"
	"millrace/testbench/badlink"
	"millrace/testbench/client/kafka"
	"millrace/testbench/lane"
	"millrace/testbench/process"
)

// What is behind lies in the log: a backlog over 500 partitions takes no memory, while the link is away and while it drains.
func TestABacklogTakesNoMemory(t *testing.T) {
	const partitions, size, small, most = 500, 4 << 10, 8, 4 << 20
	large := lane.Count("MILLRACE_BACKLOG", 64) // MiB
	c := kafka.Shared(t)
	way := badlink.New(t, c.Bootstrap()[0])
	rng := rand.New(rand.NewPCG(drawn(t), 0))
	b := stationAt(t, c, way.Addr, "backlog", filepath.Join(t.TempDir(), "data"))
	// behind is what the board takes with so many MiB behind it, at rest and at most while they are delivered, after a start:
	// what the writing took is not looked at.
	behind := func(mib int) (rest, draining int64) {
		t.Helper()
		process.Run(t, "upstream", "pause", "hq", "--data", b.dir)
		for left := mib; left > 0; left -= 256 {
			b.noise("m", partitions, min(left, 256)<<20/size, size, rng)
		}
		b.Kill()
		way.Cut()
		b.Start()
		process.Run(t, "upstream", "resume", "hq", "--data", b.dir)
		rest = 1 << 62
		for range 20 {
			rest = min(rest, b.takes())
			time.Sleep(100 * time.Millisecond) // a look every so often, for two seconds
		}
		if err := way.Heal(); err != nil {
			t.Fatal(err)
		}
		lane.Until(t, "all is delivered", func(ctx context.Context) error {
			draining = max(draining, b.takes())
			all, err := linksOf(ctx, b.dir)
			if is := all["hq"]; err == nil && (is.State != string(upstream.StateIdle) || is.Records != 0 || is.Sent < int64(mib<<20/size)) {
				err = fmt.Errorf("%+v", is)
			}
			return err
		})
		return rest, draining
	}
	restA, drainA := behind(small)
	restB, drainB := behind(large)
	t.Logf("with %d MiB behind it takes %d KiB, and %d at most while they are delivered; with %d MiB %d and %d", small, restA>>10, drainA>>10, large, restB>>10, drainB>>10)
	// While it is delivered there are the buffers of one transaction, which little fills less than much does.
	if restB-restA > most || drainB-drainA > 2*most {
		t.Errorf("a backlog takes memory: %d KiB at rest, %d while it is delivered", (restB-restA)>>10, (drainB-drainA)>>10)
	}
}

// takes is the memory the board takes, in bytes.
func (s *station) takes() int64 {
	s.t.Helper()
	n, err := s.PID().RSS()
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}
