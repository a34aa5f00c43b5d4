package watchdog

import (
	"fmt"
	"sync"
	"time"

	"periph.io/x/conn/v3/driver/driverreg"
	"periph.io/x/conn/v3/gpio"
	"periph.io/x/conn/v3/gpio/gpioreg"
	_ "periph.io/x/host/v3/gpioioctl" // the kernel's GPIO lines by name
)

// Line is an external watchdog that wants a line toggled, such as the WDI input of a MAX6369 or TPS3823: each Feed makes
// one edge. Its methods are safe for concurrent use.
type Line struct {
	pin     gpio.PinOut
	timeout time.Duration

	mu   sync.Mutex
	high bool
}

// OpenLine returns the watchdog behind the kernel's GPIO line of that name ("GPIO17"), see NewLine.
func OpenLine(name string, timeout time.Duration) (*Line, error) {
	if _, err := driverreg.Init(); err != nil {
		return nil, fmt.Errorf("watchdog at %s: %w", name, err)
	}
	pin := gpioreg.ByName(name)
	if pin == nil {
		return nil, fmt.Errorf("watchdog at %s: the kernel has no line of that name: gpioinfo lists them; correct gpio in [watchdog]", name)
	}
	return NewLine(pin, timeout)
}

// NewLine returns the watchdog behind a pin, whose chip waits for timeout (a datasheet's least). Some of these chips cannot
// be disarmed: Close leaves the line as it is.
func NewLine(pin gpio.PinOut, timeout time.Duration) (*Line, error) {
	if timeout <= 0 {
		return nil, fmt.Errorf("watchdog at %s: timeout in [watchdog] is %v: give what the chip waits, from its datasheet", pin, timeout)
	}
	return &Line{pin: pin, timeout: timeout}, nil
}

// Name is the line's.
func (l *Line) Name() string { return l.pin.Name() }

// Timeout is what the chip waits.
func (l *Line) Timeout() time.Duration { return l.timeout }

// Feed makes an edge.
func (l *Line) Feed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.pin.Out(gpio.Level(!l.high)); err != nil {
		return fmt.Errorf("watchdog at %s: %w", l.pin.Name(), err)
	}
	l.high = !l.high
	return nil
}
