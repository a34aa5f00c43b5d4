package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/bridge/upstream"
	"millrace/broker"
	"millrace/testbench/procfs"
)

const (
	// linkName is the link of a Millrace that has one.
	linkName = "hq"
	// mirrorName is MirrorMaker 2 in the table; packed is one whose producer compresses.
	mirrorName, packedName = "mm2", "mm2 zstd"
	// drainMax is how long a backlog may take to be carried.
	drainMax = 4 * time.Minute
	// catchPartitions is over how many partitions the backlog of row 16 is spread.
	catchPartitions = 4
	// drawEvery is how often memory is looked at.
	drawEvery = 100 * time.Millisecond
)

// senML is a reading of a source as a climate sensor's in SenML: 200 bytes of JSON.
func senML(source int, n int64) []byte {
	return fmt.Appendf(nil, `[{"bn":"urn:dev:mac:0024befffe80%04x:","bt":%d.%03d,"n":"temperature","u":"Cel","v":%.2f},{"n":"humidity","u":"%%RH","v":%.2f},{"n":"pressure","u":"Pa","v":%d},{"n":"dewpoint","u":"Cel","v":%.2f}]`,
		source, 1_795_000_000+n/100, rand.IntN(1000), 18+10*rand.Float64(), 40+20*rand.Float64(), 100_000+rand.IntN(2000), 5+10*rand.Float64())
}

// linkTo is the configuration of a Millrace with a link for some topics.
func linkTo(address, topics string, settings ...string) string {
	return fmt.Sprintf("[[upstream]]\nname = %q\nbootstrap.servers = [%q]\ntopics = [%q]\n%s\n", linkName, address, topics, strings.Join(settings, "\n"))
}

// hub is the Apache Kafka that all is carried to, as it is shipped: it does not sync every append. Nil where there is none.
func (b *bench) hub() (*server, error) {
	if b.upstream != nil {
		return b.upstream, nil
	}
	for _, p := range b.named("kafka") {
		s, err := b.serve(p, options{config: "log.flush.interval.messages=9223372036854775807"})
		b.upstream = s
		return s, err
	}
	b.say("PEER SKIPPED: without Apache Kafka there is nothing upstream")
	return nil, nil
}

// data is a Millrace's directory.
func (s *server) data() string { return filepath.Join(s.dir, "data") }

// decide runs `millrace upstream pause` or `resume`.
func (s *server) decide(verb string) error {
	out, err := exec.CommandContext(s.bench.ctx, s.bench.binary, "upstream", verb, linkName, "--data", s.data()).CombinedOutput()
	if err != nil {
		return fmt.Errorf("upstream %s: %w\n%s", verb, err, out)
	}
	return nil
}

// link is how a Millrace's link is.
func (s *server) link() (is broker.LinkStatus, err error) {
	ctx, cancel := context.WithTimeout(s.bench.ctx, time.Minute)
	defer cancel()
	raw, err := broker.Ask(ctx, s.data(), "upstream")
	if err != nil {
		return is, err
	}
	var list []broker.LinkStatus
	if err := json.Unmarshal(raw, &list); err != nil {
		return is, err
	}
	if len(list) != 1 {
		return is, fmt.Errorf("%d links", len(list))
	}
	return list[0], nil
}

// delivered waits until the link has sent as many records in this life as are meant, and has nothing more.
func (s *server) delivered(records int64) (is broker.LinkStatus, err error) {
	return is, s.within(drainMax, func() (err error) {
		if is, err = s.link(); err == nil && (is.State != string(upstream.StateIdle) || is.Records != 0 || is.Sent < records) {
			err = fmt.Errorf("%d of %d records are delivered, %s %s", is.Sent, records, is.State, is.Reason)
		}
		return err
	})
}

// within tries every 20 ms, as long as the process lives.
func (s *server) within(most time.Duration, try func() error) error {
	for deadline := time.Now().Add(most); ; time.Sleep(20 * time.Millisecond) {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case exit := <-s.exited:
			s.exited <- exit
			return fmt.Errorf("%s ended: %w\n%s", s.peer.name, errors.Join(exit, err), s.output())
		case <-s.bench.ctx.Done():
			return errors.Join(s.bench.ctx.Err(), err)
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %v: %w\n%s", most, err, s.output())
		}
	}
}

// endOf is the ends of a topic's partitions together, or of those that are named; without the topic 0.
func (s *server) endOf(topic string, partitions ...int32) (total int64, err error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(s.kafka))
	if err != nil {
		return 0, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(s.bench.ctx, 10*time.Second)
	defer cancel()
	list, err := kadm.NewClient(client).ListEndOffsets(ctx, topic)
	if err != nil {
		return 0, err
	}
	list.Each(func(o kadm.ListedOffset) {
		if o.Err == nil && (partitions == nil || slices.Contains(partitions, o.Partition)) {
			total += o.Offset
		}
	})
	return total, nil
}

// mirror is MirrorMaker 2 as shipped, from a board to where a hub is reached, for one topic. What it keeps is kept once, as
// there is one node.
func (b *bench) mirror(board *server, hub, topic string, properties ...string) *peer {
	return &peer{name: mirrorName, command: func(s *server, _ bool) (*exec.Cmd, error) {
		lines := append([]string{
			"clusters=near,far", "near.bootstrap.servers=" + board.kafka, "far.bootstrap.servers=" + hub,
			"near->far.enabled=true", "near->far.topics=" + topic, "far->near.enabled=false", "far->near.emit.heartbeats.enabled=false",
			"replication.factor=1", "offset-syncs.topic.replication.factor=1", "heartbeats.topic.replication.factor=1", "checkpoints.topic.replication.factor=1",
			"offset.storage.replication.factor=1", "status.storage.replication.factor=1", "config.storage.replication.factor=1",
		}, properties...)
		file := filepath.Join(s.dir, "mm2.properties")
		if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			return nil, err
		}
		// What bin/connect-mirror-maker.sh sets.
		return exec.Command("java", "-Xms256m", "-Xmx2g", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35",
			"-XX:+ExplicitGCInvokesConcurrent", "-Djava.awt.headless=true", "-cp", filepath.Join(b.cache, "kafka", "*"), "org.apache.kafka.connect.mirror.MirrorMaker", file), nil
	}}
}

// carried is what it took to carry a backlog.
type carried struct {
	cpu, start time.Duration // of the process: while records came, and before the first
	seconds    float64       // while records came
	// rest is the resident memory of the process before, and most what there was at most; their Own is what of it is no page of
	// a program.
	rest, most, restOwn, mostOwn int64
}

// watch looks at a process's memory until stop is called, which returns the most there was.
func watch(pid procfs.PID) (stop func() (rss, anonymous int64, err error)) {
	done, ended := make(chan struct{}), make(chan struct{})
	var rss, anonymous int64
	var failed error
	go func() {
		defer close(ended)
		for tick := time.NewTicker(drawEvery); ; {
			r, err := pid.RSS()
			a, err2 := pid.Anonymous()
			rss, anonymous = max(rss, r), max(anonymous, a)
			if failed = errors.Join(err, err2); failed != nil {
				return
			}
			select {
			case <-tick.C:
			case <-done:
				tick.Stop()
				return
			}
		}
	}()
	return func() (int64, int64, error) {
		close(done)
		<-ended
		return rss, anonymous, failed
	}
}

// behind gives a board a backlog that its link has not carried, and starts it anew, so that its memory is that of a board at rest.
func (b *bench) behind(board *server, topic string, partitions, records int) error {
	if err := board.decide("pause"); err != nil {
		return err
	}
	if err := b.backlog(board, topic, partitions, records); err != nil {
		return err
	}
	if err := board.kill(); err != nil {
		return err
	}
	if err := board.start(); err != nil {
		return err
	}
	return board.await()
}

// backlog writes readings to a topic that is there.
func (b *bench) backlog(board *server, topic string, partitions, records int) error {
	var r produceResult
	return b.child("readings", produceArgs{board.kafka, topic, partitions, records, 0, 240 << 10}, &r)
}

// create makes a topic.
func (s *server) create(topic string, partitions int) error {
	k, err := connectKafka(s.kafka)
	if err != nil {
		return err
	}
	return errors.Join(k.create(topic, partitions), k.Close())
}

// rests is the least memory a process takes within two seconds.
func rests(pid procfs.PID) (rss, anonymous int64, err error) {
	rss, anonymous = math.MaxInt64, math.MaxInt64
	for range 20 {
		time.Sleep(drawEvery)
		r, err := pid.RSS()
		if err != nil {
			return 0, 0, err
		}
		a, err := pid.Anonymous()
		if err != nil {
			return 0, 0, err
		}
		rss, anonymous = min(rss, r), min(anonymous, a)
	}
	return rss, anonymous, nil
}

// drain lets a board carry what is behind, paused until now.
func (b *bench) drain(board *server, records int64) (c carried, is broker.LinkStatus, err error) {
	pid := procfs.PID(board.pid())
	if c.rest, c.restOwn, err = rests(pid); err != nil {
		return c, is, err
	}
	before, err := board.link()
	if err != nil {
		return c, is, err
	}
	stop := watch(pid)
	var begin time.Time
	c.cpu, err = board.cost(func() (err error) {
		if err = board.decide("resume"); err != nil {
			return err
		}
		err = board.within(drainMax, func() error { // as with MirrorMaker: it has connected, and its first records are there
			if is, err = board.link(); err == nil && is.Sent == before.Sent {
				err = errors.New("nothing is delivered")
			}
			return err
		})
		if begin = time.Now(); err != nil {
			return err
		}
		is, err = board.delivered(records)
		return err
	})
	c.seconds = time.Since(begin).Seconds()
	var failed error
	c.most, c.mostOwn, failed = stop()
	return c, is, errors.Join(err, failed)
}

// mirrored starts a MirrorMaker and waits until all is at the hub.
func (b *bench) mirrored(p *peer, hub *server, topic string, records int64) (c carried, err error) {
	s, err := b.place(p, "", options{})
	if err != nil {
		return c, err
	}
	if err := s.start(); err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	pid := procfs.PID(s.pid())
	come := func(least int64) func() error {
		return func() error {
			n, err := hub.endOf("near." + topic)
			if err == nil && n < least {
				err = fmt.Errorf("%d of %d records are mirrored", n, least)
			}
			return err
		}
	}
	if err := s.within(drainMax, come(1)); err != nil {
		return c, err
	}
	begin := time.Now()
	if c.start, err = pid.CPU(); err != nil {
		return c, err
	}
	if err := s.within(drainMax, come(records)); err != nil {
		return c, err
	}
	c.seconds = time.Since(begin).Seconds()
	whole, err := pid.CPU()
	c.cpu = whole - c.start
	if err == nil {
		c.most, err = pid.RSS()
	}
	return c, err
}

// catchUp is row 16: a backlog on a board, carried by its link, and by a MirrorMaker 2 that reads the same board; into the same
// Apache Kafka. That the board serves MirrorMaker costs the board, which is not counted.
func (b *bench) catchUp() (err error) {
	hub, err := b.hub()
	if hub == nil || err != nil {
		return err
	}
	rounds, records := either(b, 3, 1), either(b, 200_000, 100_000)
	speed, cost, started := newFigures("/s"), newFigures("CPU-s per million"), newFigures("CPU-s per million")
	const mib = 1 << 20
	memory, most, own := newFigures("MiB"), newFigures("MiB"), newFigures("MiB")
	for round := range rounds {
		topic := fmt.Sprint("catch", round)
		ours, theirs, err := b.catchRound(hub, topic, records)
		if err != nil {
			return err
		}
		b.say("millrace %+v, mm2 %+v", ours, theirs)
		if round == 0 && rounds > 1 {
			continue
		}
		million := float64(records) / 1e6
		for _, r := range []struct {
			name string
			carried
		}{{us, ours}, {mirrorName, theirs}} {
			if r.seconds == 0 {
				continue
			}
			speed.add(r.name, float64(records)/r.seconds)
			cost.add(r.name, r.cpu.Seconds()/million)
			started.add(r.name, (r.start+r.cpu).Seconds()/million)
		}
		memory.add(us, float64(ours.most-ours.rest)/mib)
		own.add(us, float64(ours.mostOwn-ours.restOwn)/mib)
		most.add(us, float64(ours.most)/mib)
		if theirs.most > 0 {
			most.add(mirrorName, float64(theirs.most)/mib)
		}
	}
	goals := []goal{atMost("CPU-s per million", cost.of(us), 20)}
	b.table.add("16", fmt.Sprintf("upstream: a backlog of %d readings of 200 B, CPU of one process", records), cost.String(),
		verdict(append(goals, cost.against(mirrorName, "CPU", 0.25, false)...)...))
	b.table.add("16", "the same, with MirrorMaker's start", started.String(), "")
	b.table.add("16", "the same, records", speed.String(), verdict(speed.against(mirrorName, "/s", 2, true)...))
	b.table.add("16", "the same, growth of the RSS over a board that has delivered 1,000", memory.String(), verdict(atMost("MiB", memory.of(us), 8)))
	b.table.add("16", "of it no pages of the program", own.String(), "")
	b.table.add("16", "the same, RSS", most.String(), "")
	return nil
}

func (b *bench) catchRound(hub *server, topic string, records int) (ours, theirs carried, err error) {
	board, err := b.serve(b.peers[0], options{config: linkTo(hub.kafka, topic)})
	if err != nil {
		return ours, theirs, err
	}
	defer func() { err = errors.Join(err, board.end()) }()
	if err := board.create(topic, catchPartitions); err != nil {
		return ours, theirs, err
	}
	if _, err := board.delivered(catchPartitions); err != nil { // and so it is made at the hub
		return ours, theirs, err
	}
	// What a board takes that has just delivered a little is what its memory grows from: the pages of the program are there.
	if err := b.behind(board, topic, catchPartitions, 1000); err != nil {
		return ours, theirs, err
	}
	if _, _, err := b.drain(board, 1000); err != nil {
		return ours, theirs, err
	}
	rest, own, err := rests(procfs.PID(board.pid()))
	if err != nil {
		return ours, theirs, err
	}
	if err := b.behind(board, topic, catchPartitions, records); err != nil {
		return ours, theirs, err
	}
	defer func() { ours.rest, ours.restOwn = rest, own }()
	if ours, _, err = b.drain(board, int64(records)); err != nil {
		return ours, theirs, err
	}
	if !b.quick { // it starts for longer than all the rest takes
		theirs, err = b.mirrored(b.mirror(board, hub.kafka, topic), hub, topic, int64(records))
	}
	return ours, theirs, err
}
