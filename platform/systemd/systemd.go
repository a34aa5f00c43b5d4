// Package systemd tells the service manager how the broker is doing: ready, reloading, stopping. Started by hand, with no
// NOTIFY_SOCKET, every call does nothing.
package systemd

import (
	"fmt"
	"strings"

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

func notify(lines ...string) error {
	if _, err := daemon.SdNotify(false, strings.Join(lines, "\n")); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}

// oneLine keeps a status from smuggling in another assignment.
func oneLine(s string) string { return strings.ReplaceAll(s, "\n", " ") }
