package mqtt

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"millrace/bridge/mqtt/packet"
	"millrace/broker/auth"
	"millrace/broker/poll"
)

// client is one connection. One goroutine reads and acts on what it reads, and there is none while the client has
// been silent for a while; answers and messages go through out.
type client struct {
	s        *Server
	conn     net.Conn // a *carrier where the listener has TLS or WebSocket
	listener *Listener
	waiter   *poll.Waiter // nil where the connection cannot wait without a goroutine
	in       input
	out      output
	ctx      context.Context
	cancel   context.CancelFunc

	// Set by CONNECT, constant afterwards.
	version   packet.Version
	id        string
	expiry    uint32 // seconds the session outlives the connection; life guards its change on DISCONNECT
	window    int    // QoS 1 and 2 messages the client takes at once
	maxPacket int    // bytes the client takes
	reasons   bool   // it wants reason strings [MQTT-3.1.2-29]
	keepAlive time.Duration
	heard     time.Time    // when the last packet had been dealt with, and the client's turn began
	due       time.Time    // of the read deadline; zero: none is set
	who       auth.Session // Principal and Host
	method    string       // of enhanced authentication
	session   *session     // nil before attach
	epoch     uint64       // of session while it is this connection's

	greeted atomic.Bool // CONNACK is on its way
	will    atomic.Pointer[will]
	kept    chan error // of wills.settle; nil: nothing was written
	acks    acks
	again   *auth.Session     // an authentication that is done again
	aliases map[uint16]string // [MQTT-3.3.2-7]
	told    told
	crowded bool    // the last publish was refused for want of memory
	known   bool    // the log has the session: QoS 2 may be published
	before  *client // whom this one has taken the session from
}

func newClient(s *Server, conn net.Conn, l *Listener) *client {
	c := &client{s: s, conn: s.newCarrier(conn, l), listener: l, who: auth.Session{Host: hostOf(conn.RemoteAddr())}}
	conn = c.conn
	c.in.conn, c.in.c = conn, c
	c.ctx, c.cancel = context.WithCancel(s.ctx)
	if raw := rawConn(conn); raw != nil && s.cfg.Poller != nil {
		c.waiter = s.cfg.Poller.NewWaiter(raw, c.run)
	}
	c.out = output{conn: conn, all: &s.outlets, limit: s.cfg.MaxOutput, wg: &s.wg, room: c.roomAgain, closed: c.wake}
	_, c.out.slow = conn.(*carrier)
	c.out.cond = sync.NewCond(&c.out.mu)
	c.acks.c = c
	c.acks.cond = sync.NewCond(&c.acks.mu)
	return c
}

func (c *client) roomAgain() {
	if c.session != nil {
		c.session.wake()
	}
}

// rawConn is the socket that is readable when conn is and a read of conn found nothing; nil where there is none.
func rawConn(conn net.Conn) syscall.RawConn {
	switch conn := conn.(type) {
	case *carrier:
		if conn.web == nil {
			return rawConn(conn.Conn)
		}
	case syscall.Conn:
		if raw, err := conn.SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}

// wake brings back the goroutine of a connection that was closed.
func (c *client) wake() {
	if c.waiter != nil {
		c.waiter.Wake()
	}
}

// errSilent is returned by serve when the client has been silent for Config.Silence.
var errSilent = errors.New("silent")

// run reads until the connection ends, or the client is silent: then it is called again when something comes.
func (c *client) run() {
	for {
		err := c.serve()
		if err != errSilent {
			c.finish(err)
			return
		}
		c.in.release()
		var left time.Duration
		if c.keepAlive > 0 {
			left = max(1, c.heard.Add(c.keepAlive).Sub(c.s.cfg.Now()))
		}
		if c.waiter.Wait(left) {
			return // c is the next run's already
		}
	}
}

func (c *client) finish(err error) {
	defer c.cancel()
	c.refuse(err)
	c.s.leave(c)
	c.acks.close()
	c.out.finish(nil, c.s.cfg.Now())
	c.out.drain()
	c.in.release()
	c.in.ahead.release()
	if c.waiter != nil {
		c.waiter.Retire()
	}
	c.s.gone(c)
}

// refuse tells the peer why its connection ends, as far as its version allows [MQTT-4.13.1-1] [MQTT-4.13.2-1],
// [MQTT-4.8.0-1] of 3.1.1.
func (c *client) refuse(err error) {
	var bad *packet.Error
	switch {
	case errors.As(err, &bad):
		c.s.complain("mqtt: connection ended", "client", c.id, "remote", c.conn.RemoteAddr(), "reason", bad)
		c.end(bad.Reason, bad.Why)
	case err == nil || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe):
	default:
		c.s.log.Debug("mqtt: connection lost", "client", c.id, "remote", c.conn.RemoteAddr(), "error", err)
	}
}

// end closes the connection from our side: MQTT 5 clients are told in a DISCONNECT, with a reason string at most
// [MQTT-3.14.2-2], which is the last packet [MQTT-3.14.4-1] [MQTT-3.14.4-2]; 3.1.1 has none for servers. Safe from any
// goroutine; the first reason counts.
func (c *client) end(reason packet.Reason, why string) {
	now := c.s.cfg.Now()
	// No DISCONNECT before CONNACK [MQTT-3.14.0-1]; and only what greeted says makes version safe to read from here.
	if !c.greeted.Load() || c.version != packet.V5 {
		c.out.finish(nil, now)
	} else {
		p := &packet.Disconnect{Reason: reason, Properties: c.reasonString(why)}
		c.out.finish(func(dst []byte) []byte { return c.fitting(dst, p) }, now)
	}
	c.cancel()
	c.acks.close()
}

func (c *client) reasonString(why string) *packet.Properties {
	if why == "" {
		return nil
	}
	return &packet.Properties{Present: packet.Of(packet.ReasonString), ReasonString: why}
}

// takeWill returns the will once; nil when there is none (any more).
func (c *client) takeWill() *will { return c.will.Swap(nil) }

// send sends an answer, without its reason string when that would be more than the client takes [MQTT-3.4.2-2]
// [MQTT-3.5.2-2] [MQTT-3.6.2-2] [MQTT-3.7.2-2] [MQTT-3.2.2-19] [MQTT-3.14.2-3]; SUBACK [MQTT-3.9.2-1] and UNSUBACK
// [MQTT-3.11.2-1] have none. User properties of the server's own there are not, in any packet [MQTT-3.2.2-20]
// [MQTT-3.4.2-3] [MQTT-3.5.2-3] [MQTT-3.6.2-3] [MQTT-3.7.2-3] [MQTT-3.9.2-2] [MQTT-3.11.2-2] [MQTT-3.14.2-4].
func (c *client) send(p packet.Packet) {
	c.out.answer(func(dst []byte) []byte { return c.fitting(dst, p) })
}

func (c *client) fitting(dst []byte, p packet.Packet) []byte {
	n := len(dst)
	if dst = p.Append(dst, c.version); c.maxPacket == 0 || len(dst)-n <= c.maxPacket {
		return dst
	}
	switch p := p.(type) {
	case *packet.Ack:
		dst = (&packet.Ack{Kind: p.Kind, ID: p.ID, Reason: p.Reason}).Append(dst[:n], c.version)
	case *packet.Disconnect:
		dst = (&packet.Disconnect{Reason: p.Reason}).Append(dst[:n], c.version)
	case *packet.Connack: // connect has seen to it that one that accepts is small enough
		dst = (&packet.Connack{Reason: p.Reason}).Append(dst[:n], c.version)
	}
	if len(dst)-n > c.maxPacket {
		return dst[:n] // rather nothing than too much [MQTT-3.1.2-24]
	}
	return dst
}

// answerable reports whether the client takes an answer to that many topic filters [MQTT-3.1.2-24].
func (c *client) answerable(filters int) bool {
	size := 2 + 3 + filters // fixed header, packet identifier, no properties, reasons
	if size-2 > 127 {
		size++
	}
	return size <= c.maxPacket
}

var errAnswerTooLarge = &packet.Error{Reason: packet.PacketTooLarge, Why: "the answer would be larger than the client's maximum packet size"}

// publish sends one message, unless it is larger than the client takes [MQTT-3.1.2-24], which is unfit. blocked says
// that the connection has ended meanwhile, so that the message is still to come.
func (c *client) publish(m *message, head packet.Publish, expiry uint32, ids []uint32) outcome {
	result := done
	if !c.out.add(func(dst []byte) []byte {
		dst, result = c.appendTo(dst, m, head, expiry, ids)
		return dst
	}) {
		return blocked
	}
	if result == done {
		c.s.traffic.publishSent[head.QoS].Add(1)
		c.s.traffic.publishBytesSent.Add(int64(len(m.body)))
	}
	return result
}

// serve reads packets until the connection ends or is silent, which is errSilent. nil means the client said DISCONNECT.
func (c *client) serve() error {
	if c.session == nil {
		if !c.acks.enter() {
			return net.ErrClosed
		}
		err := c.greet()
		if c.acks.leave(); err != nil {
			return err
		}
		c.heard = c.s.cfg.Now()
	}
	for {
		frame, err := c.next()
		if err != nil {
			return err
		}
		c.s.traffic.frame(len(frame))
		p, err := packet.Decode(frame, c.version, limits)
		if err != nil {
			return err
		}
		if !c.acks.enter() {
			return net.ErrClosed
		}
		done, err := c.handle(p, len(frame))
		if c.acks.leave(); done || err != nil {
			return err
		}
		c.out.wait()
		c.heard = c.s.cfg.Now()
	}
}

// greet reads CONNECT and answers it. A connection that sends none in reasonable time is closed (3.1.4).
func (c *client) greet() error {
	c.in.until = c.s.cfg.Now().Add(c.s.cfg.ConnectTimeout)
	if err := c.conn.SetReadDeadline(c.in.until); err != nil {
		return err
	}
	if err := c.open(c.in.until); err != nil {
		return err
	}
	frame, err := c.in.next(c.limits().MaxPacketSize)
	if err != nil {
		return err
	}
	c.s.traffic.frame(len(frame))
	if err := c.connect(frame); err != nil {
		return err
	}
	if c.before != nil {
		// What it is still busy with, a publish that is not staged yet, comes before what this one sends.
		c.before.acks.idle()
		c.before = nil
	}
	c.in.greeted()
	c.out.wait()
	return c.conn.SetReadDeadline(time.Time{})
}

// next reads a packet.
func (c *client) next() ([]byte, error) {
	for {
		// One deadline in an interval, not one for each packet: when it passes and packets came since, it is set anew.
		if c.due.IsZero() {
			if err := c.patient(); err != nil {
				return nil, err
			}
		}
		frame, err := c.in.next(c.limits().MaxPacketSize)
		if c.in.moved {
			c.in.moved, c.due = false, time.Time{}
			if err := c.conn.SetReadDeadline(c.due); err != nil {
				return nil, err
			}
		}
		if err == nil {
			return frame, nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, err
		}
		c.due = time.Time{}
		silent := c.s.cfg.Now().Sub(c.heard)
		switch {
		case c.keepAlive > 0 && silent >= c.keepAlive:
			// Nothing for one and a half times the keep-alive interval [MQTT-3.1.2-22].
			return nil, &packet.Error{Reason: packet.KeepAliveTimeout, Why: "nothing was heard for one and a half times the keep alive"}
		case c.waiter != nil && silent >= c.s.cfg.Silence && c.in.empty():
			return nil, errSilent
		}
	}
}

// open does what comes before MQTT.
func (c *client) open(until time.Time) error {
	carried, ok := c.conn.(*carrier)
	if !ok {
		return nil
	}
	cert, err := carried.open(c.s, c.listener, until)
	if err == nil && cert != nil && c.s.cfg.Principal != nil {
		c.who.Principal, err = c.s.cfg.Principal(cert)
	}
	if err != nil {
		c.s.complain("mqtt: connection ended", "remote", c.conn.RemoteAddr(), "reason", err)
	}
	return err
}

// patient sets the deadline of the next look at how long the client has been silent.
func (c *client) patient() error {
	now := c.s.cfg.Now()
	if c.keepAlive > 0 {
		c.due = c.heard.Add(c.keepAlive)
	}
	if c.waiter != nil && (c.due.IsZero() || c.due.After(now.Add(c.s.cfg.Silence))) {
		c.due = now.Add(c.s.cfg.Silence)
	}
	if c.due.IsZero() {
		return nil
	}
	if least := now.Add(lastLook); c.due.Before(least) { // a read after its deadline does not look
		c.due = least
	}
	return c.conn.SetReadDeadline(c.due)
}

// limits of the lists in one packet.
var limits = packet.Limits{Filters: 1024, User: 256}

// handle acts on one packet. done means a normal end.
func (c *client) handle(p packet.Packet, size int) (done bool, err error) {
	switch p := p.(type) {
	case *packet.Publish:
		return false, c.onPublish(p, size)
	case *packet.Ack:
		return false, c.onAck(p)
	case *packet.Subscribe:
		return false, c.onSubscribe(p)
	case *packet.Unsubscribe:
		return false, c.onUnsubscribe(p)
	case *packet.Ping:
		if !p.Response {
			c.send(&packet.Ping{Response: true}) // [MQTT-3.12.4-1]
			return false, nil
		}
	case *packet.Disconnect:
		return true, c.onDisconnect(p)
	case *packet.Connect:
		// A second CONNECT is a protocol error [MQTT-3.1.0-2].
		return false, &packet.Error{Reason: packet.ProtocolError, Why: "a second CONNECT"}
	case *packet.Auth:
		return false, c.onAuth(p)
	}
	return false, &packet.Error{Reason: packet.ProtocolError, Why: "a " + p.Type().String() + " from a client"}
}

func (c *client) onAck(p *packet.Ack) error {
	switch p.Kind {
	case packet.PUBACK:
		// A refusal of the client ends the delivery as well [MQTT-4.4.0-2].
		c.session.acked(c, p.ID)
	case packet.PUBREC:
		if !c.session.received(c, p.ID, p.Reason) && !p.Reason.Failed() {
			// The client is told as far as its version can, and lets go of the identifier.
			c.send(&packet.Ack{Kind: packet.PUBREL, ID: p.ID, Reason: packet.PacketIDNotFound})
		}
	case packet.PUBREL:
		return c.onPubrel(p.ID)
	case packet.PUBCOMP:
		c.session.completed(c, p.ID)
	}
	return nil
}

func (c *client) onDisconnect(p *packet.Disconnect) error {
	if p.Properties.Has(packet.ServerReference) {
		return &packet.Error{Reason: packet.ProtocolError, Why: "a server reference from a client"} // 3.14.2.2.5
	}
	if p.Properties.Has(packet.SessionExpiry) {
		// 3.14.2.2.2: a session that was to end with the connection cannot be kept now.
		if c.expiry == 0 && p.Properties.SessionExpiry != 0 {
			return &packet.Error{Reason: packet.ProtocolError, Why: "a session expiry where CONNECT had none"}
		}
		c.s.life.Lock()
		c.session.mu.Lock()
		if c.session.client == c { // else it is another connection's already
			c.session.expiry = p.Properties.SessionExpiry
		}
		c.session.mu.Unlock()
		c.s.life.Unlock()
	}
	if p.Reason == packet.Success {
		c.s.wills.revoke(c)
	}
	return nil
}
