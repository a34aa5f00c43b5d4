package broker

import (
	"testing"

	"millrace/broker/budget"
)

// On a board that is left alone (memory.limit 48 MiB, of which the program's own pages take 17.5) 2,000 MQTT clients with
// two subscriptions each have room, and whatever stays takes nothing of what passes.
func TestADefaultBoardHasRoomForTwoThousandClients(t *testing.T) {
	m, err := divide(53<<19, 0)
	if err != nil {
		t.Fatal(err)
	}
	const (
		connection = 6 << 10
		session    = 768 + 2*12 + 2*(320+2*12)
	)
	for i := range 2000 {
		if !m.connections.TryAcquire(connection) || !m.state.TryAcquire(session) {
			t.Fatalf("no room for client %d", i+1)
		}
	}
	for m.connections.TryAcquire(connection) || m.state.TryAcquire(session) || m.groups.TryAcquire(1<<10) {
	}
	for _, s := range []*budget.Share{
		m.bodies, m.copies, m.waiting, m.gathering, m.answers, m.sessions, m.mqtt, m.reading, m.readingSmall, m.output, m.http,
	} {
		if s.Size() == 0 || !s.TryAcquire(s.Size()) {
			t.Errorf("%s has not its %d bytes", s.Name(), s.Size())
		}
	}
	var least int64
	for _, g := range m.budget.Gauges() {
		least += g.Used
	}
	if total := m.budget.Total(); least > total {
		t.Errorf("%d of %d bytes are given away", least, total)
	}
}

func TestTheLargestOfEachKindHasRoom(t *testing.T) {
	for _, mib := range []int64{8, 12, 26, 100, 1000} {
		m, err := divide(mib<<20, 0)
		if err != nil {
			t.Fatal(err)
		}
		if m.bodies.Size() < 5<<18 {
			t.Errorf("%d MiB: a batch of max.message.bytes has no room in %d bytes", mib, m.bodies.Size())
		}
		if packet := int64(1000 << 10); mib >= 26 && (m.reading.Size() < packet || m.mqtt.Size() < packet+256) {
			t.Errorf("%d MiB: a packet of max_packet_size has no room", mib)
		}
	}
}

// Links have room for a transaction of each lane at once, whatever clients have taken; a board without links keeps none for them.
func TestLinksHaveRoom(t *testing.T) {
	for _, tt := range []struct {
		mib   int64
		lanes int
	}{{8, 1}, {8, 2}, {26, 1}, {26, 2}, {26, 16}, {1000, 16}} {
		m, err := divide(tt.mib<<20, tt.lanes)
		if err != nil {
			t.Fatal(err)
		}
		for m.connections.TryAcquire(6<<10) || m.state.TryAcquire(1<<10) || m.bodies.TryAcquire(1<<10) {
		}
		n := m.transactionBytes(tt.lanes)
		if n < laneTransaction || n > laneTransactionMax {
			t.Errorf("%+v: transactions of %d bytes", tt, n)
		}
		for range tt.lanes {
			if !m.upstream.TryAcquire(int64(laneCost * n)) {
				t.Errorf("%+v: no room for transactions of %d bytes in %d", tt, n, m.upstream.Size())
			}
		}
	}
	m, err := divide(26<<20, 0)
	if err != nil {
		t.Fatal(err)
	}
	if n := m.transactionBytes(1); m.upstream.Size() != 0 || n < laneTransaction || !m.upstream.TryAcquire(int64(laneCost*n)) {
		t.Errorf("without links they have %d bytes, and one that comes later has transactions of %d", m.upstream.Size(), n)
	}
}
