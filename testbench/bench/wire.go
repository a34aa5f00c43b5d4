package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/testbench/badlink"
)

// onTheWire is row 17: bytes both ways, as a proxy before the Apache Kafka counts them, for each byte of values.
func (b *bench) onTheWire() (err error) {
	hub, err := b.hub()
	if hub == nil || err != nil {
		return err
	}
	way, err := badlink.Open(hub.counted, hub.http, 1)
	if err != nil {
		return err
	}
	defer way.Close()
	passed := func() int64 { is := way.Stats(); return is.Up + is.Down }
	records := either(b, 200_000, 50_000)
	board, err := b.serve(b.peers[0], options{config: linkTo(way.Addr, "wire*")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, board.end()) }()
	if err := board.create("wire", catchPartitions); err != nil {
		return err
	}
	if _, err := board.delivered(catchPartitions); err != nil {
		return err
	}
	if err := b.behind(board, "wire", catchPartitions, records); err != nil {
		return err
	}
	payload := float64(records * len(senML(0, 0)))
	bytes := newFigures("bytes per payload byte")
	before := passed()
	_, is, err := b.drain(board, int64(records))
	if err != nil {
		return err
	}
	bytes.add(us, float64(passed()-before)/payload)
	b.say("millrace %.4g", bytes.of(us))
	for _, m := range []struct {
		name       string
		properties []string
	}{{mirrorName, nil}, {packedName, []string{"far.producer.compression.type=zstd"}}} {
		if b.quick {
			break
		}
		before := passed()
		if _, err := b.mirrored(b.mirror(board, way.Addr, "wire", m.properties...), hub, "wire", int64(records)); err != nil {
			return err
		}
		bytes.add(m.name, float64(passed()-before)/payload)
		b.say("%s %.4g", m.name, bytes.of(m.name))
		if err := hub.forget("near.wire"); err != nil {
			return err
		}
	}
	b.table.add("17", fmt.Sprintf("upstream: bytes on the wire, both ways, a backlog of %d readings of 200 B (the link itself counts %.3f)", records, float64(is.WireSent+is.WireReceived)/payload),
		bytes.String(), verdict(atMost("bytes per byte", bytes.of(us), 0.25)))
	for _, linger := range []time.Duration{200 * time.Millisecond, either(b, 20*time.Second, 5*time.Second)} {
		if err := b.trickle(way, linger); err != nil {
			return err
		}
	}
	return nil
}

// trickle is row 17 for a link that is not behind, and gathers records for so long: as many sources as partitions, each of which says something every second.
func (b *bench) trickle(way *badlink.Link, linger time.Duration) (err error) {
	const sources = 50
	seconds := either(b, 20, 5)
	topic := fmt.Sprint("trickle", linger.Milliseconds())
	board, err := b.serve(b.peers[0], options{config: linkTo(way.Addr, topic, fmt.Sprint("linger.ms = ", linger.Milliseconds()))})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, board.end()) }()
	k, err := connectKafka(board.kafka)
	if err != nil {
		return err
	}
	defer k.Close()
	if err := k.create(topic, sources); err != nil {
		return err
	}
	before, err := board.delivered(sources)
	if err != nil {
		return err
	}
	var payload int64
	begin := time.Now()
	for n := range seconds {
		time.Sleep(time.Until(begin.Add(time.Duration(n) * time.Second)))
		for source := range sources {
			value := senML(source, int64(n))
			batch, err := oneRecord(value)
			if err == nil {
				_, err = k.produce(topic, int32(source), batch)
			}
			if err != nil {
				return err
			}
			payload += int64(len(value))
		}
	}
	after, err := board.delivered(int64(sources * (seconds + 1)))
	if err != nil {
		return err
	}
	n := after.Transactions - before.Transactions
	b.table.add("17", fmt.Sprintf("upstream: the same, a link that is not behind: %d partitions, a reading each second of each, linger.ms %d (%d transactions in %d s)", sources, linger.Milliseconds(), n, seconds),
		fmt.Sprintf("%s %.3g up, %.3g down", us, float64(after.WireSent-before.WireSent)/float64(payload), float64(after.WireReceived-before.WireReceived)/float64(payload)), "")
	return nil
}

// forget deletes a topic.
func (s *server) forget(topic string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(s.kafka))
	if err != nil {
		return err
	}
	defer client.Close()
	list, err := kadm.NewClient(client).DeleteTopics(s.bench.ctx, topic)
	if err != nil {
		return err
	}
	return list.Error()
}
