package kafka

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/testbench/lane"
)

// Options are what a test wants of a cluster.
type Options struct {
	// Nodes is how many there are: 1 where it is 0. Each takes 170 MB and 2 s of CPU time to start.
	Nodes int
	// Advertise is handed the address where a node listens for clients, and returns what clients are told: a proxy's in front
	// of it. Where it is nil they are told where the node listens.
	Advertise func(node int, address string) string
	// Protocol is that of the listener for clients: PLAINTEXT where it is empty, SSL, SASL_PLAINTEXT or SASL_SSL.
	Protocol string
	// Mechanisms are those of SASL: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER (its tokens are those of Token).
	Mechanisms []string
	// Users are names and passwords, which hold no quotes.
	Users map[string]string
	// ClientCertificates has clients need one of the cluster's authority.
	ClientCertificates bool
	// Format is what Kafka's storage tool is told beside: "--feature", "transaction.version=0" is a cluster whose clients add
	// each partition to a transaction themselves, as those before Kafka 4.
	Format []string
	// Properties are lines of server.properties that come last, and so count.
	Properties []string
}

// Cluster is Apache Kafka in KRaft mode. Its methods are for one goroutine at a time.
type Cluster struct {
	// ID is the cluster's, Nodes are by number less one.
	ID    string
	Nodes []*Node
	// Certs holds ca.crt and, as NAME.crt and NAME.key, certificates of node, client, late (expired) and stranger (of another
	// authority). It is empty where Options.Protocol has no TLS.
	Certs string
}

// heap is enough for tens of partitions and records of a megabyte.
const heap = "160m"

// small has Kafka take little of a machine and lose no time: one partition of each of its own topics, a node that comes
// back after a crash is let in three seconds after its controller is there (nine by default), transactions are aborted half
// a second after their time (ten). Records stay, whatever their timestamps: by default those of last week go half a minute
// after they came.
var small = []string{
	"offsets.topic.num.partitions=1", "transaction.state.log.num.partitions=1",
	"share.coordinator.state.topic.num.partitions=1", "share.coordinator.state.topic.replication.factor=1", "share.coordinator.state.topic.min.isr=1",
	"group.initial.rebalance.delay.ms=0",
	"broker.session.timeout.ms=3000", "broker.heartbeat.interval.ms=250",
	"log.retention.ms=-1",
	"transaction.abort.timed.out.transaction.cleanup.interval.ms=500",
	"log.cleaner.dedupe.buffer.size=4194304", "log.cleaner.io.buffer.size=131072", "metadata.log.segment.bytes=8388608",
	"num.network.threads=2", "num.io.threads=4", "background.threads=2", "num.recovery.threads.per.data.dir=1",
}

// Start starts a cluster in an empty directory, and returns when it serves. It is killed when the test ends. Without Java or
// Kafka's jars the test is skipped, or fails where lanes are required.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	c := prepare(t, t.TempDir(), o)
	t.Cleanup(func() {
		if t.Failed() {
			for _, n := range c.Nodes {
				t.Logf("%s said last:\n%s", n.name, n.tail())
			}
		}
		if err := c.kill(); err != nil {
			t.Error(err)
		}
	})
	c.makeArchive(t, Jars(t))
	c.Start(t)
	return c
}

// prepare has all that the nodes need on disk.
func prepare(t testing.TB, dir string, o Options) *Cluster {
	t.Helper()
	jars := Jars(t)
	c := &Cluster{ID: NewID()}
	o.Nodes = max(o.Nodes, 1)
	if o.Protocol == "" {
		o.Protocol = "PLAINTEXT"
	}
	var controllers []string
	for range o.Nodes {
		controllers = append(controllers, lane.FreeAddress(t))
	}
	security := c.security(t, dir, o)
	for id := 1; id <= o.Nodes; id++ {
		home := filepath.Join(dir, fmt.Sprint("node", id))
		file := filepath.Join(home, "server.properties")
		direct, clients := lane.FreeAddress(t), lane.FreeAddress(t)
		n := &Node{ID: id, Direct: direct, Address: clients, cluster: c, server: &server{
			name: fmt.Sprint("node ", id), output: filepath.Join(home, "output"), java: serverCommand(jars, heap, "kafka.Kafka", file),
		}}
		if o.Advertise != nil {
			n.Address = o.Advertise(id, clients)
		}
		place := Place{ID: id, Dir: filepath.Join(home, "data"), Controllers: controllers, Listeners: []Listener{
			{"DIRECT", "PLAINTEXT", direct, direct}, {"CLIENTS", o.Protocol, clients, n.Address},
		}}
		lines := slices.Concat(place.Properties(), small, security, o.Properties)
		if err := errors.Join(os.Mkdir(home, 0o700), os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600)); err != nil {
			t.Fatal(err)
		}
		if err := format(t, jars, file, place.Dir, c.ID, id, slices.Concat(o.scram(), o.Format)); err != nil {
			t.Fatal(err)
		}
		c.Nodes = append(c.Nodes, n)
	}
	return c
}

// Node is the one with a number, from 1.
func (c *Cluster) Node(id int) *Node { return c.Nodes[id-1] }

// Bootstrap is what clients are told to begin with: the addresses of Options.Advertise.
func (c *Cluster) Bootstrap() []string {
	var list []string
	for _, n := range c.Nodes {
		list = append(list, n.Address)
	}
	return list
}

// Direct are the addresses of all nodes that need no password and have nothing before them: for who judges.
func (c *Cluster) Direct() []string {
	var list []string
	for _, n := range c.Nodes {
		list = append(list, n.Direct)
	}
	return list
}

// Client is one that goes to the nodes directly. It is closed when the test ends.
func (c *Cluster) Client(t testing.TB, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(c.Direct()...)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// Create makes a topic, which must not be there, with as many replicas as there are nodes, at most three.
func (c *Cluster) Create(t testing.TB, topic string, partitions int32) {
	t.Helper()
	if _, err := kadm.NewClient(c.Client(t)).CreateTopic(t.Context(), partitions, int16(min(len(c.Nodes), 3)), nil, topic); err != nil {
		t.Fatal(err)
	}
}

// Topic makes a topic of a name that is no other's, and returns it: for a cluster that tests share.
func (c *Cluster) Topic(t testing.TB, partitions int32) string {
	t.Helper()
	name := fmt.Sprintf("topic-%016x", rand.Uint64())
	c.Create(t, name, partitions)
	return name
}

// Start starts all nodes that do not run, and returns when the cluster serves.
func (c *Cluster) Start(t testing.TB) {
	t.Helper()
	for _, n := range c.Nodes {
		if n.cmd == nil {
			if err := n.start(); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.Await(t)
}

// Kill ends all nodes as a power cut would, but that their page cache survives.
func (c *Cluster) Kill(t testing.TB) {
	t.Helper()
	if err := c.kill(); err != nil {
		t.Fatal(err)
	}
}

func (c *Cluster) kill() error {
	var list []error
	for _, n := range c.Nodes {
		list = append(list, n.end(os.Kill))
	}
	return errors.Join(list...)
}

// Await returns when the cluster serves: every node that runs knows of the others, and every partition that has a replica
// there has a leader. It ends the test when a node has ended by itself.
func (c *Cluster) Await(t testing.TB) {
	t.Helper()
	var running []int32
	for _, n := range c.Nodes {
		if n.cmd != nil {
			running = append(running, int32(n.ID))
		}
	}
	for _, n := range c.Nodes {
		if n.cmd == nil {
			continue
		}
		lane.Until(t, n.name+" serves", func(ctx context.Context) error {
			if err := n.alive(); err != nil {
				t.Fatal(err)
			}
			return n.serves(ctx, running)
		})
	}
}

// serves asks the node itself whether it is one of the running, and knows who leads.
func (n *Node) serves(ctx context.Context, running []int32) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(n.Direct), kgo.RequestRetries(0))
	if err != nil {
		return err
	}
	defer client.Close()
	known, err := kadm.NewClient(client).Metadata(ctx)
	if err != nil {
		return err
	}
	if have := known.Brokers.NodeIDs(); !slices.Equal(have, running) {
		return fmt.Errorf("it knows of the nodes %v, not of %v", have, running)
	}
	for _, topic := range known.Topics {
		for _, p := range topic.Partitions {
			lives := func(id int32) bool { return slices.Contains(running, id) }
			if slices.ContainsFunc(p.Replicas, lives) && !lives(p.Leader) {
				return fmt.Errorf("the leader of %s-%d is %d", p.Topic, p.Partition, p.Leader)
			}
		}
	}
	return nil
}
