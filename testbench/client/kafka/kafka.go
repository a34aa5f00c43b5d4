// Package kafka runs programs of Apache Kafka in tests: the jars install.sh fetched, with the Java that is installed.
package kafka

import (
	_ "embed"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"millrace/testbench/lane"
)

// pom is what install.sh fetches; it leaves a copy beside the jars.
//
//go:embed pom.xml
var pom string

// Dir is where install.sh is told to put the jars: millrace-test/kafka in the user's cache directory.
func Dir() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "millrace-test", "kafka"), nil
}

// Jars is the Java class path of Apache Kafka with its tools. Without Java or the jars the test is skipped, or fails
// where lanes are required; `make test-deps` fetches them.
func Jars(t testing.TB) string {
	t.Helper()
	dir, err := Dir()
	if err != nil {
		t.Fatal(err)
	}
	complete := filepath.Join(dir, "complete")
	if fetched, err := os.ReadFile(complete); err == nil && string(fetched) != pom {
		complete += " for this pom.xml" // jars of another time
	}
	lane.Need(t, "java", complete)
	return filepath.Join(dir, "*")
}

// Command prepares a run of a main class with a small heap. It is killed when the test's time is over.
func Command(t testing.TB, class string, args ...string) *exec.Cmd {
	t.Helper()
	java := []string{"-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", Jars(t), class}
	return exec.CommandContext(t.Context(), "java", append(java, args...)...)
}

// Program prepares a run of a program that is one file of Java: its name and its text. Java compiles it first.
func Program(t testing.TB, name, text string, args ...string) *exec.Cmd {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Command(t, file, args...)
}

// End ends a program with a signal. One that is there after ten seconds is killed: now and then Connect waits for itself,
// because its own end and that of its HTTP server are two hooks that the machine runs at once.
func End(t testing.TB, cmd *exec.Cmd, signal os.Signal) {
	t.Helper()
	if cmd.ProcessState != nil {
		return
	}
	if err := cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	late := time.AfterFunc(10*time.Second, func() {
		t.Logf("%s does not end", filepath.Base(cmd.Path))
		_ = cmd.Process.Kill()
	})
	_ = cmd.Wait() // says with which signal
	late.Stop()
}
