package bus

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"periph.io/x/conn/v3"
	"periph.io/x/conn/v3/physic"
	"periph.io/x/conn/v3/spi"
	"periph.io/x/host/v3/sysfs"
)

// What the kernel's spidev takes in one transfer: its parameter, and the default of that.
const (
	spidevParameter = "/sys/module/spidev/parameters/bufsiz"
	spidevDefault   = 4096
	spidevMax       = 64 << 10 // more of it is no use to us, and every transfer is copied
)

// ErrConnected is returned by Connect when it is called again.
var ErrConnected = errors.New("the port is connected already")

// PortOpener opens one SPI port.
type PortOpener func() (spi.PortCloser, error)

// AddSPI gives a name to an SPI port. It goes before a port of the kernel with the same name.
func (r *Registry) AddSPI(name string, open PortOpener) {
	if r.ports == nil {
		r.ports = map[string]PortOpener{}
	}
	r.ports[name] = open
}

// OpenSPI opens the SPI port of that name, a bus and one chip select of it: an added one, or the kernel's "SPI0.1",
// "/dev/spidev0.1" or "0.1". timeout bounds each transfer. The caller closes the port.
func (r *Registry) OpenSPI(name string, timeout time.Duration) (*SPI, error) {
	open, ok := r.ports[name]
	limit := spidevMax
	if !ok {
		number, chip, err := spidevNumbers(name)
		if err != nil {
			return nil, err
		}
		if limit, err = spidevLimit(spidevParameter); err != nil {
			return nil, fmt.Errorf("port %s: %w", name, err)
		}
		open = func() (spi.PortCloser, error) { return sysfs.NewSPI(number, chip) }
	}
	port, err := open()
	if err != nil {
		return nil, fmt.Errorf("open port %s: %w", name, err)
	}
	if l, ok := port.(conn.Limits); ok && l.MaxTxSize() > 0 {
		limit = min(limit, l.MaxTxSize())
	}
	return &SPI{name: name, timeout: timeout, limit: limit, port: port, line: newLine(port.Close)}, nil
}

func spidevNumbers(name string) (bus, chip int, err error) {
	digits := name
	for _, prefix := range []string{"SPI", "/dev/spidev"} {
		digits = strings.TrimPrefix(digits, prefix)
	}
	first, second, _ := strings.Cut(digits, ".")
	b, err := strconv.ParseUint(first, 10, 16)
	c, chipErr := strconv.ParseUint(second, 10, 8)
	if err != nil || chipErr != nil {
		return 0, 0, fmt.Errorf("%w: %q; the kernel's SPI ports are SPI0.0, SPI0.1 and so on", ErrUnknown, name)
	}
	return int(b), int(c), nil
}

// spidevLimit reads the parameter; where there is no such file spidev has the default, or is not there at all.
func spidevLimit(file string) (int, error) {
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return spidevDefault, nil
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(string(bytes.TrimSpace(raw)), 10, 31)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%s says %q, want a number of bytes", file, raw)
	}
	return min(int(n), spidevMax), nil
}

// SPI is an open SPI port, safe for concurrent use: one transfer runs at a time.
type SPI struct {
	name    string
	timeout time.Duration
	limit   int

	mu        sync.Mutex
	port      spi.PortCloser
	line      *line // nil: closed
	connected bool
}

var (
	_ spi.PortCloser = (*SPI)(nil)
	_ conn.Limits    = (*SPI)(nil)
	_ spi.Conn       = (*spiConn)(nil)
	_ conn.Limits    = (*spiConn)(nil)
)

// String is the name the port was opened by.
func (s *SPI) String() string { return s.name }

// MaxTxSize bounds one transfer, in bytes.
func (s *SPI) MaxTxSize() int { return s.limit }

// LimitSpeed bounds the clock below what Connect asks for.
func (s *SPI) LimitSpeed(f physic.Frequency) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.line == nil {
		return fmt.Errorf("port %s: %w", s.name, ErrClosed)
	}
	return s.port.LimitSpeed(f)
}

// Connect sets clock, mode and bits per word, once. Each transfer on what it returns ends within the port's timeout, or
// with ErrTimeout.
func (s *SPI) Connect(f physic.Frequency, mode spi.Mode, bits int) (spi.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.line == nil:
		return nil, fmt.Errorf("port %s: %w", s.name, ErrClosed)
	case s.connected:
		return nil, fmt.Errorf("port %s: %w", s.name, ErrConnected)
	}
	c, err := s.port.Connect(f, mode, bits)
	if err != nil {
		return nil, fmt.Errorf("connect port %s: %w", s.name, err)
	}
	s.connected = true
	return &spiConn{s, c}, nil
}

// Close ends the port. It waits for a transfer that hangs.
func (s *SPI) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.line == nil {
		return nil
	}
	err := s.line.close()
	s.line = nil
	if err != nil {
		return fmt.Errorf("close port %s: %w", s.name, err)
	}
	return nil
}

// spiConn is what a chip's driver talks to.
type spiConn struct {
	*SPI
	raw spi.Conn
}

// Duplex is the port's.
func (c *spiConn) Duplex() conn.Duplex { return c.raw.Duplex() }

// Tx writes w and reads r at the same time; one of them may be empty. After ErrTimeout r is untouched.
func (c *spiConn) Tx(w, r []byte) error { return c.TxPackets([]spi.Packet{{W: w, R: r}}) }

// TxPackets is one transaction of several transfers, together no longer than the limit.
func (c *spiConn) TxPackets(packets []spi.Packet) error {
	total := 0
	own := make([]spi.Packet, len(packets)) // the transfer's own buffers, see line
	for i, p := range packets {
		total += max(len(p.W), len(p.R))
		own[i] = p
	}
	if total > c.limit {
		return fmt.Errorf("port %s: a transfer of %d bytes is over %d", c.name, total, c.limit)
	}
	for i, p := range packets {
		own[i].W, own[i].R = bytes.Clone(p.W), nil
		if len(p.R) > 0 {
			own[i].R = make([]byte, len(p.R))
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.line == nil {
		return fmt.Errorf("port %s: %w", c.name, ErrClosed)
	}
	err := c.line.transfer(func() error {
		if len(own) == 1 && !own[0].KeepCS {
			return c.raw.Tx(own[0].W, own[0].R)
		}
		return c.raw.TxPackets(own)
	}, c.timeout)
	if err != nil {
		return fmt.Errorf("port %s: %w", c.name, err)
	}
	for i, p := range packets {
		copy(p.R, own[i].R)
	}
	return nil
}
