package bus

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"periph.io/x/conn/v3/i2c"
	"periph.io/x/conn/v3/i2c/i2ctest"
	"periph.io/x/conn/v3/physic"
)

// slow answers each transfer after the next delay.
type slow struct {
	delays []time.Duration
	closed int
}

func (s *slow) String() string                  { return "slow" }
func (s *slow) SetSpeed(physic.Frequency) error { return nil }
func (s *slow) Close() error                    { s.closed++; return nil }

func (s *slow) Tx(_ uint16, _, r []byte) error {
	delay := s.delays[0]
	s.delays = s.delays[1:]
	time.Sleep(delay)
	for i := range r {
		r[i] = 0xff
	}
	return nil
}

func opened(t *testing.T, raw i2c.BusCloser) *Bus {
	t.Helper()
	var r Registry
	r.Add("I2C1", func() (i2c.BusCloser, error) { return raw, nil })
	b, err := r.Open("I2C1", 100*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func TestATransferGoesThrough(t *testing.T) {
	raw := &i2ctest.Playback{Ops: []i2ctest.IO{{Addr: 0x76, W: []byte{0xd0}, R: []byte{0x60}}}, DontPanic: true}
	b := opened(t, raw)
	var id [1]byte
	if err := b.Tx(0x76, []byte{0xd0}, id[:]); err != nil || id[0] != 0x60 {
		t.Fatalf("%v, %v", id, err)
	}
	if err := b.Tx(0x76, []byte{0xd0}, id[:]); err == nil {
		t.Fatal("an error of the bus was lost")
	}
	if err := b.Tx(0x76, make([]byte, TransferMax+1), nil); err == nil {
		t.Fatal("an endless transfer was tried")
	}
}

func TestAHangingTransferIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		raw := &slow{delays: []time.Duration{250 * time.Millisecond, 0}}
		b := opened(t, raw)
		var r [1]byte
		start := time.Now()
		for range 2 { // its own, and one that finds it still running
			if err := b.Tx(1, nil, r[:]); !errors.Is(err, ErrTimeout) || r[0] != 0 {
				t.Fatalf("%v, %v", r, err)
			}
		}
		if waited := time.Since(start); waited != 200*time.Millisecond {
			t.Errorf("waited %v for two transfers of at most 100ms", waited)
		}
		if err := b.Tx(1, nil, r[:]); err != nil || r[0] != 0xff {
			t.Fatalf("after it ended: %v, %v", r, err)
		}
	})
}

func TestABusIsReopenedAndClosedOnce(t *testing.T) {
	raw := &slow{delays: []time.Duration{0}}
	b := opened(t, raw)
	if err := b.Reopen(); err != nil || raw.closed != 1 {
		t.Fatalf("%v, closed %d times", err, raw.closed)
	}
	if err := b.Tx(1, []byte{1}, nil); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := b.Close(); err != nil || raw.closed != 2 {
			t.Fatalf("%v, closed %d times", err, raw.closed)
		}
	}
	if err := b.Tx(1, []byte{1}, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if err := b.SetSpeed(physic.KiloHertz); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestNamesOfBuses(t *testing.T) {
	for name, want := range map[string]int{"I2C1": 1, "/dev/i2c-12": 12, "3": 3} {
		if n, err := kernelNumber(name); err != nil || n != want {
			t.Errorf("%s is %d, %v", name, n, err)
		}
	}
	for _, name := range []string{"", "I2C", "SPI0.0", "I2C-1", "I2C99999"} {
		if _, err := kernelNumber(name); !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := new(Registry).Open("I2C65535", time.Second); err == nil {
		t.Error("a bus that is not there was opened")
	}
}
