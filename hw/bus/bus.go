// Package bus opens the buses that sensors and memories hang on, by the name the kernel gives them, and bounds every transfer in
// time. It uses periph's sysfs driver and nothing else of its host package: host.Init would link and probe drivers that
// map /dev/mem.
package bus

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"periph.io/x/conn/v3/i2c"
	"periph.io/x/conn/v3/physic"
	"periph.io/x/host/v3/sysfs"
)

// TransferMax bounds one transfer, in bytes either way: what Linux' i2c-dev takes.
const TransferMax = 8192

var (
	// ErrTimeout is returned by Tx when the transfer did not end in time, and by later ones until it has ended.
	ErrTimeout = errors.New("bus timeout")
	// ErrClosed is returned by Tx after Close.
	ErrClosed = errors.New("bus is closed")
	// ErrUnknown is returned by Open for a name that is no bus.
	ErrUnknown = errors.New("no such bus")
)

// Opener opens one bus anew. It is called again when the bus has to be recovered.
type Opener func() (i2c.BusCloser, error)

// Registry knows buses that the kernel does not: simulated ones. The zero value is ready. It is not safe for concurrent
// use with Add and AddSPI.
type Registry struct {
	added map[string]Opener
	ports map[string]PortOpener
}

// Add gives a name to a bus. It goes before a bus of the kernel with the same name.
func (r *Registry) Add(name string, open Opener) {
	if r.added == nil {
		r.added = map[string]Opener{}
	}
	r.added[name] = open
}

// Open opens the bus of that name: an added one, or the kernel's "I2C1", "/dev/i2c-1" or "1". timeout bounds each
// transfer. The caller closes the bus.
func (r *Registry) Open(name string, timeout time.Duration) (*Bus, error) {
	open, ok := r.added[name]
	if !ok {
		number, err := kernelNumber(name)
		if err != nil {
			return nil, err
		}
		open = func() (i2c.BusCloser, error) { return sysfs.NewI2C(number) }
	}
	b := &Bus{name: name, timeout: timeout, open: open}
	return b, b.Reopen()
}

func kernelNumber(name string) (int, error) {
	digits := name
	for _, prefix := range []string{"I2C", "/dev/i2c-"} {
		digits = strings.TrimPrefix(digits, prefix)
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("%w: %q; the kernel's are I2C0, I2C1 and so on", ErrUnknown, name)
	}
	return int(n), nil
}

// Bus is an open I2C bus, safe for concurrent use: one transfer runs at a time.
type Bus struct {
	name    string
	timeout time.Duration
	open    Opener

	mu   sync.Mutex
	raw  i2c.BusCloser // of the line
	line *line         // nil: closed
}

var _ i2c.BusCloser = (*Bus)(nil)

// String is the name the bus was opened by.
func (b *Bus) String() string { return b.name }

// Reopen closes the bus, if it is open, and opens it again: what userspace can do for a bus that hangs. The kernel's
// adapters clock a stuck slave free when they are set up.
func (b *Bus) Reopen() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	closeErr := b.close()
	raw, err := b.open()
	if err != nil {
		return errors.Join(closeErr, fmt.Errorf("open bus %s: %w", b.name, err))
	}
	b.raw, b.line = raw, newLine(raw.Close)
	return closeErr
}

// Tx writes w to the device and then reads r from it, as one transaction. It returns ErrTimeout when that takes too
// long; r is untouched then.
func (b *Bus) Tx(addr uint16, w, r []byte) error {
	if len(w) > TransferMax || len(r) > TransferMax {
		return fmt.Errorf("bus %s: a transfer of %d and %d bytes is over %d", b.name, len(w), len(r), TransferMax)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.line == nil {
		return fmt.Errorf("bus %s: %w", b.name, ErrClosed)
	}
	raw, out, in := b.raw, append([]byte(nil), w...), make([]byte, len(r)) // the transfer's own, see line
	err := b.line.transfer(func() error { return raw.Tx(addr, out, in) }, b.timeout)
	if !errors.Is(err, ErrTimeout) {
		copy(r, in)
	}
	if err != nil {
		return fmt.Errorf("bus %s, device %#02x: %w", b.name, addr, err)
	}
	return nil
}

// SetSpeed sets the clock of the bus, where the kernel's driver can.
func (b *Bus) SetSpeed(f physic.Frequency) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.line == nil {
		return fmt.Errorf("bus %s: %w", b.name, ErrClosed)
	}
	return b.raw.SetSpeed(f)
}

// Close ends the bus. It waits for a transfer that hangs: the kernel's adapters give up by themselves after a second or so.
func (b *Bus) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.close()
}

func (b *Bus) close() error {
	if b.line == nil {
		return nil
	}
	err := b.line.close()
	b.raw, b.line = nil, nil
	if err != nil {
		return fmt.Errorf("close bus %s: %w", b.name, err)
	}
	return nil
}
