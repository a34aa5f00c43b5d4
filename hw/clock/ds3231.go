package clock

import (
	"fmt"
	"time"

	"periph.io/x/conn/v3/i2c"
)

// DS3231Address is where the chip answers, always: slave address D0h, without the bit that says read (Maxim 19-5170,
// page 16).
const DS3231Address = 0x68

// Registers, figure 1 of Maxim 19-5170 (page 11), and their bits (pages 11 to 14).
const (
	regSeconds = 0x00
	regControl = 0x0e
	regStatus  = 0x0f

	bit12Hours    = 0x40 // of the hours: a clock of twelve
	bitPM         = 0x20 // with it; without, it is the 20 of the hours
	bitCentury    = 0x80 // of the month: the years have passed 99
	bitNoBattery  = 0x80 // EOSC of control: on the battery the oscillator stands still
	bitStopped    = 0x80 // OSF of status: the oscillator has stood still
	bitsUntouched = 0x03 // A2F and A1F of status: a 1 leaves them as they are
)

// ds3231Epoch is the year that the chip's 00 stands for; with the century bit it is a hundred years later.
const ds3231Epoch = 2000

// DS3231 is Maxim's temperature-compensated clock, DS3231 and DS3231M: 2 ppm from 0 to 40 degrees C, a minute in a year.
// Each call is one or a few transfers; the bus bounds them in time.
type DS3231 struct{ dev i2c.Dev }

var _ RTC = (*DS3231)(nil)

// NewDS3231 is the chip on the bus. Nothing is transferred yet.
func NewDS3231(bus i2c.Bus) *DS3231 { return &DS3231{i2c.Dev{Bus: bus, Addr: DS3231Address}} }

// String names the chip and its bus.
func (d *DS3231) String() string { return "ds3231 on " + d.dev.Bus.String() }

// Read reads time and status in one transfer: the chip holds the time still from the start of a transfer on (page 11).
func (d *DS3231) Read() (time.Time, error) {
	var r [regStatus + 1]byte
	if err := d.dev.Tx([]byte{regSeconds}, r[:]); err != nil {
		return time.Time{}, fmt.Errorf("%s: %w", d, err)
	}
	if r[regStatus]&bitStopped != 0 {
		return time.Time{}, fmt.Errorf("%s: %w", d, ErrStopped)
	}
	t, err := decode([7]byte(r[:7]))
	if err != nil {
		return time.Time{}, fmt.Errorf("%s: %w", d, err)
	}
	return t, nil
}

// Set writes the time, has the oscillator run on the battery too, and only then says that the time can be believed.
func (d *DS3231) Set(to time.Time) error {
	to = to.UTC().Round(time.Second)
	if y := to.Year(); y < ds3231Epoch || y >= ds3231Epoch+200 {
		return fmt.Errorf("%s: the year %d: %w", d, y, ErrRegisters)
	}
	r := encode(to)
	if err := d.dev.Tx(append([]byte{regSeconds}, r[:]...), nil); err != nil {
		return fmt.Errorf("%s: %w", d, err)
	}
	var old [2]byte
	err := d.dev.Tx([]byte{regControl}, old[:])
	if err == nil && old[0]&bitNoBattery != 0 {
		err = d.dev.Tx([]byte{regControl, old[0] &^ bitNoBattery}, nil)
	}
	if err == nil && old[1]&bitStopped != 0 {
		err = d.dev.Tx([]byte{regStatus, old[1]&^bitStopped | bitsUntouched}, nil)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", d, err)
	}
	return nil
}

// decode reads the registers from the seconds to the year. A chip that is not there, or another one, seldom holds a date
// that there is.
func decode(r [7]byte) (time.Time, error) {
	bad := func(what string) (time.Time, error) {
		return time.Time{}, fmt.Errorf("%s of the registers % x: %w", what, r[:], ErrRegisters)
	}
	second, ok := decimal(r[0], 0, 59)
	if !ok {
		return bad("seconds")
	}
	minute, ok := decimal(r[1], 0, 59)
	if !ok {
		return bad("minutes")
	}
	hour, ok := decodeHour(r[2])
	if !ok {
		return bad("hours")
	}
	if r[3] < 1 || r[3] > 7 { // the day of the week; which is which is the user's choice (page 12)
		return bad("day of the week")
	}
	day, ok := decimal(r[4], 1, 31)
	if !ok {
		return bad("date")
	}
	month, ok := decimal(r[5]&^bitCentury, 1, 12)
	if !ok {
		return bad("month")
	}
	year, ok := decimal(r[6], 0, 99)
	if !ok {
		return bad("year")
	}
	year += ds3231Epoch
	if r[5]&bitCentury != 0 {
		year += 100
	}
	t := time.Date(year, time.Month(month), day, hour, minute, second, 0, time.UTC)
	if t.Day() != day { // 30 February
		return bad("date")
	}
	return t, nil
}

func decodeHour(b byte) (int, bool) {
	switch {
	case b&0x80 != 0:
		return 0, false
	case b&bit12Hours == 0:
		return decimal(b, 0, 23)
	}
	hour, ok := decimal(b&^(bit12Hours|bitPM), 1, 12)
	hour %= 12 // twelve is the first hour
	if b&bitPM != 0 {
		hour += 12
	}
	return hour, ok
}

// encode is what decode reads, with hours of 24.
func encode(t time.Time) [7]byte {
	month := bcd(int(t.Month()))
	if t.Year() >= ds3231Epoch+100 {
		month |= bitCentury
	}
	return [7]byte{
		bcd(t.Second()), bcd(t.Minute()), bcd(t.Hour()), byte(t.Weekday()) + 1, bcd(t.Day()), month, bcd(t.Year() % 100),
	}
}

func bcd(n int) byte { return byte(n/10<<4 | n%10) }

// decimal reads a number of two binary-coded digits.
func decimal(b byte, low, high int) (int, bool) {
	n := int(b>>4)*10 + int(b&0x0f)
	return n, b&0x0f <= 9 && n >= low && n <= high
}
