package mqtt

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/coder/websocket"

	"millrace/bridge/mqtt/packet"
)

const (
	webPath     = "/mqtt"
	subprotocol = "mqtt" // [MQTT-6.0.0-4]
	// upgradeMax bounds the request that asks for WebSocket, in bytes.
	upgradeMax = 16 << 10
	// frameBuffer is how much of a frame is held beside what MQTT has taken of it, in bytes; frames may be of any size.
	frameBuffer = 1 << 10
)

// closeFrame ends a WebSocket normally (RFC 6455 section 5.5.1): nobody waits here for the answer.
var closeFrame = []byte{0x88, 0x02, 0x03, 0xE8}

var errUpgrade = errors.New("no request for MQTT over WebSocket")

// web is the WebSocket of a connection. Frames mean nothing to MQTT: a packet may span some, and one may hold several
// packets or parts [MQTT-6.0.0-2]. The library ends a connection whose read was late, and packets that arrive slowly are
// read with many deadlines, so a goroutine of the connection reads frames and passes on what is in them.
type web struct {
	here, there net.Conn // what the goroutine writes to there is read here
	ws          atomic.Pointer[websocket.Conn]
	failure     error // why there was closed; read after that
}

func newWeb() *web {
	w := new(web)
	w.here, w.there = net.Pipe()
	return w
}

// upgrade answers the request that begins a WebSocket.
func (w *web) upgrade(s *Server, stream net.Conn, origins []string) error {
	in := bufio.NewReaderSize(&io.LimitedReader{R: stream, N: upgradeMax}, frameBuffer)
	r, err := http.ReadRequest(in)
	if err != nil {
		return err
	}
	a := &answer{stream: stream, in: in}
	switch {
	case r.URL.Path != webPath:
		http.Error(a, "MQTT is at "+webPath, http.StatusNotFound)
		return fmt.Errorf("%w: the path is not %s", errUpgrade, webPath)
	case !offers(r.Header, subprotocol): // [MQTT-6.0.0-3]
		http.Error(a, "the WebSocket subprotocol here is "+subprotocol, http.StatusBadRequest)
		return fmt.Errorf("%w: the subprotocol %s is not offered", errUpgrade, subprotocol)
	}
	ws, err := websocket.Accept(a, r, &websocket.AcceptOptions{Subprotocols: []string{subprotocol}, OriginPatterns: origins})
	if err != nil {
		return err
	}
	ws.SetReadLimit(-1) // a message is read piece by piece, and the packets in it have limits of their own
	w.ws.Store(ws)
	s.wg.Go(func() { w.receive(ws) })
	return nil
}

// offers says whether a request offers a subprotocol.
func offers(h http.Header, name string) bool {
	return slices.ContainsFunc(h.Values("Sec-WebSocket-Protocol"), func(list string) bool {
		return slices.ContainsFunc(strings.Split(list, ","), func(s string) bool { return strings.EqualFold(strings.TrimSpace(s), name) })
	})
}

var pieces = sync.Pool{New: func() any { return new([frameBuffer]byte) }}

// receive passes on what is in the frames until the connection ends.
func (w *web) receive(ws *websocket.Conn) {
	for w.failure == nil {
		kind, r, err := ws.Reader(context.Background())
		switch {
		case err != nil:
			w.failure = ended(err)
		case kind != websocket.MessageBinary: // [MQTT-6.0.0-1]
			w.failure = &packet.Error{Reason: packet.ProtocolError, Why: "a WebSocket frame that is not binary"}
		default:
			w.failure = w.message(r)
		}
	}
	w.there.Close() //nolint:errcheck // a pipe's end; it cannot fail
}

// message passes on one message.
func (w *web) message(r io.Reader) error {
	buf := pieces.Get().(*[frameBuffer]byte)
	defer pieces.Put(buf)
	for {
		n, err := r.Read(buf[:])
		if n > 0 {
			if _, err := w.there.Write(buf[:n]); err != nil {
				return io.EOF // the connection ends here
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return ended(err)
		}
	}
}

// ended is a read's error as a socket would tell it: the peer left, or broke off.
func ended(err error) error {
	if websocket.CloseStatus(err) != -1 || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		return io.EOF
	}
	return err
}

func (w *web) Read(p []byte) (int, error) {
	n, err := w.here.Read(p)
	if err == io.EOF {
		err = w.failure
	}
	return n, err
}

func (w *web) Write(p []byte) (int, error) {
	ws := w.ws.Load()
	if ws == nil {
		return 0, net.ErrClosed
	}
	// The socket's write deadline bounds it.
	if err := ws.Write(context.Background(), websocket.MessageBinary, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// close closes the WebSocket and what is below it.
func (w *web) close(stream net.Conn) error {
	ws := w.ws.Load()
	if ws != nil {
		// Whether it arrives decides nothing: the connection ends after it.
		_, _ = stream.Write(closeFrame)
	}
	err := errors.Join(w.here.Close(), stream.Close())
	if ws != nil {
		_ = ws.CloseNow() // it lets go of its memory; what is below it is closed
	}
	return err
}

// answer is the http.ResponseWriter of an upgrade. Its connection is not kept: it becomes a WebSocket or is closed.
type answer struct {
	stream net.Conn
	in     *bufio.Reader
	header http.Header
	begun  bool
}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header {
	if a.header == nil {
		a.header = make(http.Header)
	}
	return a.header
}

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	if a.begun {
		return
	}
	a.begun = true
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	if status != http.StatusSwitchingProtocols {
		a.Header().Set("Connection", "close")
	}
	a.Header().Write(&b) //nolint:errcheck // a strings.Builder takes everything
	b.WriteString("\r\n")
	_, _ = io.WriteString(a.stream, b.String()) // who uses the connection afterwards learns it
}

// Write implements http.ResponseWriter.
func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.stream.Write(p)
}

// Hijack implements http.Hijacker.
func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return a.stream, bufio.NewReadWriter(a.in, bufio.NewWriterSize(a.stream, frameBuffer)), nil
}
