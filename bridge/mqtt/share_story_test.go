package mqtt_test

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/mqtt/packet"
	"millrace/broker/auth"
)

// Shared subscriptions (4.8.2), clause by clause. crash_story_test.go crashes them at every point, random_story_test.go
// has them meet everything else.

func withID(s *packet.Subscribe, id uint32) *packet.Subscribe {
	s.Properties = &packet.Properties{Present: packet.Of(packet.SubscriptionID), SubscriptionIDs: []uint32{id}}
	return s
}

// One member gets each message, in turns, and 3.1.1 shares as well. Who subscribed for itself gets all of them.
func TestASharedSubscriptionTakesTurns(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		a := w.connect(v, "a").send(sub(1, "$share/g/t/#"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		b := w.connect(packet.V311, "b").send(sub(1, "$share/g/t/#"))
		b.wants("connack 0x00", "suback 1 [0x01]")
		all := w.connect(v, "all").send(sub(1, "t/+"))
		all.wants("connack 0x00", "suback 1 [0x01]")
		w.produce("t/x", "1", "2", "3", "4", "5")
		a.wants(`publish t/x "1" q1 id1`, `publish t/x "3" q1 id2`, `publish t/x "5" q1 id3`)
		b.wants(`publish t/x "2" q1 id1`, `publish t/x "4" q1 id2`)
		all.wants(`publish t/x "1" q1 id1`, `publish t/x "2" q1 id2`, `publish t/x "3" q1 id3`, `publish t/x "4" q1 id4`, `publish t/x "5" q1 id5`)
	})
}

// A name has a character and none of / + #, and a filter follows it [MQTT-4.8.2-1] [MQTT-4.8.2-2]. No Local is a protocol error
// on it [MQTT-3.8.3-4].
func TestNamesOfSharedSubscriptions(t *testing.T) {
	story(t, func(w *world) {
		filters := []string{"$share//t", "$share/g", "$share/g/", "$share/g+/t", "$share/g#/t", "$share/+/t", "$share/g/t#", "$share/g/$SYS/#", "$share/g//t", "$share/ü/+"}
		a := w.connect(packet.V5, "a").send(sub(1, filters...))
		a.wants("connack 0x00", "suback 1 [0x8F 0x8F 0x8F 0x8F 0x8F 0x8F 0x8F 0x83 0x01 0x01]")
		a.send(&packet.Unsubscribe{ID: 2, Filters: filters[7:]})
		a.wants("unsuback 2 [0x11 0x00 0x00]")
		b := w.connect(packet.V311, "b").send(sub(1, filters[6:]...))
		b.wants("connack 0x00", "suback 1 [0x80 0x80 0x01 0x01]")
		a.send(&packet.Subscribe{ID: 3, Filters: []packet.Subscription{{Filter: "$share/g/t", NoLocal: true}}})
		a.wants("disconnect 0x82", "closed")
	})
}

// Each member has the QoS it was granted [MQTT-4.8.2-3], its subscription identifier and its Retain As Published.
func TestEachMemberAsItWasGranted(t *testing.T) {
	story(t, func(w *world) {
		r := pub("t", "old", 1, 1)
		r.Retain = true
		p := w.connect(packet.V5, "p").send(r)
		p.wants("connack 0x00", "puback 1 0x00")
		// No retained messages are sent for it (4.8.2), whatever Retain Handling says.
		a := w.connect(packet.V5, "a").send(withID(sub2(1, "$share/g/t"), 7))
		a.wants("connack 0x00", "suback 1 [0x02]")
		q0 := &packet.Subscribe{ID: 1, Filters: []packet.Subscription{{Filter: "$share/g/t", RetainAsPublished: true}}}
		b := w.connect(packet.V5, "b").send(withID(q0, 300))
		b.wants("connack 0x00", "suback 1 [0x00]")
		for i := range 4 {
			m := pub("t", fmt.Sprint(i), 2, uint16(10+i))
			m.Retain = true
			p.send(m)
			synctest.Wait()
		}
		a.wants(`publish t "0" q2 id1 subs[7]`, `publish t "2" q2 id2 subs[7]`)
		b.wants(`publish t "1" q0 retain subs[300]`, `publish t "3" q0 retain subs[300]`)
		// A changed subscription is the same member.
		b.send(sub(2, "$share/g/t"))
		b.wants("suback 2 [0x01]")
		w.produce("t", "4", "5")
		a.wants(`publish t "4" q2 id3 subs[7]`)
		b.wants(`publish t "5" q1 id1`)
	})
}

// Two groups get a message each, a group beside a subscription of one's own is two copies, and so are two shared
// subscriptions of one client: they are subscriptions of their own (4.8.2).
func TestSharedSubscriptionsBesideOthers(t *testing.T) {
	story(t, func(w *world) {
		a := w.connect(packet.V5, "a").send(
			withID(sub(1, "$share/g/t/#"), 1), withID(sub(2, "$share/g/t/+"), 2), withID(sub(3, "$share/h/t/#"), 3), withID(sub(4, "t/1"), 4))
		a.wants("connack 0x00", "suback 1 [0x01]", "suback 2 [0x01]", "suback 3 [0x01]", "suback 4 [0x01]")
		w.produce("t/1", "x")
		var subs []string
		for _, m := range a.take() {
			subs = append(subs, m[strings.Index(m, "subs"):])
		}
		if slices.Sort(subs); !slices.Equal(subs, []string{"subs[1]", "subs[2]", "subs[3]", "subs[4]"}) {
			t.Errorf("got %q", subs)
		}
	})
}

// A member without room is passed over: the others get on.
func TestASlowMemberHoldsUpNobody(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		w.cfg.MaxInflight = 1
		slow := w.connect(v, "slow").send(sub(1, "$share/g/t"))
		slow.wants("connack 0x00", "suback 1 [0x01]")
		quick := w.connect(v, "quick").send(sub(1, "$share/g/t"))
		quick.wants("connack 0x00", "suback 1 [0x01]")
		w.produce("t", "0", "1", "2", "3", "4", "5")
		slow.wants(`publish t "0" q1 id1`)
		for i := 1; i < 5; i++ {
			quick.wants(fmt.Sprintf(`publish t "%d" q1 id%d`, i, i))
			quick.send(ack(uint16(i)))
		}
		quick.wants(`publish t "5" q1 id5`)
		// With nobody's room the group is behind on the log, and goes on with whoever has some.
		w.produce("t", "6", "7")
		quick.wants()
		slow.send(ack(1))
		slow.wants(`publish t "6" q1 id2`)
		slow.send(ack(2))
		slow.wants(`publish t "7" q1 id3`)
	})
}

// A client that refuses a message has had it: nobody else gets it [MQTT-4.8.2-6].
func TestARefusedSharedMessageIsOver(t *testing.T) {
	story(t, func(w *world) {
		w.cfg.MaxInflight = 1
		a := w.connect(packet.V5, "a", keep).send(sub2(1, "$share/g/t"))
		a.wants("connack 0x00", "suback 1 [0x02]")
		b := w.connect(packet.V5, "b", keep).send(sub(1, "$share/g/t"))
		b.wants("connack 0x00", "suback 1 [0x01]")
		w.produce("t", "1", "2")
		a.wants(`publish t "1" q2 id1`)
		b.wants(`publish t "2" q1 id1`)
		a.send(&packet.Ack{Kind: packet.PUBREC, ID: 1, Reason: packet.QuotaExceeded})
		b.send(&packet.Ack{Kind: packet.PUBACK, ID: 1, Reason: packet.QuotaExceeded})
		a.wants()
		b.wants()
		a.send(&packet.Disconnect{})
		a.wants("closed")
		b.send(&packet.Disconnect{})
		b.wants("closed")
		w.restart()
		w.connect(packet.V5, "a", keep).wants("connack 0x00 present")
		w.connect(packet.V5, "b", keep).wants("connack 0x00 present")
	})
}

// When a connection ends, what it had with QoS 1 goes to another member at once, or waits for one. What it had with QoS 2 is
// completed with it when it is back [MQTT-4.8.2-4], and goes to nobody when its session ends first [MQTT-4.8.2-5].
func TestWhatAMemberHadWhenItLeft(t *testing.T) {
	for name, end := range map[string]func(*world, *peer){
		"closed":     func(_ *world, a *peer) { a.conn.Close() },
		"disconnect": func(_ *world, a *peer) { a.send(&packet.Disconnect{}) },
		"crash": func(w *world, _ *peer) {
			w.crashNow()
			w.connect(packet.V5, "b", keep) // takes what it had itself
			synctest.Wait()
		},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(w *world, v packet.Version) {
				a := w.connect(v, "a", keep).send(sub2(1, "$share/g/t"))
				a.wants("connack 0x00", "suback 1 [0x02]")
				b := w.connect(v, "b", keep).send(sub2(1, "$share/g/t"))
				b.wants("connack 0x00", "suback 1 [0x02]")
				p := w.connect(v, "p")
				p.wants("connack 0x00")
				for i, qos := range []byte{2, 2, 1, 1, 2, 2, 1, 1} {
					p.send(pub("t", fmt.Sprint(i), qos, uint16(i+1)))
					synctest.Wait()
				}
				a.wants(`publish t "0" q2 id1`, `publish t "2" q1 id2`, `publish t "4" q2 id3`, `publish t "6" q1 id4`)
				b.wants(`publish t "1" q2 id1`, `publish t "3" q1 id2`, `publish t "5" q2 id3`, `publish t "7" q1 id4`)
				a.send(pubrec(1))
				a.wants("pubrel 1 0x00")
				b.send(ack(2), ack(4), pubrec(1), pubrec(3))
				synctest.Wait()
				b.send(pubcomp(1), pubcomp(3))
				b.wants("pubrel 1 0x00", "pubrel 3 0x00")
				end(w, a)
				if name == "crash" {
					// The acknowledgements of QoS 1 were not durable; b has been given all of them, in turns with nobody.
					a = w.connect(v, "a", keep)
					a.wants("connack 0x00 present", "pubrel 1 0x00", `publish t "4" q2 id3 dup`)
					return
				}
				b.wants(`publish t "2" q1 id5`, `publish t "6" q1 id6`)
				a = w.connect(v, "a", keep)
				a.wants("connack 0x00 present", "pubrel 1 0x00", `publish t "4" q2 id3 dup`)
				a.send(&packet.Disconnect{})
				a.wants("closed")
				w.connect(v, "a").wants("connack 0x00") // clean start
				b.wants()
			})
		})
	}
}

// What nobody could take over waits for the next member, and the group is there while a session is, connected or not.
func TestAGroupWaitsForItsMembers(t *testing.T) {
	for name, stop := range map[string]func(*world){"": func(*world) {}, "restart": (*world).restart, "crash": (*world).crashNow} {
		t.Run(name, func(t *testing.T) {
			both(t, func(w *world, v packet.Version) {
				a := w.connect(v, "a", keep).send(sub(1, "$share/g/t"))
				a.wants("connack 0x00", "suback 1 [0x01]")
				w.produce("t", "1", "2")
				a.wants(`publish t "1" q1 id1`, `publish t "2" q1 id2`)
				a.send(ack(1))
				synctest.Wait()
				a.conn.Close()
				synctest.Wait()
				w.produce("t", "3")
				stop(w)
				w.produce("t", "4")
				b := w.connect(v, "b").send(sub(1, "$share/g/t"))
				got := b.take()
				// Messages may come before SUBACK (3.8.4).
				got = slices.DeleteFunc(got, func(s string) bool { return s == "suback 1 [0x01]" })
				if g := strings.Join(got, ", "); g != `connack 0x00, publish t "2" q1 id1, publish t "3" q1 id2, publish t "4" q1 id3` {
					w.t.Errorf("b got %s", g)
				}
				b.conn.Close() // a session that ends with its connection
				synctest.Wait()
				a = w.connect(v, "a", keep)
				a.wants("connack 0x00 present", `publish t "2" q1 id3`, `publish t "3" q1 id4`, `publish t "4" q1 id5`)
				a.send(ack(3), ack(4), ack(5), &packet.Unsubscribe{ID: 9, Filters: []string{"$share/g/t"}})
				synctest.Wait()
				if slices.ContainsFunc(w.live(), func(key string) bool { return strings.HasPrefix(key, "\x00") }) {
					w.t.Errorf("the sessions topic has %q", w.live())
				}
				// It ended with its last member, and so did its place.
				w.produce("t", "5")
				stop(w)
				c := w.connect(v, "c").send(sub(1, "$share/g/t"))
				c.wants("connack 0x00", "suback 1 [0x01]")
				w.produce("t", "6")
				c.wants(`publish t "6" q1 id1`)
			})
		})
	}
}

// A guest's session ends with a crash of the server: what it had not acknowledged goes to a member that is left.
func TestWhatAGuestHadComesAgainAfterACrash(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		a := w.connect(v, "a", keep).send(sub2(1, "$share/g/t"))
		a.wants("connack 0x00", "suback 1 [0x02]")
		guest := w.connect(v, "guest").send(sub(1, "$share/g/t"))
		guest.wants("connack 0x00", "suback 1 [0x01]")
		w.produce("t", "1", "2", "3", "4")
		a.wants(`publish t "1" q2 id1`, `publish t "3" q2 id2`)
		guest.wants(`publish t "2" q1 id1`, `publish t "4" q1 id2`)
		w.crashNow()
		w.connect(v, "a", keep).wants("connack 0x00 present", `publish t "1" q2 id1 dup`, `publish t "3" q2 id2 dup`,
			`publish t "2" q2 id3`, `publish t "4" q2 id4`)
	})
}

// Deliveries that had begun are completed after UNSUBSCRIBE [MQTT-3.10.4-3], and nothing new comes [MQTT-3.10.4-2].
func TestAMemberUnsubscribesWithDeliveriesOnTheirWay(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		a := w.connect(v, "a", keep).send(sub2(1, "$share/g/t"))
		a.wants("connack 0x00", "suback 1 [0x02]")
		b := w.connect(v, "b", keep).send(sub2(1, "$share/g/t"))
		b.wants("connack 0x00", "suback 1 [0x02]")
		w.produce("t", "1", "2")
		a.wants(`publish t "1" q2 id1`)
		b.wants(`publish t "2" q2 id1`)
		a.send(&packet.Unsubscribe{ID: 2, Filters: []string{"$share/g/t"}})
		want := "unsuback 2 [0x00]"
		if v != packet.V5 {
			want = "unsuback 2 []"
		}
		a.wants(want)
		w.produce("t", "3")
		b.wants(`publish t "3" q2 id2`)
		w.crashNow()
		a = w.connect(v, "a", keep)
		a.wants("connack 0x00 present", `publish t "1" q2 id1 dup`)
		a.send(pubrec(1))
		a.wants("pubrel 1 0x00")
		a.send(pubcomp(1))
		w.produce("t", "4")
		a.wants()
		b = w.connect(v, "b", keep)
		b.wants("connack 0x00 present", `publish t "2" q2 id1 dup`, `publish t "3" q2 id2 dup`, `publish t "4" q2 id3`)
	})
}

// A membership ends with its session, whether that expires or is discarded, and goes on with whoever takes it over.
func TestMembershipsEndWithTheirSessions(t *testing.T) {
	story(t, func(w *world) {
		short := func(c *packet.Connect) { props(c, packet.SessionExpiry).SessionExpiry = 60 }
		a := w.connect(packet.V5, "a", short).send(sub(1, "$share/g/t"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		w.produce("t", "1")
		a.wants(`publish t "1" q1 id1`)
		again := w.connect(packet.V5, "a", keep, short) // takes over
		again.wants("connack 0x00 present", `publish t "1" q1 id2`)
		again.conn.Close()
		synctest.Wait()
		w.produce("t", "2")
		time.Sleep(61 * time.Second)
		b := w.connect(packet.V5, "b").send(sub(1, "$share/g/t"))
		b.wants("connack 0x00", "suback 1 [0x01]") // a group of its own
		w.produce("t", "3")
		b.wants(`publish t "3" q1 id1`)
		if keys := w.live(); len(keys) != 0 {
			t.Errorf("the sessions topic has %q", keys)
		}
	})
}

// A message larger than one member takes goes to one that takes it; one that none takes is over [MQTT-3.1.2-25].
func TestALargeMessageForAGroup(t *testing.T) {
	story(t, func(w *world) {
		a := w.connect(packet.V5, "a", func(c *packet.Connect) { props(c, packet.MaximumPacketSize).MaximumPacketSize = 40 }).send(sub(1, "$share/g/t"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		large := strings.Repeat("x", 100)
		w.produce("t", large, "1")
		a.wants(`publish t "1" q1 id2`)
		b := w.connect(packet.V5, "b").send(sub(1, "$share/g/t"))
		b.wants("connack 0x00", "suback 1 [0x01]")
		w.produce("t", large, large)
		a.wants()
		b.wants(fmt.Sprintf("publish t %q q1 id1", large), fmt.Sprintf("publish t %q q1 id2", large))
	})
}

// A group more, and a member more of a group, are refused. What ended makes room.
func TestLimitsOfGroups(t *testing.T) {
	story(t, func(w *world) {
		w.cfg.MaxGroups, w.cfg.MaxGroupMembers = 2, 2
		state := &meter{Budget: share(t, 1<<20)}
		w.cfg.State = state
		for i := range 3 {
			p := w.connect(packet.V5, fmt.Sprint("member", i)).send(sub(1, "$share/g/t", "$share/h/t", "$share/i/t"))
			if i < 2 {
				p.wants("connack 0x00", "suback 1 [0x01 0x01 0x97]")
			} else {
				p.wants("connack 0x00", "suback 1 [0x97 0x97 0x97]")
			}
			p.send(&packet.Unsubscribe{ID: 2, Filters: []string{"$share/none/t"}})
			p.wants("unsuback 2 [0x11]")
		}
		a := w.connect(packet.V5, "member0")
		a.wants("connack 0x00")
		b := w.connect(packet.V5, "member1")
		b.wants("connack 0x00")
		b.send(sub(1, "$share/j/t"))
		b.wants("suback 1 [0x01]") // the others are gone
	})
}

// However much a group without members has before it, it holds a place in the log and nothing else.
func TestABacklogOfAGroupCostsNoMemory(t *testing.T) {
	story(t, func(w *world) {
		a := w.connect(packet.V311, "a", keep).send(sub(1, "$share/g/t"), &packet.Disconnect{})
		a.wants("connack 0x00", "suback 1 [0x01]", "closed")
		const batch, batches = 1000, 100
		bodies := make([]string, batch)
		fill := func(n int) int64 {
			for range n {
				w.produce("t", bodies...)
				synctest.Wait()
			}
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			return int64(m.HeapAlloc)
		}
		fill(1)
		reads := w.log.Reads()
		fill(batches - 1)
		if n := w.log.Reads() - reads; n > 0 {
			t.Errorf("%d reads for nobody", n)
		}
		// The log of the tests is in memory, so the door is measured by what it lets go: nothing.
		before := fill(0)
		if err := w.s.Close(); err != nil {
			t.Fatal(err)
		}
		w.s = nil
		if held := before - fill(0); held > 256<<10 {
			t.Errorf("the server held %d bytes", held)
		}
		b := w.connect(packet.V311, "a", keep)
		got := 0
		for quiet := false; !quiet; {
			synctest.Wait()
			quiet = true
			for len(b.got) > 0 {
				if m, ok := (<-b.got).(*packet.Publish); ok {
					b.send(ack(m.ID))
					got++
				}
				quiet = false
			}
		}
		if got != batch*batches {
			t.Errorf("%d messages came, of %d", got, batch*batches)
		}
	})
}

// READ is asked for the filter that is shared, and again for each message: a member that may not have it is passed over.
func TestAGroupIsReadByPermission(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		no := "0x87"
		if v == packet.V311 {
			no = "0x80"
		}
		w.permitted(allow("ann", auth.Read, "mqtt:part/#"), deny(allow("ann", auth.Read, "mqtt:part/secret")), allow("bob", auth.All, "*"))
		ann := w.connect(v, "a", as("ann", "a")).send(sub(1, "$share/g/part/#", "$share/g/other", "$share/h/part/secret"))
		ann.wants("connack 0x00", "suback 1 [0x01 "+no+" "+no+"]")
		bob := w.connect(v, "b", as("bob", "b")).send(sub(1, "$share/g/part/#"))
		bob.wants("connack 0x00", "suback 1 [0x01]")
		w.produce("part/open", "1", "2", "3")
		w.produce("part/secret", "4", "5")
		ann.wants(`publish part/open "1" q1 id1`, `publish part/open "3" q1 id2`)
		bob.wants(`publish part/open "2" q1 id1`, `publish part/secret "4" q1 id2`, `publish part/secret "5" q1 id3`)
	})
}

// Certificates of Sparkplug nodes are messages as any other: one member hears of each.
func TestCertificatesAreShared(t *testing.T) {
	story(t, func(w *world) {
		a := w.connect(packet.V5, "a").send(sub(1, "$share/g/$sparkplug/certificates/#"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		b := w.connect(packet.V5, "b").send(sub(1, "$share/g/$sparkplug/certificates/#"))
		b.wants("connack 0x00", "suback 1 [0x01]")
		edge := w.connect(packet.V5, "edge").send(pub("spBv1.0/G/NBIRTH/E", nbirth, 0, 0), pub("spBv1.0/G/NBIRTH/F", nbirth, 0, 0))
		edge.wants("connack 0x00")
		if one, other := a.take(), b.take(); len(one) != 1 || len(other) != 1 {
			t.Errorf("one got %q, the other %q", one, other)
		}
	})
}

// What a former member completed is nobody else's, and what a session took with it, neither: also after a crash
// [MQTT-4.8.2-5]. An acknowledgement of QoS 1 is durable with the next checkpoint.
func TestWhatIsOverStaysOver(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		a := w.connect(v, "a", keep).send(sub2(1, "$share/g/t"))
		a.wants("connack 0x00", "suback 1 [0x02]")
		b := w.connect(v, "b", keep).send(sub(1, "$share/g/t"))
		b.wants("connack 0x00", "suback 1 [0x01]")
		guest := w.connect(v, "guest").send(sub2(1, "$share/g/t"))
		guest.wants("connack 0x00", "suback 1 [0x02]")
		w.produce("t", "1", "2", "3")
		a.wants(`publish t "1" q2 id1`)
		b.wants(`publish t "2" q1 id1`)
		guest.wants(`publish t "3" q2 id1`)
		a.send(&packet.Unsubscribe{ID: 2, Filters: []string{"$share/g/t"}}, pubrec(1))
		synctest.Wait()
		a.send(pubcomp(1))
		synctest.Wait()
		a.send(&packet.Disconnect{})
		guest.conn.Close()
		time.Sleep(time.Minute + time.Second)
		b.send(ack(1))
		time.Sleep(time.Minute)
		w.crashNow()
		w.connect(v, "b", keep).wants("connack 0x00 present")
		w.connect(v, "a", keep).wants("connack 0x00 present")
	})
}

// Nor does a crash right after a former member is through with its messages bring them to others.
func TestAFormerMemberIsThroughWithItsMessages(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		b := w.connect(v, "b", keep).send(sub2(1, "$share/g/t"), &packet.Disconnect{})
		b.wants("connack 0x00", "suback 1 [0x02]", "closed")
		a := w.connect(v, "a", keep).send(sub2(1, "$share/g/t"))
		a.wants("connack 0x00", "suback 1 [0x02]")
		w.produce("t", "1")
		a.wants(`publish t "1" q2 id1`)
		a.send(&packet.Unsubscribe{ID: 2, Filters: []string{"$share/g/t"}}, pubrec(1))
		synctest.Wait()
		a.send(pubcomp(1))
		synctest.Wait()
		a.send(&packet.Disconnect{})
		synctest.Wait()
		w.crashNow()
		w.connect(v, "b", keep).wants("connack 0x00 present")
	})
}
