package drill

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
)

// Program is a Client that is not in Go: it is started with one line of JSON on its standard input, a plan, and prints a line
// of JSON for each thing that comes of it, a Record it has read or {"error": TEXT}.
//
// With {"do": "produce", "door", "batches"} it ends when it is done. With {"do": "join", "door", "member"} it is a member
// until its standard input ends; then it leaves. Before it commits what it has printed, it prints {"commit": true} and waits
// for an empty line: pipes of several members are read side by side, and what one has read before it gave a partition away
// must be known before another reads on.
type Program struct {
	Args []string
	Env  []string
}

// lineMax is how long a line of a program may be: base64 of the largest record and some.
const lineMax = 4 << 20

// said is a line of a program.
type said struct {
	Error  string `json:"error"`
	Commit bool   `json:"commit"`
	Record
}

// running is a program at work.
type running struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	asked  atomic.Bool // to end
	ended  chan struct{}
	err    error // when ended is closed
	stderr bytes.Buffer
}

// start runs the program; early is called when it ends before it was asked to, nil where it may.
func (p Program) start(t testing.TB, plan any, tell func(Record), early func(error)) (*running, error) {
	t.Helper()
	raw, err := json.Marshal(plan)
	if err != nil {
		return nil, err
	}
	r := &running{cmd: exec.CommandContext(t.Context(), p.Args[0], p.Args[1:]...), ended: make(chan struct{})}
	r.cmd.Env = append(os.Environ(), p.Env...)
	r.cmd.Stderr = &r.stderr
	in, err := r.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	r.stdin = in
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(r.ended)
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, lineMax)
		var told []error
		for lines.Scan() {
			var line said
			switch err := json.Unmarshal(lines.Bytes(), &line); {
			case err != nil:
				told = append(told, fmt.Errorf("%.200q: %w", lines.Bytes(), err))
			case line.Error != "":
				told = append(told, errors.New(line.Error))
			case line.Commit:
				_, _ = r.stdin.Write([]byte("\n")) // one that is told to leave does not wait for it
			default:
				tell(line.Record)
			}
		}
		r.err = errors.Join(errors.Join(told...), lines.Err(), r.cmd.Wait())
		if early != nil && !r.asked.Load() && t.Context().Err() == nil {
			early(r.err)
		}
	}()
	t.Cleanup(func() {
		<-r.ended // the test's context has ended
		if t.Failed() && r.stderr.Len() > 0 {
			t.Logf("the client's log:\n%.8000s", r.stderr.Bytes())
		}
	})
	if _, err := in.Write(append(raw, '\n')); err != nil {
		return nil, errors.Join(err, r.end())
	}
	return r, nil
}

// end closes the program's input and waits until it is gone.
func (r *running) end() error {
	var err error
	if !r.asked.Swap(true) {
		err = r.stdin.Close()
	}
	<-r.ended
	return errors.Join(err, r.err)
}

// Produce runs the program.
func (p Program) Produce(t testing.TB, door Door, batches []Batch) error {
	t.Helper()
	r, err := p.start(t, map[string]any{"do": "produce", "door": door, "batches": batches}, func(r Record) {
		t.Errorf("a producer has read %+v", r)
	}, nil)
	if err != nil {
		return err
	}
	<-r.ended
	return r.err
}

// Join runs the program until leave.
func (p Program) Join(t testing.TB, door Door, m Member, tell func(Record)) (leave func() error) {
	t.Helper()
	r, err := p.start(t, map[string]any{"do": "join", "door": door, "member": m}, tell, func(err error) {
		t.Errorf("%s ended by itself: %v", m.Name, err)
	})
	if err != nil {
		t.Fatal(err)
	}
	return r.end
}
