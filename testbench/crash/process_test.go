package crash

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/testbench/lane"
)

// startLimit is how long a start may take before the test gives up. Starts are benchmarked elsewhere; this only ends a
// hang on a loaded machine.
const startLimit = time.Minute

// process is one board: the same directory and addresses in every life.
type process struct {
	t           *testing.T
	binary, dir string
	kafka, mqtt string
	cmd         *exec.Cmd
	exited      chan error
	errs        *logs
}

// newProcess builds the binary, with these arguments too, and picks the addresses.
func newProcess(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{t: t, binary: filepath.Join(t.TempDir(), "millrace"), dir: filepath.Join(t.TempDir(), "data"), errs: &logs{}}
	build := exec.Command("go", append(append([]string{"build", "-o", p.binary}, args...), "millrace/platform/cmd/millrace")...)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	p.kafka, p.mqtt = lane.FreeAddress(t), lane.FreeAddress(t)
	t.Cleanup(func() {
		if p.cmd != nil {
			p.kill()
		}
		if t.Failed() {
			t.Logf("what the process said last:\n%s", p.errs)
		}
	})
	return p
}

// start starts the process and returns when it says that it is ready.
func (p *process) start() {
	p.t.Helper()
	p.cmd = exec.Command(p.binary, "serve", "--data", p.dir, "--kafka", p.kafka, "--mqtt", p.mqtt, "--http", "")
	p.cmd.Stderr = p.errs
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	ready := make(chan string, 1)
	p.exited = make(chan error, 1)
	go func(cmd *exec.Cmd, exited chan<- error) {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			select {
			case ready <- lines.Text():
			default:
			}
		}
		exited <- cmd.Wait()
	}(p.cmd, p.exited)
	limit := time.NewTimer(startLimit)
	defer limit.Stop()
	select {
	case line := <-ready:
		if !strings.Contains(line, "ready") {
			p.t.Fatalf("the process began with %q", line)
		}
	case err := <-p.exited:
		p.cmd = nil
		p.t.Fatalf("the process ended before it was ready: %v: %s", err, p.errs.last())
	case <-limit.C:
		p.t.Fatalf("the process was not ready within %v", startLimit)
	}
}

// kill ends the process as a crash would, and waits until it is gone.
func (p *process) kill() {
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

// logs keeps the end of what a process wrote to standard error.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const logsKept = 16 << 10

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Write(b)
	if extra := l.buf.Len() - logsKept; extra > 0 {
		l.buf.Next(extra)
	}
	return len(b), nil
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// last is the last line.
func (l *logs) last() string {
	lines := strings.Split(strings.TrimSpace(l.String()), "\n")
	return lines[len(lines)-1]
}

// payload is the content of the n-th record of a producer: a line that names it and bytes that follow from the seed, so
// that a record is known by its content and every byte of it can be checked. A few are large enough to pass the journal
// by (64 KiB and more).
func payload(seed uint64, producer string, n int) []byte {
	head := fmt.Sprintf("%s %d ", producer, n)
	mix := seed ^ uint64(n+1)*0x9E3779B97F4A7C15
	for _, c := range producer {
		mix = (mix ^ uint64(c)) * 0x100000001B3
	}
	size := len(head) + int(mix>>8%900)
	if mix%97 == 0 {
		size = 64<<10 + int(mix>>8%(64<<10))
	}
	b := make([]byte, 0, size+8)
	b = append(b, head...)
	for len(b) < size {
		mix ^= mix << 13
		mix ^= mix >> 7
		mix ^= mix << 17
		b = append(b, byte(mix), byte(mix>>8), byte(mix>>16), byte(mix>>24))
	}
	return b
}

// parse reads the line a payload begins with.
func parse(b []byte) (producer string, n int, err error) {
	_, err = fmt.Sscanf(string(b[:min(len(b), 64)]), "%s %d ", &producer, &n)
	return producer, n, err
}
