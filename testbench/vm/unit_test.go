package vm

import (
	"os/exec"
	"path/filepath"
	"testing"

	"millrace/testbench/lane"
)

// exposureMax is how exposed systemd may find the service, in tenths on its scale from 0 to 10.
const exposureMax = "20"

func TestTheUnitIsSandboxed(t *testing.T) {
	analyze := lane.Need(t, "systemd-analyze")[0]
	unit := filepath.Join("..", "..", "platform", "systemd", "millrace.service")
	lane.Uses(t, unit)
	out, err := exec.Command(analyze, "security", "--no-pager", "--offline=true", "--threshold="+exposureMax, unit).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	// A threshold nobody can be above would pass anything.
	if err := exec.Command(analyze, "security", "--no-pager", "--offline=true", "--threshold=5", unit).Run(); err == nil {
		t.Error("systemd-analyze finds no fault with a network service")
	}
}
