// Package sim is an I2C bus without a wire: register-level models of chips, for `serve --sim` and for tests. A driver
// cannot tell them from the real ones.
package sim

import (
	"fmt"
	"sync"

	"periph.io/x/conn/v3/i2c"
	"periph.io/x/conn/v3/physic"
)

// Device is a chip as the bus sees it.
type Device interface {
	// Tx is one transaction addressed to the chip: the bytes written to it, then the bytes it answers.
	Tx(w, r []byte) error
}

// Bus carries devices by address. It is safe for concurrent use.
type Bus struct {
	mu      sync.Mutex
	devices map[uint16]Device
}

var _ i2c.BusCloser = (*Bus)(nil)

// New returns a bus with these devices on it.
func New(devices map[uint16]Device) *Bus { return &Bus{devices: devices} }

// String names the bus.
func (b *Bus) String() string { return "simulated" }

// Tx is a transaction. An address nobody has is not acknowledged.
func (b *Bus) Tx(addr uint16, w, r []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	d, ok := b.devices[addr]
	if !ok {
		return fmt.Errorf("no device acknowledges address %#02x", addr)
	}
	return d.Tx(w, r)
}

// Plug puts a device at an address, or takes it away when d is nil.
func (b *Bus) Plug(addr uint16, d Device) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if d == nil {
		delete(b.devices, addr)
		return
	}
	b.devices[addr] = d
}

// SetSpeed accepts any speed.
func (b *Bus) SetSpeed(physic.Frequency) error { return nil }

// Close does nothing; the bus can be opened again.
func (b *Bus) Close() error { return nil }
