package main

import (
	"errors"
	"fmt"
	"sync"

	"millrace/bridge/mqtt/packet"
)

// publishClients and publishSize are row 6's.
const publishClients, publishSize = 1000, 128

// publishMany is row 6: a thousand sensors that publish with QoS 1 as fast as they are acknowledged, and a session that is
// away and wants it all, as in row 7. mochi with pebble, the goals' third peer, is not a program one can start: it is
// not measured.
func (b *bench) publishMany() (err error) {
	rounds, seconds := either(b, 5, 2), either(b, 4.0, 1.0)
	var servers []*server
	defer func() { ends(servers, &err) }()
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
	}
	for _, window := range []int{1, 8} {
		if err := b.publishWindow(servers, window, rounds, seconds); err != nil {
			return err
		}
	}
	return nil
}

// publishWindow is row 6 with so many messages in flight of each client.
func (b *bench) publishWindow(servers []*server, window, rounds int, seconds float64) error {
	speed, cost, memory := newFigures("/s"), newFigures("CPU-s per million"), newFigures("MiB")
	p99 := newFigures("ms")
	out := map[string]bool{}
	note := ""
	for round := range rounds + 1 {
		for _, s := range servers {
			name := s.peer.name
			if out[name] {
				continue
			}
			var r loadResult
			if err := b.child("load", loadArgs{
				Address: s.mqtt, PID: s.pid(), Name: fmt.Sprintf("sensor-%d-%d-", window, round), Version: packet.V311, Groups: 1,
				Publishers: publishClients, Topic: "bench", Payload: publishSize, Window: window, Seconds: seconds,
			}, &r); err != nil {
				if name == us {
					return fmt.Errorf("%w\n%s", err, s.output())
				}
				// nats ends the connection of a client whose message JetStream has not stored within 5 s.
				b.say("row 6 without %s, %d in flight: %v\n%s", name, window, err, s.output())
				out[name], note = true, note+"; "+name+" ends connections under it"
				continue
			}
			if round == 0 {
				continue
			}
			speed.add(name, r.Published)
			cost.add(name, r.CPU)
			memory.add(name, float64(r.Peak)/(1<<20))
			p99.add(name, r.AckP99)
		}
	}
	b.table.add("6", fmt.Sprintf("publish QoS 1, %d clients, %d B, %d in flight of each (mosquitto: not durable)%s", publishClients, publishSize, window, note),
		speed.String(), verdict(speed.against("nats", "/s", 8, true)...))
	b.table.add("6", "the same, CPU", cost.String(), verdict(atMost("CPU-s per million", cost.of(us), 20)))
	b.table.add("6", "the same, PUBACK p99", p99.String(), "")
	b.table.add("6", "the same, RSS peak", memory.String(), verdict(atMost("MiB", memory.of(us), 48)))
	return nil
}

// idlers is how many clients row 4 connects; nats refuses more than 1,000 subscriptions with QoS 1. limitTLS is the
// memory.limit that has room for them with TLS: a TLS connection is booked as seven without.
const (
	idlers     = 2000
	idlersNATS = 480
	limitTLS   = "[memory]\nlimit = \"256MiB\"\n"
)

// idleClients is row 4: clients with two subscriptions that say nothing, over TCP and over TLS.
func (b *bench) idleClients() error {
	if err := b.idleOver("two subscriptions", nil); err != nil {
		return err
	}
	p, err := b.newPair()
	if err != nil {
		return err
	}
	ok, err := b.accepts(limitTLS + tlsConfig("127.0.0.1:0", p))
	if err != nil {
		return err
	}
	if !ok {
		b.say("row 4 without TLS: this millrace has no tls:// listener at its MQTT door")
		return nil
	}
	return b.idleOver("two subscriptions, TLS", p)
}

// idleOver measures all servers at the same time: an idle client is one that has said nothing for a while, and Go's
// collector runs at the latest after two minutes.
func (b *bench) idleOver(what string, p *pair) (err error) {
	n := either(b, idlers, 500)
	memory, cost := newFigures("KiB"), newFigures("CPU-ms for each that comes")
	var servers []*server
	defer func() { ends(servers, &err) }()
	for _, peer := range b.named(us, "mosquitto", "nats") {
		o := options{tls: p}
		if p != nil {
			o.config = limitTLS
		}
		s, err := b.serve(peer, o)
		if err != nil {
			return err
		}
		servers = append(servers, s)
	}
	results, errs := make([]idleResult, len(servers)), make([]error, len(servers))
	var all sync.WaitGroup
	for i, s := range servers {
		all.Go(func() {
			most := n
			if s.peer.name == "nats" {
				most = min(n, idlersNATS)
			}
			errs[i] = b.child("idle", idleArgs{s.mqtt, s.pid(), most, p != nil, either(b, 135.0, 3.0)}, &results[i])
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for i, s := range servers {
		memory.add(s.peer.name, float64(results[i].Each)/1024)
		cost.add(s.peer.name, results[i].CPU)
	}
	goals := []goal{atMost("KiB", memory.of(us), 8)}
	if p != nil {
		goals = nil
	}
	b.table.add("4", fmt.Sprintf("RSS for each idle MQTT client, %d (nats %d), %s", n, min(n, idlersNATS), what), memory.String(), verdict(goals...))
	b.table.add("4", "the same, CPU", cost.String(), "")
	return nil
}
