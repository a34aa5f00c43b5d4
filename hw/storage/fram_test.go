package storage

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"periph.io/x/conn/v3/conntest"
	"periph.io/x/conn/v3/physic"
	"periph.io/x/conn/v3/spi/spitest"

	"millrace/hw/bus/sim"
)

func simulated(t *testing.T, driver string) *sim.FRAM {
	t.Helper()
	c, err := find(driver)
	if err != nil {
		t.Fatal(err)
	}
	return sim.NewFRAM(int(c.size), c.id)
}

func opened(t *testing.T, port *sim.FRAM, driver string) *FRAM {
	t.Helper()
	f, err := NewFRAM(port, driver, Options{Wait: func(time.Duration) {}})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// The conversation as the datasheets draw it: MB85RS64V, READ and WRITE on page 9, RDID on page 10.
func TestASmallChipsConversation(t *testing.T) {
	port := &spitest.Playback{Playback: conntest.Playback{DontPanic: true, Ops: []conntest.IO{
		{W: []byte{0x9f, 0, 0, 0, 0}, R: []byte{0xff, 0x04, 0x7f, 0x03, 0x02}},
		{W: []byte{0x05, 0}, R: []byte{0xff, 0x00}},
		{W: []byte{0x06}},
		{W: []byte{0x02, 0x12, 0x34, 'a', 'b'}},
		{W: []byte{0x03, 0x12, 0x34, 0, 0}, R: []byte{0xff, 0xff, 0xff, 'a', 'b'}},
		{W: []byte{0x03, 0x12, 0x34, 0, 0}, R: []byte{0xff, 0xff, 0xff, 'a', 'b'}},
	}}}
	f, err := NewFRAM(port, "mb85rs64v", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := f.WriteAt([]byte("ab"), 0x1234); n != 2 || err != nil {
		t.Fatalf("wrote %d, %v", n, err)
	}
	got := make([]byte, 2)
	if n, err := f.ReadAt(got, 0x1234); n != 2 || err != nil || string(got) != "ab" {
		t.Fatalf("read %d %q, %v", n, got, err)
	}
	if err := errors.Join(f.Halt(), port.Close()); err != nil { // every recorded exchange was used
		t.Error(err)
	}
}

// FM25V20A: it is woken first, its id has nine bytes and its addresses three.
func TestALargeChipsConversation(t *testing.T) {
	var waited time.Duration
	port := &spitest.Playback{Playback: conntest.Playback{DontPanic: true, Ops: []conntest.IO{
		{W: []byte{0x05, 0}, R: []byte{0xff, 0xff}}, // asleep
		{W: []byte{0x9f, 0, 0, 0, 0, 0, 0, 0, 0, 0}, R: []byte{0xff, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0xc2, 0x25, 0x08}},
		{W: []byte{0x05, 0}, R: []byte{0xff, 0x0c}}, // protected
		{W: []byte{0x06}},
		{W: []byte{0x01, 0x00}},
		{W: []byte{0x05, 0}, R: []byte{0xff, 0x00}},
		{W: []byte{0x06}},
		{W: []byte{0x02, 0x03, 0xff, 0xff, 'z'}},
		{W: []byte{0xb9}},
	}}}
	f, err := NewFRAM(port, "fm25v20a", Options{Unprotect: true, Blind: true, Wait: func(d time.Duration) { waited += d }})
	if err != nil {
		t.Fatal(err)
	}
	if waited != 400*time.Microsecond {
		t.Errorf("waited %v for it to wake", waited)
	}
	if _, err := f.WriteAt([]byte("z"), 0x3ffff); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Halt(), port.Close()); err != nil {
		t.Error(err)
	}
}

func TestEveryChipKeepsWhatItIsGiven(t *testing.T) {
	for _, c := range chips {
		t.Run(c.name, func(t *testing.T) {
			port := simulated(t, c.name)
			f := opened(t, port, c.name)
			if f.Size() != c.size {
				t.Errorf("size %d", f.Size())
			}
			seed := rand.Uint64()
			rng := rand.New(rand.NewPCG(seed, 1))
			model := port.Memory()
			for range 60 {
				p := make([]byte, rng.IntN(3000))
				for i := range p {
					p[i] = byte(rng.Uint32())
				}
				at := rng.Int64N(c.size)
				p = p[:min(int64(len(p)), c.size-at)]
				if _, err := f.WriteAt(p, at); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				copy(model[at:], p)
			}
			got := make([]byte, c.size)
			if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, model) {
				t.Fatalf("seed %d: it holds something else, %v", seed, err)
			}
			if err := f.Halt(); err != nil {
				t.Fatal(err)
			}
			f = opened(t, port, c.name) // wakes it
			if _, err := f.ReadAt(got[:1], c.size-1); err != nil || got[0] != model[c.size-1] {
				t.Fatalf("after its sleep %#x, %v", got[0], err)
			}
		})
	}
}

func TestPlacesOutsideTheChipAreRefused(t *testing.T) {
	f := opened(t, simulated(t, "mb85rs64v"), "mb85rs64v")
	p := make([]byte, 10)
	if n, err := f.ReadAt(p, 8<<10-4); n != 4 || !errors.Is(err, io.EOF) {
		t.Errorf("over the end: %d, %v", n, err)
	}
	for _, at := range []int64{-1, 8<<10 + 1} {
		if _, err := f.ReadAt(p, at); !errors.Is(err, ErrRange) {
			t.Errorf("read at %d: %v", at, err)
		}
	}
	for _, at := range []int64{-1, 8<<10 - 9, 1 << 62} {
		if n, err := f.WriteAt(p, at); n != 0 || !errors.Is(err, ErrRange) {
			t.Errorf("write at %d: %d, %v", at, n, err)
		}
	}
	s, err := f.Section(4<<10, 2<<10)
	if err != nil || s.Size() != 2<<10 {
		t.Fatal(s, err)
	}
	if _, err := s.WriteAt([]byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	if n, err := f.ReadAt(p[:1], 4<<10); n != 1 || err != nil || p[0] != 'x' {
		t.Errorf("a section lies elsewhere: %q, %v", p[:1], err)
	}
	if n, err := s.ReadAt(p, 2<<10-3); n != 3 || !errors.Is(err, io.EOF) {
		t.Errorf("over a section's end: %d, %v", n, err)
	}
	for _, at := range []int64{-1, 2<<10 - 9} {
		if _, err := s.WriteAt(p, at); !errors.Is(err, ErrRange) {
			t.Errorf("a section is left at %d: %v", at, err)
		}
	}
	if _, err := s.ReadAt(p, 2<<10+1); !errors.Is(err, ErrRange) {
		t.Errorf("a section is left: %v", err)
	}
	if _, err := f.Section(4<<10, 5<<10); !errors.Is(err, ErrRange) {
		t.Errorf("a section over the end: %v", err)
	}
}

func TestAnotherChipIsNotUsed(t *testing.T) {
	for _, c := range chips[1:] {
		if _, err := NewFRAM(simulated(t, "mb85rs64v"), c.name, Options{Wait: func(time.Duration) {}}); !errors.Is(err, ErrChip) {
			t.Errorf("a mb85rs64v is taken for a %s: %v", c.name, err)
		}
	}
	port := simulated(t, "mb85rs64v")
	port.Unplug()
	if _, err := NewFRAM(port, "mb85rs64v", Options{}); !errors.Is(err, ErrChip) {
		t.Errorf("an empty socket: %v", err)
	}
	if _, err := NewFRAM(port, "mb85rs65", Options{}); !errors.Is(err, ErrDriver) {
		t.Errorf("a driver there is none of: %v", err)
	}
	if err := Known("fm25v10"); err != nil {
		t.Error(err)
	}
	port.Fail(io.ErrUnexpectedEOF)
	if _, err := NewFRAM(port, "mb85rs64v", Options{}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a bus that fails: %v", err)
	}
}

func TestAProtectedChipIsNotUsedAsItIs(t *testing.T) {
	port := simulated(t, "mb85rs2mta")
	port.Protect(0x84, true)
	o := Options{Wait: func(time.Duration) {}, Clock: physic.MegaHertz}
	if _, err := NewFRAM(port, "mb85rs2mta", o); !errors.Is(err, ErrProtected) {
		t.Errorf("protected: %v", err)
	}
	o.Unprotect = true
	port.Protect(0x84, false)
	if _, err := NewFRAM(port, "mb85rs2mta", o); !errors.Is(err, ErrProtected) {
		t.Errorf("protected by its pin: %v", err)
	}
	port.Protect(0x84, true)
	f, err := NewFRAM(port, "mb85rs2mta", o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("x"), f.Size()-1); err != nil {
		t.Errorf("unprotected: %v", err)
	}
}

func TestAWriteThatIsNotTakenIsTold(t *testing.T) {
	port := simulated(t, "fm25v10")
	f := opened(t, port, "fm25v10")
	port.Protect(0x0c, true) // by somebody else, meanwhile
	if n, err := f.WriteAt([]byte("x"), 7); n != 0 || !errors.Is(err, ErrVerify) {
		t.Errorf("%d, %v", n, err)
	}
	port.Protect(0, true)
	port.Unplug()
	if _, err := f.WriteAt([]byte("x"), 7); !errors.Is(err, ErrVerify) {
		t.Errorf("unplugged: %v", err)
	}
}

func TestPowerGoesInTheMiddleOfAByte(t *testing.T) {
	port := simulated(t, "mb85rs256b")
	f := opened(t, port, "mb85rs256b")
	text := bytes.Repeat([]byte("0123456789"), 100)
	port.Cut(605, 0x5a) // in the third transfer
	n, err := f.WriteAt(text, 100)
	if !errors.Is(err, sim.ErrPower) || n > 605 {
		t.Fatalf("%d, %v", n, err)
	}
	if _, err := f.ReadAt(text[:1], 0); !errors.Is(err, sim.ErrPower) {
		t.Errorf("it answers without power: %v", err)
	}
	port.Power()
	got := port.Memory()[100:1100]
	if !bytes.Equal(got[:605], text[:605]) || got[605] != 0xff^0x5a || !bytes.Equal(got[606:], bytes.Repeat([]byte{0xff}, 394)) {
		t.Errorf("it holds %q", got)
	}
	if _, err := f.WriteAt(text, 100); err != nil {
		t.Errorf("with power again: %v", err)
	}
}
