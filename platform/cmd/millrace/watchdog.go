package main

import (
	"errors"
	"os"
	"strings"

	"millrace/hw/watchdog"
	"millrace/platform/config"
	"millrace/platform/health"
	"millrace/platform/systemd"
)

// dogs are the watchdogs that wait for this process.
type dogs struct {
	all     []health.Watchdog
	manager *systemd.Watchdog // nil where the service manager waits for no feed
	device  *watchdog.Device  // nil without one
}

// watchdogs opens what [watchdog] names, and finds the service manager's.
func watchdogs(cfg *config.Config) (d *dogs, err error) {
	d = &dogs{}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.disarm())
		}
	}()
	if d.manager, err = systemd.NewWatchdog(); err != nil {
		return d, err
	}
	if d.manager != nil {
		d.all = append(d.all, d.manager)
	}
	w := &cfg.Watchdog
	if w.Device != "" {
		if d.device, err = watchdog.Open(w.Device, watchdog.Options{Timeout: w.Timeout, Pretimeout: w.Pretimeout}); err != nil {
			return d, err
		}
		d.all = append(d.all, d.device)
	}
	if w.GPIO != "" {
		line, err := watchdog.OpenLine(w.GPIO, w.Timeout)
		if err != nil {
			return d, err
		}
		d.all = append(d.all, line)
	}
	return d, nil
}

// reset is why the machine was reset last, "" where nobody knows.
func (d *dogs) reset() string {
	if d.device != nil {
		return d.device.Reset()
	}
	return watchdog.Reset("/sys/class/watchdog")
}

// bootID names this run of the kernel, "" where it does not say.
func bootID() string {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}

// disarm lets the device go: the process ends on purpose.
func (d *dogs) disarm() error {
	if d.device == nil {
		return nil
	}
	return d.device.Close()
}
