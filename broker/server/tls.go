package server

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"millrace/broker/auth"
	"millrace/broker/record"
	"millrace/broker/wire"
)

// Listener is where connections come from, and what is asked of them.
type Listener struct {
	// Address is "host:port".
	Address string
	// Protocol is what is spoken; empty: PLAINTEXT.
	Protocol auth.Protocol
	// TLS is the configuration for the next connection; needed where the protocol has TLS.
	TLS func() *tls.Config
	// Principal is who the holder of a verified certificate is; nil: nobody in particular.
	Principal func(*x509.Certificate) (auth.Principal, error)
}

// asks says whether nobody is served who has not shown who they are.
func (l *Listener) asks() bool {
	return l.Protocol.SASL() || l.Protocol.TLS() && l.TLS().ClientAuth == tls.RequireAndVerifyClientCert
}

// asked begins the time the peer has to say who it is.
func (c *conn) asked(d time.Duration) { c.by = c.server.config.Now().Add(d) }

// What an idle connection takes, in bytes: its goroutine's stack and what belongs to it, and what TLS adds, where
// crypto/tls keeps the buffer of the largest record it has read. Tests measure both.
const (
	connectionCost = 5<<10 + 512
	tlsCost        = 35 << 10
)

var errNoRoom = errors.New("memory.limit has no room for another connection")

// pipe is the connection below TLS. Its write deadlines are the server's alone: crypto/tls would wait five seconds for a
// peer to take the end of the stream.
type pipe struct{ *net.TCPConn }

func (pipe) SetWriteDeadline(time.Time) error { return nil }

// secure does the TLS handshake where the listener wants one. It takes the place of one of a few under way; while others
// wait for theirs, peers that do not get on with it have a second.
func (c *conn) secure() error {
	if !c.listener.Protocol.TLS() {
		return nil
	}
	if room := c.server.config.Connections; room != nil {
		if !room.TryAcquire(tlsCost) {
			c.server.refused.Add(1)
			return errNoRoom
		}
		c.taken += tlsCost
	}
	if err := c.server.place(); err != nil {
		return err
	}
	defer func() { <-c.server.shaking }()
	c.inShake.Store(true)
	defer c.inShake.Store(false)
	limit := c.server.config.Login
	if c.server.queueing.Load() > 0 { // whoever began to wait before saw us inShake
		limit = min(limit, hurried)
	}
	c.hurry(limit)
	if c.over() {
		c.hurry(0)
	}
	if err := c.net.SetWriteDeadline(c.server.config.Now().Add(c.server.config.Login)); err != nil {
		return err
	}
	secured := tls.Server(pipe{c.net}, c.listener.TLS())
	if err := secured.HandshakeContext(c.server.ctx); err != nil {
		c.told = true // by an alert
		return fmt.Errorf("TLS handshake: %w", err)
	}
	c.tls = secured
	certs := secured.ConnectionState().PeerCertificates
	if len(certs) > 0 && c.listener.Principal != nil && !c.listener.Protocol.SASL() {
		who, err := c.listener.Principal(certs[0])
		if err != nil {
			return err
		}
		c.session.Principal = who
	}
	c.asked(c.server.config.Login)
	return nil
}

// place waits until a handshake may begin. Who gets one gives it back.
func (s *Server) place() error {
	select {
	case s.shaking <- struct{}{}:
		return nil
	default:
	}
	s.queueing.Add(1)
	defer s.queueing.Add(-1)
	s.mu.Lock()
	for c := range s.conns {
		if c.inShake.Load() {
			c.hurry(hurried)
		}
	}
	s.mu.Unlock()
	select {
	case s.shaking <- struct{}{}:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// close ends the connection: with TLS's end of the stream where it can still be said, and after the peer had time to
// read why, where it was told: bytes of it that nobody reads would make the kernel throw our last ones away.
func (c *conn) close() error {
	if c.told && c.net.SetDeadline(c.server.config.Now().Add(closing)) == nil {
		// The peer may be gone, and then there is nothing to wait for.
		if c.tls != nil {
			_ = c.tls.CloseWrite()
		}
		_ = c.net.CloseWrite()
		_, _ = io.CopyN(io.Discard, c.net, lingerMax)
		return c.net.Close()
	}
	c.mu.Lock()
	broken := c.broken
	c.mu.Unlock()
	if c.tls == nil || broken || c.net.SetWriteDeadline(c.server.config.Now().Add(closing)) != nil {
		return c.net.Close()
	}
	if err := c.tls.Close(); err != nil && !timedOut(err) && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		return err
	}
	return nil
}

// lingerMax is how many bytes are read of a peer that was told that its connection ends.
const lingerMax = 64 << 10

// fillTLS is fill for TLS: the buffer is taken when the first byte is there.
func (in *input) fillTLS(c *conn) error {
	if in.buffer != nil {
		n, err := c.receive(in.buffer[in.end:])
		in.end += n
		return err
	}
	n, err := c.receive(c.first[:])
	if n == 0 {
		return err
	}
	in.buffer = smalls.Get().(*[smallMax]byte)
	in.buffer[0], in.end = c.first[0], 1
	return nil
}

// sealMax is how many bytes go into one TLS record at most (RFC 8446 section 5.1), and so into one write.
const sealMax = 16 << 10

var seals = sync.Pool{New: func() any { return new([sealMax]byte) }}

// sealer gathers what is written into whole TLS records.
type sealer struct {
	c *conn
	p *[sealMax]byte
	n int
}

func (s *sealer) Write(p []byte) (int, error) {
	whole := len(p)
	for len(p) > 0 {
		n := copy(s.p[s.n:], p)
		s.n, p = s.n+n, p[n:]
		if err := s.whole(); err != nil {
			return 0, err
		}
	}
	return whole, nil
}

// whole writes the buffer when it is full.
func (s *sealer) whole() error {
	if s.n < sealMax {
		return nil
	}
	return s.flush()
}

func (s *sealer) flush() error {
	if s.n == 0 {
		return nil
	}
	if err := s.c.patience(); err != nil {
		return err
	}
	n := s.n
	s.n = 0
	_, err := s.c.tls.Write(s.p[:n])
	return err
}

// writeTLS writes a response through TLS. Spans of files are read a record at a time, so that the memory is the same
// for any size, and every batch is checked once more on the way: when one is bad the connection ends before the
// response does, so that nobody takes it for whole.
func (c *conn) writeTLS(r *wire.Response) error {
	s := &sealer{c: c, p: seals.Get().(*[sealMax]byte)}
	defer seals.Put(s.p)
	err := r.Parts(func(head []byte, span wire.Span) error {
		if span == nil {
			_, err := s.Write(head)
			return err
		}
		if fd, position, ok := span.File(); ok {
			return s.file(span, int(fd), position)
		}
		return c.withCopy(span, func(p []byte) error {
			_, err := s.Write(p)
			return err
		})
	})
	if err != nil {
		return err
	}
	return s.flush()
}

// file writes a span that lies in a file.
func (s *sealer) file(span wire.Span, fd int, position int64) error {
	var check record.Checker
	for left := span.Len(); left > 0; {
		n, err := unix.Pread(fd, s.p[s.n:min(sealMax, s.n+left)], position)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return fmt.Errorf("read a span: %w", err)
		case n == 0:
			return fmt.Errorf("read a span, %d bytes missing: %w", left, io.ErrUnexpectedEOF)
		}
		if err := check.Next(s.p[s.n : s.n+n]); err != nil {
			// The log learns of its damage by the check that remembers it, and the next read steps over it.
			return errors.Join(fmt.Errorf("a span has gone bad: %w", err), s.c.withCopy(span, func([]byte) error { return nil }))
		}
		s.n, left, position = s.n+n, left-n, position+int64(n)
		if err := s.whole(); err != nil {
			return err
		}
	}
	return check.End()
}
