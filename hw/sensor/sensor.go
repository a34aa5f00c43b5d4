// Package sensor reads chips: one file per chip, each a pure function of its bus. Values carry their units.
package sensor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"periph.io/x/conn/v3/i2c"
	"periph.io/x/conn/v3/physic"
)

// ErrDriver is returned by Open for a driver there is none of.
var ErrDriver = errors.New("no such driver")

// Sensor is one chip. It is not safe for concurrent use.
type Sensor interface {
	// Sense takes one measurement and waits for it: milliseconds, or until ctx is done.
	Sense(ctx context.Context) (Reading, error)
	// Halt undoes what opening it did: the chip sleeps.
	Halt() error
	// String names the chip that was found and where.
	String() string
}

// Reading is what a chip measured. A quantity that is not in Has is zero and means nothing.
type Reading struct {
	Has         Quantity
	Temperature physic.Temperature
	Humidity    physic.RelativeHumidity
	Pressure    physic.Pressure
	Quality     Quality
}

// Quantity is a set of measured quantities.
type Quantity uint8

// The quantities.
const (
	Temperature Quantity = 1 << iota
	Humidity
	Pressure
)

// Quality is a set of doubts about a reading; none is a good one.
type Quality uint8

// The doubts.
const (
	// First marks the first measurement after the chip was set up, which datasheets do not vouch for.
	First Quality = 1 << iota
	// OutOfRange marks a value outside what the datasheet says the chip can measure.
	OutOfRange
)

var qualityNames = []string{"first", "out-of-range"}

// String lists the doubts, separated by commas: "first,out-of-range"; "good" when there are none.
func (q Quality) String() string {
	var names []string
	for i, name := range qualityNames {
		if q&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "good"
	}
	return strings.Join(names, ",")
}

var drivers = map[string]func(i2c.Bus, uint16) (Sensor, error){
	"bme280": func(b i2c.Bus, addr uint16) (Sensor, error) { return NewBMxx80(b, addr) },
	"bmp280": func(b i2c.Bus, addr uint16) (Sensor, error) { return NewBMxx80(b, addr) },
}

// Drivers lists the names Open knows, sorted.
func Drivers() []string { return slices.Sorted(maps.Keys(drivers)) }

// Known returns ErrDriver, with the names there are, for a name Open does not know.
func Known(driver string) error {
	if _, ok := drivers[driver]; !ok {
		return fmt.Errorf("%w: %q; there are %s", ErrDriver, driver, strings.Join(Drivers(), ", "))
	}
	return nil
}

// Open finds the chip at the address and sets it up.
func Open(driver string, bus i2c.Bus, addr uint16) (Sensor, error) {
	if err := Known(driver); err != nil {
		return nil, err
	}
	return drivers[driver](bus, addr)
}
