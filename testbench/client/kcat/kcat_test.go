// Package kcat drives a whole broker with kcat, and so with librdkafka.
package kcat

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"millrace/testbench/client/board"
	"millrace/testbench/lane"
)

// kcat runs the program and returns what it prints.
func kcat(t *testing.T, b *board.Board, input string, args ...string) string {
	t.Helper()
	program := lane.Need(t, "kcat")[0]
	cmd := exec.CommandContext(t.Context(), program, append([]string{"-b", b.Kafka()}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("kcat %v: %v\n%s%s", args, err, out, complaints.Bytes())
	}
	return string(out)
}

func TestProduceAndConsume(t *testing.T) {
	lane.Need(t, "kcat")
	b := board.Start(t)
	var want strings.Builder
	for i := range 500 {
		fmt.Fprintf(&want, "key-%d:value %d\n", i, i)
	}
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		for _, idempotent := range []string{"false", "true"} {
			topic := codec + "-" + idempotent
			kcat(t, b, want.String(), "-P", "-t", topic, "-p", "0", "-K", ":", "-z", codec, "-X", "enable.idempotence="+idempotent)
			if got := kcat(t, b, "", "-C", "-t", topic, "-K", ":", "-o", "beginning", "-e", "-q"); got != want.String() {
				t.Errorf("%s: %d bytes came back of %d", topic, len(got), want.Len())
			}
		}
	}
	kcat(t, b, "no acks\n", "-P", "-t", "none-true", "-p", "0", "-X", "acks=0")
	if got := kcat(t, b, "", "-C", "-t", "none-true", "-o", "-1", "-e", "-q"); got != "no acks\n" {
		t.Errorf("the last record is %q", got)
	}
	t.Log("500 lines came back byte for byte, once and in order, with every codec, idempotent and not")
}

func TestListAndQuery(t *testing.T) {
	lane.Need(t, "kcat")
	b := board.Start(t)
	kcat(t, b, "a\nb\nc\n", "-P", "-t", "t", "-p", "0")
	list := kcat(t, b, "", "-L")
	for _, want := range []string{"1 brokers:", "broker 1 at " + b.Kafka(), `topic "t" with 1 partitions`, "leader 1, replicas: 1, isrs: 1"} {
		if !strings.Contains(list, want) {
			t.Errorf("kcat -L lacks %q:\n%s", want, list)
		}
	}
	for at, want := range map[string]string{"-1": "3", "-2": "0"} {
		if got := kcat(t, b, "", "-Q", "-t", "t:0:"+at); !strings.Contains(got, "offset "+want) {
			t.Errorf("offset at %s: %q, want %s", at, got, want)
		}
	}
	if got := kcat(t, b, "", "-C", "-t", "t", "-p", "0", "-o", "1", "-c", "1", "-q"); got != "b\n" {
		t.Errorf("record 1 is %q", got)
	}
}

// Members of a group run by librdkafka: one reads what there is, the next goes on where it stopped.
func TestGroups(t *testing.T) {
	lane.Need(t, "kcat")
	b := board.Start(t, board.QuickGroups)
	var all strings.Builder
	for i := range 300 {
		fmt.Fprintf(&all, "value %d\n", i)
	}
	for _, assignor := range []string{"range", "roundrobin", "cooperative-sticky"} {
		topic := "t-" + assignor
		kcat(t, b, all.String(), "-P", "-t", topic, "-p", "0")
		read := func(n int) string {
			return kcat(
				t, b, "", "-G", "g-"+assignor, "-c", fmt.Sprint(n), "-q", "-X", "auto.offset.reset=earliest",
				"-X", "partition.assignment.strategy="+assignor, topic,
			)
		}
		if got := read(100) + read(200); got != all.String() {
			t.Errorf("%s: %d bytes came back of %d:\n%s", assignor, len(got), all.Len(), got)
		}
		b.Restart()
		kcat(t, b, "one more\n", "-P", "-t", topic, "-p", "0")
		if got := read(1); got != "one more\n" {
			t.Errorf("%s: after a restart %q", assignor, got)
		}
	}
	t.Log("one member goes on where another stopped, and after a restart, with each assignor")
}
