package mqtt_test

import (
	"fmt"
	"strings"
	"testing"

	"millrace/bridge/mqtt/packet"
)

func aliases(n uint16) func(*packet.Connect) {
	return func(c *packet.Connect) { props(c, packet.TopicAliasMaximum).TopicAliasMaximum = n }
}

// takePublishes waits until all is quiet and returns the PUBLISHes that have come, as "topic alias payload".
func (p *peer) takePublishes() (got []string) {
	p.t.Helper()
	for _, pkt := range p.takePackets() {
		if m, ok := pkt.(*packet.Publish); ok {
			var alias uint16
			if m.Properties.Has(packet.TopicAlias) {
				alias = m.Properties.TopicAlias
			}
			got = append(got, fmt.Sprintf("%q %d %s", m.Topic, alias, m.Payload))
		}
	}
	return got
}

func (p *peer) wantsPublishes(want ...string) {
	p.t.Helper()
	if g, w := strings.Join(p.takePublishes(), "\n"), strings.Join(want, "\n"); g != w {
		p.t.Errorf("got\n%s\nwant\n%s", g, w)
	}
}

// The first topics a client is sent get a number, no more than it takes [MQTT-3.1.2-26] [MQTT-3.3.2-11], and are left out
// from the second message on; on another connection all begins anew [MQTT-3.3.2-7].
func TestTopicsAreSentByTheirAliases(t *testing.T) {
	story(t, func(w *world) {
		from := w.connect(packet.V5, "from")
		to := w.connect(packet.V5, "to", aliases(2), keep).send(sub(1, "t/#"))
		to.wants("connack 0x00", "suback 1 [0x01]")
		for i := range 2 {
			for _, topic := range []string{"t/a", "t/b", "t/c"} {
				from.send(pub(topic, fmt.Sprint(topic, i), 0, 0))
			}
		}
		to.wantsPublishes(`"t/a" 1 t/a0`, `"t/b" 2 t/b0`, `"t/c" 0 t/c0`, `"" 1 t/a1`, `"" 2 t/b1`, `"t/c" 0 t/c1`)
		to.conn.Close()
		to = w.connect(packet.V5, "to", aliases(2), keep)
		to.takePublishes()
		from.send(pub("t/c", "x", 0, 0), pub("t/a", "y", 0, 0), pub("t/c", "z", 0, 0))
		to.wantsPublishes(`"t/c" 1 x`, `"t/a" 2 y`, `"" 1 z`)
	})
}

// Who has said no maximum, or 0, gets none [MQTT-3.1.2-27].
func TestNoAliasesForWhoTakesNone(t *testing.T) {
	for name, change := range map[string]func(*packet.Connect){"absent": func(*packet.Connect) {}, "0": aliases(0)} {
		t.Run(name, func(t *testing.T) {
			story(t, func(w *world) {
				to := w.connect(packet.V5, "to", change).send(sub(1, "t"))
				to.wants("connack 0x00", "suback 1 [0x01]")
				w.connect(packet.V5, "from").send(pub("t", "1", 0, 0), pub("t", "2", 0, 0))
				to.wantsPublishes(`"t" 0 1`, `"t" 0 2`)
			})
		})
	}
}

// A message that fits only without a new alias is sent without [MQTT-3.1.2-24]; one that is too large anyway teaches none.
func TestAnAliasMakesNoMessageTooLarge(t *testing.T) {
	story(t, func(w *world) {
		const most = 40
		to := w.connect(packet.V5, "to", aliases(5), func(c *packet.Connect) {
			props(c, packet.MaximumPacketSize).MaximumPacketSize = most
		}).send(sub(1, "#"))
		to.take()
		room := most - len(pub("topic", "", 0, 0).Append(nil, packet.V5))
		w.connect(packet.V5, "from").send(
			pub("topic", strings.Repeat("x", room+1), 0, 0),
			pub("topic", strings.Repeat("y", room), 0, 0),
			pub("topic", "z", 0, 0),
			pub("topic", strings.Repeat("u", room+2), 0, 0), // its topic is not in it
		)
		to.wantsPublishes(`"topic" 0 `+strings.Repeat("y", room), `"topic" 1 z`, `"" 1 `+strings.Repeat("u", room+2))
	})
}

// However many aliases a client takes, the names that are kept for it are bounded.
func TestLongTopicsGetNoAliasesForEver(t *testing.T) {
	story(t, func(w *world) {
		w.cfg.TopicAliasesBroker = 65535
		to := w.connect(packet.V5, "to", aliases(65535)).send(sub(1, "#"))
		to.take()
		from := w.connect(packet.V5, "from")
		for i := range 10 {
			from.send(pub(fmt.Sprint(i, strings.Repeat("x", 200)), "", 0, 0))
		}
		named := 0
		for _, m := range to.takePublishes() {
			if strings.HasSuffix(m, " 0 ") {
				named++
			}
		}
		if named != 5 { // five of 201 bytes fit into 1 KiB
			t.Errorf("%d of 10 long topics without an alias", named)
		}
	})
}

// What response topics are to be built of is told to who asks for it, and to nobody else [MQTT-3.1.2-28].
func TestResponseInformationIsForWhoAsks(t *testing.T) {
	asks := func(c *packet.Connect) { props(c, packet.RequestResponse).RequestResponse = 1 }
	for _, tt := range []struct {
		id     string
		change func(*packet.Connect)
		want   string
	}{
		{"dev1", asks, "reply/ANONYMOUS/dev1"},
		{"dev1", func(*packet.Connect) {}, ""},
		{"dev1", func(c *packet.Connect) { props(c, packet.RequestResponse).RequestResponse = 0 }, ""},
		{"a/+/b", asks, ""}, // no response topic could be built of it
	} {
		story(t, func(w *world) {
			w.cfg.ResponseInformation = "reply/%u/%c"
			all := w.connect(packet.V5, tt.id, tt.change).takePackets()
			if len(all) != 1 {
				t.Fatalf("%d packets", len(all))
			}
			ack := all[0].(*packet.Connack)
			if got := ack.Properties.ResponseInformation; got != tt.want || ack.Properties.Has(packet.ResponseInformation) != (tt.want != "") {
				t.Errorf("%s: %q, want %q", tt.id, got, tt.want)
			}
		})
	}
}
