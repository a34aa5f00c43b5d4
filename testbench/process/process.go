// Package process runs the real millrace program for a test: built once, its doors on free ports of loopback, always
// reaped. What the kernel knows of it (memory, CPU time, wake-ups) is read from /proc.
package process

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"millrace/testbench/lane"
	"millrace/testbench/procfs"
)

// limit is how long a start or a stop may take before the test gives up. It only ends a hang on a loaded machine.
const limit = time.Minute

// program is what the tests of this package start, built for the first of them: what TestMain does is no part of a test,
// and go would serve results of tests of another program, see lane.Sources.
var program struct {
	sync.Mutex
	dir    string // of Main
	binary string // "" before it is built
}

// Main runs the tests of a package and removes the program they have built: call it from TestMain and exit with its
// result.
func Main(m *testing.M) int {
	dir, err := os.MkdirTemp("", "millrace")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	program.dir = dir
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// Process is one board: the same directory and addresses in every life. Its methods are for one goroutine, except those
// that read /proc.
type Process struct {
	// Kafka and MQTT are where its doors are, "host:port"; HTTP is empty unless StartHTTP was asked for it.
	Kafka, MQTT, HTTP string
	// Began is when the program was last started.
	Began time.Time

	t                 testing.TB
	binary, dir, file string
	cmd               *exec.Cmd
	exited            chan error
	errs              tail
}

// Start starts a board on an empty directory with the text of a configuration file, which may be empty, and returns
// when it is ready. It is stopped when the test ends, and must stop without complaint.
func Start(t testing.TB, configuration string) *Process {
	t.Helper()
	return start(t, Binary(t), filepath.Join(t.TempDir(), "data"), configuration, "")
}

// StartHTTP is Start with an HTTP door.
func StartHTTP(t testing.TB, configuration string) *Process {
	t.Helper()
	return start(t, Binary(t), filepath.Join(t.TempDir(), "data"), configuration, lane.FreeAddress(t))
}

// StartIn is Start, and takes the data directory.
func StartIn(t testing.TB, dir, configuration string) *Process {
	t.Helper()
	return start(t, Binary(t), dir, configuration, "")
}

// Run runs the program with other arguments, which must succeed, and returns what it prints.
func Run(t testing.TB, args ...string) string {
	t.Helper()
	var complaints bytes.Buffer
	cmd := exec.CommandContext(t.Context(), Binary(t), args...)
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%q: %v\n%s", args, err, complaints.Bytes())
	}
	return string(out)
}

// Binary is the program, for what Run does not do.
func Binary(t testing.TB) string {
	t.Helper()
	program.Lock()
	defer program.Unlock()
	if program.dir == "" {
		t.Fatal("a package that starts the program calls process.Main from its TestMain")
	}
	if program.binary == "" {
		binary := filepath.Join(program.dir, "millrace")
		lane.Build(t, binary)
		program.binary = binary
	}
	return program.binary
}

// StartChanged is Start of a program that is built with more arguments of `go build`, as with a file in another's place.
func StartChanged(t testing.TB, args ...string) *Process {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "millrace")
	lane.Build(t, binary, args...)
	return start(t, binary, filepath.Join(t.TempDir(), "data"), "", "")
}

func start(t testing.TB, binary, dir, configuration, http string) *Process {
	t.Helper()
	p := &Process{
		t: t, binary: binary, dir: dir, file: filepath.Join(t.TempDir(), "millrace.toml"),
		Kafka: lane.FreeAddress(t), MQTT: lane.FreeAddress(t), HTTP: http,
	}
	if err := os.WriteFile(p.file, []byte(configuration), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.cmd != nil {
			p.Stop()
		}
		if t.Failed() {
			t.Logf("what the process said last:\n%s", p.errs.String())
		}
	})
	p.Start()
	return p
}

// PID is the process as the kernel shows it: its memory, its CPU time.
func (p *Process) PID() procfs.PID { return procfs.PID(p.cmd.Process.Pid) }

// Start starts the process again after Kill or Stop, at the addresses it had.
func (p *Process) Start() {
	p.t.Helper()
	cmd := exec.Command(p.binary, "serve", "-o", "json", "--data", p.dir, "--config", p.file,
		"--kafka", p.Kafka, "--mqtt", p.MQTT, "--http", p.HTTP)
	cmd.Stderr = &p.errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	p.Began = time.Now()
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.cmd = cmd
	ready := make(chan []byte, 1)
	exited := make(chan error, 1)
	p.exited = exited
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			select {
			case ready <- append([]byte(nil), lines.Bytes()...):
			default:
			}
		}
		exited <- cmd.Wait()
	}()
	var first []byte
	select {
	case first = <-ready:
	case err := <-exited:
		p.cmd = nil
		p.t.Fatalf("the process ended before it was ready: %v: %s", err, p.errs.last())
	case <-time.After(limit):
		p.t.Fatalf("the process was not ready within %v", limit)
	}
	var at struct{ Kafka, MQTT, HTTP []string }
	if err := json.Unmarshal(first, &at); err != nil || len(at.Kafka) != 1 || len(at.MQTT) != 1 {
		p.t.Fatalf("the process began with %q (%v)", first, err)
	}
	if at.Kafka[0] != p.Kafka || at.MQTT[0] != p.MQTT || p.HTTP != "" && !slices.Equal(at.HTTP, []string{p.HTTP}) {
		p.t.Fatalf("the process was told to listen at %s, %s and %s, and began with %q", p.Kafka, p.MQTT, p.HTTP, first)
	}
}

// Kill ends the process as a crash would, and waits until it is gone.
func (p *Process) Kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("kill: %v", err)
	}
	err := <-p.exited
	p.cmd = nil
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Exited() {
		p.t.Errorf("the process ended by itself: %v", err)
	}
}

// Stop ends the process as a service manager does, and waits until it is gone. It must end in time and with status 0.
func (p *Process) Stop() {
	p.t.Helper()
	err := p.cmd.Process.Signal(syscall.SIGTERM)
	late := time.AfterFunc(limit, func() { _ = p.cmd.Process.Kill() }) // Wait says whether it was needed
	err = errors.Join(err, <-p.exited)
	late.Stop()
	p.cmd = nil
	if err != nil {
		p.t.Errorf("stop: %v", err)
	}
}

// tail keeps the end of what a process wrote to standard error.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailKept = 16 << 10

// Write never fails.
func (l *tail) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = append(l.buf, b...)
	l.buf = l.buf[max(0, len(l.buf)-tailKept):]
	return len(b), nil
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.buf)
}

// last is the last line.
func (l *tail) last() string {
	lines := strings.Split(strings.TrimSpace(l.String()), "\n")
	return lines[len(lines)-1]
}
