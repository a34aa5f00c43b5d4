package mqtt_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/mqtt"
	"millrace/bridge/mqtt/packet"
	"millrace/broker/budget"
	"millrace/broker/record"
)

// QoS 2, clause by clause. crash_story_test.go crashes it at every point.

// crash goes on with a new server on what the log had after n commits.
func (w *world) crash(n int) {
	w.t.Helper()
	left := w.log.Cut(n)
	w.log.Release()
	if err := w.server().Close(); err != nil { // on the old log
		w.t.Fatal(err)
	}
	w.s, w.log, w.cfg.Log = nil, left, left
	w.server()
}

func (w *world) crashNow() { w.crash(w.log.Commits()) }

// live are the keys the sessions topic still has after compaction.
func (w *world) live() (keys []string) {
	for _, r := range w.log.Records("__mqtt_sessions") {
		keys = slices.DeleteFunc(keys, func(k string) bool { return k == string(r.Key) })
		if r.Value != nil {
			keys = append(keys, string(r.Key))
		}
	}
	return keys
}

// stored are the bodies in the default topic.
func (w *world) stored() string {
	var all []string
	for _, r := range w.log.Records("mqtt") {
		all = append(all, string(r.Value))
	}
	return strings.Join(all, " ")
}

func sub2(id uint16, filters ...string) *packet.Subscribe {
	s := sub(id, filters...)
	for i := range s.Filters {
		s.Filters[i].QoS = 2
	}
	return s
}

func again(p *packet.Publish) *packet.Publish {
	p.Dup = true
	return p
}

func pubrec(id uint16) *packet.Ack  { return &packet.Ack{Kind: packet.PUBREC, ID: id} }
func pubrel(id uint16) *packet.Ack  { return &packet.Ack{Kind: packet.PUBREL, ID: id} }
func pubcomp(id uint16) *packet.Ack { return &packet.Ack{Kind: packet.PUBCOMP, ID: id} }

// unknown is the PUBCOMP for an identifier nobody knows.
func unknown(v packet.Version, id uint16) string {
	if v == packet.V5 {
		return fmt.Sprintf("pubcomp %d 0x92", id)
	}
	return fmt.Sprintf("pubcomp %d 0x00", id)
}

func TestAPublishOfQoS2IsStoredOnce(t *testing.T) {
	for _, change := range []func(*packet.Connect){keep, func(*packet.Connect) {}} {
		both(t, func(w *world, v packet.Version) {
			a := w.connect(v, "a", change).send(pub("t", "1", 2, 7), again(pub("t", "1", 2, 7)))
			a.wants("connack 0x00", "pubrec 7 0x00", "pubrec 7 0x00")
			a.send(pubrel(7), pubrel(7), pubrel(8))
			a.wants("pubcomp 7 0x00", unknown(v, 7), unknown(v, 8))
			a.send(pub("t", "2", 2, 7))
			a.wants("pubrec 7 0x00")
			if got := w.stored(); got != "1 2" {
				w.t.Errorf("the log has %q", got)
			}
		})
	}
}

// PUBREC says that the message is the server's [MQTT-4.3.3-8], PUBCOMP that its identifier is free [MQTT-4.3.3-11].
func TestAMessageAndItsIdentifierLandTogether(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		a := w.connect(v, "a", keep).send(pub("t", "0", 2, 1), pubrel(1))
		a.wants("connack 0x00", "pubrec 1 0x00", "pubcomp 1 0x00")
		w.log.Hold()
		a.send(pub("t", "1", 2, 1), pub("t", "2", 2, 2))
		a.wants()
		if n := w.log.Held(); n != 2 {
			w.t.Errorf("%d commits for two publishes", n)
		}
		w.log.Release()
		a.wants("pubrec 1 0x00", "pubrec 2 0x00")
		w.log.Hold()
		a.send(pubrel(1))
		a.wants() // the release is not durable
		w.log.Release()
		a.wants("pubcomp 1 0x00")
		if got := w.live(); !slices.Equal(got, []string{"a", "a\x00i\x00\x02"}) {
			w.t.Errorf("the sessions topic has %q", got)
		}
		r := w.log.Records("mqtt")[1]
		if !slices.ContainsFunc(r.Headers, func(h record.Header) bool { return h.Key == "mqtt.qos" && string(h.Value) == "2" }) {
			w.t.Errorf("headers %v", r.Headers)
		}
	})
}

func TestPubrecsKeepTheOrderOfThePublishes(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		w.log.NumPartitions = 4
		a := w.connect(v, "a", keep).send(pub("t", "0", 2, 9))
		a.wants("connack 0x00", "pubrec 9 0x00")
		w.log.Hold()
		a.send(pub("t/1", "1", 2, 1), pub("t/2", "2", 1, 2), pub("t/3", "3", 2, 3))
		a.wants()
		w.log.ReleaseOne(2)
		a.wants()
		w.log.ReleaseOne(0)
		a.wants("pubrec 1 0x00")
		w.log.Release()
		a.wants("puback 2 0x00", "pubrec 3 0x00")
	})
}

func TestReceiveMaximumCountsBothKinds(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		w.cfg.ReceiveMaximum = 2
		a := w.connect(v, "a", keep).send(pub("t", "0", 2, 9))
		a.wants("connack 0x00", "pubrec 9 0x00")
		w.log.Hold()
		a.sendSlowly(pub("t", "1", 2, 1), pub("t", "2", 1, 2), pub("t", "3", 2, 3))
		a.wants()
		if n := w.log.Held(); n != 2 {
			w.t.Errorf("%d publishes on their way, want 2", n)
		}
		w.log.Release()
		a.wants("pubrec 1 0x00", "puback 2 0x00", "pubrec 3 0x00")
	})
}

// [MQTT-4.3.3-10] [MQTT-4.3.3-12], over a restart and a crash.
func TestIdentifiersOutliveTheServer(t *testing.T) {
	for _, stop := range []func(*world){(*world).restart, (*world).crashNow} {
		both(t, func(w *world, v packet.Version) {
			// No subscription, so nothing but the publish makes the session durable.
			a := w.connect(v, "a", keep).send(pub("t", "1", 2, 1), pub("t", "2", 2, 2), pubrel(2))
			a.wants("connack 0x00", "pubrec 1 0x00", "pubrec 2 0x00", "pubcomp 2 0x00")
			stop(w)
			a = w.connect(v, "a", keep).send(again(pub("t", "1", 2, 1)), pubrel(2), pub("t", "3", 2, 2))
			a.wants("connack 0x00 present", "pubrec 1 0x00", unknown(v, 2), "pubrec 2 0x00")
			stop(w)
			a = w.connect(v, "a", keep).send(pubrel(1), pubrel(2))
			a.wants("connack 0x00 present", "pubcomp 1 0x00", "pubcomp 2 0x00")
			stop(w)
			w.connect(v, "a", keep).send(pubrel(1)).wants("connack 0x00 present", unknown(v, 1))
			if got := w.stored(); got != "1 2 3" {
				w.t.Errorf("the log has %q", got)
			}
		})
	}
}

func TestARepetitionMeetsTheFirstOnItsWay(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		a := w.connect(v, "a", keep).send(sub(1, "none"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		w.log.Hold()
		a.send(pub("t", "1", 2, 1))
		synctest.Wait()
		b := w.connect(v, "a", keep).send(again(pub("t", "1", 2, 1)))
		b.wants("connack 0x00 present")
		w.log.Release()
		b.wants("pubrec 1 0x00")
		w.log.Hold()
		b.send(pubrel(1))
		synctest.Wait()
		c := w.connect(v, "a", keep).send(pubrel(1))
		c.wants("connack 0x00 present")
		w.log.Release()
		c.wants("pubcomp 1 0x00")
		if got := w.stored(); got != "1" {
			w.t.Errorf("the log has %q", got)
		}
	})
}

func TestAReleaseBeforeTheAnswerIsAProtocolError(t *testing.T) {
	story(t, func(w *world) {
		a := w.connect(packet.V5, "a", keep).send(sub(1, "none"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		w.log.Hold()
		a.send(pub("t", "1", 2, 1), pubrel(1))
		a.wants("disconnect 0x82", "closed")
		w.log.Release()
	})
}

func TestARefusedPublishLeavesNoIdentifier(t *testing.T) {
	story(t, func(w *world) {
		a := w.connect(packet.V5, "a", keep).send(sub(1, "none"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		w.log.Fail(fmt.Errorf("disk at its reserve: %w", mqtt.ErrFull))
		a.send(pub("t", "1", 2, 1), pub("$SYS/x", "1", 2, 2), pub(strings.Repeat("a/", 70), "1", 2, 3))
		a.wants("pubrec 1 0x97", "pubrec 2 0x90", "pubrec 3 0x90")
		b := w.connect(packet.V311, "b").send(pub("t", "0", 2, 1))
		b.wants("connack 0x00")
		time.Sleep(2 * time.Second)
		b.wants()
		b.conn.Close() // and with it what waits
		synctest.Wait()
		w.log.Fail(nil)
		a.send(pub("t", "2", 2, 1), pubrel(2))
		a.wants("pubrec 1 0x00", "pubcomp 2 0x92")
		w.log.Fail(mqtt.ErrFull)
		a.send(pubrel(1))
		a.wants() // no PUBCOMP for what is not durable
		time.Sleep(2 * time.Second)
		a.wants("disconnect 0x97", "closed")
		w.log.Fail(nil)
		w.connect(packet.V5, "a", keep).send(pubrel(1)).wants("connack 0x00 present", "pubcomp 1 0x00")
	})
}

func TestIdentifiersAreBounded(t *testing.T) {
	story(t, func(w *world) {
		a := w.connect(packet.V5, "a", keep)
		synctest.Wait()
		for id := range uint16(4096) {
			a.send(pub("t", "", 2, id+1))
		}
		synctest.Wait()
		a.send(again(pub("t", "", 2, 4096)), pub("t", "", 2, 4097))
		synctest.Wait()
		for len(a.got) > 2 {
			<-a.got
		}
		a.wants("pubrec 4096 0x00", "disconnect 0x93", "closed")
	})
	story(t, func(w *world) {
		state, err := budget.New(2000).Share("state", 2000)
		if err != nil {
			t.Fatal(err)
		}
		w.cfg.State = state
		a := w.connect(packet.V5, "a", keep)
		a.wants("connack 0x00")
		stored, refused := 0, 0
		for id := uint16(1); refused == 0; id++ {
			a.send(pub("t", "", 2, id))
			synctest.Wait()
			if (<-a.got).(*packet.Ack).Reason == packet.QuotaExceeded {
				refused++
			} else if stored++; stored > 1000 {
				t.Fatal("nothing is refused")
			}
		}
		a.send(pubrel(1), pub("t", "", 2, 1))
		a.wants("pubcomp 1 0x00", "pubrec 1 0x00")
		w.connect(packet.V5, "a").wants("connack 0x00") // a clean start: all of it is free again
		synctest.Wait()
		if got := w.live(); len(got) != 0 {
			t.Errorf("the sessions topic has %q", got)
		}
	})
}

func TestWhatIsOfASessionEndsWithIt(t *testing.T) {
	expire := func(w *world, a *peer) {
		a.conn.Close()
		time.Sleep(2 * time.Hour)
	}
	clean := func(w *world, _ *peer) { w.connect(packet.V5, "a") }
	disconnect := func(_ *world, a *peer) {
		a.send(&packet.Disconnect{Properties: &packet.Properties{Present: packet.Of(packet.SessionExpiry)}})
	}
	for name, end := range map[string]func(*world, *peer){"expiry": expire, "clean start": clean, "disconnect": disconnect} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprint(name, restart), func(t *testing.T) {
				story(t, func(w *world) {
					a := w.connect(packet.V5, "a", keep).send(pub("t", "x", 2, 1), pub("t", "y", 2, 2), sub2(1, "t"))
					a.wants("connack 0x00", "pubrec 1 0x00", "pubrec 2 0x00", "suback 1 [0x02]")
					w.produce("t", "1", "2")
					a.wants(`publish t "1" q2 id1`, `publish t "2" q2 id2`)
					if got := w.live(); len(got) != 4 {
						t.Errorf("the sessions topic has %q", got)
					}
					if restart {
						w.crashNow()
						a = w.connect(packet.V5, "a", keep)
						a.wants("connack 0x00 present", `publish t "1" q2 id1 dup`, `publish t "2" q2 id2 dup`)
					}
					end(w, a)
					synctest.Wait()
					if got := w.live(); len(got) != 0 {
						t.Errorf("the sessions topic has %q", got)
					}
					w.crashNow()
					a = w.connect(packet.V5, "a", keep).send(pubrel(1))
					a.wants("connack 0x00", "pubcomp 1 0x92")
				})
			})
		}
	}
}

func TestWhatAnEndedSessionLeftIsSweptAtTheStart(t *testing.T) {
	story(t, func(w *world) {
		a := w.connect(packet.V5, "a", keep).send(pub("t", "x", 2, 1), sub2(1, "t"))
		a.wants("connack 0x00", "pubrec 1 0x00", "suback 1 [0x02]")
		w.produce("t", "1")
		a.wants(`publish t "1" q2 id1`)
		w.log.Produce("__mqtt_sessions", 0, record.Record{Key: []byte("a")})
		w.crashNow()
		synctest.Wait()
		if got := w.live(); len(got) != 0 {
			t.Errorf("the sessions topic has %q", got)
		}
		w.connect(packet.V5, "a", keep).send(pubrel(1)).wants("connack 0x00", "pubcomp 1 0x92")
	})
}

func TestARetainedMessageOfQoS2IsOneGroup(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		a := w.connect(v, "a", keep).send(sub(1, "none"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		retained := func(body string, id uint16) *packet.Publish {
			p := pub("t", body, 2, id)
			p.Retain = true
			return p
		}
		a.send(retained("0", 9))
		a.wants("pubrec 9 0x00")
		before := w.log.Commits()
		a.send(retained("1", 1))
		a.wants("pubrec 1 0x00")
		if n := w.log.Commits() - before; n != 1 {
			w.t.Errorf("%d commits", n)
		}
		b := w.connect(v, "b").send(sub2(1, "t"))
		b.wants("connack 0x00", "suback 1 [0x02]", `publish t "1" q2 id1 retain`)
		a.send(retained("", 2), retained("", 3))
		a.wants("pubrec 2 0x00", "pubrec 3 0x00")
		w.connect(v, "c").send(sub2(1, "t")).wants("connack 0x00", "suback 1 [0x02]")
	})
}

func TestAWillOfQoS2(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		s := w.connect(v, "s").send(sub2(1, "w"))
		s.wants("connack 0x00", "suback 1 [0x02]")
		a := w.connect(v, "a", func(c *packet.Connect) {
			c.Will = &packet.Will{Topic: "w", Payload: []byte("gone"), QoS: 2}
		})
		a.wants("connack 0x00")
		a.conn.Close()
		s.wants(`publish w "gone" q2 id1`)
	})
}

// [MQTT-3.8.4-8] [MQTT-3.3.4-2]
func TestTheLowerQoSCounts(t *testing.T) {
	for _, change := range []func(*packet.Connect){keep, func(*packet.Connect) {}} {
		both(t, func(w *world, v packet.Version) {
			p := w.connect(v, "p")
			p.wants("connack 0x00")
			for granted := range byte(3) {
				s := w.connect(v, fmt.Sprint("s", granted), change)
				s.send(&packet.Subscribe{ID: 1, Filters: []packet.Subscription{
					{Filter: fmt.Sprint(granted, "/+"), QoS: granted}, {Filter: fmt.Sprint(granted, "/#"), QoS: 0},
				}})
				s.wants("connack 0x00", fmt.Sprintf("suback 1 [0x0%d 0x00]", granted))
				id := 0
				for qos := range byte(3) {
					topic := fmt.Sprint(granted, "/", qos)
					p.send(pub(topic, "x", qos, uint16(min(qos, 1))), pubrel(1))
					want := fmt.Sprintf(`publish %s "x" q%d`, topic, min(qos, granted))
					if min(qos, granted) > 0 {
						id++
						want += fmt.Sprint(" id", id)
					}
					s.wants(want)
				}
			}
		})
	}
}

// Releases, and their repetitions, are on their way as publishes are: no more of them than the receive maximum.
func TestReleasesFasterThanTheDiskAreReadSlowly(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		w.cfg.ReceiveMaximum = 4
		a := w.connect(v, "a", keep).send(pub("t", "1", 2, 1))
		a.wants("connack 0x00", "pubrec 1 0x00")
		w.log.Hold()
		var all []packet.Packet
		for range 10 {
			all = append(all, pubrel(1))
		}
		a.sendSlowly(append(all, &packet.Ping{})...)
		a.wants() // and the ping behind them is not read
		w.log.Release()
		got := map[string]int{}
		for _, p := range a.take() {
			got[p]++
		}
		// Those that came while the first was on its way are answered as it is, later ones find nothing.
		if n := got["pubcomp 1 0x00"] + got["pubcomp 1 0x92"]; n != 10 || got["pingresp"] != 1 || got["pubcomp 1 0x00"] < 4 {
			t.Errorf("got %v", got)
		}
	})
}

// However often a client says that it has a message, one PUBREL waits for the disk.
func TestRepeatedPubrecsAreAnsweredOnceByWhatWaits(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		a := w.connect(v, "a", keep).send(sub2(1, "t"))
		a.wants("connack 0x00", "suback 1 [0x02]")
		w.produce("t", "1")
		a.wants(`publish t "1" q2 id1`)
		w.log.Hold()
		for range 100 {
			a.send(pubrec(1))
		}
		a.wants()
		w.log.Release()
		a.wants("pubrel 1 0x00")
		a.send(pubrec(1)) // and now it is sent again
		a.wants("pubrel 1 0x00")
		a.send(pubcomp(1))
		a.wants()
	})
}
