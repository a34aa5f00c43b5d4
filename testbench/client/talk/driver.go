package talk

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Driver is a program that makes connections with a library of its language and does with them what it is told: a request is
// a line of JSON on its standard input, an answer or an event a line on its standard output.
type Driver struct {
	in io.WriteCloser

	mu      sync.Mutex // guards what follows, and writes
	next    int
	waiting map[int]chan reply
	conns   map[string]*driven
	stray   []string      // lines that are no reply
	ended   chan struct{} // closed when it has
	err     error         // how, before ended is closed
	errs    bytes.Buffer
}

// request is about the connection Conn: Do is connect, publish, hold, go or one of the hows of Conn.End.
type request struct {
	ID       int
	Conn     string
	Do       string
	Connect  *Connect `json:",omitempty"`
	Message  *Message `json:",omitempty"`
	Payloads []string `json:",omitempty"`
}

// reply is an answer to the request ID, or, without one, what happened to the connection Conn.
type reply struct {
	ID      int
	Answers []Answer
	Error   string

	Conn    string
	Message *Message
	Closed  *Answer
}

// Drive starts a program. It ends with the test.
func Drive(t *testing.T, args, env []string) *Driver {
	t.Helper()
	d := &Driver{waiting: map[int]chan reply{}, conns: map[string]*driven{}, ended: make(chan struct{})}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = &d.errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if d.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 4<<20)
		for lines.Scan() {
			d.take(lines.Bytes())
		}
		d.err = cmd.Wait()
		close(d.ended)
	}()
	t.Cleanup(func() {
		_ = d.in.Close() // the program ends with its input; when it has ended before, that is known below
		select {
		case <-d.ended:
		case <-time.After(patience):
			_ = cmd.Process.Kill() // as above
			<-d.ended
		}
		if d.err != nil || len(d.stray) > 0 {
			t.Errorf("%q: %v; among its answers are %q", args, d.err, d.stray)
		}
		if d.errs.Len() > 0 && (t.Failed() || d.err != nil) {
			t.Logf("%q says\n%s", args, &d.errs)
		}
	})
	return d
}

func (d *Driver) take(line []byte) {
	var r reply
	err := json.Unmarshal(line, &r)
	d.mu.Lock()
	if err != nil {
		d.stray = append(d.stray, string(line))
	}
	waiting, c := d.waiting[r.ID], d.conns[r.Conn]
	delete(d.waiting, r.ID)
	d.mu.Unlock()
	switch {
	case waiting != nil:
		waiting <- r
	case c != nil && r.Message != nil:
		c.messages <- *r.Message
	case c != nil && r.Closed != nil:
		select {
		case c.closed <- *r.Closed:
		default: // it was said before
		}
	}
}

func (d *Driver) ask(t *testing.T, r request) []Answer {
	t.Helper()
	answer := make(chan reply, 1)
	d.mu.Lock()
	d.next++
	r.ID = d.next
	d.waiting[r.ID] = answer
	line, err := json.Marshal(r)
	if err == nil {
		_, err = d.in.Write(append(line, '\n'))
	}
	d.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-answer:
		if got.Error != "" {
			t.Fatalf("%s: %s", r.Do, got.Error)
		}
		return got.Answers
	case <-d.ended:
		t.Fatalf("%s: the program has ended: %v", r.Do, d.err)
	case <-time.After(patience):
		t.Fatalf("%s: no answer in %v", r.Do, patience)
	}
	return nil
}

// Dial is Client.Dial.
func (d *Driver) Dial(t *testing.T, c Connect) (Conn, Answer) {
	t.Helper()
	d.mu.Lock()
	d.next++
	conn := &driven{t: t, d: d, name: strconv.Itoa(d.next), messages: make(chan Message, 10_000), closed: make(chan Answer, 1)}
	d.conns[conn.name] = conn
	d.mu.Unlock()
	answer := d.ask(t, request{Conn: conn.name, Do: "connect", Connect: &c})[0]
	if answer.Code != 0 {
		return nil, answer
	}
	return conn, answer
}

// driven is a connection of a Driver's.
type driven struct {
	t        *testing.T
	d        *Driver
	name     string
	messages chan Message
	closed   chan Answer
}

func (c *driven) Publish(m Message, payloads []string) []Answer {
	c.t.Helper()
	return c.d.ask(c.t, request{Conn: c.name, Do: "publish", Message: &m, Payloads: payloads})
}

func (c *driven) Hold(on bool) {
	c.t.Helper()
	do := "go"
	if on {
		do = "hold"
	}
	c.d.ask(c.t, request{Conn: c.name, Do: do})
}

func (c *driven) End(how string) {
	c.t.Helper()
	c.d.ask(c.t, request{Conn: c.name, Do: how})
}

func (c *driven) Messages() <-chan Message { return c.messages }

func (c *driven) Closed() <-chan Answer { return c.closed }
