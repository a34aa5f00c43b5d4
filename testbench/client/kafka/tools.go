package kafka

import (
	"bytes"
	_ "embed"
	"encoding/binary"
	"fmt"
	"io"
	"os/exec"
	"testing"
	"time"
)

//go:embed Tools.java
var toolsJava string

// toolTime is how long one tool may take.
const toolTime = 90 * time.Second

// Tools is a Java machine that runs Apache Kafka's tools one after the other: to start one for each takes a second or
// two. What reads until it is stopped from outside is not for it.
type Tools struct {
	t          testing.TB
	cmd        *exec.Cmd
	in         io.WriteCloser
	out        io.ReadCloser
	complaints bytes.Buffer // of the machine itself
}

// OpenTools starts the machine. It ends with the test.
func OpenTools(t testing.TB) *Tools {
	t.Helper()
	s := &Tools{t: t, cmd: Program(t, "Tools.java", toolsJava)}
	s.cmd.Stderr = &s.complaints
	var err error
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if s.out, err = s.cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.in.Close() // it ends with its input
		_ = s.cmd.Wait() // killed with the test's context at the latest
	})
	return s
}

// Run runs a tool's main class, which reads input, and returns what it printed, with what it complained of, and its exit
// code.
func (s *Tools) Run(input, class string, args ...string) (out, complaints string, code int) {
	s.t.Helper()
	late := time.AfterFunc(toolTime, func() { _ = s.cmd.Process.Kill() })
	defer late.Stop()
	words := append([]string{class}, args...)
	req := binary.BigEndian.AppendUint32(nil, uint32(len(words)))
	for _, w := range append(words, input) {
		req = append(binary.BigEndian.AppendUint32(req, uint32(len(w))), w...)
	}
	_, err := s.in.Write(req)
	if err == nil {
		code, out, complaints, err = s.answer()
	}
	if err != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		s.t.Fatalf("%s %v: no answer in %v: %v\n%s", class, args, toolTime, err, s.complaints.Bytes())
	}
	return out, complaints, code
}

func (s *Tools) answer() (code int, out, complaints string, err error) {
	var head int32
	if err := binary.Read(s.out, binary.BigEndian, &head); err != nil {
		return 0, "", "", fmt.Errorf("the Java machine ended: %w", err)
	}
	var texts [2][]byte
	for i := range texts {
		var n uint32
		if err := binary.Read(s.out, binary.BigEndian, &n); err != nil {
			return 0, "", "", err
		}
		if texts[i], err = io.ReadAll(io.LimitReader(s.out, int64(n))); err != nil {
			return 0, "", "", err
		}
	}
	return int(head), string(texts[0]), string(texts[1]), nil
}
