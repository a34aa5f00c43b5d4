package hostile

import (
	"bytes"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/testbench/process"
)

var seed = flag.Uint64("hostile.seed", 0, "seed of the half packets; 0: a new one")

// TestHalfPackets: a hundred peers hold parts of MQTT packets and begin again whenever they are cut off, while an honest
// client publishes 64 KiB at a time.
func TestHalfPackets(t *testing.T) {
	s := *seed
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("-hostile.seed=%d", s)
	const (
		peers  = 100
		during = 8 * time.Second
		most   = 5 * time.Second // for one honest publish
	)
	p := process.Start(t, "")
	attacking, stop := context.WithCancel(t.Context())
	defer stop()
	var attackers sync.WaitGroup
	var begun, cut atomic.Int64
	for i := range peers {
		attackers.Go(func() {
			random := rand.New(rand.NewPCG(s, uint64(i)))
			for n := 0; attacking.Err() == nil; n++ {
				begun.Add(1)
				if holdHalf(attacking, p.MQTT, fmt.Sprintf("half-%d-%d", i, n), random) {
					cut.Add(1)
				}
			}
		})
	}
	var worst time.Duration
	published := 0
	c := dial(t, p.MQTT)
	if _, err := c.Write(mqttConnect("honest", 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(during); time.Now().Before(end) || published < 10; published++ {
		began := time.Now()
		if err := c.SetDeadline(began.Add(most)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(publish(uint16(published+1), "honest", bytes.Repeat([]byte{byte(published)}, 64<<10-100))); err != nil {
			t.Fatalf("publish %d after %v: %v", published, time.Since(began), err)
		}
		var ack [4]byte
		if _, err := io.ReadFull(c, ack[:]); err != nil || ack[0] != 0x40 || binary.BigEndian.Uint16(ack[2:]) != uint16(published+1) {
			t.Fatalf("publish %d after %v: %x, %v", published, time.Since(began), ack, err)
		}
		worst = max(worst, time.Since(began))
	}
	stop()
	attackers.Wait()
	t.Logf("%d publishes of 64 KiB, the slowest took %v; %d half packets begun, %d cut off", published, worst.Round(time.Millisecond), begun.Load(), cut.Load())
	if cut.Load() == 0 {
		t.Error("no half packet was cut off: nobody was in anybody's way")
	}
}

// publish is a QoS 1 PUBLISH.
func publish(id uint16, topic string, payload []byte) []byte {
	return mqttPacket(0x32, append(binary.BigEndian.AppendUint16(mqttString(topic), id), payload...))
}

// holdHalf sends a part of a packet, most of the time a large one, and holds the connection until the broker ends it,
// which it reports, or ctx does.
func holdHalf(ctx context.Context, address, id string, random *rand.Rand) (cut bool) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return false
	}
	defer c.Close() //nolint:errcheck // it has served
	defer context.AfterFunc(ctx, func() { c.Close() })()
	size := 900 << 10
	if random.IntN(4) == 0 {
		size = 5<<10 + random.IntN(58<<10)
	}
	whole := publish(1, "half", make([]byte, size))
	part := whole[:len(whole)/4+random.IntN(len(whole)/2)]
	if _, err := c.Write(append(mqttConnect(id, 0), part...)); err == nil {
		_, err = io.Copy(io.Discard, c)
		cut = err == nil
	}
	return cut || ctx.Err() == nil
}
