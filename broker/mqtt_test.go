package broker

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"millrace/bridge/mqtt/packet"
	"millrace/bridge/payload"
	"millrace/broker/catalog"
	"millrace/platform/config"
)

// mqttPeer is a bare MQTT connection to a board.
type mqttPeer struct {
	t    *testing.T
	conn net.Conn
	v    packet.Version
	buf  []byte
}

func dialMQTT(t *testing.T, b *Broker, v packet.Version, id string) *mqttPeer {
	t.Helper()
	return dialMQTTAs(t, b, &packet.Connect{Version: v, ClientID: id, CleanStart: true})
}

// dialMQTTAs is dialMQTT with a CONNECT of the caller's.
func dialMQTTAs(t *testing.T, b *Broker, connect *packet.Connect) *mqttPeer {
	t.Helper()
	p := openMQTT(t, b.Addresses().MQTT[0], connect)
	if c, ok := p.next().(*packet.Connack); !ok || c.Reason.Failed() {
		t.Fatalf("CONNACK is %+v", c)
	}
	return p
}

// openMQTT is dialMQTTAs at another of the board's listeners, before CONNACK.
func openMQTT(t *testing.T, address string, connect *packet.Connect) *mqttPeer {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	p := &mqttPeer{t: t, conn: conn, v: connect.Version}
	p.send(connect)
	return p
}

func (p *mqttPeer) send(pkt packet.Packet) {
	p.t.Helper()
	if _, err := p.conn.Write(pkt.Append(nil, p.v)); err != nil {
		p.t.Fatal(err)
	}
}

// next is the next packet, nil at the connection's end.
func (p *mqttPeer) next() packet.Packet {
	p.t.Helper()
	if err := p.conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		p.t.Fatal(err)
	}
	for {
		if n, err := packet.Frame(p.buf); err != nil {
			p.t.Fatal(err)
		} else if n > 0 && n <= len(p.buf) {
			pkt, err := packet.Decode(bytes.Clone(p.buf[:n]), p.v, packet.Limits{})
			if err != nil {
				p.t.Fatal(err)
			}
			p.buf = p.buf[n:]
			return pkt
		}
		chunk := make([]byte, 64<<10)
		n, err := p.conn.Read(chunk)
		if p.buf = append(p.buf, chunk[:n]...); err != nil {
			if e, ok := err.(net.Error); ok && e.Timeout() {
				p.t.Fatal("nothing came in 30 s")
			}
			return nil
		}
	}
}

// largest is a publish of exactly size bytes that carries as much beside its payload as a client may send.
func largest(v packet.Version, id uint16, size int) *packet.Publish {
	p := &packet.Publish{Topic: "t/" + strings.Repeat("x", 1022), QoS: 1, ID: id}
	if v == packet.V5 {
		p.Properties = &packet.Properties{
			Present:       packet.Of(packet.PayloadFormat, packet.MessageExpiry, packet.ContentType, packet.ResponseTopic, packet.CorrelationData, packet.UserProperty),
			MessageExpiry: 1 << 31, ContentType: "application/octet-stream", ResponseTopic: "r", CorrelationData: []byte("c"),
		}
		for range 256 {
			p.Properties.User = append(p.Properties.User, payload.Pair{Key: "mqtt.", Value: ""})
		}
	}
	p.Payload = make([]byte, size)
	over := len(p.Append(nil, v)) - size
	p.Payload = p.Payload[:size-over]
	if n := len(p.Append(nil, v)); n != size {
		panic(fmt.Sprintf("%d bytes, want %d", n, size))
	}
	return p
}

// TestWhatMaxPacketSizeAllowsIsStored: nobody who leaves the settings alone has a packet taken and its message refused.
func TestWhatMaxPacketSizeAllowsIsStored(t *testing.T) {
	b := board(t, t.TempDir(), nil)
	limit := config.Default().MQTT.MaxPacketSize
	for i, v := range []packet.Version{packet.V311, packet.V5} {
		p := dialMQTT(t, b, v, strings.Repeat(string(rune('a'+i)), 1024))
		for _, retain := range []bool{false, true} {
			big := largest(v, 7, limit)
			big.Retain = retain
			p.send(big)
			if ack, ok := p.next().(*packet.Ack); !ok || ack.Reason != packet.Success || ack.ID != 7 {
				t.Fatalf("version %d: a publish of %d bytes is answered with %+v", v, limit, ack)
			}
		}
		p.send(largest(v, 9, limit+1))
		switch end := p.next().(type) {
		case *packet.Disconnect:
			if v != packet.V5 || end.Reason != packet.PacketTooLarge {
				t.Errorf("version %d: a byte more is answered with %v", v, end.Reason)
			}
		case nil:
			if v == packet.V5 {
				t.Error("a byte more ends the connection without a reason")
			}
		default:
			t.Errorf("version %d: a byte more is answered with %+v", v, end)
		}
	}
}

func TestAMessageLargerThanItsTopicAllowsIsRefusedByName(t *testing.T) {
	b := board(t, t.TempDir(), nil)
	appendOne(t, b, "mqtt", "first")
	id := b.Image().Topic("mqtt").ID
	if _, err := b.Propose(t.Context(), catalog.AlterTopicConfig{Topic: id, Ops: []catalog.ConfigOp{
		{Name: "max.message.bytes", Op: catalog.OpSet, Value: "5000"},
	}}); err != nil {
		t.Fatal(err)
	}
	p := dialMQTT(t, b, packet.V5, "five")
	for i := range uint16(3) {
		p.send(&packet.Publish{Topic: "t", QoS: 1, ID: i + 1, Payload: make([]byte, 10_000*(i%2))})
	}
	for i := range uint16(3) {
		ack, ok := p.next().(*packet.Ack)
		if !ok || ack.ID != i+1 || (ack.Reason == packet.Success) != (i != 1) {
			t.Fatalf("%d: %+v", i, ack)
		}
		if i != 1 {
			continue
		}
		if why := ack.Properties.ReasonString; ack.Reason != packet.ImplementationError || !strings.Contains(why, "max.message.bytes") || !strings.Contains(why, "5000") {
			t.Errorf("refused with %v, %q", ack.Reason, why)
		}
	}
	old := dialMQTT(t, b, packet.V311, "three")
	old.send(&packet.Publish{Topic: "t", QoS: 1, ID: 1, Payload: make([]byte, 10_000)})
	if end := old.next(); end != nil {
		t.Errorf("3.1.1: answered with %+v", end)
	}
	if list, _ := b.Topic("mqtt"); list[0].High() != 3 {
		t.Errorf("%d records", list[0].High())
	}
}

// Each listener of the settings has its limits: its own, and for the rest those of [mqtt].
func TestMQTTListenersHaveTheLimitsOfTheSettings(t *testing.T) {
	b := board(t, t.TempDir(), func(c *config.Config) {
		parsed, err := config.Parse("m.toml", []byte(`
[mqtt]
receive_maximum = 7
max_keepalive = 60
[[mqtt.listener]]
url = "tcp://127.0.0.1:0"
max_packet_size = "2KiB"
max_topic_alias = 3
max_keepalive = 30
[[mqtt.listener]]
url = "tcp://127.0.0.1:0"
max_keepalive = 0
`), config.Names{}, config.Checks{})
		if err != nil {
			t.Fatal(err)
		}
		listeners := c.MQTT.Listeners
		c.MQTT = parsed.MQTT
		c.MQTT.Listeners = listeners
	})
	for i, want := range []struct {
		size                      uint32
		receive, alias, keepAlive uint16 // the last 0: what the client asked for
	}{{1000 << 10, 7, 16, 60}, {2 << 10, 7, 3, 30}, {1000 << 10, 7, 16, 0}} {
		p := openMQTT(t, b.Addresses().MQTT[i], &packet.Connect{Version: packet.V5, CleanStart: true, KeepAlive: 600})
		c, ok := p.next().(*packet.Connack)
		if !ok || c.Reason.Failed() {
			t.Fatalf("CONNACK is %+v", c)
		}
		if l := c.Properties; l.MaximumPacketSize != want.size || l.ReceiveMaximum != want.receive || l.TopicAliasMaximum != want.alias ||
			l.Has(packet.ServerKeepAlive) != (want.keepAlive > 0) || l.ServerKeepAlive != want.keepAlive {
			t.Errorf("listener %d: %+v, want %+v", i, l, want)
		}
	}
}
