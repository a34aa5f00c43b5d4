package procfs

import (
	"os"
	"testing"
)

func TestAProcessCanBeSeenFromOutside(t *testing.T) {
	self := PID(os.Getpid())
	if n, err := self.RSS(); err != nil || n < 1<<20 {
		t.Errorf("RSS %d bytes, %v", n, err)
	}
	if n, err := self.Anonymous(); err != nil || n < 1<<18 {
		t.Errorf("%d bytes of its own, %v", n, err)
	}
	if n, err := self.Switches(); err != nil || len(n) < 2 || n[os.Getpid()] < 1 {
		t.Errorf("switches %v, %v", n, err)
	}
	if d, err := self.CPU(); err != nil || d < 0 {
		t.Errorf("CPU %v, %v", d, err)
	}
	if _, err := field("/proc/self/status", "NoSuchField"); err == nil {
		t.Error("a field that is not there was read")
	}
}
