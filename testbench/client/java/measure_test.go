package java

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"millrace/testbench/client/board"
)

// said is one line of what the verifiable tools print.
type said struct {
	Name, Topic, Value string
	Partition          int32
	Offset             int64
	Acked, Sent, Count int64
}

// events are the lines with a name.
func events(t *testing.T, out, name string) (list []said) {
	t.Helper()
	for line := range strings.Lines(out) {
		var s said
		if json.Unmarshal([]byte(line), &s) == nil && s.Name == name {
			list = append(list, s)
		}
	}
	return list
}

// Each record that the verifiable producer was told of is read by the verifiable consumer, once, in order, at the offset
// the producer was told; a second consumer of the group goes on behind the first.
func TestVerifiableTools(t *testing.T) {
	const n, part = 5000, 3000
	s := newShell(t, board.Start(t, board.QuickGroups))
	s.says("", topics, []string{"--create", "--topic", "v", "--partitions", "3"})
	out := s.says("", verProducer, []string{"--topic", "v", "--max-messages", fmt.Sprint(n)}, `"name":"shutdown_complete"`)
	acked := map[string]said{}
	for _, e := range events(t, out, "producer_send_success") {
		acked[e.Value] = e
	}
	if total := events(t, out, "tool_data"); len(acked) != n || len(total) != 1 || total[0].Acked != n || total[0].Sent != n {
		t.Fatalf("%d records are acknowledged; the tool says %+v", len(acked), total)
	}
	next := map[int32]int64{}
	for _, count := range []int{part, n - part} {
		out := s.says("", verConsumer, []string{
			"--topic", "v", "--group-id", "g", "--max-messages", fmt.Sprint(count), "--verbose", "--reset-policy", "earliest",
		}, `"name":"offsets_committed"`, `"name":"shutdown_complete"`)
		read := events(t, out, "record_data")
		if len(read) != count {
			t.Errorf("%d records are read, want %d", len(read), count)
		}
		for _, e := range read {
			if a := acked[e.Value]; a.Offset != e.Offset || a.Partition != e.Partition || next[e.Partition] != e.Offset {
				t.Fatalf("%+v was acknowledged as %+v, and offset %d is next", e, a, next[e.Partition])
			}
			next[e.Partition]++
		}
	}
	if out := fields(s.says("", allGroups, []string{"--list"})); !strings.Contains(out, "g Classic consumer") {
		t.Errorf("groups:\n%s", out)
	}
}

// The tools that measure do so, and what they sent is all there.
func TestPerformanceTools(t *testing.T) {
	const n = 20_000
	s := newShell(t, board.Start(t, board.QuickGroups))
	for _, codec := range []string{"none", "lz4", "zstd"} {
		topic := "p-" + codec
		s.says("", topics, []string{"--create", "--topic", topic, "--partitions", "2"})
		s.says("", producerPerf, []string{
			"--topic", topic, "--num-records", fmt.Sprint(n), "--record-size", "200", "--throughput", "-1", "--command-property", "compression.type=" + codec,
		}, fmt.Sprint(n)+" records sent", "99.9th")
		sum := 0
		for _, at := range regexp.MustCompile(`(?m)^p-.*:\d:(\d+)$`).FindAllStringSubmatch(s.says("", offsets, []string{"--topic", topic}), -1) {
			var end int
			if _, err := fmt.Sscan(at[1], &end); err != nil {
				t.Fatal(err)
			}
			sum += end
		}
		if sum != n {
			t.Errorf("%s: the ends are %d together, want %d", codec, sum, n)
		}
		out := fields(s.says("", consumerPerf, []string{"--topic", topic, "--num-records", fmt.Sprint(n), "--timeout", "20000", "--hide-header"}))
		if !strings.Contains(out, fmt.Sprintf(", %d, ", n)) {
			t.Errorf("%s: %s", codec, out)
		}
	}
	s.says("", latency, []string{"--topic", "e", "--num-records", "100", "--record-size", "10", "--producer-acks", "all"}, "Avg latency: ", "99.9th = ")
}
