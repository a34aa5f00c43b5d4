package clock

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Device is a clock that the kernel has a driver for: /dev/rtc0. It is opened for each call, because only one may have it
// open at a time.
type Device struct{ path string }

var _ RTC = (*Device)(nil)

// NewDevice is the kernel's clock of that path. Nothing is opened yet.
func NewDevice(path string) *Device { return &Device{path} }

// String is the path.
func (d *Device) String() string { return d.path }

// invalid is the bit of RTC_VL_READ for a time that was lost (include/uapi/linux/rtc.h); old kernels answer 1 for it too.
const invalid = 1

// Read asks the driver whether the time was lost, where it can tell, and for the time.
func (d *Device) Read() (t time.Time, err error) {
	err = d.with(os.O_RDONLY, func(fd int) error {
		// A driver that cannot tell refuses the request, each with an error of its own.
		if state, err := unix.IoctlGetUint32(fd, unix.RTC_VL_READ); err == nil && state&invalid != 0 {
			return ErrStopped
		}
		r, err := unix.IoctlGetRTCTime(fd)
		switch {
		case errors.Is(err, unix.EINVAL): // what drivers say that know of a stopped oscillator by themselves
			return ErrStopped
		case err != nil:
			return err
		}
		t, err = fromKernel(r)
		return err
	})
	return t, err
}

// Set sets it; the driver clears what says that the time was lost. It needs CAP_SYS_TIME.
func (d *Device) Set(to time.Time) error {
	to = to.UTC().Round(time.Second)
	return d.with(os.O_WRONLY, func(fd int) error {
		return unix.IoctlSetRTCTime(fd, &unix.RTCTime{
			Sec: int32(to.Second()), Min: int32(to.Minute()), Hour: int32(to.Hour()),
			Mday: int32(to.Day()), Mon: int32(to.Month()) - 1, Year: int32(to.Year()) - 1900,
		})
	})
}

func (d *Device) with(flag int, do func(fd int) error) error {
	f, err := os.OpenFile(d.path, flag, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(do(int(f.Fd())), f.Close()); err != nil {
		return fmt.Errorf("%s: %w", d.path, err)
	}
	return nil
}

// fromKernel is a struct tm as a time: months from 0, years from 1900.
func fromKernel(r *unix.RTCTime) (time.Time, error) {
	t := time.Date(int(r.Year)+1900, time.Month(r.Mon+1), int(r.Mday), int(r.Hour), int(r.Min), int(r.Sec), 0, time.UTC)
	if t.Year() != int(r.Year)+1900 || t.Month() != time.Month(r.Mon+1) || t.Day() != int(r.Mday) ||
		t.Hour() != int(r.Hour) || t.Minute() != int(r.Min) || t.Second() != int(r.Sec) {
		return time.Time{}, fmt.Errorf("%+v: %w", *r, ErrRegisters)
	}
	return t, nil
}
