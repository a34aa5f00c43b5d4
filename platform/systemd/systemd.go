// Package systemd tells the service manager how the broker is doing: ready, reloading, stopping. Started by hand, with no
// NOTIFY_SOCKET, every call does nothing.
package systemd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// Ready says that the doors are open (Type=notify), with a line for `systemctl status`.
func Ready(status string) error {
	return notify(daemon.SdNotifyReady, "STATUS="+oneLine(status))
}

// Reloading says that the configuration is being read again; Ready must follow. With Type=notify-reload the manager
// compares the time in it with its own clock (sd_notify(3)).
func Reloading() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("monotonic clock: %w", err)
	}
	return notify(daemon.SdNotifyReloading, fmt.Sprintf("MONOTONIC_USEC=%d", now.Nano()/1000))
}

// Stopping says that a clean stop has begun.
func Stopping() error { return notify(daemon.SdNotifyStopping) }

// Handed is what the service manager has opened for the service; its owner closes it. All of it is empty where the service
// was started by hand.
type Handed struct {
	// Sockets are listeners: the .socket units of the service.
	Sockets []net.Listener
	// Console is what is shown there to who stands before the machine, and kept nowhere (OpenFile=/dev/console:console); nil
	// where the unit has no such line.
	Console *os.File
}

// console is the name of Handed.Console in the unit.
const console = "console"

// HandedIn asks for what the service manager has opened, once: children do not see it. A socket that cannot be listened at
// is an error that names it.
func HandedIn() (h Handed, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close())
		}
	}()
	for _, f := range activation.Files(true) {
		if f.Name() == console && h.Console == nil {
			h.Console = f
			continue
		}
		l, err := net.FileListener(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return h, fmt.Errorf("socket %s of the service manager: %w: a .socket unit of a broker has ListenStream= and Accept=no", f.Name(), err)
		}
		if unix, ok := l.(*net.UnixListener); ok {
			unix.SetUnlinkOnClose(false) // it is the manager's, for the next start
		}
		h.Sockets = append(h.Sockets, l)
	}
	return h, nil
}

// close closes all of it.
func (h *Handed) close() (err error) {
	for _, l := range h.Sockets {
		err = errors.Join(err, l.Close())
	}
	if h.Console != nil {
		err = errors.Join(err, h.Console.Close())
	}
	*h = Handed{}
	return err
}

// Watchdog is the service manager's (WatchdogSec in the unit): it ends the service that does not feed it, and with
// FailureAction reboots the board. While the service starts or stops each feed also puts off the limit of that
// (TimeoutStartSec, TimeoutStopSec), so that a recovery that makes progress may take its time.
type Watchdog struct {
	timeout time.Duration
	settled atomic.Bool
}

// NewWatchdog is nil, and no error, where the service manager waits for no feed.
func NewWatchdog() (*Watchdog, error) {
	timeout, err := daemon.SdWatchdogEnabled(false)
	switch {
	case err != nil:
		return nil, fmt.Errorf("the service manager's watchdog: %w", err)
	case timeout <= 0 || os.Getenv("NOTIFY_SOCKET") == "":
		return nil, nil
	}
	return &Watchdog{timeout: timeout}, nil
}

// Name implements health.Watchdog.
func (w *Watchdog) Name() string { return "systemd" }

// Timeout implements health.Watchdog.
func (w *Watchdog) Timeout() time.Duration { return w.timeout }

// Feed implements health.Watchdog.
func (w *Watchdog) Feed() error {
	if w.settled.Load() {
		return notify(daemon.SdNotifyWatchdog)
	}
	return notify(daemon.SdNotifyWatchdog, fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", w.timeout.Microseconds()))
}

// Settled says whether the service neither starts nor stops now. On nil it does nothing.
func (w *Watchdog) Settled(settled bool) {
	if w != nil {
		w.settled.Store(settled)
	}
}

func notify(lines ...string) error {
	if _, err := daemon.SdNotify(false, strings.Join(lines, "\n")); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}

// oneLine keeps a status from smuggling in another assignment.
func oneLine(s string) string { return strings.ReplaceAll(s, "\n", " ") }
