package upstream

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/bridge/upstream"
	"millrace/bridge/upstream/upstreamtest"
	"millrace/testbench/badlink"
	"millrace/testbench/client/drill"
	"millrace/testbench/client/kafka"
	"millrace/testbench/lane"
	"millrace/testbench/process"
)

// mirrorWrites is how often the author writes before MirrorMaker runs, and after.
const mirrorWrites = 60

// A MirrorMaker 2 mirrors the topics of a board that a link of the board mirrors, too: records are the same, one by one. (A board
// has no transactions yet that could be taken back.) Settings follow as with it.
func TestAMirrorMakerBeside(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), lane.Patience)
	defer cancel()
	seed := rand.Uint64()
	t.Log("seed", seed)
	c := kafka.Shared(t)
	dir := filepath.Join(t.TempDir(), "data")
	p := process.StartIn(t, dir, "[broker]\ncluster.alias = \"plant\"\n"+
		plain("hq", c.Direct()[0], "mirror.*", `naming = "{cluster}.{topic}"`))
	board, err := kgo.NewClient(kgo.SeedBrokers(p.Kafka))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(board.Close)
	topics := []string{"mirror.a", "mirror.b"}
	admin := kadm.NewClient(board)
	for i, n := range []int32{3, 1} {
		if _, err := admin.CreateTopic(ctx, n, 1, nil, topics[i]); err != nil {
			t.Fatal(err)
		}
	}
	a := newAuthor(t, "mirror.", rand.New(rand.NewPCG(seed, 0)), p.Kafka)
	a.committed = nil
	for range mirrorWrites {
		a.write(ctx)
	}
	drained(t, dir)
	// The link has made the topics: from here on it is to follow.
	codec := "lz4"
	if _, err := admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Name: "compression.type", Value: &codec}}, topics[0]); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	m := kafka.StartMirrorMaker(t, kafka.Side{Alias: "mm", Bootstrap: []string{p.Kafka}}, kafka.Side{Alias: "hq", Bootstrap: c.Direct()},
		`mm->hq.topics=mirror\\..*`)
	t.Logf("MirrorMaker's connectors run after %v", time.Since(begin).Round(time.Millisecond))
	for range mirrorWrites {
		a.write(ctx)
	}
	drained(t, dir)

	written := logOf(t, topics, p.Kafka)
	if len(written) != a.n {
		t.Errorf("the board has %d of %d records", len(written), a.n)
	}
	ours := logOf(t, renamed(topics, "plant."), c.Direct()...)
	if _, err := mirrored(written, ours, func(topic string) string { return "plant." + topic }, 0, false); err != nil {
		t.Errorf("the link's: %v", err)
	}
	// What nobody has made a stamp for is the same for both; where nobody knows the time, the link puts stamps right, and says so.
	var want []drill.Record
	timeless := false
	for _, r := range ours {
		copied, err := takeApart(r)
		if err != nil {
			t.Fatal(err)
		}
		timeless = timeless || copied.unsure
		copied.Topic = strings.Replace(copied.Topic, "plant.", "mm.", 1)
		want = append(want, copied.Record)
	}
	var theirs []drill.Record
	lane.Until(t, "MirrorMaker has mirrored all", func(ctx context.Context) error {
		if err := m.Alive(); err != nil {
			t.Fatal(err)
		}
		var err error
		if theirs, err = drill.Committed(ctx, renamed(topics, "mm."), kgo.SeedBrokers(c.Direct()...)); err == nil && len(theirs) < len(want) {
			err = fmt.Errorf("it has %d of %d", len(theirs), len(want))
		}
		return err
	})
	t.Logf("it has mirrored %d records after %v", len(theirs), time.Since(begin).Round(time.Millisecond))
	if timeless {
		for i := range want {
			want[i].Timestamp = 0
		}
		for i := range theirs {
			theirs[i].Timestamp = 0
		}
	}
	if err := drill.Compare(want, theirs); err != nil { // exactly: it was not killed
		t.Errorf("MirrorMaker's against the link's: %v", err)
	}

	far := kadm.NewClient(c.Client(t))
	lane.Until(t, "the setting has followed, both ways", func(ctx context.Context) error {
		list, err := far.DescribeTopicConfigs(ctx, "plant.mirror.a", "mm.mirror.a")
		for _, of := range list {
			for _, set := range of.Configs {
				if set.Key == "compression.type" && set.MaybeValue() != codec {
					err = fmt.Errorf("%s has %s", of.Name, set.MaybeValue())
				}
			}
		}
		return err
	})
	if s := drained(t, dir)["hq"]; len(s.Notes) > 0 {
		t.Errorf("%+v", s)
	}
}

// MirrorMaker's tools see a board whose link writes heartbeats as they see a cluster that MirrorMaker mirrors. The engine runs in the
// test: a machine that nobody tells the time has no heartbeats.
func TestMirrorMakersToolsSeeABoard(t *testing.T) {
	c := kafka.Shared(t)
	way := badlink.New(t, c.Node(1).Direct)
	remote, err := upstream.NewKafka(upstream.KafkaConfig{
		Brokers: c.Direct(), Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, way.Addr)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	link, err := upstream.New(upstream.Config{
		Name: "hq", Board: "a board with heartbeats", Alias: "shed", Topics: []string{"none"}, Heartbeats: time.Second,
	}, upstream.Env{Log: upstreamtest.NewLog(), Clock: upstreamtest.Clock{}, Remote: remote, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		link.Run(ctx)
	}()
	defer func() {
		stop()
		<-ended
	}()
	// until waits for heartbeats, and says what is on the wire then.
	until := func(n int64) (beats, bytes int64) {
		lane.Until(t, "there are heartbeats", func(context.Context) error {
			if beats = link.Status().Sent.Heartbeats; beats < n {
				return fmt.Errorf("%+v", link.Status())
			}
			return nil
		})
		is := way.Stats()
		return beats, is.Up + is.Down
	}
	first, before := until(2)
	last, after := until(first + 3)
	each := float64(after-before) / float64(last-first)
	t.Logf("%.0f bytes a heartbeat, both ways", each)
	if each > 1000 {
		t.Errorf("%.0f bytes a heartbeat, want 1000 at most", each)
	}
	seen := kafka.See(t, c.Direct()[0], "shed")
	for policy, clusters := range seen.Clusters {
		if !slices.Contains(clusters, "shed") || seen.Hops[policy] != 1 {
			t.Errorf("by the %s %v are upstream, and it is %d hops away", policy, clusters, seen.Hops[policy])
		}
	}
	if age := time.Since(time.UnixMilli(seen.At)); len(seen.Clusters) != 2 || seen.Source != "shed" || seen.Target != "hq" || age < -time.Minute || age > time.Minute {
		t.Errorf("%+v", seen)
	}
	if seen.Key != "0006736865642d3700026871" || seen.Value != "00000000018bcfe5687b" { // what bridge/upstream has for golden
		t.Errorf("MirrorMaker's heartbeats are other ones now: %s %s", seen.Key, seen.Value)
	}
}

// renamed are topics with something before their names.
func renamed(topics []string, prefix string) []string {
	list := slices.Clone(topics)
	for i := range list {
		list[i] = prefix + list[i]
	}
	return list
}
