// Package dumplog lets Apache Kafka's own DumpLogSegments read what Millrace writes.
package dumplog

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"millrace/broker/disk"
	"millrace/broker/record"
	"millrace/broker/segment"
	"millrace/testbench/client/kafka"
)

// noise is what the tool's logging library says about itself.
var noise = regexp.MustCompile(`(?m)^SLF4J: .*\n?`)

// dump runs the tool on files and returns what it printed, and, apart, what it complained of.
func dump(t *testing.T, args ...string) (out, complaints string) {
	t.Helper()
	cmd := kafka.Command(t, "org.apache.kafka.tools.DumpLogSegments", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	p, err := cmd.Output()
	if err != nil {
		t.Fatalf("DumpLogSegments %v: %v\n%s%s", args, err, p, stderr.Bytes())
	}
	out = string(p)
	complaints = noise.ReplaceAllString(stderr.String(), "") + strings.Join(complaint.FindAllString(out, 5), "\n")
	return out, complaints
}

// quiet is dump of files with which nothing may be wrong.
func quiet(t *testing.T, args ...string) string {
	t.Helper()
	out, complaints := dump(t, args...)
	if complaints != "" {
		t.Errorf("DumpLogSegments %v complains:\n%s", args, complaints)
	}
	if !strings.Contains(out, "Dumping ") {
		t.Errorf("DumpLogSegments %v dumped nothing:\n%s", args, out)
	}
	return out
}

// complaint is what DumpLogSegments prints among the records when a batch is not as it should be. Everything else that
// is wrong goes to stderr.
var complaint = regexp.MustCompile(`(?im)^.*(isvalid: false|exception|invalid bytes|error).*$`)

// write makes a segment of every codec, with headers, nulls, timestamps that go back, producers and, when asked, a
// filler, and returns its directory and the number of records.
func write(t *testing.T, base int64, filler bool) (dir string, records int) {
	t.Helper()
	dir = t.TempDir()
	s, err := segment.Create(disk.OS{}, dir, base, segment.Config{IndexIntervalBytes: 1000})
	if err != nil {
		t.Fatal(err)
	}
	next := base
	ts := int64(1_700_000_000_000)
	for i := range 400 {
		b := record.NewBuilder(record.Codec(i % 5))
		for j := range 1 + i%7 {
			value := fmt.Appendf(nil, "value %d-%d %s", i, j, strings.Repeat("abc", i%50))
			if j == 3 {
				value = nil
			}
			b.Add(ts+int64(j), fmt.Appendf(nil, "key %d", j), value, []record.Header{{Key: "h", Value: []byte("v")}, {Key: "null"}})
			records++
		}
		built, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 {
			built.SetProducer(4711, 2, int32(i), false)
		}
		if i == 200 {
			built.StampAppendTime(ts + 50)
		}
		built.Stamp(next, 7)
		if _, err := s.Append(built); err != nil {
			t.Fatal(err)
		}
		next = built.NextOffset()
		if ts += 100; i%50 == 49 {
			ts -= 700
		}
		if filler && i == 100 {
			hole := record.Filler(next, next+20, 7, ts)
			if _, err := s.Append(hole); err != nil {
				t.Fatal(err)
			}
			next = hole.NextOffset()
		}
	}
	if err := s.Seal(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, records
}

func path(dir string, base int64, suffix string) string {
	return filepath.Join(dir, fmt.Sprintf("%020d%s", base, suffix))
}

func TestLogAndIndexes(t *testing.T) {
	const base = 0 // the tool calls every other first offset non-consecutive
	dir, records := write(t, base, false)
	files := []string{path(dir, base, ".log"), path(dir, base, ".index"), path(dir, base, ".timeindex")}
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Size() == 0 {
			t.Fatalf("%s: %v, or empty", f, err)
		}
	}
	out := quiet(t, "--files", strings.Join(files, ","), "--print-data-log", "--deep-iteration")
	if n := strings.Count(out, "| offset: "); n != records {
		t.Errorf("%d records printed, want %d", n, records)
	}
	for _, want := range []string{"compresscodec: zstd", "compresscodec: snappy", "compresscodec: lz4", "compresscodec: gzip", "producerId: 4711", "LogAppendTime"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in the output", want)
		}
	}
	indexes := strings.Join(files[1:], ",")
	for _, flag := range []string{"--index-sanity-check", "--verify-index-only"} {
		out := quiet(t, "--files", indexes, flag)
		if flag == "--index-sanity-check" && strings.Count(out, "passed sanity check") != 2 {
			t.Errorf("sanity check says:\n%s", out)
		}
	}
}

// A rebuilt index must satisfy the tool as well as one that grew with the log.
func TestRebuiltIndexes(t *testing.T) {
	const base = 12345
	dir, _ := write(t, base, true)
	want := map[string][]byte{}
	for _, suffix := range []string{".index", ".timeindex"} {
		p, err := os.ReadFile(path(dir, base, suffix))
		if err != nil {
			t.Fatal(err)
		}
		want[suffix] = p
		if err := os.Remove(path(dir, base, suffix)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := segment.Open(disk.OS{}, dir, base, segment.Config{IndexIntervalBytes: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Seal(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for suffix, p := range want {
		if got, err := os.ReadFile(path(dir, base, suffix)); err != nil || !bytes.Equal(got, p) {
			t.Errorf("%s: rebuilt otherwise than it grew: %d bytes, %d (%v)", suffix, len(got), len(p), err)
		}
	}
	quiet(t, "--files", path(dir, base, ".log")+","+path(dir, base, ".index")+","+path(dir, base, ".timeindex"))
}

// The tool must be able to complain, or its silence says nothing.
func TestToolSeesDamage(t *testing.T) {
	const base = 12345
	dir, _ := write(t, base, true)
	p, err := os.ReadFile(path(dir, base, ".index"))
	if err != nil {
		t.Fatal(err)
	}
	p[3] ^= 2
	if err := os.WriteFile(path(dir, base, ".index"), p, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, complaints := dump(t, "--files", path(dir, base, ".index"), "--verify-index-only"); complaints == "" {
		t.Errorf("a wrong index entry went unnoticed:\n%s", out)
	}
}

func TestProducerSnapshot(t *testing.T) {
	const base = 777
	dir := t.TempDir()
	states := []segment.ProducerState{
		{ID: 4711, Epoch: 2, LastSequence: 99, LastOffset: 12344, OffsetDelta: 9, LastTime: 1_700_000_000_000, CoordinatorEpoch: -1, TxnFirstOffset: -1},
		{ID: 4712, Epoch: 0, LastSequence: 0, LastOffset: 12000, LastTime: 1_700_000_000_001, CoordinatorEpoch: 5, TxnFirstOffset: 11000},
	}
	if err := segment.WriteSnapshot(disk.OS{}, dir, base, states); err != nil {
		t.Fatal(err)
	}
	out := quiet(t, "--files", path(dir, base, ".snapshot"))
	for _, want := range []string{
		"producerId: 4711 producerEpoch: 2", "lastTimestamp: 1700000000000", "producerId: 4712", "coordinatorEpoch: 5",
		"currentTxnFirstOffset: OptionalLong[11000]", "lastSequence: 99 lastOffset: 12344 offsetDelta: 9",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
}
