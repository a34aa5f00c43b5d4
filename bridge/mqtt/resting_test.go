package mqtt_test

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"

	"millrace/bridge/mqtt"
	"millrace/bridge/mqtt/mqtttest"
	"millrace/bridge/mqtt/packet"
	"millrace/broker/record"
)

// BenchmarkComeBack is a client of a thousand that comes, is told that it has a session, and goes: what a session that
// rests costs beside one that does not is in its allocations.
func BenchmarkComeBack(b *testing.B) {
	const clients = 1000
	log := new(mqtttest.Log)
	log.Produce("mqtt", 0, rec("so that there is a partition to have a place in"))
	s, err := mqtt.New(mqtt.Config{Log: log, AllowAnonymous: true})
	if err != nil {
		b.Fatal(err)
	}
	visit := func(i int, say ...packet.Packet) {
		here, there := net.Pipe()
		defer here.Close()
		s.ServeConn(there)
		id := fmt.Sprintf("device-%05d", i%clients)
		for _, p := range append([]packet.Packet{&packet.Connect{Version: packet.V311, ClientID: id}}, say...) {
			if _, err := here.Write(p.Append(nil, packet.V311)); err != nil {
				b.Fatal(err)
			}
			size := 4 // CONNACK
			if p.Type() == packet.SUBSCRIBE {
				size = 5
			}
			if _, err := io.ReadFull(here, make([]byte, size)); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := here.Write((&packet.Disconnect{}).Append(nil, packet.V311)); err != nil {
			b.Fatal(err)
		}
		if _, err := here.Read(make([]byte, 1)); err != io.EOF {
			b.Fatal(err)
		}
	}
	for i := range clients {
		visit(i, sub(1, fmt.Sprintf("cmd/device-%05d", i)))
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		visit(i)
	}
	b.StopTimer()
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}

// asleep has the log of a closed server hold so many durable sessions, device-00000 and on, each with the filters, in which
// {} is its client identifier.
func (w *world) asleep(sessions int, filters ...string) {
	w.t.Helper()
	fill := func(in, id string) string { return strings.ReplaceAll(in, "{}", id) }
	p := w.connect(packet.V311, "device-00000", keep)
	p.wants("connack 0x00")
	for _, f := range filters {
		p.send(sub(1, fill(f, "device-00000")))
		p.wants("suback 1 [0x01]")
	}
	p.bye()
	if err := w.s.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.s = nil
	written := w.log.Records("__mqtt_sessions")
	one := written[len(written)-1]
	var recs []record.Record
	for i := 1; i < sessions; i++ { // as one wrote it, all would
		r, id := one, fmt.Sprintf("device-%05d", i)
		r.Key, r.Value = []byte(id), []byte(strings.ReplaceAll(string(one.Value), "device-00000", id))
		if recs = append(recs, r); len(recs) == 500 || i == sessions-1 {
			w.log.Produce("__mqtt_sessions", 0, recs...)
			recs = nil
		}
	}
}

// The memory of sessions without a connection: the figures in the README.
func TestWhatAnOfflineSessionCosts(t *testing.T) {
	const sessions = 20_000
	cost := func(partitions int, filters ...string) (bytes int64) {
		story(t, func(w *world) {
			w.log.NumPartitions = partitions
			w.cfg.MaxSessions = sessions
			if partitions > 0 {
				if err := w.log.Ensure(t.Context(), "mqtt"); err != nil {
					t.Fatal(err)
				}
			}
			w.asleep(sessions, filters...)
			before := heap()
			w.server()
			bytes = (heap() - before) / sessions
			w.rests(sessions, 0)
			runtime.KeepAlive(w)
		})
		return bytes
	}
	own := cost(0)
	subscription := (cost(0, "cmd/{}", "cmd/{}/a", "cmd/{}/b", "cmd/{}/c") - own) / 4
	whole, four := cost(1, "cmd/{}"), cost(4, "cmd/{}")
	partition := (four - whole) / 3
	t.Logf("with an identifier of 12 bytes: %d bytes for a session, %d for a subscription of about 18, %d for a partition; "+
		"%d with one of each", own, subscription, partition, whole)
	for _, f := range []struct{ have, most int64 }{{own, 115}, {subscription, 35}, {partition, 30}, {whole, 175}} {
		if f.have > f.most || f.have < f.most/4 {
			t.Errorf("%d bytes, want %d at most", f.have, f.most)
		}
	}
}

// Twenty thousand sessions are there again after a restart, and go on where they were; none becomes a session for that.
func TestManySessionsRestAfterARestart(t *testing.T) {
	const sessions = 20_000
	story(t, func(w *world) {
		w.cfg.MaxSessions = sessions + 1
		w.log.Produce("mqtt", 0, rec("so that there is a partition to have a place in"))
		w.asleep(sessions, "cmd/{}")
		var m0, m1 runtime.MemStats
		runtime.ReadMemStats(&m0)
		w.server()
		runtime.ReadMemStats(&m1)
		t.Logf("%d bytes allocated for each of %d sessions on the way", int64(m1.TotalAlloc-m0.TotalAlloc)/sessions, sessions)
		w.rests(sessions, 0)
		w.connect(packet.V311, "p").send(pub("cmd/device-12345", "x", 1, 1)).wants("connack 0x00", "puback 1 0x00")
		w.connect(packet.V311, "device-12345", keep).wants("connack 0x00 present", `publish cmd/device-12345 "x" q1 id1`)
		w.connect(packet.V311, "device-19999", keep).wants("connack 0x00 present")
		w.rests(sessions-2, 3)
	})
}
