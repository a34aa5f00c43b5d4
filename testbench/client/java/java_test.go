// Package java drives a whole broker with Apache Kafka's own tools, and so with its Java clients.
package java

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"millrace/testbench/client/board"
	"millrace/testbench/client/kafka"
)

// The tools, by the classes that the scripts of Apache Kafka start.
const (
	topics        = "org.apache.kafka.tools.TopicCommand"
	producer      = "org.apache.kafka.tools.ConsoleProducer"
	consumer      = "org.apache.kafka.tools.consumer.ConsoleConsumer"
	groups        = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
	allGroups     = "org.apache.kafka.tools.GroupsCommand"
	configs       = "kafka.admin.ConfigCommand"
	offsets       = "org.apache.kafka.tools.GetOffsetShell"
	deleteRecords = "org.apache.kafka.tools.DeleteRecordsCommand"
	logDirs       = "org.apache.kafka.tools.LogDirsCommand"
	acls          = "org.apache.kafka.tools.AclCommand"
	versions      = "org.apache.kafka.tools.BrokerApiVersionsCommand"
	cluster       = "org.apache.kafka.tools.ClusterTool"
	transactions  = "org.apache.kafka.tools.TransactionsCommand"
	producerPerf  = "org.apache.kafka.tools.ProducerPerformance"
	consumerPerf  = "org.apache.kafka.tools.ConsumerPerformance"
	latency       = "org.apache.kafka.tools.EndToEndLatency"
	verProducer   = "org.apache.kafka.tools.VerifiableProducer"
	verConsumer   = "org.apache.kafka.tools.VerifiableConsumer"
)

// shell runs tools, one after the other in one Java machine.
type shell struct {
	t     *testing.T
	tools *kafka.Tools
	to    []string // what every tool is told first: which broker, and how to log in
}

// newShell is a shell to a board that asks nobody who they are.
func newShell(t *testing.T, b *board.Board) *shell {
	t.Helper()
	return &shell{t, kafka.OpenTools(t), []string{"--bootstrap-server", b.Kafka()}}
}

// run returns all that a tool says, and its exit code.
func (s *shell) run(input, class string, args ...string) (string, int) {
	s.t.Helper()
	all := append(append([]string{}, s.to...), args...)
	switch class {
	case cluster: // the name of the command comes first
		all = append(append([]string{}, args...), s.to...)
	case verProducer, verConsumer: // say half of it when the machine ends, so each has its own
		cmd := kafka.Command(s.t, class, all...)
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			s.t.Fatalf("%s: %v", class, err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	out, complaints, code := s.tools.Run(input, class, all...)
	return out + complaints, code
}

// says runs a tool that must succeed and print all of want, and returns what it says.
func (s *shell) says(input, class string, args []string, want ...string) string {
	s.t.Helper()
	out, code := s.run(input, class, args...)
	if code != 0 {
		s.t.Errorf("%s %v: exit code %d\n%s", class, args, code, out)
	}
	s.lacks(out, class, args, want...)
	return out
}

// refused runs a tool that must end with the text, whatever its exit code is.
func (s *shell) refused(input, class string, args []string, want string) {
	s.t.Helper()
	out, _ := s.run(input, class, args...)
	s.lacks(out, class, args, want)
}

func (s *shell) lacks(out, class string, args []string, want ...string) {
	s.t.Helper()
	for _, w := range want {
		if !strings.Contains(out, w) {
			s.t.Errorf("%s %v lacks %q:\n%s", class, args, w, out)
		}
	}
}

// prints runs a tool that must succeed and print exactly want to its standard output, but for the order of lines.
func (s *shell) prints(want, class string, args ...string) {
	s.t.Helper()
	out, complaints, code := s.tools.Run("", class, append(append([]string{}, s.to...), args...)...)
	if code != 0 || sorted(out) != sorted(want) {
		s.t.Errorf("%s %v: exit code %d\n%swant\n%s%s", class, args, code, out, want, complaints)
	}
}

func TestTopicTools(t *testing.T) {
	s := newShell(t, board.Start(t))
	s.says("", topics, []string{"--create", "--topic", "t", "--partitions", "2", "--replication-factor", "1"}, "Created topic t.")
	s.refused("", topics, []string{"--create", "--topic", "t"}, "topic already exists")
	s.says("", topics, []string{"--create", "--topic", "t", "--if-not-exists"})
	if out, code := s.run("", topics, "--create", "--topic", "u", "--partitions", "1", "--replication-factor", "2"); code == 0 {
		t.Errorf("two replicas on one board: %s", out)
	}
	s.says("", topics, []string{"--describe", "--topic", "t"}, "PartitionCount: 2", "Leader: 1")
	s.prints("", topics, "--describe", "--unavailable-partitions")
	s.says("", topics, []string{"--alter", "--topic", "t", "--partitions", "3"})
	s.says("one\ntwo\nthree\n", producer, []string{"--topic", "t"})
	s.says("", offsets, []string{"--topic", "t"}, "t:0:", "t:1:", "t:2:")
	// The three records went to one partition, whichever: one of the three readers has them.
	var all string
	for _, p := range []string{"0", "1", "2"} {
		all += s.says("", consumer, []string{"--topic", "t", "--partition", p, "--offset", "earliest", "--timeout-ms", "1000"})
	}
	if !strings.Contains(all, "one\ntwo\nthree\n") {
		t.Errorf("the records did not come back:\n%s", all)
	}
	s.says("", logDirs, []string{"--describe", "--topic-list", "t", "--broker-list", "1"}, `"partition":"t-0"`, `"partition":"t-2"`, `"error":null`)
	s.says("", topics, []string{"--delete", "--topic", "t"})
	s.prints("", topics, "--list")
	s.refused("", topics, []string{"--describe", "--topic", "t"}, "does not exist")
}

func TestOffsetTools(t *testing.T) {
	s := newShell(t, board.Start(t))
	s.says("", topics, []string{"--create", "--topic", "t", "--partitions", "2"})
	s.says("", topics, []string{"--create", "--topic", "empty"})
	// By Kafka's murmur2 the key a belongs to partition 0 of two, and d to 1.
	s.says("a:1\na:2\na:3\na:4\nd:5\nd:6\n", producer, []string{"--topic", "t", "--reader-property", "parse.key=true", "--reader-property", "key.separator=:"})
	at := func(p string) []string {
		return []string{"--topic", "t", "--partition", p, "--offset", "earliest", "--timeout-ms", "1000"}
	}
	s.prints("empty:0:0\nt:0:4\nt:1:2\n", offsets)
	s.prints("empty:0:0\nt:0:0\nt:1:0\n", offsets, "--time", "earliest")
	s.prints("empty:0:0\nt:0:0\nt:1:0\n", offsets, "--time", "earliest-local")
	s.prints("t:0:0\nt:1:0\n", offsets, "--time", "0")
	s.prints("", offsets, "--time", "99999999999999")
	for _, nothingTiered := range []string{"latest-tiered", "earliest-pending-upload"} {
		s.prints("", offsets, "--time", nothingTiered)
	}
	s.prints("t:1:2\n", offsets, "--topic-partitions", "t:1-", "--time", "-1")
	// Records of one millisecond have the same time, and then the first of them is the answer.
	if out := s.says("", offsets, []string{"--time", "max-timestamp"}); !regexp.MustCompile(`(?m)^t:0:[0-3]\nt:1:[01]\n`).MatchString(out) {
		t.Errorf("max-timestamp:\n%s", out)
	}

	file := filepath.Join(t.TempDir(), "offsets.json")
	plan := func(offset int) []string {
		text := fmt.Sprintf(`{"version":1,"partitions":[{"topic":"t","partition":0,"offset":%d},{"topic":"t","partition":1,"offset":-1}]}`, offset)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return []string{"--offset-json-file", file}
	}
	s.says("", deleteRecords, plan(3), "partition: t-0\tlow_watermark: 3\n", "partition: t-1\tlow_watermark: 2\n")
	s.prints("t:0:3\nt:1:2\n", offsets, "--topic", "t", "--time", "-2")
	s.prints("t:0:4\nt:1:2\n", offsets, "--topic", "t")
	s.prints("4\n", consumer, at("0")...)
	s.prints("", consumer, at("1")...)
	s.refused("", deleteRecords, plan(5), "OffsetOutOfRangeException")
}

func TestConfigTool(t *testing.T) {
	s := newShell(t, board.Start(t))
	describe := func(args ...string) []string { return append([]string{"--describe"}, args...) }
	alter := func(args ...string) []string { return append([]string{"--alter"}, args...) }
	s.says("", topics, []string{"--create", "--topic", "t", "--config", "segment.bytes=1048576"})
	topic := []string{"--entity-type", "topics", "--entity-name", "t"}
	s.says("", configs, alter(append(topic, "--add-config", "retention.ms=1000000,cleanup.policy=[compact,delete]")...), "Completed updating config for topic t.")
	s.says("", configs, describe(topic...), "retention.ms=1000000", "cleanup.policy=compact,delete", "segment.bytes=1048576")
	s.says("", configs, alter(append(topic, "--delete-config", "retention.ms")...), "Completed updating config for topic t.")
	if out := s.says("", configs, describe("--topic", "t")); strings.Contains(out, "retention.ms") {
		t.Errorf("after it was deleted:\n%s", out)
	}
	s.says("", configs, describe("--topic", "t", "--all"), "retention.ms=604800000", "max.message.bytes=1048588")
	s.refused("", configs, alter(append(topic, "--add-config", "retention.ms=soon")...), "InvalidConfigurationException")
	s.refused("", configs, alter(append(topic, "--add-config", "colour=blue")...), "InvalidConfigurationException")

	s.says("", configs, alter("--entity-type", "brokers", "--entity-default", "--add-config", "num.partitions=3"), "Completed updating default config for brokers in the cluster.")
	s.says("", configs, alter("--broker", "1", "--add-config", "num.partitions=4"), "Completed updating config for broker 1.")
	s.says("", configs, describe("--entity-type", "brokers"), "DYNAMIC_BROKER_CONFIG:num.partitions=4, DYNAMIC_DEFAULT_BROKER_CONFIG:num.partitions=3")
	s.says("", topics, []string{"--create", "--topic", "u"})
	s.says("", topics, []string{"--describe", "--topic", "u"}, "PartitionCount: 4")
	s.says("", configs, describe("--broker", "1", "--all"), "node.id=1", "log.dirs=")

	// There are no quotas: of users only what they log in with is told.
	user := []string{"--entity-type", "users", "--entity-name", "bob"}
	s.prints("", configs, describe("--entity-type", "users")...)
	s.says("", configs, alter(append(user, "--add-config", "SCRAM-SHA-256=[iterations=8192,password=x]")...), "Completed updating config for user bob.")
	s.says("", configs, alter(append(user, "--add-config", "SCRAM-SHA-512=[password=x]")...), "Completed updating config for user bob.")
	for _, args := range [][]string{user, {"--entity-type", "users"}, {"--user", "bob"}} {
		s.prints("SCRAM credential configs for user-principal 'bob' are SCRAM-SHA-256=iterations=8192, SCRAM-SHA-512=iterations=4096\n", configs, describe(args...)...)
	}
	for _, mechanism := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
		s.says("", configs, alter(append(user, "--delete-config", mechanism)...), "Completed updating config for user bob.")
	}
	s.prints("", configs, describe("--entity-type", "users")...)
	for _, nobody := range [][]string{{"--entity-type", "clients"}, {"--client", "c"}, {"--ip", "192.0.2.1"}, {"--entity-type", "users", "--entity-type", "clients"}} {
		s.prints("", configs, describe(nobody...)...)
	}
	s.refused("", configs, alter("--client", "c", "--add-config", "consumer_byte_rate=1024"), "UnsupportedVersionException")
}

func TestClusterTools(t *testing.T) {
	b := board.Start(t)
	s := newShell(t, b)
	s.says("", versions, nil, "Fetch(1): 4 to 18 [usable: 18]", "DescribeProducers(61): 0 [usable: 0]", "AlterClientQuotas(49): UNSUPPORTED")
	if id := s.says("", cluster, []string{"cluster-id"}); !regexp.MustCompile(`^Cluster ID: [A-Za-z0-9_-]{22}\n`).MatchString(id) {
		t.Errorf("%s", id)
	}
	_, port, _ := strings.Cut(b.Kafka(), ":")
	s.says("", cluster, []string{"list-endpoints"}, "127.0.0.1 "+port)

	// What a producer wrote last is told, and stays so over a restart of the broker.
	s.says("one\ntwo\n", producer, []string{"--topic", "t", "--producer-property", "linger.ms=100"})
	who := []string{"describe-producers", "--topic", "t", "--partition", "0"}
	active := regexp.MustCompile(`(?m)^(\d+) 0 -1 1 \d{13} None $`)
	first := active.FindStringSubmatch(fields(s.says("", transactions, who)))
	if first == nil {
		t.Errorf("no producer with sequence 1:\n%s", s.says("", transactions, who))
	}
	b.Restart()
	if again := active.FindStringSubmatch(fields(s.says("", transactions, who))); again == nil || again[1] != first[1] {
		t.Errorf("after a restart the producer is %v, before %v", again, first)
	}
}
