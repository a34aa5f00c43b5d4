package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/rogpeppe/go-internal/testscript"
)

// board is a broker that a script runs in the background.
type board struct {
	cmd  *exec.Cmd
	log  *bufio.Reader
	file *os.File
	said strings.Builder // what was read of the log
}

func (b *board) end() error {
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	_, err := b.log.WriteTo(&b.said)
	return errors.Join(err, b.cmd.Wait(), b.file.Close())
}

var boards = map[*testscript.TestScript]*board{}

// serveInBackground runs `millrace serve` with the arguments on free ports and sets $kafka and $mqtt from its ready line.
func serveInBackground(ts *testscript.TestScript, _ bool, args []string) {
	args = append([]string{"serve", "-o", "json", "--kafka", "127.0.0.1:0", "--mqtt", "127.0.0.1:0", "--http", ""}, args...)
	cmd := exec.Command(program(ts), args...)
	cmd.Dir = ts.Getenv("WORK")
	cmd.Env = append(os.Environ(), "PATH="+ts.Getenv("PATH"))
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	// The log goes through a pipe of the test's own, so that hup can wait for a line of it.
	read, write, err := os.Pipe()
	ts.Check(err)
	cmd.Stderr = write
	ts.Check(cmd.Start())
	ts.Check(write.Close())
	b := &board{cmd: cmd, log: bufio.NewReader(read), file: read}
	var ready struct{ Kafka, MQTT []string }
	if err := json.NewDecoder(out).Decode(&ready); err != nil {
		rest, _ := b.log.ReadString(0)
		ts.Fatalf("no ready line: %v\n%s", errors.Join(err, cmd.Wait()), rest)
	}
	boards[ts] = b
	ts.Setenv("kafka", ready.Kafka[0])
	ts.Setenv("mqtt", ready.MQTT[0])
	ts.Defer(func() {
		if boards[ts] == b {
			ts.Check(b.end())
		}
	})
}

// halt stops the broker with SIGTERM, which must be a clean end, and wants none of the texts in all that it logged.
func halt(ts *testscript.TestScript, _ bool, secrets []string) {
	b := boards[ts]
	delete(boards, ts)
	ts.Check(b.end())
	for _, secret := range secrets {
		if said := b.said.String(); strings.Contains(said, secret) || !strings.Contains(said, `"msg":`) {
			ts.Fatalf("%q is in the log, or there is none:\n%s", secret, said)
		}
	}
}

// secret waits for the secret of the first admin and writes a client's properties with it.
func secret(ts *testscript.TestScript, _ bool, args []string) {
	b := boards[ts]
	var shown struct{ User, Secret, Shown string }
	for shown.Shown != "once" {
		line, err := b.log.ReadString('\n')
		ts.Check(err)
		b.said.WriteString(line)
		ts.Check(json.Unmarshal([]byte(line), &shown))
	}
	ts.Setenv("secret", shown.Secret)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), fmt.Appendf(nil, "security.protocol=%s\nsasl.mechanism=SCRAM-SHA-512\n"+
		"sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username=\"%s\" password=\"%s\";\n", args[1], shown.User, shown.Secret), 0o600))
}

// fingerprint sets a variable to that of the certificate in a data directory.
func fingerprint(ts *testscript.TestScript, _ bool, args []string) {
	cmd := exec.Command(program(ts), "cert", "show", "-o", "json", "--data", args[1])
	cmd.Dir = ts.Getenv("WORK")
	out, err := cmd.Output()
	ts.Check(err)
	var said struct{ SHA256 string }
	ts.Check(json.Unmarshal(out, &said))
	ts.Setenv(args[0], said.SHA256)
}

const nobody = 65534

// nobodys gives a directory and all below it to a user who is nobody, where root runs the test.
func nobodys(ts *testscript.TestScript, _ bool, args []string) {
	if os.Geteuid() == 0 {
		ts.Check(filepath.WalkDir(ts.MkAbs(args[0]), func(name string, _ fs.DirEntry, err error) error {
			return errors.Join(err, os.Chown(name, nobody, nobody))
		}))
	}
}

// ownedBy wants all below a directory to be of the user whose it is.
func ownedBy(ts *testscript.TestScript, _ bool, args []string) {
	want := os.Geteuid()
	if want == 0 {
		want = nobody
	}
	ts.Check(filepath.WalkDir(ts.MkAbs(args[0]), func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Sys().(*syscall.Stat_t).Uid != uint32(want) {
			err = fmt.Errorf("%s is of user %d, not %d", name, info.Sys().(*syscall.Stat_t).Uid, want)
		}
		return err
	}))
}

// logged waits until the broker has logged the text.
func logged(ts *testscript.TestScript, _ bool, args []string) {
	b := boards[ts]
	for {
		line, err := b.log.ReadString('\n')
		ts.Check(err)
		b.said.WriteString(line)
		if strings.Contains(line, args[0]) {
			return
		}
	}
}

// hup makes the broker read its configuration again and wants the text in its log.
func hup(ts *testscript.TestScript, _ bool, args []string) {
	b := boards[ts]
	ts.Check(b.cmd.Process.Signal(syscall.SIGHUP))
	var all strings.Builder
	for {
		line, err := b.log.ReadString('\n')
		ts.Check(err)
		all.WriteString(line)
		b.said.WriteString(line)
		if strings.Contains(line, `"configuration`) { // the last line of a reload
			if !strings.Contains(all.String(), args[0]) {
				ts.Fatalf("want %q in: %s", args[0], all.String())
			}
			return
		}
	}
}

// pasted runs `millrace serve --sim` as `make run` does, and in a shell the line it prints under a name, as it stands: paste
// consume. It wants a line of output, or for publish none and a good end. Where the rest of the words are "without
// mosquitto" there is no other program to be found.
func pasted(ts *testscript.TestScript, _ bool, args []string) {
	env := append(os.Environ(), "PATH="+ts.Getenv("PATH"))
	if len(args) > 1 {
		env = append(env, "PATH="+filepath.Dir(program(ts)))
	}
	serve := exec.Command(program(ts), "serve", "--sim", "--data", "pasted", "--kafka", "127.0.0.1:0", "--mqtt", "127.0.0.1:0", "--http", "")
	serve.Dir, serve.Env = ts.Getenv("WORK"), env
	out, err := serve.StdoutPipe()
	ts.Check(err)
	ts.Check(serve.Start())
	defer func() {
		ts.Check(serve.Process.Signal(syscall.SIGTERM))
		ts.Check(serve.Wait())
	}()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		line, ok := strings.CutPrefix(lines.Text(), args[0]+":")
		if !ok {
			continue
		}
		shell := exec.Command("/bin/sh", "-c", "exec "+line)
		if args[0] == "publish" {
			shell = exec.Command("/bin/sh", "-c", line)
		}
		shell.Dir, shell.Env = serve.Dir, env
		if args[0] == "publish" {
			text, err := shell.CombinedOutput()
			ts.Logf("%s\n%s", line, text)
			ts.Check(err)
			return
		}
		var wrong strings.Builder
		shell.Stderr = &wrong
		pipe, err := shell.StdoutPipe()
		ts.Check(err)
		ts.Check(shell.Start())
		got, err := bufio.NewReader(pipe).ReadString('\n')
		if err != nil {
			ts.Fatalf("%s: %v, %v\n%s", line, err, shell.Wait(), wrong.String())
		}
		ts.Logf("%s\n%s", line, got)
		ts.Check(shell.Process.Signal(syscall.SIGINT))
		ts.Check(shell.Wait()) // being interrupted is its clean end
		return
	}
	ts.Fatalf("no line %s", args[0])
}

// status runs the rest of the line and wants the exit code: status 2 serve --kafka nonsense.
func status(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(program(ts), args[1:]...)
	have := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		have = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if have != want {
		ts.Fatalf("exit code %d, want %d", have, want)
	}
}

func program(ts *testscript.TestScript) string {
	dir, _, _ := strings.Cut(ts.Getenv("PATH"), string(filepath.ListSeparator))
	return filepath.Join(dir, "millrace")
}
