package java

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/testbench/client/board"
	"millrace/testbench/client/kafka"
)

// fields are the lines of a table with the spaces between its columns made one.
func fields(out string) string {
	return regexp.MustCompile(`[ \t]+`).ReplaceAllString(out, " ")
}

// group runs the tool of groups, which must succeed, and returns what it prints.
func (s *shell) group(args ...string) string {
	s.t.Helper()
	out, complaints, code := s.tools.Run("", groups, append(append([]string{}, s.to...), args...)...)
	if code != 0 {
		s.t.Fatalf("groups %v: exit code %d\n%s%s", args, code, out, complaints)
	}
	return fields(out)
}

// numbered are n records, "record 0" and on, one a line.
func numbered(from, n int) string {
	var b strings.Builder
	for i := from; i < from+n; i++ {
		fmt.Fprintf(&b, "record %d\n", i)
	}
	return b.String()
}

// sorted puts lines in order: a topic of several partitions has none.
func sorted(out string) string {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(fmt.Sprintf("%20s", a), fmt.Sprintf("%20s", b)) })
	return strings.Join(lines, "\n") + "\n"
}

// read has a console consumer of a group read n records, and returns them.
func (s *shell) read(n int, more ...string) string {
	s.t.Helper()
	args := append(append([]string{}, s.to...), "--topic", "t", "--group", "g", "--max-messages", fmt.Sprint(n), "--timeout-ms", "30000")
	out, complaints, code := s.tools.Run("", consumer, append(args, more...)...)
	if code != 0 {
		s.t.Fatalf("consume: exit code %d\n%s%s", code, out, complaints)
	}
	return out
}

func TestConsumerGroupTool(t *testing.T) {
	b := board.Start(t, board.QuickGroups)
	s := newShell(t, b)
	s.says("", topics, []string{"--create", "--topic", "t", "--partitions", "1"}, "Created topic t.")
	s.says(numbered(0, 100), producer, []string{"--topic", "t"})

	// A group reads a part, then the rest, each record once and in order; also over a restart of the broker.
	if got := s.read(40, "--from-beginning"); got != numbered(0, 40) {
		t.Errorf("the first 40 records are\n%s", got)
	}
	b.Restart()
	if got := s.read(60); got != numbered(40, 60) {
		t.Errorf("the other 60 records are\n%s", got)
	}
	s.says(numbered(100, 5), producer, []string{"--topic", "t"})
	if out := s.group("--list"); strings.TrimSpace(out) != "g" {
		t.Errorf("list: %s", out)
	}
	if out := s.group("--describe", "--group", "g"); !strings.Contains(out, "g t 0 100 105 5 - - -") {
		t.Errorf("describe:\n%s", out)
	}
	if out := s.group("--describe", "--group", "g", "--state"); !strings.Contains(out, "Empty 0") {
		t.Errorf("describe --state:\n%s", out)
	}
	if out := s.group("--reset-offsets", "--group", "g", "--topic", "t", "--to-offset", "7", "--dry-run"); !strings.Contains(out, "g t 0 7") {
		t.Errorf("reset, tried:\n%s", out)
	}
	if out := s.group("--describe", "--group", "g"); !strings.Contains(out, "g t 0 100 105 5") {
		t.Errorf("a reset that was only tried moved offsets:\n%s", out)
	}
	if out := s.group("--reset-offsets", "--group", "g", "--topic", "t", "--to-earliest", "--execute"); !strings.Contains(out, "g t 0 0") {
		t.Errorf("reset:\n%s", out)
	}
	if got := s.read(105); got != numbered(0, 105) {
		t.Errorf("after the reset it reads\n%s", got)
	}
	if out := s.group("--delete-offsets", "--group", "g", "--topic", "t"); !strings.Contains(out, "t 0 Successful") {
		t.Errorf("delete-offsets:\n%s", out)
	}
	if out := s.group("--delete", "--group", "g"); !strings.Contains(out, "was successful") {
		t.Errorf("delete:\n%s", out)
	}
	if out := s.group("--list"); strings.TrimSpace(out) != "" {
		t.Errorf("after all are deleted:\n%s", out)
	}
	s.refused("", groups, []string{"--describe", "--group", "g"}, "GroupIdNotFoundException")
}

// Three console consumers of Java share a topic under two assignors; the second comes while the first reads, the third
// while both do. Together they read every record once, each in order.
func TestConsoleConsumersShareATopic(t *testing.T) {
	kafka.Jars(t)
	for _, assignor := range []string{"RangeAssignor", "CooperativeStickyAssignor"} {
		t.Run(assignor, func(t *testing.T) {
			b := board.Start(t, board.QuickGroups)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			client, err := kgo.NewClient(kgo.SeedBrokers(b.Kafka()), kgo.DefaultProduceTopic("t"), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			admin := kadm.NewClient(client)
			if _, err := admin.CreateTopic(ctx, 6, 1, nil, "t"); err != nil {
				t.Fatal(err)
			}
			type reader struct {
				cmd *exec.Cmd
				out strings.Builder
			}
			var readers []*reader
			want := 0
			for n := 1; n <= 3; n++ {
				r := &reader{cmd: kafka.Command(
					t, consumer, "--bootstrap-server", b.Kafka(), "--topic", "t", "--group", "g", "--from-beginning",
					"--command-property", "partition.assignment.strategy=org.apache.kafka.clients.consumer."+assignor,
					"--command-property", "heartbeat.interval.ms=300", "--command-property", "auto.commit.interval.ms=200",
					"--formatter-property", "print.partition=true", "--formatter-property", "print.offset=true",
				)}
				r.cmd.Stdout = &r.out
				if err := r.cmd.Start(); err != nil {
					t.Fatal(err)
				}
				readers = append(readers, r)
				members(t, ctx, admin, n)
				for range 300 {
					if err := client.ProduceSync(ctx, kgo.StringRecord(fmt.Sprint("record ", want))).FirstErr(); err != nil {
						t.Fatal(err)
					}
					want++
				}
			}
			caughtUp(t, ctx, admin, int64(want))
			var all string
			for i, r := range readers {
				if err := r.cmd.Process.Signal(os.Interrupt); err != nil {
					t.Fatal(err)
				}
				_ = r.cmd.Wait() // Java says 130 of an interrupt
				if r.out.Len() == 0 {
					t.Errorf("consumer %d read nothing", i+1)
				}
				next := map[string]int{}
				for line := range strings.Lines(r.out.String()) {
					if strings.HasPrefix(line, "Processed a total of ") { // said on an interrupt
						continue
					}
					at := place.FindStringSubmatch(line)
					if at == nil {
						t.Fatalf("consumer %d reads %q", i+1, line)
					}
					offset, err := strconv.Atoi(at[2])
					if err != nil || offset < next[at[1]] {
						t.Errorf("consumer %d reads %q, and offset %d is next: %v", i+1, line, next[at[1]], err)
					}
					next[at[1]] = offset + 1
					all += at[3]
				}
			}
			if got := sorted(all); got != sorted(numbered(0, want)) {
				t.Errorf("%d lines were read of %d records; not once: %v", strings.Count(all, "\n"), want, notOnce(all, want))
			}
			t.Logf("%d records were read once and in order by three console consumers that came one by one", want)
		})
	}
}

// place is a line with where its record is.
var place = regexp.MustCompile(`(?s)^Partition:(\d+)\tOffset:(\d+)\t(.*)$`)

// notOnce are the lines that are not there exactly once, and should.
func notOnce(all string, want int) (list []string) {
	times := map[string]int{}
	for line := range strings.Lines(all) {
		times[line]++
	}
	for line := range strings.Lines(numbered(0, want)) {
		times[line]--
	}
	for line, n := range times {
		if n != 0 {
			list = append(list, fmt.Sprintf("%q %+d", line, n))
		}
	}
	return list
}

// members waits until the group is stable with n members.
func members(t *testing.T, ctx context.Context, admin *kadm.Client, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		d, err := admin.DescribeGroups(t.Context(), "g")
		if err != nil {
			t.Fatal(err)
		}
		g := d["g"]
		if g.State == "Stable" && len(g.Members) == n {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("want %d members, have %+v", n, g)
		}
		pause(ctx)
	}
}

// caughtUp waits until the group has committed n records.
func caughtUp(t *testing.T, ctx context.Context, admin *kadm.Client, n int64) {
	t.Helper()
	for {
		offsets, err := admin.FetchOffsets(t.Context(), "g")
		if err != nil {
			t.Fatal(err)
		}
		sum := int64(0)
		offsets.Each(func(o kadm.OffsetResponse) { sum += o.At })
		if sum >= n {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("%d records are committed of %d", sum, n)
		}
		pause(ctx)
	}
}

// pause waits a little between two looks at what another process does.
func pause(ctx context.Context) {
	select {
	case <-time.After(100 * time.Millisecond):
	case <-ctx.Done():
	}
}
