// Package python runs the Python scripts of the lanes in the environment of install.sh, which has the clients they drive.
package python

import (
	"os"
	"path/filepath"
	"testing"

	"millrace/testbench/client/drill"
	"millrace/testbench/lane"
)

// Need is the interpreter. Without the environment the test is skipped, or fails where lanes are required; `make test-deps`
// installs it.
func Need(t testing.TB) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "millrace-test", "python")
	return lane.Need(t, filepath.Join(dir, "bin", "python"), filepath.Join(dir, "complete"))[0]
}

// Program is a script in the folder of the test, which lies beside this package's: it finds talk.py.
func Program(t testing.TB, script string) drill.Program {
	t.Helper()
	modules, err := filepath.Abs(filepath.Join("..", "python"))
	if err != nil {
		t.Fatal(err)
	}
	python := Need(t)
	lane.Uses(t, script, filepath.Join(modules, "talk.py"))
	return drill.Program{Args: []string{python, script}, Env: []string{"PYTHONPATH=" + modules, "PYTHONDONTWRITEBYTECODE=1"}}
}
