package sim

import (
	"errors"
	"fmt"
	"sync"

	"periph.io/x/conn/v3"
	"periph.io/x/conn/v3/physic"
	"periph.io/x/conn/v3/spi"
)

// Op-codes and status bits that SPI FRAM chips share (Fujitsu DS501-00015 and DS501-00032, op-code tables; Cypress
// 001-84499, table 2).
const (
	framWRSR  = 0x01
	framWRITE = 0x02
	framREAD  = 0x03
	framWRDI  = 0x04
	framRDSR  = 0x05
	framWREN  = 0x06
	framRDID  = 0x9f
	framSLEEP = 0xb9

	framLatch    = 0x02 // WEL
	framBlocks   = 0x0c // BP1, BP0
	framProtect  = 0x80 // WPEN
	framTransfer = 256  // so small that drivers have to divide what they write
)

// ErrPower is what a chip without power answers: nothing.
var ErrPower = errors.New("simulated chip: the power is cut")

// FRAM is an SPI FRAM as its pins show it: op-codes, write enable latch, block protection, sleep. Writes land byte by
// byte as they are clocked in, and power can go in the middle of a byte. It is the port and the connection in one, and
// safe for concurrent use.
type FRAM struct {
	id    []byte
	width int // bytes of an address

	mu        sync.Mutex
	memory    []byte
	status    byte
	writable  bool // the WP pin is high
	asleep    bool
	dead      bool
	left      int   // bytes that are still written before the power goes, -1: it stays
	bad       byte  // what the byte then under way is turned into, by exclusive or
	fault     error // every transfer ends in it
	loose     bool  // the output hangs in the air: nothing is heard, all is read as ones
	transfers int
	written   int64
}

var (
	_ spi.PortCloser = (*FRAM)(nil)
	_ spi.Conn       = (*FRAM)(nil)
	_ conn.Limits    = (*FRAM)(nil)
)

// NewFRAM is a chip of size bytes that answers RDID with id. Chips of 64 KiB and less have two address bytes, others
// three. It comes filled with ones, as nothing promises zeros.
func NewFRAM(size int, id []byte) *FRAM {
	f := &FRAM{id: id, width: 2, memory: make([]byte, size), writable: true, left: -1}
	if size > 64<<10 {
		f.width = 3
	}
	for i := range f.memory {
		f.memory[i] = 0xff
	}
	return f
}

// Cut has the power go while byte n from now is written, n counted from 0; that byte is turned into another one by
// exclusive or with bad. Nothing is answered any more until Power.
func (f *FRAM) Cut(n int, bad byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left, f.bad = n, bad
}

// Power cuts the power, if that has not happened, and gives it again: what was written is there, the latch is reset.
func (f *FRAM) Power() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead, f.left, f.asleep, f.fault, f.loose = false, -1, false, nil, false
	f.status &^= framLatch
}

// Fail has every transfer end in err, before it reaches the chip; nil ends that.
func (f *FRAM) Fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = err
}

// Unplug takes the chip out of its socket: transfers go well as far as the bus can tell.
func (f *FRAM) Unplug() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loose = true
}

// Protect sets the status register's protection bits; writable is the level of the WP pin.
func (f *FRAM) Protect(bits byte, writable bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status, f.writable = bits&(framBlocks|framProtect), writable
}

// Memory is a copy of what the chip holds.
func (f *FRAM) Memory() []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]byte(nil), f.memory...)
}

// Spoil turns the byte at an address into another one, by exclusive or.
func (f *FRAM) Spoil(at int, bad byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.memory[at] ^= bad
}

// Transfers is how many there were; Written how many bytes they wrote.
func (f *FRAM) Transfers() (n int, written int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.transfers, f.written
}

// String names the port.
func (f *FRAM) String() string { return "simulated FRAM" }

// Close does nothing; the port can be opened again.
func (f *FRAM) Close() error { return nil }

// LimitSpeed accepts any speed.
func (f *FRAM) LimitSpeed(physic.Frequency) error { return nil }

// Duplex is full.
func (f *FRAM) Duplex() conn.Duplex { return conn.Full }

// MaxTxSize is small, so that drivers have to divide what they transfer.
func (f *FRAM) MaxTxSize() int { return framTransfer }

// Connect takes modes 0 and 3, and words of 8 bits.
func (f *FRAM) Connect(_ physic.Frequency, mode spi.Mode, bits int) (spi.Conn, error) {
	if mode != spi.Mode0 && mode != spi.Mode3 || bits != 8 {
		return nil, fmt.Errorf("simulated FRAM: mode %v with %d bits", mode, bits)
	}
	return f, nil
}

// TxPackets is one transaction per packet: none may keep the chip selected.
func (f *FRAM) TxPackets(packets []spi.Packet) error {
	for _, p := range packets {
		if p.KeepCS {
			return errors.New("simulated FRAM: a packet keeps the chip selected")
		}
		if err := f.Tx(p.W, p.R); err != nil {
			return err
		}
	}
	return nil
}

// Tx is one transaction, from chip select to chip select. w and r are as long as each other, or one is empty.
func (f *FRAM) Tx(w, r []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.transfers++
	switch {
	case len(w) == 0 || len(w) > framTransfer || len(r) != 0 && len(r) != len(w):
		return fmt.Errorf("simulated FRAM: a transfer of %d and %d bytes", len(w), len(r))
	case f.fault != nil:
		return f.fault
	case f.dead:
		return ErrPower
	}
	for i := range r {
		r[i] = 0xff
	}
	if f.loose {
		return nil
	}
	if f.asleep { // the select alone wakes it; what is clocked then is lost (DS501-00032, return from sleep mode)
		f.asleep = false
		return nil
	}
	return f.execute(w, r)
}

func (f *FRAM) execute(w, r []byte) error {
	switch w[0] {
	case framWREN:
		f.status |= framLatch
	case framWRDI:
		f.status &^= framLatch
	case framRDSR:
		for i := 1; i < len(r); i++ {
			r[i] = f.status
		}
	case framRDID:
		if len(r) > 0 {
			copy(r[1:], f.id)
		}
	case framSLEEP:
		f.asleep = true
	case framWRSR:
		if f.status&framLatch != 0 && len(w) == 2 && (f.writable || f.status&framProtect == 0) {
			f.status = f.status&framLatch | w[1]&(framBlocks|framProtect)
		}
		f.status &^= framLatch
	case framREAD:
		at, data := f.address(w)
		for i := len(w) - data; i < len(r); i++ {
			r[i] = f.memory[at]
			at = (at + 1) % len(f.memory)
		}
	case framWRITE:
		at, data := f.address(w)
		return f.write(at, w[len(w)-data:])
	}
	return nil
}

// address is the one behind an op-code, and how many bytes follow it.
func (f *FRAM) address(w []byte) (at, data int) {
	if len(w) < 1+f.width {
		return 0, 0
	}
	for _, b := range w[1 : 1+f.width] {
		at = at<<8 | int(b)
	}
	return at % len(f.memory), len(w) - 1 - f.width
}

// write is the data phase of WRITE: without the latch, and in a protected block, it does nothing.
func (f *FRAM) write(at int, data []byte) error {
	defer func() { f.status &^= framLatch }()
	if f.status&framLatch == 0 {
		return nil
	}
	free := len(f.memory) // what lies below the protected blocks: all, three quarters, half, nothing
	switch f.status & framBlocks {
	case 0x04:
		free = free / 4 * 3
	case 0x08:
		free /= 2
	case framBlocks:
		free = 0
	}
	for _, b := range data {
		if f.left == 0 {
			f.memory[at] ^= f.bad
			f.dead, f.left = true, -1
			return ErrPower
		}
		if f.left > 0 {
			f.left--
		}
		if at < free {
			f.memory[at] = b
			f.written++
		}
		at = (at + 1) % len(f.memory)
	}
	return nil
}
