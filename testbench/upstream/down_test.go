package upstream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/bridge/upstream"
	"millrace/testbench/badlink"
	"millrace/testbench/client/drill"
	"millrace/testbench/client/kafka"
	"millrace/testbench/lane"
	"millrace/testbench/process"
)

// downRounds is how often something goes wrong on the way down.
const downRounds = 30

// plain is an [[upstream]] without TLS.
func plain(name, address, topics string, settings ...string) string {
	return fmt.Sprintf("[[upstream]]\nname = %q\nbootstrap.servers = [%q]\nreconnect.backoff.ms = 50\nreconnect.backoff.max.ms = 200\ntopics = [%q]\n%s\n",
		name, address, topics, strings.Join(settings, "\n"))
}

// What comes down from an Apache Kafka, and two boards that send to one and take from it.
func TestDown(t *testing.T) {
	var link *badlink.Link
	cluster := kafka.Start(t, kafka.Options{Advertise: func(_ int, address string) string {
		link = badlink.New(t, address)
		return link.Addr
	}})
	t.Run("over kills and a bad link", func(t *testing.T) { comesDown(t, cluster, link) })
	t.Run("active and active", func(t *testing.T) { activeActive(t, cluster) })
}

// author writes to a Kafka: transactions that are committed, some that are taken back, and records without one, in every codec.
type author struct {
	t         *testing.T
	prefix    string // of its topics, a with three partitions and b with one
	random    *rand.Rand
	committed []*kgo.Client
	bare      []*kgo.Client
	n         int
}

func newAuthor(t *testing.T, prefix string, random *rand.Rand, servers ...string) *author {
	t.Helper()
	a := &author{t: t, prefix: prefix, random: random}
	for i, codec := range []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()} {
		open := func(opts ...kgo.Opt) *kgo.Client {
			client, err := kgo.NewClient(append(opts, kgo.SeedBrokers(servers...), kgo.ProducerBatchCompression(codec),
				kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(client.Close)
			return client
		}
		a.bare = append(a.bare, open())
		a.committed = append(a.committed, open(kgo.TransactionalID(fmt.Sprint("author-", i))))
	}
	return a
}

// write writes a few records.
func (a *author) write(ctx context.Context) {
	a.t.Helper()
	some := func(client *kgo.Client) {
		recs := make([]*kgo.Record, 1+a.random.IntN(20))
		for i := range recs {
			a.n++
			r := &kgo.Record{Topic: a.prefix + "a", Partition: a.random.Int32N(3), Timestamp: time.UnixMilli(1_700_000_000_000 + int64(a.n))}
			if a.random.IntN(4) == 0 {
				r.Topic, r.Partition = a.prefix+"b", 0
			}
			if a.random.IntN(3) > 0 {
				r.Key = fmt.Appendf(nil, "key %d", a.random.IntN(10))
			}
			r.Value = fmt.Appendf(nil, "%d %s", a.n, strings.Repeat("x", a.random.IntN(400)))
			if a.random.IntN(10) == 0 {
				r.Value = nil
			}
			if a.random.IntN(4) == 0 {
				r.Headers = []kgo.RecordHeader{{Key: "kind", Value: []byte("sometimes")}, {Key: "null"}}
			}
			recs[i] = r
		}
		if err := client.ProduceSync(ctx, recs...).FirstErr(); err != nil {
			a.t.Fatal(err)
		}
	}
	i := a.random.IntN(len(a.bare))
	if a.random.IntN(3) == 0 || len(a.committed) == 0 {
		some(a.bare[i])
		return
	}
	client := a.committed[i]
	if err := client.BeginTransaction(); err != nil {
		a.t.Fatal(err)
	}
	some(client)
	if err := client.EndTransaction(ctx, a.random.IntN(3) > 0); err != nil {
		a.t.Fatal(err)
	}
}

// comesDown has a board that is killed, over a link that fails, take what others write.
func comesDown(t *testing.T, cluster *kafka.Cluster, link *badlink.Link) {
	ctx, cancel := context.WithTimeout(t.Context(), lane.Patience)
	defer cancel()
	seed := rand.Uint64()
	t.Log("seed", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	cluster.Create(t, "down.a", 3)
	cluster.Create(t, "down.b", 1)
	dir := filepath.Join(t.TempDir(), "data")
	p := process.StartIn(t, dir, plain("hq", link.Addr, "down.*", `direction = "down"`))
	a := newAuthor(t, "down.", random, cluster.Direct()...)
	kills := 0
	for i := range downRounds {
		for range 1 + random.IntN(4) {
			a.write(ctx)
		}
		time.Sleep(time.Duration(random.IntN(150)) * time.Millisecond) // how long a round is, not what is waited for
		switch n := random.IntN(7); {
		case i == downRounds/2:
			cluster.Kill(t)
			cluster.Start(t)
		case n < 2:
			kills++
			p.Kill()
			p.Start()
		case n == 2:
			link.Reset()
		case n == 3 || n == 4:
			link.ResetAfter(badlink.Direction(random.IntN(2)), int64(random.IntN(20_000)))
		case n == 5:
			link.Cut()
			a.write(ctx)
			if err := link.Heal(); err != nil {
				t.Fatal(err)
			}
		case n == 6:
			link.Set(badlink.Conditions{Latency: time.Duration(random.IntN(20)) * time.Millisecond})
		}
	}
	link.Set(badlink.Conditions{})
	topics := []string{"down.a", "down.b"}
	want, err := drill.Committed(ctx, topics, kgo.SeedBrokers(cluster.Direct()...))
	if err != nil {
		t.Fatal(err)
	}
	got := awaited(t, p, dir, topics, len(want))
	s, err := linksOf(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d records of %d that were written, over %d kills of the board; of its last life: %+v", len(want), a.n, kills, s["hq"])
	if kills == 0 || len(want) == a.n {
		t.Error("too little has happened to prove anything")
	}
	for i := range got {
		r := &got[i]
		if n := len(r.Headers) - 1; n < 0 || r.Headers[n].Key != upstream.HeaderCluster || string(r.Headers[n].Value) != cluster.ID {
			t.Fatalf("it does not say where it came from: %v", r)
		} else if r.Headers = r.Headers[:n]; n == 0 {
			r.Headers = nil
		}
	}
	if err := drill.Compare(want, got); err != nil {
		t.Error(err)
	}
}

// awaited are the records of a board's topics, when there are as many as are waited for and its links are idle.
func awaited(t *testing.T, p *process.Process, dir string, topics []string, n int) (list []drill.Record) {
	t.Helper()
	lane.Until(t, fmt.Sprintf("the board has %d records", n), func(ctx context.Context) (err error) {
		all, err := linksOf(ctx, dir)
		if err != nil {
			return err
		}
		for name, s := range all {
			if s.State != string(upstream.StateIdle) || s.Records != 0 || s.Trouble != "" {
				return fmt.Errorf("%s: %+v", name, s)
			}
		}
		if list, err = drill.Committed(ctx, topics, kgo.SeedBrokers(p.Kafka)); err == nil && len(list) < n {
			err = fmt.Errorf("it has %d: %+v", len(list), all)
		}
		return err
	})
	return list
}

// activeActive has two boards write a topic that each sends up and takes down, and one of them be killed.
func activeActive(t *testing.T, cluster *kafka.Cluster) {
	ctx, cancel := context.WithTimeout(t.Context(), lane.Patience)
	defer cancel()
	const topic, each = "both.t", 200
	cluster.Create(t, topic, 2)
	type side struct {
		name   string
		dir    string
		p      *process.Process
		client *kgo.Client
	}
	sides := []*side{{name: "a"}, {name: "b"}}
	for _, s := range sides {
		s.dir = filepath.Join(t.TempDir(), "data")
		s.p = process.StartIn(t, s.dir, plain("up", cluster.Bootstrap()[0], topic)+plain("down", cluster.Bootstrap()[0], topic, `direction = "down"`))
		var err error
		if s.client, err = kgo.NewClient(kgo.SeedBrokers(s.p.Kafka), kgo.RecordPartitioner(kgo.ManualPartitioner())); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.client.Close)
		lane.Until(t, "the topic came down", func(ctx context.Context) error {
			d, err := kadm.NewClient(s.client).ListTopics(ctx, topic)
			if err == nil && len(d[topic].Partitions) != 2 {
				err = fmt.Errorf("%+v", d)
			}
			return err
		})
	}
	written := map[string]bool{}
	write := func(s *side, i int) {
		r := &kgo.Record{Topic: topic, Partition: int32(i % 2), Value: fmt.Appendf(nil, "%s %d", s.name, i)}
		if err := s.client.ProduceSync(ctx, r).FirstErr(); err != nil {
			t.Fatal(err)
		}
		written[string(r.Value)] = true
	}
	for i := range each {
		if i == each/2 {
			sides[0].p.Kill()
			sides[0].p.Start()
		}
		for _, s := range sides {
			write(s, i)
		}
	}
	for _, s := range sides {
		awaited(t, s.p, s.dir, []string{topic}, len(written))
	}
	// What would loop is on its way before these.
	for i := range 2 {
		for _, s := range sides {
			write(s, each+i)
		}
	}
	for _, s := range sides {
		once(t, s.name, awaited(t, s.p, s.dir, []string{topic}, len(written)), written)
	}
	up, err := drill.Committed(ctx, []string{topic}, kgo.SeedBrokers(cluster.Direct()...))
	if err != nil {
		t.Fatal(err)
	}
	once(t, "Kafka", up, written)
	all, err := linksOf(ctx, sides[1].dir)
	if err != nil {
		t.Fatal(err)
	}
	if all["up"].Looped == 0 || all["down"].Looped == 0 {
		t.Errorf("nothing had to be left out: %+v", all)
	}
}

// once checks that everything is there once, and that what each board has written is in its order.
func once(t *testing.T, who string, list []drill.Record, written map[string]bool) {
	t.Helper()
	seen, last := map[string]bool{}, map[string]int{}
	for _, r := range list {
		var name string
		var i int
		if _, err := fmt.Sscan(string(r.Value), &name, &i); err != nil || !written[string(r.Value)] {
			t.Fatalf("%s has what nobody has written: %q", who, r.Value)
		}
		if seen[string(r.Value)] {
			t.Errorf("%s has %q twice", who, r.Value)
		}
		seen[string(r.Value)] = true
		of := fmt.Sprint(name, r.Partition)
		if before, some := last[of]; some && i <= before {
			t.Errorf("%s has %s's %d after %d", who, name, i, before)
		}
		last[of] = i
	}
	if len(seen) != len(written) {
		t.Errorf("%s has %d of %d records", who, len(seen), len(written))
	}
}
