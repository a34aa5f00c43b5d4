package mqtt_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"millrace/bridge/mqtt"
	"millrace/bridge/mqtt/packet"
)

// upgradeRequest asks for a WebSocket.
func upgradeRequest(path string, headers ...string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: board:8083\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" + strings.Join(append(headers, "\r\n"), "\r\n")
}

const offersMQTT = "Sec-WebSocket-Protocol: mqttv3.1, mqtt"

func TestWhatIsNoWebSocket(t *testing.T) {
	h := newHarbour(t, mqtt.Config{})
	address := h.at("ws", func(l *mqtt.Listener) { l.Origins = []string{"*.example.com", "https://exact.org"} })
	for _, tt := range []struct {
		what, request string
		want          int
	}{
		{"a good one", upgradeRequest("/mqtt", offersMQTT), 101},
		{"with a query", upgradeRequest("/mqtt?x=1", offersMQTT), 101},
		{"from a page of its own", upgradeRequest("/mqtt", offersMQTT, "Origin: http://board:8083"), 101},
		{"from a page of a host that may", upgradeRequest("/mqtt", offersMQTT, "Origin: http://www.example.com"), 101},
		{"from a page of a scheme that may", upgradeRequest("/mqtt", offersMQTT, "Origin: https://exact.org"), 101},
		{"from a page of another scheme", upgradeRequest("/mqtt", offersMQTT, "Origin: http://exact.org"), 403},
		{"from a page of another host", upgradeRequest("/mqtt", offersMQTT, "Origin: http://evil.example.org"), 403},
		{"from a file", upgradeRequest("/mqtt", offersMQTT, "Origin: null"), 403},
		{"another path", upgradeRequest("/", offersMQTT), 404},
		{"another subprotocol", upgradeRequest("/mqtt", "Sec-WebSocket-Protocol: xmqtt"), 400},
		{"no subprotocol", upgradeRequest("/mqtt"), 400},
		{"no upgrade", "GET /mqtt HTTP/1.1\r\nHost: board\r\n" + offersMQTT + "\r\n\r\n", 426},
		{"an old version", strings.Replace(upgradeRequest("/mqtt", offersMQTT), "13", "8", 1), 400},
		{"a POST", strings.Replace(upgradeRequest("/mqtt", offersMQTT), "GET", "POST", 1), 405},
		{"a large header", upgradeRequest("/mqtt", offersMQTT, "X: "+strings.Repeat("x", 20<<10)), 0},
		{"no HTTP", "\x10\x10\x00\x04MQTT\x05\r\n\r\n", 0},
	} {
		conn := dialTCP(t, address)
		if _, err := io.WriteString(conn, tt.request); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, nil)
		if tt.want == 0 {
			if err == nil {
				t.Errorf("%s: answered with %d", tt.what, resp.StatusCode)
			}
			continue
		}
		if err != nil || resp.StatusCode != tt.want {
			t.Errorf("%s: %v, %v, want %d", tt.what, resp, err, tt.want)
			continue
		}
		if tt.want != 101 {
			if _, err := io.Copy(io.Discard, r); err != nil { // and the connection ends
				t.Errorf("%s: %v", tt.what, err)
			}
		}
	}
}

// Frames mean nothing to MQTT, but that they are binary.
// Binary ones [MQTT-6.0.0-1], cut where they like [MQTT-6.0.0-2], under the name the server takes [MQTT-6.0.0-4].
func TestFramesArePackets(t *testing.T) {
	h := newHarbour(t, mqtt.Config{})
	address := h.at("ws")
	dial := func() *websocket.Conn {
		ws, _, err := websocket.Dial(t.Context(), "ws://"+address+"/mqtt", &websocket.DialOptions{Subprotocols: []string{"mqtt"}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ws.CloseNow() })
		if got := ws.Subprotocol(); got != "mqtt" {
			t.Errorf("the subprotocol is %q", got)
		}
		return ws
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	write := func(ws *websocket.Conn, kind websocket.MessageType, p []byte) {
		t.Helper()
		if err := ws.Write(ctx, kind, p); err != nil {
			t.Fatal(err)
		}
	}
	all := hello("a")
	all = sub(1, "x").Append(all, packet.V5)
	all = pub("x", strings.Repeat("p", 3000), 1, 2).Append(all, packet.V5)
	all = (&packet.Ping{}).Append(all, packet.V5)
	for _, size := range []int{len(all), 1, 7, 1000, 1500} { // packets in a frame, and frames in a packet
		ws := dial()
		for rest := all; len(rest) > 0; {
			n := min(size, len(rest))
			write(ws, websocket.MessageBinary, rest[:n])
			write(ws, websocket.MessageBinary, nil) // an empty one says nothing
			rest = rest[n:]
		}
		conn := websocket.NetConn(ctx, ws, websocket.MessageBinary)
		kinds := map[packet.Type]int{}
		for range 5 {
			kinds[receive(t, conn).Type()]++
		}
		for _, kind := range []packet.Type{packet.CONNACK, packet.SUBACK, packet.PUBACK, packet.PUBLISH, packet.PINGRESP} {
			if kinds[kind] != 1 {
				t.Errorf("frames of %d bytes: %v", size, kinds)
			}
		}
		// The server's end is one of WebSocket.
		conn.Write((&packet.Disconnect{}).Append(nil, packet.V5)) //nolint:errcheck // what is read says whether it came
		if _, _, err := ws.Read(ctx); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
			t.Errorf("ended with %v", err)
		}
	}
	ws := dial()
	write(ws, websocket.MessageBinary, hello("b"))
	write(ws, websocket.MessageText, (&packet.Ping{}).Append(nil, packet.V5))
	conn := websocket.NetConn(ctx, ws, websocket.MessageBinary)
	receive(t, conn) // CONNACK
	if d, ok := receive(t, conn).(*packet.Disconnect); !ok || d.Reason != packet.ProtocolError {
		t.Errorf("text is answered with %+v", d)
	}
	if p, err := receiveOr(conn); err == nil {
		t.Errorf("and then with %+v", p)
	}
	// A message that never ends is read as it comes: what it holds has limits, it has none.
	ws = dial()
	w, err := ws.Writer(ctx, websocket.MessageBinary)
	if err != nil {
		t.Fatal(err)
	}
	conn = websocket.NetConn(ctx, ws, websocket.MessageBinary)
	const n = 30
	ended := make(chan error, 1)
	go func() {
		all := hello("c")
		for i := range uint16(n) {
			all = pub("x", strings.Repeat("p", 100<<10), 1, i+1).Append(all, packet.V5)
		}
		_, err := w.Write(all) // and what the client's library holds back
		ended <- err
	}()
	receive(t, conn)
	for i := range uint16(n - 1) {
		if got, ok := receive(t, conn).(*packet.Ack); !ok || got.ID != i+1 {
			t.Fatalf("%d: %+v", i, got)
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
