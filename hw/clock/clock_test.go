package clock

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"periph.io/x/conn/v3/i2c/i2ctest"
	"pgregory.net/rapid"

	"millrace/hw/bus/sim"
)

// read is the transfer of all registers up to the status.
func read(time [7]byte, status byte) i2ctest.IO {
	r := make([]byte, 16)
	copy(r, time[:])
	r[15] = status
	return i2ctest.IO{Addr: DS3231Address, W: []byte{0}, R: r}
}

func TestTheRegistersAreRead(t *testing.T) {
	for _, tt := range []struct {
		name      string
		registers [7]byte
		status    byte
		want      time.Time
		err       error
	}{
		{"hours of 24", [7]byte{0x58, 0x59, 0x23, 4, 0x31, 0x12, 0x26}, 0x08, time.Date(2026, 12, 31, 23, 59, 58, 0, time.UTC), nil},
		{"noon of 12", [7]byte{0, 0x30, 0x72, 1, 0x01, 0x01, 0x26}, 0, time.Date(2026, 1, 1, 12, 30, 0, 0, time.UTC), nil},
		{"midnight of 12", [7]byte{0, 0x30, 0x52, 1, 0x01, 0x01, 0x26}, 0, time.Date(2026, 1, 1, 0, 30, 0, 0, time.UTC), nil},
		{"eleven at night", [7]byte{0, 0, 0x71, 1, 0x29, 0x02, 0x28}, 0, time.Date(2028, 2, 29, 23, 0, 0, 0, time.UTC), nil},
		{"the next century", [7]byte{0, 0, 0, 1, 0x01, 0x83, 0x05}, 0, time.Date(2105, 3, 1, 0, 0, 0, 0, time.UTC), nil},
		{"the battery was flat", [7]byte{0, 0, 0, 1, 0x01, 0x01, 0x26}, 0x88, time.Time{}, ErrStopped},
		{"nobody drives the bus", [7]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 0x7f, time.Time{}, ErrRegisters},
		{"all zero", [7]byte{}, 0, time.Time{}, ErrRegisters},
		{"second 60", [7]byte{0x60, 0, 0, 1, 1, 1, 0x26}, 0, time.Time{}, ErrRegisters},
		{"no decimal digit", [7]byte{0x1a, 0, 0, 1, 1, 1, 0x26}, 0, time.Time{}, ErrRegisters},
		{"minute 75", [7]byte{0, 0x75, 0, 1, 1, 1, 0x26}, 0, time.Time{}, ErrRegisters},
		{"hour 24", [7]byte{0, 0, 0x24, 1, 1, 1, 0x26}, 0, time.Time{}, ErrRegisters},
		{"hour 13 of 12", [7]byte{0, 0, 0x53, 1, 1, 1, 0x26}, 0, time.Time{}, ErrRegisters},
		{"hour 0 of 12", [7]byte{0, 0, 0x40, 1, 1, 1, 0x26}, 0, time.Time{}, ErrRegisters},
		{"an eighth day", [7]byte{0, 0, 0, 8, 1, 1, 0x26}, 0, time.Time{}, ErrRegisters},
		{"30 February", [7]byte{0, 0, 0, 1, 0x30, 0x02, 0x26}, 0, time.Time{}, ErrRegisters},
		{"month 13", [7]byte{0, 0, 0, 1, 0x01, 0x13, 0x26}, 0, time.Time{}, ErrRegisters},
		{"year ab", [7]byte{0, 0, 0, 1, 0x01, 0x12, 0xab}, 0, time.Time{}, ErrRegisters},
	} {
		bus := i2ctest.Playback{Ops: []i2ctest.IO{read(tt.registers, tt.status)}, DontPanic: true}
		got, err := NewDS3231(&bus).Read()
		if !got.Equal(tt.want) || !errors.Is(err, tt.err) {
			t.Errorf("%s: %v, %v; want %v, %v", tt.name, got, err, tt.want, tt.err)
		}
		if err := bus.Close(); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// The time comes before the word that it can be believed, and the oscillator runs on the battery.
func TestTheClockIsSetBeforeItIsBelieved(t *testing.T) {
	bus := i2ctest.Playback{DontPanic: true, Ops: []i2ctest.IO{
		{Addr: DS3231Address, W: []byte{0, 0x00, 0x30, 0x14, 7, 0x28, 0x11, 0x26}},
		{Addr: DS3231Address, W: []byte{0x0e}, R: []byte{0x9c, 0x88}},
		{Addr: DS3231Address, W: []byte{0x0e, 0x1c}},
		{Addr: DS3231Address, W: []byte{0x0f, 0x0b}},
	}}
	if err := NewDS3231(&bus).Set(time.Date(2026, 11, 28, 14, 29, 59, 600e6, time.UTC)); err != nil {
		t.Error(err)
	}
	if err := bus.Close(); err != nil {
		t.Error(err)
	}
	for _, year := range []int{1999, 2200} {
		if err := NewDS3231(&i2ctest.Playback{DontPanic: true}).Set(time.Date(year, 7, 1, 0, 0, 0, 0, time.UTC)); !errors.Is(err, ErrRegisters) {
			t.Errorf("%d: %v", year, err)
		}
	}
}

func TestWhatIsSetIsRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
		chip := sim.NewDS3231(func() time.Time { return now })
		d := NewDS3231(sim.New(map[uint16]sim.Device{DS3231Address: chip}))
		if _, err := d.Read(); !errors.Is(err, ErrStopped) {
			t.Fatalf("a new chip: %v", err)
		}
		set := time.Unix(rapid.Int64Range(946684800, 7258118400-400*86400).Draw(t, "set"), 0).UTC()
		if err := d.Set(set); err != nil {
			t.Fatal(err)
		}
		if rapid.Bool().Draw(t, "of12") { // as another program may have left it
			h := set.Hour()
			b := 0x40 | bcd((h+11)%12+1)
			if h >= 12 {
				b |= 0x20
			}
			if err := chip.Tx([]byte{2, b}, nil); err != nil {
				t.Fatal(err)
			}
		}
		passed := time.Duration(rapid.Int64Range(0, 366*86400).Draw(t, "passed")) * time.Second
		now = now.Add(passed)
		if got, err := d.Read(); err != nil || !got.Equal(set.Add(passed)) {
			t.Fatalf("%v after %v: %v, %v", set, passed, got, err)
		}
		chip.Flat()
		if got, err := d.Read(); !errors.Is(err, ErrStopped) {
			t.Fatalf("with a flat battery: %v, %v", got, err)
		}
	})
}

func TestAnErrorOfTheBusIsTold(t *testing.T) {
	d := NewDS3231(sim.New(nil))
	if _, err := d.Read(); err == nil {
		t.Error("read from an empty bus")
	}
	if err := d.Set(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)); err == nil {
		t.Error("set on an empty bus")
	}
}

func TestTheKernelKnowsWhetherItIsDisciplined(t *testing.T) {
	for _, tt := range []struct {
		status int32
		most   int64
		want   bool
	}{{0x2001, 5_000, true}, {0x2041, 5_000, false}, {0, 16_000_000, false}, {0x40, 16_000_000, false}} {
		x := unix.Timex{Status: tt.status}
		setLong(&x.Maxerror, tt.most)
		if got := kernelOf(&x); got.Synced != tt.want || got.MaxError != time.Duration(tt.most)*time.Microsecond {
			t.Errorf("status %#x, error %d: %+v", tt.status, tt.most, got)
		}
	}
	before, err := Running()
	if err != nil {
		t.Fatal(err)
	}
	if after, err := Running(); err != nil || after < before || before <= 0 {
		t.Errorf("running for %v, then %v, %v", before, after, err)
	}
	if k, err := ReadKernel(); err == nil { // a sandbox may refuse it
		t.Logf("%+v", k)
	}
}

func TestTheKernelsDevice(t *testing.T) {
	if _, err := NewDevice(filepath.Join(t.TempDir(), "rtc0")).Read(); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := NewDevice("/dev/null").Read(); err == nil {
		t.Error("a file that is no clock has a time")
	}
	want := time.Date(2026, 2, 28, 23, 59, 1, 0, time.UTC)
	tm := unix.RTCTime{Sec: 1, Min: 59, Hour: 23, Mday: 28, Mon: 1, Year: 126}
	if got, err := fromKernel(&tm); err != nil || !got.Equal(want) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []unix.RTCTime{{}, {Mday: 30, Mon: 1, Year: 126}, {Mday: 1, Mon: 12, Year: 126}, {Sec: 60, Mday: 1, Year: 126}} {
		if got, err := fromKernel(&bad); !errors.Is(err, ErrRegisters) {
			t.Errorf("%+v: %v, %v", bad, got, err)
		}
	}
}

// setLong sets a C long, which is as wide as the machine.
func setLong[T int32 | int64](p *T, v int64) { *p = T(v) }
