package upstream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/broker"
	"millrace/testbench/badlink"
	"millrace/testbench/client/kafka"
	"millrace/testbench/lane"
	"millrace/testbench/process"
)

// What follows has records go before they were delivered. Whoever reads upstream is told which, how many and why, and misses
// nothing else.

// make makes a topic of one partition.
func (s *station) make(topic string, settings map[string]string) {
	s.t.Helper()
	s.admin(func(ctx context.Context, admin *kadm.Client) error {
		set := map[string]*string{}
		for k, v := range settings {
			set[k] = &v
		}
		_, err := admin.CreateTopic(ctx, 1, 1, set, s.topic(topic))
		return err
	})
}

// admin does something with an admin client of the board's.
func (s *station) admin(do func(context.Context, *kadm.Client) error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), lane.Patience)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(s.Kafka))
	if err != nil {
		s.t.Fatal(err)
	}
	defer client.Close()
	if err := do(ctx, kadm.NewClient(client)); err != nil {
		s.t.Fatal(err)
	}
}

// A client deletes what is not delivered yet while the link is cut, and the board gets kill -9 before it heals.
func TestWhatAClientDeletesIsTold(t *testing.T) {
	t.Parallel()
	c := kafka.Shared(t)
	way := badlink.New(t, c.Bootstrap()[0])
	b := stationAt(t, c, way.Addr, "deleted", filepath.Join(t.TempDir(), "data"), "provenance = true")
	b.write("a", 5, "before")
	b.write("b", 3, "beside")
	b.delivered()
	b.Kill()
	way.Cut()
	b.Start()
	b.write("a", 15, "away")
	b.write("b", 3, "away")
	b.admin(func(ctx context.Context, admin *kadm.Client) error {
		list, err := admin.DeleteRecords(ctx, kadm.Offsets{b.topic("a"): {0: {Topic: b.topic("a"), At: 14}}})
		if err != nil {
			return err
		}
		return list.Error()
	})
	b.write("a", 5, "after")
	if is := b.is("the link is away", func(is *broker.LinkStatus) bool { return is.State != "connecting" }); is.Sent > 0 {
		t.Fatalf("the link was not cut: %+v", is)
	}
	b.Kill()
	b.Start()
	if err := way.Heal(); err != nil {
		t.Fatal(err)
	}
	b.delivered()
	b.told("a", "deleted by a client", 5, 9, 9, 25)
	b.told("b", "", 0, 0, 0, 6)
	b.same("a")
	var want []string
	want = append(want, texts(5, "before")...)
	want = append(want, texts(15, "away")[9:]...)
	b.arrived("a", append(want, texts(5, "after")...))
}

// A board that ran without its link lets old records go by retention: with the link again it tells of those that were not delivered.
func TestWhatRetentionTakesIsTold(t *testing.T) {
	t.Parallel()
	c := kafka.Shared(t)
	dir := filepath.Join(t.TempDir(), "data")
	b := stationIn(t, c, "retained", dir, "provenance = true")
	b.make("a", map[string]string{"segment.bytes": "1048576", "retention.bytes": "2097152", "retention.ms": "-1"})
	b.write("a", 3, "before")
	b.delivered()
	b.Stop()

	alone := &station{Process: process.StartIn(t, dir, "[broker]\nlog.retention.check.interval.ms = 100\n"), t: t, name: b.name, dir: dir, kafka: c}
	rng := rand.New(rand.NewPCG(drawn(t), 0))
	alone.noise("a", 1, 600, 10_000, rng)
	var start int64
	lane.Until(t, "retention takes its part", func(context.Context) error {
		if start = alone.start("a"); start <= 3 {
			return fmt.Errorf("the log begins at %d", start)
		}
		return nil
	})
	alone.Stop()

	b.Start()
	b.write("a", 2, "after")
	b.delivered()
	if start = b.start("a"); start <= 3 || start >= 600 {
		t.Fatalf("the log begins at %d", start)
	}
	b.told("a", "retention", 3, start-3, start-3, 605)
	b.same("a")
}

// A disk that is full takes the oldest records of a link that is away.
func TestWhatAFullDiskTakesIsTold(t *testing.T) {
	t.Parallel()
	c := kafka.Shared(t)
	const mib = 1 << 20
	b := inside(t, c, "filled", broker.Config{}, "[flash]\nreserve.bytes = \"20MiB\"\n[journal]\nbytes.max = \"2MiB\"")
	b.given.FS = card{dir: b.dir, bytes: 48 * mib}
	b.given.Settings.Upstreams[0].Provenance = true
	b.begin()
	b.make("a", map[string]string{"segment.bytes": fmt.Sprint(mib), "retention.bytes": "-1", "retention.ms": "-1"})
	b.write("a", 3, "before")
	b.delivered()
	b.end()
	b.way.Cut()
	b.begin()
	rng := rand.New(rand.NewPCG(drawn(t), 0))
	const n = 800
	b.noise("a", 1, n, 50_000, rng)
	start := b.start("a")
	if start <= 3 || start >= n {
		t.Fatalf("the disk was not full, or has taken all: the log begins at %d", start)
	}
	b.heal()
	b.write("a", 2, "after")
	b.delivered()
	again := b.start("a") // more may have gone before the link was back, and what was delivered since
	if again < start {
		t.Errorf("the log begins at %d, and at %d later", start, again)
	}
	b.told("a", "disk full", 3, start-3, again-3, n+5)
	b.same("a")
}
