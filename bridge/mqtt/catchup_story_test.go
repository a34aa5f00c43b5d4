package mqtt_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"millrace/bridge/mqtt/packet"
	"millrace/bridge/route"
	"millrace/broker/record"
)

// A session far behind is read for in turns with those near the tail: they do not wait until it is through.
func TestWhoIsFarBehindDelaysNobody(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		w.cfg.Scans = 1
		away := func(id, topic string) {
			p := w.connect(v, id, keep).send(sub(1, topic))
			p.wants("connack 0x00", "suback 1 [0x01]")
			p.send(&packet.Disconnect{})
			p.wants("closed")
		}
		away("far", "x")
		recs := make([]record.Record, 10)
		for i := range recs {
			recs[i] = record.Record{Key: []byte("says nothing"), Value: make([]byte, 1<<10)}
		}
		for range 300 { // 3 MB that only reading tells to be nobody's
			w.log.Produce("mqtt", 0, recs...)
		}
		away("near", "y")
		w.connect(v, "p").send(pub("y", "soon", 1, 1), pub("x", "late", 1, 2)).wants("connack 0x00", "puback 1 0x00", "puback 2 0x00")

		var reads atomic.Int64
		begun, go1, go2 := make(chan bool), make(chan bool), make(chan bool)
		w.log.AfterRead(func(string, int64) {
			switch reads.Add(1) {
			case 1:
				begun <- true
				<-go1
			case 20: // less than half of it
				<-go2
			}
		})
		far := w.connect(v, "far", keep)
		<-begun
		near := w.connect(v, "near", keep)
		near.wants("connack 0x00 present")
		close(go1)
		synctest.Wait()
		if n := reads.Load(); n != 20 {
			t.Fatalf("%d reads", n)
		}
		near.wants(`publish y "soon" q1 id1`)
		close(go2)
		far.wants("connack 0x00 present", `publish x "late" q1 id1`)
	})
}

func TestWhatRetentionTookIsCountedAndLogged(t *testing.T) {
	story(t, func(w *world) {
		var log bytes.Buffer
		w.log.Produce("mqtt", 0, rec("old")) // it is there before the session is
		w.cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
		a := w.connect(packet.V5, "a", keep).send(sub(1, "x"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		a.send(&packet.Disconnect{Properties: &packet.Properties{Present: packet.Of(packet.SessionExpiry), SessionExpiry: 1000}})
		a.wants("closed")
		for i := range 5 {
			w.log.Produce("mqtt", 0, record.Record{Key: []byte("x"), Value: fmt.Append(nil, i)})
		}
		synctest.Wait() // the tail reader has passed them: what nobody follows it counts too when it is gone
		w.log.Trim("mqtt", 0, 4)
		w.connect(packet.V5, "a", keep).wants("connack 0x00 present", `publish x "3" q1 id1`, `publish x "4" q1 id2`)
		synctest.Wait()
		if n := w.server().Lost(); n != 3 {
			t.Errorf("%d records are counted as lost, want 3", n)
		}
		if text := log.String(); !strings.Contains(text, "removed before they could be delivered") || !strings.Contains(text, "from=1 to=4") {
			t.Errorf("logged: %s", text)
		}
	})
}

// What a plain reading of the log delivers is delivered when the log is asked first what is where: whoever wrote it, and
// whatever its topic is made of. The second session has the same filters, and one that nothing matches and that wants all.
func TestPassingByHidesNothing(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var plain, passing int64
	for n := range uint64(40) {
		story(t, func(w *world) {
			rng := rand.New(rand.NewPCG(seed, n))
			router, err := route.New(nil, []route.Reverse{{Topic: "mqtt", MQTT: "k/{kafka.key}"}, {Topic: "bulk", MQTT: "b/{kafka.partition}/x"}})
			if err != nil {
				t.Fatal(err)
			}
			if n%2 == 0 {
				w.cfg.Router = router
			}
			pick := func(of ...string) string { return of[rng.IntN(len(of))] }
			name := func() string {
				levels := make([]string, 1+rng.IntN(5))
				for i := range levels {
					levels[i] = pick("a", "b", "k", "x", "é", "")
				}
				return "t" + strings.Join(levels, "/")
			}
			filters := []string{"k/a", "b/#", "mqtt", "bulk"}
			for range 1 + rng.IntN(4) {
				levels := strings.Split(name(), "/")
				for i := range levels {
					if i > 0 && rng.IntN(3) == 0 {
						levels[i] = "+"
					}
				}
				if len(levels) > 1 && rng.IntN(2) == 0 {
					levels[len(levels)-1] = "#"
				}
				filters = append(filters, strings.Join(levels, "/"))
			}
			for id, all := range map[string][]string{"passing": filters, "plain": append(filters[:len(filters):len(filters)], "+/none/of/this")} {
				p := w.connect(packet.V5, id, keep)
				p.wants("connack 0x00")
				for i, f := range all {
					p.send(sub(uint16(i+1), f))
				}
				synctest.Wait()
				p.send(&packet.Disconnect{})
				p.drained()
			}
			for range 60 {
				recs := make([]record.Record, 1+rng.IntN(3))
				for i := range recs {
					topic := name()
					r := record.Record{Timestamp: 1, Key: []byte(topic), Value: append(make([]byte, 20_000), fmt.Sprint(rng.Uint64())...)}
					header := func(value string) {
						r.Headers = append(r.Headers, record.Header{Key: "mqtt.topic", Value: []byte(value)})
					}
					switch rng.IntN(12) {
					case 0: // of a Kafka client
						r.Key = []byte(pick("a", "t/a", "ta/b", "\xff", ""))
					case 1: // of one who does as the door does, and does it wrong
						header(pick("t/#", "", "t\x00", "\xff", "+", "$SYS/broker/uptime", "$other"))
						r.Key = []byte(pick("a", "ta/b"))
					case 2:
						header(name())
						header(pick(name(), "#"))
					default:
						header(topic)
					}
					recs[i] = r
				}
				w.log.Produce(pick("mqtt", "mqtt", "mqtt", "bulk"), 0, recs...)
			}
			var got [2][]string
			for i, id := range []string{"passing", "plain"} {
				before := w.log.Reads()
				p := w.connect(packet.V5, id, keep)
				for _, pkt := range p.drained() {
					if m, ok := pkt.(*packet.Publish); ok {
						got[i] = append(got[i], m.Topic+" "+string(m.Payload[20_000:]))
					}
				}
				*[]*int64{&passing, &plain}[i] += w.log.Reads() - before
				p.conn.Close()
				synctest.Wait()
			}
			slices.Sort(got[0]) // two partitions have no order between them
			slices.Sort(got[1])
			if !slices.Equal(got[0], got[1]) {
				w.t.Fatalf("story %d, filters %q: delivered\n%q, plainly\n%q", n, filters, got[0], got[1])
			}
		})
	}
	t.Logf("%d bytes read, plainly %d", passing, plain)
	if passing >= plain {
		t.Error("nothing was ever passed by: nothing is proven")
	}
}

// drained is what has come once nothing moves any more.
func (p *peer) drained() (all []packet.Packet) {
	synctest.Wait()
	for {
		select {
		case pkt, ok := <-p.got:
			if !ok {
				return all
			}
			all = append(all, pkt)
		default:
			return all
		}
	}
}
