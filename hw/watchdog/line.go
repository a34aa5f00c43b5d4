package watchdog

import (
	"fmt"
	"sync"
	"time"

	"periph.io/x/conn/v3/gpio"
)

// Line is an external watchdog that wants a line toggled, such as the WDI input of a MAX6369 or TPS3823: each Feed makes
// one edge. Its methods are safe for concurrent use.
type Line struct {
	pin     gpio.PinOut
	timeout time.Duration

	mu   sync.Mutex
	high bool
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
