package mqtt_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/mqtt/packet"
	"millrace/broker/record"
)

func TestASessionIsACursor(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		a := w.connect(v, "a", keep).send(sub(1, "x/#"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		a.send(&packet.Disconnect{})
		a.wants("closed")
		p := w.connect(v, "p").send(pub("x/1", "one", 1, 1), pub("x/2", "two", 0, 0), pub("y", "no", 0, 0))
		p.wants("connack 0x00", "puback 1 0x00")
		a = w.connect(v, "a", keep)
		a.wants("connack 0x00 present", `publish x/1 "one" q1 id1`, `publish x/2 "two" q0`)
		p.send(pub("x/3", "three", 1, 2))
		p.wants("puback 2 0x00")
		a.wants(`publish x/3 "three" q1 id2`)
	})
}

func TestASessionOutlivesTheServer(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		a := w.connect(v, "a", keep).send(sub(1, "x/#"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		p := w.connect(v, "p").send(pub("x/1", "one", 1, 1), pub("x/1", "two", 1, 2), pub("x/1", "three", 1, 3))
		a.wants(`publish x/1 "one" q1 id1`, `publish x/1 "two" q1 id2`, `publish x/1 "three" q1 id3`)
		p.wants("connack 0x00", "puback 1 0x00", "puback 2 0x00", "puback 3 0x00")
		a.send(ack(2))
		synctest.Wait()
		w.restart()
		p = w.connect(v, "p").send(pub("x/1", "four", 1, 1))
		p.wants("connack 0x00", "puback 1 0x00")
		// What was not acknowledged comes again with its identifier and DUP, before anything new.
		a = w.connect(v, "a", keep)
		a.wants("connack 0x00 present", `publish x/1 "one" q1 id1 dup`, `publish x/1 "three" q1 id3 dup`, `publish x/1 "four" q1 id4`)
		a.send(ack(1), ack(3), ack(4))
		synctest.Wait()
		w.restart()
		w.connect(v, "a", keep).wants("connack 0x00 present")
		a = w.connect(v, "a", func(c *packet.Connect) { c.CleanStart = true })
		a.wants("connack 0x00")
		w.restart()
		w.connect(v, "a", keep).wants("connack 0x00")
	})
}

func TestAfterACrashNothingUnacknowledgedIsLost(t *testing.T) {
	story(t, func(w *world) {
		a := w.connect(packet.V5, "a", keep).send(sub(1, "x"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		w.connect(packet.V5, "p").send(pub("x", "one", 1, 1), pub("x", "two", 1, 2)).wants("connack 0x00", "puback 1 0x00", "puback 2 0x00")
		a.wants(`publish x "one" q1 id1`, `publish x "two" q1 id2`)
		a.send(ack(1))
		synctest.Wait()
		// A second server on the log as it is: what the first knew and had not written is gone.
		w.log.Hold()
		first := w.s
		w.s = nil
		w.log.Release()
		w.server()
		a = w.connect(packet.V5, "a", keep)
		a.wants("connack 0x00 present", `publish x "one" q1 id1`, `publish x "two" q1 id2`)
		if err := first.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestCheckpointsMoveTheCursorOfConnectedSessions(t *testing.T) {
	story(t, func(w *world) {
		a := w.connect(packet.V5, "a", keep).send(sub(1, "x"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		p := w.connect(packet.V5, "p").send(pub("x", "one", 1, 1))
		p.wants("connack 0x00", "puback 1 0x00")
		a.wants(`publish x "one" q1 id1`)
		before := len(w.log.Records("__mqtt_sessions"))
		a.send(ack(1))
		synctest.Wait()
		if n := len(w.log.Records("__mqtt_sessions")); n != before {
			t.Errorf("an acknowledgement cost %d writes", n-before)
		}
		time.Sleep(2 * time.Minute)
		if n := len(w.log.Records("__mqtt_sessions")); n != before+1 {
			t.Errorf("%d checkpoints in two idle minutes, want 1", n-before)
		}
		first := w.s
		w.s = nil
		w.server()
		w.connect(packet.V5, "a", keep).wants("connack 0x00 present")
		if err := first.Close(); err != nil {
			t.Error(err)
		}
	})
}

// [MQTT-4.6.0-5] [MQTT-4.6.0-6]: whoever reads slowly gets all of it in the order of the others.
func TestASlowReaderFallsBehindAndLosesNothing(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		t := w.t
		w.cfg.MaxInflight = 4
		slow := w.connect(v, "slow").send(sub(1, "x"))
		fast := w.connect(v, "fast").send(sub(1, "x"))
		slow.wants("connack 0x00", "suback 1 [0x01]")
		fast.wants("connack 0x00", "suback 1 [0x01]")
		p := w.connect(v, "p")
		p.wants("connack 0x00")
		var all []string
		for i := range 30 {
			p.send(pub("x", fmt.Sprint(i), 1, 9))
			p.wants("puback 9 0x00")
			all = append(all, fmt.Sprintf(`publish x "%d" q1 id%d`, i, i+1))
			fast.wants(all[i])
			fast.send(ack(uint16(i + 1)))
		}
		for next := 0; next < len(all); {
			synctest.Wait()
			n := len(slow.got)
			if n == 0 || n > 4 {
				t.Fatalf("%d messages in flight after %d, want 1 to 4", n, next)
			}
			slow.wants(all[next : next+n]...)
			for range n {
				next++
				slow.send(ack(uint16(next)))
			}
		}
		p.send(pub("x", "last", 0, 0))
		slow.wants(`publish x "last" q0`)
	})
}

func TestAReaderThatStopsIsNotDropped(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		w.cfg.MaxOutput = 4096
		other := w.connect(v, "other").send(sub(1, "x"))
		other.wants("connack 0x00", "suback 1 [0x01]")
		stuck := w.pipe(v).send(&packet.Connect{Version: v, ClientID: "stuck", CleanStart: true}, sub(1, "x"))
		p := w.connect(v, "p")
		p.wants("connack 0x00")
		body := strings.Repeat("b", 1000)
		var want []string
		for i := range 200 {
			p.send(pub("x", fmt.Sprint(i, body), 0, 0))
			want = append(want, fmt.Sprintf("publish x %q q0", fmt.Sprint(i, body)))
		}
		other.wants(want...)
		stuck.read()
		stuck.wants(append([]string{"connack 0x00", "suback 1 [0x01]"}, want...)...)
	})
}

func TestPingsNobodyReadsTheAnswersOf(t *testing.T) {
	story(t, func(w *world) {
		w.cfg.MaxOutput = 1024
		stuck := w.pipe(packet.V311).send(&packet.Connect{Version: packet.V311, ClientID: "stuck", CleanStart: true})
		sent := make(chan int)
		go func() {
			n := 0
			for ; n < 100_000; n++ {
				if _, err := stuck.conn.Write([]byte{0xC0, 0}); err != nil {
					break
				}
			}
			sent <- n
		}()
		synctest.Wait() // the server reads no more
		stuck.conn.Close()
		if n := <-sent; n < 500 || n > 5000 {
			t.Errorf("%d pings were taken from a client that does not read", n)
		}
	})
}

func TestSubscriptionsBeginWhereTheyAre(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		w.cfg.MaxInflight = 1
		p := w.connect(v, "p").send(pub("x", "before", 1, 1), pub("y", "before", 1, 2))
		p.wants("connack 0x00", "puback 1 0x00", "puback 2 0x00")
		a := w.connect(v, "a", keep).send(sub(1, "x"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		p.send(pub("x", "1", 1, 1), pub("y", "old", 1, 2), pub("x", "2", 1, 3))
		p.wants("puback 1 0x00", "puback 2 0x00", "puback 3 0x00")
		a.wants(`publish x "1" q1 id1`)
		// Behind by two messages, one of them of a filter added now: it is older than the subscription.
		a.send(sub(2, "y"))
		a.wants("suback 2 [0x01]")
		p.send(pub("y", "new", 1, 1))
		p.wants("puback 1 0x00")
		a.send(ack(1))
		a.wants(`publish x "2" q1 id2`)
		a.send(ack(2))
		a.wants(`publish y "new" q1 id3`)
	})
}

// [MQTT-3.8.4-4]
func TestReplacingASubscriptionLosesNothing(t *testing.T) {
	story(t, func(w *world) {
		w.cfg.MaxInflight = 1
		a := w.connect(packet.V5, "a").send(sub(1, "x"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		p := w.connect(packet.V5, "p").send(pub("x", "1", 1, 1), pub("x", "2", 1, 2))
		p.wants("connack 0x00", "puback 1 0x00", "puback 2 0x00")
		a.wants(`publish x "1" q1 id1`)
		again := &packet.Subscribe{ID: 2, Filters: []packet.Subscription{{Filter: "x", QoS: 0}}}
		a.send(again)
		a.wants("suback 2 [0x00]")
		a.send(ack(1))
		a.wants(`publish x "2" q0`)
	})
}

func TestUnsubscribe(t *testing.T) {
	story(t, func(w *world) {
		a := w.connect(packet.V5, "a").send(sub(1, "x", "y"), &packet.Unsubscribe{ID: 2, Filters: []string{"x", "z", "a#"}})
		a.wants("connack 0x00", "suback 1 [0x01 0x01]", "unsuback 2 [0x00 0x11 0x8F]")
		w.connect(packet.V5, "p").send(pub("x", "1", 0, 0), pub("y", "2", 0, 0)).wants("connack 0x00")
		a.wants(`publish y "2" q0`)
	})
}

func TestTakeover(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		a := w.connect(v, "a", keep).send(sub(1, "x"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		w.connect(v, "p").send(pub("x", "1", 1, 1)).wants("connack 0x00", "puback 1 0x00")
		a.wants(`publish x "1" q1 id1`)
		b := w.connect(v, "a", keep)
		b.wants("connack 0x00 present", `publish x "1" q1 id1 dup`)
		if v == packet.V5 {
			a.wants("disconnect 0x8E", "closed")
		} else {
			a.wants("closed")
		}
	})
}

// [MQTT-4.1.0-2] [MQTT-3.1.2-23]
func TestSessionsExpire(t *testing.T) {
	story(t, func(w *world) {
		for _, tt := range []struct {
			away time.Duration
			want string
		}{{3599 * time.Second, "connack 0x00 present"}, {3601 * time.Second, "connack 0x00"}} {
			a := w.connect(packet.V5, "a", keep).send(sub(1, "x"))
			synctest.Wait()
			a.conn.Close()
			time.Sleep(tt.away)
			a = w.connect(packet.V5, "a", keep)
			a.wants(tt.want)
			a.conn.Close()
			synctest.Wait()
		}
		time.Sleep(2 * time.Hour)
		live := 0
		for _, r := range w.log.Records("__mqtt_sessions") {
			if live++; r.Value == nil {
				live = 0
			}
		}
		if live != 0 {
			t.Errorf("an expired session is still in the log")
		}
	})
}

// A session expires from the end of its last connection, which a crash is too: not from an earlier one [MQTT-4.1.0-1].
func TestAfterACrashASessionExpiresFromTheCrash(t *testing.T) {
	story(t, func(w *world) {
		a := w.connect(packet.V5, "a", keep).send(sub(1, "t"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		a.conn.Close()
		time.Sleep(time.Minute)
		w.connect(packet.V5, "a", keep).wants("connack 0x00 present")
		time.Sleep(24 * time.Hour) // nothing comes, so its cursor does not move
		w.crashNow()
		time.Sleep(time.Hour - time.Second)
		a = w.connect(packet.V5, "a", keep)
		a.wants("connack 0x00 present")
	})
}

func TestDisconnectMayChangeTheExpiry(t *testing.T) {
	story(t, func(w *world) {
		end := &packet.Disconnect{Properties: &packet.Properties{Present: packet.Of(packet.SessionExpiry)}}
		a := w.connect(packet.V5, "a", keep).send(sub(1, "x"), end)
		a.wants("connack 0x00", "suback 1 [0x01]", "closed")
		w.connect(packet.V5, "a", keep).wants("connack 0x00")
		end.Properties.SessionExpiry = 5
		w.connect(packet.V5, "b").send(end).wants("connack 0x00", "disconnect 0x82", "closed")
	})
}

func TestKafkaRecordsReachSubscribers(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		a := w.connect(v, "a").send(sub(1, "plant/#", "orders"))
		a.wants("connack 0x00", "suback 1 [0x01 0x01]")
		w.log.Produce("mqtt", 0, record.Record{Key: []byte("plant/1"), Value: []byte("k")})
		w.log.Produce("orders", 0, record.Record{Value: []byte("o")})
		w.log.Produce("other", 0, record.Record{Key: []byte("plant/2"), Value: []byte("not its topic")})
		a.wants(`publish plant/1 "k" q1 id1`, `publish orders "o" q1 id2`)
		w.log.Produce("other", 0, record.Record{
			Key: []byte("k"), Value: []byte("h"),
			Headers: []record.Header{{Key: "mqtt.topic", Value: []byte("plant/3")}, {Key: "mqtt.qos", Value: []byte("0")}},
		})
		// Nothing of "other" can match under the rules, so it is not even read.
		a.wants()
		a.send(sub(2, "#"))
		a.wants("suback 2 [0x01]")
		w.log.Produce("other", 0, record.Record{
			Value: []byte("h"), Headers: []record.Header{{Key: "mqtt.topic", Value: []byte("plant/3")}, {Key: "mqtt.qos", Value: []byte("0")}},
		})
		a.wants(`publish plant/3 "h" q0`)
	})
}

func TestRecordsNobodyWantsAreNotRead(t *testing.T) {
	story(t, func(w *world) {
		w.log.Produce("bulk", 0, record.Record{Value: []byte("first")})
		a := w.connect(packet.V5, "a").send(sub(1, "plant/#"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		before := w.log.Reads()
		for range 100 {
			w.log.Produce("bulk", 0, record.Record{Value: []byte("x")})
		}
		synctest.Wait()
		if n := w.log.Reads() - before; n != 0 {
			t.Errorf("%d bytes of a topic nobody's filter reaches were read", n)
		}
	})
}

func TestWhatRetentionTookIsAGap(t *testing.T) {
	story(t, func(w *world) {
		a := w.connect(packet.V5, "a", keep).send(sub(1, "x"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		w.connect(packet.V5, "p").send(pub("x", "0", 1, 9)).wants("connack 0x00", "puback 9 0x00")
		a.wants(`publish x "0" q1 id1`)
		a.conn.Close()
		synctest.Wait()
		p := w.connect(packet.V5, "p")
		for i := range 5 {
			p.send(pub("x", fmt.Sprint(i+1), 1, 1))
			synctest.Wait()
		}
		w.log.Trim("mqtt", 0, 4)
		w.connect(packet.V5, "a", keep).wants("connack 0x00 present", `publish x "4" q1 id2`, `publish x "5" q1 id3`)
	})
}

func TestATopicMadeAgainIsAnother(t *testing.T) {
	story(t, func(w *world) {
		a := w.connect(packet.V5, "a", keep).send(sub(1, "orders"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		w.log.Produce("orders", 0, record.Record{Value: []byte("1")}, record.Record{Value: []byte("2")})
		a.wants(`publish orders "1" q1 id1`, `publish orders "2" q1 id2`)
		w.log.Delete("orders")
		w.log.Produce("orders", 0, record.Record{Value: []byte("3")})
		a.wants(`publish orders "3" q1 id3`)
	})
}
