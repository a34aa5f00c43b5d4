package kafka

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"millrace/testbench/lane"
	"millrace/testbench/procfs"
)

// server is a Java machine that runs until it is ended, and may be started again. It knows no test, so that several may
// share it. Its methods are for one goroutine, except those that only look.
type server struct {
	name   string
	java   []string // its command
	output string   // the file that its output is added to
	cmd    *exec.Cmd
	exited chan error
}

// serverCommand is Java with the heap of a small machine, for a program that logs what it warns of.
func serverCommand(jars, heap string, args ...string) []string {
	java := []string{
		"java", "-Xmx" + heap, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true",
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true",
		"-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
		"-cp", filepath.Join(filepath.Dir(jars), "log", "*") + ":" + jars,
	}
	if file := archiveOf(jars); exists(file) {
		java = append(java, "-XX:SharedArchiveFile="+file)
	}
	return append(java, args...)
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

func (s *server) start() error {
	if s.cmd != nil {
		return fmt.Errorf("%s runs already", s.name)
	}
	log, err := os.OpenFile(s.output, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(s.java[0], s.java[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // of a test that is killed nothing stays
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	exited := make(chan error, 1)
	s.cmd, s.exited = cmd, exited
	go func() { exited <- cmd.Wait() }()
	return nil
}

// alive is an error when the process does not run.
func (s *server) alive() error {
	if s.cmd == nil {
		return fmt.Errorf("%s was ended", s.name)
	}
	select {
	case err := <-s.exited:
		s.exited <- err
		return fmt.Errorf("%s has ended: %v\n%s", s.name, err, s.tail())
	default:
		return nil
	}
}

// end ends the process by a signal, and waits until it is gone. One that does not end is killed, which is an error.
func (s *server) end(signal os.Signal) error {
	if s.cmd == nil {
		return nil
	}
	err := s.cmd.Process.Signal(signal)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	select {
	case <-s.exited: // says with which signal
	case <-time.After(lane.Patience):
		err = errors.Join(err, fmt.Errorf("%s does not end\n%s", s.name, s.tail()), s.cmd.Process.Kill())
		<-s.exited
	}
	s.cmd = nil
	return err
}

// tail is the end of what the process has said.
func (s *server) tail() []byte {
	const kept = 8 << 10
	f, err := os.Open(s.output)
	if err != nil {
		return []byte(err.Error())
	}
	defer f.Close()
	if end, err := f.Seek(0, io.SeekEnd); err == nil {
		_, err = f.Seek(max(end-kept, 0), io.SeekStart)
		if err != nil {
			return []byte(err.Error())
		}
	}
	raw, err := io.ReadAll(f)
	if err != nil {
		return []byte(err.Error())
	}
	return bytes.TrimSpace(raw)
}

// Node is one of a cluster: the same directory and addresses in every life.
type Node struct {
	*server
	// ID is its number, from 1.
	ID int
	// Direct is where it listens for whoever is to reach it whatever happens, without a password; Address is what clients are
	// told: "host:port".
	Direct, Address string

	cluster *Cluster
}

// PID is the process as the kernel shows it: its memory, its CPU time. It must run.
func (n *Node) PID() procfs.PID { return procfs.PID(n.cmd.Process.Pid) }

// Start starts the node again after Kill or Stop, and returns when the cluster serves.
func (n *Node) Start(t testing.TB) {
	t.Helper()
	if err := n.start(); err != nil {
		t.Fatal(err)
	}
	n.cluster.Await(t)
}

// Kill ends the node as a crash would.
func (n *Node) Kill(t testing.TB) {
	t.Helper()
	if err := n.end(os.Kill); err != nil {
		t.Fatal(err)
	}
}

// Stop ends the node as its operator does: it gives its partitions away first.
func (n *Node) Stop(t testing.TB) {
	t.Helper()
	if err := n.end(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}
