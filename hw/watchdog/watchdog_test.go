package watchdog

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"periph.io/x/conn/v3/gpio"
	"periph.io/x/conn/v3/gpio/gpiotest"
)

// fake is a driver.
type fake struct {
	can         uint32
	boot        int
	timeout     int
	most        int // a larger timeout becomes this
	pretimeout  int
	feeds       int
	written     string
	closed      bool
	refuse      error
	setTimeouts int
}

func (f *fake) info() (uint32, string, error) { return f.can, "fake", f.refuse }

func (f *fake) get(request uint) (int, error) {
	switch request {
	case unix.WDIOC_GETBOOTSTATUS:
		return f.boot, nil
	case unix.WDIOC_GETTIMEOUT:
		return f.timeout, nil
	}
	return 0, unix.ENOTTY
}

func (f *fake) set(request uint, value int) error {
	switch request {
	case unix.WDIOC_SETTIMEOUT:
		f.setTimeouts++
		f.timeout = min(value, f.most)
	case unix.WDIOC_SETPRETIMEOUT:
		f.pretimeout = value
	default:
		return unix.ENOTTY
	}
	return nil
}

func (f *fake) feed() error { f.feeds++; return nil }

func (f *fake) write(b []byte) error { f.written += string(b); return nil }

func (f *fake) close() error { f.closed = true; return nil }

const all = unix.WDIOF_SETTIMEOUT | unix.WDIOF_MAGICCLOSE | unix.WDIOF_PRETIMEOUT

func TestTimeoutIsWhatTheDriverMadeOfIt(t *testing.T) {
	for _, of := range []struct{ name, asked, want string }{
		{"as asked", "15s", "15s"}, {"rounded up", "1500ms", "2s"}, {"the driver's most", "500s", "120s"}, {"the driver's own", "0s", "60s"},
	} {
		asked, _ := time.ParseDuration(of.asked)
		want, _ := time.ParseDuration(of.want)
		f := &fake{can: all, timeout: 60, most: 120}
		d, err := open("w", f, Options{Timeout: asked})
		if err != nil {
			t.Fatal(err)
		}
		if d.Timeout() != want {
			t.Errorf("%s: %v, want %v", of.name, d.Timeout(), want)
		}
		if asked == 0 && f.setTimeouts > 0 {
			t.Error("the driver was told a timeout though it was to keep its own")
		}
	}
}

func TestATimeoutTheDriverHasIsNotSet(t *testing.T) {
	f := &fake{can: all, timeout: 15, most: 120}
	if _, err := open("w", f, Options{Timeout: 15 * time.Second}); err != nil || f.setTimeouts != 0 {
		t.Errorf("%d sets, %v", f.setTimeouts, err)
	}
}

func TestCloseDisarms(t *testing.T) {
	f := &fake{can: all, timeout: 60, most: 120}
	d, err := open("w", f, Options{Timeout: 10 * time.Second, Pretimeout: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if f.pretimeout != 3 {
		t.Errorf("pretimeout %d", f.pretimeout)
	}
	if err := errors.Join(d.Feed(), d.Feed(), d.Close(), d.Close()); err != nil {
		t.Fatal(err)
	}
	if f.feeds != 2 || f.written != "V" || !f.closed {
		t.Errorf("fed %d times, wrote %q, closed %v", f.feeds, f.written, f.closed)
	}
	if err := d.Feed(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("fed after Close: %v", err)
	}
}

func TestWhatADriverCannotDoIsSaidAndLeavesItDisarmed(t *testing.T) {
	for _, of := range []struct {
		f    fake
		o    Options
		want string
	}{
		{fake{can: unix.WDIOF_MAGICCLOSE, timeout: 60}, Options{Timeout: 15 * time.Second}, "takes no other"},
		{fake{can: all &^ unix.WDIOF_PRETIMEOUT, timeout: 60, most: 60}, Options{Pretimeout: time.Second}, "has no pretimeout"},
		{fake{can: all, timeout: 60, most: 60}, Options{Pretimeout: time.Minute}, "is not before the timeout"},
		{fake{can: all}, Options{}, "does not tell its timeout"},
		{fake{can: all, refuse: unix.ENOTTY}, Options{}, "no watchdog"},
	} {
		_, err := open("w", &of.f, of.o)
		if err == nil || !strings.Contains(err.Error(), of.want) {
			t.Errorf("%v, want %q", err, of.want)
		}
		if !of.f.closed {
			t.Errorf("%s: left open", of.want)
		}
	}
}

func TestTheCauseOfTheLastReset(t *testing.T) {
	for bits, want := range map[int]string{0: "", unix.WDIOF_CARDRESET: "watchdog", unix.WDIOF_POWERUNDER | unix.WDIOF_MAGICCLOSE: "power under", unix.WDIOF_OVERHEAT | unix.WDIOF_CARDRESET: "watchdog"} {
		d, err := open("w", &fake{can: all, timeout: 60, boot: bits}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if d.Reset() != want {
			t.Errorf("%#x: %q, want %q", bits, d.Reset(), want)
		}
	}
}

func TestTheCauseIsKnownWithoutTheDevice(t *testing.T) {
	root := t.TempDir()
	if got := Reset(root); got != "" {
		t.Errorf("no watchdog says %q", got)
	}
	for name, status := range map[string]string{"watchdog0": "0\n", "watchdog1": "32\n"} {
		if err := os.Mkdir(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name, "bootstatus"), []byte(status), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := Reset(root); got != "watchdog" {
		t.Errorf("%q", got)
	}
}

func TestADeviceThatIsMissingOrNoDeviceIsNamed(t *testing.T) {
	if _, err := Open(t.TempDir()+"/watchdog", Options{}); err == nil || !strings.Contains(err.Error(), "device in [watchdog]") {
		t.Errorf("missing: %v", err)
	}
	name := t.TempDir() + "/file"
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(name, Options{}); err == nil || !strings.Contains(err.Error(), "no watchdog") {
		t.Errorf("a file: %v", err)
	}
}

func TestEachFeedOfALineIsAnEdge(t *testing.T) {
	pin := &gpiotest.Pin{N: "GPIO17"}
	l, err := NewLine(pin, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	was := pin.Read()
	for range 5 {
		if err := l.Feed(); err != nil {
			t.Fatal(err)
		}
		if now := pin.Read(); now == was {
			t.Fatal("no edge")
		} else {
			was = now
		}
	}
	if _, err := NewLine(pin, 0); err == nil {
		t.Error("no timeout was taken")
	}
	broken := &refusing{Pin: pin}
	if l, err = NewLine(broken, time.Second); err != nil {
		t.Fatal(err)
	}
	if err := l.Feed(); !errors.Is(err, errRefused) {
		t.Errorf("a line that is not there any more: %v", err)
	}
}

var errRefused = errors.New("refused")

type refusing struct{ *gpiotest.Pin }

func (*refusing) Out(gpio.Level) error { return errRefused }
