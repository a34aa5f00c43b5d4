// Package clock asks what a board has to tell the time by: a real-time clock that a battery keeps running, and the kernel,
// which knows whether somebody disciplines its own. It decides nothing.
package clock

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

var (
	// ErrStopped is returned by Read for a clock that has stood still since it was set: its battery was empty or away.
	ErrStopped = errors.New("the real-time clock has stopped since it was set: is its battery flat?")
	// ErrRegisters is returned by Read for registers that hold no time, and by Set for a time that registers cannot hold.
	ErrRegisters = errors.New("no time that a real-time clock can hold")
)

// RTC is a real-time clock that runs while the board has no power. Its times are UTC and whole seconds. It is not safe for
// concurrent use.
type RTC interface {
	// Read is the time, or ErrStopped, or ErrRegisters.
	Read() (time.Time, error)
	// Set sets the time, rounded to a second, and clears what makes Read say ErrStopped.
	Set(time.Time) error
	// String names the clock and where it is.
	String() string
}

// Kernel is what the kernel says of its wall clock.
type Kernel struct {
	Synced bool // somebody disciplines it: an NTP or PTP daemon
	// MaxError is how far it may be off at most, by its own account.
	MaxError time.Duration
}

const (
	// staUnsync is the status bit of a clock that nobody disciplines; setting the clock by hand sets it too
	// (include/uapi/linux/timex.h).
	staUnsync = 0x40
	// errorMax is the error at which the kernel itself takes the clock for lost, NTP_PHASE_LIMIT of include/linux/timex.h.
	errorMax = 16 * time.Second
)

// ReadKernel asks the kernel, with adjtimex(2). It needs no right.
func ReadKernel() (Kernel, error) {
	var t unix.Timex
	if _, err := unix.Adjtimex(&t); err != nil {
		return Kernel{}, fmt.Errorf("adjtimex: %w", err)
	}
	return kernelOf(&t), nil
}

func kernelOf(t *unix.Timex) Kernel {
	most := time.Duration(t.Maxerror) * time.Microsecond
	return Kernel{Synced: t.Status&staUnsync == 0 && most < errorMax, MaxError: most}
}

// Running is the time since the kernel started, with the time it slept (CLOCK_BOOTTIME): a clock that nobody sets.
func Running() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0, fmt.Errorf("CLOCK_BOOTTIME: %w", err)
	}
	return time.Duration(t.Nano()), nil
}

// SetSystem sets the kernel's wall clock. It needs CAP_SYS_TIME.
func SetSystem(to time.Time) error {
	t, err := unix.TimeToTimespec(to)
	if err == nil {
		err = unix.ClockSettime(unix.CLOCK_REALTIME, &t)
	}
	if err != nil {
		return fmt.Errorf("set the system's clock (it takes CAP_SYS_TIME): %w", err)
	}
	return nil
}
