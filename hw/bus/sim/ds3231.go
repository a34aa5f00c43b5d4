package sim

import (
	"errors"
	"sync"
	"time"
)

// DS3231Address is where the chip answers (Maxim 19-5170, page 16).
const DS3231Address = 0x68

const (
	ds3231Registers = 0x13 // 00h to 12h, figure 1 of Maxim 19-5170
	ds3231Control   = 0x0e
	ds3231Status    = 0x0f

	ds3231Stopped = 0x80 // OSF
	ds3231Century = 0x80
	ds3231Of12    = 0x40
	ds3231PM      = 0x20
)

// DS3231 is Maxim's real-time clock. It runs as now does, from what it was set to; the day of the week it keeps as a number
// of its own, as the chip does. It is safe for concurrent use.
type DS3231 struct {
	now func() time.Time

	mu        sync.Mutex
	registers [ds3231Registers]byte // those of the time are made when they are read
	ahead     time.Duration         // of now
	week      int                   // the day of the week less that of the date
	of12      bool                  // hours of twelve
	pointer   byte
}

// NewDS3231 is a chip whose battery was put in just now: its oscillator has been stopped, and it is 1 January 2000.
func NewDS3231(now func() time.Time) *DS3231 {
	d := &DS3231{now: now}
	d.Flat()
	return d
}

// Flat takes all power from the chip for a moment: registers are as at the first power-up (pages 11 to 14).
func (d *DS3231) Flat() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.registers = [ds3231Registers]byte{ds3231Control: 0x1c, ds3231Status: ds3231Stopped | 0x08}
	d.ahead, d.week, d.of12 = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Sub(d.now()), 1-int(time.Saturday), false
}

// Tx writes from the register on that the first byte names, and reads on from there; behind the last comes the first.
func (d *DS3231) Tx(w, r []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.show()
	if len(w) > 0 {
		if w[0] >= ds3231Registers {
			return errors.New("simulated DS3231: no such register")
		}
		d.pointer = w[0]
		timed := false
		for _, b := range w[1:] {
			d.store(b)
			timed = timed || d.pointer < 7
			d.pointer = (d.pointer + 1) % ds3231Registers
		}
		if timed {
			d.set()
		}
	}
	for i := range r {
		r[i] = d.registers[d.pointer]
		d.pointer = (d.pointer + 1) % ds3231Registers
	}
	return nil
}

// store writes one register. Of the status only zeros can be written to the flags (page 14).
func (d *DS3231) store(b byte) {
	if d.pointer == ds3231Status {
		const flags = ds3231Stopped | 0x03
		b = b&^flags | b&d.registers[ds3231Status]&flags
	}
	d.registers[d.pointer] = b
}

// show puts the time into its registers.
func (d *DS3231) show() {
	digits := func(n int) byte { return byte(n/10<<4 | n%10) }
	t := d.now().Add(d.ahead).UTC()
	hour := digits(t.Hour())
	if d.of12 {
		hour = ds3231Of12 | digits((t.Hour()+11)%12+1)
		if t.Hour() >= 12 {
			hour |= ds3231PM
		}
	}
	month := digits(int(t.Month()))
	if t.Year() >= 2100 {
		month |= ds3231Century
	}
	copy(d.registers[:], []byte{
		digits(t.Second()), digits(t.Minute()), hour, byte((int(t.Weekday())+d.week+7-1)%7 + 1), digits(t.Day()), month, digits(t.Year() % 100),
	})
}

// set takes the time from its registers. Only what a clock can hold is simulated.
func (d *DS3231) set() {
	number := func(b byte) int { return int(b>>4)*10 + int(b&0x0f) }
	r := d.registers
	hour := number(r[2] &^ (ds3231Of12 | ds3231PM))
	if d.of12 = r[2]&ds3231Of12 != 0; !d.of12 {
		hour = number(r[2])
	} else if hour %= 12; r[2]&ds3231PM != 0 {
		hour += 12
	}
	year := 2000 + number(r[6])
	if r[5]&ds3231Century != 0 {
		year += 100
	}
	t := time.Date(year, time.Month(number(r[5]&^ds3231Century)), number(r[4]), hour, number(r[1]), number(r[0]), 0, time.UTC)
	d.ahead, d.week = t.Sub(d.now()), int(r[3])-int(t.Weekday())
}
