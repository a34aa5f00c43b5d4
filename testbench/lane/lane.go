// Package lane says which tests may be skipped where a foreign tool is missing, and where they may not.
//
// A test that needs kcat, mosquitto, Java, FUSE or an emulator begins with
//
//	lane.Need(t, "kcat", "/dev/fuse")
//
// On a developer's machine that has only Go and make, such a test skips loudly and names the command that installs
// what is missing (`make test-deps`). Under CI=true or MILLRACE_LANES=require it fails instead: a green run there
// means that every lane ran.
package lane

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Need skips the test, or fails it where lanes are required, unless every need is met. A need is the name of a program
// looked up in PATH, or an absolute path that must exist ("/dev/fuse"). It returns the path of each, in order.
func Need(t testing.TB, needs ...string) []string {
	t.Helper()
	found, missing := look(needs)
	switch {
	case len(missing) == 0:
		return found
	case Required():
		t.Fatalf("this lane needs %s, and here every lane must run: make test-deps", strings.Join(missing, ", "))
	default:
		t.Skipf("LANE SKIPPED: no %s here; to run it: make test-deps", strings.Join(missing, ", "))
	}
	return nil
}

// Required reports whether a missing tool is a failure: CI=true or MILLRACE_LANES=require.
func Required() bool {
	return os.Getenv("CI") == "true" || os.Getenv("MILLRACE_LANES") == "require"
}

func look(needs []string) (found, missing []string) {
	for _, need := range needs {
		path, err := need, error(nil)
		if filepath.IsAbs(need) {
			_, err = os.Stat(need)
		} else {
			path, err = exec.LookPath(need)
		}
		if err != nil {
			missing = append(missing, need)
			continue
		}
		found = append(found, path)
	}
	return found, missing
}

// Count is the number in an environment variable, otherwise where there is none: how much of a proof is tried. make test
// and make test-long say it by such variables, because not every package has the flag.
func Count(variable string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(variable)); err == nil {
		return n
	}
	return otherwise
}
