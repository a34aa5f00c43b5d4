package bus

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"periph.io/x/conn/v3"
	"periph.io/x/conn/v3/conntest"
	"periph.io/x/conn/v3/physic"
	"periph.io/x/conn/v3/spi"
	"periph.io/x/conn/v3/spi/spitest"
)

// slowPort answers each transfer after the next delay.
type slowPort struct {
	delays []time.Duration
	closed int
}

func (s *slowPort) String() string                    { return "slow" }
func (s *slowPort) LimitSpeed(physic.Frequency) error { return nil }
func (s *slowPort) Close() error                      { s.closed++; return nil }
func (s *slowPort) Duplex() conn.Duplex               { return conn.Full }
func (s *slowPort) MaxTxSize() int                    { return 16 }
func (s *slowPort) TxPackets(packets []spi.Packet) error {
	for _, p := range packets {
		if err := s.Tx(p.W, p.R); err != nil {
			return err
		}
	}
	return nil
}

func (s *slowPort) Connect(physic.Frequency, spi.Mode, int) (spi.Conn, error) { return s, nil }

func (s *slowPort) Tx(_, r []byte) error {
	delay := s.delays[0]
	s.delays = s.delays[1:]
	time.Sleep(delay)
	for i := range r {
		r[i] = 0xff
	}
	return nil
}

func connected(t *testing.T, raw spi.PortCloser) (*SPI, spi.Conn) {
	t.Helper()
	var r Registry
	r.AddSPI("SPI0.0", func() (spi.PortCloser, error) { return raw, nil })
	port, err := r.OpenSPI("SPI0.0", 100*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	c, err := port.Connect(physic.MegaHertz, spi.Mode0, 8)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := port.Close(); err != nil {
			t.Error(err)
		}
	})
	return port, c
}

func TestAnSPITransferGoesThrough(t *testing.T) {
	raw := &spitest.Playback{Playback: conntest.Playback{
		Ops: []conntest.IO{{W: []byte{0x9f, 0}, R: []byte{0, 4}}, {W: []byte{6}}}, DontPanic: true,
	}}
	port, c := connected(t, raw)
	var r [2]byte
	if err := c.Tx([]byte{0x9f, 0}, r[:]); err != nil || r != [2]byte{0, 4} {
		t.Fatalf("%v, %v", r, err)
	}
	if err := c.Tx([]byte{6}, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.Tx([]byte{6}, nil); err == nil {
		t.Error("an error of the port was lost")
	}
	if err := c.Tx(make([]byte, spidevMax+1), nil); err == nil {
		t.Error("an endless transfer was tried")
	}
	if _, err := port.Connect(physic.MegaHertz, spi.Mode0, 8); !errors.Is(err, ErrConnected) {
		t.Errorf("connected twice: %v", err)
	}
}

func TestAHangingSPITransferIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		raw := &slowPort{delays: []time.Duration{250 * time.Millisecond, 0, 0, 0}}
		port, c := connected(t, raw)
		var r [2]byte
		start := time.Now()
		for range 2 { // its own, and one that finds it still running
			if err := c.Tx(nil, r[:]); !errors.Is(err, ErrTimeout) || r[0] != 0 {
				t.Fatalf("%v, %v", r, err)
			}
		}
		if waited := time.Since(start); waited != 200*time.Millisecond {
			t.Errorf("waited %v for two transfers of at most 100ms", waited)
		}
		if err := c.TxPackets([]spi.Packet{{W: []byte{6}}, {R: r[:]}}); err != nil || r[1] != 0xff {
			t.Fatalf("after it ended: %v, %v", r, err)
		}
		if err := c.TxPackets([]spi.Packet{{W: make([]byte, 10)}, {R: make([]byte, 10)}}); err == nil {
			t.Error("two packets together are over the port's limit")
		}
		for range 2 {
			if err := port.Close(); err != nil || raw.closed != 1 {
				t.Fatalf("%v, closed %d times", err, raw.closed)
			}
		}
		if err := c.Tx([]byte{1}, nil); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

func TestNamesOfSPIPorts(t *testing.T) {
	for name, want := range map[string][2]int{"SPI0.0": {0, 0}, "/dev/spidev1.2": {1, 2}, "3.1": {3, 1}} {
		if b, c, err := spidevNumbers(name); err != nil || [2]int{b, c} != want {
			t.Errorf("%s is %d.%d, %v", name, b, c, err)
		}
	}
	for _, name := range []string{"", "SPI", "SPI0", "SPI0.", "I2C1", "SPI-1.0", "SPI0.999", "SPI0.0.0"} {
		if _, _, err := spidevNumbers(name); !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := new(Registry).OpenSPI("SPI65535.255", time.Second); err == nil {
		t.Error("a port that is not there was opened")
	}
}

func TestTheKernelsLimitIsRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bufsiz")
	if n, err := spidevLimit(file); n != spidevDefault || err != nil {
		t.Errorf("without the parameter: %d, %v", n, err)
	}
	for text, want := range map[string]int{"4096\n": 4096, "512": 512, "1000000": spidevMax} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if n, err := spidevLimit(file); n != want || err != nil {
			t.Errorf("%q: %d, %v", text, n, err)
		}
	}
	if err := os.WriteFile(file, []byte("many"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := spidevLimit(file); err == nil {
		t.Error("nonsense was taken for a limit")
	}
}
