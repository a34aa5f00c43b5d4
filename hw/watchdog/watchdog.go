// Package watchdog feeds what resets the board when the program that feeds it does not: the kernel's watchdog device, or
// an external chip that wants a line toggled. When to feed is not decided here.
package watchdog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrBusy is returned by Open for a device that another program has open.
var ErrBusy = errors.New("another program feeds it: with systemd that is PID 1 (RuntimeWatchdogSec in /etc/systemd/system.conf), which needs no second one; leave device in [watchdog] empty")

// Options say how a device is opened.
type Options struct {
	// Timeout after the last feed the board is reset; whole seconds, rounded up. 0 leaves what the driver has, which some
	// drivers need: imx2_wdt in QEMU is disarmed by being told.
	Timeout time.Duration
	// Pretimeout is how long before the reset the kernel is interrupted, whose governor may panic and keep a trace; whole
	// seconds. 0: not at all.
	Pretimeout time.Duration
}

// Device is the kernel's watchdog device (Documentation/watchdog/watchdog-api.rst). Its methods are safe for concurrent use.
type Device struct {
	path    string
	timeout time.Duration
	boot    int
	magic   bool

	mu  sync.Mutex
	dev device // nil: closed
}

// device is what is asked of an open /dev/watchdog.
type device interface {
	info() (options uint32, identity string, err error)
	get(request uint) (int, error)
	set(request uint, value int) error
	feed() error
	write(b []byte) error
	close() error
}

// Open opens a device, /dev/watchdog or /dev/watchdogN, which arms it: from here on it wants to be fed. A device that is
// open elsewhere is ErrBusy. One that does not take the timeout asked for has its own; see Timeout.
func Open(path string, o Options) (*Device, error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, fmt.Errorf("watchdog %s: %w", path, ErrBusy)
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("watchdog %s: there is none: load its driver, or correct device in [watchdog]", path)
	case err != nil:
		return nil, fmt.Errorf("watchdog %s: %w", path, err)
	}
	return open(path, kernel{f}, o)
}

func open(path string, dev device, o Options) (*Device, error) {
	d := &Device{path: path, dev: dev}
	if err := d.setUp(o); err != nil {
		return nil, errors.Join(fmt.Errorf("watchdog %s: %w", path, err), d.Close())
	}
	return d, nil
}

func (d *Device) setUp(o Options) error {
	can, identity, err := d.dev.info()
	if err != nil {
		return fmt.Errorf("it is no watchdog: %w", err)
	}
	d.magic = can&unix.WDIOF_MAGICCLOSE != 0
	if d.boot, err = d.dev.get(unix.WDIOC_GETBOOTSTATUS); err != nil {
		d.boot = 0 // not every driver can tell
	}
	now, err := d.dev.get(unix.WDIOC_GETTIMEOUT)
	if err != nil || now <= 0 {
		return fmt.Errorf("%s does not tell its timeout: %w", identity, errors.Join(err, errNoTimeout))
	}
	if want := seconds(o.Timeout); want > 0 && want != now {
		if can&unix.WDIOF_SETTIMEOUT == 0 {
			return fmt.Errorf("%s has a timeout of %d s and takes no other: set timeout in [watchdog] to \"0s\", which leaves it", identity, now)
		}
		if err := d.dev.set(unix.WDIOC_SETTIMEOUT, want); err != nil {
			return fmt.Errorf("%s does not take a timeout of %d s (timeout in [watchdog]): %w", identity, want, err)
		}
		if now, err = d.dev.get(unix.WDIOC_GETTIMEOUT); err != nil || now <= 0 {
			return errors.Join(err, errNoTimeout)
		}
	}
	d.timeout = time.Duration(now) * time.Second
	if before := seconds(o.Pretimeout); before > 0 {
		if before >= now {
			return fmt.Errorf("a pretimeout of %d s is not before the timeout of %d s: lower pretimeout in [watchdog]", before, now)
		}
		if can&unix.WDIOF_PRETIMEOUT == 0 {
			return fmt.Errorf("%s has no pretimeout: set pretimeout in [watchdog] to \"0s\"", identity)
		}
		if err := d.dev.set(unix.WDIOC_SETPRETIMEOUT, before); err != nil {
			return fmt.Errorf("%s does not take a pretimeout of %d s (pretimeout in [watchdog]): %w", identity, before, err)
		}
	}
	return nil
}

var errNoTimeout = errors.New("no timeout")

func seconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }

// Name is the path.
func (d *Device) Name() string { return d.path }

// Timeout is what the device waits for the next Feed: the one asked for, or what the driver made of it.
func (d *Device) Timeout() time.Duration { return d.timeout }

// Feed puts the reset off.
func (d *Device) Feed() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dev == nil {
		return os.ErrClosed
	}
	return d.dev.feed()
}

// Reset says why the board was reset last, as far as the device knows: "watchdog", "overheated", "fan", "power over",
// "power under", "external"; "" where it does not.
func (d *Device) Reset() string { return cause(d.boot) }

// Reset is what the kernel's watchdogs say of the machine's last reset, for who opens none: PID 1 has the device. root is
// "/sys/class/watchdog". "" where none knows.
func Reset(root string) string {
	names, err := filepath.Glob(filepath.Join(root, "watchdog*", "bootstatus"))
	if err != nil {
		return ""
	}
	for _, name := range names {
		raw, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		bits, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 0, 64)
		if err != nil {
			continue
		}
		if is := cause(int(bits)); is != "" {
			return is
		}
	}
	return ""
}

func cause(boot int) string {
	for _, of := range []struct {
		bit  int
		name string
	}{
		{unix.WDIOF_CARDRESET, "watchdog"},
		{unix.WDIOF_OVERHEAT, "overheated"},
		{unix.WDIOF_FANFAULT, "fan"},
		{unix.WDIOF_POWERUNDER, "power under"},
		{unix.WDIOF_POWEROVER, "power over"},
		{unix.WDIOF_EXTERN1, "external"},
		{unix.WDIOF_EXTERN2, "external"},
	} {
		if boot&of.bit != 0 {
			return of.name
		}
	}
	return ""
}

// Close disarms the device: the magic 'V' says that the program ends on purpose. A driver built without it (nowayout)
// resets the board all the same, unless somebody else opens it in time.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dev == nil {
		return nil
	}
	var err error
	if d.magic {
		err = d.dev.write([]byte{'V'})
	}
	err = errors.Join(err, d.dev.close())
	d.dev = nil
	return err
}

// kernel is the real device.
type kernel struct{ f *os.File }

func (k kernel) info() (options uint32, identity string, err error) {
	i, err := unix.IoctlGetWatchdogInfo(int(k.f.Fd()))
	if err != nil {
		return 0, "", err
	}
	return i.Options, unix.ByteSliceToString(i.Identity[:]), nil
}

func (k kernel) get(request uint) (int, error) {
	v, err := unix.IoctlGetUint32(int(k.f.Fd()), request)
	return int(int32(v)), err
}

func (k kernel) set(request uint, value int) error {
	return unix.IoctlSetPointerInt(int(k.f.Fd()), request, value)
}

func (k kernel) feed() error { return unix.IoctlWatchdogKeepalive(int(k.f.Fd())) }

func (k kernel) write(b []byte) error {
	_, err := k.f.Write(b)
	return err
}

func (k kernel) close() error { return k.f.Close() }
