package sim

import (
	"time"

	"periph.io/x/conn/v3/i2c"
	"periph.io/x/conn/v3/physic"
)

// ClimateAddress is where Climate's sensor is.
const ClimateAddress = 0x76

// Climate opens a bus with one BME280, whose air drifts with the time now tells.
func Climate(now func() time.Time) func() (i2c.BusCloser, error) {
	return func() (i2c.BusCloser, error) {
		chip := NewBME280(func() physic.Env { return Drift(now()) })
		return New(map[uint16]Device{ClimateAddress: chip}), nil
	}
}
