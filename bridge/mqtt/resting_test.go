package mqtt_test

import (
	"fmt"
	"io"
	"net"
	"testing"

	"millrace/bridge/mqtt"
	"millrace/bridge/mqtt/mqtttest"
	"millrace/bridge/mqtt/packet"
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
