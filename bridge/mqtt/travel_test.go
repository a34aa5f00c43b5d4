package mqtt_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"millrace/bridge/mqtt/packet"
	"millrace/bridge/payload"
	"millrace/bridge/route"
	"millrace/broker/record"
)

func texts(also ...string) *rapid.Generator[string] {
	return rapid.OneOf(rapid.StringN(0, 12, 40), rapid.SampledFrom(also)).Filter(payload.Text)
}

// publishes is any legal PUBLISH of MQTT 5 that is not over before it begins.
func publishes() *rapid.Generator[*packet.Publish] {
	return rapid.Custom(func(t *rapid.T) *packet.Publish {
		p := &packet.Publish{
			Topic:   rapid.OneOf(rapid.SampledFrom([]string{"a", "a/b", "/", "x/é"}), texts("a").Filter(packet.ValidTopic).Filter(func(s string) bool { return s[0] != '$' })).Draw(t, "topic"),
			QoS:     rapid.ByteRange(0, 1).Draw(t, "qos"),
			Retain:  rapid.Bool().Draw(t, "retain"),
			Payload: rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "payload"),
		}
		p.Properties = new(packet.Properties)
		have := func(id packet.Property, set func(*packet.Properties)) {
			if rapid.Bool().Draw(t, fmt.Sprint("has ", id)) {
				p.Properties.Present |= packet.Of(id)
				set(p.Properties)
			}
		}
		have(packet.PayloadFormat, func(q *packet.Properties) { q.PayloadFormat = rapid.ByteRange(0, 1).Draw(t, "format") })
		have(packet.MessageExpiry, func(q *packet.Properties) { q.MessageExpiry = rapid.Uint32Min(1).Draw(t, "expiry") })
		have(packet.ContentType, func(q *packet.Properties) { q.ContentType = texts("", "text/plain").Draw(t, "content type") })
		have(packet.ResponseTopic, func(q *packet.Properties) {
			q.ResponseTopic = texts("r", "$SYS/x").Filter(packet.ValidTopic).Draw(t, "response topic")
		})
		have(packet.CorrelationData, func(q *packet.Properties) { q.CorrelationData = rapid.SliceOf(rapid.Byte()).Draw(t, "correlation") })
		have(packet.UserProperty, func(q *packet.Properties) {
			names := texts("", "k", "mqtt.", "mqtt.topic", "mqtt.added", "mqtt.user.", "site")
			for range rapid.IntRange(1, 5).Draw(t, "users") {
				q.User = append(q.User, payload.Pair{Key: names.Draw(t, "name"), Value: texts("", "v").Draw(t, "value")})
			}
		})
		return p
	})
}

// wire is a publish without what belongs to one delivery alone.
func wire(p *packet.Publish) string {
	q := *p
	q.ID, q.Dup = 0, false
	if q.QoS > 0 {
		q.ID = 1
	}
	return string(q.Append(nil, packet.V5))
}

// Whatever a client publishes comes to a subscriber that asks for it as published byte for byte, retained or live, by
// whatever rule it went and whatever headers that adds [MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-20].
// The same holds for the payload format [MQTT-3.3.2-4], the response topic [MQTT-3.3.2-15] and correlation data [MQTT-3.3.2-16].
func TestAnyPublishTravelsWithoutLoss(t *testing.T) {
	router, err := route.New([]route.Rule{
		{Filter: "{x}/b", Topic: "t.{x}", Key: "{mqtt.client}", Headers: []route.Header{{Key: "site", Value: "{x}"}, {Key: "k", Value: "\xff"}}},
		{Filter: "a", Topic: "a", Key: "{mqtt.topic}"},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		sent := rapid.SliceOfN(publishes(), 1, 8).Draw(rt, "publishes")
		client := rapid.OneOf(texts("p"), rapid.Just("p")).Filter(func(s string) bool { return s != "" && s != "live" && s != "late" }).Draw(rt, "client")
		kept := map[string]*packet.Publish{}
		for _, p := range sent {
			if p.Retain {
				if kept[p.Topic] = p; len(p.Payload) == 0 {
					delete(kept, p.Topic)
				}
			}
		}
		var problems []string
		story(t, func(w *world) {
			w.cfg.Router = router
			all := &packet.Subscribe{ID: 1, Filters: []packet.Subscription{{Filter: "#", QoS: 1, RetainAsPublished: true}}}
			live := w.connect(packet.V5, "live").send(all)
			live.wants("connack 0x00", "suback 1 [0x01]")
			pub := w.connect(packet.V5, client)
			for i, p := range sent {
				q := *p
				if q.QoS > 0 {
					q.ID = uint16(i + 1)
				}
				pub.send(&q)
				synctest.Wait()
				if got := live.next(); got == nil || wire(got) != wire(p) {
					problems = append(problems, fmt.Sprintf("live: got %v, want %v", got, p))
				}
			}
			late := w.connect(packet.V5, "late").send(all)
			late.each(func(got *packet.Publish) {
				want := kept[got.Topic]
				if delete(kept, got.Topic); want == nil || wire(got) != wire(want) {
					problems = append(problems, fmt.Sprintf("retained: got %v, want %v", got, want))
				}
			})
			if len(kept) != 0 {
				problems = append(problems, fmt.Sprintf("retained: %d did not come", len(kept)))
			}
			for _, topic := range w.log.Names() {
				for _, r := range w.log.Records(topic) {
					if h := r.Headers[1]; h.Key != payload.Client || string(h.Value) != client {
						problems = append(problems, fmt.Sprintf("a record of %s has %q second", topic, h))
					}
				}
			}
		})
		if len(problems) > 0 {
			rt.Fatal(strings.Join(problems, "\n"))
		}
	})
}

// next is the publish that has come, nil when none has.
func (p *peer) next() *packet.Publish {
	for {
		select {
		case pkt, open := <-p.got:
			if got, ok := pkt.(*packet.Publish); ok || !open {
				return got
			}
		default:
			return nil
		}
	}
}

// each calls fn for every publish that has come when all is quiet.
func (p *peer) each(fn func(*packet.Publish)) {
	synctest.Wait()
	for got := p.next(); got != nil; got = p.next() {
		fn(got)
	}
}

// A Kafka client's record reaches subscribers with every header that MQTT can carry, in their order, and a topic header of
// its own counts, unless it names a topic of the server's own.
func TestRecordsOfKafkaClientsTravel(t *testing.T) {
	story(t, func(w *world) {
		s := w.connect(packet.V5, "s").send(sub(1, "#", "$SYS/#", "$sparkplug/#", "$share"))
		synctest.Wait()
		for s.next() != nil {
		}
		w.log.Produce("orders", 0,
			record.Record{Value: []byte("1"), Headers: []record.Header{{Key: "b", Value: []byte("2")}, {Key: "bin", Value: []byte{0xff}}, {Key: "a"}, {Key: "b", Value: []byte("2")}}},
			record.Record{Value: []byte("2"), Headers: []record.Header{{Key: "mqtt.topic", Value: []byte("own/topic")}, {Key: "mqtt.qos", Value: []byte("0")}}},
			record.Record{Value: []byte("3"), Headers: []record.Header{{Key: "mqtt.topic", Value: []byte("$SYS/broker/version")}}},
			record.Record{Value: []byte("4"), Headers: []record.Header{{Key: "mqtt.topic", Value: []byte("$sparkplug/certificates/spBv1.0/g/NBIRTH/e")}}},
			record.Record{Value: nil, Headers: nil})
		synctest.Wait()
		got := s.next()
		if want := []payload.Pair{{Key: "b", Value: "2"}, {Key: "a"}, {Key: "b", Value: "2"}}; got == nil || !bytes.Equal(got.Payload, []byte("1")) ||
			fmt.Sprint(got.Properties.User) != fmt.Sprint(want) {
			t.Errorf("got %v", got)
		}
		s.wants(`publish own/topic "2" q0`, `publish orders "3" q1 id2`, `publish orders "4" q1 id3`, `publish orders "" q1 id4`)
	})
}
