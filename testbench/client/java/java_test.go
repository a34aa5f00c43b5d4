// Package java drives a whole broker with Apache Kafka's own tools, and so with its Java clients.
package java

import (
	"strings"
	"testing"

	"millrace/testbench/client/board"
	"millrace/testbench/client/kafka"
)

const (
	topics   = "org.apache.kafka.tools.TopicCommand"
	producer = "org.apache.kafka.tools.ConsoleProducer"
	consumer = "org.apache.kafka.tools.consumer.ConsoleConsumer"
	configs  = "kafka.admin.ConfigCommand"
	offsets  = "org.apache.kafka.tools.GetOffsetShell"
	logDirs  = "org.apache.kafka.tools.LogDirsCommand"
)

// tool runs one and returns what it prints, and whether it succeeded.
func tool(t *testing.T, b *board.Board, input, class string, args ...string) (string, error) {
	t.Helper()
	cmd := kafka.Command(t, class, append([]string{"--bootstrap-server", b.Kafka()}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// says runs a tool that must succeed and print all of want.
func says(t *testing.T, b *board.Board, input, class string, args []string, want ...string) {
	t.Helper()
	out, err := tool(t, b, input, class, args...)
	if err != nil {
		t.Errorf("%s %v: %v", class, args, err)
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("%s %v lacks %q:\n%s", class, args, w, out)
		}
	}
}

func TestConsoleTools(t *testing.T) {
	kafka.Jars(t)
	b := board.Start(t)
	says(t, b, "", topics, []string{"--create", "--topic", "t", "--partitions", "2", "--replication-factor", "1"}, "Created topic t.")
	if out, err := tool(t, b, "", topics, "--create", "--topic", "u", "--partitions", "1", "--replication-factor", "2"); err == nil {
		t.Errorf("two replicas on one board: %s", out)
	}
	says(t, b, "", topics, []string{"--describe", "--topic", "t"}, "PartitionCount: 2", "Leader: 1")
	says(t, b, "", topics, []string{"--alter", "--topic", "t", "--partitions", "3"})
	says(t, b, "one\ntwo\nthree\n", producer, []string{"--topic", "t"})
	says(t, b, "", offsets, []string{"--topic", "t"}, "t:0:", "t:1:", "t:2:")
	// The three records went to one partition, whichever: one of the three readers has them.
	var all string
	for _, p := range []string{"0", "1", "2"} {
		out, err := tool(t, b, "", consumer, "--topic", "t", "--partition", p, "--offset", "earliest", "--timeout-ms", "2000")
		if err != nil {
			t.Errorf("consume partition %s: %v\n%s", p, err, out)
		}
		all += out
	}
	if !strings.Contains(all, "one\ntwo\nthree\n") {
		t.Errorf("the records did not come back:\n%s", all)
	}
	says(t, b, "", configs, []string{"--alter", "--entity-type", "topics", "--entity-name", "t", "--add-config", "retention.ms=1000000"}, "Completed updating config for topic t.")
	says(t, b, "", configs, []string{"--describe", "--entity-type", "topics", "--entity-name", "t"}, "retention.ms=1000000")
	says(t, b, "", logDirs, []string{"--describe"}, `"partition":"t-0"`)
	says(t, b, "", topics, []string{"--delete", "--topic", "t"})
	says(t, b, "", topics, []string{"--list"})
}
