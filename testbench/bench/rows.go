package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"millrace/testbench/procfs"
)

// payload is n bytes that do not compress.
func payload(n int) ([]byte, error) {
	p := make([]byte, n)
	_, err := rand.NewChaCha8([32]byte{2}).Read(p)
	return p, err
}

// sizes is row 15: stripped binaries.
func (b *bench) sizes() error {
	var said []string
	var worst int64
	for _, arch := range []string{"arm", "arm64"} {
		to := filepath.Join(b.dir, "millrace-"+arch)
		if err := b.build(to, arch); err != nil {
			return err
		}
		info, err := os.Stat(to)
		if err != nil {
			return err
		}
		worst = max(worst, info.Size())
		said = append(said, fmt.Sprintf("%s %.1f", arch, float64(info.Size())/1e6))
		if err := os.Remove(to); err != nil {
			return err
		}
	}
	b.table.add("15", "binary, linux, stripped", strings.Join(said, ", ")+" MB", verdict(atMost("MB", float64(worst)/1e6, 20)))
	return nil
}

// idle is rows 3 and 13: nothing is asked of the servers, all at once.
func (b *bench) idle() (err error) {
	var servers []*server
	defer func() { ends(servers, &err) }()
	for _, p := range b.peers {
		s, err := b.serveShared(p)
		if err != nil {
			return err
		}
		servers = append(servers, s)
	}
	time.Sleep(either(b, 8*time.Second, 3*time.Second)) // starting is over
	span := either(b, 20*time.Second, 5*time.Second)
	load, wakes, memory := newFigures("%"), newFigures("/s"), newFigures("MiB")
	type reading struct {
		cpu  time.Duration
		wake int64
	}
	read := func(s *server) (r reading, err error) {
		if r.cpu, err = procfs.PID(s.pid()).CPU(); err != nil {
			return r, err
		}
		threads, err := procfs.PID(s.pid()).Switches()
		for _, n := range threads {
			r.wake += n
		}
		return r, err
	}
	before := make([]reading, len(servers))
	begin := time.Now()
	for i, s := range servers {
		if before[i], err = read(s); err != nil {
			return err
		}
	}
	time.Sleep(span)
	for i, s := range servers {
		after, err := read(s)
		if err != nil {
			return err
		}
		resident, err := procfs.PID(s.pid()).RSS()
		if err != nil {
			return err
		}
		took := time.Since(begin).Seconds()
		load.add(s.peer.name, 100*(after.cpu-before[i].cpu).Seconds()/took)
		wakes.add(s.peer.name, float64(after.wake-before[i].wake)/took)
		memory.add(s.peer.name, float64(resident)/(1<<20))
	}
	b.table.add("3", "idle RSS, both doors, nothing configured", memory.String(), verdict(atMost("MiB", memory.of(us), 16)))
	b.table.add("13", "idle CPU", load.String(), verdict(atMost("%", load.of(us), 0.2)))
	b.table.add("13", "idle wake-ups (context switches of all threads)", wakes.String(), verdict(atMost("/s", wakes.of(us), 5)))
	return nil
}

// puback is row 7: one MQTT client, one publish at a time, with a session that is away and wants them all (without one
// nats keeps nothing).
func (b *bench) puback() (err error) {
	rounds, n := either(b, 7, 3), either(b, 1000, 400)
	var servers []*server
	defer func() { ends(servers, &err) }()
	var clients []*publisher
	for _, p := range b.named(us, "nats", "mosquitto") {
		s, err := b.serve(p, options{})
		if err != nil {
			return err
		}
		servers = append(servers, s)
		away, err := connectMQTT(s.mqtt, "away", false)
		if err != nil {
			return err
		}
		if err := away.subscribe("bench/#"); err != nil {
			return err
		}
		if err := away.close(); err != nil {
			return err
		}
		c, err := connectMQTT(s.mqtt, "bench", true)
		if err != nil {
			return err
		}
		defer c.conn.Close()
		clients = append(clients, c)
	}
	value, err := payload(128)
	if err != nil {
		return err
	}
	p50, p99 := newFigures("µs"), newFigures("µs")
	for round := range rounds + 1 {
		for i, c := range clients {
			took := make([]time.Duration, n)
			for k := range took {
				if took[k], err = c.publish("bench/one", value); err != nil {
					return fmt.Errorf("publish to %s: %w", servers[i].peer.name, err)
				}
			}
			if round > 0 { // the first warms up
				p50.add(servers[i].peer.name, quantile(took, 0.5))
				p99.add(servers[i].peer.name, quantile(took, 0.99))
			}
		}
	}
	b.table.add("7", "PUBACK, one client, 128 B, p50 (mosquitto: not durable)", p50.String(), verdict(p50.against("nats", "p50", 0.6, false)...))
	b.table.add("7", "the same, p99", p99.String(), verdict(p99.against("nats", "p99", 1, false)...))
	return nil
}

// produceOne is row 9: one Kafka producer, one record at a time, acks=all.
func (b *bench) produceOne() (err error) {
	rounds, n := either(b, 7, 3), either(b, 800, 300)
	servers, conns, err := b.kafkaDoors("one", 1)
	defer func() { ends(servers, &err) }()
	if err != nil {
		return err
	}
	value, err := payload(1024)
	if err != nil {
		return err
	}
	batch, err := oneRecord(value)
	if err != nil {
		return err
	}
	p50, p99, cost := newFigures("µs"), newFigures("µs"), newFigures("CPU-s per million")
	for round := range rounds + 1 {
		for i, k := range conns {
			took := make([]time.Duration, n)
			spent, err := servers[i].cost(func() (err error) {
				for j := range took {
					if took[j], err = k.produce("one", 0, batch); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return fmt.Errorf("produce to %s: %w", servers[i].peer.name, err)
			}
			if round == 0 {
				continue
			}
			name := servers[i].peer.name
			p50.add(name, quantile(took, 0.5))
			p99.add(name, quantile(took, 0.99))
			cost.add(name, spent.Seconds()/float64(n)*1e6)
		}
	}
	b.table.add("9", "produce one at a time, acks=all, 1 KiB, p50", p50.String(), verdict(p50.against("kafka", "p50", 0.3, false)...))
	b.table.add("9", "the same, p99", p99.String(), "")
	b.table.add("9", "the same, CPU", cost.String(), "")
	return nil
}

// kafkaDoors starts the Kafka servers and makes a topic in each. The servers are returned with an error, too.
func (b *bench) kafkaDoors(topic string, partitions int) (servers []*server, conns []*kafkaConn, err error) {
	for _, p := range b.named(us, "kafka") {
		s, err := b.serveShared(p)
		if err != nil {
			return servers, conns, err
		}
		servers = append(servers, s)
		var k *kafkaConn
		if err := s.until(func() error {
			if k, err = connectKafka(s.kafka); err != nil {
				return err
			}
			return k.create(topic, partitions)
		}); err != nil {
			return servers, conns, err
		}
		conns = append(conns, k)
	}
	return servers, conns, nil
}

// produceBulk is row 8: franz-go, acks=all, records of 1 KiB in requests of at most 1 MiB over four partitions.
func (b *bench) produceBulk() (err error) {
	rounds, records := either(b, 5, 2), either(b, 192<<10, 48<<10)
	servers, _, err := b.kafkaDoors("bulk", 4)
	defer func() { ends(servers, &err) }()
	if err != nil {
		return err
	}
	cost, speed, memory := newFigures("CPU-s/GB"), newFigures("MB/s"), newFigures("MiB")
	for round := range rounds + 1 {
		for _, s := range servers {
			var r produceResult
			spent, err := s.cost(func() error {
				return b.child("produce", produceArgs{s.kafka, "bulk", 4, records, 1024, 240 << 10}, &r)
			})
			if err != nil {
				return err
			}
			if round == 0 {
				continue
			}
			resident, err := procfs.PID(s.pid()).RSS()
			if err != nil {
				return err
			}
			cost.add(s.peer.name, spent.Seconds()/float64(r.Bytes)*1e9)
			speed.add(s.peer.name, float64(r.Bytes)/r.Seconds/1e6)
			memory.add(s.peer.name, float64(resident)/(1<<20))
		}
	}
	b.table.add("8", "produce acks=all, 1 KiB batched, CPU", cost.String(),
		verdict(append([]goal{atMost("CPU-s/GB", cost.of(us), 2)}, cost.against("kafka", "CPU", 0.35, false)...)...))
	b.table.add("8", "the same, throughput", speed.String(), verdict(speed.against("kafka", "MB/s", 1.5, true)...))
	b.table.add("8", "the same, RSS after it", memory.String(), "")
	return nil
}

// fetch is row 10: consumers that read a topic from its beginning.
func (b *bench) fetch() (err error) {
	rounds, records := either(b, 5, 2), either(b, 320<<10, 64<<10)
	servers, _, err := b.kafkaDoors("read", 1)
	defer func() { ends(servers, &err) }()
	if err != nil {
		return err
	}
	for _, s := range servers {
		var r produceResult
		if err := b.child("produce", produceArgs{s.kafka, "read", 1, records, 1024, 240 << 10}, &r); err != nil {
			return err
		}
	}
	for _, consumers := range []int{1, 4} {
		cost, speed := newFigures("CPU-s/GB"), newFigures("MB/s")
		for round := range rounds + 1 {
			for _, s := range servers {
				var r fetchResult
				spent, err := s.cost(func() error {
					return b.child("fetch", fetchArgs{s.kafka, "read", 1, consumers}, &r)
				})
				if err != nil {
					return err
				}
				if r.Bytes < int64(records)*1024*int64(consumers) {
					return fmt.Errorf("%s gave %d bytes of %d records to %d consumers", s.peer.name, r.Bytes, records, consumers)
				}
				if round == 0 {
					continue
				}
				cost.add(s.peer.name, spent.Seconds()/float64(r.Bytes)*1e9)
				speed.add(s.peer.name, float64(r.Bytes)/r.Seconds/1e6)
			}
		}
		b.table.add("10", fmt.Sprintf("fetch, consumers: %d, CPU", consumers), cost.String(), verdict(cost.against("kafka", "CPU", 1, false)...))
		b.table.add("10", "the same, throughput", speed.String(), "")
	}
	return nil
}

var benchLine = regexp.MustCompile(`^Benchmark(\S+?)(?:-\d+)?\s+\d+\s+([\d.]+) ns/op.*?(\d+) allocs/op`)

// wheel is row 14: the benchmarks of broker/wheel, which has those of the runtime's timers beside it. Of several runs the
// quickest counts: what slows one down is the neighbours.
func (b *bench) wheel() error {
	cmd := exec.CommandContext(b.ctx, "go", "test", "-run", "^$", "-bench", ".*/.*/1000000$", "-benchmem",
		"-benchtime", either(b, "2000000x", "500000x"), "-count", either(b, "3", "1"), "./broker/wheel")
	cmd.Dir = b.repo
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	order, found, err := readBenchmarks(string(out))
	if err != nil {
		return err
	}
	if len(order) == 0 {
		return fmt.Errorf("no benchmark of a million entries in:\n%s", out)
	}
	for _, name := range order {
		what, ours := strings.CutPrefix(name, "Wheel/")
		if !ours {
			continue
		}
		figure := fmt.Sprintf("%.1f ns, %d allocations", found[name].ns, found[name].allocs)
		goals := []goal{atMost("ns", found[name].ns, 60), atMost("allocations", float64(found[name].allocs), 0)}
		if theirs, ok := found["Runtime/"+what]; ok {
			figure += fmt.Sprintf("; the runtime's timers %.1f ns, %d allocations (×%.2f)", theirs.ns, theirs.allocs, found[name].ns/theirs.ns)
			goals = append(goals, atMost("ns / runtime", found[name].ns/theirs.ns, 1))
		} else {
			goals = nil // a case of the wheel's own: timers due all over the wheel, each a cache miss
		}
		b.table.add("14", "wheel, "+what, figure, verdict(goals...))
	}
	return nil
}

// benchmark is the best of the runs of one.
type benchmark struct {
	ns     float64
	allocs int
}

// readBenchmarks reads what go test -bench -benchmem prints.
func readBenchmarks(out string) (order []string, found map[string]benchmark, err error) {
	found = map[string]benchmark{}
	for line := range strings.Lines(out) {
		m := benchLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		ns, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			return nil, nil, err
		}
		allocs, err := strconv.Atoi(m[3])
		if err != nil {
			return nil, nil, err
		}
		was, again := found[m[1]]
		if !again {
			order, was = append(order, m[1]), benchmark{ns, allocs}
		}
		found[m[1]] = benchmark{min(was.ns, ns), max(was.allocs, allocs)}
	}
	return order, found, nil
}
