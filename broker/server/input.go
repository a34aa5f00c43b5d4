package server

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"millrace/broker/wire"
)

// smallMax is the size of the buffer a connection reads into, in bytes. A frame that fits needs no budget to be
// read, so that ordinary requests are served however much memory large ones hold.
const smallMax = 4 << 10

var smalls = sync.Pool{New: func() any { return new([smallMax]byte) }}

// input is what a connection has read and not used yet. It holds a buffer only while there are such bytes.
type input struct {
	buffer     *[smallMax]byte
	start, end int // Invariant: 0 <= start <= end <= smallMax; both 0 without buffer.
}

func (in *input) len() int { return in.end - in.start }

// drop gives the buffer back.
func (in *input) drop() {
	if in.buffer != nil {
		smalls.Put(in.buffer)
		*in = input{}
	}
}

// used takes n bytes away.
func (in *input) used(n int) {
	if in.start += n; in.start == in.end {
		in.drop()
	}
}

// need reads until n bytes are there, n <= smallMax.
func (in *input) need(c *conn, n int) error {
	if in.start+n > smallMax {
		in.end = copy(in.buffer[:], in.buffer[in.start:in.end])
		in.start = 0
	}
	for in.len() < n {
		if err := in.fill(c); err != nil {
			return err
		}
	}
	return nil
}

// fill reads some bytes. The buffer is taken only when there is something to read, so that an idle connection has
// none.
func (in *input) fill(c *conn) error {
	if c.tls != nil {
		return in.fillTLS(c)
	}
	var n int
	var failed error
	err := c.raw.Read(func(fd uintptr) bool {
		if in.buffer == nil {
			in.buffer = smalls.Get().(*[smallMax]byte)
		}
		n, failed = retryRead(int(fd), in.buffer[in.end:])
		if failed == syscall.EAGAIN {
			if in.len() == 0 {
				in.drop()
			}
			return false
		}
		return true
	})
	switch {
	case err != nil:
		return err
	case failed != nil:
		return failed
	case n == 0:
		return io.EOF
	}
	in.end += n
	return nil
}

// retryRead is read(2) without interruptions.
func retryRead(fd int, p []byte) (int, error) {
	for {
		n, err := syscall.Read(fd, p)
		if err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}

// await waits for the next frame to begin, up to the idle time. It is errSilent when the peer can be waited for without
// a goroutine.
func (in *input) await(c *conn) error {
	if c.quiet.IsZero() {
		c.quiet = c.server.config.Now()
	}
	for in.len() == 0 {
		look := c.server.config.Idle
		if c.waiter != nil {
			look = min(look, c.server.config.Silence)
		}
		c.patient(look)
		err := in.fill(c)
		if err == nil {
			continue
		}
		if !timedOut(err) || c.over() {
			return c.ended(err)
		}
		switch now := c.server.config.Now(); {
		case now.Sub(c.quiet) >= c.server.config.Idle && c.waits(): // it has reason to be silent
			c.quiet = now
		case now.Sub(c.quiet) >= c.server.config.Idle, !c.session.Known() && !now.Before(c.by):
			return c.ended(err)
		case c.waiter != nil && now.Sub(c.quiet) >= c.server.config.Silence:
			return errSilent
		}
	}
	c.quiet = time.Time{}
	return nil
}

// left is how long the peer may be silent still.
func (c *conn) left() time.Duration {
	now := c.server.config.Now()
	left := c.quiet.Add(c.server.config.Idle).Sub(now)
	if !c.session.Known() {
		left = min(left, c.by.Sub(now))
	}
	return max(1, left)
}

// begin waits for the next frame and returns its size and API when it may be read.
func (in *input) begin(c *conn) (size int, key int16, err error) {
	if err := in.await(c); err != nil {
		return 0, 0, err
	}
	c.patient(c.server.config.Stall)
	if err := in.need(c, wire.PrefixSize); err != nil {
		return 0, 0, in.half(err)
	}
	head := in.buffer[in.start:in.end]
	if c.session.Raw() {
		size, err = wire.TokenSize([wire.PrefixSize]byte(head))
		return size, wire.KeySASLAuthenticate, err
	}
	if size, err = wire.FrameSize([wire.PrefixSize]byte(head), c.server.config.RequestMax); err != nil {
		return 0, 0, fmt.Errorf("%w (socket.request.max.bytes)", err)
	}
	if err := in.need(c, wire.PrefixSize+4); err != nil {
		return 0, 0, in.half(err)
	}
	head = in.buffer[in.start:in.end]
	return size, int16(binary.BigEndian.Uint16(head[wire.PrefixSize:])), wire.Admit([4]byte(head[wire.PrefixSize:]), size)
}

// half makes the end of the stream inside a frame what it is.
func (in *input) half(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("half a request: %w", io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("half a request: %w", err)
}

// frame reads the frame of size bytes whose prefix is in the buffer. What it returns is valid until free is called,
// or until the next read where free is nil.
func (in *input) frame(c *conn, size int) (frame []byte, free func(), err error) {
	whole := wire.PrefixSize + size
	c.patient(c.server.config.Stall)
	// A large frame's memory is asked for when the first page of it has arrived.
	if err := in.need(c, min(whole, smallMax)); err != nil {
		return nil, nil, in.half(err)
	}
	produce := int16(binary.BigEndian.Uint16(in.buffer[in.start+wire.PrefixSize:])) == keyProduce
	if whole <= smallMax && !produce {
		frame = in.buffer[in.start+wire.PrefixSize : in.start+whole]
		return frame, func() { in.used(whole) }, nil
	}
	bodies := c.server.bodies
	if err := c.server.reserve(bodies.cost(size)); err != nil {
		return nil, nil, err
	}
	frame = bodies.get(size)
	n := copy(frame, in.buffer[in.start+wire.PrefixSize:in.end])
	in.used(wire.PrefixSize + n)
	if err := c.fillBody(frame, n); err != nil {
		bodies.put(frame)
		return nil, nil, in.half(err)
	}
	return frame, func() { bodies.put(frame) }, nil
}

// fillBody reads the rest of a body into memory it has already. The peer has Stall for every page, or a second while
// others wait for memory.
func (c *conn) fillBody(frame []byte, n int) error {
	c.inBody.Store(true)
	defer c.inBody.Store(false)
	for page := 0; n < len(frame); {
		if n >= page {
			page = n + smallMax
			c.patientBody()
		}
		got, err := c.receive(frame[n:])
		if err != nil {
			return err
		}
		n += got
	}
	return nil
}

// receive reads some bytes into memory there is already.
func (c *conn) receive(p []byte) (n int, err error) {
	if c.tls != nil {
		if n, err = c.tls.Read(p); n > 0 {
			return n, nil
		}
		return 0, err
	}
	var failed error
	err = c.raw.Read(func(fd uintptr) bool {
		n, failed = retryRead(int(fd), p)
		return failed != syscall.EAGAIN
	})
	switch {
	case err != nil:
		return 0, err
	case failed != nil:
		return 0, failed
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// waits says whether the peer has reason to be silent: it waits for an answer.
func (c *conn) waits() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.broken && (len(c.queue) > 0 || c.writing)
}

// ended names why nothing came: the peer went, was idle too long, or the server closes.
func (c *conn) ended(err error) error {
	switch {
	case c.server.ctx.Err() != nil:
		return c.server.ctx.Err()
	case c.over():
		return net.ErrClosed
	case timedOut(err):
		return io.EOF // idle for connections.max.idle.ms: nothing went wrong
	}
	return err
}
