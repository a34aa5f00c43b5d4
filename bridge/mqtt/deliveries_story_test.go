package mqtt_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/mqtt"
	"millrace/bridge/mqtt/packet"
	"millrace/broker/record"
)

// tables is how often a delivery table was written.
func (w *world) tables() (n int) {
	for _, r := range w.log.Records("__mqtt_sessions") {
		if strings.HasSuffix(string(r.Key), "\x00o") && r.Value != nil {
			n++
		}
	}
	return n
}

// produce has the default topic get a message of QoS 2 that no client published.
func (w *world) produce(topic string, bodies ...string) {
	var recs []record.Record
	for _, body := range bodies {
		recs = append(recs, record.Record{
			Key: []byte(topic), Value: []byte(body),
			Headers: []record.Header{{Key: "mqtt.topic", Value: []byte(topic)}, {Key: "mqtt.qos", Value: []byte("2")}},
		})
	}
	w.log.Produce("mqtt", 0, recs...)
}

func TestADeliveryOfQoS2(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		a := w.connect(v, "a", keep).send(sub2(1, "t"))
		a.wants("connack 0x00", "suback 1 [0x02]")
		w.log.Hold()
		w.produce("t", "1", "2")
		a.wants()
		w.log.ReleaseOne(0)
		a.wants()              // what the identifiers stand for is not durable
		for w.log.Held() > 0 { // one table for both or, where the second came too late for it, two
			w.log.ReleaseOne(0)
			synctest.Wait()
		}
		a.wants(`publish t "1" q2 id1`, `publish t "2" q2 id2`)
		a.send(pubrec(1))
		a.wants() // PUBREC is not durable
		w.log.ReleaseOne(0)
		a.wants("pubrel 1 0x00")
		a.send(pubcomp(1))
		a.wants()
		if n := w.log.Held(); n != 0 {
			w.t.Errorf("PUBCOMP cost a write")
		}
		w.log.Release()
		a.send(pubrec(2), pubrec(2), pubrec(9))
		want := "pubrel 9 0x92"
		if v != packet.V5 {
			want = "pubrel 9 0x00"
		}
		synctest.Wait()
		got := map[string]int{}
		for len(a.got) > 0 {
			got[show(<-a.got)]++
		}
		if len(got) != 2 || got["pubrel 2 0x00"] == 0 || got[want] != 1 {
			w.t.Errorf("got %v", got)
		}
	})
}

func TestASessionThatEndsWithItsConnectionCostsNoWrite(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		a := w.connect(v, "a").send(sub2(1, "t"))
		a.wants("connack 0x00", "suback 1 [0x02]")
		w.produce("t", "1")
		a.wants(`publish t "1" q2 id1`)
		a.send(pubrec(1), pubrec(1))
		a.wants("pubrel 1 0x00", "pubrel 1 0x00")
		a.send(pubcomp(1), &packet.Disconnect{})
		a.wants("closed")
		if n := len(w.log.Records("__mqtt_sessions")); n != 0 {
			w.t.Errorf("%d records", n)
		}
	})
}

func TestAWindowOfMessagesCostsFewWrites(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		a := w.connect(v, "a", keep).send(sub2(1, "t"))
		a.wants("connack 0x00", "suback 1 [0x02]")
		var bodies, want []string
		for i := range 200 {
			bodies = append(bodies, fmt.Sprint(i))
			want = append(want, fmt.Sprintf(`publish t "%d" q2 id%d`, i, i+1))
		}
		w.log.Hold()
		w.produce("t", bodies...)
		for next := 0; next < len(want); next += 64 {
			// Each commit ends when all that may gather has gathered.
			for {
				synctest.Wait()
				if w.log.Held() == 0 {
					break
				}
				w.log.ReleaseOne(0)
			}
			n := min(64, len(want)-next)
			a.wants(want[next : next+n]...)
			var rel []string
			for i := range n {
				a.send(pubrec(uint16(next + i + 1)))
				rel = append(rel, fmt.Sprintf("pubrel %d 0x00", next+i+1))
			}
			for {
				synctest.Wait()
				if w.log.Held() == 0 {
					break
				}
				w.log.ReleaseOne(0)
			}
			a.wants(rel...)
			for i := range n {
				a.send(pubcomp(uint16(next + i + 1)))
			}
		}
		if n := w.tables(); n > 24 {
			w.t.Errorf("%d writes for %d messages of QoS 2", n, len(want))
		}
		w.log.Release()
	})
}

// [MQTT-4.3.3-5] [MQTT-4.3.3-6] [MQTT-4.4.0-1], over a restart and a crash.
func TestWhatIsInFlightGoesOnWhereItWas(t *testing.T) {
	for name, stop := range map[string]func(*world, *peer){
		"connection": func(_ *world, a *peer) {
			a.conn.Close()
			synctest.Wait()
		},
		"restart": func(w *world, _ *peer) { w.restart() },
		"crash":   func(w *world, _ *peer) { w.crashNow() },
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(w *world, v packet.Version) {
				a := w.connect(v, "a", keep).send(sub2(1, "t"))
				a.wants("connack 0x00", "suback 1 [0x02]")
				w.produce("t", "1", "2", "3", "4", "5")
				a.wants(`publish t "1" q2 id1`, `publish t "2" q2 id2`, `publish t "3" q2 id3`, `publish t "4" q2 id4`, `publish t "5" q2 id5`)
				a.send(pubrec(1), pubrec(2))
				a.wants("pubrel 1 0x00", "pubrel 2 0x00")
				a.send(pubcomp(1), pubrec(4))
				a.wants("pubrel 4 0x00")
				stop(w, a)
				w.produce("t", "6")
				// An identifier whose PUBREC came gets PUBREL, the others their message again, in the order of the first time.
				b := w.connect(v, "a", keep)
				b.wants("connack 0x00 present", "pubrel 2 0x00", `publish t "3" q2 id3 dup`, "pubrel 4 0x00", `publish t "5" q2 id5 dup`,
					`publish t "6" q2 id6`)
				for id := range uint16(6) {
					b.send(pubrec(id + 1))
				}
				synctest.Wait()
				for id := range uint16(6) {
					b.send(pubcomp(id + 1))
				}
				synctest.Wait()
				stop(w, b)
				// PUBCOMP costs no write, so a crash forgets it.
				c := w.connect(v, "a", keep)
				synctest.Wait()
				for range len(c.got) {
					switch p := (<-c.got).(type) {
					case *packet.Publish:
						t.Errorf("%s once more", show(p))
					case *packet.Ack:
						c.send(pubcomp(p.ID))
					}
				}
				c.send(&packet.Disconnect{})
				synctest.Wait()
				stop(w, c)
				w.connect(v, "a", keep).wants("connack 0x00 present")
			})
		})
	}
}

func TestACrashDeliversNothingAsNewTwice(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		a := w.connect(v, "a", keep).send(sub2(1, "t"), sub(2, "u"))
		a.wants("connack 0x00", "suback 1 [0x02]", "suback 2 [0x01]")
		p := w.connect(v, "p").send(pub("u", "one", 1, 1), pub("t", "two", 2, 2))
		p.wants("connack 0x00", "puback 1 0x00", "pubrec 2 0x00")
		a.wants(`publish u "one" q1 id1`, `publish t "two" q2 id2`)
		a.send(ack(1), pubrec(2))
		a.wants("pubrel 2 0x00")
		a.send(pubcomp(2))
		synctest.Wait()
		// The cursor was not written since, and the acknowledgement of QoS 1 neither.
		for range 2 {
			w.crashNow()
			a = w.connect(v, "a", keep)
			a.wants("connack 0x00 present", "pubrel 2 0x00", `publish u "one" q1 id3`)
		}
		a.send(pubcomp(2), ack(3), &packet.Disconnect{})
		a.wants("closed")
		w.crashNow()
		w.connect(v, "a", keep).wants("connack 0x00 present")
	})
}

// [MQTT-4.4.0-2]
func TestTheClientMayRefuseAMessage(t *testing.T) {
	story(t, func(w *world) {
		w.cfg.MaxInflight = 1
		a := w.connect(packet.V5, "a", keep).send(sub2(1, "t"))
		a.wants("connack 0x00", "suback 1 [0x02]")
		w.produce("t", "1", "2")
		a.wants(`publish t "1" q2 id1`)
		a.send(&packet.Ack{Kind: packet.PUBREC, ID: 1, Reason: packet.QuotaExceeded})
		a.wants(`publish t "2" q2 id2`)
		w.crashNow()
		w.connect(packet.V5, "a", keep).wants("connack 0x00 present", `publish t "2" q2 id2 dup`)
	})
}

// [MQTT-4.9.0-2]
func TestTheWindowCountsBothKinds(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		w.cfg.MaxInflight = 2
		a := w.connect(v, "a", keep).send(sub2(1, "t"))
		a.wants("connack 0x00", "suback 1 [0x02]")
		w.connect(v, "p").send(pub("t", "1", 1, 1), pub("t", "2", 2, 2), pub("t", "3", 1, 3), pub("t", "4", 2, 4))
		a.wants(`publish t "1" q1 id1`, `publish t "2" q2 id2`)
		a.send(pubrec(2))
		a.wants("pubrel 2 0x00") // which still has its place
		a.send(pubcomp(2))
		a.wants(`publish t "3" q1 id3`)
		a.send(ack(1), ack(2), ack(3))
		a.wants(`publish t "4" q2 id4`)
	})
}

func TestASmallerWindowOnResume(t *testing.T) {
	story(t, func(w *world) {
		a := w.connect(packet.V5, "a", keep).send(sub2(1, "t"))
		a.wants("connack 0x00", "suback 1 [0x02]")
		w.produce("t", "1", "2", "3")
		a.wants(`publish t "1" q2 id1`, `publish t "2" q2 id2`, `publish t "3" q2 id3`)
		a = w.connect(packet.V5, "a", keep, func(c *packet.Connect) { props(c, packet.ReceiveMaximum).ReceiveMaximum = 1 })
		a.wants("connack 0x00 present", `publish t "1" q2 id1 dup`)
		a.send(pubrec(1))
		a.wants("pubrel 1 0x00")
		a.send(pubcomp(1))
		a.wants(`publish t "2" q2 id2 dup`)
	})
}

func TestAMessageThatLeftTheLogFreesItsIdentifier(t *testing.T) {
	leave := map[string]func(*world){
		"retention": func(w *world) { w.log.Trim("mqtt", 0, 1) },
		"deletion":  func(w *world) { w.log.Delete("mqtt") },
	}
	for name, leave := range leave {
		for _, crash := range []bool{false, true} {
			t.Run(fmt.Sprint(name, crash), func(t *testing.T) {
				both(t, func(w *world, v packet.Version) {
					a := w.connect(v, "a", keep).send(sub2(1, "t"))
					a.wants("connack 0x00", "suback 1 [0x02]")
					w.produce("t", "1")
					a.wants(`publish t "1" q2 id1`)
					a.conn.Close()
					synctest.Wait()
					if leave(w); crash {
						w.restart()
					}
					// Perhaps the client has it. It must not take what comes next under this identifier for a repetition.
					a = w.connect(v, "a", keep)
					a.wants("connack 0x00 present", "pubrel 1 0x00")
					a.send(pubcomp(1))
					w.produce("t", "2")
					a.wants(`publish t "2" q2 id2`)
				})
			})
		}
	}
}

func TestDeliveriesWaitForTheDisk(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		a := w.connect(v, "a", keep).send(sub2(1, "t"))
		a.wants("connack 0x00", "suback 1 [0x02]")
		w.log.Hold()
		w.produce("t", "1")
		synctest.Wait()
		w.log.ReleaseOne(0)
		synctest.Wait() // the table is on its way
		w.log.Fail(mqtt.ErrFull)
		w.log.ReleaseOne(0)
		w.log.Release()
		time.Sleep(10 * time.Second)
		a.wants()
		w.log.Fail(nil)
		time.Sleep(2 * time.Second)
		a.wants(`publish t "1" q2 id1`)
		w.log.Fail(mqtt.ErrFull)
		a.send(pubrec(1))
		time.Sleep(10 * time.Second)
		a.wants()
		b := w.connect(v, "a", keep) // whose session's record could not be written either
		b.wants("connack 0x00 present")
		w.log.Fail(nil)
		time.Sleep(2 * time.Second)
		b.wants("pubrel 1 0x00")
	})
}

func TestATakeoverBeforeTheTableIsDurable(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		a := w.connect(v, "a", keep).send(sub2(1, "t"))
		a.wants("connack 0x00", "suback 1 [0x02]")
		w.log.Hold()
		w.produce("t", "1")
		synctest.Wait()
		w.log.ReleaseOne(0)
		synctest.Wait()
		b := w.connect(v, "a", keep)
		b.wants("connack 0x00 present")
		w.log.Release()
		b.wants(`publish t "1" q2 id1 dup`)
	})
}

func TestTheTableEndsInTheSessionsRecord(t *testing.T) {
	story(t, func(w *world) {
		a := w.connect(packet.V5, "a", keep).send(sub2(1, "t"))
		a.wants("connack 0x00", "suback 1 [0x02]")
		w.produce("t", "1")
		a.wants(`publish t "1" q2 id1`)
		if got := w.live(); len(got) != 2 {
			t.Errorf("the sessions topic has %q", got)
		}
		time.Sleep(2 * time.Minute) // a checkpoint
		if got := w.live(); len(got) != 1 {
			t.Errorf("the sessions topic has %q", got)
		}
		w.crashNow()
		w.connect(packet.V5, "a", keep).wants("connack 0x00 present", `publish t "1" q2 id1 dup`)
	})
}

func TestAParkedMessageTakesRoomLikeAnyOther(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		w.cfg.MaxOutput = 1024
		a := w.connect(v, "a", keep).send(sub2(1, "t"))
		a.wants("connack 0x00", "suback 1 [0x02]")
		w.log.Hold()
		body := strings.Repeat("b", 1000)
		var bodies, want []string
		for i := range 10 {
			bodies = append(bodies, fmt.Sprint(i, body))
			want = append(want, fmt.Sprintf(`publish t %q q2 id%d`, bodies[i], i+1))
		}
		w.produce("t", bodies...)
		synctest.Wait()
		w.log.ReleaseOne(0)
		synctest.Wait()
		if n := w.s.Output(); n < 1024 || n > 3*1024 {
			w.t.Errorf("%d bytes wait", n)
		}
		w.log.Release()
		a.wants(want...)
		if n := w.s.Output(); n != 0 {
			w.t.Errorf("%d bytes wait", n)
		}
		w.log.Hold()
		w.produce("t", bodies...)
		synctest.Wait()
		w.log.ReleaseOne(0)
		synctest.Wait()
		a.conn.Close()
		synctest.Wait()
		if n := w.s.Output(); n != 0 {
			w.t.Errorf("%d bytes wait for nobody", n)
		}
		w.log.Release()
	})
}

func TestABirthOfQoS2IsKeptInTheSameGroupAndDeliveredOnce(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		const node = "spBv1.0/G1/NBIRTH/E1"
		edge := w.connect(v, "edge", keep).send(pub("x", "0", 2, 1))
		edge.wants("connack 0x00", "pubrec 1 0x00")
		a := w.connect(v, "aware", keep).send(sub2(1, "$sparkplug/certificates/#"))
		a.wants("connack 0x00", "suback 1 [0x02]")
		birth := pub(node, "b", 2, 2)
		birth.Retain = true
		edge.send(birth) // both topics are new
		edge.wants("pubrec 2 0x00")
		a.wants(`publish $sparkplug/certificates/` + node + ` "b" q2 id1`)
		second := pub(node, "c", 2, 3)
		second.Retain = true
		w.log.Hold()
		edge.send(second)
		edge.wants()
		if n := w.log.Held(); n != 1 {
			w.t.Errorf("%d commits", n)
		}
		w.log.Release()
		edge.wants("pubrec 3 0x00")
		a.wants(`publish $sparkplug/certificates/` + node + ` "c" q2 id2`)
		a.send(pubrec(1), pubrec(2))
		a.wants("pubrel 1 0x00", "pubrel 2 0x00")
		a.send(pubcomp(1), pubcomp(2))
		synctest.Wait()
		w.crashNow()
		w.connect(v, "aware", keep).wants("connack 0x00 present", "pubrel 1 0x00", "pubrel 2 0x00")
		w.connect(v, "late").send(sub2(1, node, "$sparkplug/certificates/"+node)).wants("connack 0x00", "suback 1 [0x02 0x02]",
			`publish `+node+` "c" q2 id1 retain`, `publish $sparkplug/certificates/`+node+` "c" q2 id2 retain`)
	})
}
