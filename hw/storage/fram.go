// Package storage is what a board keeps data in. It drives small non-volatile memories beside the card, where a write is
// durable when the transfer is over and costs no wear worth counting; and it reads what the kernel knows of the block device
// under a directory: what it is, what was written to it, how far it is worn.
package storage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"periph.io/x/conn/v3"
	"periph.io/x/conn/v3/physic"
	"periph.io/x/conn/v3/spi"
)

var (
	// ErrDriver is returned for a driver there is none of.
	ErrDriver = errors.New("no such FRAM driver")
	// ErrChip is returned by NewFRAM when another chip than the named one answers, or none.
	ErrChip = errors.New("not the chip that was named")
	// ErrProtected is returned by NewFRAM for a chip whose status register, or WP pin, keeps it from being written.
	ErrProtected = errors.New("chip is write-protected")
	// ErrVerify is returned by WriteAt when the chip does not hold what was written to it.
	ErrVerify = errors.New("chip did not take what was written")
	// ErrRange is returned for places outside the chip.
	ErrRange = errors.New("outside the chip")
)

// Op-codes and status bits, the same in all chips below.
const (
	opWRSR  = 0x01
	opWRITE = 0x02
	opREAD  = 0x03
	opRDSR  = 0x05
	opWREN  = 0x06
	opRDID  = 0x9f
	opSLEEP = 0xb9

	statusProtection = 0x80 | 0x0c // WPEN, BP1, BP0
)

// wakeTime is tREC, how long a chip takes to return from sleep: 400 us at most (DS501-00032 and 001-84499, AC
// characteristics).
const wakeTime = 400 * time.Microsecond

// transferDefault is the longest transfer on a connection that does not tell its limit, in bytes: spidev's default.
const transferDefault = 4096

// chip is one kind of FRAM. Writes need no waiting and have no pages in any of them.
type chip struct {
	name   string
	size   int64
	width  int              // bytes of an address
	id     []byte           // what RDID answers
	clock  physic.Frequency // of READ, at the supply of 3.3 V that boards have
	sleeps bool             // it has the op-code SLEEP
}

// chips are those there is a driver for. Fujitsu's RDID is maker, continuation code and two bytes of product (page 10
// of DS501-00015 and DS501-00032); Cypress's is six continuation codes, maker and two bytes of product (table "Device ID").
var chips = []chip{
	// Fujitsu DS501-00015: features on page 1, op-codes on page 6, no SLEEP among them.
	{"mb85rs64v", 8 << 10, 2, []byte{0x04, 0x7f, 0x03, 0x02}, 20 * physic.MegaHertz, false},
	// Fujitsu DS501-00021: features on page 1; no SLEEP among its op-codes.
	{"mb85rs256b", 32 << 10, 2, []byte{0x04, 0x7f, 0x05, 0x09}, 33 * physic.MegaHertz, false},
	// Fujitsu DS501-00023: features on page 1; READ is slower than FSTRD, which is not used.
	{"mb85rs2mt", 256 << 10, 3, []byte{0x04, 0x7f, 0x28, 0x03}, 25 * physic.MegaHertz, true},
	// Fujitsu DS501-00032: features on page 1, op-codes on page 6.
	{"mb85rs2mta", 256 << 10, 3, []byte{0x04, 0x7f, 0x48, 0x03}, 40 * physic.MegaHertz, true},
	// Cypress 001-84499: features on page 1.
	{"fm25v10", 128 << 10, 3, []byte{0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0xc2, 0x24, 0x00}, 40 * physic.MegaHertz, true},
	// Cypress 001-90261: features on page 1.
	{"fm25v20a", 256 << 10, 3, []byte{0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0xc2, 0x25, 0x08}, 40 * physic.MegaHertz, true},
}

func find(driver string) (chip, error) {
	names := make([]string, len(chips))
	for i, c := range chips {
		if c.name == driver {
			return c, nil
		}
		names[i] = c.name
	}
	return chip{}, fmt.Errorf("%w: %q; there are %s", ErrDriver, driver, strings.Join(names, ", "))
}

// Known returns ErrDriver, with the drivers there are, for a name that is none.
func Known(driver string) error {
	_, err := find(driver)
	return err
}

// Options are how a chip is used. The zero value is safe and fast enough.
type Options struct {
	// Clock bounds the clock below the chip's own; 0: the chip's.
	Clock physic.Frequency
	// Unprotect has NewFRAM clear the block protection it finds; else that is ErrProtected.
	Unprotect bool
	// Blind writes without reading back. SPI acknowledges nothing: without reading back a chip that has come loose
	// takes every write as far as the bus can tell.
	Blind bool
	// Wait waits for the chip to wake. [time.Sleep]
	Wait func(time.Duration)
}

// FRAM is one chip. It is safe for concurrent use; a write and its write enable are not parted.
type FRAM struct {
	chip chip
	o    Options
	port string

	mu   sync.Mutex
	conn spi.Conn
	out  []byte // op-code, address, data
	in   []byte
}

var (
	_ io.ReaderAt = (*FRAM)(nil)
	_ io.WriterAt = (*FRAM)(nil)
)

// NewFRAM connects to the named chip on the port, wakes it, compares its device id and sees that it can be written.
func NewFRAM(port spi.Port, driver string, o Options) (*FRAM, error) {
	c, err := find(driver)
	if err != nil {
		return nil, err
	}
	if o.Wait == nil {
		o.Wait = time.Sleep
	}
	clock := c.clock
	if o.Clock > 0 {
		clock = min(clock, o.Clock)
	}
	f := &FRAM{chip: c, o: o, port: port.String()}
	if f.conn, err = port.Connect(clock, spi.Mode0, 8); err != nil {
		return nil, fmt.Errorf("%s: %w", f, err)
	}
	limit := transferDefault
	if l, ok := f.conn.(conn.Limits); ok && l.MaxTxSize() > 0 {
		limit = l.MaxTxSize()
	}
	if limit <= 1+c.width || limit < 1+len(c.id) {
		return nil, fmt.Errorf("%s: transfers of at most %d bytes are too short", f, limit)
	}
	f.out, f.in = make([]byte, limit), make([]byte, limit)
	if err := f.begin(); err != nil {
		return nil, fmt.Errorf("%s: %w", f, err)
	}
	return f, nil
}

// begin wakes the chip and looks who it is.
func (f *FRAM) begin() error {
	if f.chip.sleeps { // the select wakes it, whatever the op-code
		if _, err := f.status(); err != nil {
			return err
		}
		f.o.Wait(wakeTime)
	}
	id, err := f.command(len(f.chip.id), opRDID)
	if err != nil {
		return err
	}
	if !bytes.Equal(id, f.chip.id) {
		return fmt.Errorf("%w: RDID answers % x, want % x", ErrChip, id, f.chip.id)
	}
	s, err := f.status()
	if err != nil || s&statusProtection == 0 {
		return err
	}
	if !f.o.Unprotect {
		return fmt.Errorf("%w: status register %#02x", ErrProtected, s)
	}
	if _, err := f.command(0, opWREN); err != nil {
		return err
	}
	if _, err := f.command(0, opWRSR, 0); err != nil {
		return err
	}
	if s, err = f.status(); err == nil && s&statusProtection != 0 {
		err = fmt.Errorf("%w: status register %#02x stays: the WP pin is low", ErrProtected, s)
	}
	return err
}

func (f *FRAM) status() (byte, error) {
	s, err := f.command(1, opRDSR)
	if err != nil {
		return 0, err
	}
	return s[0], nil
}

// command sends an op-code with what follows it and returns the n bytes the chip answers behind. They are valid until the
// next command.
func (f *FRAM) command(n int, op ...byte) ([]byte, error) {
	w := f.out[:len(op)+n]
	copy(w, op)
	clear(w[len(op):])
	if n == 0 {
		return nil, f.conn.Tx(w, nil)
	}
	r := f.in[:len(w)]
	return r[len(op):], f.conn.Tx(w, r)
}

// Size is how many bytes the chip has.
func (f *FRAM) Size() int64 { return f.chip.size }

// String names the chip and its port.
func (f *FRAM) String() string { return f.chip.name + " on " + f.port }

// ReadAt reads from an address on, in as many transfers as it takes.
func (f *FRAM) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 || off > f.chip.size {
		return 0, fmt.Errorf("%s: read at %d: %w", f, off, ErrRange)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	want := p[:min(int64(len(p)), f.chip.size-off)]
	for n < len(want) {
		got, err := f.read(want[n:], off+int64(n))
		if err != nil {
			return n, fmt.Errorf("%s: read at %d: %w", f, off+int64(n), err)
		}
		n += got
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *FRAM) read(p []byte, off int64) (int, error) {
	head := 1 + f.chip.width
	n := min(len(p), len(f.out)-head)
	f.address(opREAD, off)
	clear(f.out[head : head+n])
	if err := f.conn.Tx(f.out[:head+n], f.in[:head+n]); err != nil {
		return 0, err
	}
	return copy(p, f.in[head:head+n]), nil
}

func (f *FRAM) address(op byte, off int64) {
	f.out[0] = op
	for i := f.chip.width; i > 0; i-- {
		f.out[i] = byte(off)
		off >>= 8
	}
}

// WriteAt writes from an address on, in the order of the bytes. They are durable when it returns nil; after an error, and
// after a power cut, any number of them from the first on may be, and the one that follows may be anything.
func (f *FRAM) WriteAt(p []byte, off int64) (n int, err error) {
	if off < 0 || off > f.chip.size || int64(len(p)) > f.chip.size-off {
		return 0, fmt.Errorf("%s: write %d bytes at %d: %w", f, len(p), off, ErrRange)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	head := 1 + f.chip.width
	for n < len(p) {
		part := p[n:min(len(p), n+len(f.out)-head)]
		at := off + int64(n)
		if err := f.write(part, at); err != nil {
			return n, fmt.Errorf("%s: write at %d: %w", f, at, err)
		}
		n += len(part)
	}
	return n, nil
}

// write is one WRITE with the WREN that it needs: the latch falls back after each.
func (f *FRAM) write(p []byte, off int64) error {
	if _, err := f.command(0, opWREN); err != nil {
		return err
	}
	head := 1 + f.chip.width
	f.address(opWRITE, off)
	copy(f.out[head:], p)
	if err := f.conn.Tx(f.out[:head+len(p)], nil); err != nil || f.o.Blind {
		return err
	}
	f.address(opREAD, off)
	clear(f.out[head : head+len(p)])
	if err := f.conn.Tx(f.out[:head+len(p)], f.in[:head+len(p)]); err != nil {
		return err
	}
	if !bytes.Equal(f.in[head:head+len(p)], p) {
		return ErrVerify
	}
	return nil
}

// Halt puts the chip to sleep, where it can.
func (f *FRAM) Halt() error {
	if !f.chip.sleeps {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.command(0, opSLEEP); err != nil {
		return fmt.Errorf("%s: sleep: %w", f, err)
	}
	return nil
}

// Section is n bytes of the chip from off on, with places of its own from 0.
func (f *FRAM) Section(off, n int64) (*Section, error) {
	if off < 0 || n < 0 || off > f.chip.size || n > f.chip.size-off {
		return nil, fmt.Errorf("%s: %d bytes at %d: %w", f, n, off, ErrRange)
	}
	return &Section{f, off, n}, nil
}

// Section is a part of a chip that somebody has to himself.
type Section struct {
	fram *FRAM
	off  int64
	size int64
}

// Size is how many bytes it has.
func (s *Section) Size() int64 { return s.size }

// ReadAt is FRAM.ReadAt within the section.
func (s *Section) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > s.size {
		return 0, fmt.Errorf("%s: read at %d of a section: %w", s.fram, off, ErrRange)
	}
	want := p[:min(int64(len(p)), s.size-off)]
	n, err := s.fram.ReadAt(want, s.off+off)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

// WriteAt is FRAM.WriteAt within the section.
func (s *Section) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > s.size || int64(len(p)) > s.size-off {
		return 0, fmt.Errorf("%s: write %d bytes at %d of a section: %w", s.fram, len(p), off, ErrRange)
	}
	return s.fram.WriteAt(p, s.off+off)
}
