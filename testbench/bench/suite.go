package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"millrace/bridge/mqtt/packet"
	"millrace/testbench/procfs"
)

// scenario is one of the Open MQTT Benchmark Suite (github.com/emqx/mqttbs), cut down from the 16 cores and 32 GB its
// results are of to two cores that clients and server share, and to the connections that 48 MiB have room for. What a
// message is (16 bytes, QoS 1, not retained) and what a client is (clean session, keep alive 300 s) are the suite's.
type scenario struct {
	name  string // the suite's, with our numbers
	of    string // the suite's own
	quick bool   // -quick has it too
	load  loadArgs
}

var scenarios = []scenario{
	{"fanout-1-500-1-25K", "fanout-5-1000-5-250K", true, loadArgs{
		Version: packet.V311, Publishers: 1, Subscribers: 500, Groups: 1, Topic: "fanout", Rate: 50, Window: 16,
	}},
	{"p2p-500-500-500-2K", "p2p-50K-50K-50K-50K", true, loadArgs{
		Version: packet.V311, Publishers: 500, Subscribers: 500, Groups: 500, Topic: "p2p", Rate: 2000, Window: 16,
	}},
	{"p2p-500-500-500 at full speed, 1 in flight", "", false, loadArgs{
		Version: packet.V311, Publishers: 500, Subscribers: 500, Groups: 500, Topic: "p2p", Window: 1,
	}},
	{"sharesub-1K-10-1K-2K", "sharesub-50K-500-50K-50K", true, loadArgs{
		Version: packet.V5, Share: true, Publishers: 1000, Subscribers: 10, Groups: 10, Topic: "test", Rate: 2000, Window: 16,
	}},
}

// suite is the suite's four scenarios. Every server starts anew for each.
func (b *bench) suite() error {
	if err := b.connTCP(); err != nil {
		return err
	}
	for _, sc := range scenarios {
		if b.quick && !sc.quick {
			continue
		}
		if err := b.scenario(sc); err != nil {
			return fmt.Errorf("%s: %w", sc.name, err)
		}
	}
	return nil
}

// settling is how long a server has after its start before its memory is looked at.
const settling = 2 * time.Second

// connTCP is conn-tcp: clients connect, as fast as they are taken and not at the suite's 5,000 a second, and stay.
func (b *bench) connTCP() error {
	n := either(b, 1900, 500)
	speed, cost, memory := newFigures("/s"), newFigures("CPU-ms each"), newFigures("KiB each")
	for range either(b, 3, 1) {
		for _, p := range b.named(us, "mosquitto", "nats") {
			s, err := b.serve(p, b.unpaced())
			if err != nil {
				return err
			}
			time.Sleep(settling)
			var r loadResult
			before, err := rss(s)
			if err == nil {
				err = b.child("load", loadArgs{Address: s.mqtt, PID: s.pid(), Name: "conn-", Version: packet.V311, Groups: 1, Publishers: n}, &r)
			}
			ends([]*server{s}, &err)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			speed.add(p.name, r.Connects)
			cost.add(p.name, r.Opening)
			memory.add(p.name, float64(r.After-before)/1024/float64(n))
		}
	}
	b.table.add("suite", fmt.Sprintf("conn-tcp-%d (of conn-tcp-1M-5K): connections made", n), speed.String(), "")
	b.table.add("suite", "the same, CPU", cost.String(), "")
	b.table.add("suite", "the same, RSS when all are there", memory.String(), "")
	return nil
}

// unpaced are options without a limit of connections a second, where millrace has one.
func (b *bench) unpaced() options {
	config := "[mqtt]\nmax_connection_rate = 0\n"
	if ok, err := b.accepts(config); err != nil || !ok {
		return options{}
	}
	return options{config: config}
}

func (b *bench) scenario(sc scenario) error {
	published, delivered := newFigures("/s"), newFigures("/s")
	p50, p99, cost, memory := newFigures("ms"), newFigures("ms"), newFigures("CPU-s per million delivered"), newFigures("MiB")
	how := ""
	out, alone := map[string]bool{}, map[string]bool{}
	for range either(b, 3, 1) {
		for _, p := range b.named(us, "mosquitto", "nats") {
			if out[p.name] {
				continue
			}
			s, err := b.serve(p, b.unpaced())
			if err != nil {
				return err
			}
			a := sc.load
			a.Address, a.PID, a.Name, a.Payload, a.Seconds = s.mqtt, s.pid(), "suite-", 16, either(b, 4.0, 1.0)
			if p.name == "nats" {
				a.Version = packet.V311 // it has nothing else
			}
			var r loadResult
			loading := b.child("load", a, &r)
			if loading != nil {
				loading = fmt.Errorf("%s: %w\n%s", p.name, loading, s.output())
			}
			if err := s.end(); err != nil {
				return err
			}
			if loading != nil && p.name == us {
				return loading
			}
			if loading != nil { // as in row 6
				b.say("%s: %v", sc.name, loading)
				out[p.name], how = true, how+"; "+p.name+" ends connections under it"
				continue
			}
			if r.Missing != 0 {
				b.say("%s, %s: %d messages were not delivered 30 s after the last", sc.name, p.name, r.Missing)
				how += fmt.Sprintf("; %s: %d messages undelivered after 30 s", p.name, r.Missing)
			}
			if sc.load.Share && !r.Shared {
				alone[p.name] = true
			}
			published.add(p.name, r.Published)
			delivered.add(p.name, r.Delivered)
			p50.add(p.name, r.P50)
			p99.add(p.name, r.P99)
			cost.add(p.name, r.CPU)
			memory.add(p.name, float64(r.Peak)/(1<<20))
		}
	}
	if len(alone) > 0 {
		how += "; not shared, each subscriber its own part of the topics: " + strings.Join(slices.Sorted(maps.Keys(alone)), ", ")
	}
	name := sc.name
	if sc.of != "" {
		name += " (of " + sc.of + ")"
	}
	b.table.add("suite", name+": delivered"+how, delivered.String(), "")
	if sc.load.Rate > 0 {
		b.table.add("suite", "the same, end to end p50", p50.String(), "")
		b.table.add("suite", "the same, end to end p99", p99.String(), "")
	} else {
		b.table.add("suite", "the same, acknowledged", published.String(), "")
	}
	b.table.add("suite", "the same, CPU", cost.String(), "")
	b.table.add("suite", "the same, RSS peak", memory.String(), "")
	return nil
}

// rss is the server's memory in bytes.
func rss(s *server) (int64, error) { return procfs.PID(s.pid()).RSS() }
