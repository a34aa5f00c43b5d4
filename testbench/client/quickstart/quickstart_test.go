// Package quickstart goes through the getting-started page of Apache Kafka line by line, with the class that each script of
// the page starts, in a Java machine of its own. Where the page starts Apache Kafka, Millrace is started.
package quickstart

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/testbench/client/kafka"
	"millrace/testbench/lane"
	"millrace/testbench/process"
)

func TestMain(m *testing.M) { os.Exit(process.Main(m)) }

// The scripts of the page, by their classes.
const (
	topics     = "org.apache.kafka.tools.TopicCommand"
	producer   = "org.apache.kafka.tools.ConsoleProducer"
	consumer   = "org.apache.kafka.tools.consumer.ConsoleConsumer"
	standalone = "org.apache.kafka.connect.cli.ConnectStandalone"
)

// script runs one to its end, with success, and returns what it prints.
func script(t *testing.T, input, class string, args ...string) string {
	t.Helper()
	var complaints bytes.Buffer
	cmd := kafka.Command(t, class, args...)
	cmd.Stdin, cmd.Stderr = strings.NewReader(input), &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("%s %v: %v\n%s%s", class, args, err, out, complaints.Bytes())
	}
	return string(out)
}

// prints is script, and wants a text that matches.
func prints(t *testing.T, want, class string, args ...string) {
	t.Helper()
	if out := script(t, "", class, args...); !regexp.MustCompile(want).MatchString(out) {
		t.Errorf("%s %v does not match %q:\n%s", class, args, want, out)
	}
}

// console is a console consumer that reads until Ctrl-C.
type console struct {
	t          *testing.T
	cmd        *exec.Cmd
	lines      *bufio.Scanner
	complaints bytes.Buffer
}

func consume(t *testing.T, args ...string) *console {
	t.Helper()
	c := &console{t: t, cmd: kafka.Command(t, consumer, args...)}
	c.cmd.Stderr = &c.complaints
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.lines = bufio.NewScanner(out)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

// reads wants the next lines the consumer prints.
func (c *console) reads(want ...string) {
	c.t.Helper()
	late := time.AfterFunc(lane.Patience, func() { _ = c.cmd.Process.Kill() })
	defer late.Stop()
	for _, line := range want {
		if !c.lines.Scan() {
			_ = c.cmd.Wait()
			c.t.Fatalf("a consumer ended before %q: %v\n%s", line, c.lines.Err(), c.complaints.Bytes())
		}
		if got := c.lines.Text(); got != line {
			c.t.Errorf("a consumer reads %q, want %q", got, line)
		}
	}
}

// interrupt is Ctrl-C: the consumer says how many it read, and that is all it read.
func (c *console) interrupt(n int) {
	c.t.Helper()
	if err := c.cmd.Process.Signal(os.Interrupt); err != nil {
		c.t.Fatal(err)
	}
	var rest []string
	for c.lines.Scan() {
		rest = append(rest, c.lines.Text())
	}
	_ = c.cmd.Wait() // Java says 130 of an interrupt
	total := fmt.Sprintf("Processed a total of %d messages", n)
	if at := slices.Index(rest, total); at >= 0 { // on either output
		rest = slices.Delete(rest, at, at+1)
	} else if !strings.Contains(c.complaints.String(), total) {
		c.t.Errorf("a consumer does not say %q", total)
	}
	if len(rest) > 0 {
		c.t.Errorf("a consumer read more: %q", rest)
	}
}

func TestGettingStarted(t *testing.T) {
	kafka.Jars(t)
	dir := filepath.Join(t.TempDir(), "data")
	id := strings.TrimSpace(process.Run(t, "random-uuid"))
	if out := process.Run(t, "format", "-t", id, dir); !strings.Contains(out, "cluster "+id) {
		t.Errorf("format says %q", out)
	}
	at := process.StartIn(t, dir, "").Kafka

	const topic = "quickstart-events"
	prints(t, `(?m)^Created topic quickstart-events\.$`, topics, "--create", "--topic", topic, "--bootstrap-server", at)
	prints(t, `^Topic: quickstart-events\s+TopicId: [\w-]{22}\s+PartitionCount: 1\s+ReplicationFactor: 1\s.*\n\s+Topic: quickstart-events\s+Partition: 0\s+Leader: 1\s+Replicas: 1\s+Isr: 1`,
		topics, "--describe", "--topic", topic, "--bootstrap-server", at)
	prints(t, `(?m)^quickstart-events$`, topics, "--list", "--bootstrap-server", at)
	script(t, "This is my first event\nThis is my second event\n", producer, "--topic", topic, "--bootstrap-server", at)
	one := consume(t, "--topic", topic, "--from-beginning", "--bootstrap-server", at)
	two := consume(t, "--topic", topic, "--from-beginning", "--bootstrap-server", at)
	one.reads("This is my first event", "This is my second event")
	two.reads("This is my first event", "This is my second event")
	// Both go on: what is written now is read at once.
	script(t, "This is my third event\n", producer, "--topic", topic, "--bootstrap-server", at)
	one.reads("This is my third event")
	two.reads("This is my third event")
	one.interrupt(3)
	two.interrupt(3)

	importAndExport(t, at)

	if out := script(t, "", topics, "--delete", "--topic", topic, "--bootstrap-server", at); out != "" {
		t.Errorf("delete says %q", out)
	}
	// Topics of the broker's own, and of the second half, are left.
	if out := script(t, "", topics, "--list", "--bootstrap-server", at); out != "__consumer_offsets\nconnect-test\n" {
		t.Errorf("at the end there are\n%s", out)
	}
	t.Log("create, describe, list, write, two console consumers from the beginning, Connect with files, delete: each says what the page says")
}

// importAndExport is the page's part with Connect: its files as they come with Apache Kafka, but for the addresses and for
// where they and the note of offsets are.
func importAndExport(t *testing.T, at string) {
	dir := t.TempDir()
	write := func(name string, lines ...string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	libs, err := filepath.Glob(filepath.Join(filepath.Dir(kafka.Jars(t)), "connect-file-*.jar"))
	if err != nil || len(libs) != 1 {
		t.Fatal(libs, err)
	}
	worker := write("connect-standalone.properties",
		"bootstrap.servers="+at, "key.converter=org.apache.kafka.connect.json.JsonConverter", "value.converter=org.apache.kafka.connect.json.JsonConverter",
		"key.converter.schemas.enable=true", "value.converter.schemas.enable=true", "offset.storage.file.filename="+filepath.Join(dir, "connect.offsets"),
		"offset.flush.interval.ms=10000", "listeners=http://"+lane.FreeAddress(t), "plugin.path="+libs[0],
		// Without it Connect looks into every class there is, which takes half a minute and half a gigabyte.
		"plugin.discovery=service_load")
	in, out := write("test.txt", "foo", "bar"), filepath.Join(dir, "test.sink.txt")
	source := write("connect-file-source.properties", "name=local-file-source", "connector.class=FileStreamSource", "tasks.max=1", "file="+in, "topic=connect-test")
	sink := write("connect-file-sink.properties", "name=local-file-sink", "connector.class=FileStreamSink", "tasks.max=1", "file="+out, "topics=connect-test")
	cmd := kafka.Command(t, standalone, worker, source, sink)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		kafka.End(t, cmd, os.Kill)
		if t.Failed() {
			t.Logf("Connect said:\n%s", said.Bytes())
		}
	}()
	holds := func(want string) {
		t.Helper()
		lane.Until(t, "the lines are in the file", func(context.Context) error {
			if raw, err := os.ReadFile(out); string(raw) != want {
				return fmt.Errorf("it holds %q, want %q (%v)", raw, want, err)
			}
			return nil
		})
	}
	holds("foo\nbar\n")
	c := consume(t, "--bootstrap-server", at, "--topic", "connect-test", "--from-beginning")
	payload := func(s string) string {
		return `{"schema":{"type":"string","optional":false},"payload":"` + s + `"}`
	}
	c.reads(payload("foo"), payload("bar"))
	f, err := os.OpenFile(in, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(f, "Another line\n"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	c.reads(payload("Another line"))
	holds("foo\nbar\nAnother line\n")
	c.interrupt(3)
	kafka.End(t, cmd, os.Interrupt)
}
