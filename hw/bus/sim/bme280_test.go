package sim

import (
	"testing"
	"time"

	"periph.io/x/conn/v3/physic"
	"periph.io/x/devices/v3/bmxx80"
	"pgregory.net/rapid"
)

// The judge is periph's own driver, which knows nothing of the model.
func TestTheDriverReadsWhatTheAirIs(t *testing.T) {
	var air physic.Env
	bus := New(map[uint16]Device{0x76: NewBME280(func() physic.Env { return air })})
	dev, err := bmxx80.NewI2C(bus, 0x76, &bmxx80.Opts{Temperature: bmxx80.O1x, Pressure: bmxx80.O1x, Humidity: bmxx80.O1x})
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		air.Temperature = physic.ZeroCelsius + physic.Temperature(rapid.Int64Range(-40_000, 85_000).Draw(t, "mC"))*physic.MilliKelvin
		air.Pressure = physic.Pressure(rapid.Int64Range(30_000, 110_000).Draw(t, "Pa")) * physic.Pascal
		air.Humidity = physic.RelativeHumidity(rapid.Int64Range(0, 1000).Draw(t, "permille")) * physic.MilliRH
		var got physic.Env
		if err := dev.Sense(&got); err != nil {
			t.Fatal(err)
		}
		if d := got.Temperature - air.Temperature; d < -10*physic.MilliKelvin || d > 10*physic.MilliKelvin {
			t.Errorf("%v reads as %v", air.Temperature, got.Temperature)
		}
		if d := got.Pressure - air.Pressure; d < -8*physic.Pascal || d > 8*physic.Pascal {
			t.Errorf("%v reads as %v", air.Pressure, got.Pressure)
		}
		if d := got.Humidity - air.Humidity; d < -physic.MilliRH || d > physic.MilliRH {
			t.Errorf("%v reads as %v", air.Humidity, got.Humidity)
		}
	})
}

func TestSkippedAndResetRegisters(t *testing.T) {
	chip := NewBME280(func() physic.Env { return Drift(time.Unix(0, 0)) })
	read := func(n int) []byte {
		r := make([]byte, n)
		if err := chip.Tx([]byte{regData}, r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	// Humidity enabled, but ctrl_meas not written after it: still skipped.
	if err := chip.Tx([]byte{regMeasure, 1<<5 | 1, regHumidity, 1}, nil); err != nil {
		t.Fatal(err)
	}
	data := read(8)
	if data[0] != 0x80 || data[3] == 0x80 || data[6] != 0x80 {
		t.Errorf("only temperature was asked for: % x", data)
	}
	if err := chip.Tx([]byte{regMeasure, 1<<5 | 1<<2 | 1}, nil); err != nil {
		t.Fatal(err)
	}
	if data = read(8); data[0] == 0x80 || data[6] == 0x80 {
		t.Errorf("everything was asked for: % x", data)
	}
	if err := chip.Tx([]byte{regReset, resetWord}, nil); err != nil {
		t.Fatal(err)
	}
	if data = read(8); data[0] != 0x80 || data[3] != 0x80 || data[6] != 0x80 {
		t.Errorf("after a reset: % x", data)
	}
	if chip.Tx([]byte{1}, nil) == nil || chip.Tx([]byte{1, 2}, data) == nil {
		t.Error("a malformed transaction was taken")
	}
}

func TestAnEmptyAddressIsNotAcknowledged(t *testing.T) {
	bus := New(map[uint16]Device{})
	if bus.Tx(0x76, []byte{regID}, make([]byte, 1)) == nil {
		t.Error("nobody answered")
	}
	bus.Plug(0x76, NewBME280(func() physic.Env { return physic.Env{} }))
	if err := bus.Tx(0x76, []byte{regID}, make([]byte, 1)); err != nil {
		t.Error(err)
	}
	bus.Plug(0x76, nil)
	if bus.Tx(0x76, []byte{regID}, make([]byte, 1)) == nil {
		t.Error("an unplugged device answered")
	}
}

func TestTheClimateDrifts(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	bus, err := Climate(func() time.Time { return now })()
	if err != nil {
		t.Fatal(err)
	}
	dev, err := bmxx80.NewI2C(bus, ClimateAddress, &bmxx80.DefaultOpts)
	if err != nil {
		t.Fatal(err)
	}
	var first, later physic.Env
	if err := dev.Sense(&first); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Hour)
	if err := dev.Sense(&later); err != nil || first.Temperature == later.Temperature {
		t.Errorf("%v, then %v, %v", first, later, err)
	}
}
