package mqtt

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// carrier is a connection that is more than a socket: TLS, WebSocket, or WebSocket in TLS. Deadlines work as those of a
// socket do: a read that was late can be tried again.
type carrier struct {
	net.Conn // the socket
	tls      *tls.Conn
	web      *web
}

// newCarrier is conn where the listener has neither TLS nor WebSocket. Nothing is sent or received before open.
func (s *Server) newCarrier(conn net.Conn, l *Listener) net.Conn {
	if l.TLS == nil && !l.WebSocket {
		return conn
	}
	c := &carrier{Conn: conn}
	if l.TLS != nil {
		c.tls = tls.Server(&shaken{Conn: conn, places: s.shaking}, l.TLS())
	}
	if l.WebSocket {
		c.web = newWeb()
	}
	return c
}

// shaken is the socket below TLS. While a handshake is under way it has a place, which it gives up whenever it waits for
// its peer: handshakes are computed one at a time, so that a storm of them leaves the rest of the processor to the data,
// and a peer that does not get on with its own holds up nobody.
type shaken struct {
	net.Conn
	places  chan struct{}
	shaking atomic.Bool
}

func (p *shaken) Read(b []byte) (int, error)  { return p.waiting(p.Conn.Read, b) }
func (p *shaken) Write(b []byte) (int, error) { return p.waiting(p.Conn.Write, b) }

func (p *shaken) waiting(do func([]byte) (int, error), b []byte) (int, error) {
	if p.shaking.Load() {
		<-p.places
		defer func() { p.places <- struct{}{} }()
	}
	return do(b)
}

// SetWriteDeadline does nothing: deadlines are the carrier's alone. crypto/tls would wait five seconds for a peer to take the
// end of the stream.
func (*shaken) SetWriteDeadline(time.Time) error { return nil }

// stream is where MQTT's bytes, or those of WebSocket, go.
func (c *carrier) stream() net.Conn {
	if c.tls != nil {
		return c.tls
	}
	return c.Conn
}

// open does the handshakes and returns the peer's certificate, where it has shown one that is good. The peer has until
// then.
func (c *carrier) open(s *Server, l *Listener, until time.Time) (cert *x509.Certificate, err error) {
	if err := c.Conn.SetDeadline(until); err != nil {
		return nil, err
	}
	if c.tls != nil {
		if err := c.shake(s); err != nil {
			return nil, fmt.Errorf("TLS handshake: %w", err)
		}
		if state := c.tls.ConnectionState(); len(state.VerifiedChains) > 0 {
			cert = state.PeerCertificates[0]
		}
	}
	if c.web != nil {
		if err := c.web.upgrade(s, c.stream(), l.Origins); err != nil {
			return nil, fmt.Errorf("WebSocket handshake: %w", err)
		}
	}
	// From here on read deadlines are those of MQTT, which has until then for its CONNECT.
	return cert, errors.Join(c.Conn.SetDeadline(time.Time{}), c.SetReadDeadline(until))
}

func (c *carrier) shake(s *Server) error {
	below := c.tls.NetConn().(*shaken)
	s.shaking <- struct{}{}
	below.shaking.Store(true)
	err := c.tls.Handshake()
	below.shaking.Store(false)
	<-s.shaking
	return err
}

func (c *carrier) Read(p []byte) (int, error) {
	if c.web != nil {
		return c.web.Read(p)
	}
	return c.tls.Read(p)
}

func (c *carrier) Write(p []byte) (int, error) {
	if c.web != nil {
		return c.web.Write(p)
	}
	return c.tls.Write(p)
}

// SetReadDeadline is for the next bytes of MQTT, see open for what comes before.
func (c *carrier) SetReadDeadline(t time.Time) error {
	if c.web == nil {
		return c.Conn.SetReadDeadline(t)
	}
	// A pipe whose other end is closed takes no deadline; the next read says why it is.
	if err := c.web.here.SetReadDeadline(t); !errors.Is(err, io.ErrClosedPipe) {
		return err
	}
	return nil
}

// SetDeadline implements net.Conn.
func (c *carrier) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// Close tells the peer, as long as the write deadline lets it.
func (c *carrier) Close() error {
	if c.web == nil {
		return c.stream().Close()
	}
	return c.web.close(c.stream())
}
