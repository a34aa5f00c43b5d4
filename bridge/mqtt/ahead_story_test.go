package mqtt_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/mqtt"
	"millrace/bridge/mqtt/mqtttest"
	"millrace/bridge/mqtt/packet"
)

// Pings while the disk takes nothing.

// fullDisk is a log that takes nothing more until it is released, and a client one of whose publishes fills the memory for what
// waits for it.
func (w *world) fullDisk(v packet.Version) *peer {
	w.t.Helper()
	first := pub("t", "first", 1, 1)
	w.cfg.Inflight = share(w.t, int64(len(first.Append(nil, packet.V5)))+mqtt.PublishCost)
	p := w.connect(v, "p", func(c *packet.Connect) { c.KeepAlive = 10 })
	p.send(pub("t", "0", 1, 9)) // makes the topic
	p.wants("connack 0x00", "puback 9 0x00")
	w.log.Hold()
	p.send(first)
	p.wants()
	return p
}

// Every ping is answered within a second, for as long as it takes, and once [MQTT-3.12.4-1]; no keep alive ends a client that
// waits for us. What waits is acknowledged when it is durable, and in order.
func TestPingsAreAnsweredWhileAPublishWaits(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		p := w.fullDisk(v)
		for _, waits := range []*packet.Publish{pub("t", "a", 0, 0), pub("t", "b", 0, 0), pub("t", "c", 1, 2), pub("t", "d", 1, 3)} {
			p.post(waits)
		}
		for range 100 {
			p.post(&packet.Ping{})
			time.Sleep(time.Second)
			p.wants("pingresp")
			time.Sleep(9 * time.Second)
		}
		time.Sleep(time.Minute) // of silence, of which a keep alive knows nothing
		p.wants()
		if got := w.stored(); got != "0" {
			w.t.Errorf("the log has %q", got)
		}
		w.log.Release()
		p.wants("puback 1 0x00", "puback 2 0x00", "puback 3 0x00")
		if got := w.stored(); got != "0 first a b c d" {
			w.t.Errorf("the log has %q", got)
		}
		p.post(&packet.Ping{})
		p.wants("pingresp")
		time.Sleep(15 * time.Second)
		if got := p.take(); len(got) == 0 || got[len(got)-1] != "closed" {
			w.t.Errorf("got %q, want the keep alive to end it", got)
		}
	})
}

// The receive maximum paces who takes no notice of it, on 3.1.1 because nobody told it: its pings are answered too. So are
// those behind releases and subscriptions the disk has not taken.
func TestPingsAreAnsweredWhateverWaits(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		w.cfg.ReceiveMaximum = 2
		a := w.connect(v, "a", keep)
		a.send(pub("t", "0", 2, 9))
		a.wants("connack 0x00", "pubrec 9 0x00")
		b := w.connect(v, "b", keep).send(pub("t", "0", 2, 1), pub("t", "0", 2, 2))
		b.wants("connack 0x00", "pubrec 1 0x00", "pubrec 2 0x00")
		b.send(pub("t", "0", 2, 3))
		b.wants("pubrec 3 0x00")
		c := w.connect(v, "c", keep)
		c.wants("connack 0x00")
		w.log.Hold()
		a.sendSlowly(pub("t", "1", 1, 1), pub("t", "2", 1, 2), pub("t", "3", 1, 3), &packet.Ping{}, pub("t", "4", 1, 4))
		b.sendSlowly(pubrel(1), pubrel(2), pubrel(3), &packet.Ping{})
		c.sendSlowly(sub(1, "none"), &packet.Ping{})
		for _, p := range []*peer{a, b, c} {
			p.wants()
		}
		time.Sleep(time.Second)
		for _, p := range []*peer{a, b, c} {
			p.wants("pingresp")
		}
		w.log.Release()
		a.wants("puback 1 0x00", "puback 2 0x00", "puback 3 0x00", "puback 4 0x00")
		b.wants("pubcomp 1 0x00", "pubcomp 2 0x00", "pubcomp 3 0x00")
		c.wants("suback 1 [0x01]")
	})
}

// What is read ahead is bounded: a ping behind more than that waits its turn. Behind a DISCONNECT none is answered.
func TestWhatIsReadAheadIsBounded(t *testing.T) {
	story(t, func(w *world) {
		p := w.fullDisk(packet.V311)
		big := strings.Repeat("b", 1500)
		p.sendSlowly(pub("t", "a", 1, 2), pub("t", big, 0, 0), pub("t", big, 0, 0), &packet.Ping{})
		time.Sleep(time.Minute)
		p.wants()
		w.log.Release()
		p.wants("puback 1 0x00", "puback 2 0x00", "pingresp")
	})
	story(t, func(w *world) {
		p := w.fullDisk(packet.V311)
		p.sendSlowly(pub("t", "a", 1, 2), &packet.Disconnect{}, &packet.Ping{})
		time.Sleep(time.Minute)
		p.wants()
		w.log.Release()
		p.wants("puback 1 0x00", "puback 2 0x00", "closed")
	})
}

// Who does not read the answers to its pings is not read from either.
func TestPingsAheadNobodyReadsTheAnswersOf(t *testing.T) {
	story(t, func(w *world) {
		w.cfg.ReceiveMaximum = 1
		p := w.pipe(packet.V311)
		p.send(&packet.Connect{Version: packet.V311, ClientID: "a", CleanStart: true})
		w.log.Hold()
		many := make([]packet.Packet, 9000)
		for i := range many {
			many[i] = &packet.Ping{}
		}
		many[0], many[1] = pub("t", "1", 1, 1), pub("t", "2", 1, 2)
		p.sendSlowly(many...)
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := w.s.Output(); n == 0 || n > 8<<10 {
			t.Errorf("%d bytes wait to be written", n)
		}
		p.read()
		time.Sleep(time.Hour)
		w.log.Release()
		pings := 0
		for _, got := range p.take() {
			if got == "pingresp" {
				pings++
			}
		}
		if pings != len(many)-2 {
			t.Errorf("%d answers to %d pings", pings, len(many)-2)
		}
		p.conn.Close()
	})
}

// A connection that ends while it waits ends at once, whoever ends it.
func TestAConnectionEndsWhileAPublishWaits(t *testing.T) {
	for name, end := range map[string]func(w *world, p *peer){
		"by the client": func(_ *world, p *peer) { p.conn.Close() },
		"by takeover":   func(w *world, _ *peer) { w.connect(packet.V311, "p") },
		"by the server": func(w *world, _ *peer) {
			go w.s.Close()
			synctest.Wait()
		},
	} {
		t.Run(name, func(t *testing.T) {
			story(t, func(w *world) {
				p := w.fullDisk(packet.V311)
				p.sendSlowly(pub("t", "a", 1, 2), &packet.Ping{})
				time.Sleep(time.Second)
				p.wants("pingresp")
				end(w, p)
				if name != "by the client" {
					p.wants("closed")
				}
				time.Sleep(time.Minute)
				w.log.Release()
				synctest.Wait()
			})
		})
	}
}

// However the bytes come, pings are answered once each, and nothing else is lost, changed or moved.
func TestReadingAheadChangesNothingElse(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 3))
		both(t, func(w *world, v packet.Version) {
			w.cfg.ReceiveMaximum = 1 + r.IntN(3)
			p := w.connect(v, "p")
			p.send(pub("t", "0", 1, 9))
			p.wants("connack 0x00", "puback 9 0x00")
			w.log.Hold()
			var stream []byte
			var bodies, acks []string
			pings := 0
			for id := range uint16(5 + r.IntN(60)) {
				if r.IntN(3) == 0 {
					pings++
					stream = (&packet.Ping{}).Append(stream, v)
					continue
				}
				q := pub("t", fmt.Sprint(id, strings.Repeat("\xc0\x00", r.IntN(100))), byte(r.IntN(2)), id+1)
				if q.QoS == 0 {
					q.ID = 0
				} else {
					acks = append(acks, fmt.Sprintf("puback %d 0x00", q.ID))
				}
				bodies = append(bodies, string(q.Payload))
				stream = q.Append(stream, v)
			}
			go func() {
				r := rand.New(rand.NewPCG(seed, 4))
				for len(stream) > 0 {
					n := min(len(stream), 1+r.IntN(300))
					if _, err := p.conn.Write(stream[:n]); err != nil && !errors.Is(err, io.ErrClosedPipe) {
						w.t.Error(err)
						return
					}
					stream = stream[n:]
					time.Sleep(time.Duration(r.IntN(3)) * 100 * time.Millisecond)
				}
			}()
			for range 30 {
				time.Sleep(time.Duration(r.IntN(1000)) * time.Millisecond)
				synctest.Wait()
				if w.log.Held() > 0 && r.IntN(2) == 0 {
					w.log.ReleaseOne(0)
				}
			}
			w.log.Release()
			time.Sleep(time.Minute)
			answered := 0
			var acked []string
			for _, got := range p.take() {
				if got == "pingresp" {
					answered++
				} else {
					acked = append(acked, got)
				}
			}
			if got, want := w.stored(), strings.Join(append([]string{"0"}, bodies...), " "); got != want || answered != pings ||
				fmt.Sprint(acked) != fmt.Sprint(acks) {
				w.t.Errorf("seed %d: %d of %d pings, acknowledged %v, want %v\ngot  %q\nwant %q", seed, answered, pings, acked, acks, got, want)
			}
		})
	}
}

// On real sockets, through TLS and WebSocket.
func TestPingsAreAnsweredOverEveryTransport(t *testing.T) {
	log := &mqtttest.Log{}
	h := newHarbour(t, mqtt.Config{Log: log, Limits: mqtt.Limits{ReceiveMaximum: 1}})
	log.Hold()
	for _, scheme := range schemes {
		conn := h.raw(scheme, h.at(scheme))
		say := func(b []byte) {
			if _, err := conn.Write(b); err != nil {
				t.Fatal(scheme, err)
			}
		}
		say(hello(scheme))
		if ack, ok := receive(t, conn).(*packet.Connack); !ok || ack.Reason != packet.Success {
			t.Fatalf("%s: got %+v", scheme, ack)
		}
		say(pub("t", "2", 1, 2).Append(pub("t", "1", 1, 1).Append(nil, packet.V5), packet.V5))
		for range 3 {
			say((&packet.Ping{}).Append(nil, packet.V5))
			if p, ok := receive(t, conn).(*packet.Ping); !ok || !p.Response {
				t.Fatalf("%s: got %+v", scheme, p)
			}
		}
		log.Release()
		for id := range uint16(2) {
			if ack, ok := receive(t, conn).(*packet.Ack); !ok || ack.ID != id+1 || ack.Reason != packet.Success {
				t.Fatalf("%s: got %+v", scheme, ack)
			}
		}
		log.Hold()
	}
	log.Release()
}
