package sensor

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"periph.io/x/conn/v3/i2c/i2ctest"
	"periph.io/x/conn/v3/physic"

	"millrace/hw/bus/sim"
)

// calibrated is the conversation that finds a BME280 and reads its calibration; the words are periph's test chip's.
var calibrated = []i2ctest.IO{
	{Addr: 0x76, W: []byte{0xd0}, R: []byte{0x60}}, // chip id
	{Addr: 0x76, W: []byte{0x88}, R: []byte{
		0x10, 0x6e, 0x6c, 0x66, 0x32, 0x00, 0x5d, 0x95, 0xb8, 0xd5, 0xd0, 0x0b, 0x77,
		0x1e, 0x9d, 0xff, 0xf9, 0xff, 0xac, 0x26, 0x0a, 0xd8, 0xbd, 0x10, 0x00, 0x4b,
	}},
	{Addr: 0x76, W: []byte{0xe1}, R: []byte{0x6e, 0x01, 0x00, 0x13, 0x05, 0x00, 0x1e}},
	{Addr: 0x76, W: []byte{0xf4, 0x24, 0xf2, 0x01, 0xf5, 0xa0, 0xf4, 0x24}},
}

func talk(t *testing.T, more ...i2ctest.IO) (*i2ctest.Playback, Sensor) {
	t.Helper()
	bus := &i2ctest.Playback{Ops: append(append([]i2ctest.IO{}, calibrated...), more...), DontPanic: true}
	dev, err := Open("bme280", bus, 0x76)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(dev.Halt(), bus.Close()); err != nil { // every recorded exchange was used
			t.Error(err)
		}
	})
	return bus, dev
}

func TestAMeasurementIsTheRecordedConversation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		forced := i2ctest.IO{Addr: 0x76, W: []byte{0xf4, 0x25}}
		busy := i2ctest.IO{Addr: 0x76, W: []byte{0xf3}, R: []byte{8}}
		idle := i2ctest.IO{Addr: 0x76, W: []byte{0xf3}, R: []byte{0}}
		data := i2ctest.IO{Addr: 0x76, W: []byte{0xf7}, R: []byte{0x4a, 0x52, 0xc0, 0x80, 0x96, 0xc0, 0x7a, 0x76}}
		_, dev := talk(t, forced, busy, idle, data, forced, idle, data)
		got, err := dev.Sense(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		// The values periph's own test has for these registers.
		want := Reading{
			Has: Temperature | Humidity | Pressure, Quality: First,
			Temperature: 23720*physic.MilliCelsius + physic.ZeroCelsius,
			Pressure:    100942695312 * physic.MicroPascal,
			Humidity:    653 * physic.MilliRH,
		}
		if got.Has != want.Has || got.Quality != want.Quality || got.Temperature != want.Temperature ||
			got.Pressure/physic.Pascal != want.Pressure/physic.Pascal || got.Humidity/physic.MilliRH != want.Humidity/physic.MilliRH {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if again, err := dev.Sense(t.Context()); err != nil || again.Quality != 0 || again.Temperature != got.Temperature {
			t.Errorf("the second: %+v, %v", again, err)
		}
	})
}

func TestAChipThatStaysBusyIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chip := &stuck{sim.NewBME280(func() physic.Env { return sim.Drift(time.Now()) })}
		dev, err := Open("bme280", sim.New(map[uint16]sim.Device{0x76: chip}), 0x76)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := dev.Sense(t.Context()); err == nil || !strings.Contains(err.Error(), errBusy.Error()) {
			t.Errorf("got %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := dev.Sense(ctx); err == nil || !strings.Contains(err.Error(), context.Canceled.Error()) {
			t.Errorf("cancelled: %v", err)
		}
	})
}

// stuck always says that it is measuring (status, bit 3).
type stuck struct{ sim.Device }

func (s *stuck) Tx(w, r []byte) error {
	if err := s.Device.Tx(w, r); err != nil {
		return err
	}
	if w[0] == 0xf3 {
		r[0] = 8
	}
	return nil
}

func TestDoubtfulReadingsAreMarked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		air := physic.Env{Temperature: physic.ZeroCelsius + 20*physic.Kelvin, Pressure: 1000 * 100 * physic.Pascal, Humidity: 50 * physic.PercentRH}
		chip := sim.NewBME280(func() physic.Env { return air })
		dev, err := Open("bme280", sim.New(map[uint16]sim.Device{0x77: chip}), 0x77)
		if err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			kelvin physic.Temperature
			want   string
		}{{0, "first"}, {0, "good"}, {70, "out-of-range"}, {-70, "out-of-range"}} {
			air.Temperature = physic.ZeroCelsius + (20+tt.kelvin)*physic.Kelvin
			if r, err := dev.Sense(t.Context()); err != nil || r.Quality.String() != tt.want {
				t.Errorf("at %v: %v, %v; want %s", air.Temperature, r.Quality, err, tt.want)
			}
		}
	})
}

func TestWhatIsNotThereIsNotOpened(t *testing.T) {
	if _, err := Open("bmx9000", nil, 0x76); !errors.Is(err, ErrDriver) {
		t.Error(err)
	}
	if _, err := Open("bme280", sim.New(nil), 0x76); err == nil {
		t.Error("an empty bus has a sensor")
	}
	if _, err := Open("bme280", sim.New(nil), 0x20); err == nil {
		t.Error("an impossible address has a sensor")
	}
}
