package sim

import (
	"math"
	"time"

	"periph.io/x/conn/v3/physic"
)

// Drift is the air in a cabinet: a daily wave, the cycle of a heater, and a flicker, each a pure function of the time.
func Drift(now time.Time) physic.Env {
	s := float64(now.UnixMilli()) / 1000
	wave := func(period, height float64) float64 { return height * math.Sin(2*math.Pi*s/period) }
	return physic.Env{
		Temperature: physic.ZeroCelsius + physic.Temperature((24+wave(86400, 4)+wave(600, 0.8)+wave(7, 0.05))*float64(physic.Kelvin)),
		Humidity:    physic.RelativeHumidity((45 - wave(86400, 8) - wave(600, 1.5) + wave(11, 0.1)) * float64(physic.PercentRH)),
		Pressure:    physic.Pressure((101325 + wave(200000, 900) + wave(13, 4)) * float64(physic.Pascal)),
	}
}
