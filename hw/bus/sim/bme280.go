package sim

import (
	"encoding/binary"
	"errors"
	"sort"

	"periph.io/x/conn/v3/physic"
)

// Registers of the BME280 (Bosch BST-BME280-DS001-23, section 5.3).
const (
	regCalibration  = 0x88 // T1..P9 to 0x9f, H1 at 0xa1
	regID           = 0xd0
	regReset        = 0xe0
	regCalibration2 = 0xe1 // H2..H6 to 0xe7
	regHumidity     = 0xf2 // ctrl_hum
	regMeasure      = 0xf4 // ctrl_meas
	regData         = 0xf7 // pressure, temperature, humidity to 0xfe

	idBME280  = 0x60
	resetWord = 0xb6

	skippedPT = 0x80000 // what a skipped temperature or pressure reads as, section 5.4.7
	skippedH  = 0x8000
)

// BME280 is Bosch's sensor for temperature, pressure and humidity. It measures, when the driver tells it to, what env
// says: the data registers hold the raw values that the datasheet's compensation turns back into it. Its bus serialises
// calls.
type BME280 struct {
	env       func() physic.Env
	registers [256]byte
	// humidity is ctrl_hum as it was when ctrl_meas was last written: section 5.4.3 makes a change effective only then.
	humidity byte
}

// NewBME280 returns a chip after power-on.
func NewBME280(env func() physic.Env) *BME280 {
	b := &BME280{env: env}
	b.powerOn()
	return b
}

func (b *BME280) powerOn() {
	clear(b.registers[:])
	b.humidity = 0
	b.registers[regID] = idBME280
	c := factory
	le := binary.LittleEndian
	at := b.registers[regCalibration:]
	le.PutUint16(at, c.t1)
	for i, v := range []int16{c.t2, c.t3} {
		le.PutUint16(at[2+2*i:], uint16(v))
	}
	le.PutUint16(at[6:], c.p1)
	for i, v := range []int16{c.p2, c.p3, c.p4, c.p5, c.p6, c.p7, c.p8, c.p9} {
		le.PutUint16(at[8+2*i:], uint16(v))
	}
	at[25] = c.h1
	at = b.registers[regCalibration2:]
	le.PutUint16(at, uint16(c.h2))
	at[2] = c.h3
	// H4 and H5 are 12 bits each and share 0xe5, table 16.
	at[3] = byte(c.h4 >> 4)
	at[4] = byte(c.h4&0xf) | byte(c.h5&0xf)<<4
	at[5] = byte(c.h5 >> 4)
	at[6] = byte(c.h6)
	b.store(skippedPT, skippedPT, skippedH)
}

// Tx writes pairs of register and value, or sets the register with a single byte and reads from it on (section 6.2).
func (b *BME280) Tx(w, r []byte) error {
	if len(r) > 0 {
		if len(w) != 1 {
			return errors.New("bme280: a read names one register")
		}
		copy(r, b.registers[w[0]:])
		return nil
	}
	if len(w)%2 != 0 {
		return errors.New("bme280: a write is pairs of register and value")
	}
	for ; len(w) > 0; w = w[2:] {
		b.write(w[0], w[1])
	}
	return nil
}

func (b *BME280) write(register, value byte) {
	switch register {
	case regReset:
		if value == resetWord {
			b.powerOn()
		}
	case regHumidity, 0xf5:
		b.registers[register] = value
	case regMeasure:
		b.humidity = b.registers[regHumidity] & 7
		b.registers[regMeasure] = value
		switch value & 3 {
		case 1, 2: // forced: one measurement, then asleep
			b.measure(value)
			b.registers[regMeasure] = value &^ 3
		case 3:
			b.measure(value)
		}
	}
}

func (b *BME280) measure(control byte) {
	env := b.env()
	t, fine := factory.rawTemperature(env.Temperature)
	p, h := factory.rawPressure(env.Pressure, fine), factory.rawHumidity(env.Humidity, fine)
	if control>>5 == 0 {
		t = skippedPT
	}
	if control>>2&7 == 0 {
		p = skippedPT
	}
	if b.humidity == 0 {
		h = skippedH
	}
	b.store(p, t, h)
}

func (b *BME280) store(p, t, h int32) {
	at := b.registers[regData:]
	for i, v := range []int32{p, t} {
		at[3*i], at[3*i+1], at[3*i+2] = byte(v>>12), byte(v>>4), byte(v<<4)
	}
	at[6], at[7] = byte(h>>8), byte(h)
}

// calibration is what Bosch burns into each chip, section 4.2.2.
type calibration struct {
	t1                             uint16
	t2, t3                         int16
	p1                             uint16
	p2, p3, p4, p5, p6, p7, p8, p9 int16
	h1, h3                         uint8
	h2, h4, h5                     int16
	h6                             int8
}

// factory is the example of the BMP280 datasheet, section 3.12, with typical humidity words.
var factory = calibration{
	t1: 27504, t2: 26435, t3: -1000,
	p1: 36477, p2: -10685, p3: 3024, p4: 2855, p5: 140, p6: -7, p7: 15500, p8: -14600, p9: 6000,
	h1: 75, h2: 362, h3: 0, h4: 313, h5: 50, h6: 30,
}

// The raw value of a quantity is found by bisection: each compensation is monotone in it.

func (c *calibration) rawTemperature(want physic.Temperature) (raw, fine int32) {
	raw = int32(sort.Search(1<<20-1, func(raw int) bool {
		centi, _ := c.temperature(int32(raw))
		return physic.Temperature(centi)*10*physic.MilliKelvin+physic.ZeroCelsius >= want
	}))
	_, fine = c.temperature(raw)
	return raw, fine
}

func (c *calibration) rawPressure(want physic.Pressure, fine int32) int32 {
	return int32(sort.Search(1<<20-1, func(raw int) bool { // a higher value is a lower pressure
		return physic.Pressure(c.pressure(int32(raw), fine))*physic.Pascal/256 <= want
	}))
}

func (c *calibration) rawHumidity(want physic.RelativeHumidity, fine int32) int32 {
	return int32(sort.Search(1<<16-1, func(raw int) bool {
		return int64(c.humidity(int32(raw), fine))*int64(physic.PercentRH)/1024 >= int64(want)
	}))
}

// temperature is section 4.2.3: hundredths of a degree Celsius, and the fine temperature for the others.
func (c *calibration) temperature(raw int32) (centi, fine int32) {
	a := ((raw>>3 - int32(c.t1)<<1) * int32(c.t2)) >> 11
	d := raw>>4 - int32(c.t1)
	fine = a + ((d*d>>12)*int32(c.t3))>>14
	return (fine*5 + 128) >> 8, fine
}

// pressure is section 4.2.3: pascal times 256.
func (c *calibration) pressure(raw, fine int32) uint32 {
	a := int64(fine) - 128000
	b := a*a*int64(c.p6) + (a*int64(c.p5))<<17 + int64(c.p4)<<35
	a = (a*a*int64(c.p3))>>8 + (a*int64(c.p2))<<12
	a = ((int64(1)<<47 + a) * int64(c.p1)) >> 33
	if a == 0 {
		return 0
	}
	p := ((int64(1048576-raw)<<31 - b) * 3125) / a
	q := (int64(c.p9) * (p >> 13) * (p >> 13)) >> 25
	r := (int64(c.p8) * p) >> 19
	return uint32((p+q+r)>>8 + int64(c.p7)<<4)
}

// humidity is section 4.2.3: percent times 1024.
func (c *calibration) humidity(raw, fine int32) uint32 {
	v := fine - 76800
	a := (raw<<14 - int32(c.h4)<<20 - int32(c.h5)*v + 16384) >> 15
	b := ((v*int32(c.h6))>>10)*((v*int32(c.h3))>>11+32768)>>10 + 2097152
	v = a * ((b*int32(c.h2) + 8192) >> 14)
	v -= ((((v >> 15) * (v >> 15)) >> 7) * int32(c.h1)) >> 4
	return uint32(min(max(v, 0), 419430400) >> 12)
}
