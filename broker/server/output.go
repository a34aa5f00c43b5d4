package server

import (
	"errors"
	"fmt"
	"io"
	"syscall"

	"golang.org/x/sys/unix"

	"millrace/broker/wire"
)

// chunkMax bounds what one call writes, in bytes, so that the peer's progress is seen in pieces of it.
const chunkMax = 512 << 10

// write writes a response. Spans that lie in files go straight from the page cache to the socket.
func (c *conn) write(r *wire.Response) error {
	c.began = c.server.config.Now()
	if c.tls != nil {
		return c.writeTLS(r)
	}
	left := r.Size()
	return r.Parts(func(head []byte, span wire.Span) error {
		if span == nil {
			left -= len(head)
			return c.writeBytes(head, left > 0)
		}
		left -= span.Len()
		if fd, position, ok := span.File(); ok {
			return c.sendFile(int(fd), position, span.Len())
		}
		return c.writeCopy(span, left > 0)
	})
}

// patience gives the peer time to take the next bytes; little once the server closes.
func (c *conn) patience() error {
	err := c.net.SetWriteDeadline(c.server.config.Now().Add(c.server.config.Stall))
	if err == nil && c.server.ctx.Err() != nil {
		until := c.began.Add(min(closing, c.server.config.Stall))
		if until.Before(c.server.until) {
			until = c.server.until
		}
		err = c.net.SetWriteDeadline(until)
	}
	return err
}

// writeBytes writes p. more says that the response goes on, so that the kernel need not send a packet for p alone.
func (c *conn) writeBytes(p []byte, more bool) error {
	flags := unix.MSG_NOSIGNAL
	if more {
		flags |= unix.MSG_MORE
	}
	for len(p) > 0 {
		n, err := c.step(func(fd int) (int, error) {
			return unix.SendmsgN(fd, p[:min(len(p), chunkMax)], nil, nil, flags)
		})
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// writeCopy reads a span into budgeted memory and writes it.
func (c *conn) writeCopy(span wire.Span, more bool) error {
	return c.withCopy(span, func(p []byte) error { return c.writeBytes(p, more) })
}

// withCopy reads a span into budgeted memory, which is there until use returns.
func (c *conn) withCopy(span wire.Span, use func([]byte) error) error {
	n := int64(span.Len())
	// A span larger than the share takes all of it, and so goes alone.
	taken := min(n, c.server.config.Copies.Size())
	if err := c.server.config.Copies.Acquire(c.server.ctx, taken); err != nil {
		return fmt.Errorf("copy a span: %w", err)
	}
	defer c.server.config.Copies.Release(taken)
	p, err := span.Append(make([]byte, 0, n))
	if err != nil {
		return fmt.Errorf("read a span: %w", err)
	}
	if int64(len(p)) != n {
		return fmt.Errorf("a span of %d bytes has %d: %w", n, len(p), io.ErrUnexpectedEOF)
	}
	return use(p)
}

// sendFile sends n bytes of a file from position on. The position is our own: several goroutines send from one
// descriptor, so its shared offset is of no use.
func (c *conn) sendFile(file int, position int64, n int) error {
	for n > 0 {
		sent, err := c.step(func(fd int) (int, error) {
			return unix.Sendfile(fd, file, &position, min(n, chunkMax))
		})
		if err != nil {
			return fmt.Errorf("send from a file: %w", err)
		}
		if sent == 0 {
			return fmt.Errorf("send from a file, %d bytes missing: %w", n, io.ErrUnexpectedEOF)
		}
		n -= sent
	}
	return nil
}

// step calls write once the socket takes bytes, until it did something.
func (c *conn) step(write func(fd int) (int, error)) (int, error) {
	if err := c.patience(); err != nil {
		return 0, err
	}
	var n int
	var failed error
	err := c.raw.Write(func(fd uintptr) bool {
		for {
			n, failed = write(int(fd))
			if !errors.Is(failed, syscall.EINTR) {
				return !errors.Is(failed, syscall.EAGAIN)
			}
		}
	})
	if err != nil {
		return 0, err
	}
	return max(n, 0), failed
}
