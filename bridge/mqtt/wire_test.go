package mqtt_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"millrace/bridge/mqtt/packet"
	"millrace/bridge/mqtt/packet/packettest"
)

// TestWireVectors sends every vector to a server: what is malformed, or against the protocol, ends its connection with the
// reason the specification gives, and nobody else's [MQTT-4.13.1-1] [MQTT-3.1.4-1]; what is well formed and a client's to
// send is served.
func TestWireVectors(t *testing.T) {
	for _, v := range packettest.Vectors(t, "packet/testdata") {
		if size, err := packet.Frame(v.Bytes); err == nil && size != len(v.Bytes) {
			continue // not one packet: the connection waits for the rest, or finds more
		}
		t.Run(fmt.Sprintf("%s %d %s", v.Line, v.Version, v.Name), func(t *testing.T) {
			story(t, func(w *world) {
				other := w.dial(packet.V5)
				other.send(&packet.Connect{Version: packet.V5, ClientID: "other", CleanStart: true})
				other.wants("connack 0x00")
				version := packet.Version(v.Version)
				if level := bytes.Index(v.Bytes, []byte("\x00\x04MQTT")); level > 0 && len(v.Bytes) > level+6 && v.Bytes[level+6] > 5 {
					version = packet.V5 // who speaks a later one is told in this
				}
				p := w.dial(version)
				if packet.Type(v.Bytes[0]>>4) != packet.CONNECT {
					p.send(&packet.Connect{Version: packet.Version(v.Version), ClientID: "vector", CleanStart: true})
					p.wants("connack 0x00")
				}
				p.raw(v.Bytes)
				p.meets(v)
				other.send(&packet.Ping{})
				other.wants("pingresp")
			})
		})
	}
}

// raw sends bytes as they are, without waiting for the server to read them all.
func (p *peer) raw(b []byte) {
	go p.conn.Write(b) //nolint:errcheck // the server may close in the middle
}

// meets checks what the server makes of a vector.
func (p *peer) meets(v packettest.Vector) {
	p.t.Helper()
	got := p.take()
	five, connect := v.Version == 5, packet.Type(v.Bytes[0]>>4) == packet.CONNECT
	closed := len(got) > 0 && got[len(got)-1] == "closed"
	first := ""
	if len(got) > 0 {
		first = got[0]
	}
	refused := v.Verdict != "ok" && v.Verdict != "loose"
	if !refused && fromServer(v.Bytes[0]) { // a client that sends it breaks the protocol
		v.Verdict, refused = "82", true
	}
	switch {
	case refused && connect && five:
		if !closed || first != "connack 0x"+strings.ToUpper(v.Verdict) && len(got) > 1 {
			p.t.Errorf("%x: %q, want CONNACK with %s or nothing, and the end", v.Bytes, got, v.Verdict)
		}
	case refused && connect:
		// Which levels there are is said to those of the protocol only, to 5 and later ones in MQTT 5's words [MQTT-3.1.2-2].
		told := len(got) > 1 && v.Verdict == "84" && (first == "connack 0x01" || first == "connack 0x84")
		if !closed || len(got) > 1 && !told {
			p.t.Errorf("%x: %q, want the end, after the refusal of the level at most", v.Bytes, got)
		}
	case refused && five:
		if want := "disconnect 0x" + strings.ToUpper(v.Verdict); len(got) != 2 || !strings.HasPrefix(first, want) || !closed {
			p.t.Errorf("%x: %q, want %s and the end", v.Bytes, got, want)
		}
	case refused:
		if len(got) != 1 || !closed {
			p.t.Errorf("%x: %q, want the end", v.Bytes, got)
		}
	default:
		if answer := strings.Join(got, "; "); answer != v.Answer {
			p.t.Errorf("%x: %q, want %q", v.Bytes, answer, v.Answer)
		}
		if !closed {
			p.send(&packet.Ping{})
			p.wants("pingresp")
		}
	}
}

// fromServer says whether only servers send packets of this type.
func fromServer(b byte) bool {
	switch packet.Type(b >> 4) {
	case packet.CONNACK, packet.SUBACK, packet.UNSUBACK, packet.PINGRESP:
		return true
	}
	return false
}
