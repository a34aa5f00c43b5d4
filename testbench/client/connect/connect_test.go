// Package connect runs Apache Kafka's Connect in distributed mode, as it is, at a whole broker: lines of a file go into a
// topic and from there into another file, over restarts and a failover of its workers.
package connect

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/testbench/client/board"
	"millrace/testbench/client/kafka"
	"millrace/testbench/lane"
)

// world is a board, and a file that becomes another by way of a topic.
type world struct {
	t       *testing.T
	board   *board.Board
	admin   *kadm.Client
	in, out string // the files

	lines     int // that are in the file; of the writing goroutine until it was waited for
	appending sync.WaitGroup
	enough    context.CancelFunc
}

func newWorld(t *testing.T) *world {
	t.Helper()
	kafka.Jars(t)
	dir := t.TempDir()
	w := &world{t: t, board: board.Start(t, board.QuickGroups), in: filepath.Join(dir, "in"), out: filepath.Join(dir, "out")}
	client, err := kgo.NewClient(kgo.SeedBrokers(w.board.Kafka()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	w.admin = kadm.NewClient(client)
	if _, err := w.admin.CreateTopic(t.Context(), 1, 1, nil, "lines"); err != nil {
		t.Fatal(err)
	}
	return w
}

// line is one of the file: never the same, and none is like the next.
func line(n int) string { return fmt.Sprintf("line %d %s\n", n, strings.Repeat("x", n%50)) }

// write appends lines to the file until wrote is called.
func (w *world) write() {
	ctx, enough := context.WithCancel(w.t.Context())
	w.enough = enough
	w.appending.Go(func() {
		f, err := os.OpenFile(w.in, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			w.t.Error(err)
			return
		}
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			for range 10 {
				if _, err := f.WriteString(line(w.lines)); err != nil {
					w.t.Error(err)
				}
				w.lines++
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
		if err := f.Close(); err != nil {
			w.t.Error(err)
		}
	})
}

func (w *world) wrote() {
	w.enough()
	w.appending.Wait()
}

// read is what a file holds; a file that is not there holds nothing.
func (w *world) read(file string) string {
	w.t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		w.t.Fatal(err)
	}
	return string(raw)
}

// goesOn waits until the file that is written grows by some 50 lines.
func (w *world) goesOn() {
	w.t.Helper()
	begin := len(w.read(w.out))
	w.longer(begin + 50*len(line(30)))
}

// longer waits until the file that is written has so many bytes.
func (w *world) longer(size int) {
	w.t.Helper()
	lane.Until(w.t, "lines are written", func(context.Context) error {
		if have := len(w.read(w.out)); have < size {
			return fmt.Errorf("%d bytes, not %d", have, size)
		}
		return nil
	})
}

// members waits until the group of the workers is stable with n of them.
func (w *world) members(n int) {
	w.t.Helper()
	lane.Until(w.t, fmt.Sprintf("%d workers", n), func(ctx context.Context) error {
		groups, err := w.admin.DescribeGroups(ctx, "connect")
		if err != nil {
			return err
		}
		g := groups["connect"]
		if g.ProtocolType != "connect" || g.State == "Stable" && g.Protocol != "sessioned" {
			w.t.Fatalf("%+v", g)
		}
		if g.State != "Stable" || len(g.Members) != n {
			return fmt.Errorf("%s, %d members", g.State, len(g.Members))
		}
		return nil
	})
}

// identical waits until the file that is written is as long as the other, and they must be the same.
func (w *world) identical() {
	w.t.Helper()
	in := w.read(w.in)
	w.longer(len(in))
	if out := w.read(w.out); out != in {
		w.t.Errorf("%d bytes were read and %d written, which begin to differ after %d", len(in), len(out), common(in, out))
	}
}

// common is how many bytes two texts begin alike.
func common(a, b string) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

// TestFilesThroughATopic carries a growing file through a topic into another, which are identical while workers are
// stopped and started, and lacks no line and no order when one is killed and another takes over.
func TestFilesThroughATopic(t *testing.T) {
	w := newWorld(t)
	w.write()
	a := w.start()
	a.do(http.MethodPut, "/connectors/source/config", map[string]string{
		"connector.class": "FileStreamSource", "tasks.max": "1", "file": w.in, "topic": "lines",
	})
	a.do(http.MethodPut, "/connectors/sink/config", map[string]string{
		"connector.class": "FileStreamSink", "tasks.max": "1", "file": w.out, "topics": "lines",
	})
	a.status("source", "RUNNING")
	a.status("sink", "RUNNING")
	w.members(1)
	w.internalTopics()
	w.goesOn()
	w.rest(a)
	kafka.End(t, a.cmd, syscall.SIGTERM)

	// The next worker finds the connectors, and how far they were, in the topics of Connect.
	b := w.start()
	b.status("source", "STOPPED")
	for _, connector := range []string{"source", "sink"} {
		b.do(http.MethodPut, "/connectors/"+connector+"/resume", nil)
	}
	w.goesOn()
	w.wrote()
	w.identical()

	// A second one takes its share. When the first is killed it takes all; what was not noted yet is done again.
	c := w.start()
	w.members(2)
	shared := map[string]bool{}
	lane.Until(w.t, "both work", func(context.Context) error {
		clear(shared)
		for _, at := range append(c.status("source", "RUNNING"), c.status("sink", "RUNNING")...) {
			shared[at] = true
		}
		if len(shared) != 2 {
			return fmt.Errorf("%v work", shared)
		}
		return nil
	})
	w.write()
	w.goesOn()
	kafka.End(t, b.cmd, os.Kill)
	w.members(1)
	w.goesOn()
	w.wrote()
	w.inOrder()

	// What is forgotten of the sink is read again: the topic from its beginning.
	w.rest(c)
	c.do(http.MethodDelete, "/connectors/sink/offsets", nil)
	if err := os.Remove(w.out); err != nil {
		t.Fatal(err)
	}
	c.do(http.MethodPut, "/connectors/sink/resume", nil)
	topic := w.topic()
	w.longer(len(topic))
	if out := w.read(w.out); out != topic {
		t.Errorf("of %d bytes of the topic %d were written, which begin to differ after %d", len(topic), len(out), common(topic, out))
	}
	for _, connector := range []string{"source", "sink"} {
		c.do(http.MethodDelete, "/connectors/"+connector, nil)
	}
	kafka.End(t, c.cmd, syscall.SIGTERM)
}

// rest has the connectors stop, the file growing on or not, and waits until they have noted what they did.
func (w *world) rest(k *worker) {
	w.t.Helper()
	for _, connector := range []string{"source", "sink"} {
		k.do(http.MethodPut, "/connectors/"+connector+"/stop", nil)
		k.status(connector, "STOPPED")
	}
	topic := w.topic()
	of := 0 // bytes of the file: each line, though it may be in the topic twice
	seen := map[string]bool{}
	for l := range strings.Lines(topic) {
		if !seen[l] {
			of += len(l)
		}
		seen[l] = true
	}
	for connector, want := range map[string]int{"source": of, "sink": strings.Count(topic, "\n")} {
		lane.Until(w.t, connector+" has noted all it did", func(ctx context.Context) error {
			at, err := k.noted(ctx, connector)
			if err == nil && at != want {
				err = fmt.Errorf("%d, not %d", at, want)
			}
			return err
		})
	}
}

// inOrder waits until the last line was written, and asks whether all are there, each first after the one before it: a
// worker that was killed may have written some twice.
func (w *world) inOrder() {
	w.t.Helper()
	last := line(w.lines - 1)
	lane.Until(w.t, "the last line is there", func(context.Context) error {
		if text := w.read(w.out); !strings.HasSuffix(text, last) {
			return fmt.Errorf("%d bytes", len(text))
		}
		return nil
	})
	for what, text := range map[string]string{"file": w.read(w.out), "topic": w.topic()} {
		next, twice := 0, 0
		seen := map[string]bool{}
		for l := range strings.Lines(text) {
			switch {
			case next < w.lines && l == line(next):
				seen[l] = true
				next++
			case seen[l]:
				twice++
			default:
				w.t.Fatalf("%s: %q comes where %q is next", what, l, line(next))
			}
		}
		if next != w.lines {
			w.t.Errorf("%s: line %d is not there, of %d", what, next, w.lines)
		}
		w.t.Logf("%s: %d lines, %d of them twice", what, w.lines, twice)
	}
}

// topic is what the topic holds.
func (w *world) topic() string {
	w.t.Helper()
	ends, err := w.admin.ListEndOffsets(w.t.Context(), "lines")
	if err != nil {
		w.t.Fatal(err)
	}
	end, _ := ends.Lookup("lines", 0)
	reader, err := kgo.NewClient(kgo.SeedBrokers(w.board.Kafka()), kgo.ConsumeTopics("lines"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		w.t.Fatal(err)
	}
	defer reader.Close()
	ctx, cancel := context.WithTimeout(w.t.Context(), lane.Patience)
	defer cancel()
	var all strings.Builder
	for read := int64(0); read < end.Offset; {
		fetches := reader.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			w.t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			all.Write(append(r.Value, '\n'))
			read = r.Offset + 1
		})
	}
	return all.String()
}

// internalTopics looks at what Connect made for itself.
func (w *world) internalTopics() {
	w.t.Helper()
	partitions := map[string]int{"connect-configs": 1, "connect-offsets": 25, "connect-status": 5}
	for topic, n := range partitions {
		details, err := w.admin.ListTopics(w.t.Context(), topic)
		if err != nil {
			w.t.Fatal(err)
		}
		all, err := w.admin.DescribeTopicConfigs(w.t.Context(), topic)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, c := range all[0].Configs {
			if c.Key == "cleanup.policy" && c.MaybeValue() != "compact" || len(details[topic].Partitions) != n {
				w.t.Errorf("%s: cleanup.policy=%s, %d partitions, want compact and %d", topic, c.MaybeValue(), len(details[topic].Partitions), n)
				break
			}
		}
	}
}
