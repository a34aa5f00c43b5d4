package mqtt_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/mqtt/packet"
	"millrace/bridge/payload"
)

func TestRetained(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		keepIt := func(topic, body string, id uint16) *packet.Publish {
			p := pub(topic, body, 1, id)
			p.Retain = true
			return p
		}
		s := w.connect(v, "s").send(sub(1, "r/#"))
		s.wants("connack 0x00", "suback 1 [0x01]")
		p := w.connect(v, "p").send(keepIt("r/1", "a", 1), keepIt("r/2", "b", 2), keepIt("r/1", "c", 3), keepIt("q", "d", 4), keepIt("r/3", "e", 5), keepIt("r/3", "", 6))
		p.wants("connack 0x00", "puback 1 0x00", "puback 2 0x00", "puback 3 0x00", "puback 4 0x00", "puback 5 0x00", "puback 6 0x00")
		// Live messages come without RETAIN, the empty one like any other.
		s.wants(`publish r/1 "a" q1 id1`, `publish r/2 "b" q1 id2`, `publish r/1 "c" q1 id3`, `publish r/3 "e" q1 id4`, `publish r/3 "" q1 id5`)
		for range 2 {
			a := w.connect(v, "a").send(sub(1, "r/+"))
			a.wants("connack 0x00", "suback 1 [0x01]", `publish r/2 "b" q1 id1 retain`, `publish r/1 "c" q1 id2 retain`)
			a.send(sub(2, "r/1"))
			a.wants("suback 2 [0x01]", `publish r/1 "c" q1 id3 retain`)
			a.send(sub(3, "nothing"))
			a.wants("suback 3 [0x01]")
			w.restart()
		}
	})
}

// [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11] [MQTT-3.3.1-12] [MQTT-3.3.1-13]
func TestRetainHandlingAndAsPublished(t *testing.T) {
	story(t, func(w *world) {
		r := pub("r", "x", 0, 0)
		r.Retain = true
		p := w.connect(packet.V5, "p").send(r)
		p.wants("connack 0x00")
		with := func(id uint16, handling byte, asIs bool) *packet.Subscribe {
			return &packet.Subscribe{ID: id, Filters: []packet.Subscription{{Filter: "r", RetainHandling: handling, RetainAsPublished: asIs}}}
		}
		a := w.connect(packet.V5, "a").send(with(1, 2, true))
		a.wants("connack 0x00", "suback 1 [0x00]")
		a.send(with(2, 1, true))
		a.wants("suback 2 [0x00]") // not new
		p.send(r)
		a.wants(`publish r "x" q0 retain`)
		a.send(with(3, 0, false))
		a.wants("suback 3 [0x00]", `publish r "x" q0 retain`)
		p.send(r)
		a.wants(`publish r "x" q0`)
		w.connect(packet.V5, "b").send(with(1, 1, false)).wants("connack 0x00", "suback 1 [0x00]", `publish r "x" q0 retain`)
	})
}

func withWill(delay uint32) func(*packet.Connect) {
	return func(c *packet.Connect) {
		c.Will = &packet.Will{Topic: "will", Payload: []byte("gone"), QoS: 1}
		if delay > 0 {
			c.Will.Properties = &packet.Properties{Present: packet.Of(packet.WillDelay), WillDelay: delay}
		}
	}
}

func TestWills(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		s := w.connect(v, "s").send(sub(1, "will"))
		s.wants("connack 0x00", "suback 1 [0x01]")
		a := w.connect(v, "a", withWill(0)).send(&packet.Disconnect{})
		a.wants("connack 0x00", "closed")
		s.wants()
		a = w.connect(v, "a", withWill(0))
		a.wants("connack 0x00")
		a.conn.Close()
		s.wants(`publish will "gone" q1 id1`)
		w.connect(v, "a", withWill(0)).send(pub("", "", 0, 0)) // a protocol error
		s.wants(`publish will "gone" q1 id2`)
		a = w.connect(v, "a", withWill(0))
		a.wants("connack 0x00")
		w.connect(v, "a", keep)
		s.wants(`publish will "gone" q1 id3`) // taken over
		if v == packet.V5 {
			a = w.connect(v, "b", withWill(0)).send(&packet.Disconnect{Reason: packet.DisconnectWithWill})
			a.wants("connack 0x00", "closed")
			s.wants(`publish will "gone" q1 id4`)
		}
	})
}

// [MQTT-3.1.3-9] [MQTT-3.1.2-8]
func TestWillDelay(t *testing.T) {
	story(t, func(w *world) {
		s := w.connect(packet.V5, "s").send(sub(1, "will"))
		s.wants("connack 0x00", "suback 1 [0x01]")
		lose := func() {
			a := w.connect(packet.V5, "a", keep, withWill(10))
			synctest.Wait()
			a.conn.Close()
			synctest.Wait()
		}
		lose()
		time.Sleep(9 * time.Second)
		s.wants()
		lose() // back in time: the first will is not sent
		time.Sleep(9 * time.Second)
		s.wants()
		time.Sleep(time.Second)
		s.wants(`publish will "gone" q1 id1`)
		a := w.connect(packet.V5, "b", withWill(10)) // its session ends with the connection, and the will's delay with it
		synctest.Wait()
		a.conn.Close()
		s.wants(`publish will "gone" q1 id2`)
		lose()
		w.connect(packet.V5, "a") // clean start ends the session
		s.wants(`publish will "gone" q1 id3`)
	})
}

// [MQTT-3.1.2-22] to the nanosecond.
func TestKeepAliveAndConnectTimeout(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		mute := w.dial(v)
		time.Sleep(10*time.Second - 1)
		mute.wants()
		time.Sleep(time.Nanosecond)
		mute.wants("closed")
		a := w.connect(v, "a", func(c *packet.Connect) { c.KeepAlive = 10 })
		for range 5 {
			time.Sleep(14 * time.Second)
			a.send(&packet.Ping{})
		}
		a.wants("connack 0x00", "pingresp", "pingresp", "pingresp", "pingresp", "pingresp")
		time.Sleep(15*time.Second - 1)
		a.wants()
		time.Sleep(time.Nanosecond)
		if v == packet.V5 {
			a.wants("disconnect 0x8D", "closed")
		} else {
			a.wants("closed")
		}
	})
}

// Who may not come in is told so and closed [MQTT-3.1.4-2], so is a method nobody knows [MQTT-4.12.0-1].
func TestFirstPackets(t *testing.T) {
	story(t, func(w *world) {
		w.cfg.AllowAnonymous = false
		w.connect(packet.V311, "a").wants("connack 0x05", "closed")
		w.connect(packet.V5, "a").wants("connack 0x87", "closed")
	})
	story(t, func(w *world) {
		w.dial(packet.V5).send(&packet.Ping{}).wants("closed")
		w.connect(packet.V311, "", keep).wants("connack 0x02", "closed")
		w.connect(packet.V311, "").wants("connack 0x00")
		w.connect(packet.V5, "", keep).wants("connack 0x00")
		w.connect(packet.V5, "x", func(c *packet.Connect) { props(c, packet.AuthMethod).AuthMethod = "SCRAM" }).wants("connack 0x8C", "closed")
		w.connect(packet.V5, "x").send(&packet.Connect{Version: packet.V5}).wants("connack 0x00", "disconnect 0x82", "closed")
	})
}

// What differs from what a client may assume is told, and no Maximum QoS, because every one is served [MQTT-3.2.2-9].
func TestConnackTellsTheLimits(t *testing.T) {
	story(t, func(w *world) {
		p := w.connect(packet.V5, "")
		synctest.Wait()
		c := (<-p.got).(*packet.Connack).Properties
		if c.Has(packet.MaximumQoS) || c.Has(packet.SharedAvailable) || c.ReceiveMaximum != 64 ||
			c.MaximumPacketSize != 1000<<10 || c.TopicAliasMaximum != 16 || c.AssignedClientID == "" || c.Has(packet.RetainAvailable) {
			t.Errorf("%+v", c)
		}
	})
}

func TestProtocolErrorsCloseWithTheirReason(t *testing.T) {
	alias := func(topic string, n uint16) *packet.Publish {
		p := pub(topic, "x", 0, 0)
		p.Properties = &packet.Properties{Present: packet.Of(packet.TopicAlias), TopicAlias: n}
		return p
	}
	withID := pub("t", "x", 0, 0)
	withID.Properties = &packet.Properties{Present: packet.Of(packet.SubscriptionID), SubscriptionIDs: []uint32{1}}
	for _, tt := range []struct {
		name string
		send packet.Packet
		want string
	}{
		{"alias too high", alias("t", 17), "disconnect 0x94"},
		{"alias unknown", alias("", 3), "disconnect 0x82"},
		{"subscription id", withID, "disconnect 0x82"},
		{"empty topic", pub("", "x", 0, 0), "disconnect 0x82"},
		{"wildcard", pub("a/+", "x", 0, 0), "disconnect 0x81"},
		{"suback", &packet.Suback{ID: 1, Reasons: []packet.Reason{0}}, "disconnect 0x82"},
		{"pingresp", &packet.Ping{Response: true}, "disconnect 0x82"},
		{"auth", &packet.Auth{}, "disconnect 0x82"},
		{"too large", pub("t", strings.Repeat("x", 1<<20), 0, 0), "disconnect 0x95"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			story(t, func(w *world) {
				bystander := w.connect(packet.V5, "other")
				bystander.wants("connack 0x00")
				a := w.connect(packet.V5, "a")
				a.sendSlowly(tt.send)
				a.wants("connack 0x00", tt.want, "closed")
				bystander.send(&packet.Ping{})
				bystander.wants("pingresp")
			})
		})
	}
}

func TestTopicAliases(t *testing.T) {
	story(t, func(w *world) {
		s := w.connect(packet.V5, "s").send(sub(1, "#"))
		s.wants("connack 0x00", "suback 1 [0x01]")
		a := w.connect(packet.V5, "a")
		for _, topic := range []string{"t/1", "", "t/2", ""} {
			p := pub(topic, "x", 0, 0)
			p.Properties = &packet.Properties{Present: packet.Of(packet.TopicAlias), TopicAlias: 16}
			a.send(p)
		}
		s.wants(`publish t/1 "x" q0`, `publish t/1 "x" q0`, `publish t/2 "x" q0`, `publish t/2 "x" q0`)
	})
}

func TestSubscriptionOptions(t *testing.T) {
	story(t, func(w *world) {
		a := w.connect(packet.V5, "a").send(
			&packet.Subscribe{
				ID: 1, Filters: []packet.Subscription{{Filter: "x/#", QoS: 2}},
				Properties: &packet.Properties{Present: packet.Of(packet.SubscriptionID), SubscriptionIDs: []uint32{5}},
			},
			&packet.Subscribe{
				ID: 2, Filters: []packet.Subscription{{Filter: "x/y", QoS: 0}},
				Properties: &packet.Properties{Present: packet.Of(packet.SubscriptionID), SubscriptionIDs: []uint32{300}},
			},
			&packet.Subscribe{ID: 3, Filters: []packet.Subscription{{Filter: "own", NoLocal: true}, {Filter: "a#"}, {Filter: "$share/g/x"}, {Filter: ""}}})
		a.wants("connack 0x00", "suback 1 [0x02]", "suback 2 [0x00]", "suback 3 [0x00 0x8F 0x00 0x8F]")
		a.send(pub("own", "mine", 0, 0), pub("x/y", "1", 2-1, 1))
		synctest.Wait()
		got := map[string]bool{}
		for range 2 {
			got[show(<-a.got)] = true
		}
		if !got["puback 1 0x00"] || !got[`publish x/y "1" q1 id1 subs[5 300]`] && !got[`publish x/y "1" q1 id1 subs[300 5]`] {
			t.Errorf("got %v", got)
		}
		w.connect(packet.V5, "b").send(pub("own", "yours", 1, 1)).wants("connack 0x00", "puback 1 0x00")
		a.wants(`publish own "yours" q0`)
		w.connect(packet.V311, "c").send(sub(1, "a#", "$share/g/x", "ok")).wants("connack 0x00", "suback 1 [0x80 0x01 0x01]")
	})
}

func TestPropertiesTravel(t *testing.T) {
	story(t, func(w *world) {
		s := w.connect(packet.V5, "s").send(sub(1, "t"))
		s.wants("connack 0x00", "suback 1 [0x01]")
		p := pub("t", "x", 1, 1)
		p.Properties = &packet.Properties{
			Present:       packet.Of(packet.PayloadFormat, packet.ContentType, packet.ResponseTopic, packet.CorrelationData, packet.UserProperty),
			PayloadFormat: 1, ContentType: "text/plain", ResponseTopic: "r/1", CorrelationData: []byte{0, 255},
			User: []payload.Pair{{Key: "b", Value: "1"}, {Key: "a", Value: "2"}, {Key: "b", Value: "1"}, {Key: "mqtt.topic", Value: "x"}},
		}
		want := p.Append(nil, packet.V5)
		w.connect(packet.V5, "p").send(p).wants("connack 0x00", "puback 1 0x00")
		synctest.Wait()
		if got := (<-s.got).Append(nil, packet.V5); string(got) != string(want) {
			t.Errorf("got\n%x, want\n%x", got, want)
		}
		if hs := w.log.Records("mqtt")[0].Headers; len(hs) != 11 || hs[0].Key != "mqtt.topic" || string(hs[1].Value) != "p" {
			t.Errorf("headers %v", hs)
		}
	})
}

func TestMessageExpiry(t *testing.T) {
	story(t, func(w *world) {
		a := w.connect(packet.V5, "a", keep).send(sub(1, "t"))
		synctest.Wait()
		a.conn.Close()
		synctest.Wait() // nothing is on its way to the connection that ended
		p := pub("t", "x", 1, 1)
		p.Properties = &packet.Properties{Present: packet.Of(packet.MessageExpiry), MessageExpiry: 10}
		long := pub("t", "y", 1, 2)
		long.Properties = &packet.Properties{Present: packet.Of(packet.MessageExpiry), MessageExpiry: 100}
		w.connect(packet.V5, "p").send(p, long).wants("connack 0x00", "puback 1 0x00", "puback 2 0x00")
		time.Sleep(30 * time.Second)
		w.connect(packet.V5, "a", keep).wants("connack 0x00 present", `publish t "y" q1 id1 expiry70`)
	})
}

// [MQTT-3.3.4-9] [MQTT-3.1.2-24] [MQTT-3.1.2-25]
func TestClientLimitsAreKept(t *testing.T) {
	story(t, func(w *world) {
		a := w.connect(packet.V5, "a", func(c *packet.Connect) {
			props(c, packet.ReceiveMaximum).ReceiveMaximum = 1
			props(c, packet.MaximumPacketSize).MaximumPacketSize = 40
		}).send(sub(1, "t"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		w.connect(packet.V5, "p").send(pub("t", strings.Repeat("x", 100), 1, 1), pub("t", "1", 1, 2), pub("t", "2", 1, 3)).
			wants("connack 0x00", "puback 1 0x00", "puback 2 0x00", "puback 3 0x00")
		synctest.Wait()
		first := (<-a.got).(*packet.Publish)
		a.wants()
		a.send(ack(first.ID))
		synctest.Wait()
		if second := (<-a.got).(*packet.Publish); string(first.Payload) != "1" || string(second.Payload) != "2" {
			t.Errorf("got %s, %s", first.Payload, second.Payload)
		}
	})
}

// An identifier that is too long is refused [MQTT-3.1.3-8], [MQTT-3.1.3-9] of 3.1.1.
func TestAClientIdentifierIsBounded(t *testing.T) {
	story(t, func(w *world) {
		w.connect(packet.V5, strings.Repeat("i", 1024)).wants("connack 0x00")
		w.connect(packet.V5, strings.Repeat("i", 1025)).wants("connack 0x85", "closed")
		w.connect(packet.V311, strings.Repeat("i", 1025)).wants("connack 0x02", "closed")
	})
}
