package sensor

import (
	"context"
	"errors"
	"fmt"

	"periph.io/x/conn/v3/i2c"
	"periph.io/x/conn/v3/physic"
	"periph.io/x/devices/v3/bmxx80"
)

// transfersMax bounds the conversation of one measurement. periph's driver asks a chip whether it is idle for as long as
// the chip says no, and a broken one says no forever.
const transfersMax = 100

var errBusy = errors.New("the chip never becomes idle")

// BMxx80 is Bosch's BME280 (temperature, pressure, humidity) or BMP280 (without humidity), through periph's driver.
// One measurement a minute or second with oversampling 1 is what the datasheet recommends for weather (BME280 3.5.1).
type BMxx80 struct {
	bus    *bounded
	dev    *bmxx80.Dev
	has    Quantity
	sensed bool
}

var _ Sensor = (*BMxx80)(nil)

// NewBMxx80 finds the chip, reads its calibration and leaves it asleep. The address is 0x76 or 0x77.
func NewBMxx80(bus i2c.Bus, addr uint16) (*BMxx80, error) {
	b := &BMxx80{bus: &bounded{Bus: bus}, has: Temperature | Pressure}
	b.bus.renew(context.Background())
	dev, err := bmxx80.NewI2C(b.bus, addr, &bmxx80.Opts{Temperature: bmxx80.O1x, Pressure: bmxx80.O1x, Humidity: bmxx80.O1x})
	if err != nil {
		return nil, err
	}
	b.dev = dev
	var precision physic.Env
	if dev.Precision(&precision); precision.Humidity != 0 { // only a BME280 has one
		b.has |= Humidity
	}
	return b, nil
}

// Sense makes the chip measure once, which takes 7.5 to 9.3 ms (BME280 datasheet, 9.1), and reads it.
func (b *BMxx80) Sense(ctx context.Context) (Reading, error) {
	b.bus.renew(ctx)
	var env physic.Env
	if err := b.dev.Sense(&env); err != nil {
		return Reading{}, err
	}
	r := Reading{Has: b.has, Temperature: env.Temperature, Pressure: env.Pressure, Humidity: env.Humidity}
	if !b.sensed {
		b.sensed, r.Quality = true, First
	}
	// Table 1 of the datasheet: the operating range.
	if t := env.Temperature; t < physic.ZeroCelsius-40*physic.Kelvin || t > physic.ZeroCelsius+85*physic.Kelvin {
		r.Quality |= OutOfRange
	}
	if p := env.Pressure; p < 300*100*physic.Pascal || p > 1100*100*physic.Pascal {
		r.Quality |= OutOfRange
	}
	return r, nil
}

// Halt leaves the chip asleep.
func (b *BMxx80) Halt() error { return b.dev.Halt() }

// String names the chip and its address.
func (b *BMxx80) String() string { return b.dev.String() }

// bounded is the bus for the length of one measurement.
type bounded struct {
	i2c.Bus
	ctx  context.Context
	left int
}

func (b *bounded) renew(ctx context.Context) { b.ctx, b.left = ctx, transfersMax }

func (b *bounded) Tx(addr uint16, w, r []byte) error {
	if err := b.ctx.Err(); err != nil {
		return err
	}
	if b.left--; b.left < 0 {
		return fmt.Errorf("%d transfers: %w", transfersMax, errBusy)
	}
	return b.Bus.Tx(addr, w, r)
}
