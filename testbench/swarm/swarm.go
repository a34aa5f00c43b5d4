// Package swarm holds many MQTT clients in one thread, so that a load takes little of the machine it shares with the
// broker: one epoll set, one buffer to read into, one write for all that a client has to say. What the packets mean is
// its caller's; swarm only cuts the stream.
package swarm

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"millrace/bridge/mqtt/packet"
)

const (
	readMax   = 256 << 10 // one read; no packet may be larger
	eventsMax = 512       // connections looked at between two writes
)

// Swarm is a set of clients. It and its clients are for one goroutine.
type Swarm struct {
	epoll, timer int
	clients      map[int32]*Client
	events       [eventsMax]unix.EpollEvent
	buf          []byte
	dirty        []*Client // have something to write
	armed        time.Time // what the timer is set to
}

// Client is one connection. Take and Gone may be changed at any time.
type Client struct {
	// Take is given each control packet, whole. Its bytes are good until Take returns. An error ends the Turn.
	Take func(p []byte) error
	// Gone is told once that the connection has ended, if it was not Close that ended it. nil: that ends the Turn.
	Gone func(err error)

	swarm   *Swarm
	fd      int // -1: closed
	rest    []byte
	out     []byte
	dirty   bool
	blocked bool // the socket is full
}

// New makes an empty swarm. Close it.
func New() (*Swarm, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	timer, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("timer: %w", err), unix.Close(epoll))
	}
	s := &Swarm{epoll: epoll, timer: timer, clients: make(map[int32]*Client), buf: make([]byte, readMax)}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, timer, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(timer)}); err != nil {
		return nil, errors.Join(fmt.Errorf("timer: %w", err), s.Close())
	}
	return s, nil
}

// Close closes every connection, as a client that dies does.
func (s *Swarm) Close() error {
	var err error
	for _, c := range s.clients {
		err = errors.Join(err, c.Close())
	}
	return errors.Join(err, unix.Close(s.timer), unix.Close(s.epoll))
}

// Dial connects to a TCP address, "127.0.0.1:1883", and waits until the kernel has.
func (s *Swarm) Dial(address string) (*Client, error) {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	if !at.Addr().Is4() {
		return nil, fmt.Errorf("dial %s: only IPv4 here", address)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()})
	if err == nil {
		err = errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1), unix.SetNonblock(fd, true),
			unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("dial %s: %w", address, err), unix.Close(fd))
	}
	c := &Client{swarm: s, fd: fd}
	s.clients[int32(fd)] = c
	return c, nil
}

// Len is how many connections are open.
func (s *Swarm) Len() int { return len(s.clients) }

// Send says packet bytes with the next Turn. It copies them.
func (c *Client) Send(p []byte) {
	if c.fd < 0 {
		return
	}
	c.out = append(c.out, p...)
	c.mark()
}

// Append is Send for a packet.
func (c *Client) Append(p packet.Packet, v packet.Version) {
	if c.fd < 0 {
		return
	}
	c.out = p.Append(c.out, v)
	c.mark()
}

func (c *Client) mark() {
	if !c.dirty && !c.blocked {
		c.dirty = true
		c.swarm.dirty = append(c.swarm.dirty, c)
	}
}

// Backlog is how many bytes of a client the kernel has not taken yet.
func (c *Client) Backlog() int { return len(c.out) }

// Close ends the connection without a word; what was sent since the last Turn is not. Gone is not told.
func (c *Client) Close() error {
	if c.fd < 0 {
		return nil
	}
	delete(c.swarm.clients, int32(c.fd))
	err := unix.Close(c.fd)
	c.fd, c.out, c.rest = -1, nil, nil
	return err
}

// Flush writes what clients have to say, as far as the kernel takes it. Turn does it too.
func (s *Swarm) Flush() error {
	for i := 0; i < len(s.dirty); i++ { // Gone may add to them
		c := s.dirty[i]
		if c.dirty = false; c.fd < 0 {
			continue
		}
		if err := c.write(); err != nil {
			return err
		}
	}
	s.dirty = s.dirty[:0]
	return nil
}

func (c *Client) write() error {
	n, err := unix.Write(c.fd, c.out)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		n = 0
	case err != nil:
		return c.end(err)
	}
	c.out = c.out[:copy(c.out, c.out[n:])]
	if full := len(c.out) > 0; full != c.blocked {
		c.blocked = full
		want := uint32(unix.EPOLLIN)
		if full {
			want |= unix.EPOLLOUT
		}
		return unix.EpollCtl(c.swarm.epoll, unix.EPOLL_CTL_MOD, c.fd, &unix.EpollEvent{Events: want, Fd: int32(c.fd)})
	}
	return nil
}

func (c *Client) end(err error) error {
	if closing := c.Close(); closing != nil {
		return errors.Join(err, closing)
	}
	if c.Gone == nil {
		return fmt.Errorf("connection ended: %w", err)
	}
	c.Gone(err)
	return nil
}

// Turn writes what there is to write, waits until something comes or it is time, and hands out what came. It returns
// the first error of a Take, or of a connection that ended without a Gone.
func (s *Swarm) Turn(until time.Time) error {
	if err := s.Flush(); err != nil {
		return err
	}
	wait := -1
	if left := time.Until(until); left <= 0 {
		wait = 0
	} else if s.armed != until {
		at := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(left))}
		if err := unix.TimerfdSettime(s.timer, 0, &at, nil); err != nil {
			return fmt.Errorf("timer: %w", err)
		}
		s.armed = until
	}
	n, err := unix.EpollWait(s.epoll, s.events[:], wait)
	if errors.Is(err, unix.EINTR) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	for _, e := range s.events[:n] {
		if int(e.Fd) == s.timer {
			var ticks [8]byte
			if _, err := unix.Read(s.timer, ticks[:]); err != nil && !errors.Is(err, unix.EAGAIN) {
				return fmt.Errorf("timer: %w", err)
			}
			s.armed = time.Time{}
			continue
		}
		c := s.clients[e.Fd]
		if c == nil {
			continue // closed in this turn
		}
		if e.Events&unix.EPOLLOUT != 0 {
			if err := c.write(); err != nil {
				return err
			}
		}
		if e.Events&^unix.EPOLLOUT != 0 && c.fd >= 0 {
			if err := c.read(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Client) read() error {
	s := c.swarm
	kept := copy(s.buf, c.rest)
	n, err := unix.Read(c.fd, s.buf[kept:])
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return nil
	case err != nil:
		return c.end(err)
	case n == 0:
		return c.end(io.EOF)
	}
	have := s.buf[:kept+n]
	for c.fd >= 0 {
		size, err := packet.Frame(have)
		if err != nil {
			return err
		}
		if size > readMax {
			return fmt.Errorf("a packet of %d bytes", size)
		}
		if size == 0 || size > len(have) {
			c.rest = append(c.rest[:0], have...)
			return nil
		}
		if c.Take != nil {
			if err := c.Take(have[:size]); err != nil {
				return err
			}
		}
		have = have[size:]
	}
	return nil
}
