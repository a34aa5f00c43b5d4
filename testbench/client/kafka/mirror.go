package kafka

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/testbench/client/drill"
	"millrace/testbench/lane"
	"millrace/testbench/procfs"
)

// Side is a cluster as MirrorMaker is told of it.
type Side struct {
	// Alias is its name, which goes before the topics that come from there.
	Alias string
	// Bootstrap is where MirrorMaker finds it.
	Bootstrap []string
	// Properties are lines of its clients, without the alias: "security.protocol=SSL".
	Properties []string
}

// Mirror is MirrorMaker 2 as a process of its own.
type Mirror struct {
	server   *server
	from, to Side
}

// quick has MirrorMaker notice, note and tell everything within a second, keep its own topics once, and not look for
// connectors in every class.
var quick = []string{
	"plugin.discovery=service_load", "tasks.max=1", "replication.factor=1",
	"refresh.topics.interval.seconds=1", "refresh.groups.interval.seconds=1", "sync.topic.configs.interval.seconds=1",
	"emit.heartbeats.interval.seconds=1", "emit.checkpoints.interval.seconds=1", "sync.group.offsets.interval.seconds=1",
	"offset.flush.interval.ms=1000", "offset.lag.max=0",
	"offset-syncs.topic.replication.factor=1", "heartbeats.topic.replication.factor=1", "checkpoints.topic.replication.factor=1",
	"offset.storage.replication.factor=1", "status.storage.replication.factor=1", "config.storage.replication.factor=1",
	"scheduled.rebalance.max.delay.ms=0", "session.timeout.ms=6000", "heartbeat.interval.ms=1000",
}

// StartMirrorMaker starts a MirrorMaker that mirrors one way, and writes nothing to where it reads but what it must, with lines of its properties that come last ("up->down.topics=a.*",
// "replication.policy.class=..."), and returns when its connectors run. It is killed when the test ends.
func StartMirrorMaker(t testing.TB, from, to Side, properties ...string) *Mirror {
	t.Helper()
	jars, dir := Jars(t), t.TempDir()
	lines := []string{
		"clusters=" + from.Alias + "," + to.Alias,
		from.Alias + "->" + to.Alias + ".enabled=true", to.Alias + "->" + from.Alias + ".enabled=false",
		to.Alias + "->" + from.Alias + ".emit.heartbeats.enabled=false",
	}
	for _, side := range []Side{from, to} {
		lines = append(lines, side.Alias+".bootstrap.servers="+strings.Join(side.Bootstrap, ","))
		for _, l := range side.Properties {
			lines = append(lines, side.Alias+"."+l)
		}
	}
	file := filepath.Join(dir, "mm2.properties")
	if err := os.WriteFile(file, []byte(strings.Join(slices.Concat(lines, quick, properties), "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := &Mirror{from: from, to: to, server: &server{
		name: "MirrorMaker", output: filepath.Join(dir, "output"),
		java: serverCommand(jars, "256m", "org.apache.kafka.connect.mirror.MirrorMaker", file),
	}}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("MirrorMaker said last:\n%s", m.server.tail())
		}
		if err := m.server.end(os.Kill); err != nil {
			t.Error(err)
		}
	})
	m.Start(t)
	return m
}

// PID is the process as the kernel shows it: its memory, its CPU time. It must run.
func (m *Mirror) PID() procfs.PID { return procfs.PID(m.server.cmd.Process.Pid) }

// Start starts it, after Kill or Stop again, and returns when its connectors run.
func (m *Mirror) Start(t testing.TB) {
	t.Helper()
	begin := time.Now()
	if err := m.server.start(); err != nil {
		t.Fatal(err)
	}
	lane.Until(t, "MirrorMaker mirrors", func(ctx context.Context) error {
		if err := m.server.alive(); err != nil {
			t.Fatal(err)
		}
		return m.runs(ctx, begin)
	})
}

// Kill ends it as a crash would.
func (m *Mirror) Kill(t testing.TB) {
	t.Helper()
	if err := m.server.end(os.Kill); err != nil {
		t.Fatal(err)
	}
}

// Stop ends it as its operator does.
func (m *Mirror) Stop(t testing.TB) {
	t.Helper()
	if err := m.server.end(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}

// Alive is an error when it does not run, with what it said last when it has ended by itself.
func (m *Mirror) Alive() error { return m.server.alive() }

// connectors are those of a MirrorMaker.
var connectors = []string{"MirrorSourceConnector", "MirrorCheckpointConnector", "MirrorHeartbeatConnector"}

// runs asks the topic in which Connect keeps what its connectors and tasks do: all connectors were started since, and no
// task of theirs has failed.
func (m *Mirror) runs(ctx context.Context, since time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second) // while a topic is made it may not answer
	defer cancel()
	records, err := drill.Committed(ctx, []string{"mm2-status." + m.from.Alias + ".internal"}, kgo.SeedBrokers(m.to.Bootstrap...))
	if err != nil {
		return err
	}
	running := map[string]bool{}
	failed := map[string]error{}
	for _, r := range records { // the last of a key counts
		var is struct{ State, Trace string }
		if r.Value != nil {
			if err := json.Unmarshal(r.Value, &is); err != nil {
				return fmt.Errorf("%.200q: %w", r.Value, err)
			}
		}
		key := string(r.Key)
		name := strings.TrimPrefix(key, "status-connector-")
		running[name] = is.State == "RUNNING" && r.Timestamp >= since.UnixMilli()
		failed[key] = nil
		if is.State == "FAILED" && r.Timestamp >= since.UnixMilli() {
			failed[key] = fmt.Errorf("%s: %.1000s", key, is.Trace)
		}
	}
	for _, err := range failed {
		if err != nil {
			return err
		}
	}
	for _, c := range connectors {
		if !running[c] {
			return errors.New(c + " does not run")
		}
	}
	return nil
}

//go:embed Remote.java
var remoteJava string

// Seen is what MirrorMaker's tools see of a cluster that another one is mirrored from.
type Seen struct {
	// Clusters are, by the replication policy, all clusters upstream, and Hops how many hops away the one asked for is, -1: it is not.
	Clusters map[string][]string
	Hops     map[string]int
	// Source, Target and At (ms) are of its last heartbeat.
	Source, Target string
	At             int64
	// Key and Value are, in hex, what MirrorMaker makes of Heartbeat("shed-7", "hq", 1700000000123).
	Key, Value string
}

// See asks RemoteClusterUtils at a server for a cluster, by each of MirrorMaker's replication policies.
func See(t testing.TB, server, alias string) Seen {
	t.Helper()
	policies := []string{"DefaultReplicationPolicy", "IdentityReplicationPolicy"}
	cmd := Program(t, "Remote.java", remoteJava, append([]string{server, alias}, policies...)...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, complaints(err))
	}
	s := Seen{Clusters: map[string][]string{}, Hops: map[string]int{}}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != len(policies)+3 {
		t.Fatalf("it said\n%s", out)
	}
	for _, line := range lines[:len(policies)] {
		name, rest, _ := strings.Cut(line, " ")
		list, hops, _ := strings.Cut(rest, " ")
		s.Clusters[name] = strings.Split(list, ",")
		if s.Hops[name], err = strconv.Atoi(hops); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
	}
	if _, err := fmt.Sscan(lines[len(policies)], &s.Source, &s.Target, &s.At); err != nil {
		t.Fatalf("it said\n%s", out)
	}
	s.Key, s.Value = lines[len(policies)+1], lines[len(policies)+2]
	return s
}

// complaints is what a program wrote to its standard error.
func complaints(err error) []byte {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.Stderr
	}
	return nil
}
