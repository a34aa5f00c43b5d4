// Package compacted has foreign clients and tools read a topic that a whole broker has compacted.
package compacted

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/platform/config"
	"millrace/testbench/client/board"
	"millrace/testbench/client/kafka"
	"millrace/testbench/lane"
)

const (
	keys, rounds = 100, 40
	topic        = "c"
)

// world is a board with a compacted topic.
type world struct {
	*board.Board
	last map[string]string // value of each key; "" for a tombstone
	end  int64
}

func client(t *testing.T, b *board.Board, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(b.Kafka())}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// begin writes every key many times, by idempotent and other producers and with every codec, and returns when most of it
// is compacted.
func begin(t *testing.T) *world {
	b := board.Start(t, func(s *config.Config) { s.Broker.RetentionCheck = 20 * time.Millisecond })
	w := &world{Board: b, last: make(map[string]string)}
	admin := kadm.NewClient(client(t, b))
	settings := map[string]*string{
		"cleanup.policy": kadm.StringPtr("compact"), "segment.bytes": kadm.StringPtr("65536"), "min.cleanable.dirty.ratio": kadm.StringPtr("0.01"),
	}
	if _, err := admin.CreateTopic(within(t), 1, 1, settings, topic); err != nil {
		t.Fatal(err)
	}
	ctx := within(t)
	codecs := []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()}
	for round := range rounds {
		opts := []kgo.Opt{kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(codecs[round%len(codecs)])}
		if round%2 == 0 {
			opts = append(opts, kgo.DisableIdempotentWrite())
		}
		c := client(t, b, opts...)
		for k := range keys {
			r := &kgo.Record{Key: fmt.Appendf(nil, "key-%d", k), Value: fmt.Appendf(nil, "%d-%d-%s", round, k, strings.Repeat("v", 300))}
			if k%10 == 9 && round == rounds-1 {
				r.Value = nil
			}
			c.Produce(ctx, r, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Errorf("produce: %v", err)
				}
			})
			w.last[string(r.Key)] = string(r.Value)
			if k%(1+round) == 0 { // batches of all sizes
				if err := c.Flush(ctx); err != nil {
					t.Fatal(err)
				}
			}
			w.end++
		}
		if err := c.Flush(ctx); err != nil {
			t.Fatal(err)
		}
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for size := int64(1 << 62); size > 400_000; {
		select {
		case <-ctx.Done():
			t.Fatalf("%d bytes after a minute: nothing is compacted", size)
		case <-tick.C:
		}
		dirs, err := admin.DescribeAllLogDirs(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		size = 0
		dirs.Each(func(d kadm.DescribedLogDir) {
			if p, ok := d.Topics.Lookup(topic, 0); ok {
				size += p.Size
			}
		})
	}
	return w
}

// read is what franz-go has from an offset on to the end.
func (w *world) read(t *testing.T, from int64) (all []*kgo.Record) {
	t.Helper()
	c := client(t, w.Board, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(from)}}))
	ctx := within(t)
	for len(all) == 0 || all[len(all)-1].Offset < w.end-1 {
		f := c.PollFetches(ctx)
		if err := f.Err(); err != nil {
			t.Fatalf("after %d records from %d: %v", len(all), from, err)
		}
		all = append(all, f.Records()...)
	}
	return all
}

func (w *world) check(t *testing.T, who string, lines []string) {
	t.Helper()
	got := make(map[string]string)
	for _, line := range lines {
		key, value, _ := strings.Cut(line, "|")
		got[key] = value
	}
	for key, want := range w.last {
		if got[key] != want {
			t.Errorf("%s: %s is %.20q, want %.20q", who, key, got[key], want)
		}
	}
	if len(lines) > keys*rounds/2 {
		t.Errorf("%s reads %d records, %d were written", who, len(lines), keys*rounds)
	}
}

func TestClientsReadACompactedTopicToItsEnd(t *testing.T) {
	program := lane.Need(t, "kcat")[0]
	kafka.Jars(t)
	w := begin(t)
	all := w.read(t, 0)
	var lines []string
	for i, r := range all {
		if i > 0 && r.Offset <= all[i-1].Offset {
			t.Fatalf("offset %d follows %d", r.Offset, all[i-1].Offset)
		}
		lines = append(lines, string(r.Key)+"|"+string(r.Value))
	}
	w.check(t, "franz-go", lines)
	// From inside a hole a reader goes on behind it.
	for from := int64(0); from < w.end; from += 97 {
		want, _ := slices.BinarySearchFunc(all, from, func(r *kgo.Record, o int64) int { return int(r.Offset - o) })
		if got := w.read(t, from); got[0].Offset != all[want].Offset {
			t.Errorf("from %d the first record is at %d, want %d", from, got[0].Offset, all[want].Offset)
		}
	}

	cmd := exec.CommandContext(t.Context(), program, "-b", w.Kafka(), "-C", "-t", topic, "-K", "|", "-o", "beginning", "-e", "-q")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("kcat: %v", err)
	}
	w.check(t, "kcat", strings.Split(strings.TrimSuffix(string(out), "\n"), "\n"))

	cmd = kafka.Command(t, "org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", w.Kafka(), "--topic", topic,
		"--partition", "0", "--offset", "earliest", "--max-messages", fmt.Sprint(len(all)), "--timeout-ms", "20000",
		"--formatter-property", "print.key=true", "--formatter-property", "key.separator=|", "--formatter-property", "null.literal=")
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	if out, err = cmd.Output(); err != nil {
		t.Fatalf("console consumer: %v\n%s", err, complaints.Bytes())
	}
	w.check(t, "the console consumer", strings.Split(strings.TrimSuffix(string(out), "\n"), "\n"))
}

// Kafka's own tool reads the segments, and finds nothing wrong with them or their indexes.
func TestDumpLogSegmentsReadsCompactedSegments(t *testing.T) {
	kafka.Jars(t)
	w := begin(t)
	w.Restart()
	var files []string
	for _, pattern := range []string{"*.log", "*.index", "*.timeindex"} {
		found, err := filepath.Glob(filepath.Join(w.Dir(), "topics", topic+"-0", pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %v, %v", pattern, found, err)
		}
		files = append(files, found...)
	}
	// Of a segment so small that its offset index has no entry there is no such file, and the tool wants it beside the other.
	files = slices.DeleteFunc(slices.Clone(files), func(f string) bool {
		log, times := strings.CutSuffix(f, ".timeindex")
		return times && !slices.Contains(files, log+".index")
	})
	for _, args := range [][]string{{}, {"--index-sanity-check"}, {"--verify-index-only"}} {
		of := files
		if len(args) > 0 {
			of = slices.DeleteFunc(slices.Clone(files), func(f string) bool { return strings.HasSuffix(f, ".log") })
		}
		cmd := kafka.Command(t, "org.apache.kafka.tools.DumpLogSegments", append([]string{"--files", strings.Join(of, ",")}, args...)...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, stderr.Bytes())
		}
		for line := range strings.Lines(stderr.String() + string(out)) {
			if !strings.HasPrefix(line, "SLF4J") && (strings.Contains(line, "isvalid: false") || strings.Contains(strings.ToLower(line), "mismatch") ||
				strings.Contains(strings.ToLower(line), "error") || strings.Contains(line, "xception") || strings.Contains(line, "non-consecutive")) {
				t.Errorf("%v: %s", args, line)
			}
		}
		if len(args) == 0 && !strings.Contains(string(out), "lastOffset:") {
			t.Errorf("no batch was read:\n%.500s", out)
		}
	}
}
