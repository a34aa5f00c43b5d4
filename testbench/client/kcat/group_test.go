package kcat

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"millrace/testbench/client/drill"
	"millrace/testbench/lane"
)

// Three members come and go, and go on where the group was after a restart of the broker.
func TestThreeMembers(t *testing.T) {
	drill.Group(t, drill.Lane{
		Client:    members{lane.Need(t, "kcat")[0]},
		Codecs:    []string{"none", "gzip", "snappy", "lz4", "zstd"},
		Assignors: []string{"range", "cooperative-sticky"},
		// It commits by itself, and so before it is known here that it has printed what it commits.
		Idle: true,
		Late: true, // every five seconds: -X auto.commit.interval.ms sets what an older consumer has by the same name
	})
}

// members are members of a group, each a kcat.
type members struct{ program string }

func (members) Produce(testing.TB, drill.Door, []drill.Batch) error {
	return errors.New("kcat writes lines: see TestProduceAndConsume")
}

func (m members) Join(t testing.TB, door drill.Door, is drill.Member, tell func(drill.Record)) (leave func() error) {
	t.Helper()
	args := []string{
		"-b", door.Address, "-G", is.Group, "-q", "-u", "-f", `%t %p %o %T %K %S %h\n%k%s\n`,
		"-X", "client.id=" + is.Name, "-X", "auto.offset.reset=earliest",
		"-X", "heartbeat.interval.ms=200", "-X", "fetch.wait.max.ms=100",
	}
	if is.Assignor != "" {
		args = append(args, "-X", "partition.assignment.strategy="+is.Assignor)
	}
	cmd := exec.CommandContext(t.Context(), m.program, append(args, is.Topics...)...)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		err := printed(bufio.NewReader(out), tell)
		if err = errors.Join(err, cmd.Wait()); err != nil {
			err = fmt.Errorf("%w\n%s", err, complaints.Bytes())
		}
		ended <- err
	}()
	left := false
	leave = func() error {
		left = true
		return errors.Join(cmd.Process.Signal(os.Interrupt), <-ended)
	}
	t.Cleanup(func() {
		if !left {
			<-ended // the test's context has ended, and the program with it
		}
	})
	return leave
}

// printed tells what a kcat prints until it ends.
func printed(in *bufio.Reader, tell func(drill.Record)) error {
	for {
		line, err := in.ReadString('\n')
		if errors.Is(err, io.EOF) && line == "" {
			return nil
		}
		if err != nil {
			return err
		}
		var r drill.Record
		var key, value int // -1 is null
		var headers string
		if _, err := fmt.Sscan(line, &r.Topic, &r.Partition, &r.Offset, &r.Timestamp, &key, &value, &headers); err != nil {
			return fmt.Errorf("%q: %w", line, err)
		}
		for _, to := range []struct {
			size int
			into *[]byte
		}{{key, &r.Key}, {value, &r.Value}} {
			if to.size >= 0 {
				*to.into = make([]byte, to.size)
				if _, err := io.ReadFull(in, *to.into); err != nil {
					return err
				}
			}
		}
		for header := range strings.SplitSeq(headers, ",") {
			name, value, _ := strings.Cut(header, "=")
			r.Headers = append(r.Headers, drill.Header{Key: name, Value: []byte(value)})
		}
		if end, err := in.ReadByte(); err != nil || end != '\n' {
			return fmt.Errorf("%q is followed by %q, %w", line, end, err)
		}
		tell(r)
	}
}
