package upstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"millrace/bridge/upstream"
	"millrace/broker"
	"millrace/testbench/badlink"
	"millrace/testbench/client/kafka"
	"millrace/testbench/lane"
	"millrace/testbench/process"
)

// What is behind lies in the log: a backlog over 500 partitions takes no memory, while the link is away and while it drains.
func TestABacklogTakesNoMemory(t *testing.T) {
	const partitions, size, most, mostDelivering = 500, 4 << 10, 4 << 20, 16 << 20
	// In a few seconds the most that delivering ever takes is not seen, so lives differ. What a backlog takes is told within one:
	// while much is behind, and while little is.
	const mostDraining, window = 8 << 20, 256
	small, large := 8, lane.Count("MILLRACE_BACKLOG", 64) // MiB
	if large >= 1024 {
		small = 128
	}
	c := kafka.Shared(t)
	way := badlink.New(t, c.Bootstrap()[0])
	rng := rand.New(rand.NewPCG(drawn(t), 0))
	b := stationAt(t, c, way.Addr, "backlog", filepath.Join(t.TempDir(), "data"))
	// behind is what the board takes with so many MiB behind it, at rest and at most while they are delivered, after a start:
	// what the writing took is not looked at.
	behind := func(mib int) (rest, draining footprint, windows []footprint) {
		t.Helper()
		process.Run(t, "upstream", "pause", "hq", "--data", b.dir)
		for left := mib; left > 0; left -= 256 {
			b.noise("m", partitions, min(left, 256)<<20/size, size, rng)
		}
		b.Kill()
		way.Cut()
		b.Start()
		process.Run(t, "upstream", "resume", "hq", "--data", b.dir)
		rest = footprint{1 << 62, 1 << 62}
		for range 20 {
			now := b.takes()
			rest = footprint{min(rest.all, now.all), min(rest.own, now.own)}
			time.Sleep(100 * time.Millisecond) // a look every so often, for two seconds
		}
		if err := way.Heal(); err != nil {
			t.Fatal(err)
		}
		var part footprint
		look := func() {
			now := b.takes()
			draining, part = draining.most(now), part.most(now)
		}
		for goal := 32; ; goal += 32 { // each within the lane's patience
			looks := 0
			lane.Until(t, "more is delivered", func(ctx context.Context) error {
				look()
				if looks++; looks%10 > 0 { // to tell of 500 partitions takes more memory than to deliver their records
					return errors.New("not asked yet")
				}
				all, err := linksOf(ctx, b.dir)
				if is := all["hq"]; err == nil && is.Sent < int64(min(goal, mib)<<20/size) {
					err = fmt.Errorf("%+v", is)
				}
				return err
			})
			if goal%window == 0 {
				windows, part = append(windows, part), footprint{}
			}
			if goal >= mib {
				break
			}
		}
		var wire, records int64
		b.is("all is delivered", func(is *broker.LinkStatus) bool {
			look()
			wire, records = is.WireSent+is.WireReceived, is.SentBytes
			return is.State != string(upstream.StateIdle) || is.Records != 0
		})
		t.Logf("%d MiB behind: %.2f bytes on the wire for each of the records", mib, float64(wire)/float64(records))
		if wire > records*5/4+1<<20 { // what the peer refuses comes in vain: partitions that are new to it are the worst
			t.Errorf("%d bytes on the wire for %d of records", wire, records)
		}
		return rest, draining, windows
	}
	restA, drainA, _ := behind(small)
	restB, drainB, windows := behind(large)
	t.Logf("KiB, at rest and at most while it is delivered, and of these what are no pages of the program: %d MiB behind: %v, %v; %d MiB: %v, %v", small, restA, drainA, large, restB, drainB)
	if restB.own-restA.own > most || restB.all-restA.all > most || drainB.all-drainA.all > mostDraining {
		t.Error("the more is behind, the more memory it takes")
	}
	if n := len(windows); n > 1 {
		t.Logf("KiB at most in each %d MiB of them: %v", window, windows)
		if much, little := windows[0], windows[n-1]; much.all-little.all > most || little.all-much.all > most {
			t.Errorf("with %d MiB behind it takes %v KiB, with %d behind %v", large, much, window, little)
		}
	}
	if drainB.own-restB.own > mostDelivering {
		t.Errorf("delivering takes %d KiB", (drainB.own-restB.own)>>10)
	}
}

// footprint is the memory of a process, in bytes, and what of it are no pages of the program, of which more are there the more of it runs.
type footprint struct{ all, own int64 }

// most is the larger of each.
func (m footprint) most(o footprint) footprint {
	return footprint{max(m.all, o.all), max(m.own, o.own)}
}

func (m footprint) String() string { return fmt.Sprintf("%d (%d)", m.all>>10, m.own>>10) }

// takes is the memory the board takes.
func (s *station) takes() (m footprint) {
	s.t.Helper()
	var err error
	if m.all, err = s.PID().RSS(); err != nil {
		s.t.Fatal(err)
	}
	if m.own, err = s.PID().Anonymous(); err != nil {
		s.t.Fatal(err)
	}
	return m
}
