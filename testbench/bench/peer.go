package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"millrace/testbench/procfs"
)

const us = "millrace"

// options are what a row wants of a server beside its defaults.
type options struct {
	config  string // lines of Millrace's configuration file, or Apache Kafka's
	figures bool   // it tells its figures over HTTP
	tls     *pair  // its MQTT door is TLS with this certificate: of any peer
}

// peer is a kind of server that can be started.
type peer struct {
	name string
	// command prepares a run on dir, which is new to it when fresh is set.
	command func(s *server, fresh bool) (*exec.Cmd, error)
}

// server is a process, or the directory of one that was stopped. Its ports stay the same over restarts.
type server struct {
	bench       *bench
	peer        *peer
	dir         string
	kafka, mqtt string // addresses, whichever it has
	http        string // Millrace's figures, with options.figures; another door of Apache Kafka's, which says that it is at counted
	counted     string
	options     options
	cmd         *exec.Cmd
	exited      chan error
	used        bool
	shared      bool // other rows use it, too
}

// place is a directory and ports for a server that is not running yet; dir "" makes a new directory.
func (b *bench) place(p *peer, dir string, o options) (*server, error) {
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp(b.dir, p.name+"-"); err != nil {
			return nil, err
		}
	}
	ports, err := freePorts(4)
	if err != nil {
		return nil, err
	}
	return &server{bench: b, peer: p, dir: dir, kafka: ports[0], mqtt: ports[1], http: ports[2], counted: ports[3], options: o}, nil
}

// serve starts a server in a new directory and waits until it takes connections.
func (b *bench) serve(p *peer, o options) (*server, error) {
	s, err := b.place(p, "", o)
	if err != nil {
		return nil, err
	}
	if err := s.start(); err != nil {
		return nil, err
	}
	if err := s.await(); err != nil {
		return nil, errors.Join(err, s.end())
	}
	return s, nil
}

// serveShared is serve, but that there is one Apache Kafka for all rows: its start takes longer than most of them.
func (b *bench) serveShared(p *peer) (*server, error) {
	if p.name != "kafka" {
		return b.serve(p, options{})
	}
	if b.jvm != nil {
		return b.jvm, nil
	}
	s, err := b.serve(p, options{})
	if err == nil {
		s.shared, b.jvm = true, s
	}
	return s, err
}

// freePorts are addresses on loopback that were free a moment ago.
func freePorts(n int) ([]string, error) {
	var addresses []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		addresses = append(addresses, l.Addr().String())
	}
	return addresses, nil
}

// start starts the process; its output goes to a file beside its data.
func (s *server) start() error {
	cmd, err := s.peer.command(s, !s.used)
	if err != nil {
		return fmt.Errorf("start %s: %w", s.peer.name, err)
	}
	log, err := os.OpenFile(filepath.Join(s.dir, "output"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", s.peer.name, err)
	}
	s.cmd, s.used, s.exited = cmd, true, make(chan error, 1)
	go func() { s.exited <- cmd.Wait() }()
	return nil
}

func (s *server) pid() int { return s.cmd.Process.Pid }

// await waits until the server takes connections on a door it has.
func (s *server) await() error {
	address := s.mqtt
	if s.peer.name == "kafka" {
		address = s.kafka
	}
	return s.until(func() error {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// until tries again and again, for a minute at most, as long as the process lives.
func (s *server) until(try func() error) error {
	deadline := time.Now().Add(time.Minute)
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case exit := <-s.exited:
			s.exited <- exit
			return fmt.Errorf("%s ended: %w\n%s", s.peer.name, errors.Join(exit, err), s.output())
		case <-s.bench.ctx.Done():
			return s.bench.ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not serve: %w\n%s", s.peer.name, err, s.output())
		}
	}
}

// output is the end of what the process said.
func (s *server) output() string {
	f, err := os.Open(filepath.Join(s.dir, "output"))
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if end, err := f.Seek(0, io.SeekEnd); err == nil {
		if _, err := f.Seek(max(end-2000, 0), io.SeekStart); err != nil {
			return err.Error()
		}
	}
	said, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(said))
}

// kill ends the process with SIGKILL.
func (s *server) kill() error {
	if s.cmd == nil {
		return nil
	}
	if err := s.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-s.exited
	s.cmd = nil
	return nil
}

// end ends the process and removes its data.
func (s *server) end() error { return errors.Join(s.kill(), os.RemoveAll(s.dir)) }

// ends runs end, joining what goes wrong to *err: for defer. Shared servers go on.
func ends(servers []*server, err *error) {
	for _, s := range servers {
		if s.shared {
			continue
		}
		*err = errors.Join(*err, s.end())
	}
}

// cost is the CPU time the process spends while work runs.
func (s *server) cost(work func() error) (time.Duration, error) {
	before, err := procfs.PID(s.pid()).CPU()
	if err != nil {
		return 0, err
	}
	if err := work(); err != nil {
		return 0, err
	}
	after, err := procfs.PID(s.pid()).CPU()
	return after - before, err
}
