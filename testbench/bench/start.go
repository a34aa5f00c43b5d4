package main

import (
	"errors"
	"time"

	"millrace/testbench/procfs"
)

// started is what one start took.
type started struct {
	wall, cpu time.Duration
}

// timeStart starts the process and asks again and again until the first record is acknowledged.
func (s *server) timeStart(first func() error) (started, error) {
	begin := time.Now()
	if err := s.start(); err != nil {
		return started{}, err
	}
	if err := s.until(first); err != nil {
		return started{}, err
	}
	wall := time.Since(begin)
	spent, err := procfs.PID(s.pid()).CPU()
	return started{wall, spent}, err
}

// firstPublish is a first record through the MQTT door.
func (s *server) firstPublish() error {
	p, err := connectMQTT(s.mqtt, "first", true)
	if err != nil {
		return err
	}
	_, err = p.publish("bench/first", []byte("x"))
	return errors.Join(err, p.conn.Close())
}

// firstProduce is a first record through the Kafka door, into a topic that is there.
func (s *server) firstProduce(topic string) error {
	k, err := connectKafka(s.kafka)
	if err != nil {
		return err
	}
	batch, err := oneRecord([]byte("x"))
	if err == nil {
		_, err = k.produce(topic, 0, batch)
	}
	return errors.Join(err, k.Close())
}

// start is row 12: from the start of the process to the first acknowledged record, in an empty directory and over a lot
// of data after kill -9. The data is in the page cache: what is compared is what a server does with it.
func (b *bench) start() error {
	empty := newFigures("ms")
	for range either(b, 5, 2) {
		for _, p := range b.named(us, "mosquitto", "nats") {
			s, err := b.place(p, "", options{})
			if err != nil {
				return err
			}
			took, err := s.timeStart(s.firstPublish)
			if err := errors.Join(err, s.end()); err != nil {
				return err
			}
			empty.add(p.name, took.wall.Seconds()*1e3)
		}
	}
	b.table.add("12", "start in an empty directory to the first PUBACK", empty.String(), verdict(atMost("ms", empty.of(us), 100)))
	return b.restart()
}

func (b *bench) restart() (err error) {
	records := either(b, 1<<20, 128<<10) // of 1 KiB
	servers, _, err := b.kafkaDoors("bulk", 4)
	defer func() { ends(servers, &err) }()
	if err != nil {
		return err
	}
	wall, spent := newFigures("ms"), newFigures("CPU-s")
	for _, s := range servers {
		var r produceResult
		if err := b.child("produce", produceArgs{s.kafka, "bulk", 4, records, 1024, 240 << 10}, &r); err != nil {
			return err
		}
	}
	for round := range either(b, 5, 2) {
		for _, s := range servers {
			if s.peer.name == "kafka" && round > 0 {
				continue // it takes so long that once is enough
			}
			if err := s.kill(); err != nil {
				return err
			}
			took, err := s.timeStart(func() error { return s.firstProduce("bulk") })
			if err != nil {
				return err
			}
			wall.add(s.peer.name, took.wall.Seconds()*1e3)
			spent.add(s.peer.name, took.cpu.Seconds())
		}
	}
	what := either(b, "1 GiB", "128 MiB")
	b.table.add("12", "start after kill -9 over "+what+" to the first produce answer", wall.String(), verdict(atMost("ms", wall.of(us), 300)))
	b.table.add("12", "the same, CPU", spent.String(), verdict(atMost("CPU-s", spent.of(us), 0.2)))
	return nil
}
